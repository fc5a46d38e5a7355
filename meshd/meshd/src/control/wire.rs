//! What the command and the daemon say to each other: one JSON object a line each way, private to meshd.
//!
//! Secrets in it (the staged configuration) travel over a UNIX socket of mode 0600 between root and the daemon, and
//! nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::report::{Report, Status};

/// Longest line either side accepts, bytes: a configuration of 16 MiB, quoted.
pub const MAX_LINE: usize = 40 << 20;

/// What the command asks.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Check and keep a configuration.
    Stage {
        /// SHA-256 of `conf`.
        id: String,
        /// The staged bytes.
        conf: String,
        /// The private key, when the configuration keeps it in a file which the daemon may not be able to read.
        key: Option<String>,
    },
    /// Take what is staged live.
    Switch {
        /// Which.
        id: String,
        /// Seconds until it goes back by itself.
        within_s: f64,
    },
    /// Probe the links and say whether `id` may be confirmed.
    Judge {
        /// Which.
        id: String,
        /// Seconds to probe at most.
        wait_s: f64,
        /// Say yes whatever the links do.
        force: bool,
    },
    /// NAME.conf holds `id` now.
    Confirmed {
        /// Which.
        id: String,
    },
    /// Back to the confirmed configuration.
    Rollback,
    /// NAME.conf is gone: absent from now on.
    Remove,
    /// A network namespace, whose descriptors come along with the line (`space.rs`).
    Space {
        /// Its name.
        namespace: String,
    },
    /// How each link is doing.
    Status,
    /// Probe each link, then as status.
    Ping {
        /// Seconds to probe at most.
        wait_s: f64,
    },
    /// What is configured, and what is so.
    Report,
    /// May a successor go on with the interface and its sessions? Under our own supervisor: then make way for it.
    Upgrade,
    /// End, and the interface and its sessions with you.
    Stop,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names alone: a staged configuration holds keys.
        f.write_str(match self {
            Self::Stage { .. } => "stage",
            Self::Switch { .. } => "switch",
            Self::Judge { .. } => "judge",
            Self::Confirmed { .. } => "confirmed",
            Self::Rollback => "rollback",
            Self::Remove => "remove",
            Self::Space { .. } => "space",
            Self::Status => "status",
            Self::Ping { .. } => "ping",
            Self::Report => "report",
            Self::Upgrade => "upgrade",
            Self::Stop => "stop",
        })
    }
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Response {
    /// Done.
    Done,
    /// Done already, before it was asked.
    Already,
    /// It may be done, by a restart of the service.
    Restart,
    /// Vitals; also the answer to `switch` and `ping`.
    Status(Box<Status>),
    /// What the links say.
    Judged {
        /// Vitals.
        status: Box<Status>,
        /// One for each link that was alive before the switch and isn't now.
        dead: Vec<WireFailure>,
    },
    /// The report.
    Report(Box<Report>),
    /// It could not be done.
    Failed {
        /// All that is wrong.
        failures: Vec<WireFailure>,
    },
}

/// A [`Failure`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireFailure {
    exit: u8,
    what: String,
    why: String,
    hint: String,
}

impl From<Failure> for WireFailure {
    fn from(failure: Failure) -> Self {
        Self {
            exit: failure.exit as u8,
            what: failure.what,
            why: failure.why,
            hint: failure.hint,
        }
    }
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Self {
        Self {
            exit: Exit::from_code(wire.exit),
            what: wire.what,
            why: wire.why,
            hint: wire.hint,
        }
    }
}

impl From<Vec<Failure>> for Response {
    fn from(failures: Vec<Failure>) -> Self {
        Self::Failed {
            failures: failures.into_iter().map(WireFailure::from).collect(),
        }
    }
}
