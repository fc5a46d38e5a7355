//! Fail closed: what keeps packets from leaving by another way than the mesh, as values. Pure.
//!
//! Strategy: two locks, because each alone has a hole. *Policy rules* send what belongs to the mesh to routing tables of our
//! own, in which an unreachable twin stands behind every route to the interface: without the interface there is no way,
//! and no route that a DHCP server or a router announces is ever asked. They cannot stop a socket that is bound to the
//! uplink, nor IPv4 beside TCP, UDP and ICMP on its way to a network on the link. *A table of nf_tables* drops at the very
//! end what leaves by another link; it stops those too, but a user may flush it.
//! [`steps`] compares what is there with what is wanted; the table is loaded first and deleted last, so that no step opens
//! anything before the last one. Doing it is `guard.rs`'s part.
//!
//! With `RouteUsers` a peer is the default way for these users alone: what is said of the rest holds for their packets, known
//! by the user id of the process that made the socket, and everybody else's go as if there were no default. Mesh networks
//! are the mesh's for everybody.
//!
//! It is wanted with `KillSwitch = on` or `RouteUsers`, and for a family of which a peer is the default way (`AllowedIPs =
//! 0.0.0.0/0`).
//! What still leaves by another link, and nothing else (`filters.rs` has the list):
//! - the tunnel's own packets, known by their mark;
//! - DHCP, neighbour discovery and multicast listener reports of IPv6 (ARP isn't IP and isn't filtered);
//! - private, link-local and multicast destinations that are no mesh's, but never DNS (ports 53 and 853);
//! - answers of the services named by `KillSwitchAllow`.
//!
//! What it does not do: stop frames that never pass IP's end (AF_PACKET), or root, who may undo all of it.

mod filters;
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use meshd_os::netlink::{Family, Route, RouteKind, Rule, PROTO_KERNEL};
use meshd_os::nft::{Chain, Hook, Table};

use crate::conf::{self, Cidr, Conf, TcpPort};
use crate::put::Put;

/// SO_MARK of the outer socket where the configuration names none: "mesh" in ASCII.
const MARK: u32 = 0x6d65_7368;

/// The table of the routes to mesh networks, and that of the default route; named after the rules that ask them.
const MESH: u32 = 5210;
const REST: u32 = 5250;

/// All our rules have priorities from here to [`END`], where a rule that does nothing is what the tunnel's own packets go
/// to. That one carries the name of the interface, which says whose they all are; a packet goes on behind it whether it
/// matches or not.
const FIRST: u32 = 5199;
const END: u32 = 5299;

/// A range of user ids.
type Uids = RangeInclusive<u32>;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// What names are asked with: DNS, DNS over TLS, DNS over QUIC (RFC 1035, 7858, 9250).
const DNS: [(u8, u16); 4] = [(UDP, 53), (TCP, 53), (TCP, 853), (UDP, 853)];

/// Private (RFC 1918), link-local, multicast and broadcast networks; unique local ones (RFC 4193) for IPv6.
const NEAR_V4: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
];
const NEAR_V6: [&str; 3] = ["fc00::/7", "fe80::/10", "ff00::/8"];

/// Everything that keeps a host closed. Open is the default value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Closed {
    /// The table of nf_tables.
    pub table: Option<Table>,
    /// The policy rules, in the order in which they are put there.
    pub rules: Vec<Rule>,
    /// Unreachable routes behind those to the interface.
    pub twins: Vec<Route>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load the table, replace it, or delete it.
    Table {
        /// What was there.
        from: Option<Table>,
        /// What shall be.
        to: Option<Table>,
    },
    /// A policy rule.
    Rule(Put, Rule),
    /// An unreachable route.
    Twin(Put, Route),
}

impl Step {
    /// The step that takes this one back.
    pub fn inverse(&self) -> Self {
        match self {
            Self::Table { from, to } => Self::Table {
                from: to.clone(),
                to: from.clone(),
            },
            Self::Rule(put, rule) => Self::Rule(put.inverse(), rule.clone()),
            Self::Twin(put, route) => Self::Twin(put.inverse(), *route),
        }
    }
}

/// The families of which no packet may leave by another way.
fn families(conf: &Conf) -> Vec<Family> {
    // In a namespace of its own there is no other way.
    if conf.interface.table != conf::Table::Auto || conf.interface.namespace.is_some() {
        return Vec::new();
    }
    // Users who are kept in are kept in: what asks for an IPv6 address first would go past a peer that is IPv4's way alone.
    let both = conf.interface.kill_switch || !conf.interface.route_users.is_empty();
    let defaults = defaults(conf);
    let closed = |family: &Family| both || defaults.contains(family);
    Family::BOTH.into_iter().filter(closed).collect()
}

/// The families of which a peer is the default way.
pub fn defaults(conf: &Conf) -> Vec<Family> {
    let default_of = |family: &Family| {
        let mut networks = conf.peers.iter().flat_map(|peer| &peer.allowed_ips);
        networks.any(|net| Family::of(net.addr) == *family && is_default(net))
    };
    Family::BOTH.into_iter().filter(default_of).collect()
}

/// The default network, or one of the halves that people write in its place.
fn is_default(network: &Cidr) -> bool {
    network.prefix < 2
}

/// Whether `conf` wants the host closed, for one family at least.
pub fn is_wanted(conf: &Conf) -> bool {
    !families(conf).is_empty()
}

/// Whether answers of the TCP service at `port` reach a client at `to`, by the mesh or past it; with `RouteUsers`, if it is run
/// by one of them.
pub fn may_answer(conf: &Conf, to: IpAddr, port: u16) -> bool {
    let family = Family::of(to);
    let client = Cidr {
        addr: to,
        prefix: Cidr::full(to),
    };
    let within = |(addr, prefix)| Cidr { addr, prefix }.contains(client);
    !families(conf).contains(&family)
        || to.is_loopback()
        || conf.interface.kill_switch_allow.contains(&TcpPort(port))
        || mesh_networks(conf, family).into_iter().any(within)
        || near(family).any(within)
}

/// The routing table for the route to `network`; `None`: it gets no route.
pub fn table_of(conf: &Conf, network: &Cidr) -> Option<u32> {
    if !families(conf).contains(&Family::of(network.addr)) {
        conf.interface.table.id()
    } else if is_default(network) {
        Some(REST)
    } else {
        Some(MESH)
    }
}

/// The routing tables that hold routes of `conf`, and no one else's to its interface.
pub fn tables(conf: &Conf) -> Vec<u32> {
    let mut tables: Vec<u32> = conf.interface.table.id().into_iter().collect();
    if is_wanted(conf) {
        tables.extend([MESH, REST]);
    }
    tables
}

/// The routing tables of a closed host.
pub const TABLES: [u32; 2] = [MESH, REST];

/// SO_MARK of the outer socket; 0: none.
pub fn mark(conf: &Conf) -> u32 {
    match conf.interface.fwmark {
        0 if is_wanted(conf) => MARK,
        mark => mark,
    }
}

/// Whether a rule is one of ours.
pub fn is_ours(rule: &Rule) -> bool {
    (FIRST..=END).contains(&rule.priority) && rule.protocol == PROTO_KERNEL
}

/// The interface that such rules belong to.
pub fn owner(rules: &[Rule]) -> Option<&str> {
    let end = rules
        .iter()
        .find(|rule| is_ours(rule) && rule.priority == END);
    end?.oif.as_deref()
}

/// The name of the table of nf_tables of interface `name`.
pub fn table_name(name: &str) -> String {
    format!("meshd_{name}")
}

impl Closed {
    /// What `conf` wants for interface `name`; `uids` are those of its `RouteUsers`; `port` is the one its socket has, 0
    /// when that isn't known yet.
    pub fn wanted(name: &str, conf: &Conf, uids: &[Uids], port: u16) -> Self {
        let families = families(conf);
        if families.is_empty() {
            return Self::default();
        }
        let users = (!conf.interface.route_users.is_empty()).then_some(uids);
        Self {
            table: Some(Table {
                name: table_name(name),
                chains: vec![Chain {
                    hook: Hook::End,
                    drops: true,
                    rules: filters::filters(name, conf, &families, users),
                }],
            }),
            rules: families
                .iter()
                .flat_map(|family| rules::rules(name, conf, *family, users, port))
                .collect(),
            twins: twins(conf, &families),
        }
    }
}

/// The steps that lead from what is found to what is wanted.
pub fn steps(from: &Closed, to: &Closed) -> Vec<Step> {
    let change = || Step::Table {
        from: from.table.clone(),
        to: to.table.clone(),
    };
    let mut steps = Vec::new();
    if to.table.is_some() && from.table != to.table {
        steps.push(change());
    }
    let new = to.rules.iter().filter(|rule| !from.rules.contains(rule));
    steps.extend(new.map(|rule| Step::Rule(Put::Add, rule.clone())));
    let new = to.twins.iter().filter(|twin| !from.twins.contains(twin));
    steps.extend(new.map(|twin| Step::Twin(Put::Add, *twin)));
    let old = from.twins.iter().filter(|twin| !to.twins.contains(twin));
    steps.extend(old.map(|twin| Step::Twin(Put::Remove, *twin)));
    let mut old: Vec<&Rule> = from
        .rules
        .iter()
        .filter(|rule| !to.rules.contains(rule))
        .collect();
    // The rule that names the owner goes last, so that what is left half-way is still known as ours.
    old.sort_by_key(|rule| (rule.priority == END, std::cmp::Reverse(rule.priority)));
    steps.extend(
        old.into_iter()
            .map(|rule| Step::Rule(Put::Remove, rule.clone())),
    );
    if to.table.is_none() && from.table.is_some() {
        steps.push(change());
    }
    steps
}

/// Unreachable routes behind those to the interface, and behind the default whether a peer is one or not.
fn twins(conf: &Conf, families: &[Family]) -> Vec<Route> {
    let twin = |addr, prefix, table| Route {
        kind: RouteKind::Unreachable,
        metric: u32::MAX,
        protocol: PROTO_KERNEL,
        ..Route::new(addr, prefix, 0, table)
    };
    let mut twins = Vec::new();
    for network in conf.routes() {
        let closed = families.contains(&Family::of(network.addr));
        if let Some(table) = table_of(conf, &network).filter(|_| closed) {
            twins.push(twin(network.addr, network.prefix, table));
        }
    }
    for &family in families {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let default = twin(any, 0, REST);
        if !twins.contains(&default) {
            twins.push(default);
        }
    }
    twins
}

/// Everything that is the mesh's, but for a default: what peers have, and the networks the interface is in.
pub fn mesh_networks(conf: &Conf, family: Family) -> Vec<(IpAddr, u8)> {
    let peers = conf.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let mut networks: Vec<Cidr> = peers
        .filter(|net| !is_default(net))
        .copied()
        .chain(on_link(conf))
        .filter(|net| Family::of(net.addr) == family)
        .collect();
    networks.sort();
    networks.dedup();
    networks
        .into_iter()
        .map(|net| (net.addr, net.prefix))
        .collect()
}

/// The networks of the interface's addresses, which the kernel routes to it by itself.
fn on_link(conf: &Conf) -> impl Iterator<Item = Cidr> + '_ {
    let addresses = conf.interface.addresses.iter();
    let networks = addresses.filter(|a| a.prefix < Cidr::full(a.addr) && a.prefix > 0);
    networks.map(|a| a.network())
}

/// The networks near a host.
pub fn near(family: Family) -> impl Iterator<Item = (IpAddr, u8)> {
    let texts: &[&str] = match family {
        Family::V4 => &NEAR_V4,
        Family::V6 => &NEAR_V6,
    };
    let networks = texts.iter().filter_map(|text| Cidr::parse(text).ok());
    networks.map(|net| (net.addr, net.prefix))
}

#[cfg(test)]
mod tests;
