//! WireGuard v1 without I/O: no socket, no clock, no randomness, no thread; all of them are arguments.
//!
//! Two planes. One control thread owns a [`Device`]: peers, handshakes (Noise_IKpsk2), cookies, timers, and the
//! [`uapi`]. It publishes an immutable [`Table`]. Packet threads have a [`Reader`] of it: they look up a [`Route`] by
//! destination and [`Route::seal`] runs of packets, or a [`Receiver`] by index and [`Receiver::open`] batches; they tell
//! the control thread by [`Wake`] that it is needed, which is rare.
//!
//! A whole conversation, with everything in one thread and the datagrams carried by hand:
//!
//! ```
//! use meshd_proto::*;
//! # struct Fixed(u8);
//! # impl Random for Fixed {
//! #     fn fill(&mut self, out: &mut [u8]) { for byte in out { self.0 = self.0.wrapping_mul(5).wrapping_add(3); *byte = self.0; } }
//! # }
//! # fn end(number: u8) -> (Device, PublicKey, Endpoint) {
//! #     let key = PrivateKey::new([number; 32]);
//! #     let public = key.public();
//! #     let mut device = Device::new(Tai64n::ZERO);
//! #     device.set_private_key(Some(key));
//! #     (device, public, Endpoint::new(([192, 0, 2, number], 51820).into()))
//! # }
//! let (mut alice, alice_key, alice_at) = end(1);
//! let (mut bob, bob_key, bob_at) = end(2);
//! let (mut random, mut out) = (Fixed(7), Outputs::default());
//! let now = Time(1_000_000_000);
//! let mut ctx = Context { now, wall: WallTime { secs: 1_700_000_000, nanos: 0 }, random: &mut random, out: &mut out };
//!
//! for (device, peer, network) in [(&mut alice, bob_key, [10, 0, 0, 2]), (&mut bob, alice_key, [10, 0, 0, 1])] {
//!     device.set_link(&mut ctx, true);
//!     device.upsert_peer(&peer);
//!     device.set_allowed_ips(&peer, &[Cidr::host(network.into())]).unwrap();
//! }
//! alice.set_endpoint(&mut ctx, &bob_key, Some(bob_at)).unwrap();
//!
//! // Alice's control thread: message 1. Bob's: message 2. Alice's again: a keepalive, which confirms the session.
//! alice.shake_hands(&mut ctx, &bob_key).unwrap();
//! let message1 = ctx.out.datagrams.remove(0);
//! bob.receive(&mut ctx, &message1.bytes, alice_at, 0);
//! let message2 = ctx.out.datagrams.remove(0);
//! alice.receive(&mut ctx, &message2.bytes, bob_at, 0);
//! assert_eq!(ctx.out.datagrams.remove(0).bytes.len(), DATA_OVERHEAD);
//!
//! // A packet thread of alice's: look up, lay out, seal.
//! let mut packet = [0; 20];
//! packet[0] = 0x45;
//! packet[3] = 20;
//! packet[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
//! let mut reader = alice.reader();
//! let route = packet::destination(&packet).and_then(|to| reader.table().route(to)).expect("bob has it");
//! let mut run = vec![0; data_len(packet.len(), 1420)];
//! run[DATA_HEADER..][..packet.len()].copy_from_slice(&packet);
//! let stride = run.len();
//! if let Ok(Wake::Yes) = route.seal(now, &mut run, stride) {
//!     alice.attend(&mut ctx); // in a daemon: write the control thread's eventfd
//! }
//!
//! // A packet thread of bob's: whose is it, open, deliver.
//! let Kind::Data { receiver, counter } = classify(&run) else { panic!("not a data message") };
//! let (mut reader, mut batch) = (bob.reader(), Batch::with_capacity(64));
//! let table = reader.table();
//! batch.push(0, run.len(), counter);
//! let wake = table.receiver(receiver).expect("bob chose it").open(table, now, &alice_at, &mut run, &mut batch);
//! let opened = batch.opened()[0];
//! assert_eq!((opened.verdict, &run[opened.at..][..opened.len]), (Verdict::Packet, &packet[..]));
//! assert!(wake.needed()); // the first packet of a session confirms it
//! bob.attend(&mut ctx);
//! ```
//!
//! Words are those of the paper: J. Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS 2017
//! (revision of June 2020). Where the paper is silent this does what Linux does and names the function.

#![forbid(unsafe_code)]

mod allowed_ips;
mod atomic;
mod cookie;
mod crypto;
mod device;
mod endpoint;
mod handshake;
mod kept;
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
pub use kept::{Found, Memory};
pub use keys::{PresharedKey, PrivateKey, PublicKey};
pub use messages::{classify, data_len, padded_len, Kind, DATA_HEADER, DATA_OVERHEAD};
pub use outputs::{Context, Datagram, Event, Outputs};
pub use packets::{Batch, NoSession, Opened, Verdict};
pub use peer::{Peer, PATH_FLOOR};
pub use session::Session;
pub use status::{PeerStatus, Rotation, Trouble};
pub use table::{Reader, Receiver, Route, Table};
pub use time::{Tai64n, Time, WallTime};
pub use wake::Wake;
