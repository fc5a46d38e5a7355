//! The flat routes against a search through all networks.

use super::*;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').unwrap();
    Cidr::new(address.parse().unwrap(), prefix.parse().unwrap()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Longest prefix by looking at every network.
fn linear(allowed: &AllowedIps, address: IpAddr) -> Option<u32> {
    let holding = allowed
        .owners
        .iter()
        .filter(|(network, _)| network.contains(address));
    holding
        .max_by_key(|(network, _)| network.prefix)
        .map(|(_, owner)| *owner)
}

#[test]
fn the_longest_prefix_wins() {
    let mut allowed = AllowedIps::default();
    for (owner, networks) in [
        "192.168.4.0/24 192.168.0.0/16 ::/0",
        "192.168.4.4/32 2607:5300:60:6b0::/64 64.15.112.0/20",
        "192.95.5.64/27 64.15.123.211/25 2607:5300::/16",
        "0.0.0.0/0 10.0.0.0/8",
        "10.0.0.0/9 10.128.0.0/9 255.255.255.255/32 ffff::/16",
    ]
    .iter()
    .enumerate()
    {
        for network in networks.split(' ') {
            allowed.insert(cidr(network), owner as u32);
        }
    }
    let routes = allowed.routes();
    for (address, owner) in [
        ("192.168.4.20", 0),
        ("192.168.4.4", 1),
        ("192.168.200.182", 0),
        ("192.95.5.68", 2),
        ("192.95.5.96", 3),
        ("64.15.123.211", 2),
        ("64.15.123.127", 1),
        ("10.1.1.1", 4),
        ("10.255.255.255", 4),
        ("0.0.0.0", 3),
        ("255.255.255.255", 4),
        ("255.255.255.254", 3),
        ("2607:5300:60:6b0::c05f:543", 1),
        ("2607:5300:60:6b1::", 2),
        ("2607:5301::", 2),
        ("2608::", 0),
        ("ffff:ffff::1", 4),
    ] {
        assert_eq!(routes.lookup(ip(address)), Some(owner), "{address}");
        assert_eq!(linear(&allowed, ip(address)), Some(owner), "{address}");
    }
}

#[test]
fn families_are_apart_and_nobody_is_nobody() {
    let mut allowed = AllowedIps::default();
    assert_eq!(allowed.routes().lookup(ip("1.2.3.4")), None);
    allowed.insert(cidr("0.0.0.0/0"), 1);
    assert_eq!(allowed.routes().lookup(ip("::1")), None);
    assert_eq!(allowed.routes().lookup(ip("0.0.0.0")), Some(1));
    assert_eq!(allowed.routes().lookup(ip("255.255.255.255")), Some(1));
}

#[test]
fn a_network_has_one_owner_and_moves() {
    let mut allowed = AllowedIps::default();
    assert_eq!(allowed.insert(cidr("10.0.0.0/24"), 1), None);
    assert_eq!(allowed.insert(cidr("10.0.0.0/24"), 1), None);
    assert_eq!(
        allowed.insert(cidr("10.0.0.77/24"), 2),
        Some(1),
        "host bits do not make another network"
    );
    assert!(!allowed.remove(&cidr("10.0.0.0/24"), 1));
    assert!(allowed.remove(&cidr("10.0.0.0/24"), 2));
    assert!(!allowed.remove(&cidr("10.0.0.0/24"), 2));
}

#[test]
fn networks_are_printed_and_bounded() {
    assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
    assert_eq!(cidr("2001:DB8::1/32").to_string(), "2001:db8::/32");
    assert_eq!(Cidr::host(ip("::1")).to_string(), "::1/128");
    assert_eq!(Cidr::new(ip("10.0.0.1"), 33), None);
    assert_eq!(Cidr::new(ip("::1"), 129), None);
    assert_eq!(cidr("1.2.3.4/0").to_string(), "0.0.0.0/0");
}

/// Networks that nest and touch: few distinct bits.
fn network() -> impl Strategy<Value = Cidr> {
    let v4 = (
        prop_oneof![any::<u32>(), 0u32..64, Just(u32::MAX)],
        0u8..=32,
    )
        .prop_map(|(bits, prefix)| Cidr::new(IpAddr::V4(bits.into()), prefix));
    let v6 = (
        prop_oneof![any::<u128>(), 0u128..64, Just(u128::MAX)],
        0u8..=128,
    )
        .prop_map(|(bits, prefix)| Cidr::new(IpAddr::V6(bits.into()), prefix));
    prop_oneof![v4, v6].prop_map(Option::unwrap)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn routes_agree_with_a_linear_search(
        inserts in prop::collection::vec((network(), 0u32..6), 0..60),
        removals in prop::collection::vec((any::<prop::sample::Index>(), 0u32..6), 0..20),
        probes in prop::collection::vec(network(), 0..40),
    ) {
        let mut allowed = AllowedIps::default();
        for (network, owner) in &inserts {
            allowed.insert(*network, *owner);
        }
        if !inserts.is_empty() {
            for (index, owner) in &removals {
                allowed.remove(&index.get(&inserts).0, *owner);
            }
        }
        let routes = allowed.routes();
        // Both edges of every network and the addresses beyond them.
        let edges = inserts.iter().map(|(network, _)| network).chain(&probes).flat_map(|network| {
            match network.address() {
                IpAddr::V4(ip) => {
                    let (first, last) = (ip.to_bits(), ip.to_bits().last(network.prefix()).unwrap());
                    [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(|bits| IpAddr::V4(bits.into()))
                }
                IpAddr::V6(ip) => {
                    let (first, last) = (ip.to_bits(), ip.to_bits().last(network.prefix()).unwrap());
                    [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(|bits| IpAddr::V6(bits.into()))
                }
            }
        });
        for address in edges {
            prop_assert_eq!(routes.lookup(address), linear(&allowed, address), "{}", address);
        }
    }
}
