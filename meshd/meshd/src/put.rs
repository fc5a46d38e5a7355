//! What a step does to a thing that is there or isn't, and the route it may do it to: the words that a reload, a closed host and
//! the link have in common. Pure.
//!
//! What it does not do: know who uses them. `closed.rs` and `reload.rs` build their steps of these, `netdev.rs` and `guard.rs`
//! carry them out.

use crate::conf::Cidr;

/// Whether something is put there or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Make it be there; fine if it is.
    Add,
    /// Make it not be there; fine if it isn't.
    Remove,
}

impl Put {
    /// The one that takes this one back.
    pub fn inverse(self) -> Self {
        match self {
            Self::Add => Self::Remove,
            Self::Remove => Self::Add,
        }
    }
}

/// A route to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The kernel's number of the routing table.
    pub table: u32,
    /// Destination.
    pub network: Cidr,
}
