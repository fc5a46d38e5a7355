//! Many packets sealed or opened as one stream of ChaCha20 blocks.
//!
//! The packets' blocks, each packet's block 0 (its Poly1305 key) included, are lined up one behind the other and
//! computed eight at a time, whatever packets they belong to: so any and mixed lengths fill the lanes. Poly1305
//! runs beside it in the integer units, a little behind: it authenticates what earlier groups have sealed while
//! the vector units work on the next.
//!
//! Opening is the same stream in another order, since not a byte may be decrypted before its packet's tag has been
//! found right: keys are made some packets ahead, and a packet's blocks join the stream once it is proven valid.

use crate::authenticator::Authenticator;
use crate::chacha20::{Inputs, Rounds, DOUBLE_ROUNDS};
use crate::engine::Context;
use crate::key::Packet;
use crate::lanes::{Blocks, Lanes, LANES};
use crate::TAG_LEN;

/// Seals `packets`, which lie within `buf` and do not overlap.
#[inline(always)]
pub(crate) fn seal<L: Lanes>(lanes: L, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
    let mut group = Group::new(context);
    let mut mac = Authenticator::new(context.aad);
    // Macros, not closures: what they do borrows nearly everything here.
    macro_rules! step {
        () => {
            if let Some((index, tag)) = mac.step(buf, packets) {
                buf[packets[index].text_end()..][..TAG_LEN].copy_from_slice(&tag);
            }
        };
    }
    macro_rules! drain {
        () => {
            while mac.can_step() {
                step!();
            }
        };
    }
    macro_rules! flush {
        () => {
            let (mut rounds, mut c) = Rounds::new(lanes, context.key, &group.inputs);
            for _ in 0..DOUBLE_ROUNDS {
                rounds.double_round(lanes, &mut c);
                step!();
            }
            rounds.finish(lanes, c, context.key, &group.inputs, &mut group.stream);
            drain!();
            group.apply(lanes, buf, packets, &mut mac);
        };
    }
    for (index, packet) in packets.iter().enumerate() {
        for block in 0..=packet.blocks() {
            group.push(index, block, packet.counter);
            if group.is_full() {
                flush!();
                if block == packet.blocks() {
                    mac.release(index + 1, 0);
                } else {
                    mac.release(index, packet.at + 64 * block as usize);
                }
            }
        }
    }
    if !group.is_empty() {
        flush!();
        mac.release(packets.len(), 0);
    }
    drain!();
    group.erase();
    mac.erase();
}

/// Opens those of `packets` (which lie within `buf` and do not overlap) whose tags are right, and marks them valid.
#[inline(always)]
pub(crate) fn open<L: Lanes>(
    lanes: L,
    context: &Context<'_>,
    buf: &mut [u8],
    packets: &mut [Packet],
) {
    let mut group = Group::new(context);
    let mut mac = Authenticator::new(context.aad);
    mac.release(packets.len(), 0);
    let mut keyed = 0;
    macro_rules! step {
        () => {
            if let Some((index, tag)) = mac.step(buf, packets) {
                let packet = &mut packets[index];
                packet.valid = packet.has_tag(buf, &tag);
            }
        };
    }
    macro_rules! flush {
        () => {
            let (mut rounds, mut c) = Rounds::new(lanes, context.key, &group.inputs);
            for _ in 0..DOUBLE_ROUNDS {
                rounds.double_round(lanes, &mut c);
                step!();
            }
            rounds.finish(lanes, c, context.key, &group.inputs, &mut group.stream);
            group.apply(lanes, buf, packets, &mut mac);
        };
    }
    for index in 0..packets.len() {
        while keyed < packets.len().min(index + LANES) {
            group.push(keyed, 0, packets[keyed].counter);
            keyed += 1;
            if group.is_full() {
                flush!();
            }
        }
        if !mac.has_key(index) {
            flush!();
        }
        while mac.done() <= index {
            step!();
        }
        if packets[index].valid {
            for block in 1..=packets[index].blocks() {
                group.push(index, block, packets[index].counter);
                if group.is_full() {
                    flush!();
                }
            }
        }
    }
    if !group.is_empty() {
        flush!();
    }
    group.erase();
    mac.erase();
}

/// Up to eight blocks on their way through the lanes.
struct Group {
    inputs: Inputs,
    /// Whose block it is, and which of the packet's.
    of: [(usize, u32); LANES],
    used: usize,
    stream: Blocks,
}

impl Group {
    #[inline(always)]
    fn new(context: &Context<'_>) -> Self {
        let mut inputs = Inputs::default();
        inputs.nonce[0] = [context.salt; LANES];
        Self {
            inputs,
            of: [(0, 0); LANES],
            used: 0,
            stream: [[0; 64]; LANES],
        }
    }

    #[inline(always)]
    fn push(&mut self, packet: usize, block: u32, counter: u64) {
        let lane = self.used;
        self.of[lane] = (packet, block);
        self.inputs.counter[lane] = block;
        self.inputs.nonce[1][lane] = counter as u32;
        self.inputs.nonce[2][lane] = (counter >> 32) as u32;
        self.used += 1;
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.used == LANES
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Hands blocks 0 to Poly1305, adds the others to their texts, and is empty again.
    #[inline(always)]
    fn apply<L: Lanes>(
        &mut self,
        lanes: L,
        buf: &mut [u8],
        packets: &[Packet],
        mac: &mut Authenticator<'_>,
    ) {
        for (stream, &(index, block)) in self.stream.iter().zip(&self.of[..self.used]) {
            if block == 0 {
                mac.put_key(index, stream);
                continue;
            }
            let packet = &packets[index];
            let text = &mut buf[packet.at + 64 * (block as usize - 1)..packet.text_end()];
            if let Some(text) = text.first_chunk_mut::<64>() {
                lanes.mix(text, stream);
            } else {
                xor_part(text, stream);
            }
        }
        self.used = 0;
    }

    /// Key stream is as good as the text it covers.
    #[inline(always)]
    fn erase(&mut self) {
        self.stream = [[0; 64]; LANES];
        zeroize::optimization_barrier(&self.stream);
    }
}

/// For a text's last block: by 16 bytes, to which WireGuard pads, and what then remains by single ones.
#[inline(always)]
pub(crate) fn xor_part(text: &mut [u8], stream: &[u8; 64]) {
    let (parts, rest) = text.as_chunks_mut::<16>();
    let done = 16 * parts.len();
    for (part, stream) in parts.iter_mut().zip(stream.as_chunks().0) {
        *part = (u128::from_ne_bytes(*part) ^ u128::from_ne_bytes(*stream)).to_ne_bytes();
    }
    for (byte, stream) in rest.iter_mut().zip(&stream[done..]) {
        *byte ^= stream;
    }
}
