//! Routes: listed, added, taken away, and asked for ("how would this go out?").
use super::wire::{Attrs, Message, Request};
use super::{Family, Netlink};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The metric that holds a route's MTU (include/uapi/linux/rtnetlink.h).
const RTAX_MTU: u16 = 2;
/// Bytes of rtmsg.
const RTMSG: usize = 12;

/// The main table.
pub const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// Made by the kernel itself (RTPROT_KERNEL): networkd leaves these alone.
pub const PROTO_KERNEL: u8 = libc::RTPROT_KERNEL;
/// Made at boot (RTPROT_BOOT), what `ip route add` writes.
pub const PROTO_BOOT: u8 = libc::RTPROT_BOOT;
/// Made by an administrator (RTPROT_STATIC).
pub const PROTO_STATIC: u8 = libc::RTPROT_STATIC;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it through a link.
    Unicast,
    /// Refuses it with ICMP unreachable.
    Unreachable,
    /// Anything else the kernel lists (local, broadcast, …), by its RTN_ number.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => libc::RTN_UNICAST,
            Self::Unreachable => libc::RTN_UNREACHABLE,
            Self::Other(n) => n,
        }
    }
}

/// A route without gateway, as a tunnel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Network address; host bits are zero.
    pub network: IpAddr,
    /// Its prefix length in bits.
    pub prefix: u8,
    /// The link; 0 for a kind that needs none.
    pub ifindex: u32,
    /// The table.
    pub table: u32,
    /// Lower wins; 0 leaves it to the kernel (which makes it 1024 for IPv6).
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it (RTPROT_…).
    pub protocol: u8,
}

impl Route {
    /// A plain route of a link in `table`.
    pub fn new(network: IpAddr, prefix: u8, ifindex: u32, table: u32) -> Self {
        Self {
            network,
            prefix,
            ifindex,
            table,
            metric: 0,
            kind: RouteKind::Unicast,
            protocol: PROTO_BOOT,
        }
    }
}

/// How a packet would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// Through which link.
    pub ifindex: u32,
    /// From which address.
    pub source: Option<IpAddr>,
    /// Path MTU in bytes that the route itself knows (configured or learned); else the link's counts.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// The unicast, unreachable and other routes that go through a link, of both families; `table` `None` means any.
    pub fn routes(&self, ifindex: u32, table: Option<u32>) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = list(family, ifindex, table);
            let before = routes.len();
            let asked = self.dump(request, "list routes", &mut |m| {
                let Some(m) = m else {
                    return routes.truncate(before);
                };
                let fits = |r: &Route| r.ifindex == ifindex && table.is_none_or(|t| r.table == t);
                routes.extend(parse(m).filter(fits));
            });
            match asked {
                // There is no such table, or no such link.
                Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV)) => {}
                other => other?,
            }
        }
        Ok(routes)
    }

    /// The routes of a table that need no link: unreachable ones and the like.
    pub fn routes_of_no_link(&self, table: u32) -> Result<Vec<Route>> {
        let mut routes = self.routes(0, Some(table))?;
        // IPv6 hangs them on the loopback link (net/ipv6/route.c), whose number is 1 in every namespace.
        let rest = self.routes(1, Some(table))?;
        routes.extend(rest.into_iter().filter(|r| r.kind != RouteKind::Unicast));
        for route in &mut routes {
            route.ifindex = 0;
        }
        Ok(routes)
    }

    /// The links that default routes of a family leave by, of whatever table; halves of a default count.
    pub fn default_links(&self, family: Family) -> Result<BTreeSet<u32>> {
        let mut body = [0; RTMSG];
        body[0] = match family {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        };
        let request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body);
        let mut links = BTreeSet::new();
        self.dump(request, "list default routes", &mut |m| match m {
            None => links.clear(),
            Some(m) => links.extend(parse_default(m)),
        })?;
        Ok(links)
    }

    /// Adds a route. `AlreadyExists` when the same is there.
    pub fn add_route(&self, route: &Route) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.change(
            request(libc::RTM_NEWROUTE, flags, route),
            &format!("add route {}/{}", route.network, route.prefix),
        )
    }

    /// Takes a route away. ESRCH when it isn't there.
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        self.change(
            request(libc::RTM_DELROUTE, 0, route),
            &format!("delete route {}/{}", route.network, route.prefix),
        )
    }

    /// How a packet to `to` with this mark would leave; `None` when there is no way.
    pub fn route_to(&self, to: IpAddr, mark: u32) -> Result<Option<RouteTo>> {
        self.route_from(None, to, mark)
    }

    /// The same for a packet from an address of this host.
    pub fn route_from(
        &self,
        from: Option<IpAddr>,
        to: IpAddr,
        mark: u32,
    ) -> Result<Option<RouteTo>> {
        let mut body = [0; RTMSG];
        (body[0], body[1]) = family_and_bits(to);
        body[2] = from.map_or(0, |from| family_and_bits(from).1);
        let mut request = Request::new(libc::RTM_GETROUTE, 0, &body).ip(libc::RTA_DST, to);
        if let Some(from) = from {
            request = request.ip(libc::RTA_SRC, from);
        }
        if mark != 0 {
            request = request.u32(libc::RTA_MARK, mark);
        }
        let mut found = None;
        let what = format!("look up the route to {to}");
        let result = self.ask(&mut request, &what, &mut |m| {
            found = found.or_else(|| parse_way(m))
        });
        match result {
            Err(e) if no_way(&e) => Ok(None),
            Err(e) => Err(e),
            Ok(_) => Ok(found),
        }
    }
}

/// Asks for the routes of a link (0: of any or none) and a table. Kernels before 4.20 list all there are; on a router with all the
/// Internet's, those are a million.
fn list(family: libc::c_int, ifindex: u32, table: Option<u32>) -> Request {
    let mut body = [0; RTMSG];
    body[0] = family as u8;
    let mut request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body);
    if let Some(table) = table {
        request = request.u32(libc::RTA_TABLE, table);
    }
    if ifindex != 0 {
        request = request.u32(libc::RTA_OIF, ifindex);
    }
    request
}

/// What the kernel answers when no route, or an unreachable, prohibited or blackhole one, matches.
fn no_way(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EAGAIN)
    )
}

fn family_and_bits(ip: IpAddr) -> (u8, u8) {
    if ip.is_ipv4() {
        (libc::AF_INET as u8, 32)
    } else {
        (libc::AF_INET6 as u8, 128)
    }
}

fn request(kind: u16, flags: i32, route: &Route) -> Request {
    let mut body = [0; RTMSG];
    body[0] = family_and_bits(route.network).0;
    body[1] = route.prefix;
    // Tables above 255 only fit the attribute.
    body[4] = u8::try_from(route.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    body[5] = route.protocol;
    body[6] = match route.kind {
        RouteKind::Unicast if route.network.is_ipv4() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    body[7] = route.kind.number();
    let mut request = Request::new(kind, flags, &body)
        .ip(libc::RTA_DST, route.network)
        .u32(libc::RTA_TABLE, route.table);
    if route.ifindex != 0 {
        request = request.u32(libc::RTA_OIF, route.ifindex);
    }
    if route.metric != 0 {
        request = request.u32(libc::RTA_PRIORITY, route.metric);
    }
    request
}

fn fixed_and_attrs(message: Message<'_>) -> Option<(&[u8], Attrs<'_>)> {
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    message.split(RTMSG)
}

pub(super) fn parse(message: Message<'_>) -> Option<Route> {
    /// RTM_F_CLONED: a cached answer of IPv6, no route.
    const CLONED: u32 = 0x200;
    let (fixed, attrs) = fixed_and_attrs(message)?;
    if super::wire::u32_at(fixed, 8)? & CLONED != 0 {
        return None;
    }
    let default: IpAddr = match i32::from(fixed[0]) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(Route {
        network: attrs.ip(libc::RTA_DST).unwrap_or(default),
        prefix: fixed[1],
        ifindex: attrs.u32(libc::RTA_OIF).unwrap_or(0),
        table: attrs.u32(libc::RTA_TABLE).unwrap_or(u32::from(fixed[4])),
        metric: attrs.u32(libc::RTA_PRIORITY).unwrap_or(0),
        kind: match fixed[7] {
            libc::RTN_UNICAST => RouteKind::Unicast,
            libc::RTN_UNREACHABLE => RouteKind::Unreachable,
            other => RouteKind::Other(other),
        },
        protocol: fixed[5],
    })
}

/// The links of a unicast route that is a default or half of one: several if it has several ways.
pub(super) fn parse_default(message: Message<'_>) -> Vec<u32> {
    /// Bytes of rtnexthop: length, flags, hops, link. Attributes follow.
    const NEXT_HOP: usize = 8;
    let Some(route) = parse(message).filter(|r| r.kind == RouteKind::Unicast && r.prefix < 2)
    else {
        return Vec::new();
    };
    let mut links = Vec::from_iter(Some(route.ifindex).filter(|link| *link != 0));
    let (_, attrs) = match fixed_and_attrs(message) {
        Some(both) => both,
        None => return links,
    };
    let mut hops = attrs.get(libc::RTA_MULTIPATH).unwrap_or_default();
    while let (Some(len), Some(link)) = (super::wire::u16_at(hops, 0), super::wire::u32_at(hops, 4))
    {
        links.push(link);
        let next = usize::from(len).max(NEXT_HOP).next_multiple_of(4);
        hops = hops.get(next..).unwrap_or_default();
    }
    links
}

pub(super) fn parse_way(message: Message<'_>) -> Option<RouteTo> {
    let (fixed, attrs) = fixed_and_attrs(message)?;
    // IPv6 answers an unreachable destination with a route of that kind instead of an error.
    if fixed[7] != libc::RTN_UNICAST && fixed[7] != libc::RTN_LOCAL {
        return None;
    }
    let mtu = attrs
        .nested(libc::RTA_METRICS)
        .and_then(|m| m.u32(RTAX_MTU))
        .filter(|&mtu| mtu != 0);
    Some(RouteTo {
        ifindex: attrs.u32(libc::RTA_OIF)?,
        source: attrs.ip(libc::RTA_PREFSRC),
        mtu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_other_links_and_tables_are_not_even_told() {
        crate::netlink::alone(|netlink| {
            let lo = netlink.link("lo").unwrap().unwrap().index;
            netlink.set_up(lo, true).unwrap();
            let add = |network: [u8; 4], table| {
                let route = Route::new(network.into(), 32, lo, table);
                netlink.add_route(&route).unwrap();
            };
            for n in 0..100 {
                add([192, 0, 2, n], TABLE_MAIN);
            }
            add([198, 51, 100, 1], 7);
            let told = |ifindex, table| {
                let mut count = 0;
                let mut request = list(libc::AF_INET, ifindex, table);
                let each = &mut |_: Message<'_>| count += 1;
                netlink.ask(&mut request, "list", each).unwrap();
                count
            };
            assert_eq!(told(lo, Some(7)), 1);
            assert_eq!(told(0, Some(7)), 1);
            assert_eq!(told(lo, Some(TABLE_MAIN)), 100);
            assert_eq!(netlink.routes(lo, Some(7)).unwrap().len(), 1);
            assert_eq!(netlink.routes(lo, Some(8)).unwrap(), [], "no such table");
            assert_eq!(netlink.routes(4711, Some(7)).unwrap(), [], "no such link");
        });
    }
}
