//! What comes out of a host by a link: a tap at the other end of it, and a judge who knows the written list of exemptions
//! and nothing of how they are kept.
use super::scene::on;
use crate::common::Host;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A tap (AF_PACKET) on a link.
pub struct Tap(OwnedFd);

impl Tap {
    /// Taps the link `name` of `host`.
    pub fn new(host: &Host, name: &str) -> Self {
        let path = format!("/sys/class/net/{name}/ifindex");
        let index: i32 = host
            .sh(&format!(
                "cat {path} 2>/dev/null || ip -o link show {name} | cut -d: -f1"
            ))
            .trim()
            .parse()
            .unwrap();
        on(host, || {
            let every = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: no pointers are passed.
            let fd = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_NONBLOCK,
                    i32::from(every),
                )
            };
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: the descriptor is new and nobody else's; the structure is one of integers.
            let (fd, mut at) = unsafe {
                (
                    OwnedFd::from_raw_fd(fd),
                    std::mem::zeroed::<libc::sockaddr_ll>(),
                )
            };
            at.sll_family = libc::AF_PACKET as u16;
            at.sll_protocol = every;
            at.sll_ifindex = index;
            let room = 64i32 << 20;
            // SAFETY: the pointer and length describe `room`.
            let done = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    (&raw const room).cast(),
                    4,
                )
            };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            let len = std::mem::size_of_val(&at) as u32;
            // SAFETY: the address is live and of the length passed.
            let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const at).cast(), len) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            Self(fd)
        })
    }

    /// How many frames there was no room for since last asked (packet(7), PACKET_STATISTICS).
    pub fn lost(&self) -> u32 {
        let mut counts = [0u32; 2];
        let mut len = std::mem::size_of_val(&counts) as u32;
        // SAFETY: the pointers describe live, exclusively borrowed values.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        counts[1]
    }

    /// The frames that came in by the link until it was silent for a moment.
    pub fn frames(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut silent_since = Instant::now();
        while silent_since.elapsed() < Duration::from_millis(150) {
            match self.next() {
                Some(frame) => {
                    frames.extend(frame);
                    silent_since = Instant::now();
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        frames
    }

    /// `Some(None)`: one that went out by the link.
    fn next(&self) -> Option<Option<Frame>> {
        let mut bytes = [0u8; 2048];
        // SAFETY: the structure is one of integers.
        let mut from = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
        let mut len = std::mem::size_of_val(&from) as u32;
        // SAFETY: pointers and lengths describe live, exclusively borrowed values.
        let n = unsafe {
            let at = (&raw mut from).cast();
            libc::recvfrom(
                self.0.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
                at,
                &raw mut len,
            )
        };
        let n = usize::try_from(n).ok()?;
        Some((from.sll_pkttype != libc::PACKET_OUTGOING).then(|| Frame::read(&bytes[..n])))
    }
}

/// A frame, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// No IP: ARP.
    Arp,
    /// IP.
    Packet {
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        hop_limit: u8,
        /// The first 16 bytes behind the IP header.
        inner: Vec<u8>,
        /// The text that our senders put in.
        text: String,
    },
    /// Something that no exemption knows.
    Strange(u16),
}

impl Frame {
    fn read(bytes: &[u8]) -> Self {
        let kind = u16::from_be_bytes([bytes[12], bytes[13]]);
        let ip = &bytes[14..];
        let (from, to, mut protocol, hop_limit, mut at): (IpAddr, IpAddr, u8, u8, usize) =
            match kind {
                0x0806 => return Self::Arp,
                0x0800 => {
                    let at = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).unwrap();
                    (
                        Ipv4Addr::from(at(12)).into(),
                        Ipv4Addr::from(at(16)).into(),
                        ip[9],
                        ip[8],
                        usize::from(ip[0] & 15) * 4,
                    )
                }
                0x86dd => {
                    let at =
                        |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
                    (at(8).into(), at(24).into(), ip[6], ip[7], 40)
                }
                other => return Self::Strange(other),
            };
        // Listener reports have a hop-by-hop header with a router alert (RFC 2711).
        if protocol == 0 && kind == 0x86dd {
            protocol = ip[at];
            at += 8;
        }
        let inner = ip[at..].to_vec();
        let text = String::from_utf8_lossy(&inner)
            .chars()
            .filter(char::is_ascii_graphic)
            .collect();
        Self::Packet {
            from,
            to,
            protocol,
            hop_limit,
            inner: inner.into_iter().take(64).collect(),
            text,
        }
    }

    /// Source and destination port.
    fn ports(&self) -> Option<(u16, u16)> {
        let Self::Packet {
            protocol: 6 | 17,
            inner,
            ..
        } = self
        else {
            return None;
        };
        Some((
            u16::from_be_bytes([inner[0], inner[1]]),
            u16::from_be_bytes([inner[2], inner[3]]),
        ))
    }

    /// Whether it is the kernel's word that nobody listens at the tunnel's port, about a datagram that came to it.
    #[allow(dead_code)] // of the tests that share this file only those of some users' way need it
    pub fn says_tunnel_is_closed(&self, tunnel: u16) -> bool {
        let Self::Packet {
            protocol, inner, ..
        } = self
        else {
            return false;
        };
        // Behind eight bytes, the packet that it is about: protocol at 9 (IPv6: 6), ports behind 20 bytes (IPv6: 40).
        let (udp, ports) = match (protocol, inner.get(..2)) {
            (1, Some([3, 3])) => (8 + 9, 8 + 20),
            (58, Some([1, 4])) => (8 + 6, 8 + 40),
            _ => return false,
        };
        inner.get(udp) == Some(&17)
            && inner.get(ports + 2..ports + 4) == Some(&tunnel.to_be_bytes())
    }

    /// Whether the written list of exemptions has it: the tunnel itself, DHCP, ARP and neighbour discovery, and the private
    /// LAN without DNS.
    pub fn is_exempt(&self, tunnel: u16) -> bool {
        let Self::Packet {
            to,
            protocol,
            hop_limit,
            inner,
            ..
        } = self
        else {
            return *self == Self::Arp;
        };
        match (protocol, self.ports()) {
            (17, Some((from, _))) if from == tunnel => return true,
            (17, Some((68, 67) | (546, 547))) => return true,
            (_, Some((_, 53 | 853))) => return false,
            (58, _) if (133..=136).contains(&inner[0]) => return *hop_limit == 255,
            (58, _) if inner[0] == 143 => return *hop_limit == 1,
            _ => {}
        }
        match to {
            IpAddr::V4(to) => {
                to.octets()[..3] == [192, 168, 77] || to.is_multicast() || to.is_broadcast()
            }
            IpAddr::V6(to) => to.is_unicast_link_local() || to.is_multicast(),
        }
    }
}
