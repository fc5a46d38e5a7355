//! Addresses of a link: listed, added, taken away.
use super::wire::{u32_at, Message, Request};
use super::Netlink;
use crate::error::Result;
use std::net::IpAddr;

/// Bytes of ifaddrmsg.
const IFADDR: usize = 8;

/// An address of a link with the length of its on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfAddress {
    /// The address itself, host bits included.
    pub ip: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl Netlink {
    /// The link's addresses of both families, those the kernel made by itself (link-local) included.
    pub fn addresses(&self, index: u32) -> Result<Vec<IfAddress>> {
        let mut addresses = Vec::new();
        let mut body = [0; IFADDR];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body);
        self.dump(request, "list addresses", &mut |m| match m {
            None => addresses.clear(),
            // Kernels before 4.20 dump all links.
            Some(m) => addresses.extend(
                parse(m)
                    .filter(|(of, _)| *of == index)
                    .map(|(_, address)| address),
            ),
        })?;
        Ok(addresses)
    }

    /// Adds an address. `AlreadyExists` when it is there. IPv6 addresses are usable at once: a tunnel has no neighbours to ask
    /// about duplicates.
    pub fn add_address(&self, index: u32, address: IfAddress) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let what = format!("add address {}/{}", address.ip, address.prefix);
        self.change(request(libc::RTM_NEWADDR, flags, index, address), &what)
    }

    /// Takes an address away. `AddrNotAvailable` when it isn't there.
    pub fn delete_address(&self, index: u32, address: IfAddress) -> Result<()> {
        let what = format!("delete address {}/{}", address.ip, address.prefix);
        self.change(request(libc::RTM_DELADDR, 0, index, address), &what)
    }
}

fn request(kind: u16, flags: i32, index: u32, address: IfAddress) -> Request {
    let family = if address.ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let nodad = if address.ip.is_ipv4() {
        0
    } else {
        libc::IFA_F_NODAD as u8
    };
    let mut body = [
        family as u8,
        address.prefix,
        nodad,
        libc::RT_SCOPE_UNIVERSE,
        0,
        0,
        0,
        0,
    ];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(kind, flags, &body)
        .ip(libc::IFA_LOCAL, address.ip)
        .ip(libc::IFA_ADDRESS, address.ip)
}

pub(super) fn parse(message: Message<'_>) -> Option<(u32, IfAddress)> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let (fixed, attrs) = message.split(IFADDR)?;
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let ip = attrs
        .ip(libc::IFA_LOCAL)
        .or_else(|| attrs.ip(libc::IFA_ADDRESS))?;
    Some((
        u32_at(fixed, 4)?,
        IfAddress {
            ip,
            prefix: fixed[1],
        },
    ))
}
