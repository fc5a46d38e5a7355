//! Links: found, raised, lowered, sized, deleted, and their per-interface forwarding switch.
use super::wire::{u32_at, Message, Request};
use super::Netlink;
use crate::error::{Error, Result};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of ifinfomsg.
pub(super) const IFINFO: usize = 16;

/// IFLA_TUN_TYPE of include/uapi/linux/if_link.h, and its value for TUN as opposed to TAP.
const IFLA_TUN_TYPE: u16 = 3;
const TUN_TYPE_TUN: u8 = 1;
/// IFLA_INET_CONF, and IPV4_DEVCONF_FORWARDING inside it (include/uapi/linux/{if_link,ip}.h).
const IFLA_INET_CONF: u16 = 1;
const DEVCONF_FORWARDING: u16 = 1;

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace for its lifetime.
    pub index: u32,
    /// Its name, which can change.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Packets the link itself queues (txqueuelen).
    pub queue_len: u32,
    /// The driver's name (`tun`, `veth`, `wireguard`, …); empty for a physical one.
    pub kind: String,
    /// It is a TUN (and not a TAP) device.
    pub is_tun: bool,
    /// Whether IPv4 is forwarded from it, when the kernel says.
    pub forwarding_v4: Option<bool>,
}

impl Netlink {
    /// The link called `name`, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let request =
            Request::new(libc::RTM_GETLINK, 0, &[0; IFINFO]).name(libc::IFLA_IFNAME, name);
        self.one_link(request, &format!("look up link {name}"))
    }

    /// The link of that number, if there is one.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        let request = Request::new(libc::RTM_GETLINK, 0, &ifinfo(index, 0, 0));
        self.one_link(request, &format!("look up link {index}"))
    }

    fn one_link(&self, mut request: Request, what: &str) -> Result<Option<Link>> {
        let mut found = None;
        let each = &mut |m: Message<'_>| found = found.take().or_else(|| parse(m));
        match self.ask(&mut request, what, each) {
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
            Ok(_) => Ok(found),
        }
    }

    /// All links of the namespace.
    pub fn links(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; IFINFO]);
        self.dump(request, "list links", &mut |m| match m {
            None => links.clear(),
            Some(m) => links.extend(parse(m)),
        })?;
        Ok(links)
    }

    /// Raises or lowers a link.
    pub fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let mask = libc::IFF_UP as u32;
        let request = Request::new(
            libc::RTM_NEWLINK,
            0,
            &ifinfo(index, if up { mask } else { 0 }, mask),
        );
        self.change(
            request,
            if up {
                "bring the link up"
            } else {
                "take the link down"
            },
        )
    }

    /// Sets the largest packet in bytes. Below 1280 the kernel deletes the link's IPv6 addresses for good.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        let request =
            Request::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).u32(libc::IFLA_MTU, mtu);
        self.change(request, &format!("set the MTU to {mtu}"))
    }

    /// Sets how many packets the link itself queues while nobody reads it.
    pub fn set_queue_len(&self, index: u32, packets: u32) -> Result<()> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
            .u32(libc::IFLA_TXQLEN, packets);
        self.change(request, &format!("set the queue length to {packets}"))
    }

    /// Deletes a link.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        self.change(
            Request::new(libc::RTM_DELLINK, 0, &ifinfo(index, 0, 0)),
            "delete the link",
        )
    }

    /// Moves a link into another network namespace (CAP_NET_ADMIN there too). Addresses and routes are lost on the way.
    pub fn move_link(&self, index: u32, namespace: BorrowedFd<'_>) -> Result<()> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
            .u32(libc::IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
        self.change(request, "move the link to another namespace")
    }

    /// Turns IPv4 forwarding from this one link on or off (net.ipv4.conf.NAME.forwarding, without writing to /proc).
    pub fn set_forwarding_v4(&self, index: u32, on: bool) -> Result<()> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(
            libc::IFLA_AF_SPEC,
            |r| {
                r.nest(libc::AF_INET as u16, |r| {
                    r.nest(IFLA_INET_CONF, |r| r.u32(DEVCONF_FORWARDING, u32::from(on)))
                })
            },
        );
        self.change(request, "switch IPv4 forwarding")
    }

    /// The link of that number, or an error that says it is gone.
    pub fn require_link(&self, index: u32) -> Result<Link> {
        let gone = || {
            Error::new(
                format!("look up link {index}"),
                io::Error::from_raw_os_error(libc::ENODEV),
            )
        };
        self.link_by_index(index)?.ok_or_else(gone)
    }
}

/// ifinfomsg: family, type, index, flags, change mask.
fn ifinfo(index: u32, flags: u32, mask: u32) -> [u8; IFINFO] {
    let mut bytes = [0; IFINFO];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&mask.to_ne_bytes());
    bytes
}

/// Reads RTM_NEWLINK and RTM_DELLINK.
pub(super) fn parse(message: Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK && message.kind != libc::RTM_DELLINK {
        return None;
    }
    let (fixed, attrs) = message.split(IFINFO)?;
    let info = attrs.nested(libc::IFLA_LINKINFO);
    let kind = info
        .and_then(|i| i.name(libc::IFLA_INFO_KIND))
        .unwrap_or_default();
    let tun_type = info
        .and_then(|i| i.nested(libc::IFLA_INFO_DATA))
        .and_then(|d| d.get(IFLA_TUN_TYPE));
    // The kernel writes the IPv4 settings as an array that starts with the first: forwarding.
    let conf = attrs
        .nested(libc::IFLA_AF_SPEC)
        .and_then(|a| a.nested(libc::AF_INET as u16));
    let conf = conf
        .and_then(|a| a.get(IFLA_INET_CONF))
        .and_then(|c| u32_at(c, 0));
    Some(Link {
        index: u32_at(fixed, 4)?,
        name: attrs.name(libc::IFLA_IFNAME)?.to_owned(),
        mtu: attrs.u32(libc::IFLA_MTU).unwrap_or(0),
        up: u32_at(fixed, 8)? & libc::IFF_UP as u32 != 0,
        queue_len: attrs.u32(libc::IFLA_TXQLEN).unwrap_or(0),
        kind: kind.to_owned(),
        is_tun: kind == "tun" && tun_type == Some(&[TUN_TYPE_TUN]),
        forwarding_v4: conf.map(|v| v != 0),
    })
}
