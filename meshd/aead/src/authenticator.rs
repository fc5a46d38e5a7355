//! Poly1305 over the packets of a batch, in their order and in small steps.
//!
//! [`Authenticator::step`] is cheap enough to be called between the rounds of ChaCha20. It works on what was released
//! to it, and returns a packet's tag when that packet is through.

use crate::key::Packet;
use crate::lanes::LANES;
use crate::poly1305::Poly1305;
use crate::TAG_LEN;

/// Keys that can wait at a time: those of the group at work and of the one before.
const KEYS: usize = 2 * LANES;

/// Bytes a step takes in.
const STEP: usize = 64;

pub(crate) struct Authenticator<'a> {
    aad: &'a [u8],
    /// One-time keys of packets `index..made`, each at its packet's number modulo `KEYS`.
    keys: [[u8; 32]; KEYS],
    made: usize,
    /// The texts of all packets before this one are released, and of this one the bytes before `part`.
    complete: usize,
    part: usize,
    /// The packet at work, or next to be.
    index: usize,
    active: bool,
    mac: Poly1305,
    /// Within the buffer: what of the packet at work is taken in, what is released, where its text ends.
    pos: usize,
    ready: usize,
    end: usize,
}

impl<'a> Authenticator<'a> {
    #[inline(always)]
    pub(crate) fn new(aad: &'a [u8]) -> Self {
        Self {
            aad,
            keys: [[0; 32]; KEYS],
            made: 0,
            complete: 0,
            part: 0,
            index: 0,
            active: false,
            mac: Poly1305::default(),
            pos: 0,
            ready: 0,
            end: 0,
        }
    }

    /// Takes a packet's key: the first half of its block 0. Packets come in order.
    #[inline(always)]
    pub(crate) fn put_key(&mut self, index: usize, block: &[u8; 64]) {
        self.keys[index % KEYS].copy_from_slice(&block[..32]);
        self.made = index + 1;
    }

    #[inline(always)]
    pub(crate) fn has_key(&self, index: usize) -> bool {
        index < self.made
    }

    /// How many packets are through.
    #[inline(always)]
    pub(crate) fn done(&self) -> usize {
        self.index
    }

    /// The texts of all packets before `index` may be read, and of `index` the bytes before offset `part`.
    #[inline(always)]
    pub(crate) fn release(&mut self, index: usize, part: usize) {
        self.complete = index;
        self.part = part;
        if self.active {
            self.find_ready();
        }
    }

    #[inline(always)]
    fn find_ready(&mut self) {
        if self.index < self.complete {
            self.ready = self.end;
        } else if self.index == self.complete {
            self.ready = self.ready.max(self.part);
        }
    }

    /// Whether a step would do anything.
    #[inline(always)]
    pub(crate) fn can_step(&self) -> bool {
        if self.active {
            self.ready - self.pos >= STEP || self.index < self.complete
        } else {
            self.index < self.made
        }
    }

    /// Goes on a little; gives number and tag of a packet that is through.
    #[inline(always)]
    pub(crate) fn step(
        &mut self,
        buf: &[u8],
        packets: &[Packet],
    ) -> Option<(usize, [u8; TAG_LEN])> {
        if self.ready - self.pos >= STEP {
            for block in buf[self.pos..][..STEP].as_chunks::<16>().0 {
                self.mac.block(block);
            }
            self.pos += STEP;
            None
        } else {
            self.turn(buf, packets)
        }
    }

    /// The step at a packet's end or start. Out of line: `step` is in many places.
    #[inline(never)]
    fn turn(&mut self, buf: &[u8], packets: &[Packet]) -> Option<(usize, [u8; TAG_LEN])> {
        if !self.active {
            self.begin(packets);
            return None;
        }
        if self.index >= self.complete {
            return None;
        }
        self.mac.padded(&buf[self.pos..self.end]);
        let mut lengths = [0; 16];
        lengths[..8].copy_from_slice(&(self.aad.len() as u64).to_le_bytes());
        lengths[8..].copy_from_slice(&((self.end - packets[self.index].at) as u64).to_le_bytes());
        self.mac.block(&lengths);
        let done = (self.index, self.mac.tag());
        self.index += 1;
        self.active = false;
        (self.pos, self.ready) = (0, 0);
        self.begin(packets);
        Some(done)
    }

    #[inline(always)]
    fn begin(&mut self, packets: &[Packet]) {
        if self.index < self.made {
            let packet = &packets[self.index];
            self.mac = Poly1305::new(&self.keys[self.index % KEYS]);
            self.mac.padded(self.aad);
            self.active = true;
            self.pos = packet.at;
            self.end = packet.text_end();
            self.ready = self.pos;
            self.find_ready();
        }
    }

    /// A one-time key can forge its packet.
    #[inline(always)]
    pub(crate) fn erase(&mut self) {
        self.keys = [[0; 32]; KEYS];
        self.mac = Poly1305::default();
        zeroize::optimization_barrier(self);
    }
}
