//! ChaCha20's block function (RFC 8439, section 2.3) on sixteen blocks at once, each with its own counter and nonce:
//! word `w` of all blocks in register `w`, so that the state and what it needs beside it fit 32 registers.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::chacha20::CONSTANTS;
use crate::engine::Context;

/// Blocks side by side.
pub(super) const LANES: usize = 16;

/// One 32-bit word in each lane for each of the state's words; or, after [`transpose`], one block in each.
pub(super) type Words = [__m512i; 16];

/// What differs between the blocks.
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    /// The block's number within its packet.
    pub(super) block: __m512i,
    /// The packet's counter, lower and upper half.
    pub(super) low: __m512i,
    pub(super) high: __m512i,
}

/// Four quarter rounds (RFC 8439, section 2.1) abreast, step by step: the steps of one wait for each other, those of four
/// keep the processor busy.
macro_rules! quarter_rounds {
    ($x:ident, $($a:literal $b:literal $c:literal $d:literal),*) => {
        $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($x[$d], $x[$a]));)*
        $($x[$c] = _mm512_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($x[$b], $x[$c]));)*
        $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($x[$d], $x[$a]));)*
        $($x[$c] = _mm512_add_epi32($x[$c], $x[$d]);)*
        $($x[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($x[$b], $x[$c]));)*
    };
}

/// The quarter rounds of two states, the same step of all eight together.
macro_rules! twice {
    ($($a:literal $b:literal $c:literal $d:literal),*) => {
        concat!(
            half!(16, 12, $($a $b $c $d),*),
            half!(8, 7, $($a $b $c $d),*)
        )
    };
}

/// Half of that.
macro_rules! half {
    ($d_by:literal, $b_by:literal, $($a:literal $b:literal $c:literal $d:literal),*) => {
        concat!(
            $("vpaddd {", $a, "}, {", $a, "}, {", $b, "}\n",)*
            $("vpxord {", $d, "}, {", $d, "}, {", $a, "}\n",)*
            $("vprold {", $d, "}, {", $d, "}, ", $d_by, "\n",)*
            $("vpaddd {", $c, "}, {", $c, "}, {", $d, "}\n",)*
            $("vpxord {", $b, "}, {", $b, "}, {", $c, "}\n",)*
            $("vprold {", $b, "}, {", $b, "}, ", $b_by, "\n",)*
        )
    };
}

/// Sixteen blocks and sixteen more: the steps of the ones fill the time in which those of the others wait. In assembly,
/// since the two states fill all 32 registers, and compilers like to have one left.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn twice_blocks(context: &Context<'_>, inputs: [&Inputs; 2]) -> [Words; 2] {
    let mut x = initial(context, inputs[0]);
    let mut y = initial(context, inputs[1]);
    // SAFETY: works on the registers it names.
    unsafe {
        asm!(
            "mov {rounds:e}, 10",
            "2:",
            twice!("x0" "x4" "x8" "x12", "x1" "x5" "x9" "x13", "x2" "x6" "x10" "x14", "x3" "x7" "x11" "x15",
                   "y0" "y4" "y8" "y12", "y1" "y5" "y9" "y13", "y2" "y6" "y10" "y14", "y3" "y7" "y11" "y15"),
            twice!("x0" "x5" "x10" "x15", "x1" "x6" "x11" "x12", "x2" "x7" "x8" "x13", "x3" "x4" "x9" "x14",
                   "y0" "y5" "y10" "y15", "y1" "y6" "y11" "y12", "y2" "y7" "y8" "y13", "y3" "y4" "y9" "y14"),
            "dec {rounds:e}",
            "jnz 2b",
            x0 = inout(zmm_reg) x[0], x1 = inout(zmm_reg) x[1], x2 = inout(zmm_reg) x[2], x3 = inout(zmm_reg) x[3],
            x4 = inout(zmm_reg) x[4], x5 = inout(zmm_reg) x[5], x6 = inout(zmm_reg) x[6], x7 = inout(zmm_reg) x[7],
            x8 = inout(zmm_reg) x[8], x9 = inout(zmm_reg) x[9], x10 = inout(zmm_reg) x[10], x11 = inout(zmm_reg) x[11],
            x12 = inout(zmm_reg) x[12], x13 = inout(zmm_reg) x[13], x14 = inout(zmm_reg) x[14], x15 = inout(zmm_reg) x[15],
            y0 = inout(zmm_reg) y[0], y1 = inout(zmm_reg) y[1], y2 = inout(zmm_reg) y[2], y3 = inout(zmm_reg) y[3],
            y4 = inout(zmm_reg) y[4], y5 = inout(zmm_reg) y[5], y6 = inout(zmm_reg) y[6], y7 = inout(zmm_reg) y[7],
            y8 = inout(zmm_reg) y[8], y9 = inout(zmm_reg) y[9], y10 = inout(zmm_reg) y[10], y11 = inout(zmm_reg) y[11],
            y12 = inout(zmm_reg) y[12], y13 = inout(zmm_reg) y[13], y14 = inout(zmm_reg) y[14], y15 = inout(zmm_reg) y[15],
            rounds = out(reg) _,
            options(pure, nomem, nostack),
        );
    }
    [
        add(x, initial(context, inputs[0])),
        add(y, initial(context, inputs[1])),
    ]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add(mut x: Words, start: Words) -> Words {
    for i in 0..16 {
        x[i] = _mm512_add_epi32(x[i], start[i]);
    }
    x
}

/// The blocks of these inputs, word by word.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn blocks(context: &Context<'_>, inputs: &Inputs) -> Words {
    let start = initial(context, inputs);
    let mut x = start;
    for _ in 0..10 {
        quarter_rounds!(x, 0 4 8 12, 1 5 9 13, 2 6 10 14, 3 7 11 15);
        quarter_rounds!(x, 0 5 10 15, 1 6 11 12, 2 7 8 13, 3 4 9 14);
    }
    add(x, start)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn initial(context: &Context<'_>, inputs: &Inputs) -> Words {
    let mut x = [inputs.block; 16];
    for i in 0..4 {
        x[i] = _mm512_set1_epi32(CONSTANTS[i] as i32);
    }
    for i in 0..8 {
        x[4 + i] = _mm512_set1_epi32(context.key[i] as i32);
    }
    x[13] = _mm512_set1_epi32(context.salt as i32);
    x[14] = inputs.low;
    x[15] = inputs.high;
    x
}

/// From words in lanes to one block a register: register `i` holds the 64 bytes of lane `i`'s block.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose(x: &Words) -> Words {
    // Register 4i+j: in each quarter q, words 4i..4i+4 of block 4q+j.
    let mut t = *x;
    for i in [0, 4, 8, 12] {
        let low = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        let high = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        let next_low = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
        let next_high = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        t[i] = _mm512_unpacklo_epi64(low, next_low);
        t[i + 1] = _mm512_unpackhi_epi64(low, next_low);
        t[i + 2] = _mm512_unpacklo_epi64(high, next_high);
        t[i + 3] = _mm512_unpackhi_epi64(high, next_high);
    }
    // What is left is to transpose quarters.
    let mut blocks = *x;
    for j in 0..4 {
        let [a, b, c, d] = quarters([t[j], t[4 + j], t[8 + j], t[12 + j]]);
        blocks[j] = a;
        blocks[4 + j] = b;
        blocks[8 + j] = c;
        blocks[12 + j] = d;
    }
    blocks
}

/// Transposes the 4 by 4 matrix of 128-bit quarters: result `i` has quarter `i` of each argument.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let ab_low = _mm512_shuffle_i32x4::<0x44>(a, b);
    let ab_high = _mm512_shuffle_i32x4::<0xee>(a, b);
    let cd_low = _mm512_shuffle_i32x4::<0x44>(c, d);
    let cd_high = _mm512_shuffle_i32x4::<0xee>(c, d);
    [
        _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

/// Key stream is as good as the text it covers.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn erase(stream: &mut Words) {
    *stream = [_mm512_setzero_si512(); 16];
    zeroize::optimization_barrier(stream);
}
