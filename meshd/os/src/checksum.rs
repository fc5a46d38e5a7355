//! The Internet checksum (RFC 1071), sixteen bytes a step.
//!
//! Strategy: one's complement sums don't care about the word size nor (until the end) about byte order, so whole u64 words in
//! native order are added into u128 accumulators, which the compiler makes add-with-carry pairs of; folding to 16 bits comes
//! last. Sums are partial results in native order: [`fold`] them, and store the complement with `to_ne_bytes`.
#![forbid(unsafe_code)]

/// An unfinished sum: add them freely, [`fold`] once. Room for 2^32 of them before anything is lost.
pub type Partial = u64;

/// Sums `bytes`; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> Partial {
    let (mut a, mut b) = (0u128, 0u128);
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        a += word(block, 0) + word(block, 16);
        b += word(block, 8) + word(block, 24);
    }
    narrow(a + b) + tail(blocks.remainder())
}

/// Copies `from` into `to`, which has the same length, and sums it on the way.
///
/// # Panics
/// When the lengths differ.
pub fn copy_sum(to: &mut [u8], from: &[u8]) -> Partial {
    to.copy_from_slice(from);
    sum(from)
}

fn word(block: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u128::from(u64::from_ne_bytes(bytes))
}

fn tail(bytes: &[u8]) -> Partial {
    let mut words = bytes.chunks_exact(2);
    let mut acc: u64 = (&mut words)
        .map(|w| u64::from(u16::from_ne_bytes([w[0], w[1]])))
        .sum();
    if let [last] = words.remainder() {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    acc
}

/// Brings a wide sum under 2^34: the carries of one's complement are worth the same in every 16-bit place.
fn narrow(acc: u128) -> Partial {
    let folded = (acc as u64 as u128) + (acc >> 64);
    let low = u64::from(folded as u32);
    let high = (folded >> 32) as u64;
    low + (high & 0xffff_ffff) + (high >> 32)
}

/// Folds a sum to its 16 bits, in native byte order, not complemented.
pub fn fold(mut acc: Partial) -> u16 {
    while acc >> 16 != 0 {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    acc as u16
}

/// The sum of the pseudo-header that TCP, UDP and ICMPv6 include: `addresses` is source and destination as they lie in the IP
/// header (8 or 32 bytes), `len` that of the upper header and payload in bytes.
pub fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> Partial {
    sum(addresses) + u64::from(u16::from_ne_bytes([0, protocol])) + length(len)
}

/// The contribution of a length field, also of more than 16 bits.
pub fn length(len: usize) -> Partial {
    sum(&(len as u32).to_be_bytes())
}

/// Whether a range that includes its own checksum is intact; `pseudo` is zero for an IPv4 header.
pub fn verifies(bytes: &[u8], pseudo: Partial) -> bool {
    fold(sum(bytes) + pseudo) == 0xffff
}

/// Fills in the checksum of an IPv4 header (`header` is all of it).
pub fn fill_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let check = !fold(sum(header));
    header[10..12].copy_from_slice(&check.to_ne_bytes());
}

/// The checksum field for a sum, as TCP, UDP and ICMP write it: zero is written as all ones, since to UDP zero means "none"
/// and to the others both are the same.
pub fn finish(acc: Partial) -> [u8; 2] {
    match !fold(acc) {
        0 => [0xff, 0xff],
        check => check.to_ne_bytes(),
    }
}

/// Corrects a stored checksum (`field`, as it lies in the packet) after the 16-bit words `old` became `new` (both as they lie
/// in the packet). RFC 1624, equation 3.
pub fn update(field: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let word = |b: [u8; 2]| u16::from_ne_bytes(b);
    let acc = u64::from(!word(field)) + u64::from(!word(old)) + u64::from(word(new));
    (!fold(acc)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as written: big-endian words, one at a time.
    fn naive(bytes: &[u8]) -> u16 {
        let mut acc = 0u32;
        for pair in bytes.chunks(2) {
            acc += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            acc = (acc & 0xffff) + (acc >> 16);
        }
        acc as u16
    }

    /// 0 and 0xffff are the same number in one's complement; all-zero data gives 0 and nothing else does.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
    }

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(u16::from_be(fold(sum(&bytes))), 0xddf2);
    }

    #[test]
    fn the_largest_sum_keeps_its_carries() {
        for len in [65535, 65536, 1 << 20] {
            let bytes = vec![0xff; len];
            assert!(
                same(u16::from_be(fold(sum(&bytes))), naive(&bytes)),
                "{len}"
            );
        }
    }

    proptest! {
        #[test]
        fn as_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert!(same(u16::from_be(fold(sum(&bytes))), naive(&bytes)));
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(fold(copy_sum(&mut copy, &bytes)), fold(sum(&bytes)));
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn parts_add_up_at_even_places(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: usize) {
            let at = if bytes.is_empty() { 0 } else { (at % bytes.len()) & !1 };
            prop_assert!(same(fold(sum(&bytes[..at]) + sum(&bytes[at..])), fold(sum(&bytes))));
        }

        #[test]
        fn an_update_is_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 20..=20), new: [u8; 2]) {
            fill_ipv4(&mut bytes);
            prop_assert!(verifies(&bytes, 0));
            let field = update([bytes[10], bytes[11]], [bytes[8], bytes[9]], new);
            bytes[8..10].copy_from_slice(&new);
            bytes[10..12].copy_from_slice(&field);
            prop_assert!(verifies(&bytes, 0));
        }
    }
}
