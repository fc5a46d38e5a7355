//! Where the IP header ends and what comes behind it.
//!
//! Source: RFC 791, RFC 8200 §4 (extension headers), RFC 4302 (AH's length).

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What an IP packet is, as far as its headers are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IPv4 and not IPv6.
    pub ipv4: bool,
    /// Where the upper protocol's header starts.
    pub upper: usize,
    /// The upper protocol's number (that of an unknown extension header when one is in the way).
    pub protocol: u8,
    /// It is a fragment: of the first one `upper` is right, of the others nothing is known behind the IP header.
    pub fragment: bool,
    /// Nothing lies between the fixed IP header and the upper one: no options, no extension headers.
    pub plain: bool,
}

impl Headers {
    /// Reads the headers of `packet`, which is exactly one IP packet (see [`packet_len`]). `None` when they are broken.
    pub fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &[u8]) -> Option<Self> {
        let header = packet.get(..20)?;
        let upper = usize::from(header[0] & 15) * 4;
        if upper < 20 || upper > packet.len() {
            return None;
        }
        // More fragments, or an offset.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        Some(Self {
            ipv4: true,
            upper,
            protocol: header[9],
            fragment,
            plain: upper == 20,
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let mut protocol = *packet.get(6)?;
        let mut upper = 40;
        let mut fragment = false;
        if packet.len() < upper {
            return None;
        }
        // Every extension header is at least eight bytes: the walk ends with the packet.
        loop {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    (usize::from(*packet.get(upper + 1)?) + 1) * 8
                }
                AUTHENTICATION => (usize::from(*packet.get(upper + 1)?) + 2) * 4,
                FRAGMENT => {
                    fragment = true;
                    let offset =
                        u16::from_be_bytes([*packet.get(upper + 2)?, *packet.get(upper + 3)?]) >> 3;
                    if offset != 0 {
                        // The rest is the middle of something.
                        break;
                    }
                    8
                }
                _ => break,
            };
            protocol = *packet.get(upper)?;
            upper += len;
            if upper > packet.len() {
                return None;
            }
        }
        Some(Self {
            ipv4: false,
            upper,
            protocol,
            fragment,
            plain: upper == 40 && !fragment,
        })
    }

    /// Where source and destination address lie.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        if self.ipv4 {
            12..20
        } else {
            8..40
        }
    }
}

/// The length that an IP packet's own header gives, when that is at least its header and at most `bytes.len()`: what lies
/// behind is padding.
pub fn packet_len(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *bytes.get(at)?,
            *bytes.get(at + 1)?,
        ])))
    };
    let (len, least) = match bytes.first()? >> 4 {
        4 => (word(2)?, 20),
        6 => (word(4)? + 40, 40),
        _ => return None,
    };
    (least <= len && len <= bytes.len()).then_some(len)
}

/// A number that all packets of a flow share: of addresses, protocol and ports. Fragments have no ports, and broken packets
/// are all of one flow. Not meant to withstand those who look for collisions.
pub fn flow_hash(packet: &[u8]) -> u32 {
    let Some(headers) = Headers::read(packet) else {
        return 0;
    };
    let mut hash = u64::from(headers.protocol);
    let mut mix = |bytes: &[u8]| {
        for word in bytes.chunks_exact(4) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            // FNV's way with a wider word; 2^64 divided by the golden ratio spreads it.
            hash = (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
    };
    mix(&packet[headers.addresses()]);
    if matches!(headers.protocol, TCP | UDP) && !headers.fragment {
        mix(packet
            .get(headers.upper..headers.upper + 4)
            .unwrap_or_default());
    }
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(from: u8, port: u8, payload: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 29, payload, 0, 0, 0, 64, UDP, 0, 0];
        packet.extend([10, 0, 0, from, 10, 0, 0, 2]);
        packet.extend([port, 1, 0, 53, 0, 9, 0, 0, payload]);
        packet
    }

    #[test]
    fn a_flow_has_one_number_and_flows_rarely_share_one() {
        assert_eq!(flow_hash(&udp(1, 1, 1)), flow_hash(&udp(1, 1, 2)));
        let all = (0..=255).flat_map(|from| (0..=255).map(move |port| (from, port)));
        let mut low: Vec<_> = all
            .map(|(from, port)| flow_hash(&udp(from, port, 0)) % 256)
            .collect();
        low.sort_unstable();
        let largest = low.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
        assert!(largest < Some(400), "of 256 on average: {largest:?}");
    }

    #[test]
    fn what_has_no_ports_is_told_apart_by_its_addresses() {
        let mut fragments = [udp(1, 1, 0), udp(1, 2, 0), udp(3, 1, 0)];
        for packet in &mut fragments {
            packet[6] = 0x20;
        }
        let [a, b, c] = fragments.map(|packet| flow_hash(&packet));
        assert_eq!(a, b, "the ports of a fragment aren't looked at");
        assert_ne!(a, c);
        assert_eq!(flow_hash(&[]), flow_hash(&[0x45, 1]), "broken ones share");
    }
}
