//! A way out to the internet for the peers (`Exit = on`), as values. Pure.
//!
//! Strategy: a table of nf_tables of our own with two chains. *nat* gives what comes from the mesh for elsewhere the address of
//! the link it leaves by. *forward* sees to it that nothing leaves with a mesh's address, whatever NAT left alone, that
//! nobody gets into the mesh through this host, and that the forwarding which was turned on for it serves nobody else:
//!
//! | packets | pass |
//! |---|---|
//! | from the mesh to the mesh, from or to a `Forward` network | yes, as without an exit |
//! | to the mesh, of a connection that is there, or that somebody's own DNAT has sent there | yes |
//! | to the mesh otherwise | no |
//! | from the mesh, but with a source that is no peer's; for a mesh's address by another link | no |
//! | from the mesh for the private or link-local networks of this host: no part of the internet | no |
//! | from the mesh elsewhere, translated or about to be | yes |
//! | from the mesh elsewhere, of no connection, or one that isn't translated | no |
//! | from elsewhere to elsewhere, in by a link that forwards because of us, but for answers and somebody's own DNAT | no |
//!
//! What isn't accepted here may be dropped by another firewall; what is, too.
//!
//! What it does not do: switch forwarding (`way_out.rs` has it done), or judge where on the internet the peers go.

use std::net::IpAddr;

use meshd_os::netlink::Family;
use meshd_os::nft::{state, status, Chain, Hook, Match, Rule, Table};

use crate::closed;
use crate::conf::{Cidr, Conf};

/// Addresses that carriers and clouds use inside (RFC 6598).
const SHARED: &str = "100.64.0.0/10";

/// Which links forward because of us, so that others could use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// IPv4, by name.
    pub v4: Vec<String>,
    /// IPv6.
    pub v6: Opened6,
}

/// The same of IPv6, which some kernels forward on all links or on none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened6 {
    /// These, by name; none if it was on before us.
    Links(Vec<String>),
    /// All of them.
    All,
}

impl Default for Opened6 {
    fn default() -> Self {
        Self::Links(Vec::new())
    }
}

/// The configuration, if it wants this host to be a way out.
pub fn wanted(conf: Option<&Conf>) -> Option<&Conf> {
    conf.filter(|conf| conf.interface.exit)
}

/// Whether packets of a family are to go out: a mesh without it has none.
pub fn has(conf: &Conf, family: Family) -> bool {
    !mesh(conf, family).is_empty()
}

/// The name of the table of interface `name`, which has no underscore itself.
pub fn table_name(name: &str) -> String {
    format!("{}_exit", closed::table_name(name))
}

/// The table of interface `name`.
pub fn table(name: &str, conf: &Conf, opened: &Opened) -> Table {
    Table {
        name: table_name(name),
        chains: vec![
            Chain {
                hook: Hook::Forward,
                drops: false,
                rules: forward(name, conf, opened),
            },
            Chain {
                hook: Hook::SourceNat,
                drops: false,
                rules: nat(name, conf),
            },
        ],
    }
}

fn nat(name: &str, conf: &Conf) -> Vec<Rule> {
    let mut rules = Vec::new();
    for link in [name, "lo"] {
        rules.push(Rule::accept(vec![Match::OutLink(link.to_owned())]));
    }
    for family in Family::BOTH {
        let mesh = mesh(conf, family);
        if mesh.is_empty() {
            continue;
        }
        let mut spared = mesh.clone();
        spared.extend(sites(conf, family));
        rules.push(Rule::accept(vec![Match::Destination(family, spared)]));
        rules.push(Rule::masquerade(vec![Match::Source(family, mesh)]));
    }
    rules
}

fn forward(name: &str, conf: &Conf, opened: &Opened) -> Vec<Rule> {
    let mut rules = to_mesh(name, conf);
    rules.extend(from_mesh(name, conf));
    rules.extend(past_mesh(opened));
    rules
}

fn to_mesh(name: &str, conf: &Conf) -> Vec<Rule> {
    let to = || Match::OutLink(name.to_owned());
    let from = Match::InLink(name.to_owned());
    let mut rules = vec![
        Rule::accept(vec![from, to()]),
        Rule::accept(vec![to(), answers()]),
        Rule::accept(vec![to(), sent_here()]),
    ];
    for family in Family::BOTH {
        let sites = sites(conf, family);
        if !sites.is_empty() {
            rules.push(Rule::accept(vec![to(), Match::Source(family, sites)]));
        }
    }
    rules.push(Rule::drop(vec![to()]));
    rules
}

fn from_mesh(name: &str, conf: &Conf) -> Vec<Rule> {
    let from = || Match::InLink(name.to_owned());
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let mesh = mesh(conf, family);
        // A peer that was let in by hand, or is about to go, isn't translated.
        rules.push(if mesh.is_empty() {
            Rule::drop(vec![from(), Match::Family(family)])
        } else {
            Rule::drop(vec![from(), Match::OtherSource(family, mesh.clone())])
        });
        let sites = sites(conf, family);
        if !sites.is_empty() {
            rules.push(Rule::accept(vec![
                from(),
                Match::Destination(family, sites),
            ]));
        }
        if !mesh.is_empty() {
            rules.push(Rule::drop(vec![from(), Match::Destination(family, mesh)]));
        }
    }
    rules.extend(Family::BOTH.map(|family| {
        let networks = not_internet(family);
        Rule::drop(vec![from(), Match::Destination(family, networks)])
    }));
    let translated = status::SOURCE_NAT | status::DESTINATION_NAT;
    rules.extend([
        // One that is older than this table goes on as it was: with a mesh's address.
        Rule::drop(vec![
            from(),
            Match::State(state::ESTABLISHED),
            Match::Status {
                mask: translated,
                is: 0,
            },
        ]),
        // The same of one that nobody has answered.
        Rule::drop(vec![
            from(),
            Match::State(state::NEW | state::RELATED),
            Match::Status {
                mask: status::SOURCE_NAT | status::SOURCE_NAT_DONE,
                is: status::SOURCE_NAT_DONE,
            },
        ]),
        Rule::accept(vec![
            from(),
            Match::State(state::NEW | state::RELATED | state::ESTABLISHED),
        ]),
        // NAT passes by what belongs to no connection.
        Rule::drop(vec![from()]),
    ]);
    rules
}

/// A host that forwards for the mesh is no router for its neighbours.
fn past_mesh(opened: &Opened) -> Vec<Rule> {
    let v6: &[String] = match &opened.v6 {
        Opened6::Links(links) => links,
        Opened6::All => &[],
    };
    let one = |family, link: &String| {
        Rule::drop(vec![Match::Family(family), Match::InLink(link.to_owned())])
    };
    let mut closed: Vec<Rule> = opened.v4.iter().map(|link| one(Family::V4, link)).collect();
    closed.extend(v6.iter().map(|link| one(Family::V6, link)));
    if opened.v6 == Opened6::All {
        closed.push(Rule::drop(vec![Match::Family(Family::V6)]));
    }
    let mut rules = Vec::new();
    if !closed.is_empty() {
        rules.extend([
            Rule::accept(vec![answers()]),
            Rule::accept(vec![sent_here()]),
        ]);
    }
    rules.extend(closed);
    rules
}

fn answers() -> Match {
    Match::State(state::ESTABLISHED | state::RELATED)
}

/// Somebody's own rule on this host has changed its destination: a published port.
fn sent_here() -> Match {
    Match::Status {
        mask: status::DESTINATION_NAT,
        is: status::DESTINATION_NAT,
    }
}

/// Everything that is the mesh's: what peers have, the networks the interface is in, its own addresses.
fn mesh(conf: &Conf, family: Family) -> Vec<(IpAddr, u8)> {
    let own = conf.interface.addresses.iter();
    let own = own.filter(|address| Family::of(address.addr) == family);
    let mut networks = closed::mesh_networks(conf, family);
    networks.extend(own.map(|address| (address.addr, Cidr::full(address.addr))));
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// What an exit doesn't lead to: its neighbours, its provider's insides, and where clouds tell a host its secrets
/// (169.254.169.254). Sites are what `Forward` names.
fn not_internet(family: Family) -> Vec<(IpAddr, u8)> {
    let shared = Cidr::parse(SHARED).ok();
    let shared = shared.filter(|net| Family::of(net.addr) == family);
    closed::near(family)
        .chain(shared.map(|net| (net.addr, net.prefix)))
        .collect()
}

fn sites(conf: &Conf, family: Family) -> Vec<(IpAddr, u8)> {
    let sites = conf.interface.forward.iter();
    let sites = sites.filter(|network| Family::of(network.addr) == family);
    sites
        .map(|network| (network.addr, network.prefix))
        .collect()
}

#[cfg(test)]
mod tests;
