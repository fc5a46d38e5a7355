//! The virtio-net header in front of every packet on the TUN.
//!
//! Source: include/uapi/linux/virtio_net.h (struct virtio_net_hdr); fields are in host byte order on a TUN.

/// Its length in bytes.
pub const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// What kind of super-packet follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// A plain packet.
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, cut into datagrams (USO).
    Udp,
}

/// The header's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    /// The super-packet's kind.
    pub gso: Gso,
    /// Payload bytes of each segment but the last; 0 for a plain packet.
    pub gso_size: u16,
    /// Length of all headers in bytes; a hint.
    pub header_len: u16,
    /// Where the unfinished checksum's range starts, and where in it the field lies; `None` when it is finished.
    pub checksum: Option<(u16, u16)>,
}

impl VnetHeader {
    /// A plain packet with a finished checksum.
    pub const PLAIN: Self = Self {
        gso: Gso::None,
        gso_size: 0,
        header_len: 0,
        checksum: None,
    };

    /// Reads the header; `None` for a kind that was never agreed to (UFO, or TCP with the ECN flag).
    pub fn read(bytes: &[u8; VNET_LEN]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] {
            0 => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
        Some(Self {
            gso,
            gso_size: word(4),
            header_len: word(2),
            checksum,
        })
    }

    /// Writes the header.
    pub fn write(&self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        if let Some((start, offset)) = self.checksum {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        bytes
    }
}
