//! Policy rules, unreachable routes and nf_tables against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::in_namespace;
use meshd_os::events;
use meshd_os::netlink::{
    Family, IfAddress, Netlink, Route, RouteKind, Rule, RuleAction, PROTO_KERNEL, TABLE_MAIN,
};
use meshd_os::nft::{
    state, status, Chain, Hook, Match, Nft, NftError, NftEvents, Rule as Filter, Table,
};
use meshd_os::tun::{Tun, TunOptions};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

const SECOND: Option<Duration> = Some(Duration::from_secs(1));
const OPTIONS: TunOptions = TunOptions {
    multi_queue: false,
    offload: true,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rule(family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule {
        protocol: PROTO_KERNEL,
        ..Rule::new(family, priority, action)
    }
}

/// Rules that use everything a rule can say.
fn all_kinds(family: Family) -> Vec<Rule> {
    let (to, bits, from) = match family {
        Family::V4 => ("10.0.0.0", 8, "192.168.7.0"),
        Family::V6 => ("fd00::", 8, "2001:db8:7::"),
    };
    let udp = Some(libc::IPPROTO_UDP as u8);
    vec![
        Rule {
            iif: Some("lo".into()),
            ip_protocol: udp,
            source_ports: Some(51820..=51820),
            ..rule(family, 5199, RuleAction::Goto(5299))
        },
        Rule {
            mark: Some(0xcafe),
            ..rule(family, 5200, RuleAction::Goto(5299))
        },
        Rule {
            ip_protocol: udp,
            ports: Some(53..=54),
            ..rule(family, 5220, RuleAction::Table(70_000))
        },
        Rule {
            to: Some((ip(to), bits)),
            suppress_prefix_len: Some(7),
            ..rule(family, 5230, RuleAction::Table(TABLE_MAIN))
        },
        Rule {
            from: Some((ip(from), bits)),
            suppress_prefix_len: Some(0),
            ..rule(family, 5231, RuleAction::Table(5231))
        },
        rule(family, 5251, RuleAction::Unreachable),
        Rule {
            oif: Some("prod".into()),
            ..rule(family, 5299, RuleAction::Nop)
        },
    ]
}

#[test]
fn rules_come_and_go_and_read_back() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        for family in Family::BOTH {
            let before = netlink.rules(family).unwrap();
            assert!(before
                .iter()
                .any(|r| r.action == RuleAction::Table(TABLE_MAIN)));
            let mut wanted = all_kinds(family);
            // The kernel keeps host bits of a network out of its comparison, but lists what it was given.
            for rule in &mut wanted {
                netlink.add_rule(rule).unwrap();
                let again = netlink.add_rule(rule).unwrap_err();
                assert_eq!(again.kind(), io::ErrorKind::AlreadyExists, "{rule:?}");
            }
            let ours = |r: &Rule| (5199..=5299).contains(&r.priority);
            let listed: Vec<Rule> = netlink
                .rules(family)
                .unwrap()
                .into_iter()
                .filter(ours)
                .collect();
            assert_eq!(listed, wanted);
            for rule in &wanted {
                netlink.delete_rule(rule).unwrap();
                let again = netlink.delete_rule(rule).unwrap_err();
                assert_eq!(again.errno(), Some(libc::ENOENT), "{rule:?}");
            }
            assert_eq!(netlink.rules(family).unwrap(), before);
        }
    });
}

#[test]
fn an_unreachable_route_takes_over_when_the_link_goes() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let way = |to| netlink.route_to(ip(to), 0).unwrap().map(|way| way.ifindex);
        let twins = [("192.0.2.0", 24), ("2001:db8:7::", 48)].map(|(network, prefix)| Route {
            kind: RouteKind::Unreachable,
            metric: u32::MAX,
            protocol: PROTO_KERNEL,
            ..Route::new(ip(network), prefix, 0, TABLE_MAIN)
        });
        for twin in &twins {
            netlink.add_route(twin).unwrap();
            assert_eq!(
                netlink.add_route(twin).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
        }
        let found = netlink.routes_of_no_link(TABLE_MAIN).unwrap();
        assert_eq!(found, twins);
        let tun = Tun::create("wg0", OPTIONS).unwrap();
        let index = netlink.link("wg0").unwrap().unwrap().index;
        for (ip_, prefix) in [("10.9.0.1", 24), ("fd09::1", 64)] {
            let address = IfAddress {
                ip: ip(ip_),
                prefix,
            };
            netlink.add_address(index, address).unwrap();
        }
        netlink.set_up(index, true).unwrap();
        for twin in &twins {
            let route = Route::new(twin.network, twin.prefix, index, TABLE_MAIN);
            netlink.add_route(&route).unwrap();
        }
        assert_eq!(
            (way("192.0.2.9"), way("2001:db8:7::9")),
            (Some(index), Some(index))
        );
        drop(tun);
        assert_eq!((way("192.0.2.9"), way("2001:db8:7::9")), (None, None));
        let error = UdpSocket::bind("0.0.0.0:0")
            .unwrap()
            .send_to(b"x", "192.0.2.9:9")
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);
        for twin in &twins {
            netlink.delete_route(twin).unwrap();
        }
        assert_eq!(netlink.routes_of_no_link(TABLE_MAIN).unwrap(), []);
    });
}

/// A table that uses everything a rule can say.
fn table() -> Table {
    let networks = |texts: &[&str]| {
        let network = |text: &&str| {
            let (network, prefix) = text.split_once('/').unwrap();
            (ip(network), prefix.parse().unwrap())
        };
        texts.iter().map(network).collect::<Vec<_>>()
    };
    let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
    ending(
        "meshd_prod",
        vec![
            Filter::accept(vec![Match::OutLink("lo".into())]),
            Filter::accept(vec![Match::Mark(0xcafe)]),
            Filter::drop(vec![Match::Destination(
                Family::V4,
                networks(&["10.7.0.0/24", "10.7.1.0/24", "255.255.255.0/24"]),
            )]),
            Filter::drop(vec![Match::Destination(
                Family::V6,
                networks(&["fd07::/64", "ffff::/16"]),
            )]),
            Filter::drop(vec![Match::IpProtocol(udp), Match::Port(53)]),
            Filter::accept(vec![
                Match::IpProtocol(tcp),
                Match::SourcePort(22),
                Match::NotFirstOfTcp,
            ]),
            Filter::accept(vec![Match::Icmpv6 {
                types: 133..=136,
                hop_limit: 255,
            }]),
            Filter::accept(vec![Match::Family(Family::V4), Match::IpProtocol(132)]),
        ],
    )
}

/// A table that drops at the end what no rule accepts.
fn ending(name: &str, rules: Vec<Filter>) -> Table {
    Table {
        name: name.into(),
        chains: vec![Chain {
            hook: Hook::End,
            drops: true,
            rules,
        }],
    }
}

/// Opens nf_tables, or says why the test is left out.
fn nft() -> Option<Nft> {
    match Nft::open().and_then(|nft| nft.find("none").map(|_| nft)) {
        Ok(nft) => Some(nft),
        Err(NftError::Missing) => {
            eprintln!("skipped: this kernel has no nf_tables");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_table_is_loaded_replaced_and_deleted_whole() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        let table = table();
        assert_eq!(nft.find(&table.name).unwrap(), None);
        nft.delete(&table.name).unwrap();
        nft.load(&table).unwrap();
        let found = nft.find(&table.name).unwrap().unwrap();
        assert!(found.is_like(&table), "{found:?}");
        // `nft`, where there is one, reads it as we mean it.
        if let Ok(listing) = Command::new("nft")
            .args(["list", "table", "inet", &table.name])
            .output()
        {
            let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
            for line in [
                "type filter hook postrouting priority 300; policy drop;",
                "oifname \"lo\" accept",
                "meta mark 0x0000cafe accept",
                "ip daddr { 10.7.0.0/23, 255.255.255.0/24 } drop",
                "ip6 daddr { fd07::/64, ffff::/16 } drop",
                "udp dport 53 drop",
                "tcp sport 22 tcp flags",
                "ip6 hoplimit 255 icmpv6 type 133-136 accept",
                "meta nfproto ipv4 meta l4proto sctp accept",
            ] {
                assert!(listing.contains(line), "{line} is not in {listing}");
            }
        }
        let mut shorter = table.clone();
        shorter.chains[0].rules.truncate(3);
        nft.load(&shorter).unwrap();
        let found = nft.find(&table.name).unwrap().unwrap();
        assert!(found.is_like(&shorter) && !found.is_like(&table));
        nft.delete(&table.name).unwrap();
        assert_eq!(nft.find(&table.name).unwrap(), None);
    });
}

#[test]
fn a_table_translates_and_looks_at_what_is_forwarded() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        let mesh = || vec![(ip("10.9.0.0"), 16), (ip("10.7.0.1"), 32)];
        let table = Table {
            name: "meshd_prod_exit".into(),
            chains: vec![
                Chain {
                    hook: Hook::Forward,
                    drops: false,
                    rules: vec![
                        Filter::accept(vec![
                            Match::OutLink("prod".into()),
                            Match::State(state::ESTABLISHED | state::RELATED),
                        ]),
                        Filter::drop(vec![
                            Match::InLink("prod".into()),
                            Match::OtherSource(Family::V4, mesh()),
                        ]),
                        Filter::drop(vec![
                            Match::State(state::NEW),
                            Match::Status {
                                mask: status::SOURCE_NAT | status::DESTINATION_NAT,
                                is: status::DESTINATION_NAT,
                            },
                        ]),
                    ],
                },
                Chain {
                    hook: Hook::SourceNat,
                    drops: false,
                    rules: vec![
                        Filter::masquerade(vec![Match::Source(Family::V4, mesh())]),
                        Filter::masquerade(vec![Match::Source(
                            Family::V6,
                            vec![(ip("fd77::"), 64)],
                        )]),
                    ],
                },
            ],
        };
        for _ in 0..2 {
            nft.load(&table).unwrap();
            let found = nft.find(&table.name).unwrap().unwrap();
            assert!(found.is_like(&table), "{found:?}");
        }
        let mut other = table.clone();
        other.chains.pop();
        assert!(!nft.find(&table.name).unwrap().unwrap().is_like(&other));
        let listed = Command::new("nft").args(["list", "ruleset"]).output();
        if let Ok(listing) = &listed {
            let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
            for line in [
                "type filter hook forward priority filter + 10; policy accept;",
                "oifname \"prod\" ct state established,related accept",
                "iifname \"prod\" ip saddr != { 10.7.0.1, 10.9.0.0/16 } drop",
                "ct state new ct status dnat / snat,dnat drop",
                "type nat hook postrouting priority srcnat; policy accept;",
                "ip saddr { 10.7.0.1, 10.9.0.0/16 } masquerade",
                "ip6 saddr { fd77::/64 } masquerade",
            ] {
                assert!(listing.contains(line), "{line} is not in {listing}");
            }
        }
        // Somebody else's filter that drops what is forwarded is seen, and ours is none.
        assert_eq!(nft.forward_droppers().unwrap(), []);
        if listed.is_ok() {
            let docker = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
            let done = Command::new("nft").arg(docker).status().unwrap();
            assert!(done.success());
            let theirs = ("ip filter".to_owned(), "FORWARD".to_owned());
            assert_eq!(nft.forward_droppers().unwrap(), [theirs]);
        }
        nft.delete(&table.name).unwrap();
    });
}

#[test]
fn a_large_table_fits() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        let apart = |n: u32| {
            let [a, b, c, d] = (n * 2).to_be_bytes();
            (IpAddr::from([10 | a, b, c, d]), 32)
        };
        let networks: Vec<_> = (0..5000).map(apart).collect();
        let rules = vec![Filter::drop(vec![Match::Destination(Family::V4, networks)])];
        let table = ending("meshd_big", rules);
        for _ in 0..2 {
            nft.load(&table).unwrap();
            assert!(nft.find(&table.name).unwrap().unwrap().is_like(&table));
        }
    });
}

#[test]
fn packets_meet_the_rules() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        let netlink = Netlink::open().unwrap();
        let tun = Tun::create("wg0", OPTIONS).unwrap();
        let index = netlink.link("wg0").unwrap().unwrap().index;
        let address = IfAddress {
            ip: ip("10.9.0.1"),
            prefix: 8,
        };
        netlink.add_address(index, address).unwrap();
        netlink.set_up(index, true).unwrap();
        let mut table = table();
        let udp = libc::IPPROTO_UDP as u8;
        let last = Filter::accept(vec![Match::IpProtocol(udp), Match::Port(7)]);
        table.chains[0].rules.push(last);
        nft.load(&table).unwrap();
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        let passes = |to: &str| {
            // A dropped packet is told to its sender (EPERM) by some kernels only.
            let _ = socket.send_to(b"x", to);
            let mut buffer = [0; 2048];
            let mut found = false;
            while let Ok(n) = tun.read(&mut buffer) {
                found |= buffer[meshd_os::offload::VNET_LEN] >> 4 == 4 && n > 0;
            }
            found
        };
        assert!(passes("10.8.0.1:7"));
        for dropped in [
            "10.8.0.1:8",
            "10.8.0.1:53",
            "10.7.0.0:7",
            "10.7.1.255:7",
            "10.7.0.9:7",
        ] {
            assert!(!passes(dropped), "{dropped}");
        }
        assert!(passes("10.6.255.255:7") && passes("10.7.2.0:7"));
        nft.delete(&table.name).unwrap();
        assert!(passes("10.7.0.9:8"));
    });
}

/// What `nft flush ruleset` does: a request to delete every table.
fn flush_ruleset() {
    let done = Command::new("nft").args(["flush", "ruleset"]).status();
    assert!(done.is_ok_and(|status| status.success()));
}

#[test]
fn a_flush_is_survived_or_told() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        let table = table();
        let mut events = NftEvents::subscribe(&table.name).unwrap();
        let owned = nft.load(&table).unwrap();
        assert!(events.touched().unwrap(), "our own change is told too");
        assert!(!events.touched().unwrap());
        // A stranger's: another conversation is another owner.
        let stranger = Nft::open().unwrap();
        let mut other = table.clone();
        other.name = "meshd_other".into();
        stranger.load(&other).unwrap();
        assert!(
            !events.touched().unwrap(),
            "another table is no business of ours"
        );
        if owned {
            assert!(matches!(stranger.delete(&table.name), Err(NftError::Owned)));
            if Command::new("nft").arg("--version").output().is_ok() {
                flush_ruleset();
                assert!(nft.find(&table.name).unwrap().unwrap().is_like(&table));
            }
        }
        // Its owner gone, the table stays, anybody may delete it, and who watches can put it back.
        drop(nft);
        assert!(stranger.find(&table.name).unwrap().unwrap().is_like(&table));
        let _ = events.touched().unwrap();
        stranger.delete(&table.name).unwrap();
        assert_eq!(
            events::wait_readable([events.as_fd()], SECOND).unwrap(),
            [true]
        );
        assert!(events.touched().unwrap());
        assert_eq!(stranger.find(&table.name).unwrap(), None);
        let nft = Nft::open().unwrap();
        assert_eq!(nft.load(&table).unwrap(), owned);
        // An orphan is adopted.
        drop(nft);
        assert_eq!(Nft::open().unwrap().load(&table).unwrap(), owned);
    });
}

#[test]
fn a_missing_capability_is_told_apart() {
    in_namespace(|| {
        let Some(nft) = nft() else { return };
        meshd_os::sandbox::keep_capabilities(&[]).unwrap();
        assert!(matches!(nft.load(&table()), Err(NftError::Forbidden)));
    });
}
