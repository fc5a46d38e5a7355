//! Lines the packets' blocks up, one packet's behind the other's, sixteen at a time: so any and mixed lengths fill the
//! lanes.

use core::arch::x86_64::*;

use super::chacha20::{Inputs, Words, LANES};
use crate::key::Packet;

/// Where the blocks of one turn go.
#[repr(align(64))]
#[derive(Clone, Copy, Default)]
pub(super) struct Targets {
    /// Offset in the buffer.
    at: [u32; LANES],
    /// How many bytes: 64, fewer at a packet's end, 0 in lanes without a block.
    len: [u32; LANES],
}

impl Targets {
    /// Adds the key stream to the texts, a lane's to its target.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    pub(super) fn apply(&self, stream: &Words, buf: &mut [u8]) {
        for lane in 0..LANES {
            let text = &mut buf[self.at[lane] as usize..][..self.len[lane] as usize];
            if let Some(text) = text.first_chunk_mut::<64>() {
                let place = text.as_mut_ptr();
                // SAFETY: 64 bytes are there to be read and written, no alignment is asked for.
                unsafe {
                    let mixed = _mm512_xor_si512(stream[lane], _mm512_loadu_si512(place.cast()));
                    _mm512_storeu_si512(place.cast(), mixed);
                }
            } else if !text.is_empty() {
                let mask = (1u64 << text.len()) - 1;
                let place = text.as_mut_ptr().cast();
                // SAFETY: only the bytes of the mask are read and written, and they are there.
                unsafe {
                    let mixed =
                        _mm512_xor_si512(stream[lane], _mm512_maskz_loadu_epi8(mask, place));
                    _mm512_mask_storeu_epi8(place, mask, mixed);
                }
            }
        }
    }

    /// Forgets the blocks of packets that are not valid.
    pub(super) fn keep_valid(&mut self, packets: &[Packet]) {
        for packet in packets.iter().filter(|packet| !packet.valid) {
            for (at, len) in self.at.iter().zip(&mut self.len) {
                if (packet.at..packet.text_end()).contains(&(*at as usize)) {
                    *len = 0;
                }
            }
        }
    }
}

/// The way through a group's packets, which are given anew at every step.
#[derive(Default)]
pub(super) struct Stream {
    /// The packet whose block comes next, unless it is through.
    packet: usize,
    /// How many of its blocks have been lined up.
    blocks: u32,
    /// Packets not marked as valid are left out.
    only_valid: bool,
}

impl Stream {
    /// From the start, through all packets.
    pub(super) fn all() -> Self {
        Self::default()
    }

    /// From here on only through those that are valid.
    pub(super) fn only_valid(&mut self) {
        self.only_valid = true;
    }

    /// The blocks 0 of all packets, at most [`LANES`], and then, in the lanes that are left, the first of their texts.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn first(&mut self, packets: &[Packet]) -> (Inputs, Targets) {
        let (mut low, mut high) = ([0u32; LANES], [0u32; LANES]);
        for (packet, (low, high)) in packets.iter().zip(low.iter_mut().zip(&mut high)) {
            *low = packet.counter as u32;
            *high = (packet.counter >> 32) as u32;
        }
        // SAFETY: 64 bytes are readable, no alignment is asked for.
        let inputs = unsafe {
            Inputs {
                block: _mm512_setzero_si512(),
                low: _mm512_loadu_si512(low.as_ptr().cast()),
                high: _mm512_loadu_si512(high.as_ptr().cast()),
            }
        };
        self.fill(packets, packets.len(), inputs)
    }

    /// The next blocks of packets; None when there are no more.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn next(&mut self, packets: &[Packet]) -> Option<(Inputs, Targets)> {
        self.find(packets)?;
        let zero = _mm512_setzero_si512();
        let inputs = Inputs {
            block: zero,
            low: zero,
            high: zero,
        };
        Some(self.fill(packets, 0, inputs))
    }

    /// Goes on to the next packet when this one is through, or is to be left out.
    #[inline]
    fn find<'a>(&mut self, packets: &'a [Packet]) -> Option<&'a Packet> {
        loop {
            let packet = packets.get(self.packet)?;
            if self.blocks < packet.blocks() && (packet.valid || !self.only_valid) {
                return Some(packet);
            }
            self.packet += 1;
            self.blocks = 0;
        }
    }

    /// Fills the lanes from `lane` on. In registers: sixteen small stores would keep the loads that follow waiting.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn fill(
        &mut self,
        packets: &[Packet],
        mut lane: usize,
        mut inputs: Inputs,
    ) -> (Inputs, Targets) {
        let numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let mut at = _mm512_setzero_si512();
        let mut len = _mm512_setzero_si512();
        while lane < LANES {
            let Some(packet) = self.find(packets) else {
                break;
            };
            let count = (packet.blocks() - self.blocks).min((LANES - lane) as u32);
            let mask = (((1u32 << count) - 1) << lane) as u16;
            let done = 64 * self.blocks as usize;
            let left = packet.text_end() - packet.at - done;
            let within = _mm512_sub_epi32(numbers, splat(lane as u32));
            let bytes = _mm512_slli_epi32::<6>(within);
            let set = |old, value: u64| _mm512_mask_mov_epi32(old, mask, splat(value as u32));
            inputs.block =
                _mm512_mask_add_epi32(inputs.block, mask, within, splat(self.blocks + 1));
            inputs.low = set(inputs.low, packet.counter);
            inputs.high = set(inputs.high, packet.counter >> 32);
            at = _mm512_mask_add_epi32(at, mask, bytes, splat((packet.at + done) as u32));
            let behind = _mm512_sub_epi32(splat(left as u32), bytes);
            len = _mm512_mask_min_epu32(len, mask, behind, splat(64));
            lane += count as usize;
            self.blocks += count;
        }
        let mut targets = Targets::default();
        // SAFETY: both places have 64 bytes, and no alignment is asked for.
        unsafe {
            _mm512_storeu_si512(targets.at.as_mut_ptr().cast(), at);
            _mm512_storeu_si512(targets.len.as_mut_ptr().cast(), len);
        }
        (inputs, targets)
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn splat(value: u32) -> __m512i {
    _mm512_set1_epi32(value as i32)
}
