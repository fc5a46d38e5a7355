//! meshd against a daemon nobody here wrote: the released wireguard-go from the Go module proxy, configured by the same `wg`.
//! Both directions of the first handshake, IPv4 and IPv6 outside and inside, with and without preshared key, bytes compared.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::flow::transfer;
use common::wireguard_go::wireguard_go;
use common::{hosts, keys, Host, MESHD};
use std::thread::sleep;
use std::time::Duration;

/// One of meshd (host 1) and wireguard-go (host 2), each on its own host, set up by `wg`.
struct Pair {
    ours: Host,
    theirs: Host,
}

fn pair(outer: [&str; 2], preshared: bool, we_begin: bool) -> Option<Pair> {
    let go = wireguard_go()?.to_str().unwrap();
    let [mut ours, mut theirs] = hosts::<2>()?;
    ours.spawn(MESHD, &["bare", "wg0"]);
    theirs.spawn(go, &["-f", "wg0"]);
    let both = [keys(), keys()];
    let psk = if preshared {
        "preshared-key /run/psk"
    } else {
        ""
    };
    for (n, host) in [&ours, &theirs].into_iter().enumerate() {
        let other = 1 - n;
        host.until("the device serves wg", |host| {
            host.sh("ls /run/wireguard 2>/dev/null || true")
                .contains("wg0.sock")
        });
        let endpoint = if we_begin == (n == 0) {
            format!("endpoint {}", outer[other])
        } else {
            String::new()
        };
        host.sh(&format!(
            "echo {} > /run/key; echo AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA= > /run/psk
             wg set wg0 private-key /run/key listen-port 5000 peer {} {psk} allowed-ips 10.1.0.{}/32,fd01::{}/128 {endpoint}
             ip addr add 10.1.0.{}/24 dev wg0; ip addr add fd01::{}/64 dev wg0 nodad; ip link set wg0 up mtu 1420",
            both[n].0, both[other].1, other + 1, other + 1, n + 1, n + 1
        ));
    }
    Some(Pair { ours, theirs })
}

fn talk(pair: &Pair, we_begin: bool) {
    let Pair { ours, theirs } = pair;
    if we_begin {
        ours.until("answered", |host| host.pings("10.1.0.2"));
    } else {
        theirs.until("answered", |host| host.pings("10.1.0.1"));
    }
    assert!(ours.pings("fd01::2") && theirs.pings("fd01::1"));
    transfer(ours, theirs, "10.1.0.2", 16);
    transfer(theirs, ours, "fd01::1", 16);
}

#[test]
fn over_ipv4_we_begin() {
    let Some(pair) = pair(["192.0.2.1:5000", "192.0.2.2:5000"], false, true) else {
        return;
    };
    talk(&pair, true);
}

#[test]
fn over_ipv4_they_begin_with_preshared_key() {
    let Some(pair) = pair(["192.0.2.1:5000", "192.0.2.2:5000"], true, false) else {
        return;
    };
    talk(&pair, false);
}

#[test]
fn over_ipv6_we_begin_with_preshared_key() {
    let Some(pair) = pair(["[2001:db8::1]:5000", "[2001:db8::2]:5000"], true, true) else {
        return;
    };
    talk(&pair, true);
}

#[test]
fn over_ipv6_they_begin() {
    let Some(pair) = pair(["[2001:db8::1]:5000", "[2001:db8::2]:5000"], false, false) else {
        return;
    };
    talk(&pair, false);
}

/// A session lives 120 s before its successor is made: 130 s of pings see it change without a loss.
#[test]
#[ignore = "takes 130 s"]
fn through_a_rekey_without_loss() {
    let Some(Pair { ours, theirs }) = pair(["192.0.2.1:5000", "192.0.2.2:5000"], true, true) else {
        return;
    };
    ours.until("answered", |host| host.pings("10.1.0.2"));
    let handshake = |host: &Host| host.sh("wg show wg0 latest-handshakes");
    let before = handshake(&ours);
    let pings = ours.sh(
        "ping -q -i 0.05 -w 130 10.1.0.2 | grep -o '[0-9]* packets transmitted, [0-9]* received'",
    );
    let counts: Vec<&str> = pings
        .split_whitespace()
        .filter(|word| word.parse::<u32>().is_ok())
        .collect();
    assert_eq!(counts[0], counts[1], "{pings}");
    assert_ne!(handshake(&ours), before);
    sleep(Duration::from_millis(10));
    assert_eq!(
        handshake(&ours).split_whitespace().nth(1),
        handshake(&theirs).split_whitespace().nth(1)
    );
}
