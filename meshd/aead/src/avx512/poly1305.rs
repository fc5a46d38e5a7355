//! One-time keys and tags of Poly1305 (RFC 8439, sections 2.5, 2.6 and 2.8), for up to sixteen packets.
//!
//! Keys are made, and tags finished, for eight packets at a time. Between, the texts go one a lane (`lanes.rs`) or, when
//! they are few or one of them is much longer than most, by pairs (`pairs.rs`).

use core::arch::x86_64::*;

use super::chacha20::{Words, LANES};
use super::limbs::{factor, finish, splat, split, Factor};
use super::{lanes, pairs::Powers};
use crate::TAG_LEN;

/// The one-time keys of sixteen packets, two times eight.
pub(super) struct Keys {
    r: [Factor; 2],
    /// Lower and upper half.
    pads: [[__m512i; 2]; 2],
}

/// Texts go by pairs if the longest has more blocks than this, and all together not this many times as many.
const SHORT: usize = 9;
const MANY: usize = 5;

impl Keys {
    /// From blocks 0 of the packets, word by word.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn new(words: &Words) -> Self {
        let zero = _mm512_setzero_si512();
        let mut keys = Self {
            r: [[zero; 5]; 2],
            pads: [[zero; 2]; 2],
        };
        for half in 0..2 {
            let pair = |low: usize| {
                let (low, high) = (widen(words[low], half), widen(words[low + 1], half));
                _mm512_or_si512(low, _mm512_slli_epi64::<32>(high))
            };
            // Clamped as section 2.5 says.
            let low = _mm512_and_si512(pair(0), splat(0x0fff_fffc_0fff_ffff));
            let high = _mm512_and_si512(pair(2), splat(0x0fff_fffc_0fff_fffc));
            keys.r[half] = factor(split(low, high));
            keys.pads[half] = [pair(4), pair(6)];
        }
        keys
    }

    /// Overwrites the keys: one of them can forge its packet.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn erase(&mut self) {
        let zero = _mm512_setzero_si512();
        self.r = [[zero; 5]; 2];
        self.pads = [[zero; 2]; 2];
        zeroize::optimization_barrier(self);
    }

    /// The tags of these texts, at most [`LANES`].
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    #[inline]
    pub(super) fn tags(&self, aad: &[u8], texts: &[&[u8]]) -> [[u8; TAG_LEN]; LANES] {
        let (mut longest, mut all) = (0, 0);
        for text in texts {
            // And one for the lengths.
            let blocks = text.len() / 16 + 1;
            longest = longest.max(blocks);
            all += blocks;
        }
        let mut tags = [[0; TAG_LEN]; LANES];
        if longest > SHORT && all < MANY * longest {
            for (half, texts) in texts.chunks(8).enumerate() {
                let mut sums = [[0; 8]; 3];
                let mut powers = Powers::new(&self.r[half]);
                powers.sums(aad, texts, &mut sums);
                powers.erase();
                let sums = [load(&sums[0]), load(&sums[1]), load(&sums[2])];
                put(finish(sums, self.pads[half]), &mut tags[8 * half..]);
            }
            return tags;
        }
        for (half, texts) in texts.chunks(8).enumerate() {
            // Lanes without a packet of their own take the last one once more, and so end with the others.
            let mut eight = [texts[texts.len() - 1]; 8];
            eight[..texts.len()].copy_from_slice(texts);
            let sums = lanes::sums(aad, &eight, &self.r[half]);
            put(finish(sums, self.pads[half]), &mut tags[8 * half..]);
        }
        tags
    }
}

/// Writes eight tags, given as lower and upper halves.
#[target_feature(enable = "avx512f")]
#[inline]
fn put([low, high]: [__m512i; 2], tags: &mut [[u8; TAG_LEN]]) {
    // Tags 0, 2, 4, 6 and 1, 3, 5, 7.
    let (even, odd) = (
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    );
    let place = tags[..8].as_flattened_mut().as_mut_ptr();
    let order = |by| {
        _mm512_add_epi64(
            _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0),
            _mm512_set1_epi64(by),
        )
    };
    // SAFETY: twice 64 of the 128 bytes are written, no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(place.cast(), _mm512_permutex2var_epi64(even, order(0), odd));
        _mm512_storeu_si512(
            place.add(64).cast(),
            _mm512_permutex2var_epi64(even, order(4), odd),
        );
    }
}

/// Eight of sixteen 32-bit words as 64-bit numbers.
#[target_feature(enable = "avx512f")]
#[inline]
fn widen(words: __m512i, half: usize) -> __m512i {
    _mm512_cvtepu32_epi64(if half == 0 {
        _mm512_castsi512_si256(words)
    } else {
        _mm512_extracti64x4_epi64::<1>(words)
    })
}

/// One number a lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(numbers: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes are readable, no alignment is asked for.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}
