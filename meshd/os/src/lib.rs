//! meshd-os: the kernel's doors, one file each.
//!
//! Strategy: everything that needs `unsafe` or a Linux interface lives here behind a safe API, and nothing else does. The
//! crate knows no WireGuard: it moves bytes between a TUN device, UDP sockets and the caller, talks rtnetlink, and offers
//! clocks, events and supervision. It does not log (errors carry their context), keeps no global state and starts no
//! threads; the one pure part, `offload`, forbids `unsafe`.
#![warn(clippy::undocumented_unsafe_blocks)]
#![warn(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
#![cfg(target_os = "linux")]

pub mod checksum;
pub mod clock;
pub mod error;
pub mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod keeper;
pub mod landlock;
pub mod memory;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod notify;
pub mod offload;
pub mod passing;
pub mod priority;
pub mod process;
pub mod random;
pub mod resolve;
pub mod sandbox;
pub mod seccomp;
mod sys;
pub mod tun;
pub mod uapi_socket;
pub mod udp;

pub use error::{Error, Result};
