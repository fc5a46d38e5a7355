//! What works on a whole batch: our lanes, of whatever kind the processor has.

use crate::key::Packet;

/// What all packets of a batch share.
pub(crate) struct Context<'a> {
    pub(crate) key: &'a [u32; 8],
    /// The nonce's first word, before the counter; 0 in WireGuard.
    pub(crate) salt: u32,
    /// Additional data; empty in WireGuard's packets.
    pub(crate) aad: &'a [u8],
}

/// A value that proves that its instructions may be used, and the way to use them.
pub(crate) trait Engine: Copy {
    /// Seals `packets`, which lie within `buf` and do not overlap.
    fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]);

    /// Opens those of `packets` (which lie within `buf` and do not overlap) whose tags are right, and says of each
    /// whether it is valid. Of the others no byte is decrypted.
    fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]);
}
