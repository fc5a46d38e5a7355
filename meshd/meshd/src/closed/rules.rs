//! The policy rules of a closed host, in words and numbers.
//!
//! | priority | what | where to |
//! |---|---|---|
//! | 5199, 5200 | the tunnel's own packets, by port and by mark | behind all of these |
//! | 5210, 5211 | mesh networks | our table of them; the kernel's own route |
//! | 5220, 5221 | DNS | the way of the rest, or nowhere |
//! | 5225, 5226 | DHCP; answers of services that are allowed to | main |
//! | 5230 | networks near | main, but no route as short as a default |
//! | 5240, 5241 | IPv4's questions about gateways and ARP | main, but no default |
//! | 5250, 5251 | the rest | our table of it, or nowhere |
//! | 5245 | with `RouteUsers`: what comes from an address of the interface | the way of the rest |
//! | 5299 | nothing: a place to go to, and the owner's name | |
use meshd_os::netlink::{Family, Rule, RuleAction, PROTO_KERNEL, TABLE_MAIN};

use super::{mark, near, on_link, Uids, DNS, END, FIRST, MESH, REST, TCP, UDP};
use crate::conf::{Cidr, Conf};

const ICMP: u8 = libc::IPPROTO_ICMP as u8;

/// The policy rules of a family. The one that names the owner is first, then what lets packets out, then what keeps them in.
/// `protocol kernel`, or networkd would delete them when it reconfigures a link.
/// With `users` only theirs are kept in, but for those to the mesh.
pub(super) fn rules(
    name: &str,
    conf: &Conf,
    family: Family,
    users: Option<&[Uids]>,
    port: u16,
) -> Vec<Rule> {
    let rule = |priority, action| ours(family, priority, action);
    let mut rules = vec![Rule {
        oif: Some(name.to_owned()),
        ..rule(END, RuleAction::Nop)
    }];
    // Strict reverse-path filtering asks for the way back without the mark (net/ipv4/fib_frontend.c).
    if port != 0 {
        rules.push(Rule {
            iif: Some("lo".to_owned()),
            ip_protocol: Some(UDP),
            source_ports: Some(port..=port),
            ..rule(FIRST, RuleAction::Goto(END))
        });
    }
    rules.push(Rule {
        mark: Some(mark(conf)),
        ..rule(5200, RuleAction::Goto(END))
    });
    rules.push(rule(MESH, RuleAction::Table(MESH)));
    // What the kernel routes by itself: its own route, but no shorter one that somebody else made.
    for network in on_link(conf).filter(|net| Family::of(net.addr) == family) {
        rules.push(Rule {
            to: Some((network.addr, network.prefix)),
            suppress_prefix_len: Some(u32::from(network.prefix) - 1),
            ..rule(5211, RuleAction::Table(TABLE_MAIN))
        });
    }
    match users {
        None => rules.extend(the_rest(conf, family)),
        Some(uids) => {
            for uids in uids {
                rules.extend(the_rest(conf, family).into_iter().map(|rule| Rule {
                    uids: Some(uids.clone()),
                    ..rule
                }));
            }
            // Strict reverse-path filtering asks for the way back without the user, too.
            let addresses = conf.interface.addresses.iter();
            for address in addresses.filter(|a| Family::of(a.addr) == family) {
                rules.push(Rule {
                    from: Some((address.addr, Cidr::full(address.addr))),
                    ..rule(5245, RuleAction::Table(REST))
                });
            }
        }
    }
    rules
}

fn ours(family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule {
        protocol: PROTO_KERNEL,
        ..Rule::new(family, priority, action)
    }
}

/// The rules for what isn't the mesh's.
fn the_rest(conf: &Conf, family: Family) -> Vec<Rule> {
    let rule = |priority, action| ours(family, priority, action);
    let mut rules = Vec::new();
    for (protocol, port) in DNS {
        for (priority, action) in [
            (5220, RuleAction::Table(REST)),
            (5221, RuleAction::Unreachable),
        ] {
            rules.push(Rule {
                ip_protocol: Some(protocol),
                ports: Some(port..=port),
                ..rule(priority, action)
            });
        }
    }
    if family == Family::V4 {
        rules.push(Rule {
            ip_protocol: Some(UDP),
            source_ports: Some(68..=68),
            ports: Some(67..=67),
            ..rule(5225, RuleAction::Table(TABLE_MAIN))
        });
    }
    for port in &conf.interface.kill_switch_allow {
        rules.push(Rule {
            iif: Some("lo".to_owned()),
            ip_protocol: Some(TCP),
            source_ports: Some(port.0..=port.0),
            ..rule(5226, RuleAction::Table(TABLE_MAIN))
        });
    }
    // A route as short as the default, or shorter than the private networks themselves, is no route to the LAN.
    let longest_ignored = match family {
        Family::V4 => 7,
        Family::V6 => 6,
    };
    for network in near(family) {
        rules.push(Rule {
            to: Some(network),
            suppress_prefix_len: Some(longest_ignored),
            ..rule(5230, RuleAction::Table(TABLE_MAIN))
        });
    }
    // What has no protocol is no packet: the kernel asks whether a gateway is on-link when a route is added (by DHCP, say),
    // and whether an ARP request comes from where it should (net/ipv4/fib_semantics.c, arp.c). IPv6 asks its tables directly.
    if family == Family::V4 {
        for protocol in [ICMP, TCP, UDP] {
            rules.push(Rule {
                ip_protocol: Some(protocol),
                ..rule(5240, RuleAction::Goto(REST))
            });
        }
        rules.push(Rule {
            suppress_prefix_len: Some(0),
            ..rule(5241, RuleAction::Table(TABLE_MAIN))
        });
    }
    rules.push(rule(REST, RuleAction::Table(REST)));
    rules.push(rule(5251, RuleAction::Unreachable));
    rules
}
