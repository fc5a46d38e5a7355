//! meshd: a WireGuard-compatible tunnel daemon and the command that talks to it.
//!
//! The rooms: `conf` (the language), `reload`, `safe`, `hosts` (pure decisions), `control` (the daemon's one thread that
//! owns device, timers and sockets), `packet` (the threads that move packets), `cli` (one short function a command).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;
mod closed;
mod conf;
mod control;
mod digest;
mod failure;
mod forwarding;
mod guard;
mod hosts;
mod netdev;
mod packet;
mod paths;
mod probe;
mod read;
mod reload;
mod report;
mod safe;
mod state;
mod supervise;

fn main() -> std::process::ExitCode {
    cli::main()
}
