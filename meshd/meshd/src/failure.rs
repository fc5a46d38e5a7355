//! What can go wrong, as a value that goes up until the command line makes a sentence and an exit code of it.
//!
//! It prints nothing and knows nobody; over the control socket it travels as `control/wire.rs` says.

use std::fmt;

/// How a command ends. Success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It could not be done.
    Failed = 1,
    /// The configuration is wrong.
    BadConf = 3,
    /// There is no daemon of that name.
    NotRunning = 4,
    /// Nothing, or something else, is there to be confirmed or switched to.
    NothingToConfirm = 5,
}

impl Exit {
    /// From a number received over the control socket; anything unknown is a plain failure.
    pub fn from_code(code: u8) -> Self {
        match code {
            3 => Self::BadConf,
            4 => Self::NotRunning,
            5 => Self::NothingToConfirm,
            _ => Self::Failed,
        }
    }
}

/// Why a command did not do what it was asked: `meshd: WHAT: WHY (HINT)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What could not be done, or where.
    pub what: String,
    /// Why.
    pub why: String,
    /// What can be done about it; may be empty.
    pub hint: String,
}

impl Failure {
    /// An ordinary failure (exit 1).
    pub fn new(what: impl Into<String>, why: impl ToString, hint: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            what: what.into(),
            why: why.to_string(),
            hint: hint.into(),
        }
    }

    /// The same with another exit code.
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// What a command returns: all its failures, so that a user sees them at once.
pub type Outcome = Result<(), Vec<Failure>>;

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}
