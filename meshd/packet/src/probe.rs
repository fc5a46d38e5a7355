//! Probes: ICMP echoes that meshd itself sends inside the tunnel, and what their outcome says about a link.
//!
//! Pure: packets are built and read as bytes (RFC 792, RFC 4443 §4.1, RFC 8200 §8.1 for the pseudo-header), instants
//! come in as boot-time nanoseconds. An echo carries a random identifier and magic of this process, so that its reply
//! can be told from everybody else's and swallowed. Any host answers it. One that asks about a path's size says so too, in a word
//! that every meshd knows: such a one is answered by the other end's meshd itself ([`answer`]), whatever the host's firewall
//! does with echoes. What it does not do: send, or wait.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use meshd_proto::packet;

/// Tells our echo replies from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeMark {
    /// The ICMP identifier.
    pub id: u16,
    /// The first bytes of the payload.
    pub magic: [u8; MAGIC_LEN],
}

/// Length of the magic, bytes.
pub const MAGIC_LEN: usize = 8;

/// Follows the magic in an echo that asks about a path's size.
const PATH_WORD: &[u8; 16] = b"meshd path size?";

/// A reply that came out of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeReply {
    /// Who answered.
    pub from: IpAddr,
    /// The sequence number of the echo.
    pub sequence: u16,
}

const ICMP_LEN: usize = 8 + MAGIC_LEN;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// Hops a probe may take behind the peer.
const HOPS: u8 = 64;

impl ProbeMark {
    /// An IP packet holding an echo request; `None` when the addresses are of different families.
    pub fn request(&self, from: IpAddr, to: IpAddr, sequence: u16) -> Option<Vec<u8>> {
        self.request_of(from, to, sequence, 0)
    }

    /// The same, padded to `len` bytes if it is shorter.
    pub fn request_of(&self, from: IpAddr, to: IpAddr, sequence: u16, len: u16) -> Option<Vec<u8>> {
        let padding = |header| usize::from(len).saturating_sub(header + ICMP_LEN);
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(self.packet_v4(8, [from, to], sequence, padding(V4_HEADER)))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Some(self.packet_v6(128, [from, to], sequence, padding(V6_HEADER)))
            }
            _ => None,
        }
    }

    fn packet_v4(
        &self,
        kind: u8,
        [from, to]: [Ipv4Addr; 2],
        sequence: u16,
        padding: usize,
    ) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(((V4_HEADER + ICMP_LEN + padding) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, HOPS, ICMP, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let icmp = self.icmp(kind, sequence, padding);
        let sum = checksum(&[&icmp]);
        packet.extend(icmp);
        packet[V4_HEADER + 2..V4_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn packet_v6(
        &self,
        kind: u8,
        [from, to]: [Ipv6Addr; 2],
        sequence: u16,
        padding: usize,
    ) -> Vec<u8> {
        let len = ICMP_LEN + padding;
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((len as u16).to_be_bytes());
        packet.extend([ICMPV6, HOPS]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        let icmp = self.icmp(kind, sequence, padding);
        let pseudo = [(len as u32).to_be_bytes(), [0, 0, 0, ICMPV6]].concat();
        let sum = checksum(&[&packet[8..V6_HEADER], &pseudo, &icmp]);
        packet.extend(icmp);
        packet[V6_HEADER + 2..V6_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// The ICMP part, checksum zero.
    fn icmp(&self, kind: u8, sequence: u16, padding: usize) -> Vec<u8> {
        let mut icmp = vec![kind, 0, 0, 0];
        icmp.extend(self.id.to_be_bytes());
        icmp.extend(sequence.to_be_bytes());
        icmp.extend(self.magic);
        if padding >= PATH_WORD.len() {
            icmp.extend(PATH_WORD);
        }
        icmp.resize(ICMP_LEN + padding, 0);
        icmp
    }

    /// Reads an echo reply to one of ours out of an IP packet, or the first fragment of one; `None` for every other packet,
    /// and quickly: it is asked of each one that comes in.
    pub fn reply(&self, packet: &[u8]) -> Option<ProbeReply> {
        let first = *packet.first()?;
        let (from, header, kind) = match first >> 4 {
            4 if *packet.get(9)? == ICMP => {
                let octets: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                (IpAddr::from(octets), usize::from(first & 15) * 4, 0)
            }
            6 if *packet.get(6)? == ICMPV6 => {
                let octets: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                (IpAddr::from(octets), V6_HEADER, 129)
            }
            // The host that answers may have to fragment what is large.
            6 if *packet.get(6)? == FRAGMENT
                && *packet.get(V6_HEADER)? == ICMPV6
                && *packet.get(V6_HEADER + 2)? == 0
                && *packet.get(V6_HEADER + 3)? & 0xf8 == 0 =>
            {
                let octets: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                (IpAddr::from(octets), V6_HEADER + 8, 129)
            }
            _ => return None,
        };
        let icmp = packet.get(header..header + ICMP_LEN)?;
        let ours =
            icmp[0] == kind && icmp[4..6] == self.id.to_be_bytes() && icmp[8..] == self.magic;
        ours.then(|| ProbeReply {
            from,
            sequence: u16::from_be_bytes([icmp[6], icmp[7]]),
        })
    }
}

/// What this host, which has the addresses `own`, answers to an echo that asks about the size of the path to it; `None` for every other
/// packet, and quickly. As short as can be, for the way back is asked about by whoever sends that way.
pub(super) fn answer(packet: &[u8], own: &[IpAddr]) -> Option<Vec<u8>> {
    let (header, kind) = match *packet.first()? {
        // No options, and not in fragments.
        0x45 if *packet.get(9)? == ICMP && packet.get(6)? & 0x3f == 0 && *packet.get(7)? == 0 => {
            (V4_HEADER, 8)
        }
        first if first >> 4 == 6 && *packet.get(6)? == ICMPV6 => (V6_HEADER, 128),
        _ => return None,
    };
    let icmp = packet.get(header..header + ICMP_LEN)?;
    let word = packet.get(header + ICMP_LEN..)?;
    if icmp[..2] != [kind, 0] || !word.starts_with(PATH_WORD) {
        return None;
    }
    let mark = ProbeMark {
        id: u16::from_be_bytes([icmp[4], icmp[5]]),
        magic: icmp[8..].try_into().ok()?,
    };
    let sequence = u16::from_be_bytes([icmp[6], icmp[7]]);
    let header = packet::header(packet)?;
    if !own.contains(&header.destination) {
        return None;
    }
    match (header.destination, header.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(mark.packet_v4(0, [from, to], sequence, 0)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(mark.packet_v6(129, [from, to], sequence, 0)),
        _ => None,
    }
}

/// The Internet checksum (RFC 1071) of the parts in a row; each but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: ProbeMark = ProbeMark {
        id: 0xbeef,
        magic: *b"meshd-01",
    };

    fn v4(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What a host answers.
    fn echoed(request: &[u8]) -> Vec<u8> {
        let mut reply = request.to_vec();
        let header = if reply[0] >> 4 == 4 {
            V4_HEADER
        } else {
            V6_HEADER
        };
        reply[header] = if header == V4_HEADER { 0 } else { 129 };
        let (from, to, len) = if header == V4_HEADER {
            (12, 16, 4)
        } else {
            (8, 24, 16)
        };
        for i in 0..len {
            reply.swap(from + i, to + i);
        }
        reply
    }

    #[test]
    fn checksums_hold() {
        let v4 = MARK.request(v4("10.0.0.1"), v4("10.0.0.2"), 7).unwrap();
        assert_eq!(checksum(&[&v4[..V4_HEADER]]), 0);
        assert_eq!(checksum(&[&v4[V4_HEADER..]]), 0);
        assert_eq!(v4.len(), 36);
        let v6 = MARK
            .request("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), 7)
            .unwrap();
        assert_eq!(
            checksum(&[&v6[8..40], &[0, 0, 0, 16, 0, 0, 0, 58], &v6[40..]]),
            0
        );
        assert_eq!(v6.len(), 56);
    }

    #[test]
    fn padded_ones_are_as_long_as_asked_and_hold() {
        for len in [0, 36, 57, 1280, 1421] {
            let packet = MARK
                .request_of(v4("10.0.0.1"), v4("10.0.0.2"), 9, len)
                .unwrap();
            assert_eq!(packet.len(), usize::from(len.max(36)));
            assert_eq!(packet[2..4], (packet.len() as u16).to_be_bytes());
            assert_eq!(checksum(&[&packet[V4_HEADER..]]), 0);
            assert_eq!(MARK.reply(&echoed(&packet)).unwrap().sequence, 9);
            let packet = MARK
                .request_of(v4("fd00::1"), v4("fd00::2"), 9, len)
                .unwrap();
            assert_eq!(packet.len(), usize::from(len.max(56)));
            let reply = echoed(&packet);
            assert_eq!(MARK.reply(&reply).unwrap().sequence, 9);
            // In fragments: the first of them tells.
            let mut first = reply[..40].to_vec();
            first[6] = 44;
            first.extend([58, 0, 0, 1, 0, 0, 0, 7]);
            first.extend(&reply[40..56]);
            assert_eq!(MARK.reply(&first).unwrap().sequence, 9);
            first[43] = 9;
            assert_eq!(MARK.reply(&first), None, "not the first");
        }
    }

    #[test]
    fn what_asks_about_a_path_is_answered_shortly_by_whom_it_is_for() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (a, b) = (v4(a), v4(b));
            let request = MARK.request_of(a, b, 0x8007, 1300).unwrap();
            let answer = super::answer(&request, &[v4("10.9.9.9"), b]).unwrap();
            let reply = MARK.reply(&answer).unwrap();
            assert_eq!((reply.from, reply.sequence), (b, 0x8007));
            let header = packet::header(&answer).unwrap();
            assert_eq!((header.source, header.destination), (b, a));
            assert_eq!(header.len, answer.len());
            let (at, pseudo) = match b {
                IpAddr::V4(_) => {
                    assert_eq!(checksum(&[&answer[..V4_HEADER]]), 0);
                    (V4_HEADER, vec![])
                }
                IpAddr::V6(_) => (
                    V6_HEADER,
                    [&answer[8..40], &[0, 0, 0, 16, 0, 0, 0, 58]].concat(),
                ),
            };
            assert_eq!(checksum(&[&pseudo, &answer[at..]]), 0);
            assert_eq!(answer.len(), at + ICMP_LEN);
            // Nobody else's, no plain echo, no reply, no piece of one.
            assert_eq!(super::answer(&request, &[a]), None);
            let plain = MARK.request(a, b, 7).unwrap();
            assert_eq!(super::answer(&plain, &[b]), None);
            assert_eq!(super::answer(&answer, &[a, b]), None);
            let mut other = request.clone();
            other[at + ICMP_LEN] ^= 1;
            assert_eq!(super::answer(&other, &[b]), None);
            for cut in 0..at + ICMP_LEN + PATH_WORD.len() {
                assert_eq!(super::answer(&request[..cut], &[b]), None);
            }
        }
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(
            checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
    }

    #[test]
    fn replies_to_ours_are_known_and_no_other() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let request = MARK.request(v4(a), v4(b), 0x1234).unwrap();
            assert_eq!(MARK.reply(&request), None, "a request is no reply");
            let reply = echoed(&request);
            assert_eq!(
                MARK.reply(&reply),
                Some(ProbeReply {
                    from: v4(b),
                    sequence: 0x1234
                })
            );
            for other in [
                ProbeMark { id: 1, ..MARK },
                ProbeMark {
                    magic: [0; 8],
                    ..MARK
                },
            ] {
                assert_eq!(other.reply(&reply), None);
            }
            for cut in 0..reply.len() {
                assert_eq!(MARK.reply(&reply[..cut]), None);
            }
        }
        assert_eq!(MARK.request(v4("10.0.0.1"), v4("fd00::1"), 1), None);
    }
}
