//! The daemon around its mesh: bare devices, endpoint names, background operation, what idles.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{hosts, installed, keys, sha256, Mesh, MESHD};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_bare_device_is_what_wg_expects() {
    let Some([mut a]) = hosts::<1>() else { return };
    if !installed("wg") {
        eprintln!("skipped: `wg` is not installed");
        return;
    }
    let bare = a.spawn(MESHD, &["bare", "wg7"]);
    a.until("serves wg", |host| {
        host.sh("ls /run/wireguard 2>/dev/null || true")
            .contains("wg7.sock")
    });
    let ((own, own_public), (_, peer)) = (keys(), keys());
    a.sh(&format!(
        "echo {own} > /run/key; echo AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA= > /run/psk
         wg set wg7 private-key /run/key listen-port 5000 fwmark 0x1234 peer {peer} preshared-key /run/psk \
         allowed-ips 10.0.0.0/8,fd00::/8 endpoint 192.0.2.9:7 persistent-keepalive 25"
    ));
    let dump = a.sh("wg show wg7 dump");
    let lines: Vec<Vec<&str>> = dump
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(lines[0], [own.as_str(), &own_public, "5000", "0x1234"]);
    assert_eq!(
        lines[1],
        [
            peer.as_str(),
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
            "192.0.2.9:7",
            "10.0.0.0/8,fd00::/8",
            "0",
            "0",
            "0",
            "25"
        ]
    );
    a.sh("wg showconf wg7 > /run/conf && wg syncconf wg7 /run/conf");
    assert_eq!(
        a.sh("wg show wg7 dump"),
        dump,
        "syncconf with what is so changes nothing"
    );
    a.sh("wg setconf wg7 /run/conf");
    assert_eq!(a.sh("wg show wg7 dump"), dump);
    a.sh(&format!("wg set wg7 peer {peer} remove"));
    assert_eq!(a.sh("wg show wg7 dump").lines().count(), 1);
    assert_eq!(
        a.sh(&format!("wg set wg7 peer {own_public} && wg show wg7 dump"))
            .lines()
            .count(),
        1,
        "our own key is no peer"
    );

    // It survives its link's move and its rename, and ends with the link.
    a.sh("ip link set wg7 name wg8 && ip link set wg8 up");
    assert!(!a.has_ended(bare));
    a.sh("ip link del wg8");
    a.until("ended", |host| host.sh("ls /run/wireguard").is_empty());
    sleep(Duration::from_millis(200));
    assert!(a.has_ended(bare));
}

#[test]
fn a_bare_device_whose_name_is_taken_says_so() {
    let Some([a]) = hosts::<1>() else { return };
    a.sh("ip link add wg7 type bridge");
    let (code, _, err) = a.try_meshd(&["bare", "wg7"], "");
    assert_eq!(code, 1);
    assert!(
        err.starts_with("meshd: interface wg7: another interface has that name ("),
        "{err}"
    );
}

#[test]
fn endpoint_names_are_looked_up_and_looked_up_again() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let named = mesh.interface(1, "") + &mesh.peer(2, "").replace("192.0.2.2:", "Two.example:");
    a.sh("printf '\\n192.0.2.99 two.example\\n' >> /etc/hosts");
    a.run("prod");
    a.apply("prod", &named);
    b.run("prod");
    // Our side alone knows where the other one is.
    b.apply(
        "prod",
        &(mesh.interface(2, "") + &mesh.peer(1, "").replace("Endpoint = 192.0.2.1:51820\n", "")),
    );
    a.until("resolved", |host| {
        host.status("prod")["peers"][0]["endpoint"] == "192.0.2.99:51820"
    });
    assert_eq!(
        a.status("prod")["peers"][0]["configured_endpoint"],
        "two.example:51820"
    );
    a.sh("sed -i s/192.0.2.99/192.0.2.2/ /etc/hosts");
    a.meshd(&["ping", "prod", "--wait", "16"]);
    assert_eq!(
        a.status("prod")["peers"][0]["alive"],
        true,
        "{}",
        a.status("prod")
    );
    let report = a.report("prod");
    assert_eq!(report["running"], report["conf"]);
}

#[test]
fn a_dead_link_says_why() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(4);
    a.run("prod");
    let conf = mesh.interface(1, "")
        + &mesh.peer(2, "")
        + &mesh.peer(3, "").replace("Endpoint = 192.0.2.3:51820\n", "")
        + &mesh.peer(4, "").replace("192.0.2.4:", "nowhere.invalid:");
    a.sh("echo > /etc/resolv.conf");
    a.apply("prod", &conf);
    let status: serde_json::Value =
        serde_json::from_str(&a.meshd(&["ping", "prod", "--wait", "3", "--json"])).unwrap();
    let reason = |name: &str| {
        let peers = status["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["name"] == name).unwrap();
        assert_eq!(peer["alive"], false, "{peer}");
        peer["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("h2"), "no answer from 192.0.2.2:51820");
    assert_eq!(reason("h3"), "no endpoint known");
    assert_eq!(
        reason("h4"),
        "endpoint name does not resolve: nowhere.invalid"
    );
}

#[test]
fn in_the_background_without_an_init() {
    let Some([a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    a.meshd(&["start", "prod"]);
    a.apply("prod", &mesh.conf(1));
    let supervisor = a.sh("cat /run/meshd/prod.pid");
    a.meshd(&["start", "prod"]);
    assert_eq!(
        a.sh("cat /run/meshd/prod.pid"),
        supervisor,
        "start is a no-op while it runs"
    );
    let daemon = |host: &common::Host| {
        host.sh(&format!(
            "cat /proc/{0}/task/{0}/children",
            supervisor.trim()
        ))
        .trim()
        .to_owned()
    };
    let first = daemon(&a);
    a.sh(&format!("kill -9 {first}"));
    a.until("started again", |host| {
        let again = daemon(host);
        !again.is_empty() && again != first && host.try_meshd(&["status", "prod"], "").0 == 0
    });
    assert_eq!(a.report("prod")["state"], "running");
    assert!(a
        .sh("cat /var/log/meshd-prod.log")
        .contains("the daemon died"));
    a.meshd(&["stop", "prod"]);
    a.meshd(&["stop", "prod"]);
    assert!(a
        .sh("ls /run/meshd; ip link show prod 2>&1 || true")
        .contains("does not exist"));
    assert_eq!(a.try_meshd(&["status", "prod"], "").0, 4);
    assert_eq!(a.report("prod")["state"], "down");
    assert_eq!(a.report("prod")["running"], "");
    a.meshd(&["remove", "prod"]);
    assert_eq!(
        a.sh("ls -A /etc/meshd; ls -A /var/lib/meshd 2>/dev/null || true"),
        ""
    );
}

#[test]
fn the_private_key_can_live_in_a_file() {
    let Some([mut a]) = hosts::<1>() else { return };
    let (private, public) = keys();
    a.run("prod");
    a.sh(&format!(
        "mkdir -p /etc/meshd; echo {private} > /etc/meshd/prod.key; chmod 600 /etc/meshd/prod.key"
    ));
    a.apply(
        "prod",
        "[Interface]\nPrivateKeyFile = /etc/meshd/prod.key\nAddress = 10.77.0.1/32\n",
    );
    let report = a.report("prod");
    assert_eq!(report["public_key"], public);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["conf"].as_str().unwrap().contains(&public));
    let missing = "[Interface]\nPrivateKeyFile = /etc/meshd/none\n";
    let (code, _, err) = a.try_meshd(&["stage", "prod", "--id", &sha256(missing)], missing);
    assert_eq!(code, 3, "{err}");
}

#[test]
fn what_this_version_cannot_do_is_refused() {
    let Some([mut a]) = hosts::<1>() else { return };
    a.run("prod");
    let (private, public) = keys();
    for line in [
        "KillSwitch = on\n",
        &format!("[Peer]\nPublicKey = {public}\nAllowedIPs = 0.0.0.0/0\n"),
    ] {
        let conf = format!("[Interface]\nPrivateKey = {private}\n{line}");
        let (code, _, err) = a.try_meshd(&["stage", "prod", "--id", &sha256(&conf)], &conf);
        assert_eq!(code, 3, "{err}");
    }
}

#[test]
fn an_idle_daemon_sleeps() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    for host in [&a, &b] {
        // What the kernel itself sends into a new link is not our doing.
        host.sh("sysctl -qw net.ipv6.conf.default.router_solicitations=0");
    }
    let daemon = a.run("prod");
    b.run("prod");
    a.apply("prod", &mesh.conf(1));
    b.apply("prod", &mesh.conf(2));
    a.until("answered", |host| host.pings("10.77.0.2"));
    // The timers of the last packet are over after 25 s at most (paper section 6); nothing is due after that for minutes.
    sleep(Duration::from_secs(27));
    let pid = a.pid(daemon);
    let switches = |host: &common::Host| {
        host.sh(&format!(
            "cat /proc/{pid}/task/*/status | grep ctxt_switches"
        ))
    };
    let before = switches(&a);
    sleep(Duration::from_secs(10));
    assert_eq!(switches(&a), before, "somebody woke up");
}
