//! Batches in AVX-512's registers: sixteen ChaCha20 blocks side by side, and Poly1305 by IFMA's multiplications.
//!
//! Packets are taken in groups of sixteen. A group's first turn makes its one-time keys (block 0 of every packet, RFC 8439
//! section 2.6), and what lanes are left then go to the first blocks of the texts. To seal, the texts are then
//! encrypted, block behind block whatever packets they belong to, and authenticated. To open, they are authenticated first,
//! the tags are compared, and only the blocks of packets whose tag is right are decrypted.
//!
//! Keys and key streams are erased where they were put into memory; what the compiler keeps in registers, or puts on the
//! stack when it runs out of them, is out of reach, as it is in ring.

mod chacha20;
mod lanes;
mod limbs;
mod pairs;
mod poly1305;
mod stream;
#[cfg(test)]
mod tests;

use crate::engine::{Context, Engine};
use crate::key::Packet;
use crate::TAG_LEN;
use chacha20::LANES;
use poly1305::Keys;
use stream::Stream;

/// Proof that this processor has the instructions used here.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Offsets in a buffer are kept in 32 bits.
    pub(crate) const LARGEST_BUFFER: usize = u32::MAX as usize;

    /// Asks the processor (and the operating system, which must save the wide registers).
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512ifma");
        all.then_some(Self(()))
    }
}

impl Engine for Avx512 {
    /// Not for buffers above [`Avx512::LARGEST_BUFFER`].
    fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
        for group in packets.chunks(LANES) {
            // SAFETY: `self` can only come from `detect`.
            unsafe { seal(context, buf, group) }
        }
    }

    fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
        for group in packets.chunks_mut(LANES) {
            // SAFETY: `self` can only come from `detect`.
            unsafe { open(context, buf, group) }
        }
    }
}

/// At most [`LANES`] packets.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn seal(context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
    let mut stream = Stream::all();
    let (inputs, targets) = stream.first(packets);
    let words = chacha20::blocks(context, &inputs);
    let mut keys = Keys::new(&words);
    if packets.len() < LANES {
        targets.apply(&chacha20::transpose(&words), buf);
    }
    encrypt(context, stream, buf, packets);
    let tags = tags(&keys, context.aad, buf, packets);
    for (packet, tag) in packets.iter().zip(tags) {
        buf[packet.text_end()..][..TAG_LEN].copy_from_slice(&tag);
    }
    keys.erase();
}

/// At most [`LANES`] packets.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn open(context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
    let mut stream = Stream::all();
    let (inputs, mut targets) = stream.first(packets);
    let words = chacha20::blocks(context, &inputs);
    let mut keys = Keys::new(&words);
    let mut ahead = chacha20::transpose(&words);
    let tags = tags(&keys, context.aad, buf, packets);
    keys.erase();
    for (packet, tag) in packets.iter_mut().zip(tags) {
        packet.valid = packet.has_tag(buf, &tag);
    }
    // What was computed ahead is key stream only; it meets the texts here.
    if packets.len() < LANES {
        targets.keep_valid(packets);
        targets.apply(&ahead, buf);
    }
    chacha20::erase(&mut ahead);
    stream.only_valid();
    encrypt(context, stream, buf, packets);
}

/// Adds the key stream to what `stream` has not yet given.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn encrypt(context: &Context<'_>, mut stream: Stream, buf: &mut [u8], packets: &[Packet]) {
    while let Some((inputs, targets)) = stream.next(packets) {
        if let Some((more, more_targets)) = stream.next(packets) {
            let [words, more_words] = chacha20::twice_blocks(context, [&inputs, &more]);
            targets.apply(&chacha20::transpose(&words), buf);
            more_targets.apply(&chacha20::transpose(&more_words), buf);
        } else {
            let words = chacha20::blocks(context, &inputs);
            targets.apply(&chacha20::transpose(&words), buf);
        }
    }
}

/// The tags that these packets should have.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
#[inline]
fn tags(keys: &Keys, aad: &[u8], buf: &[u8], packets: &[Packet]) -> [[u8; TAG_LEN]; LANES] {
    let mut texts: [&[u8]; LANES] = [&[]; LANES];
    for (text, packet) in texts.iter_mut().zip(packets) {
        *text = &buf[packet.at..packet.text_end()];
    }
    keys.tags(aad, &texts[..packets.len()])
}
