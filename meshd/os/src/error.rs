//! What failed and why: an `io::Error` with the words that say what was being done.
//!
//! Strategy: the caller prints `WHAT: WHY`; `errno()` lets it tell cases apart. No error is logged here.
use std::fmt;
use std::io;

/// A failed system call or a malformed answer, with its context.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: io::Error,
}

/// Result of this crate's fallible calls outside the packet path.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that says `what` was being done when `cause` happened.
    pub fn new(what: impl Into<String>, cause: io::Error) -> Self {
        Self {
            what: what.into(),
            cause,
        }
    }

    /// An answer that cannot be understood.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::new(what, io::Error::from(io::ErrorKind::InvalidData))
    }

    /// What was being done.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The kernel's error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// The underlying kind, as in `io::Error`.
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.cause.kind(), error.to_string())
    }
}

/// Adds words to an `io::Result`.
pub(crate) trait Context<T> {
    /// Wraps the error with what was being done; the words are only made when it failed.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::new(what(), cause))
    }
}
