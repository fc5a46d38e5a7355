//! Poly1305's arithmetic at its limits, against the one in 64-bit integers, which has its own vectors. What the texts of
//! real packets can reach is compared with ring elsewhere (`src/tests`).

use core::arch::x86_64::*;

use super::chacha20::Words;
use super::limbs::finish;
use super::poly1305::Keys;
use super::Avx512;
use crate::poly1305::Poly1305;
use crate::tests::said;

/// One-time keys: r and pad.
type OneTime = [u8; 32];

/// Words of blocks 0 that begin with these keys.
#[target_feature(enable = "avx512f")]
fn words(keys: &[OneTime; 16]) -> Words {
    let mut words = [_mm512_setzero_si512(); 16];
    for (i, word) in words.iter_mut().enumerate().take(8) {
        let lanes: [u32; 16] = core::array::from_fn(|lane| {
            u32::from_le_bytes(core::array::from_fn(|byte| keys[lane][4 * i + byte]))
        });
        // SAFETY: 64 bytes are readable, no alignment is asked for.
        *word = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
    }
    words
}

#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn tags(keys: &[OneTime; 16], aad: &[u8], texts: &[&[u8]]) -> [[u8; 16]; 16] {
    Keys::new(&words(keys)).tags(aad, texts)
}

fn expected(key: &OneTime, aad: &[u8], text: &[u8]) -> [u8; 16] {
    let mut mac = Poly1305::new(key);
    mac.padded(aad);
    mac.padded(text);
    let lengths = u128::from(aad.len() as u64) | u128::from(text.len() as u64) << 64;
    mac.block(&lengths.to_le_bytes());
    mac.tag()
}

/// Keys of all ones and zeros, of one bit, and of bytes that grow.
fn keys() -> [OneTime; 16] {
    core::array::from_fn(|i| match i {
        0 => [0xff; 32],
        1 => [0; 32],
        2 => core::array::from_fn(|byte| if byte < 16 { 0xff } else { 0 }),
        3 => core::array::from_fn(|byte| if byte < 16 { 0 } else { 0xff }),
        4..10 => core::array::from_fn(|byte| {
            let bit = [0, 26, 44, 64, 88, 120][i - 4];
            if byte == bit / 8 {
                1 << (bit % 8)
            } else {
                0xff * u8::from(byte >= 16)
            }
        }),
        _ => core::array::from_fn(|byte| (byte * i * 7) as u8),
    })
}

#[test]
fn every_way_through_gives_the_tags_of_the_scalar_one() {
    if said("avx512", Avx512::detect()).is_none() {
        return;
    }
    let keys = keys();
    for fill in [0x00, 0x01, 0x80, 0xfe, 0xff] {
        let text = [fill; 700];
        for count in 1..=16 {
            for shape in 0..4 {
                for aad in [&text[..0], &text[..13], &text[..100]] {
                    let texts: Vec<&[u8]> = (0..count)
                        .map(|i| match shape {
                            0 => &text[..640],
                            1 => &text[..16 * i],
                            2 => &text[..if i == count / 2 { 699 } else { 5 * i }],
                            _ => &text[..41 * i],
                        })
                        .collect();
                    // SAFETY: this processor has all that `detect` asks for.
                    let tags = unsafe { tags(&keys, aad, &texts) };
                    for i in 0..count {
                        assert_eq!(
                            tags[i],
                            expected(&keys[i], aad, texts[i]),
                            "packet {i} of {count}, shape {shape}, bytes {fill:#x}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_around_the_modulus_are_reduced() {
    if said("avx512", Avx512::detect()).is_none() {
        return;
    }
    const BITS: u64 = (1 << 44) - 1;
    const TOP: u64 = (1 << 42) - 1;
    // Limbs, and the number modulo 2^130 - 5, modulo 2^128.
    let cases: [([u64; 3], u128); 8] = [
        ([0, 0, 0], 0),
        ([BITS - 4, BITS, TOP], 0),             // p
        ([BITS - 5, BITS, TOP], u128::MAX - 5), // p - 1
        ([BITS - 3, BITS, TOP], 1),             // p + 1
        ([BITS, BITS, TOP], 4),                 // 2^130 - 1
        ([BITS + 1, BITS, TOP], 5),             // 2^130, carried through all limbs
        ([0, 0, 4 << 42], 20),                  // four times 2^130
        ([0, 4 << 44, 0], 4 << 88),
    ];
    let limbs: [[u64; 8]; 3] =
        core::array::from_fn(|limb| core::array::from_fn(|i| cases[i].0[limb]));
    for pad in [0, 1, u128::MAX, 1 << 64, u128::from(u64::MAX)] {
        // SAFETY: this processor has AVX-512.
        let [low, high] = unsafe { finished(&limbs, pad) };
        for (i, (_, number)) in cases.iter().enumerate() {
            let tag = u128::from(low[i]) | u128::from(high[i]) << 64;
            assert_eq!(tag, number.wrapping_add(pad), "case {i}, pad {pad:#x}");
        }
    }
}

#[target_feature(enable = "avx512f")]
fn finished(limbs: &[[u64; 8]; 3], pad: u128) -> [[u64; 8]; 2] {
    let mut out = [[0; 8]; 2];
    // SAFETY: loads and stores 64 bytes each, of which no alignment is asked for.
    unsafe {
        let limbs = limbs.map(|limb| _mm512_loadu_si512(limb.as_ptr().cast()));
        let pad = [pad as i64, (pad >> 64) as i64].map(|half| _mm512_set1_epi64(half));
        for (out, half) in out.iter_mut().zip(finish(limbs, pad)) {
            _mm512_storeu_si512(out.as_mut_ptr().cast(), half);
        }
    }
    out
}
