//! Super-packets: cut and merged. Pure code.
#![forbid(unsafe_code)]
/// Bytes of virtio_net_hdr.
pub const VNET_LEN: usize = 10;
