//! WireGuard v1 without I/O: no socket, no clock, no randomness, no thread; all of them are arguments.
//!
//! Two planes. One control thread owns a [`Device`]: peers, handshakes (Noise_IKpsk2), cookies, timers, and the
//! [`uapi`]. It publishes an immutable [`Table`]. Packet threads have a [`Reader`] of it: they look up a [`Route`] by
//! destination and [`Route::seal`] runs of packets, or a [`Receiver`] by index and [`Receiver::open`] batches; they tell
//! the control thread by [`Wake`] that it is needed, which is rare.
//!
//! Words are those of the paper: J. Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS 2017
//! (revision of June 2020). Where the paper is silent this does what Linux does and names the function.

#![forbid(unsafe_code)]

mod allowed_ips;
mod cookie;
mod crypto;
mod device;
mod endpoint;
mod handshake;
mod keypairs;
mod keys;
mod limiter;
pub mod messages;
mod outputs;
pub mod packet;
mod packets;
mod peer;
mod replay;
mod session;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod timers;
pub mod uapi;
#[cfg(test)]
mod vectors;
mod wake;

pub use allowed_ips::Cidr;
pub use crypto::Random;
pub use device::{Device, NoSuchPeer, Upsert};
pub use endpoint::{Endpoint, Local};
pub use keys::{PresharedKey, PrivateKey, PublicKey};
pub use messages::{classify, data_len, padded_len, Kind, DATA_HEADER, DATA_OVERHEAD};
pub use outputs::{Context, Datagram, Event, Outputs};
pub use packets::{Batch, NoSession, Opened, Verdict};
pub use peer::Peer;
pub use session::Session;
pub use status::{PeerStatus, Trouble};
pub use table::{Reader, Receiver, Route, Table};
pub use time::{Tai64n, Time, WallTime};
pub use wake::Wake;
