//! meshd: a WireGuard-compatible tunnel daemon and the command that talks to it.
//!
//! The rooms: `conf` (the language), `reload`, `safe`, `hosts` (pure decisions), `control` (the daemon's one thread that
//! owns device, timers and sockets), `cli` (one short function a command). The threads that move packets are `meshd_packet`.
//!
//! A library only so that `fuzz` can reach the parsers; its one user besides is `main.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;
mod closed;
mod conf;
mod control;
mod digest;
mod exit;
mod failure;
mod forwarding;
mod forwarding6;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod hosts;
mod netdev;
mod paths;
mod put;
mod read;
mod reload;
mod report;
mod safe;
mod state;
mod supervise;
mod users;
mod way_out;

pub use cli::main;
