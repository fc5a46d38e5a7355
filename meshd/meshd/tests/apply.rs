//! The safe way from one configuration to the next, on real interfaces: stage, switch, confirm, rollback, and what is
//! reported meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{hosts, sha256, Host, Mesh};
use std::thread::sleep;
use std::time::Duration;

const NAME: &str = "prod";

/// Two hosts with a live, confirmed mesh between them.
fn pair() -> Option<([Host; 2], Mesh)> {
    let mut both = hosts::<2>()?;
    let mesh = Mesh::new(2);
    for (n, host) in (1..).zip(both.iter_mut()) {
        host.run(NAME);
        host.stage(NAME, &mesh.conf(n));
    }
    for (n, host) in (1..).zip(&both) {
        host.meshd(&[
            "switch",
            NAME,
            "--id",
            &sha256(&mesh.conf(n)),
            "--within",
            "60",
        ]);
    }
    for (n, host) in (1..).zip(&both) {
        host.meshd(&["confirm", NAME, "--id", &sha256(&mesh.conf(n))]);
    }
    Some((both, mesh))
}

fn handshake_age(host: &Host) -> f64 {
    host.status(NAME)["peers"][0]["latest_handshake_s"]
        .as_f64()
        .expect("there was a handshake")
}

#[test]
fn first_install_comes_up_and_reports_no_drift() {
    let Some(([a, b], mesh)) = pair() else { return };
    for to in ["10.77.0.2", "fd77::2"] {
        assert!(a.pings(to), "{to}");
    }
    for (n, host) in [(1, &a), (2, &b)] {
        let report = host.report(NAME);
        assert_eq!(report["running"], report["conf"]);
        assert_eq!(
            report["running_sha256"],
            sha256(report["conf"].as_str().unwrap())
        );
        assert_eq!(
            (
                report["state"].as_str(),
                report["staged_id"].as_str(),
                report["switched_id"].as_str()
            ),
            (Some("running"), None, None)
        );
        assert_eq!(host.sh("cat /etc/meshd/prod.conf"), mesh.conf(n));
        assert_eq!(
            host.sh("stat -c %a /etc/meshd /etc/meshd/prod.conf"),
            "700\n600\n"
        );
    }
    let status: serde_json::Value =
        serde_json::from_str(&a.meshd(&["ping", NAME, "--json"])).unwrap();
    let peer = &status["peers"][0];
    assert_eq!(
        (peer["alive"].as_bool(), peer["name"].as_str()),
        (Some(true), Some("h2"))
    );
    assert!(peer["rtt_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(peer["loss"].as_f64(), Some(0.0));
    assert_eq!(status["mtu"], 1420);
}

#[test]
fn a_live_change_keeps_sessions() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    sleep(Duration::from_millis(1100));
    let before = handshake_age(&a);
    let (_, stranger) = common::keys();
    let changed = mesh
        .interface(1, "MTU = 1400\nAddress = 10.78.0.1/24\n")
        .replace("51820", "51999")
        + &mesh.peer(2, "")
        + &format!("[Peer]\nPublicKey = {stranger}\nAllowedIPs = 10.80.0.0/16\n");
    a.apply(NAME, &changed);
    assert!(handshake_age(&a) >= before, "the session was lost");
    assert!(a.pings("10.77.0.2"));
    let report = a.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(a.sh("ip route show 10.80.0.0/16").contains("dev prod"));
    assert!(a.sh("ip link show prod").contains("mtu 1400"));
    // And back again: what is no longer wanted goes.
    a.apply(NAME, &mesh.conf(1));
    assert!(handshake_age(&a) >= before);
    assert_eq!(
        a.sh("ip route show 10.80.0.0/16; ip -4 addr show dev prod | grep -c 10.78 || true"),
        "0\n"
    );
}

#[test]
fn unconfirmed_goes_back_by_itself() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    let before = a.report(NAME);
    let changed = mesh.interface(1, "MTU = 1300\n") + &mesh.peer(2, "");
    let id = a.stage(NAME, &changed);
    a.meshd(&["switch", NAME, "--id", &id, "--within", "1"]);
    let report = a.report(NAME);
    assert_eq!(report["switched_id"].as_str(), Some(id.as_str()));
    assert!(report["rollback_in_s"].as_f64().unwrap() <= 1.0);
    assert_ne!(report["running"], before["running"]);
    a.until("back", |host| {
        host.report(NAME)["running"] == before["running"]
    });
    assert_eq!(
        a.try_meshd(&["confirm", NAME, "--id", &id], "").0,
        5,
        "too late"
    );
    assert!(a.pings("10.77.0.2"));
}

#[test]
fn rollback_at_once_and_a_first_install_goes_back_to_absent() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    a.run(NAME);
    let id = a.stage(NAME, &mesh.conf(1));
    a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    a.sh("ip link show prod");
    a.meshd(&["rollback", NAME]);
    assert_eq!(
        a.sh("ip link show prod 2>&1 || true"),
        "Device \"prod\" does not exist.\n"
    );
    let report = a.report(NAME);
    assert_eq!(
        (report["state"].as_str(), report["running"].as_str()),
        (Some("absent"), Some(""))
    );
}

#[test]
fn a_change_that_cuts_a_live_link_is_not_confirmed() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    let cut = mesh.interface(1, "")
        + &mesh.peer(2, "").replace("192.0.2.2", "192.0.2.77").replace(
            "AllowedIPs",
            "PresharedKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nAllowedIPs",
        );
    // A fresh private key on our side: the other end knows nobody of it.
    let (stranger, _) = common::keys();
    let own = mesh
        .interface(1, "")
        .lines()
        .find(|l| l.starts_with("PrivateKey"))
        .unwrap()
        .to_owned();
    let cut = cut.replace(&own, &format!("PrivateKey = {stranger}"));
    let id = a.stage(NAME, &cut);
    a.meshd(&["switch", NAME, "--id", &id, "--within", "20"]);
    let (code, out, err) =
        a.try_meshd(&["confirm", NAME, "--id", &id, "--wait", "2", "--json"], "");
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("h2 was alive before the switch and is not now"),
        "{err}"
    );
    assert!(out.contains("\"confirmed\":false"), "{out}");
    assert_eq!(
        a.sh("cat /etc/meshd/prod.conf"),
        mesh.conf(1),
        "nothing was confirmed"
    );
    a.meshd(&["confirm", NAME, "--id", &id, "--wait", "1", "--force"]);
    assert_eq!(a.sh("cat /etc/meshd/prod.conf"), cut);
}

#[test]
fn confirming_twice_is_fine_and_strangers_are_refused() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    a.meshd(&["confirm", NAME, "--id", &sha256(&mesh.conf(1))]);
    assert_eq!(
        a.try_meshd(&["confirm", NAME, "--id", &"0".repeat(64)], "")
            .0,
        5
    );
    assert_eq!(
        a.try_meshd(&["switch", NAME, "--id", &"0".repeat(64)], "")
            .0,
        5
    );
    assert_eq!(
        a.try_meshd(&["stage", NAME, "--id", &"0".repeat(64)], "[Interface]\n")
            .0,
        3
    );
    assert_eq!(
        a.try_meshd(
            &["stage", NAME, "--id", &sha256("[Interface]\n")],
            "[Interface]\n"
        )
        .0,
        3
    );
    assert_eq!(a.try_meshd(&["status", "other"], "").0, 4);
}

#[test]
fn killed_between_switch_and_confirm_starts_from_the_confirmed() {
    let Some(([mut a, _b], mesh)) = pair() else {
        return;
    };
    let before = a.report(NAME)["running"].clone();
    let id = a.stage(
        NAME,
        &(mesh.interface(1, "MTU = 1300\n") + &mesh.peer(2, "")),
    );
    a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    a.kill(0);
    assert_eq!(a.report(NAME)["state"].as_str(), Some("down"));
    a.run(NAME);
    assert_eq!(a.report(NAME)["running"], before);
    assert!(a.pings("10.77.0.2"));
    // What was staged is still in its file, so it can be switched to without being staged again.
    a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    a.meshd(&["confirm", NAME, "--id", &id]);
    assert!(a.sh("ip link show prod").contains("mtu 1300"));
}

#[test]
fn a_foreign_link_and_a_taken_port_are_refused_and_nothing_changes() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    a.run(NAME);
    a.sh("ip link add prod type bridge");
    let (code, _, err) = a.try_meshd(
        &["stage", NAME, "--id", &sha256(&mesh.conf(1))],
        &mesh.conf(1),
    );
    assert_eq!(code, 1);
    assert!(err.contains("another interface has that name"), "{err}");
    a.sh("test ! -e /etc/meshd/prod.next && ip link show prod | grep -q BROADCAST && ip link del prod");

    let squatter = a.spawn(common::MESHD, &["bare", "squat"]);
    a.until("squatter", |host| {
        host.sh("wg show interfaces 2>/dev/null || true")
            .contains("squat")
    });
    a.sh("wg set squat listen-port 51820");
    let (code, _, err) = a.try_meshd(
        &["stage", NAME, "--id", &sha256(&mesh.conf(1))],
        &mesh.conf(1),
    );
    assert_eq!(code, 1);
    assert!(err.contains("UDP port 51820 is taken"), "{err}");
    a.terminate(squatter);
    a.apply(NAME, &mesh.conf(1));
}

#[test]
fn hosts_block_goes_in_and_out_to_the_byte() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(1);
    let before = a.sh("cat /etc/hosts");
    let inode = a.sh("stat -c %i /etc/hosts");
    a.run(NAME);
    a.apply(
        NAME,
        &mesh.interface(
            1,
            "Host = 10.77.0.1 h1 h1.prod\nHost = fd77::1 h1 h1.prod\n",
        ),
    );
    assert!(a
        .sh("getent -s files hosts h1.prod || cat /etc/hosts")
        .contains("h1"));
    let report = a.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    // A hurt block is drift, and the next confirmation heals it.
    a.sh("sed -i 's/10.77.0.1 h1/10.77.0.9 h1/' /etc/hosts");
    assert_ne!(a.report(NAME)["running"], report["conf"]);
    a.meshd(&[
        "confirm",
        NAME,
        "--id",
        &sha256(&mesh.interface(
            1,
            "Host = 10.77.0.1 h1 h1.prod\nHost = fd77::1 h1 h1.prod\n",
        )),
    ]);
    assert_eq!(a.report(NAME)["running"], report["conf"]);
    a.meshd(&["remove", NAME]);
    assert_eq!(a.sh("cat /etc/hosts"), before);
    let _ = inode;
    assert_eq!(a.sh("ls /etc/meshd"), "");
    assert_eq!(a.report(NAME)["state"].as_str(), Some("absent"));
}

#[test]
fn what_is_changed_behind_our_back_shows_and_is_healed() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    let conf = a.report(NAME)["conf"].clone();
    let changes = [
        format!(
            "wg set prod peer {} persistent-keepalive 25",
            mesh.public(2)
        ),
        format!("wg set prod peer {} endpoint 192.0.2.99:1", mesh.public(2)),
        format!("wg set prod peer {} remove", mesh.public(2)),
        "wg set prod listen-port 5555".to_owned(),
        "wg set prod fwmark 0x7".to_owned(),
        "ip route del 10.77.0.2/32 dev prod".to_owned(),
        "ip -6 route del fd77::2/128 dev prod".to_owned(),
        "ip addr del 10.77.0.1/32 dev prod".to_owned(),
        "ip addr add 10.99.0.1/24 dev prod".to_owned(),
        "ip link set prod mtu 1300".to_owned(),
        "ip link set prod down".to_owned(),
        "ip link del prod".to_owned(),
    ];
    for change in changes {
        a.sh(&change);
        a.until(&format!("`{change}` shows"), |host| {
            host.report(NAME)["running"] != conf
        });
        a.apply(NAME, &mesh.conf(1));
        assert_eq!(a.report(NAME)["running"], conf, "healed after `{change}`");
    }
    assert!(a.pings("10.77.0.2"));
}

#[test]
fn an_expired_peer_is_dropped_and_is_no_drift() {
    let Some(([a, _b], mesh)) = pair() else {
        return;
    };
    let soon = a.sh("date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ");
    a.apply(
        NAME,
        &(mesh.interface(1, "") + &mesh.peer(2, &format!("Expires = {soon}"))),
    );
    assert!(a.pings("10.77.0.2"));
    a.until("dropped", |host| {
        host.status(NAME)["peers"].as_array().unwrap().is_empty()
    });
    let report = a.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["conf"].as_str().unwrap().contains("Expires"));
}

#[test]
fn stopping_takes_the_interface_away() {
    let Some(([mut a, _b], _)) = pair() else {
        return;
    };
    assert_eq!(a.terminate(0), 0);
    assert!(a
        .sh("ip link show prod 2>&1 || true")
        .contains("does not exist"));
    assert_eq!(
        a.sh("ls /run/meshd /run/wireguard"),
        "/run/meshd:\n\n/run/wireguard:\n"
    );
    a.run(NAME);
    a.until("boot loads the confirmed configuration", |host| {
        host.pings("10.77.0.2")
    });
}
