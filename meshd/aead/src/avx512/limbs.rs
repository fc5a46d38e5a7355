//! Eight numbers modulo 2^130 - 5 side by side, in vectors of 64-bit integers, with IFMA's multiplication of 52 bits.
//!
//! Three limbs of 44, 44 and 42 bits, a little more between the steps; 2^130 ≡ 5, so what a product has from 2^132 on
//! comes back times 20.

use core::arch::x86_64::*;

/// Three limbs of one number a lane.
pub(super) type Limbs = [__m512i; 3];

/// What to multiply by: its limbs, and 20·limb 1 and 20·limb 2.
pub(super) type Factor = [__m512i; 5];

/// A block of 16 bytes as a number: with bit 128 in the lanes of `full`, where the others must be zero.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn block(low: __m512i, high: __m512i, full: u8) -> Limbs {
    let mut limbs = split(low, high);
    limbs[2] = _mm512_mask_or_epi64(limbs[2], full, limbs[2], splat(1 << 40));
    limbs
}

/// 128 bits as limbs.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn split(low: __m512i, high: __m512i) -> Limbs {
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, splat(BITS_44)),
        _mm512_and_si512(middle, splat(BITS_44)),
        _mm512_srli_epi64::<24>(high),
    ]
}

/// Limbs 1 and 2 times 20 beside them.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn factor([r0, r1, r2]: Limbs) -> Factor {
    [r0, r1, r2, times_20(r1), times_20(r2)]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn times_20(x: __m512i) -> __m512i {
    _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x))
}

/// Product.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn multiply(h: Limbs, factor: &Factor) -> Limbs {
    multiply_add(h, factor, [_mm512_setzero_si512(); 3])
}

/// `h * factor + add`.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn multiply_add(h: Limbs, factor: &Factor, add: Limbs) -> Limbs {
    carry(accumulate([add, [_mm512_setzero_si512(); 3]], h, factor))
}

/// `h * square + block * r + add`, carried once.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn multiply_add_twice(
    h: Limbs,
    square: &Factor,
    block: Limbs,
    r: &Factor,
    add: Limbs,
) -> Limbs {
    // In this order, since h is what has to be waited for.
    let sums = accumulate([add, [_mm512_setzero_si512(); 3]], block, r);
    carry(accumulate(sums, h, square))
}

/// Adds a product's limbs to sums of their lower 52 bits, and of what is above. Takes limbs below 2^46, in the order h2,
/// h0, h1, since they come out of the step before in that order.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn accumulate(sums: [Limbs; 2], [h0, h1, h2]: Limbs, [r0, r1, r2, s1, s2]: &Factor) -> [Limbs; 2] {
    macro_rules! sum {
        ($madd:ident, $start:expr, $a:ident, $b:ident, $c:ident) => {
            $madd($madd($madd($start, h2, *$c), h0, *$a), h1, *$b)
        };
    }
    let [low, high] = sums;
    [
        [
            sum!(_mm512_madd52lo_epu64, low[0], r0, s2, s1),
            sum!(_mm512_madd52lo_epu64, low[1], r1, r0, s2),
            sum!(_mm512_madd52lo_epu64, low[2], r2, r1, r0),
        ],
        [
            sum!(_mm512_madd52hi_epu64, high[0], r0, s2, s1),
            sum!(_mm512_madd52hi_epu64, high[1], r1, r0, s2),
            sum!(_mm512_madd52hi_epu64, high[2], r2, r1, r0),
        ],
    ]
}

/// From such sums, of two products and a block at most, to limbs below 2^44, 2^44 + 2^12 and 2^42.
#[target_feature(enable = "avx512f")]
#[inline]
fn carry([[low0, low1, low2], [high0, high1, high2]]: [Limbs; 2]) -> Limbs {
    // 2^52 is 2^8 in the limb above; 2^52 of limb 2 is 2^140 ≡ 5·2^10.
    let d1 = plus3(
        low1,
        _mm512_slli_epi64::<8>(high0),
        _mm512_srli_epi64::<44>(low0),
    );
    let d2 = plus3(
        low2,
        _mm512_slli_epi64::<8>(high1),
        _mm512_srli_epi64::<44>(d1),
    );
    let above = _mm512_add_epi64(_mm512_srli_epi64::<42>(d2), _mm512_slli_epi64::<10>(high2));
    let d0 = plus3(
        _mm512_and_si512(low0, splat(BITS_44)),
        above,
        _mm512_slli_epi64::<2>(above),
    );
    [
        _mm512_and_si512(d0, splat(BITS_44)),
        _mm512_add_epi64(
            _mm512_and_si512(d1, splat(BITS_44)),
            _mm512_srli_epi64::<44>(d0),
        ),
        _mm512_and_si512(d2, splat(BITS_42)),
    ]
}

/// The tags' lower and upper halves: h modulo 2^130 - 5, plus the pad modulo 2^128.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn finish(
    [mut h0, mut h1, mut h2]: Limbs,
    [pad_low, pad_high]: [__m512i; 2],
) -> [__m512i; 2] {
    let (bits_44, bits_42) = (splat(BITS_44), splat(BITS_42));
    // Sums of four numbers: carried once they are below 2^130 + 2^8, the second time exact but for h ≥ p.
    for _ in 0..2 {
        h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        h0 = _mm512_and_si512(h0, bits_44);
        h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        h1 = _mm512_and_si512(h1, bits_44);
        let above = _mm512_srli_epi64::<42>(h2);
        h2 = _mm512_and_si512(h2, bits_42);
        h0 = plus3(h0, above, _mm512_slli_epi64::<2>(above));
    }
    h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
    h0 = _mm512_and_si512(h0, bits_44);

    // g = h + 5 - 2^130, taken where it isn't negative.
    let g0 = _mm512_add_epi64(h0, splat(5));
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let take = _mm512_cmpge_epu64_mask(g2, splat(1 << 42));
    h0 = _mm512_mask_and_epi64(h0, take, g0, bits_44);
    h1 = _mm512_mask_and_epi64(h1, take, g1, bits_44);
    h2 = _mm512_mask_and_epi64(h2, take, g2, bits_42);

    let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(low, pad_low);
    let carry = _mm512_cmplt_epu64_mask(low, pad_low);
    let high = _mm512_add_epi64(high, pad_high);
    [low, _mm512_mask_add_epi64(high, carry, high, splat(1))]
}

/// `new` in the lanes of `mask`, `old` in the others.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn choose(mask: u8, old: Limbs, new: Limbs) -> Limbs {
    [
        _mm512_mask_mov_epi64(old[0], mask, new[0]),
        _mm512_mask_mov_epi64(old[1], mask, new[1]),
        _mm512_mask_mov_epi64(old[2], mask, new[2]),
    ]
}

const BITS_44: u64 = (1 << 44) - 1;
const BITS_42: u64 = (1 << 42) - 1;

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn splat(value: u64) -> __m512i {
    _mm512_set1_epi64(value as i64)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn plus3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_add_epi64(_mm512_add_epi64(a, b), c)
}
