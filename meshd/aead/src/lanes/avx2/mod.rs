//! The lanes in AVX2's 256-bit registers. Unsafe: instructions that not every x86-64 processor has.
//!
//! Intrinsics, except for the rounds, which are assembly: their speed hangs on which of the sixteen state words waits
//! in memory for a register, and compilers choose badly.

/// Half of two quarter rounds abreast: a += b, d ^= a, d rotated by a byte shuffle; c += d, b ^= c, b rotated by two shifts.
/// Row c's two words come from where `$from0` and `$from1` say, and then are in c0 and c1; c2 and c3 are free to use.
/// `$shuffle` is where the bytes' order is.
#[rustfmt::skip]
macro_rules! half {
    ($a0:literal $b0:literal $d0:literal, $a1:literal $b1:literal $d1:literal, $from0:literal, $from1:literal,
        $shuffle:literal, $left:literal, $right:literal) => {
        concat!(
            "vpaddd {a", $a0, "}, {a", $a0, "}, {b", $b0, "}\n",
            "vpaddd {a", $a1, "}, {a", $a1, "}, {b", $b1, "}\n",
            "vpxor {d", $d0, "}, {d", $d0, "}, {a", $a0, "}\n",
            "vpxor {d", $d1, "}, {d", $d1, "}, {a", $a1, "}\n",
            "vpshufb {d", $d0, "}, {d", $d0, "}, ", $shuffle, "\n",
            "vpshufb {d", $d1, "}, {d", $d1, "}, ", $shuffle, "\n",
            "vpaddd {c0}, {d", $d0, "}, ", $from0, "\n",
            "vpaddd {c1}, {d", $d1, "}, ", $from1, "\n",
            "vpxor {b", $b0, "}, {b", $b0, "}, {c0}\n",
            "vpxor {b", $b1, "}, {b", $b1, "}, {c1}\n",
            "vpslld {c2}, {b", $b0, "}, ", $left, "\n",
            "vpslld {c3}, {b", $b1, "}, ", $left, "\n",
            "vpsrld {b", $b0, "}, {b", $b0, "}, ", $right, "\n",
            "vpsrld {b", $b1, "}, {b", $b1, "}, ", $right, "\n",
            "vpor {b", $b0, "}, {b", $b0, "}, {c2}\n",
            "vpor {b", $b1, "}, {b", $b1, "}, {c3}\n",
        )
    };
}

pub(crate) mod pairs;
mod stitched;

use core::arch::asm;
use core::arch::x86_64::*;

use super::{Blocks, Lanes, Row, LANES};
use crate::batch;
use crate::engine::{Context, Engine};
use crate::key::Packet;

/// Proof that this processor has AVX2, and BMI2 for Poly1305's multiplications.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Asks the processor (and the operating system, which must save the wide registers).
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")).then_some(Self(()))
    }
}

#[repr(align(32))]
struct Aligned([[u8; 32]; 2]);

/// Byte shuffles that rotate each 32-bit word left by 16 and by 8 bits.
#[rustfmt::skip]
static ROTATIONS: Aligned = Aligned([
    [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13],
    [3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14],
]);

/// Two quarter rounds abreast, on registers a, b and d of the given numbers and on c0 and c1.
macro_rules! pair {
    ($a0:literal $b0:literal $d0:literal, $a1:literal $b1:literal $d1:literal) => {
        concat!(
            half!($a0 $b0 $d0, $a1 $b1 $d1, "{c0}", "{c1}", "[{rotations}]", 12, 20),
            half!($a0 $b0 $d0, $a1 $b1 $d1, "{c0}", "{c1}", "[{rotations} + 32]", 7, 25)
        )
    };
}

// SAFETY of every block below: AVX2 is there, since `self` can only come from `detect`.
impl Lanes for Avx2 {
    type Words = __m256i;

    #[inline(always)]
    fn splat(self, word: u32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(word as i32) }
    }

    #[inline(always)]
    fn load(self, words: &[u32; LANES]) -> __m256i {
        // SAFETY: see above; 32 bytes are readable, no alignment is asked for.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn double_round(
        self,
        a: &mut Row<Self>,
        b: &mut Row<Self>,
        c: &mut Row<Self>,
        d: &mut Row<Self>,
    ) {
        // SAFETY: see above.
        unsafe { double_round(a, b, c, d) }
    }

    #[inline(always)]
    fn store(self, state: &[Row<Self>; 4], blocks: &mut Blocks) {
        let [a, b, c, d] = state;
        for (half, [upper, lower]) in [[a, b], [c, d]].into_iter().enumerate() {
            for (block, row) in blocks.iter_mut().zip(transpose(self, upper, lower)) {
                // SAFETY: see above; 32 of the block's 64 bytes are written, no alignment is asked for.
                unsafe { _mm256_storeu_si256(block[32 * half..][..32].as_mut_ptr().cast(), row) };
            }
        }
    }

    #[inline(always)]
    fn mix(self, text: &mut [u8; 64], stream: &[u8; 64]) {
        for (text, stream) in text
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .zip(stream.as_chunks::<32>().0)
        {
            // SAFETY: see above; 32 bytes are readable, or can be written, and no alignment is asked for.
            unsafe {
                let mixed = _mm256_xor_si256(
                    _mm256_loadu_si256(text.as_ptr().cast()),
                    _mm256_loadu_si256(stream.as_ptr().cast()),
                );
                _mm256_storeu_si256(text.as_mut_ptr().cast(), mixed);
            }
        }
    }
}

impl Engine for Avx2 {
    fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
        #[target_feature(enable = "avx2,bmi2")]
        fn compiled(lanes: Avx2, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
            let (long, others) = packets.split_at(pairs::pairs(packets));
            if !long.is_empty() {
                pairs::seal(lanes, context, buf, long);
            }
            if !others.is_empty() {
                batch::seal(lanes, context, buf, others);
            }
        }
        // SAFETY: `self` proves both features.
        unsafe { compiled(self, context, buf, packets) }
    }

    fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
        #[target_feature(enable = "avx2,bmi2")]
        fn compiled(lanes: Avx2, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
            let (long, others) = packets.split_at_mut(pairs::pairs(packets));
            if !long.is_empty() {
                pairs::open(lanes, context, buf, long);
            }
            if !others.is_empty() {
                batch::open(lanes, context, buf, others);
            }
        }
        // SAFETY: `self` proves both features.
        unsafe { compiled(self, context, buf, packets) }
    }
}

/// Eight vectors of one word of every lane become eight vectors of one lane's words.
#[inline(always)]
fn transpose(_proof: Avx2, upper: &Row<Avx2>, lower: &Row<Avx2>) -> [__m256i; 8] {
    let [w0, w1, w2, w3] = *upper;
    let [w4, w5, w6, w7] = *lower;
    let w = [w0, w1, w2, w3, w4, w5, w6, w7];
    // SAFETY: the argument proves AVX2.
    unsafe {
        let mut pairs = [w[0]; 8]; // words 2j and 2j+1 of two lanes in each half
        for j in 0..4 {
            pairs[2 * j] = _mm256_unpacklo_epi32(w[2 * j], w[2 * j + 1]);
            pairs[2 * j + 1] = _mm256_unpackhi_epi32(w[2 * j], w[2 * j + 1]);
        }
        let mut quads = [w[0]; 8]; // 4 words of lanes i and i+4: words 0..4 in 0..4, words 4..8 in 4..8
        for j in 0..2 {
            for i in 0..2 {
                quads[4 * j + 2 * i] =
                    _mm256_unpacklo_epi64(pairs[4 * j + i], pairs[4 * j + 2 + i]);
                quads[4 * j + 2 * i + 1] =
                    _mm256_unpackhi_epi64(pairs[4 * j + i], pairs[4 * j + 2 + i]);
            }
        }
        let mut rows = [w[0]; 8];
        for i in 0..4 {
            rows[i] = _mm256_permute2x128_si256::<0x20>(quads[i], quads[4 + i]);
            rows[4 + i] = _mm256_permute2x128_si256::<0x31>(quads[i], quads[4 + i]);
        }
        rows
    }
}

/// In assembly, since compilers spill a third of the state at every step: sixteen words and temporaries do not fit
/// sixteen registers. Row c waits in memory, two of its words at a time.
#[target_feature(enable = "avx2")]
#[inline]
fn double_round(a: &mut Row<Avx2>, b: &mut Row<Avx2>, c: &mut Row<Avx2>, d: &mut Row<Avx2>) {
    // SAFETY: reads `ROTATIONS`, reads and writes `c`; both are aligned to 32 bytes.
    unsafe {
        asm!(
            "vmovdqa {c0}, [{c}]",
            "vmovdqa {c1}, [{c} + 32]",
            pair!(0 0 0, 1 1 1),
            "vmovdqa [{c}], {c0}",
            "vmovdqa [{c} + 32], {c1}",
            "vmovdqa {c0}, [{c} + 64]",
            "vmovdqa {c1}, [{c} + 96]",
            pair!(2 2 2, 3 3 3),
            // The diagonals. Columns 0 and 1 meet what is in c0 and c1 now.
            pair!(0 1 3, 1 2 0),
            "vmovdqa [{c} + 64], {c0}",
            "vmovdqa [{c} + 96], {c1}",
            "vmovdqa {c0}, [{c}]",
            "vmovdqa {c1}, [{c} + 32]",
            pair!(2 3 1, 3 0 2),
            "vmovdqa [{c}], {c0}",
            "vmovdqa [{c} + 32], {c1}",
            a0 = inout(ymm_reg) a[0], a1 = inout(ymm_reg) a[1], a2 = inout(ymm_reg) a[2], a3 = inout(ymm_reg) a[3],
            b0 = inout(ymm_reg) b[0], b1 = inout(ymm_reg) b[1], b2 = inout(ymm_reg) b[2], b3 = inout(ymm_reg) b[3],
            d0 = inout(ymm_reg) d[0], d1 = inout(ymm_reg) d[1], d2 = inout(ymm_reg) d[2], d3 = inout(ymm_reg) d[3],
            c0 = out(ymm_reg) _, c1 = out(ymm_reg) _, c2 = out(ymm_reg) _, c3 = out(ymm_reg) _,
            c = in(reg) c.as_mut_ptr(),
            rotations = in(reg) ROTATIONS.0.as_ptr(),
            options(nostack, preserves_flags),
        );
    }
}
