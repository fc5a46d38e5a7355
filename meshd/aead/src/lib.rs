//! ChaCha20-Poly1305 as WireGuard uses it: one packet at a time, or many at once.
//!
//! RFC 8439's AEAD with WireGuard's nonce (4 zero bytes, then the counter as 64 bits, little endian; paper
//! section 5.4.6) and no additional data. A [`Key`] seals and opens in place and allocates nothing.
//!
//! It does not choose counters, does not know packet headers and keeps no replay window: that a counter is
//! never used twice for sealing, and never accepted twice after opening, is the caller's duty.

mod key;

pub use key::{Invalid, Key, Packet};

/// Length of the authentication tag behind every sealed text, in bytes.
pub const TAG_LEN: usize = 16;
