//! What is wanted for which configuration, and that steps lead there and back without a moment in which anything is open.
use super::*;
use meshd_os::netlink::TABLE_MAIN;
use meshd_os::nft::{Match, Rule as Filter};

const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn conf(interface: &str, allowed: &str) -> Conf {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nAddress = 10.7.0.1/32, fd07::1/64\n{interface}\n\
         [Peer]\nPublicKey = {PEER}\nAllowedIPs = {allowed}\n"
    );
    crate::conf::parse(text.as_bytes()).unwrap().conf.unwrap()
}

fn wanted(interface: &str, allowed: &str) -> Closed {
    Closed::wanted(
        "prod",
        &conf(interface, allowed),
        &[1001..=1001, 2000..=2999],
        51820,
    )
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

/// Some of everything.
fn variants() -> Vec<Closed> {
    vec![
        Closed::default(),
        wanted("KillSwitch = on", "10.7.0.2/32"),
        wanted(
            "KillSwitch = on\nFwMark = 7\nKillSwitchAllow = tcp/22",
            "10.7.0.2/32, fd07::2/128",
        ),
        wanted("", "0.0.0.0/0, 10.9.0.0/16"),
        wanted("RouteUsers = 1001, 2000-2999", "0.0.0.0/0, ::/0"),
    ]
}

fn apply(mut closed: Closed, step: &Step) -> Closed {
    fn put<T: PartialEq>(list: &mut Vec<T>, put: Put, item: T) {
        list.retain(|other| *other != item);
        if put == Put::Add {
            list.push(item);
        }
    }
    match step {
        Step::Table { from, to } => {
            assert_eq!(closed.table, *from);
            closed.table = to.clone();
        }
        Step::Rule(p, rule) => put(&mut closed.rules, *p, rule.clone()),
        Step::Twin(p, twin) => put(&mut closed.twins, *p, *twin),
    }
    closed
}

fn sorted(mut closed: Closed) -> Closed {
    closed.rules.sort_by_key(|rule| format!("{rule:?}"));
    closed.twins.sort_by_key(|twin| format!("{twin:?}"));
    closed
}

#[test]
fn a_plain_mesh_wants_nothing() {
    for (interface, allowed) in [
        ("", "10.7.0.2/32, fd07::2/128"),
        ("Table = off\nKillSwitch = on", "0.0.0.0/0"),
        ("Table = 7", "0.0.0.0/0, ::/0"),
    ] {
        let conf = conf(interface, allowed);
        assert_eq!(Closed::wanted("prod", &conf, &[], 1), Closed::default());
        assert_eq!(mark(&conf), 0);
        assert_eq!(
            table_of(&conf, &cidr("10.7.0.2/32")),
            conf.interface.table.id()
        );
    }
}

#[test]
fn no_difference_no_step() {
    for closed in variants() {
        assert_eq!(steps(&closed, &closed), []);
    }
}

#[test]
fn a_rule_that_only_looks_like_ours_goes_and_ours_comes() {
    let closed = wanted("KillSwitch = on", "10.7.0.2/32");
    for at in 0..closed.rules.len() {
        let ours = closed.rules[at].clone();
        let not_ours = Rule {
            more: true,
            ..ours.clone()
        };
        let mut found = closed.clone();
        found.rules[at] = not_ours.clone();
        assert_eq!(
            steps(&found, &closed),
            [
                Step::Rule(Put::Add, ours),
                Step::Rule(Put::Remove, not_ours)
            ]
        );
    }
}

#[test]
fn steps_lead_there_and_their_inverses_back_from_any_point() {
    for from in variants() {
        for to in variants() {
            let steps = steps(&from, &to);
            let there = steps.iter().fold(from.clone(), apply);
            assert_eq!(sorted(there), sorted(to.clone()));
            for done in 0..=steps.len() {
                let half = steps[..done].iter().fold(from.clone(), apply);
                let back = steps[..done].iter().rev().map(Step::inverse);
                let back = back.fold(half, |closed, step| apply(closed, &step));
                assert_eq!(sorted(back), sorted(from.clone()), "after {done} steps");
            }
        }
    }
}

#[test]
fn the_table_comes_first_and_goes_last() {
    let open = Closed::default();
    let closed = wanted("KillSwitch = on", "10.7.0.2/32");
    let closing = steps(&open, &closed);
    assert!(matches!(&closing[0], Step::Table { to: Some(_), .. }));
    let twin = |step: &Step| matches!(step, Step::Twin(..));
    assert!(!closing[..=closed.rules.len()].iter().any(twin));
    let opening = steps(&closed, &open);
    assert!(matches!(opening.last(), Some(Step::Table { to: None, .. })));
    // What is half-way there, or half-way gone, says whose it is.
    for (start, steps) in [(open, closing), (closed, opening)] {
        for done in 0..=steps.len() {
            let half = steps[..done].iter().fold(start.clone(), apply);
            assert_eq!(owner(&half.rules).is_some(), !half.rules.is_empty());
            assert!(half.rules.is_empty() || half.table.is_some());
        }
    }
}

#[test]
fn every_route_has_a_twin_in_its_table() {
    let allowed = "0.0.0.0/0, 10.9.0.0/16, fd08::/64, fd07::2/128";
    let conf = conf("KillSwitch = on", allowed);
    let closed = Closed::wanted("prod", &conf, &[], 0);
    for network in conf.routes() {
        let table = table_of(&conf, &network).unwrap();
        let twin = closed.twins.iter().find(|twin| {
            (twin.network, twin.prefix, twin.table) == (network.addr, network.prefix, table)
        });
        assert_eq!(twin.unwrap().kind, RouteKind::Unreachable);
    }
    assert_eq!(table_of(&conf, &cidr("0.0.0.0/0")), Some(REST));
    assert_eq!(table_of(&conf, &cidr("10.9.0.0/16")), Some(MESH));
    let default_v6 = closed
        .twins
        .iter()
        .any(|twin| twin.network == cidr("::/0").addr);
    assert!(
        default_v6,
        "no peer is the default way of IPv6: there is none"
    );
    // What the kernel routes by itself has no route of ours, but is the mesh's.
    assert_eq!(mesh_networks(&conf, Family::V6).len(), 3);
    let on_link = closed.rules.iter().find(|rule| rule.priority == 5211);
    assert_eq!(on_link.unwrap().suppress_prefix_len, Some(63));
}

#[test]
fn a_default_of_one_family_closes_that_one() {
    let conf = conf("", "0.0.0.0/1, 128.0.0.0/1, fd08::/64");
    let closed = Closed::wanted("prod", &conf, &[], 51820);
    assert!(closed.rules.iter().all(|rule| rule.family == Family::V4));
    let table = closed.table.unwrap();
    let other = Filter::accept(vec![Match::Family(Family::V6)]);
    assert!(table.chains[0].rules.contains(&other));
    assert_eq!(table_of(&conf, &cidr("fd08::/64")), Some(TABLE_MAIN));
    assert_eq!(mark(&conf), MARK);
    assert_eq!(tables(&conf), [TABLE_MAIN, MESH, REST]);
}

#[test]
fn who_can_still_be_answered() {
    let closed = conf("KillSwitch = on", "203.0.113.0/24");
    let allowed = conf(
        "KillSwitch = on\nKillSwitchAllow = tcp/22",
        "203.0.113.0/24",
    );
    let one_family = conf("", "0.0.0.0/0");
    let answers = |conf: &Conf, to: &str, port| may_answer(conf, to.parse().unwrap(), port);
    for near in ["203.0.113.9", "192.168.1.9", "fe80::1", "127.0.0.1"] {
        assert!(answers(&closed, near, 22), "{near}");
    }
    assert!(!answers(&closed, "198.51.100.9", 22) && !answers(&closed, "2001:db8::9", 22));
    assert!(answers(&allowed, "198.51.100.9", 22) && !answers(&allowed, "198.51.100.9", 23));
    assert!(answers(&one_family, "2001:db8::9", 22) && !answers(&one_family, "8.8.8.8", 22));
}

#[test]
fn the_mark_is_the_configured_one() {
    let conf = conf("KillSwitch = on\nFwMark = 0x7", "10.7.0.2/32");
    assert_eq!(mark(&conf), 7);
    let closed = Closed::wanted("prod", &conf, &[], 0);
    assert!(closed.rules.iter().all(|rule| rule.priority != FIRST));
    assert!(closed.rules.iter().any(|rule| rule.mark == Some(7)));
    assert_eq!(owner(&closed.rules), Some("prod"));
    assert!(closed.rules.iter().all(is_ours));
}

#[test]
fn the_networks_near_are_what_they_say() {
    for family in Family::BOTH {
        let texts = match family {
            Family::V4 => NEAR_V4.len(),
            Family::V6 => NEAR_V6.len(),
        };
        assert_eq!(near(family).count(), texts, "each can be read");
        for (addr, prefix) in near(family) {
            let network = Cidr { addr, prefix };
            assert_eq!(network.network(), network);
        }
    }
}

#[test]
fn the_default_of_some_users_leaves_the_others_alone() {
    let conf = conf("RouteUsers = 7, alice", "0.0.0.0/0, ::/0, 10.9.0.0/16");
    let closed = Closed::wanted("prod", &conf, &[7..=7, 1001..=1002], 51820);
    // Nothing but what is the mesh's, or comes from its addresses, asks our tables for everybody.
    let everybodys: std::collections::BTreeSet<u32> = closed
        .rules
        .iter()
        .filter(|rule| rule.uids.is_none())
        .map(|rule| rule.priority)
        .collect();
    assert_eq!(
        everybodys.into_iter().collect::<Vec<_>>(),
        [FIRST, 5200, MESH, 5211, 5245, END]
    );
    for family in Family::BOTH {
        for uids in [7..=7, 1001..=1002] {
            let last = Rule {
                uids: Some(uids),
                protocol: PROTO_KERNEL,
                ..Rule::new(family, 5251, meshd_os::netlink::RuleAction::Unreachable)
            };
            assert!(closed.rules.contains(&last));
        }
    }
    let rules = closed.table.unwrap().chains.remove(0).rules;
    assert_eq!(rules.last(), Some(&Filter::accept(vec![])));
    assert!(rules.contains(&Filter::drop(vec![Match::Users(1001..=1002)])));
    // Users whom this host doesn't have are not everybody.
    let nobody = Closed::wanted("prod", &conf, &[], 51820);
    assert!(nobody.rules.iter().all(|rule| rule.priority != 5251));
    assert_eq!(
        nobody.table.unwrap().chains[0].rules.last(),
        Some(&Filter::accept(vec![]))
    );
    assert!(!may_answer(&conf, "198.51.100.9".parse().unwrap(), 22));
}

#[test]
fn users_with_a_way_of_one_family_have_none_of_the_other() {
    for (allowed, family) in [("0.0.0.0/0", Family::V6), ("::/0", Family::V4)] {
        let closed = wanted("RouteUsers = 1001, 2000-2999", allowed);
        let last = Rule {
            uids: Some(2000..=2999),
            protocol: PROTO_KERNEL,
            ..Rule::new(family, 5251, meshd_os::netlink::RuleAction::Unreachable)
        };
        assert!(closed.rules.contains(&last), "{allowed}");
        let rules = closed.table.unwrap().chains.remove(0).rules;
        assert!(
            !rules.contains(&Filter::accept(vec![Match::Family(family)])),
            "{allowed}"
        );
    }
}
