//! The link as the kernel has it: carries out steps that concern it and says what is so, by rtnetlink alone.
//!
//! Adding what is there and removing what isn't are no errors, so that a step can be repeated. What it does not do:
//! decide anything, or touch a link other than ours (one exception: IPv4 forwarding of the links that lead to a site network
//! or to the internet, see [`NetDev::forward`] and [`NetDev::forward_exit`]).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;

use meshd_os::netlink::{IfAddress, Link, Netlink, Route as KernelRoute, PROTO_KERNEL};
use meshd_os::{Error, Result};

use crate::conf::Cidr;
use crate::forwarding::{self, Forwarding, Need};
use crate::paths;
use crate::put::{Put, Route};

/// How the kernel says that IPv6 is turned off on a link (net/ipv6/addrconf.c, route.c).
const IPV6_OFF: [i32; 3] = [libc::EACCES, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];

/// Our link.
pub struct NetDev {
    /// Where the link is.
    netlink: Netlink,
    /// Where the sockets are, if that is elsewhere.
    outside: Option<Netlink>,
    index: u32,
    /// What could not be set because IPv6 is turned off; counted as there, so that it isn't tried again and again.
    addresses_without_ipv6: BTreeSet<Cidr>,
    /// The same, routes.
    routes_without_ipv6: BTreeSet<Route>,
    forwarding: Forwarding,
}

/// What the kernel says about the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Bytes.
    pub mtu: u16,
    /// Administratively up.
    pub up: bool,
    /// Without link-local ones.
    pub addresses: BTreeSet<Cidr>,
    /// Without the kernel's own, link-local and multicast ones.
    pub routes: BTreeSet<Route>,
}

impl NetDev {
    /// The link called `name`, here.
    pub fn find(name: &str) -> Result<Self> {
        Self::at(name, Netlink::open()?, None)
    }

    /// The link called `name` in the namespace of `netlink`, whose sockets stay here.
    pub fn find_there(name: &str, netlink: Netlink) -> Result<Self> {
        Self::at(name, netlink, Some(Netlink::open()?))
    }

    fn at(name: &str, netlink: Netlink, outside: Option<Netlink>) -> Result<Self> {
        let link = netlink.link(name)?.ok_or_else(|| {
            Error::new(
                format!("look up link {name}"),
                std::io::Error::from(ErrorKind::NotFound),
            )
        })?;
        let forwarding = Forwarding::open(paths::forward_record(name), &netlink);
        Ok(Self {
            netlink,
            outside,
            index: link.index,
            addresses_without_ipv6: BTreeSet::new(),
            routes_without_ipv6: BTreeSet::new(),
            forwarding,
        })
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The link itself; `None` once it was deleted or moved away.
    pub fn link(&self) -> Result<Option<Link>> {
        self.netlink.link_by_index(self.index)
    }

    /// Whether the host has IPv6 turned off for this link, so that its IPv6 addresses and routes are not set.
    pub fn lacks_ipv6(&self) -> bool {
        !self.addresses_without_ipv6.is_empty() || !self.routes_without_ipv6.is_empty()
    }

    /// What is so, with the routes of `tables`.
    pub fn observe(&self, tables: &[u32]) -> Result<Observed> {
        let link = self.netlink.require_link(self.index)?;
        let mut addresses: BTreeSet<Cidr> = self
            .netlink
            .addresses(self.index)?
            .into_iter()
            .map(|a| Cidr {
                addr: a.ip,
                prefix: a.prefix,
            })
            .filter(|cidr| !is_local(cidr.addr))
            .collect();
        addresses.extend(&self.addresses_without_ipv6);
        let mut routes = BTreeSet::new();
        for &table in tables {
            let found = self.netlink.routes(self.index, Some(table))?;
            let ours = found
                .iter()
                .filter(|r| r.protocol != PROTO_KERNEL && !is_local(r.network));
            routes.extend(ours.map(|r| Route {
                table,
                network: Cidr {
                    addr: r.network,
                    prefix: r.prefix,
                },
            }));
        }
        let lacking = self.routes_without_ipv6.iter();
        routes.extend(lacking.filter(|route| tables.contains(&route.table)));
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        Ok(Observed {
            mtu,
            up: link.up,
            addresses,
            routes,
        })
    }

    /// Adds or removes an address.
    pub fn address(&mut self, put: Put, cidr: Cidr) -> Result<()> {
        let address = IfAddress {
            ip: cidr.addr,
            prefix: cidr.prefix,
        };
        let result = match put {
            Put::Add => self.netlink.add_address(self.index, address),
            Put::Remove => self.netlink.delete_address(self.index, address),
        };
        let lacking = &mut self.addresses_without_ipv6;
        tolerate(put, cidr.addr, cidr, lacking, result)
    }

    /// Adds or removes a route.
    pub fn route(&mut self, put: Put, route: Route) -> Result<()> {
        let Cidr { addr, prefix } = route.network;
        let wanted = KernelRoute::new(addr, prefix, self.index, route.table);
        let result = match put {
            Put::Add => self.netlink.add_route(&wanted),
            Put::Remove => self.netlink.delete_route(&wanted),
        };
        let lacking = &mut self.routes_without_ipv6;
        tolerate(put, route.network.addr, route, lacking, result)
    }

    /// Sets the MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.netlink.set_mtu(self.index, u32::from(mtu))
    }

    /// Sets the link up or down.
    pub fn set_up(&self, up: bool) -> Result<()> {
        self.netlink.set_up(self.index, up)
    }

    /// Lets the kernel forward IPv4 between this link and the one that leads to `network`, or stops doing so. Forwarding
    /// that was on before is left on.
    pub fn forward(&mut self, put: Put, network: Cidr) -> Result<()> {
        if !network.addr.is_ipv4() {
            return Ok(());
        }
        match put {
            Put::Add => {
                self.forward_site(network)?;
            }
            Put::Remove => {
                let links = self.forwarding.release(Need::Site(network));
                self.stop_forwarding(links)?;
            }
        }
        Ok(())
    }

    /// Turns forwarding for a site network on again where it is off by now, and says whether it was.
    pub fn forward_site(&mut self, network: Cidr) -> Result<bool> {
        if !network.addr.is_ipv4() {
            return Ok(false);
        }
        let towards = self.link_towards(network)?;
        let mut was_off = false;
        for index in [Some(self.index), towards].into_iter().flatten() {
            let link = self.netlink.require_link(index)?;
            if self.forwarding.need(Need::Site(network), &link) {
                self.netlink.set_forwarding_v4(index, true)?;
                was_off = true;
            }
        }
        Ok(was_off)
    }

    /// Lets the kernel forward IPv4 between this link and `links`, and no others as far as an exit is concerned; none: there
    /// is no exit.
    pub fn forward_exit(&mut self, links: &BTreeSet<u32>) -> Result<()> {
        let mut needed = links.clone();
        if !needed.is_empty() {
            needed.insert(self.index);
        }
        // First those to come, so that one which stays is never off.
        let mut turned = Vec::new();
        let unneeded = self.forwarding.release(Need::Exit);
        for index in needed {
            // One that is gone leaves by no default route any more; that is told in a moment.
            let Some(link) = self.netlink.link_by_index(index)? else {
                continue;
            };
            if self.forwarding.need(Need::Exit, &link) {
                self.netlink.set_forwarding_v4(index, true)?;
            }
            turned.push(index);
        }
        let unneeded = unneeded.into_iter().filter(|index| !turned.contains(index));
        self.stop_forwarding(unneeded.collect())
    }

    /// Whether IPv4 is forwarded from this link.
    pub fn forwards(&self) -> bool {
        let link = self.link().ok().flatten();
        link.is_some_and(|link| link.forwarding_v4 == Some(true))
    }

    /// Turns off what a predecessor turned on and nothing needs any more.
    pub fn settle_forwarding(&mut self) -> Result<()> {
        self.stop_forwarding(self.forwarding.unneeded())
    }

    fn stop_forwarding(&mut self, links: Vec<u32>) -> Result<()> {
        for index in links {
            // A link that is gone has taken its switch along.
            if self.netlink.link_by_index(index)?.is_some() && !forwarding::is_everywhere() {
                self.netlink.set_forwarding_v4(index, false)?;
            }
            self.forwarding.off(index);
        }
        Ok(())
    }

    /// The link that leads to an IPv4 network. One of its addresses may be our own, and leads to the loopback.
    fn link_towards(&self, network: Cidr) -> Result<Option<u32>> {
        for host in first_hosts(network) {
            let way = self.netlink.route_to(host, 0)?;
            if let Some(way) = way.filter(|way| way.ifindex != LOOPBACK) {
                return Ok(Some(way.ifindex));
            }
        }
        Ok(None)
    }

    /// Whether packets to `to` with this mark, from an address of the link `by`, leave by another link now. An address that
    /// is another link's, the loopback's say, is reached and sent from by any.
    pub fn leaves_elsewhere(&self, from: IpAddr, by: u32, to: IpAddr, mark: u32) -> Result<bool> {
        let netlink = self.outside.as_ref().unwrap_or(&self.netlink);
        let way = netlink.route_from(Some(from), to, mark)?;
        Ok(way.is_some_and(|way| way.ifindex != by)
            && netlink.addresses(by)?.iter().any(|own| own.ip == from))
    }

    /// The largest packet that goes unfragmented to `to` with this mark, in bytes, as far as this host knows; `None`
    /// when there is no way, or the way is through this link itself.
    pub fn mtu_towards(&self, to: IpAddr, mark: u32) -> Result<Option<u32>> {
        let netlink = self.outside.as_ref().unwrap_or(&self.netlink);
        let Some(way) = netlink.route_to(to, mark)? else {
            return Ok(None);
        };
        if way.ifindex == self.index && self.outside.is_none() {
            return Ok(None);
        }
        match way.mtu {
            Some(mtu) => Ok(Some(mtu)),
            None => Ok(netlink.link_by_index(way.ifindex)?.map(|link| link.mtu)),
        }
    }
}

/// What is there already, or gone already, is as wanted; so is IPv6 on a host without it, which is noted in `lacking`.
fn tolerate<T: Ord>(
    put: Put,
    addr: IpAddr,
    item: T,
    lacking: &mut BTreeSet<T>,
    result: Result<()>,
) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let errno = error.errno().unwrap_or_default();
    match put {
        Put::Add if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Put::Add if addr.is_ipv6() && IPV6_OFF.contains(&errno) => {
            lacking.insert(item);
            Ok(())
        }
        Put::Remove if lacking.remove(&item) => Ok(()),
        Put::Remove if error.kind() == ErrorKind::AddrNotAvailable || errno == libc::ESRCH => {
            Ok(())
        }
        _ => Err(error),
    }
}

/// Link-local and multicast: the kernel's own business.
fn is_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

/// Number of the loopback link in every network namespace (include/net/net_namespace.h, LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// The first few addresses of an IPv4 network that hosts can have.
fn first_hosts(network: Cidr) -> impl Iterator<Item = IpAddr> {
    let first = match network.addr {
        IpAddr::V4(v4) if network.prefix < 31 => u32::from(v4) + 1,
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(_) => 0,
    };
    let hosts = 1u32
        .checked_shl(32 - u32::from(network.prefix))
        .unwrap_or(u32::MAX)
        .min(4);
    (first..first.saturating_add(hosts)).map(|host| IpAddr::V4(host.into()))
}
