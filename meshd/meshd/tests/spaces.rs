//! An interface in a network namespace of its own: what is run there sees the tunnel and nothing else, and the daemon needs
//! no right to go there.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod common;
#[path = "closed/scene.rs"]
mod scene;
#[path = "closed/wire.rs"]
mod wire;

use common::{hosts, sha256, Host, Mesh, MESHD};
use meshd_os::namespace;
use scene::{send_all, Scene};
use std::fs::File;
use std::os::fd::AsFd;
use wire::Frame;

const NAME: &str = "prod";
const PORT: u16 = 51820;

/// Host 2 with everything through host 1, its interface in the namespace `cell`.
fn confined(mesh: &Mesh) -> String {
    mesh.interface(2, "Namespace = cell\nDNS = 10.77.0.1, corp.example\n")
        + &mesh
            .peer(1, "PersistentKeepalive = 1\n")
            .replace("fd77::1/128", "fd77::1/128, 0.0.0.0/0, ::/0")
}

/// Runs a program by `meshd exec`; exit code and what it prints.
fn exec(host: &Host, args: &[&str]) -> (i32, String, String) {
    host.try_meshd(&[&["exec", NAME, "--"], args].concat(), "")
}

fn pings(host: &Host, to: &str) -> bool {
    exec(host, &["ping", "-c", "1", "-W", "5", to]).0 == 0
}

#[test]
fn a_program_there_sees_the_tunnel_and_nothing_else() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mesh = Mesh::new(2);
    let before = scene.kernel();
    scene.out.run(NAME);
    scene.out.sh("ip addr add 198.51.100.9/32 dev lo");
    scene
        .out
        .apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    let daemon = scene.closed.run(NAME);
    scene.closed.apply(NAME, &confined(&mesh));
    for to in ["10.77.0.1", "fd77::1", "198.51.100.9"] {
        scene
            .closed
            .until(&format!("{to} answers"), |host| pings(host, to));
    }
    let report = scene.closed.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["conf"].to_string().contains("Namespace = cell"));
    assert_eq!(scene.kernel(), before, "nothing is different outside");

    let said = |args: &[&str]| exec(&scene.closed, args).1;
    let links = said(&["ls", "/sys/class/net"]);
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["lo", NAME]);
    assert_eq!(
        said(&["cat", "/etc/resolv.conf"]),
        "nameserver 10.77.0.1\nsearch corp.example\n"
    );
    assert_eq!(exec(&scene.closed, &["sh", "-c", "exit 7"]).0, 7);
    assert_eq!(exec(&scene.closed, &["no-such-program"]).0, 127);
    let there = scene
        .closed
        .sh("mkdir -p /etc/netns/cell && echo nameserver 10.77.0.53 > /etc/netns/cell/resolv.conf");
    assert_eq!(there, "");
    assert_eq!(
        said(&["cat", "/etc/resolv.conf"]),
        "nameserver 10.77.0.53\n"
    );
    // What has no counterpart is left out, and the host doesn't get one.
    let there = scene
        .closed
        .sh("echo closed > /etc/netns/cell/nologin && mkdir /etc/netns/cell/none.d");
    assert_eq!(there, "");
    let (code, _, err) = exec(&scene.closed, &["true"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("there is no /etc/nologin to put it over"),
        "{err}"
    );
    let made = scene
        .closed
        .try_sh("ls -d /etc/nologin /etc/none.d 2> /dev/null");
    assert_eq!(made, "");

    assert_nothing_but_the_tunnel(&scene, "up");
    scene.closed.kill(daemon);
    assert_nothing_but_the_tunnel(&scene, "killed");
    let daemon = scene.closed.run(NAME);
    scene
        .closed
        .until("the tunnel is back", |host| pings(host, "10.77.0.1"));
    assert_eq!(scene.closed.terminate(daemon), 0);
    assert_nothing_but_the_tunnel(&scene, "stopped");
    scene.closed.meshd(&["remove", NAME]);
    assert_eq!(
        scene.closed.try_sh("ls /run/netns 2> /dev/null"),
        "",
        "it was made for this mesh"
    );
}

/// Everyone in the namespace sends by every tie; what leaves by the uplink is none of it.
fn assert_nothing_but_the_tunnel(scene: &Scene, phase: &str) {
    scene.tap.frames();
    let root = format!("/proc/{}/root", scene.closed.holder());
    let there = File::open(format!("{root}/run/netns/cell")).unwrap();
    std::thread::spawn(move || {
        namespace::enter(there.as_fd()).unwrap();
        for uplink in ["eth0", NAME] {
            send_all(uplink);
        }
    })
    .join()
    .unwrap();
    let frames = scene.tap.frames();
    let ours = |frame: &&Frame| matches!(frame, Frame::Packet { text, .. } if text.contains("</>"));
    let leaks: Vec<&Frame> = frames
        .iter()
        .filter(|frame| ours(frame) || !frame.is_exempt(PORT))
        .collect();
    assert!(leaks.is_empty(), "{phase}: {leaks:#?}");
}

#[test]
fn a_daemon_that_may_not_enter_is_handed_the_namespace() {
    let Some([mut out, mut host]) = hosts::<2>() else {
        return;
    };
    if !common::installed("setpriv") {
        eprintln!("skipped: it takes setpriv");
        return;
    }
    let mesh = Mesh::new(2);
    out.run(NAME);
    out.apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    let start = |host: &mut Host| {
        let child = host.spawn(
            "setpriv",
            &["--bounding-set=-all,+net_admin", MESHD, "run", NAME],
        );
        host.until("it serves", |host| {
            host.try_meshd(&["status", NAME], "").0 == 0
        });
        child
    };
    let daemon = start(&mut host);
    // `switch` is run by root, who may.
    host.apply(NAME, &confined(&mesh));
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    host.kill(daemon);
    let daemon = start(&mut host);
    let status = host.status(NAME);
    assert_eq!(status["state"], "absent");
    assert!(
        status["notes"].to_string().contains("meshd space prod"),
        "{status}"
    );
    // As the unit does after it has started the daemon.
    host.meshd(&["space", NAME]);
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    host.meshd(&["space", NAME]);
    assert!(pings(&host, "10.77.0.1"), "again is no change");
    // Under that name there is another namespace now: the link goes there.
    host.sh("ip netns del cell");
    host.meshd(&["space", NAME]);
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    // There it can't live at first.
    host.sh("ip netns del cell && ip netns add cell && ip -n cell link add prod type bridge");
    let (code, _, err) = host.try_meshd(&["space", NAME], "");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("another interface has that name"), "{err}");
    host.sh("ip -n cell link del prod");
    host.meshd(&["space", NAME]);
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    // Out of the namespace, and back by itself.
    let plain = mesh.interface(2, "") + &mesh.peer(1, "");
    let id = host.stage(NAME, &plain);
    host.meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    host.until("the mesh is here", |host| host.pings("10.77.0.1"));
    host.meshd(&["rollback", NAME]);
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    assert_eq!(host.terminate(daemon), 0);
}

#[test]
fn the_link_outlives_the_daemon_there_too() {
    let Some([mut out, host]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    out.run(NAME);
    out.apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    host.meshd(&["start", NAME]);
    host.apply(NAME, &confined(&mesh));
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    let link = || host.sh("ip -n cell -o link show prod | cut -d: -f1");
    let before = link();
    let supervisor = host.sh("cat /run/meshd/prod.pid");
    let daemon = || {
        let supervisor = supervisor.trim();
        host.sh(&format!(
            "cat /proc/{supervisor}/task/{supervisor}/children"
        ))
    };
    let first = daemon();
    host.sh(&format!("kill -9 {first}"));
    host.until("another daemon serves", |host| {
        daemon() != first && host.try_meshd(&["status", NAME], "").0 == 0
    });
    assert_eq!(link(), before, "the same link");
    host.until("the tunnel works", |host| pings(host, "10.77.0.1"));
    let report = host.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    host.meshd(&["stop", NAME]);
    assert_eq!(host.try_sh("ip -n cell -o link show prod"), "");
}

/// Under systemd the folder of the sockets is the daemon's own: one that was taken over must gain nothing when root comes.
#[test]
fn root_trusts_nothing_in_the_daemons_folder() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    let mesh = Mesh::new(2);
    host.run(NAME);
    host.sh("echo precious > /etc/precious && ln -s /etc/precious /run/meshd/prod.netns");
    host.apply(NAME, &mesh.interface(2, "Namespace = cell\n"));
    assert_eq!(host.sh("cat /etc/precious"), "precious\n");
    host.sh("rm -f /run/meshd/prod.netns && printf ../../etc/precious > /run/meshd/prod.netns");
    host.meshd(&["remove", NAME]);
    assert_eq!(host.sh("cat /etc/precious"), "precious\n");
    let left = host.try_sh("ls -d /run/netns/* /run/meshd-netns 2> /dev/null");
    assert_eq!(left, "", "what was made is gone all the same");
}

#[test]
fn what_makes_no_sense_there_is_refused() {
    let Some([mut host]) = hosts::<1>() else {
        return;
    };
    let mesh = Mesh::new(2);
    host.run(NAME);
    for (extra, said) in [
        ("KillSwitch = on\n", "in there is no other way out"),
        ("Forward = 192.168.9.0/24\n", "remove one of the two lines"),
        ("Namespace = ../x\n", "is not a name"),
    ] {
        let namespace = if extra.contains("Namespace") {
            ""
        } else {
            "Namespace = cell\n"
        };
        let conf = mesh.interface(2, &format!("{namespace}{extra}"));
        let (code, _, err) = host.try_meshd(&["stage", NAME, "--id", &sha256(&conf)], &conf);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains(said), "{err}");
    }
    host.sh("ip netns add cell && ip -n cell link add prod type bridge");
    let conf = mesh.interface(2, "Namespace = cell\n");
    let id = host.stage(NAME, &conf);
    let (code, _, err) = host.try_meshd(&["switch", NAME, "--id", &id], "");
    assert_eq!(code, 1);
    assert!(
        err.contains("another interface has that name in the network namespace cell"),
        "{err}"
    );
    let (code, _, err) = host.try_meshd(&["exec", NAME, "--", "true"], "");
    assert_eq!(code, 1, "{err}");
}
