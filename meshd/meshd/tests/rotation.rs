//! Keys and preshared keys change on live interfaces under traffic, in the three steps of contracts §1a, and no packet is
//! lost; the same with a peer that isn't meshd and knows one key only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::flow::{Counts, Flow};
use common::wireguard_go::wireguard_go;
use common::{hosts, installed, keys, sha256, Host};

const NAME: &str = "prod";

/// The old and the new keys of two hosts and of their pair.
struct Keys {
    own: [[(String, String); 2]; 2],
    psk: [String; 2],
}

#[derive(Clone, Copy)]
enum Stage {
    Old,
    Both,
    New,
}

impl Keys {
    fn new() -> Self {
        let psk = || keys().0;
        Self {
            own: [[keys(), keys()], [keys(), keys()]],
            psk: [psk(), psk()],
        }
    }

    fn pair(word: &str, [old, new]: [&str; 2], stage: Stage) -> String {
        match stage {
            Stage::Old => format!("{word} = {old}\n"),
            Stage::Both => format!("{word} = {old}\nNext{word} = {new}\n"),
            Stage::New => format!("{word} = {new}\n"),
        }
    }

    /// The configuration of host 1 or 2.
    fn conf(&self, n: usize, stage: Stage) -> String {
        let other = 3 - n;
        let own = [0, 1].map(|age| self.own[n - 1][age].0.as_str());
        let theirs = [0, 1].map(|age| self.own[other - 1][age].1.as_str());
        let psk = [0, 1].map(|age| self.psk[age].as_str());
        format!(
            "[Interface]\n{}Address = 10.77.0.{n}/32, fd77::{n}/128\nListenPort = 51820\n\
             [Peer]\n{}{}AllowedIPs = 10.77.0.{other}/32, fd77::{other}/128\nEndpoint = 192.0.2.{other}:51820\n",
            Self::pair("PrivateKey", own, stage),
            Self::pair("PublicKey", theirs, stage),
            Self::pair("PresharedKey", psk, stage),
        )
    }
}

/// Two hosts that have shaken hands with their old keys.
fn pair() -> Option<([Host; 2], Keys)> {
    let mut both = hosts::<2>()?;
    let made = Keys::new();
    for (n, host) in (1..).zip(both.iter_mut()) {
        host.run(NAME);
        host.apply(NAME, &made.conf(n, Stage::Old));
    }
    both[0].until("answered", |host| host.pings("10.77.0.2"));
    Some((both, made))
}

fn moved(host: &Host) {
    host.until("the session has moved", |host| {
        peer(host)["rotation"] == "moved"
    });
}

fn peer(host: &Host) -> serde_json::Value {
    host.status(NAME)["peers"][0].clone()
}

/// Takes a configuration live and confirms it: what was alive must be alive, and what runs be what is configured.
fn apply(host: &Host, conf: &str) {
    let id = host.stage(NAME, conf);
    host.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    host.meshd(&["confirm", NAME, "--id", &id, "--wait", "10"]);
    let report = host.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    for secret in conf.lines().filter(|line| {
        line.starts_with("PrivateKey")
            || line.contains("PresharedKey")
            || line.contains("NextPrivateKey")
    }) {
        let secret = secret.split_once(" = ").unwrap().1;
        assert!(!report.to_string().contains(secret), "a secret shows");
    }
}

fn nothing_lost(flows: Vec<Flow>) {
    for flow in flows {
        let counts @ Counts { sent, received, .. } = flow.end();
        eprintln!("{counts:?}");
        // A released build is done sooner.
        assert!(sent > 20, "{counts:?}");
        assert_eq!(sent, received, "{counts:?}");
    }
}

#[test]
fn keys_change_under_traffic_and_nothing_is_lost() {
    let Some((both, made)) = pair() else { return };
    let [a, b] = &both;
    let flows = vec![
        Flow::begin(a, b, "10.77.0.2", 300, 800),
        Flow::begin(b, a, "fd77::1", 300, 800),
    ];
    // Announced everywhere, one host after the other.
    apply(a, &made.conf(1, Stage::Both));
    assert_eq!(peer(a)["rotation"], "waiting");
    assert_eq!(peer(a)["next_public_key"], made.own[1][1].1.as_str());
    apply(b, &made.conf(2, Stage::Both));
    moved(a);
    moved(b);
    if installed("wg") {
        let shown = a.sh("wg show prod dump");
        let mut lines = shown.lines();
        let own = lines.next().unwrap().split('\t').nth(1);
        assert_eq!(own, Some(made.own[0][0].1.as_str()), "the current key");
        let theirs = lines.next().unwrap().split('\t').next();
        assert_eq!(theirs, Some(made.own[1][0].1.as_str()));
        assert_eq!(lines.next(), None, "one peer with two keys is one peer");
    }
    // Taken over: the session that has moved stays what it is.
    let shaken = a.status(NAME)["peers"][0]["latest_handshake_s"]
        .as_f64()
        .unwrap();
    apply(b, &made.conf(2, Stage::New));
    apply(a, &made.conf(1, Stage::New));
    let peer_now = peer(a);
    assert!(
        peer_now["latest_handshake_s"].as_f64().unwrap() > shaken,
        "{peer_now}"
    );
    assert_eq!(peer_now["rotation"], serde_json::Value::Null);
    assert_eq!(peer_now["public_key"], made.own[1][1].1.as_str());
    assert_eq!(a.status(NAME)["public_key"], made.own[0][1].1.as_str());
    nothing_lost(flows);
}

#[test]
fn a_switch_that_is_not_confirmed_takes_the_keys_back() {
    let Some((both, made)) = pair() else { return };
    let [a, b] = &both;
    for (n, host) in [(1, a), (2, b)] {
        apply(host, &made.conf(n, Stage::Both));
    }
    moved(a);
    moved(b);
    let flows = vec![
        Flow::begin(a, b, "10.77.0.2", 300, 100),
        Flow::begin(b, a, "10.77.0.1", 300, 100),
    ];
    let before = a.report(NAME)["running"].clone();
    let shaken = peer(a)["latest_handshake_s"].as_f64().unwrap();
    for turn in 0..8 {
        let id = a.stage(NAME, &made.conf(1, Stage::New));
        a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
        assert_ne!(a.report(NAME)["running"], before);
        a.meshd(&["rollback", NAME]);
        assert_eq!(a.report(NAME)["running"], before, "turn {turn}");
    }
    assert!(
        peer(a)["latest_handshake_s"].as_f64().unwrap() > shaken,
        "the session was lost"
    );
    nothing_lost(flows);
}

#[test]
fn a_peer_that_is_not_meshd_goes_on_through_it_all() {
    let Some(go) = wireguard_go() else { return };
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let made = Keys::new();
    a.run(NAME);
    a.apply(NAME, &made.conf(1, Stage::Old));
    b.spawn(go.to_str().unwrap(), &["-f", NAME]);
    b.until("the device serves wg", |host| {
        host.sh("ls /run/wireguard 2>/dev/null || true")
            .contains("prod.sock")
    });
    // Theirs changes to the keys of `stage`, as an administrator would do it.
    let set = |stage: usize| {
        let ([own, theirs], other) = (
            [&made.own[1][stage].0, &made.own[0][stage].1],
            &made.own[0][1 - stage].1,
        );
        b.sh(&format!(
            "echo {own} > /run/key; echo {} > /run/psk
             wg set prod private-key /run/key listen-port 51820 peer {other} remove peer {theirs} preshared-key /run/psk \
             allowed-ips 10.77.0.1/32,fd77::1/128 endpoint 192.0.2.1:51820",
            made.psk[stage]
        ));
    };
    set(0);
    b.sh("ip addr add 10.77.0.2/32 dev prod && ip link set prod up mtu 1420 && ip route add 10.77.0.1/32 dev prod");
    a.until("answered", |host| host.pings("10.77.0.2"));
    let flows = |a: &Host, b: &Host| {
        vec![
            Flow::begin(a, b, "10.77.0.2", 300, 800),
            Flow::begin(b, a, "10.77.0.1", 300, 800),
        ]
    };
    // Announced: it knows of nothing, and loses nothing.
    let handshake = |host: &Host| host.sh("wg show prod latest-handshakes");
    let before = handshake(&b);
    let running = flows(&a, &b);
    apply(&a, &made.conf(1, Stage::Both));
    b.until("it has shaken hands with the old keys again", |host| {
        handshake(host) != before
    });
    assert_eq!(peer(&a)["rotation"], "waiting");
    assert!(a.pings("10.77.0.2"));
    nothing_lost(running);
    // It begins anew with the old keys, and then with the new ones: both are answered.
    for stage in [0, 1, 0, 1] {
        set(stage);
        b.sh("ip link set prod down && ip link set prod up && ip route replace 10.77.0.1/32 dev prod");
        b.until("answered", |host| host.pings("10.77.0.1"));
        assert!(a.pings("10.77.0.2"));
    }
    assert_eq!(peer(&a)["rotation"], "moved");
    // The old keys go, and nobody notices.
    let running = flows(&a, &b);
    let shaken = peer(&a)["latest_handshake_s"].as_f64().unwrap();
    apply(&a, &made.conf(1, Stage::New));
    a.sh("ping -q -c 50 -i 0.02 10.77.0.2");
    assert!(peer(&a)["latest_handshake_s"].as_f64().unwrap() > shaken);
    nothing_lost(running);
    assert_eq!(
        a.report(NAME)["conf_sha256"],
        sha256(a.report(NAME)["conf"].as_str().unwrap())
    );
}
