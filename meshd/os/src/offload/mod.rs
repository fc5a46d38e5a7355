//! Super-packets: what the kernel hands over uncut is cut here, what arrived in pieces is put together again.
//!
//! Strategy: pure functions over byte slices, no system call, no allocation after construction, no `unsafe`; everything read
//! from a packet is checked first, and whatever is unusual goes through alone and unchanged. `vnet` is the 10-byte header in
//! front of each packet on the TUN, `headers` finds where IP ends, `segment` cuts, `coalesce` puts together. A wrong merge is
//! silent corruption, so the law is: cutting what was merged gives the bytes that came.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod alike;
mod coalesce;
mod headers;
mod segment;
mod vnet;

pub use coalesce::{Coalescer, Merging, MAX_PARTS};
pub use headers::{flow_hash, packet_len, Headers, ICMP, ICMPV6, TCP, UDP};
pub use segment::{Segments, Unsegmentable};
pub use vnet::{Gso, VnetHeader, VNET_LEN};

#[cfg(test)]
mod tests;
