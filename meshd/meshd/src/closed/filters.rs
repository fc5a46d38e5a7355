//! The rules of the nf_tables table of a closed host: the tunnel, what is never let out, and the list of exemptions.
use meshd_os::netlink::Family;
use meshd_os::nft::{Match, Rule as Filter};

use super::{mark, mesh_networks, near, Uids, DNS, TCP, UDP};
use crate::conf::Conf;

/// The rules of the table. What none accepts is dropped; with `users`, what isn't a mesh's is dropped of them alone.
pub(super) fn filters(
    name: &str,
    conf: &Conf,
    families: &[Family],
    users: Option<&[Uids]>,
) -> Vec<Filter> {
    let whose: Vec<Vec<Match>> = match users {
        None => vec![vec![]],
        Some(uids) => uids
            .iter()
            .map(|uids| vec![Match::Users(uids.clone())])
            .collect(),
    };
    let mut filters = vec![
        Filter::accept(vec![Match::OutLink("lo".to_owned())]),
        Filter::accept(vec![Match::OutLink(name.to_owned())]),
        Filter::accept(vec![Match::Mark(mark(conf))]),
    ];
    for family in Family::BOTH {
        if !families.contains(&family) {
            filters.push(Filter::accept(vec![Match::Family(family)]));
        }
    }
    for &family in families {
        let networks = mesh_networks(conf, family);
        if !networks.is_empty() {
            filters.push(Filter::drop(vec![Match::Destination(family, networks)]));
        }
    }
    for (protocol, port) in DNS {
        for whose in &whose {
            let mut matches = whose.clone();
            matches.extend([Match::IpProtocol(protocol), Match::Port(port)]);
            filters.push(Filter::drop(matches));
        }
    }
    filters.extend(exemptions(conf, families));
    if users.is_some() {
        filters.extend(whose.into_iter().map(Filter::drop));
        filters.push(Filter::accept(vec![]));
    }
    filters
}

/// What may leave by any link, beside the tunnel itself.
fn exemptions(conf: &Conf, families: &[Family]) -> Vec<Filter> {
    let mut filters = Vec::new();
    // DHCP asks from port 68 for 67 (RFC 2131), DHCPv6 from 546 for 547 (RFC 8415).
    for (family, from, to) in [(Family::V4, 68, 67), (Family::V6, 546, 547)] {
        filters.push(Filter::accept(vec![
            Match::Family(family),
            Match::IpProtocol(UDP),
            Match::SourcePort(from),
            Match::Port(to),
        ]));
    }
    // Router and neighbour solicitation and advertisement (RFC 4861); listener queries, reports and leaving (RFC 2710, 3810).
    for (types, hop_limit) in [(133..=136, 255), (130..=132, 1), (143..=143, 1)] {
        filters.push(Filter::accept(vec![Match::Icmpv6 { types, hop_limit }]));
    }
    // Without tracking connections: what isn't a first packet begins none.
    for port in &conf.interface.kill_switch_allow {
        filters.push(Filter::accept(vec![
            Match::IpProtocol(TCP),
            Match::SourcePort(port.0),
            Match::NotFirstOfTcp,
        ]));
    }
    for &family in families {
        let networks = near(family).collect();
        filters.push(Filter::accept(vec![Match::Destination(family, networks)]));
    }
    filters
}
