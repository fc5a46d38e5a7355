use super::*;
use crate::conf::parse;

const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn conf(lines: &str, address: &str, allowed: &str) -> Conf {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nAddress = {address}\nExit = on\n{lines}\n[Peer]\nPublicKey = {PEER}\nAllowedIPs = {allowed}\n"
    );
    parse(text.as_bytes()).unwrap().conf.unwrap()
}

fn rules(table: &Table, hook: Hook) -> Vec<Rule> {
    let chain = table
        .chains
        .iter()
        .find(|chain| chain.hook == hook)
        .unwrap();
    assert!(
        !chain.drops,
        "what isn't the mesh's is none of our business"
    );
    chain.rules.clone()
}

fn net(text: &str) -> (IpAddr, u8) {
    let net = Cidr::parse(text).unwrap();
    (net.addr, net.prefix)
}

#[test]
fn what_peers_and_this_host_have_is_translated_and_nothing_else() {
    let conf = conf("", "10.0.0.5/24, fd00::5/128", "10.1.0.0/16, fd00::1/128");
    let table = table("prod", &conf, &Opened::default());
    assert_eq!(table.name, "meshd_prod_exit");
    let masquerading: Vec<Rule> = rules(&table, Hook::SourceNat)
        .into_iter()
        .filter(|rule| rule.verdict == meshd_os::nft::Verdict::Masquerade)
        .collect();
    let v4 = ["10.0.0.0/24", "10.0.0.5/32", "10.1.0.0/16"].map(net);
    let v6 = ["fd00::1/128", "fd00::5/128"].map(net);
    assert_eq!(
        masquerading,
        [
            Rule::masquerade(vec![Match::Source(Family::V4, v4.to_vec())]),
            Rule::masquerade(vec![Match::Source(Family::V6, v6.to_vec())]),
        ]
    );
}

#[test]
fn sites_keep_their_addresses_and_their_way_in() {
    let conf = conf("Forward = 192.168.7.0/24", "10.0.0.5/32", "10.0.0.1/32");
    let table = table("prod", &conf, &Opened::default());
    let site = vec![net("192.168.7.0/24")];
    let spared = vec![net("10.0.0.1/32"), net("10.0.0.5/32"), site[0]];
    let spared = Rule::accept(vec![Match::Destination(Family::V4, spared)]);
    let nat = rules(&table, Hook::SourceNat);
    let at = |rule: &Rule| nat.iter().position(|one| one == rule);
    let masquerade = nat
        .iter()
        .position(|one| one.verdict == meshd_os::nft::Verdict::Masquerade);
    assert!(at(&spared).is_some() && at(&spared) < masquerade, "{nat:?}");
    let forward = rules(&table, Hook::Forward);
    let [to, from] = [Match::OutLink("prod".into()), Match::InLink("prod".into())];
    assert!(forward.contains(&Rule::accept(vec![
        to.clone(),
        Match::Source(Family::V4, site.clone())
    ])));
    assert!(forward.contains(&Rule::accept(vec![
        from.clone(),
        Match::Destination(Family::V4, site)
    ])));
    // Whatever comes or goes by our link is decided before the last of its rules.
    for link in [to, from] {
        assert!(forward.contains(&Rule::drop(vec![link])));
    }
    // A mesh without IPv6 has none to let through.
    let v6 = Rule::drop(vec![
        Match::InLink("prod".into()),
        Match::Family(Family::V6),
    ]);
    assert!(forward.contains(&v6));
    assert!(has(&conf, Family::V4) && !has(&conf, Family::V6));
}

#[test]
fn private_networks_are_no_part_of_the_internet() {
    let conf = conf("Forward = 192.168.7.0/24", "10.0.0.5/32", "10.0.0.1/32");
    let forward = rules(&table("prod", &conf, &Opened::default()), Hook::Forward);
    let goes = |to: &str| {
        let to: IpAddr = to.parse().unwrap();
        let decides = |rule: &&Rule| {
            let from_mesh = rule.matches.first() == Some(&Match::InLink("prod".into()));
            let names = rule.matches.iter().any(|one| match one {
                Match::Destination(_, networks) => networks.iter().any(|&(addr, prefix)| {
                    Cidr { addr, prefix }.contains(Cidr {
                        addr: to,
                        prefix: Cidr::full(to),
                    })
                }),
                _ => false,
            });
            from_mesh && names
        };
        forward.iter().find(decides).map(|rule| rule.verdict)
    };
    use meshd_os::nft::Verdict::{Accept, Drop};
    assert_eq!(goes("192.168.7.9"), Some(Accept), "a site");
    for near in [
        "192.168.8.9",
        "10.9.9.9",
        "172.31.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "fd00::9",
        "fe80::9",
    ] {
        assert_eq!(goes(near), Some(Drop), "{near}");
    }
    for far in ["8.8.8.8", "172.32.0.1", "2001:db8::1"] {
        assert_eq!(goes(far), None, "{far}: as any other");
    }
}

#[test]
fn links_that_forward_because_of_us_serve_nobody_else() {
    let conf = conf("", "10.0.0.5/32", "10.0.0.1/32");
    let last = |opened: &Opened| rules(&table("prod", &conf, opened), Hook::Forward);
    let nothing = last(&Opened::default());
    let from = Match::InLink("prod".into());
    assert_eq!(nothing.last(), Some(&Rule::drop(vec![from])));
    let some = last(&Opened {
        v4: vec!["eth0".into()],
        v6: Opened6::Links(vec!["eth1".into()]),
    });
    let [.., answers, sent_here, v4, v6] = &some[..] else {
        panic!("{some:?}");
    };
    let drop =
        |family, link: &str| Rule::drop(vec![Match::Family(family), Match::InLink(link.into())]);
    assert_eq!(
        [v4, v6],
        [&drop(Family::V4, "eth0"), &drop(Family::V6, "eth1")]
    );
    for accepted in [answers, sent_here] {
        assert_eq!(accepted.verdict, meshd_os::nft::Verdict::Accept);
    }
    let all = last(&Opened {
        v4: Vec::new(),
        v6: Opened6::All,
    });
    let v6 = Rule::drop(vec![Match::Family(Family::V6)]);
    assert_eq!(all.last(), Some(&v6));
}
