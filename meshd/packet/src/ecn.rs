//! Explicit congestion notification across the tunnel, as the kernel's WireGuard does it (RFC 6040; include/net/inet_ecn.h).

use meshd_os::checksum;

const MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The ECN bits of an IP packet; a broken one has none.
fn inner(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & MASK,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & MASK,
        _ => NOT_ECT,
    }
}

/// The outer header's bits for a packet that goes into the tunnel: its own, but congestion it has met stays inside.
pub(super) fn outer(packet: &[u8]) -> u8 {
    match inner(packet) {
        CE => ECT_0,
        other => other,
    }
}

/// Takes the outer header's bits into a packet that came out of the tunnel. False: it must be dropped, since it met congestion
/// and cannot say so.
pub(super) fn decapsulate(packet: &mut [u8], outer: u8) -> bool {
    match (inner(packet), outer & MASK) {
        (NOT_ECT, CE) => false,
        (ECT_0 | ECT_1, CE) => {
            set(packet, CE);
            true
        }
        (ECT_0, ECT_1) => {
            set(packet, ECT_1);
            true
        }
        _ => true,
    }
}

/// Tells the receiver of `packet` that it met congestion here. False: it can't be told but by losing the packet.
pub(super) fn mark(packet: &mut [u8]) -> bool {
    decapsulate(packet, CE)
}

fn set(packet: &mut [u8], bits: u8) {
    match packet {
        [first, second, rest @ ..] if *first >> 4 == 4 => {
            let old = [*first, *second];
            *second = *second & !MASK | bits;
            if let Some(field) = rest.get_mut(8..10) {
                let check = checksum::update([field[0], field[1]], old, [*first, *second]);
                field.copy_from_slice(&check);
            }
        }
        [_, second, ..] => *second = *second & !(MASK << 4) | bits << 4,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(bits: u8) -> Vec<u8> {
        let mut packet = vec![
            0x45,
            0x20 | bits,
            0,
            20,
            1,
            2,
            0,
            0,
            64,
            17,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ];
        checksum::fill_ipv4(&mut packet);
        packet
    }

    fn v6(bits: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[..2].copy_from_slice(&[0x6a, 0xc0 | bits << 4]);
        packet
    }

    #[test]
    fn congestion_inside_stays_inside() {
        for (bits, expected) in [
            (NOT_ECT, NOT_ECT),
            (ECT_1, ECT_1),
            (ECT_0, ECT_0),
            (CE, ECT_0),
        ] {
            assert_eq!(outer(&v4(bits)), expected);
            assert_eq!(outer(&v6(bits)), expected);
        }
        assert_eq!(outer(&[]), NOT_ECT);
    }

    /// RFC 6040, figure 4: (inner, outer) → inner, or dropped.
    #[test]
    fn congestion_outside_comes_in() {
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (bits, row) in table {
            for (outer, expected) in row.into_iter().enumerate() {
                let (mut a, mut b) = (v4(bits), v6(bits));
                assert_eq!(decapsulate(&mut a, outer as u8), expected.is_some());
                assert_eq!(decapsulate(&mut b, outer as u8), expected.is_some());
                if let Some(expected) = expected {
                    assert_eq!(a, v4(expected), "checksum included");
                    assert_eq!(b, v6(expected), "nothing else touched");
                }
            }
        }
    }
}
