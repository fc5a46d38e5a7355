//! ChaCha20-Poly1305 as WireGuard uses it: one packet at a time, or many at once.
//!
//! RFC 8439's AEAD with WireGuard's nonce (4 zero bytes, then the counter as 64 bits, little endian; paper
//! section 5.4.6) and no additional data. A [`Key`] seals and opens in place and allocates nothing.
//!
//! ring does the work, except for batches on processors where our own code was measured faster (see `choice.rs`). That code is trusted only as far as it was compared with ring: in tests, by the `fuzz` example,
//! and once at the start of every process that uses it.
//!
//! It does not choose counters, does not know packet headers and keeps no replay window: that a counter is
//! never used twice for sealing, and never accepted twice after opening, is the caller's duty.

#[cfg(any(target_arch = "x86_64", test))]
mod authenticator;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", test))]
mod batch;
#[cfg(any(target_arch = "x86_64", test))]
mod chacha20;
mod choice;
#[cfg(any(target_arch = "x86_64", test))]
mod engine;
mod key;
#[cfg(any(target_arch = "x86_64", test))]
mod lanes;
#[cfg(any(target_arch = "x86_64", test))]
mod poly1305;
#[cfg(test)]
mod tests;

pub use choice::in_use;
pub use key::{Invalid, Key, Packet};

/// Length of the authentication tag behind every sealed text, in bytes.
pub const TAG_LEN: usize = 16;
