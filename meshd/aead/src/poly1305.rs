//! Poly1305 (RFC 8439, section 2.5) in 64-bit integers: branch-free, one block after the other.
//!
//! The accumulator is h0 + h1·2^64 + h2·2^128 with h2 of a few bits. r's clamping (low two bits of its upper half
//! are zero) lets h1·r1·2^128 be folded with one precomputed factor: 2^130 ≡ 5, so 2^128·r1 ≡ 5·r1/4.

/// The one-time authenticator of one message.
#[derive(Clone, Default)]
#[repr(C)] // for the assembly of `lanes/avx2/stitched.rs`
pub(crate) struct Poly1305 {
    pub(crate) h: [u64; 3],
    pub(crate) r: [u64; 2],
    /// r1 + r1/4 = 5·r1/4.
    pub(crate) s1: u64,
    pad: [u64; 2],
}

impl Poly1305 {
    /// From the one-time key: r (clamped here) and the pad.
    #[inline(always)]
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let [r0, r1, pad0, pad1] = words(key);
        let r = [r0 & 0x0fff_fffc_0fff_ffff, r1 & 0x0fff_fffc_0fff_fffc];
        Self {
            h: [0; 3],
            r,
            s1: r[1] + (r[1] >> 2),
            pad: [pad0, pad1],
        }
    }

    /// Takes in one full block.
    #[inline(always)]
    pub(crate) fn block(&mut self, block: &[u8; 16]) {
        let [m0, m1] = words(block);
        let [h0, h1, h2] = self.h;
        let [r0, r1] = self.r;
        let (h0, carry) = h0.overflowing_add(m0);
        let (h1, carry_a) = h1.overflowing_add(m1);
        let (h1, carry_b) = h1.overflowing_add(u64::from(carry));
        // The block's 2^128 bit is the 1.
        let h2 = h2 + u64::from(carry_a) + u64::from(carry_b) + 1;

        // h2 ≤ 8 here, s1 < 1.25·2^60, r0 and r1 < 2^60: nothing below overflows.
        let d0 = wide(h0, r0) + wide(h1, self.s1);
        let d1 = wide(h0, r1) + u128::from(h2 * self.s1) + (d0 >> 64) + wide(h1, r0);
        let d2 = h2 * r0 + (d1 >> 64) as u64;

        // What is above 2^130 comes back times 5.
        let fold = (d2 >> 2) * 5;
        let (h0, carry) = (d0 as u64).overflowing_add(fold);
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        self.h = [h0, h1, (d2 & 3) + u64::from(carry)];
    }

    /// Takes in `text`, the last block filled up with zeros (section 2.8's pad16).
    #[inline(always)]
    pub(crate) fn padded(&mut self, text: &[u8]) {
        let (blocks, rest) = text.as_chunks::<16>();
        for block in blocks {
            self.block(block);
        }
        if !rest.is_empty() {
            let mut block = [0; 16];
            block[..rest.len()].copy_from_slice(rest);
            self.block(&block);
        }
    }

    /// The tag.
    #[inline(always)]
    pub(crate) fn tag(&self) -> [u8; 16] {
        // h < 2^130 + small: g = h - p = h + 5 - 2^130; take it when that isn't negative. Then add the pad.
        let [h0, h1, h2] = self.h;
        let low = u128::from(h0) | u128::from(h1) << 64;
        let (g, carry) = low.overflowing_add(5);
        let above = (h2 + u64::from(carry)) >> 2; // 0 or 1: whether h ≥ p
        let take = u128::from(above).wrapping_neg();
        let reduced = (low & !take) | (g & take);
        let pad = u128::from(self.pad[0]) | u128::from(self.pad[1]) << 64;
        reduced.wrapping_add(pad).to_le_bytes()
    }
}

#[inline(always)]
fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// Little-endian words.
#[inline(always)]
fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u64; WORDS] {
    core::array::from_fn(|i| u64::from_le_bytes(core::array::from_fn(|j| bytes[8 * i + j])))
}
