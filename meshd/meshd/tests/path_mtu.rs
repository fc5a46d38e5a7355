//! Paths that lose large packets in silence: found by need, lived with, and forgotten when they get better.
//!
//! The narrow path is a rule of nf_tables at both hosts that drops what is longer, and sends nothing back. Segmentation offload
//! is off there, so that a packet is as long for the rule as it would be on a wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::flow::{transfer, Flow};
use common::{hosts, installed, Host, Mesh};
use std::time::{Duration, Instant};

const NAME: &str = "prod";

/// Two hosts with a live mesh over IPv4 or IPv6.
fn pair(outer: [&str; 2]) -> Option<([Host; 2], Mesh)> {
    for tool in ["nft", "ethtool"] {
        if !installed(tool) {
            eprintln!("skipped: `{tool}` is not installed");
            return None;
        }
    }
    let mut both = hosts::<2>()?;
    let mesh = Mesh::new(2);
    for (n, host) in (1..).zip(both.iter_mut()) {
        host.sh("ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off 2> /dev/null || ethtool -K eth0 gso off");
        host.run(NAME);
        let other = mesh
            .peer(3 - n, "")
            .replace("192.0.2.1:", &format!("{}:", outer[0]))
            .replace("192.0.2.2:", &format!("{}:", outer[1]));
        host.apply(NAME, &(mesh.interface(n, "") + &other));
    }
    both[0].until("answered", |host| host.pings("10.77.0.2"));
    Some((both, mesh))
}

/// Nothing longer than this arrives any more.
fn narrow(host: &Host, longest: u32) {
    host.sh(&format!(
        "nft 'add table netdev narrow; flush table netdev narrow
         add chain netdev narrow in {{ type filter hook ingress device \"eth0\" priority 0; }}
         add rule netdev narrow in meta length > {longest} counter drop'"
    ));
}

fn widen(host: &Host) {
    host.sh("nft delete table netdev narrow");
}

fn mtu(host: &Host) -> u64 {
    host.status(NAME)["peers"][0]["mtu"].as_u64().unwrap()
}

fn pings(host: &Host, to: &str, payload: u32) -> bool {
    let payload = payload.to_string();
    let args = ["-c", "1", "-W", "1", "-s", &payload, to];
    host.command("ping", &args)
        .output()
        .unwrap()
        .status
        .success()
}

/// How long until a packet of full size is answered.
fn until_it_pings(host: &Host, to: &str, payload: u32) -> Duration {
    let start = Instant::now();
    host.until("a packet of full size passes", |host| {
        pings(host, to, payload)
    });
    start.elapsed()
}

#[test]
fn a_path_that_loses_large_packets_in_silence_is_found() {
    let Some(([a, b], _)) = pair(["192.0.2.1", "192.0.2.2"]) else {
        return;
    };
    assert_eq!((mtu(&a), mtu(&b)), (1420, 1420));
    for host in [&a, &b] {
        narrow(host, 1400);
    }
    // TCP first, which no packet of full size has gone ahead of.
    let start = Instant::now();
    transfer(&a, &b, "10.77.0.2", 8);
    transfer(&b, &a, "fd77::1", 8);
    let took = start.elapsed();
    eprintln!("16 MiB over a path that turned narrow: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    for host in [&a, &b] {
        // 1400 less 60 of IPv4, UDP and WireGuard, in steps of 16.
        assert_eq!(mtu(host), 1328);
        let reason = host.status(NAME)["peers"][0]["mtu_reason"].clone();
        assert_eq!(reason, "packets longer than 1328 bytes get lost on the way");
    }
    let took = until_it_pings(&a, "10.77.0.2", 1392).max(until_it_pings(&b, "fd77::1", 1372));
    assert!(took < Duration::from_secs(5), "{took:?}");
    // What may be fragmented is, and none of it is lost.
    let flow = Flow::begin_without_df(&a, &b, "10.77.0.2", 100, 1388);
    std::thread::sleep(Duration::from_secs(1));
    let counts = flow.end();
    assert_eq!(counts.sent, counts.received, "{counts:?}");

    // Narrower still, while it is used.
    for host in [&a, &b] {
        narrow(host, 1344);
    }
    let flow = Flow::begin_without_df(&a, &b, "10.77.0.2", 100, 1388);
    a.until("it is found", |host| mtu(host) == 1280);
    assert!(until_it_pings(&a, "10.77.0.2", 1392) < Duration::from_secs(5));

    // And better again.
    for host in [&a, &b] {
        widen(host);
    }
    let start = Instant::now();
    while mtu(&a) != 1420 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{}",
            a.status(NAME)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!("the path got better {:?} ago", start.elapsed());
    assert_eq!(
        a.status(NAME)["peers"][0]["mtu_reason"],
        serde_json::Value::Null
    );
    drop(flow);
}

#[test]
fn over_ipv6_as_well() {
    let Some(([a, b], _)) = pair(["[2001:db8::1]", "[2001:db8::2]"]) else {
        return;
    };
    for host in [&a, &b] {
        // Just enough for the least that IPv6 needs inside.
        narrow(host, 1360);
    }
    assert!(until_it_pings(&a, "fd77::2", 1372) < Duration::from_secs(8));
    assert!(until_it_pings(&a, "10.77.0.2", 1392) < Duration::from_secs(8));
    transfer(&b, &a, "fd77::1", 4);
    assert_eq!((mtu(&a), mtu(&b)), (1280, 1280));
}

#[test]
fn tcp_passes_where_a_firewall_inside_drops_what_says_too_big() {
    let Some(([a, b], _)) = pair(["192.0.2.1", "192.0.2.2"]) else {
        return;
    };
    for host in [&a, &b] {
        host.sh("nft 'add table inet deaf
             add chain inet deaf in { type filter hook input priority 0; }
             add rule inet deaf in iifname \"prod\" icmp type != echo-request counter drop
             add rule inet deaf in iifname \"prod\" icmpv6 type != echo-request counter drop'");
        // As it is for a host that has no offloads: each packet is one segment.
        host.sh("ethtool -K prod tso off gso off");
        narrow(host, 1400);
    }
    let start = Instant::now();
    transfer(&a, &b, "10.77.0.2", 4);
    transfer(&b, &a, "fd77::1", 4);
    let took = start.elapsed();
    eprintln!("8 MiB without a word of the path: {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!((mtu(&a), mtu(&b)), (1328, 1328));
    // One that begins when the path is known.
    transfer(&a, &b, "fd77::2", 4);
    let rules = a.sh("nft list table inet deaf");
    assert!(
        !rules.contains("packets 0 "),
        "it was told and did not hear: {rules}"
    );
}

/// Not even echoes are let in: the daemons answer what they ask each other about the path.
#[test]
fn tcp_passes_where_a_firewall_inside_drops_all_of_icmp() {
    let Some(([a, b], _)) = pair(["192.0.2.1", "192.0.2.2"]) else {
        return;
    };
    for host in [&a, &b] {
        host.sh("nft 'add table inet deaf
             add chain inet deaf in { type filter hook input priority 0; }
             add rule inet deaf in iifname \"prod\" meta l4proto { icmp, icmpv6 } drop'");
        host.sh("ethtool -K prod tso off gso off");
        narrow(host, 1400);
    }
    assert!(!pings(&a, "10.77.0.2", 100), "nobody answers pings");
    let start = Instant::now();
    transfer(&a, &b, "10.77.0.2", 4);
    transfer(&b, &a, "fd77::1", 4);
    let took = start.elapsed();
    eprintln!("8 MiB past firewalls that drop all of ICMP: {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!((mtu(&a), mtu(&b)), (1328, 1328));
}

#[test]
fn on_a_link_too_narrow_for_the_least_packet_the_outer_ones_are_fragmented() {
    for outer in [
        ["192.0.2.1", "192.0.2.2"],
        ["[2001:db8::1]", "[2001:db8::2]"],
    ] {
        let Some(([a, b], _)) = pair(outer) else {
            return;
        };
        for host in [&a, &b] {
            host.sh("ip link set eth0 mtu 1290");
        }
        for host in [&a, &b] {
            host.until("the tunnel is as narrow as can be", |host| {
                host.sh("ip link show prod").contains("mtu 1280")
            });
        }
        assert!(until_it_pings(&a, "fd77::2", 1232) < Duration::from_secs(5));
        transfer(&a, &b, "10.77.0.2", 4);
        transfer(&b, &a, "fd77::1", 4);
        assert!(a.sh("ip addr show prod").contains("fd77::1"));
    }
}

#[test]
fn a_quiet_mesh_asks_nothing() {
    let Some(([a, _b], _)) = pair(["192.0.2.1", "192.0.2.2"]) else {
        return;
    };
    let sent = |host: &Host| host.status(NAME)["peers"][0]["tx_bytes"].as_u64().unwrap();
    // Small packets ask nothing: what is sent is they and a keepalive.
    let before = sent(&a);
    for _ in 0..20 {
        assert!(a.pings("10.77.0.2"));
    }
    let after = sent(&a);
    assert!(after - before < 20 * 200, "{}", after - before);
    // One of full size asks once.
    assert!(pings(&a, "10.77.0.2", 1392));
    let asked = sent(&a) - after;
    assert!((1400..5000).contains(&asked), "{asked}");
}
