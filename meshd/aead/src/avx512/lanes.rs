//! Poly1305 of many packets of about the same length, one a lane, block after block.
//!
//! Horner's scheme (RFC 8439, section 2.5) in steps of two: what was so far times r², plus a block times r, plus the next
//! block, and only then the carries.

use core::arch::x86_64::*;

use super::chacha20::quarters;
use super::limbs::{block, choose, factor, multiply, multiply_add_twice, Factor, Limbs};

/// The values of eight texts, limbs unreduced.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
#[inline]
pub(super) fn sums(aad: &[u8], texts: &[&[u8]; 8], r: &Factor) -> Limbs {
    let zero = [_mm512_setzero_si512(); 3];
    let mut square = factor(multiply([r[0], r[1], r[2]], r));
    let mut h = zero;
    if !aad.is_empty() {
        h = absorb(h, &[aad; 8], r, &square);
    }
    h = absorb(h, texts, r, &square);
    let (low, high) = (_mm512_set1_epi64(aad.len() as i64), lengths(texts));
    h = multiply_add_twice(h, &square, block(low, high, 0xff), r, zero);
    square = [zero[0]; 5];
    zeroize::optimization_barrier(&square);
    h
}

/// Takes texts in, each filled up with zeros to whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
#[inline]
fn absorb(mut h: Limbs, texts: &[&[u8]; 8], r: &Factor, square: &Factor) -> Limbs {
    let (mut shortest, mut longest) = (usize::MAX, 0);
    for text in texts {
        shortest = shortest.min(text.len());
        longest = longest.max(text.len());
    }
    let lengths = lengths(texts);
    // Chunks of 64 bytes that all have.
    let common = shortest / 64 * 64;
    for at in (0..common).step_by(64) {
        h = chunk(h, load(texts, at), r, square);
    }
    // Chunks that some have. Where a text is over, its lane stays as it is.
    for at in (common..longest / 64 * 64).step_by(64) {
        let new = chunk(h, load_some(texts, at), r, square);
        h = choose(longer(lengths, at + 63), h, new);
    }
    // The rest of each.
    let left = _mm512_and_si512(lengths, _mm512_set1_epi64(63));
    if longer(left, 0) != 0 {
        let [a, b, c, d] = transpose(load_tails(texts));
        h = up_to_two(h, [a, b], left, 0, r, square);
        h = up_to_two(h, [c, d], left, 32, r, square);
    }
    h
}

/// Takes in four blocks of each text.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn chunk(h: Limbs, rows: [__m512i; 8], r: &Factor, square: &Factor) -> Limbs {
    let [a, b, c, d] = transpose(rows);
    let (first, second) = (block(a[0], a[1], 0xff), block(b[0], b[1], 0xff));
    let h = multiply_add_twice(h, square, first, r, second);
    let (first, second) = (block(c[0], c[1], 0xff), block(d[0], d[1], 0xff));
    multiply_add_twice(h, square, first, r, second)
}

/// Takes in two blocks, or one, or none: `left` says how many bytes a text's tail has, of which these begin at `at`.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn up_to_two(
    state: Limbs,
    [first, second]: [[__m512i; 2]; 2],
    left: __m512i,
    at: usize,
    r: &Factor,
    square: &Factor,
) -> Limbs {
    let (one, both) = (longer(left, at), longer(left, at + 16));
    if one == 0 {
        return state;
    }
    let first = block(first[0], first[1], one);
    let second = block(second[0], second[1], both);
    // Where there are both h·r² + first·r + second, else h·r + 0·r + first.
    let mut by = *r;
    for (by, square) in by.iter_mut().zip(square) {
        *by = _mm512_mask_mov_epi64(*by, both, *square);
    }
    let last = choose(both, first, second);
    let first = choose(both, [_mm512_setzero_si512(); 3], first);
    choose(one, state, multiply_add_twice(state, &by, first, r, last))
}

/// Where there are more than so many bytes.
#[target_feature(enable = "avx512f")]
#[inline]
fn longer(lengths: __m512i, than: usize) -> u8 {
    _mm512_cmpgt_epi64_mask(lengths, _mm512_set1_epi64(than as i64))
}

/// The 64 bytes at `at` of texts that have them.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(texts: &[&[u8]; 8], at: usize) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); 8];
    for (row, text) in rows.iter_mut().zip(texts) {
        let chunk = &text[at..][..64];
        // SAFETY: 64 bytes are readable, no alignment is asked for.
        *row = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
    }
    rows
}

/// The same, but zeros of texts that don't have all of them.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_some(texts: &[&[u8]; 8], at: usize) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); 8];
    for (row, text) in rows.iter_mut().zip(texts) {
        if let Some(chunk) = text.get(at..at + 64) {
            // SAFETY: 64 bytes are readable, no alignment is asked for.
            *row = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
        }
    }
    rows
}

/// What there is behind a text's last 64 bytes, and zeros.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_tails(texts: &[&[u8]; 8]) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); 8];
    for (row, text) in rows.iter_mut().zip(texts) {
        let (_, tail) = text.as_chunks::<64>();
        let mask = (1 << tail.len()) - 1;
        // SAFETY: only the bytes of the mask are read.
        *row = unsafe { _mm512_maskz_loadu_epi8(mask, tail.as_ptr().cast()) };
    }
    rows
}

/// From 64 bytes of each packet a register to one block after the other, as lower and upper halves, one packet a lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(x: [__m512i; 8]) -> [[__m512i; 2]; 4] {
    let low = quarters([
        _mm512_unpacklo_epi64(x[0], x[1]),
        _mm512_unpacklo_epi64(x[2], x[3]),
        _mm512_unpacklo_epi64(x[4], x[5]),
        _mm512_unpacklo_epi64(x[6], x[7]),
    ]);
    let high = quarters([
        _mm512_unpackhi_epi64(x[0], x[1]),
        _mm512_unpackhi_epi64(x[2], x[3]),
        _mm512_unpackhi_epi64(x[4], x[5]),
        _mm512_unpackhi_epi64(x[6], x[7]),
    ]);
    [
        [low[0], high[0]],
        [low[1], high[1]],
        [low[2], high[2]],
        [low[3], high[3]],
    ]
}

/// In bytes.
#[target_feature(enable = "avx512f")]
#[inline]
fn lengths(texts: &[&[u8]; 8]) -> __m512i {
    let [a, b, c, d, e, f, g, h] = texts;
    _mm512_set_epi64(
        h.len() as i64,
        g.len() as i64,
        f.len() as i64,
        e.len() as i64,
        d.len() as i64,
        c.len() as i64,
        b.len() as i64,
        a.len() as i64,
    )
}
