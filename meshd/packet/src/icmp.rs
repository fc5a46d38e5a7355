//! ICMP errors about packets that can't go on: no peer for them, or no hop left.
//!
//! Strategy: built into a fixed buffer, at a bounded rate, and never about what RFC 1122 §3.2.2 and RFC 4443 §2.4(e) forbid:
//! errors themselves, later fragments, packets from or to more than one host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use meshd_os::checksum;
use meshd_os::offload::{Headers, ICMP, ICMPV6};
use meshd_proto::Time;

/// The longest error: IPv6's least MTU (RFC 4443 §2.4(c)).
pub(super) const MAX_LEN: usize = 1280;
/// An ICMPv4 error holds no more (RFC 1812 §4.3.2.3).
const MAX_LEN_V4: usize = 576;
const HOPS: u8 = 64;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No peer has the destination, or nobody knows where it is; the kernel says the same (drivers/net/wireguard/device.c
    /// `wg_xmit`).
    Unreachable,
    /// The packet has no hop left.
    HopsExceeded,
    /// The path takes no more than so many bytes.
    TooBig(u16),
}

impl Trouble {
    /// Type, code, checksum to be filled in, and the rest of the header (RFC 792, RFC 1191 section 4).
    fn v4(self) -> [u8; 8] {
        match self {
            Self::Unreachable => [3, 1, 0, 0, 0, 0, 0, 0],
            Self::HopsExceeded => [11, 0, 0, 0, 0, 0, 0, 0],
            Self::TooBig(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
        }
    }

    /// The same (RFC 4443 sections 3.1 to 3.3).
    fn v6(self) -> [u8; 8] {
        match self {
            Self::Unreachable => [1, 3, 0, 0, 0, 0, 0, 0],
            Self::HopsExceeded => [3, 0, 0, 0, 0, 0, 0, 0],
            Self::TooBig(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                [2, 0, 0, 0, 0, 0, high, low]
            }
        }
    }
}

/// Writes the error about `packet` into `out` and gives its length. It comes from `from`, or else from the packet's own
/// destination. `None` when there must be none.
pub(super) fn error(
    trouble: Trouble,
    packet: &[u8],
    from: Option<IpAddr>,
    out: &mut [u8; MAX_LEN],
) -> Option<usize> {
    let headers = Headers::read(packet)?;
    if headers.fragment && !first_fragment(packet, &headers) || is_error(packet, &headers) {
        return None;
    }
    match (headers.ipv4, from) {
        (true, from) => {
            let (source, destination) = (v4_at(packet, 12)?, v4_at(packet, 16)?);
            let from = match from {
                Some(IpAddr::V4(from)) => from,
                _ => destination,
            };
            (one_host_v4(source) && one_host_v4(destination))
                .then(|| write_v4(trouble.v4(), packet, from, source, out))
        }
        (false, from) => {
            let (source, destination) = (v6_at(packet, 8)?, v6_at(packet, 24)?);
            let from = match from {
                Some(IpAddr::V6(from)) => from,
                _ => destination,
            };
            (one_host_v6(source) && one_host_v6(destination))
                .then(|| write_v6(trouble.v6(), packet, from, source, out))
        }
    }
}

fn write_v4(
    header: [u8; 8],
    packet: &[u8],
    from: Ipv4Addr,
    to: Ipv4Addr,
    out: &mut [u8; MAX_LEN],
) -> usize {
    let quoted = packet.len().min(MAX_LEN_V4 - 28);
    let len = 28 + quoted;
    let out = &mut out[..len];
    out[..12].copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, ICMP, 0, 0]);
    out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    out[12..16].copy_from_slice(&from.octets());
    out[16..20].copy_from_slice(&to.octets());
    checksum::fill_ipv4(&mut out[..20]);
    out[20..28].copy_from_slice(&header);
    out[28..].copy_from_slice(&packet[..quoted]);
    let check = checksum::finish(checksum::sum(&out[20..]));
    out[22..24].copy_from_slice(&check);
    len
}

fn write_v6(
    header: [u8; 8],
    packet: &[u8],
    from: Ipv6Addr,
    to: Ipv6Addr,
    out: &mut [u8; MAX_LEN],
) -> usize {
    let quoted = packet.len().min(MAX_LEN - 48);
    let len = 48 + quoted;
    let out = &mut out[..len];
    out[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, ICMPV6, HOPS]);
    out[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    out[8..24].copy_from_slice(&from.octets());
    out[24..40].copy_from_slice(&to.octets());
    out[40..48].copy_from_slice(&header);
    out[48..].copy_from_slice(&packet[..quoted]);
    let acc = checksum::pseudo(&out[8..40], ICMPV6, len - 40) + checksum::sum(&out[40..]);
    out[42..44].copy_from_slice(&checksum::finish(acc));
    len
}

fn first_fragment(packet: &[u8], headers: &Headers) -> bool {
    // Of a later IPv6 fragment the upper protocol is not known: it is left at "fragment".
    if headers.ipv4 {
        packet[6] & 0x1f == 0 && packet[7] == 0
    } else {
        headers.protocol != 44
    }
}

fn is_error(packet: &[u8], headers: &Headers) -> bool {
    let kind = packet.get(headers.upper).copied();
    match (headers.ipv4, headers.protocol) {
        // Anything but queries and their answers; a header cut short counts as an error.
        (true, ICMP) => !matches!(kind, Some(0 | 8 | 13 | 14)),
        (false, ICMPV6) => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

fn one_host_v4(ip: Ipv4Addr) -> bool {
    !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified() && !ip.is_loopback()
}

fn one_host_v6(ip: Ipv6Addr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback()
}

fn v4_at(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn v6_at(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// Lets through a burst, then so many a second (a token bucket).
#[derive(Debug)]
pub(super) struct Pace {
    tokens: u32,
    since: Time,
}

impl Pace {
    const BURST: u32 = 50;
    const INTERVAL_NS: u64 = 20_000_000;

    /// A full bucket.
    pub const fn new() -> Self {
        Self {
            tokens: Self::BURST,
            since: Time(0),
        }
    }

    /// Whether one more may go now.
    pub fn allows(&mut self, now: Time) -> bool {
        let earned = now.since(self.since).as_nanos() as u64 / Self::INTERVAL_NS;
        if earned > 0 {
            self.tokens = Self::BURST.min(
                self.tokens
                    .saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)),
            );
            self.since = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 9, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9,
        ];
        packet.extend(payload);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 9];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        packet.extend(payload);
        packet
    }

    fn made(trouble: Trouble, packet: &[u8], from: Option<&str>) -> Option<Vec<u8>> {
        let mut out = [0xaa; MAX_LEN];
        let len = error(trouble, packet, from.map(|f| f.parse().unwrap()), &mut out)?;
        Some(out[..len].to_vec())
    }

    #[test]
    fn says_what_is_wrong_about_which_packet() {
        let packet = v4(17, &[7; 600]);
        let got = made(Trouble::Unreachable, &packet, None).unwrap();
        assert_eq!(got.len(), 576);
        assert_eq!((got[20], got[21]), (3, 1));
        assert!(checksum::verifies(&got[..20], 0) && checksum::verifies(&got[20..], 0));
        assert_eq!(&got[12..20], &[10, 0, 0, 9, 10, 0, 0, 1]);
        assert_eq!(got[28..], packet[..548]);
        let got = made(Trouble::HopsExceeded, &packet, Some("10.0.0.5")).unwrap();
        assert_eq!((got[20], &got[12..16]), (11, &[10, 0, 0, 5][..]));

        let got = made(Trouble::TooBig(1296), &packet, None).unwrap();
        assert_eq!(got[20..28], [3, 4, got[22], got[23], 0, 0, 5, 16]);
        assert!(checksum::verifies(&got[20..], 0));

        let packet = v6(6, &[7; 100]);
        let got = made(Trouble::TooBig(1280), &packet, None).unwrap();
        assert_eq!(got[40..48], [2, 0, got[42], got[43], 0, 0, 5, 0]);
        let got = made(Trouble::Unreachable, &packet, None).unwrap();
        assert_eq!((got[40], got[41]), (1, 3));
        assert!(checksum::verifies(
            &got[40..],
            checksum::pseudo(&got[8..40], ICMPV6, got.len() - 40)
        ));
        assert_eq!(got[48..], packet);
        assert_eq!(got[24..40], packet[8..24]);
        assert_eq!(
            made(Trouble::HopsExceeded, &packet, Some("fd00::5")).unwrap()[40],
            3
        );
    }

    #[test]
    fn stays_silent_where_it_must() {
        let silent = |packet: Vec<u8>| {
            assert_eq!(
                made(Trouble::Unreachable, &packet, None),
                None,
                "{packet:?}"
            )
        };
        silent(v4(ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]));
        silent(v4(ICMP, &[]));
        silent(v6(ICMPV6, &[1, 3, 0, 0, 0, 0, 0, 0]));
        assert!(
            made(Trouble::Unreachable, &v4(ICMP, &[8, 0]), None).is_some(),
            "echo requests are answered"
        );
        assert!(made(Trouble::Unreachable, &v6(ICMPV6, &[128, 0]), None).is_some());
        let mut fragment = v4(17, &[0; 8]);
        fragment[7] = 1;
        silent(fragment.clone());
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(
            made(Trouble::Unreachable, &fragment, None).is_some(),
            "the first fragment is answered"
        );
        for (at, octet) in [(16, 224), (12, 224), (16, 255)] {
            let mut packet = v4(17, &[0; 8]);
            packet[at..at + 4].fill(octet);
            silent(packet);
        }
        for at in [8, 24] {
            let mut packet = v6(17, &[0; 8]);
            packet[at] = 0xff;
            silent(packet);
        }
        let mut unspecified = v6(17, &[0; 8]);
        unspecified[8..24].fill(0);
        silent(unspecified);
        silent(vec![]);
        silent(vec![0x45; 10]);
    }

    #[test]
    fn the_rate_is_bounded() {
        let mut pace = Pace::new();
        let second = 1_000_000_000;
        assert_eq!((0..1000).filter(|_| pace.allows(Time(second))).count(), 50);
        assert_eq!(
            (0..1000).filter(|_| pace.allows(Time(2 * second))).count(),
            50
        );
        assert_eq!(
            (0..1000)
                .filter(|_| pace.allows(Time(2 * second + second / 10)))
                .count(),
            5
        );
    }
}
