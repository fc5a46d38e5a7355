//! What the daemon can't do: with its privileges given up in every thread, from a stranger's connection, and in a container
//! that has little to begin with.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "confined/container.rs"]
mod container;

use common::{hosts, Mesh};
use container::{container, Node};

const NAME: &str = "prod";

/// CAP_NET_ADMIN and CAP_NET_BIND_SERVICE.
const KEPT: u64 = 1 << 12 | 1 << 10;

#[test]
fn every_thread_is_confined_and_a_whole_life_goes_on() {
    let Some([mut a, mut b]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let daemon = a.run(NAME);
    b.run(NAME);
    a.apply(NAME, &mesh.conf(1));
    b.apply(NAME, &mesh.conf(2));
    a.until("the mesh works", |host| host.pings("10.77.0.2"));
    let threads = a.sh(&format!("cat /proc/{}/task/*/status", a.pid(daemon)));
    let values = |key: &str| -> Vec<u64> {
        let lines = threads.lines().filter_map(|line| line.strip_prefix(key));
        lines
            .map(|value| u64::from_str_radix(value.trim(), 16).unwrap())
            .collect()
    };
    assert!(values("Seccomp:").len() >= 3, "control and two directions");
    assert!(values("Seccomp:").iter().all(|mode| *mode == 2), "filtered");
    assert!(values("NoNewPrivs:").iter().all(|set| *set == 1));
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
        assert!(values(set).iter().all(|caps| caps & !KEPT == 0), "{set}");
    }
    // The 17th field after the name (proc_pid_stat(5)).
    let stats = a.sh(&format!("cat /proc/{}/task/*/stat", a.pid(daemon)));
    let nice: Vec<(&str, &str)> = stats
        .lines()
        .filter_map(|line| line.split_once(" (")?.1.rsplit_once(") "))
        .filter_map(|(name, fields)| Some((name, fields.split(' ').nth(16)?)))
        .filter(|(name, _)| name.starts_with("meshd-"))
        .collect();
    // A nice value that somebody chose, for these tests perhaps, stands.
    let given = a.sh("nice");
    let given = given.trim();
    let received = if given == "0" { "-3" } else { given };
    let expected = [("meshd-tx0", given), ("meshd-rx0", received)];
    assert_eq!(nice[..2], expected, "packets come before programs");
    let status = a.meshd(&["status", NAME, "--json"]);
    assert_eq!(status.contains("\"priority\""), given == "0", "{status}");
    // Everything a daemon does beside that, under the filter: names, another port, a rollback, `wg`, an end.
    let more = mesh
        .interface(1, "Relay = on\nForward = 192.168.9.0/24\n")
        .replace("51820", "51821")
        + &mesh.peer(2, "").replace("192.0.2.2:", "nobody.invalid:");
    let id = a.stage(NAME, &more);
    a.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    a.meshd(&["rollback", NAME]);
    a.until("the mesh works again", |host| host.pings("10.77.0.2"));
    a.meshd(&["ping", NAME]);
    if common::installed("wg") {
        assert!(a.sh("wg show prod dump").contains(mesh.public(2)));
    }
    assert_eq!(a.terminate(daemon), 0);
}

#[test]
fn a_stranger_is_not_answered_even_where_the_socket_is_open_to_all() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    if !common::installed("python3") || !common::installed("setpriv") {
        eprintln!("skipped: it takes python3 and setpriv");
        return;
    }
    host.run(NAME);
    assert_eq!(host.sh("stat -c %a /run/meshd/prod.sock"), "600\n");
    host.sh("chmod 711 /run /run/meshd && chmod 666 /run/meshd/prod.sock");
    let ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/meshd/prod.sock'); s.sendall(b'{\"do\":\"status\"}\\n'); print(len(s.recv(9)))";
    let script = |who: &str| {
        format!(
            "{who} /usr/bin/env python3 -c \"{}\" 2>&1 || true",
            ask.replace('"', "\\\"")
        )
    };
    assert_eq!(host.sh(&script("")), "9\n", "root is");
    let stranger = host.sh(&script(
        "setpriv --reuid 65534 --regid 65534 --clear-groups",
    ));
    assert!(
        stranger == "0\n"
            || stranger.contains("ConnectionReset")
            || stranger.contains("BrokenPipe"),
        "{stranger}"
    );
}

#[test]
fn an_unprivileged_container_has_a_mesh() {
    let Some([mut out]) = hosts::<1>() else {
        return;
    };
    let Some(mut container) = container(&out, Node::Given) else {
        return;
    };
    let mesh = Mesh::new(2);
    out.run(NAME);
    out.apply(NAME, &mesh.conf(1));
    let daemon = container.run(NAME);
    container.apply(
        NAME,
        &(mesh.interface(2, "FwMark = 0x77\n") + &mesh.peer(1, "")),
    );
    container.until("the mesh works", |host| {
        host.pings("10.77.0.1") && host.pings("fd77::1")
    });
    let report = container.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    let status = container.sh(&format!("cat /proc/{}/status", container.pid(daemon)));
    assert!(status.contains("Seccomp:\t2"), "{status}");
    // A closed container: its own rules and tables of nf_tables are its own.
    let closed = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "");
    container.apply(NAME, &closed);
    let report = container.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(container
        .try_sh("ip route get 198.51.100.9 2>&1")
        .contains("No route"));
    container.meshd(&["remove", NAME]);
}

#[test]
fn a_container_without_tun_is_told_so() {
    for (node, why, hint) in [
        (
            Node::Missing,
            "/dev/net/tun does not exist",
            "give the container /dev/net/tun",
        ),
        (
            Node::Forbidden,
            "no permission to make a TUN device",
            "/dev/net/tun of mode 0666",
        ),
    ] {
        let Some([out]) = hosts::<1>() else { return };
        let Some(mut container) = container(&out, node) else {
            return;
        };
        let mesh = Mesh::new(2);
        container.run(NAME);
        let conf = mesh.conf(2);
        let id = container.stage(NAME, &conf);
        let (code, _, err) = container.try_meshd(&["switch", NAME, "--id", &id], "");
        assert_eq!(code, 1);
        assert!(err.contains(why) && err.contains(hint), "{err}");
    }
}
