//! Long packets two by two: four of the eight lanes work on each, and both are authenticated beside the rounds.
//!
//! To seal, a turn of the lanes encrypts four blocks of each packet while Poly1305 takes in those of the turn before. To
//! open, a pair is decrypted while the next one is authenticated, since not a byte may be decrypted before its packet's
//! tag has been found right.
//!
//! Both packets of a pair have as many blocks of ChaCha20; [`pairs`] finds such runs. What the compiler keeps in registers, or
//! puts on the stack when it runs out of them, is out of reach of the erasing here, as it is in ring.

use super::stitched::{Chunk, Work, ROUNDS};
use super::Avx2;
use crate::batch::xor_part;
use crate::chacha20::{initial, Inputs};
use crate::engine::Context;
use crate::key::Packet;
use crate::lanes::{Blocks, Lanes, LANES};
use crate::poly1305::Poly1305;
use crate::TAG_LEN;

/// Texts with fewer blocks of 64 bytes don't pay, since the last turns of a pair are rarely full.
const MIN_BLOCKS: u32 = 5;

/// Blocks of each packet in a turn.
const EACH: usize = LANES / 2;

/// How many packets at the start of these can be taken in pairs. Always even.
pub(crate) fn pairs(packets: &[Packet]) -> usize {
    let is_pair = |pair: &&[Packet; 2]| {
        pair[0].blocks() == pair[1].blocks() && pair[0].blocks() >= MIN_BLOCKS
    };
    2 * packets.as_chunks().0.iter().take_while(is_pair).count()
}

/// Seals pairs, as [`pairs`] finds them, that lie within `buf` and do not overlap.
#[target_feature(enable = "avx2,bmi2")]
pub(super) fn seal(lanes: Avx2, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
    let mut side = Side::new(lanes, context);
    let mut before: Option<&[Packet; 2]> = None;
    for pair in packets.as_chunks().0 {
        // Block 0 is a packet's key, the others are for its text.
        let (mut at, of) = aims(pair, 0);
        for start in (0..=pair[0].blocks()).step_by(EACH) {
            side.aim(lanes, at, of);
            side.turn(lanes, buf);
            at = at.map(|block| block.wrapping_add(EACH as u32));
            if start == 0 {
                if let Some(before) = before {
                    put_tags(side.tags(context, buf, before), buf, before);
                }
                let first = side.keys_made;
                side.keep_key(0);
                side.keep_key(EACH);
                side.start(context, pair, first);
            }
            for (i, packet) in pair.iter().enumerate() {
                encrypt(lanes, buf, packet, start, &side.stream.as_chunks().0[i]);
                side.release(i, packet, start as usize + EACH - 1);
            }
        }
        before = Some(pair);
    }
    if let Some(last) = before {
        put_tags(side.tags(context, buf, last), buf, last);
    }
    side.erase(lanes);
}

/// Opens pairs, as [`pairs`] finds them, that lie within `buf` and do not overlap.
#[target_feature(enable = "avx2,bmi2")]
pub(super) fn open(lanes: Avx2, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
    let mut side = Side::new(lanes, context);
    let mut before = None;
    for first in (0..packets.len()).step_by(2) {
        if side.keys_made == first {
            side.make_keys(lanes, &packets[first..], buf);
        }
        let (done, next) = packets.split_at_mut(first + 2);
        let Some(pair) = done.last_chunk_mut::<2>() else {
            break;
        };
        side.start(context, pair, first);
        for (i, packet) in pair.iter().enumerate() {
            side.release(i, packet, usize::MAX);
        }
        if let Some(before) = before {
            let ahead = next.get(side.keys_made - first - 2..);
            side.decrypt(lanes, buf, &before, ahead.and_then(<[_]>::first_chunk));
        }
        let tags = side.tags(context, buf, pair);
        for (packet, tag) in pair.iter_mut().zip(tags) {
            packet.valid = packet.has_tag(buf, &tag);
        }
        before = Some(*pair);
    }
    if let Some(last) = before {
        side.decrypt(lanes, buf, &last, None);
    }
    side.erase(lanes);
}

/// What is under way beside the rounds, and what they gave.
struct Side {
    work: Work,
    /// The last turn's blocks.
    stream: Blocks,
    /// One-time keys of packets that are next, each at its packet's number modulo [`LANES`], and of how many they were made.
    keys: [[u8; 32]; LANES],
    keys_made: usize,
    /// Offsets in the buffer: up to where each text of the pair at work is taken in, and from where on it isn't ready.
    taken: [usize; 2],
    ready: [usize; 2],
}

impl Side {
    #[inline(always)]
    fn new(lanes: Avx2, context: &Context<'_>) -> Self {
        let mut inputs = Inputs::default();
        inputs.nonce[0] = [context.salt; LANES];
        Self {
            work: Work::new(lanes, initial(lanes, context.key, &inputs)),
            stream: [[0; 64]; LANES],
            keys: [[0; 32]; LANES],
            keys_made: 0,
            taken: [0; 2],
            ready: [0; 2],
        }
    }

    /// Which blocks of which packets come next.
    #[inline(always)]
    fn aim(&mut self, lanes: Avx2, blocks: [u32; LANES], counters: [u64; LANES]) {
        self.work.start[3][0] = lanes.load(&blocks);
        self.work.start[3][2] = lanes.load(&counters.map(|counter| counter as u32));
        self.work.start[3][3] = lanes.load(&counters.map(|counter| (counter >> 32) as u32));
    }

    /// Computes the blocks aimed at, to `stream`. Beside it, as much as can be is taken in of what is ready.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline(never)] // thousands of instructions, once
    fn turn(&mut self, lanes: Avx2, buf: &[u8]) {
        let texts = self.take(buf, ROUNDS);
        let state = self.work.blocks(texts);
        lanes.store(&state, &mut self.stream);
    }

    /// At most so many chunks that are ready of both texts, as taken in.
    #[inline(always)]
    fn take<'a>(&mut self, buf: &'a [u8], most: usize) -> [&'a [Chunk]; 2] {
        let [a, b] = [0, 1].map(|i| (self.ready[i] - self.taken[i]) / size_of::<Chunk>());
        let bytes = a.min(b).min(most) * size_of::<Chunk>();
        self.taken.each_mut().map(|taken| {
            let text = &buf[*taken..][..bytes];
            *taken += bytes;
            text.as_chunks().0
        })
    }

    /// The first half of this block of the stream is the key of the packet that is next.
    #[inline(always)]
    fn keep_key(&mut self, block: usize) {
        self.keys[self.keys_made % LANES].copy_from_slice(&self.stream[block][..32]);
        self.keys_made += 1;
    }

    /// A turn for keys alone, of the first of these packets.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    fn make_keys(&mut self, lanes: Avx2, packets: &[Packet], buf: &[u8]) {
        let counter = |lane| {
            packets
                .get(lane)
                .map_or(0, |packet: &Packet| packet.counter)
        };
        self.aim(lanes, [0; LANES], core::array::from_fn(counter));
        self.turn(lanes, buf);
        for block in 0..packets.len().min(LANES) {
            self.keep_key(block);
        }
    }

    /// Begins with a pair, of which the first is packet number `first`.
    #[inline(always)]
    fn start(&mut self, context: &Context<'_>, pair: &[Packet; 2], first: usize) {
        for (i, packet) in pair.iter().enumerate() {
            self.work.macs[i] = Poly1305::new(&self.keys[(first + i) % LANES]);
            self.work.macs[i].padded(context.aad);
            (self.taken[i], self.ready[i]) = (packet.at, packet.at);
        }
    }

    /// The first blocks of a packet's text, or all when there aren't so many, can be authenticated.
    #[inline(always)]
    fn release(&mut self, i: usize, packet: &Packet, blocks: usize) {
        let text = packet.text_end() - packet.at;
        self.ready[i] = packet.at + text.min(blocks.saturating_mul(64));
    }

    /// Takes in what is left of the pair, of which all is ready, and gives the tags it should have.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline(never)]
    fn tags(
        &mut self,
        context: &Context<'_>,
        buf: &[u8],
        pair: &[Packet; 2],
    ) -> [[u8; TAG_LEN]; 2] {
        let texts = self.take(buf, usize::MAX / size_of::<Chunk>());
        self.work.absorb(texts);
        let mut tags = [[0; TAG_LEN]; 2];
        for (i, packet) in pair.iter().enumerate() {
            let mac = &mut self.work.macs[i];
            mac.padded(&buf[self.taken[i]..packet.text_end()]);
            self.taken[i] = packet.text_end();
            let mut lengths = [0; 16];
            lengths[..8].copy_from_slice(&(context.aad.len() as u64).to_le_bytes());
            lengths[8..].copy_from_slice(&((packet.text_end() - packet.at) as u64).to_le_bytes());
            mac.block(&lengths);
            tags[i] = mac.tag();
        }
        tags
    }

    /// Decrypts those of a pair that are valid; beside it the next pair is authenticated. Where the last turn has lanes to
    /// spare they make the keys of `ahead`.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    fn decrypt(
        &mut self,
        lanes: Avx2,
        buf: &mut [u8],
        pair: &[Packet; 2],
        ahead: Option<&[Packet; 2]>,
    ) {
        if !pair.iter().any(|packet| packet.valid) {
            return;
        }
        let blocks = pair[0].blocks();
        let (mut at, counters) = aims(pair, 1);
        for start in (1..=blocks).step_by(EACH) {
            let spared = ahead.filter(|_| start as usize + EACH - 1 > blocks as usize);
            let mut of = counters;
            if let Some(ahead) = spared {
                for (i, packet) in ahead.iter().enumerate() {
                    let lane = EACH * i + EACH - 1;
                    (at[lane], of[lane]) = (0, packet.counter);
                }
            }
            self.aim(lanes, at, of);
            self.turn(lanes, buf);
            if spared.is_some() {
                self.keep_key(EACH - 1);
                self.keep_key(LANES - 1);
            }
            at = at.map(|block| block.wrapping_add(EACH as u32));
            for (i, packet) in pair.iter().enumerate() {
                if packet.valid {
                    encrypt(lanes, buf, packet, start, &self.stream.as_chunks().0[i]);
                }
            }
        }
    }

    /// Key stream is as good as the text it covers, and a one-time key can forge its packet.
    #[inline(always)]
    fn erase(&mut self, lanes: Avx2) {
        self.work.start = [[lanes.splat(0); 4]; 4];
        self.work.macs = Default::default();
        self.stream = [[0; 64]; LANES];
        self.keys = [[0; 32]; LANES];
        zeroize::optimization_barrier(self);
    }
}

/// Numbers and packet counters of the blocks `start..` of both packets, four of each.
#[inline(always)]
fn aims(pair: &[Packet; 2], start: u32) -> ([u32; LANES], [u64; LANES]) {
    (
        core::array::from_fn(|lane| start + (lane % EACH) as u32),
        core::array::from_fn(|lane| pair[lane / EACH].counter),
    )
}

/// Adds the blocks `start..` to their places in a packet's text. Block 0 has none, nor have those behind the text.
#[target_feature(enable = "avx2,bmi2")]
#[inline(never)]
fn encrypt(lanes: Avx2, buf: &mut [u8], packet: &Packet, start: u32, stream: &[[u8; 64]; EACH]) {
    let text = &mut buf[packet.at..packet.text_end()];
    let key = usize::from(start == 0);
    let done = text.len().min(64 * (start as usize + key - 1));
    let (blocks, rest) = text[done..].as_chunks_mut::<64>();
    let stream = &stream[key..];
    for (text, stream) in blocks.iter_mut().zip(stream) {
        lanes.mix(text, stream);
    }
    if let Some(stream) = stream.get(blocks.len()) {
        xor_part(rest, stream);
    }
}

#[inline(always)]
fn put_tags(tags: [[u8; TAG_LEN]; 2], buf: &mut [u8], pair: &[Packet; 2]) {
    for (packet, tag) in pair.iter().zip(tags) {
        buf[packet.text_end()..][..TAG_LEN].copy_from_slice(&tag);
    }
}
