//! Poly1305 of few packets, or of packets of very different lengths, four blocks of each at a time.
//!
//! A vector works on a *pair* of packets: block `j` of the first's four in lane 2j, of the second's in lane 2j+1. The message
//! is Horner's scheme in steps of four: every lane is multiplied by r⁴ and its block added, and at the end the lanes by r⁴,
//! r³, r² and r, then summed. A step of m < 4 blocks, at a text's end, multiplies by r^m and adds the blocks to the last m
//! lanes, so that it comes out as if they had followed one by one.

use core::arch::x86_64::*;

use super::chacha20::{quarters, LANES};
use super::limbs::{block, choose, factor, multiply, multiply_add, Factor, Limbs};

/// For packets 2i and 2i+1 of eight, lanes: r⁴ r⁴' r³ r³' r² r²' r r'.
pub(super) struct Powers([Factor; LANES / 4]);

impl Powers {
    /// From one r a lane.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn new(r: &Factor) -> Self {
        let r2 = factor(multiply([r[0], r[1], r[2]], r));
        let r3 = factor(multiply([r2[0], r2[1], r2[2]], r));
        let r4 = factor(multiply([r2[0], r2[1], r2[2]], &r2));
        let mut powers = [[_mm512_setzero_si512(); 5]; LANES / 4];
        for limb in 0..5 {
            let pairs = quarters([r4[limb], r3[limb], r2[limb], r[limb]]);
            for (power, pair) in powers.iter_mut().zip(pairs) {
                power[limb] = pair;
            }
        }
        Self(powers)
    }

    /// As good as r itself.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn erase(&mut self) {
        self.0 = [[_mm512_setzero_si512(); 5]; LANES / 4];
        zeroize::optimization_barrier(self);
    }

    /// The values of at most eight texts, limbs unreduced, to the first lanes of `sums`.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    #[inline]
    pub(super) fn sums(&self, aad: &[u8], texts: &[&[u8]], sums: &mut [[u64; LANES / 2]; 3]) {
        let (fours, rest) = texts.as_chunks::<4>();
        let mut at = 0;
        for &[a, b, c, d] in fours {
            sum(aad, [[a, b], [c, d]], &self.0[at / 2..], sums, at);
            at += 4;
        }
        let powers = &self.0[at / 2..];
        // A pair without a second packet takes the first twice, so that both come to the end together.
        match *rest {
            [] => {}
            [a] => sum(aad, [[a, a]], powers, sums, at),
            [a, b] => sum(aad, [[a, b]], powers, sums, at),
            [a, b, c, ..] => sum(aad, [[a, b], [c, c]], powers, sums, at),
        }
    }
}

/// The polynomials' values for these pairs of texts, limbs unreduced, to lanes `at..` of `sums`.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
#[inline]
fn sum<const PAIRS: usize>(
    aad: &[u8],
    texts: [[&[u8]; 2]; PAIRS],
    powers: &[Factor],
    sums: &mut [[u64; LANES / 2]; 3],
    at: usize,
) {
    let zero = _mm512_setzero_si512();
    let mut h = [[zero; 3]; PAIRS];
    if !aad.is_empty() {
        absorb(&mut h, [[aad, aad]; PAIRS], powers, true);
    }
    absorb(&mut h, texts, powers, aad.is_empty());
    for pair in 0..PAIRS {
        // The block of the lengths (section 2.8), one step of its own.
        let [a, b] = texts[pair];
        let low = _mm512_maskz_set1_epi64(0xc0, aad.len() as i64);
        let high = _mm512_set_epi64(b.len() as i64, a.len() as i64, 0, 0, 0, 0, 0, 0);
        let lengths = block(low, high, 0xc0);
        h[pair] = multiply_add(h[pair], &power(&powers[pair], 1, 1), lengths);

        let lanes = multiply(h[pair], &powers[pair]);
        for limb in 0..3 {
            let half = _mm256_add_epi64(
                _mm512_castsi512_si256(lanes[limb]),
                _mm512_extracti64x4_epi64::<1>(lanes[limb]),
            );
            let both = _mm_add_epi64(
                _mm256_castsi256_si128(half),
                _mm256_extracti128_si256::<1>(half),
            );
            let sums = &mut sums[limb][at + 2 * pair..][..2];
            sums[0] = _mm_cvtsi128_si64(both) as u64;
            sums[1] = _mm_cvtsi128_si64(_mm_unpackhi_epi64(both, both)) as u64;
        }
    }
}

/// Takes texts in, each filled up with zeros to whole blocks. `fresh`: nothing was taken in before.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
#[inline]
fn absorb<const PAIRS: usize>(
    h: &mut [Limbs; PAIRS],
    texts: [[&[u8]; 2]; PAIRS],
    powers: &[Factor],
    fresh: bool,
) {
    let zero = _mm512_setzero_si512();
    let mut r4 = [[zero; 5]; PAIRS];
    let mut common = usize::MAX;
    for pair in 0..PAIRS {
        r4[pair] = power(&powers[pair], 4, 4);
        common = common
            .min(texts[pair][0].len() / 64)
            .min(texts[pair][1].len() / 64);
    }
    // What all have, together.
    let mut state = *h;
    if fresh && common > 0 {
        for pair in 0..PAIRS {
            state[pair] = blocks(chunk(texts[pair][0], 0), chunk(texts[pair][1], 0), 0xff);
        }
    }
    for i in usize::from(fresh)..common {
        for pair in 0..PAIRS {
            let new = blocks(chunk(texts[pair][0], i), chunk(texts[pair][1], i), 0xff);
            state[pair] = multiply_add(state[pair], &r4[pair], new);
        }
    }
    // What one has more than another: where a text is over, its lanes stay as they are.
    for pair in 0..PAIRS {
        let [a, b] = texts[pair];
        let (a_chunks, b_chunks) = (a.len() / 64, b.len() / 64);
        for i in common..a_chunks.max(b_chunks) {
            let mut mask = 0;
            let (mut a_chunk, mut b_chunk) = (zero, zero);
            if i < a_chunks {
                mask |= 0x55;
                a_chunk = chunk(a, i);
            }
            if i < b_chunks {
                mask |= 0xaa;
                b_chunk = chunk(b, i);
            }
            let new = multiply_add(state[pair], &r4[pair], blocks(a_chunk, b_chunk, mask));
            state[pair] = choose(mask, state[pair], new);
        }
        let (a, b) = (&a[64 * a_chunks..], &b[64 * b_chunks..]);
        let (a_blocks, b_blocks) = (a.len().div_ceil(16), b.len().div_ceil(16));
        if a_blocks | b_blocks != 0 {
            let full = (0xff << (8 - 2 * a_blocks)) & 0x55 | (0xff << (8 - 2 * b_blocks)) & 0xaa;
            let factor = power(&powers[pair], a_blocks, b_blocks);
            let new = blocks(tail(a, a_blocks), tail(b, b_blocks), full as u8);
            let new = multiply_add(state[pair], &factor, new);
            let mut mask = 0;
            if a_blocks != 0 {
                mask |= 0x55;
            }
            if b_blocks != 0 {
                mask |= 0xaa;
            }
            state[pair] = choose(mask, state[pair], new);
        }
    }
    *h = state;
}

/// r^a in the first packet's lanes, r^b in the second's; of r⁰ something, which must not be used.
#[target_feature(enable = "avx512f")]
#[inline]
fn power(powers: &Factor, a: usize, b: usize) -> Factor {
    let mut result = *powers;
    for (result, limb) in result.iter_mut().zip(powers) {
        let quarter = |m: usize| {
            let place: *const __m128i = core::ptr::from_ref(limb).cast();
            // SAFETY: one of the four quarters of a vector.
            unsafe { _mm_load_si128(place.add((4 - m).min(3))) }
        };
        let first = _mm512_broadcast_i32x4(quarter(a));
        *result = if a == b {
            first
        } else {
            _mm512_mask_broadcast_i32x4(first, 0xcccc, quarter(b))
        };
    }
    result
}

/// Four blocks of each packet as numbers.
#[target_feature(enable = "avx512f")]
#[inline]
fn blocks(a: __m512i, b: __m512i, full: u8) -> Limbs {
    block(
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpackhi_epi64(a, b),
        full,
    )
}

/// The 64 bytes `64 * i..` of a text that has them.
#[target_feature(enable = "avx512f")]
#[inline]
fn chunk(text: &[u8], i: usize) -> __m512i {
    let chunk = &text[64 * i..][..64];
    // SAFETY: 64 bytes are readable, no alignment is asked for.
    unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) }
}

/// A text's last bytes, below 64, as `blocks` blocks at the vector's end, the last filled up with zeros.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn tail(bytes: &[u8], blocks: usize) -> __m512i {
    let mask = (1u64 << bytes.len()) - 1;
    // SAFETY: only the bytes of the mask are read.
    let start = unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) };
    let by = 8 - 2 * blocks as i64;
    let index = _mm512_sub_epi64(
        _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi64(by),
    );
    _mm512_maskz_permutexvar_epi64((0xff << by) as u8, index, start)
}
