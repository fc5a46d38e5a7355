//! What the packet threads do to packets, for `fuzz`: any bytes, no panic, and checksums that stay right.

use meshd_os::checksum;
use meshd_os::offload::Headers;

use super::icmp::{self, Trouble};
use super::{ecn, relay, too_big, ProbeMark};

/// A packet on its way through the packet threads: first a byte for the outer header's ECN bits.
pub fn packet(bytes: &[u8]) {
    received(bytes);
    refused(bytes);
    for limit in [28, 35, 576, 1280] {
        fragmented(bytes, limit);
    }
    let mark = ProbeMark {
        id: 0xbeef,
        magic: *b"meshd-01",
    };
    let _ = mark.reply(bytes);
    let _ = crate::probe::answer(bytes, &[std::net::Ipv4Addr::LOCALHOST.into()]);
}

/// A packet that came out of a tunnel: congestion is told, a hop is spent, an answer to a probe is looked for.
fn received(bytes: &[u8]) {
    let Some((&outer, packet)) = bytes.split_first() else {
        return;
    };
    let mut packet = packet.to_vec();
    let intact = ipv4_intact(&packet);
    let len = packet.len();
    let _ = ecn::outer(&packet);
    let _ = ecn::decapsulate(&mut packet, outer);
    let _ = ecn::mark(&mut packet);
    let _ = relay::spend_hop(&mut packet);
    assert_eq!(packet.len(), len);
    assert_eq!(ipv4_intact(&packet), intact, "a header's checksum");
}

/// A packet that can't go on: the error about it is whole, and about nothing that must not be answered.
fn refused(bytes: &[u8]) {
    for trouble in [Trouble::Unreachable, Trouble::HopsExceeded] {
        let mut out = [0; icmp::MAX_LEN];
        let Some(len) = icmp::error(trouble, bytes, None, &mut out) else {
            continue;
        };
        let error = &out[..len];
        let headers = Headers::read(error);
        let upper = headers.as_ref().map_or(0, |headers| headers.upper);
        assert!(len <= bytes.len() + 48, "no amplification");
        let sum = match headers {
            Some(headers) if headers.ipv4 => {
                assert!(ipv4_intact(error));
                checksum::sum(&error[upper..])
            }
            Some(headers) => {
                let addresses = &error[headers.addresses()];
                checksum::pseudo(addresses, headers.protocol, len - upper)
                    + checksum::sum(&error[upper..])
            }
            None => panic!("an error without headers"),
        };
        assert_eq!(checksum::fold(sum), 0xffff, "an error's checksum");
        let mut again = [0; icmp::MAX_LEN];
        let about_error = icmp::error(trouble, error, None, &mut again);
        assert_eq!(about_error, None, "an error about an error");
    }
}

/// A packet that is longer than its path takes: its fragments put together are the packet, where it says it lies.
fn fragmented(packet: &[u8], limit: usize) {
    const HEADER: usize = 20;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    if !too_big::fragment(packet, limit, |piece| pieces.push(piece.to_vec())) {
        assert!(pieces.is_empty(), "all or nothing");
        return;
    }
    let field = |piece: &[u8]| usize::from(u16::from_be_bytes([piece[6], piece[7]]));
    let mut at = (field(packet) & 0x1fff) * 8;
    let mut payload: Vec<u8> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        assert!(piece.len() <= limit && ipv4_intact(piece));
        assert_eq!((field(piece) & 0x1fff) * 8, at, "where it lies");
        let more = i + 1 < pieces.len() || field(packet) & 0x2000 != 0;
        assert_eq!(field(piece) & 0x2000 != 0, more, "whether it is the last");
        payload.extend(&piece[HEADER..]);
        at += piece.len() - HEADER;
    }
    assert_eq!(payload, packet[HEADER..]);
}

/// Whether this is IPv4 with a whole header whose checksum is right.
fn ipv4_intact(packet: &[u8]) -> bool {
    let header = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4);
    packet.first().is_some_and(|first| first >> 4 == 4)
        && packet
            .get(..header.max(20))
            .is_some_and(|header| checksum::verifies(header, 0))
}
