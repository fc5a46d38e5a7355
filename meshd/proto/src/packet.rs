//! What the tunnel has to know of the packets it carries: version, length, source, destination (RFC 791, RFC 8200).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The fields of an inner packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole packet in bytes by its own header; at most what there is, the rest is padding.
    pub len: usize,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Reads the header of an inner packet. `None` unless it is IPv4 or IPv6, has a whole fixed header, and claims no
/// more bytes than there are.
#[inline]
pub fn header(packet: &[u8]) -> Option<Header> {
    match packet.first()? >> 4 {
        4 => {
            let fixed: &[u8; V4_HEADER] = packet.first_chunk()?;
            let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
            let header = Header {
                len,
                source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
                destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
            };
            (V4_HEADER..=packet.len()).contains(&len).then_some(header)
        }
        6 => {
            let fixed: &[u8; V6_HEADER] = packet.first_chunk()?;
            let len = V6_HEADER + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
            let (source, destination) = fixed[8..].split_first_chunk::<16>()?;
            let header = Header {
                len,
                source: IpAddr::V6(Ipv6Addr::from(*source)),
                destination: IpAddr::V6(Ipv6Addr::from(*destination.first_chunk::<16>()?)),
            };
            (len <= packet.len()).then_some(header)
        }
        _ => None,
    }
}

/// The destination of an inner packet, for the transmit side: its header may still be a super-packet's, so lengths
/// are not looked at. `None` unless it is IPv4 or IPv6 with a whole fixed header.
#[inline]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let fixed: &[u8; V4_HEADER] = packet.first_chunk()?;
            Some(IpAddr::V4(Ipv4Addr::new(
                fixed[16], fixed[17], fixed[18], fixed[19],
            )))
        }
        6 => {
            let fixed: &[u8; V6_HEADER] = packet.first_chunk()?;
            Some(IpAddr::V6(Ipv6Addr::from(*fixed.last_chunk::<16>()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(total: u16, room: usize) -> Vec<u8> {
        let mut packet = vec![0; room];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    fn v6(payload: u16, room: usize) -> Vec<u8> {
        let mut packet = vec![0; room];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet[23] = 1;
        packet[39] = 2;
        packet
    }

    #[test]
    fn lengths_are_checked_against_what_there_is() {
        for (packet, len) in [
            (v4(20, 32), Some(20)),
            (v4(32, 32), Some(32)),
            (v4(33, 32), None),
            (v4(19, 32), None),
            (v4(0, 32), None),
            (v6(0, 48), Some(40)),
            (v6(8, 48), Some(48)),
            (v6(9, 48), None),
        ] {
            assert_eq!(header(&packet).map(|header| header.len), len);
        }
        for cut in 0..40 {
            assert_eq!(header(&v6(0, 40)[..cut]), None);
            assert_eq!(destination(&v6(0, 40)[..cut]), None);
        }
        assert_eq!(header(&[]), None);
        assert_eq!(header(&[0x50; 64]), None);
    }

    #[test]
    fn addresses_are_read_in_their_order() {
        let read = header(&v4(20, 20)).unwrap();
        assert_eq!(
            (read.source, read.destination),
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        );
        let read = header(&v6(0, 40)).unwrap();
        assert_eq!(
            (read.source, read.destination),
            ("::1".parse().unwrap(), "::2".parse().unwrap())
        );
        assert_eq!(destination(&v6(0, 40)), Some(read.destination));
        assert_eq!(destination(&v4(0, 20)), Some([10, 0, 0, 2].into()));
    }
}
