//! Fail closed, on a real uplink: senders of many kinds try to get out in every phase of a daemon's life, and a tap at the
//! other end of the uplink sees nothing that the written list of exemptions doesn't have.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "closed/hostile.rs"]
mod hostile;
#[path = "closed/scene.rs"]
mod scene;
#[path = "closed/wire.rs"]
mod wire;
#[path = "closed/without_nft.rs"]
mod without_nft;

use common::flow::Flow;
use common::supervised::{self, kill_daemon, supervise};
use common::{hosts, sha256, Host, Mesh};
use meshd_os::nft::{Nft, NftError};
use scene::{on, Scene};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use wire::Frame;

const NAME: &str = "prod";
const PORT: u16 = 51820;

fn has_nft() -> bool {
    !matches!(
        Nft::open().and_then(|nft| nft.find("none")),
        Err(NftError::Missing)
    )
}

#[test]
fn nothing_leaks_in_any_phase() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    if !has_nft() {
        eprintln!("skipped: this kernel has no nf_tables");
        return;
    }
    let mesh = Mesh::new(2);
    let before = scene.kernel();
    scene.assert_open("before anything");

    // Boot: the guard comes before the daemon, the network before both.
    let conf = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "PersistentKeepalive = 1\n");
    scene.closed.sh(&format!(
        "mkdir -p /etc/meshd && umask 077 && cat > /etc/meshd/prod.conf << 'END'\n{conf}END"
    ));
    scene.closed.meshd(&["guard", NAME]);
    scene.assert_closed("guarded, before the daemon");

    let daemon = scene.closed.run(NAME);
    scene.out.run(NAME);
    scene
        .out
        .apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    scene.closed.until("the mesh works", |host| {
        host.pings("10.77.0.1") && host.pings("fd77::1")
    });
    scene.assert_closed("up");
    let report = scene.closed.report(NAME);
    assert_eq!(report["running"], report["conf"]);

    scene.flush();
    scene.closed.until("whole again", |host| {
        host.report(NAME)["running"] == host.report(NAME)["conf"]
    });
    scene.assert_closed("after somebody's flush");

    let hostile = "set -e; for net in 0.0.0.0/1 128.0.0.0/1 10.77.0.1/32 198.51.100.0/24; do ip route add $net via 192.0.2.1; done
        for net in ::/1 8000::/1 fd77::1/128 2001:db8:ffff::/48; do ip -6 route add $net via 2001:db8::1 dev eth0; done";
    scene.closed.sh(hostile);
    scene.assert_closed("hostile routes");
    assert!(
        scene.closed.pings("10.77.0.1") && scene.closed.pings("fd77::1"),
        "hostile routes take nothing"
    );

    scene.closed.kill(daemon);
    scene.assert_closed("killed, hostile routes");
    scene.closed.sh(&hostile.replace("add", "del"));
    scene.assert_closed("killed");
    // Nobody is there to own the table or to put it back: until somebody is, the rules alone hold.
    scene.flush();

    let daemon = scene.closed.run(NAME);
    scene
        .closed
        .until("the mesh works", |host| host.pings("10.77.0.1"));
    scene.assert_closed("up again, after a flush while it was away");
    scene.closed.sh(
        "ip rule del pref 5251; ip -6 rule del pref 5250; ip route del unreachable default table 5250",
    );
    scene.closed.until("whole again", |host| {
        let report = host.report(NAME);
        report["running"] == report["conf"]
    });
    scene.assert_closed("after somebody took rules and routes away");
    scene.closed.sh("ip link del prod");
    scene.assert_closed("the interface deleted by somebody");
    assert_eq!(scene.closed.terminate(daemon), 0);
    scene.assert_closed("stopped");

    scene
        .closed
        .sh("ip link set eth0 down && ip link set eth0 name wan0 && ip link set wan0 up");
    scene
        .closed
        .sh("ip -6 addr add 2001:db8::2/64 dev wan0 nodad");
    scene.uplink = "wan0";
    scene.give_ways();
    scene.assert_closed("the uplink renamed");
    scene
        .closed
        .sh("ip link set wan0 down && ip link set wan0 name eth0 && ip link set eth0 up");
    scene
        .closed
        .sh("ip -6 addr add 2001:db8::2/64 dev eth0 nodad");
    scene.uplink = "eth0";
    scene.give_ways();

    scene.closed.meshd(&["remove", NAME]);
    assert_eq!(scene.kernel(), before);
    scene.assert_open("removed");
}

/// The network and the operator do what they can while everyone sends.
#[test]
fn nothing_leaks_while_things_happen() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    if !has_nft() || !common::installed("busybox") {
        eprintln!("skipped: it takes nf_tables in the kernel, and busybox for its DHCP");
        return;
    }
    let mesh = Mesh::new(3);
    let conf = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "PersistentKeepalive = 1\n");
    let daemon = scene.closed.run(NAME);
    scene.closed.apply(NAME, &conf);
    scene.out.run(NAME);
    scene
        .out
        .apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    scene
        .closed
        .until("the mesh works", |host| host.pings("10.77.0.1"));

    scene
        .closed
        .sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128");
    let client = scene.while_sending("a hostile lease", |scene| {
        hostile::dhcp(&mut scene.out, &mut scene.closed)
    });
    scene.while_sending("hostile advertisements", |scene| {
        hostile::advertise_until_taken(&scene.out, &scene.closed);
    });
    scene.while_sending("a renewal", |scene| hostile::renew(&scene.closed, client));
    assert!(
        scene.closed.pings("10.77.0.1") && scene.closed.pings("fd77::1"),
        "the network takes nothing"
    );

    let more = conf.clone() + &mesh.peer(3, "");
    let id = scene.closed.stage(NAME, &more);
    let within = ["--within", "60"];
    let switch =
        |host: &Host, id: &str| host.meshd(&[&["switch", NAME, "--id", id][..], &within].concat());
    scene.while_sending("a switch and the way back", |scene| {
        switch(&scene.closed, &id);
        scene.closed.meshd(&["rollback", NAME]);
    });
    scene.while_sending("a switch, confirmed", |scene| {
        scene.closed.apply(NAME, &more);
        scene.closed.apply(NAME, &conf);
    });
    let daemon = scene.while_sending("a restart", |scene| {
        assert_eq!(scene.closed.terminate(daemon), 0);
        scene.closed.run(NAME)
    });
    let daemon = scene.while_sending("kill -9 and a start", |scene| {
        scene.closed.kill(daemon);
        scene.closed.run(NAME)
    });
    scene
        .closed
        .until("the mesh works", |host| host.pings("10.77.0.1"));
    scene.while_sending("a flush, put right", |scene| {
        scene.flush();
        scene.closed.until("whole", |host| {
            let report = host.report(NAME);
            report["running"] == report["conf"]
        });
    });
    let supervisor = scene.while_sending("another keeper: our supervisor", |scene| {
        assert_eq!(scene.closed.terminate(daemon), 0);
        supervise(&mut scene.closed)
    });
    for phase in ["an upgrade", "another upgrade"] {
        scene.while_sending(phase, |scene| {
            let before = supervised::daemon(&scene.closed, supervisor);
            scene.closed.meshd(&["upgrade", NAME]);
            assert_ne!(supervised::daemon(&scene.closed, supervisor), before);
        });
    }
    scene.while_sending("kill -9, and the supervisor starts another", |scene| {
        kill_daemon(&scene.closed, supervisor);
    });
    scene
        .closed
        .until("the mesh works", |host| host.pings("10.77.0.1"));
    scene.while_sending(
        "killed with its supervisor: renewal and advertisements",
        |scene| {
            scene.closed.kill(supervisor);
            hostile::renew(&scene.closed, client);
            hostile::advertise(&scene.out);
        },
    );
    scene.while_sending("stopped: the guard alone", |scene| {
        scene.closed.meshd(&["guard", NAME]);
        hostile::renew(&scene.closed, client);
    });
    scene.assert_closed("after all that");
}

#[test]
fn a_switch_closes_and_going_back_opens() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mesh = Mesh::new(2);
    let plain = mesh.interface(2, "") + &mesh.peer(1, "");
    scene.closed.run(NAME);
    scene.closed.apply(NAME, &plain);
    let before = scene.kernel();
    let closed = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "");
    let id = scene.closed.stage(NAME, &closed);
    scene
        .closed
        .meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    assert_ne!(scene.kernel(), before);
    if has_nft() {
        scene.assert_closed("switched");
    }
    scene.closed.meshd(&["rollback", NAME]);
    assert_eq!(scene.kernel(), before);
}

#[test]
fn all_routed_through_the_mesh_is_closed_and_works() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mesh = Mesh::new(2);
    let all = mesh.interface(2, "")
        + &mesh
            .peer(1, "")
            .replace("fd77::1/128", "fd77::1/128, 0.0.0.0/0, ::/0");
    scene.closed.run(NAME);
    scene.closed.apply(NAME, &all);
    scene.out.sh(
        "ip addr add 198.51.100.9/32 dev lo && ip -6 addr add 2001:db8:ffff::9/128 dev lo nodad",
    );
    scene.out.run(NAME);
    scene
        .out
        .apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    for to in ["198.51.100.9", "2001:db8:ffff::9", "10.77.0.1"] {
        scene
            .closed
            .until(&format!("{to} answers"), |host| host.pings(to));
    }
    let report = scene.closed.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    if has_nft() {
        scene.assert_closed("all routed");
    }
    // One family is opened again, and closed again: nothing for the mesh leaves by the uplink meanwhile.
    let half = scene.closed.stage(NAME, &all.replace(", ::/0", ""));
    scene.tap.frames();
    let flow = Flow::begin(&scene.closed, &scene.out, "fd77::1", 1000, 100);
    for _ in 0..20 {
        scene
            .closed
            .meshd(&["switch", NAME, "--id", &half, "--within", "60"]);
        scene.closed.meshd(&["rollback", NAME]);
    }
    let counts = flow.end();
    assert_eq!(counts.sent, counts.received, "{counts:?}");
    // The other host is the gateway, too: what went past the mesh would have arrived.
    let to_mesh =
        |frame: &&Frame| matches!(frame, Frame::Packet { to, .. } if to.to_string() == "fd77::1");
    let leaks = scene.tap.frames().iter().filter(to_mesh).count();
    assert_eq!(leaks, 0);
}

#[test]
fn a_kernel_without_nf_tables_is_closed_by_rules_alone_and_says_so() {
    let Some([out, mut host]) = hosts::<2>() else {
        return;
    };
    let gap = "this kernel has no nf_tables: programs that bind to another interface are not kept from leaving by it";
    let mesh = Mesh::new(2);
    let conf = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "");
    host.sh("ip route add default via 192.0.2.1");
    without_nft::start(&mut host, &["run", NAME]);
    host.until("it serves", |host| {
        host.try_meshd(&["status", NAME], "").0 == 0
    });
    let id = sha256(&conf);
    let said = without_nft::output(&host, &["stage", NAME, "--id", &id], &conf);
    assert_eq!(said, format!("meshd: warning: KillSwitch: {gap}\n"));
    host.meshd(&["switch", NAME, "--id", &id]);
    host.meshd(&["confirm", NAME, "--id", &id, "--wait", "0"]);
    let notes = host.status(NAME)["notes"].to_string();
    assert!(notes.contains(gap), "{notes}");
    let report = host.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    let way = host.try_sh("ip route get 198.51.100.9 2>&1");
    assert!(way.contains("No route to host"), "the rules hold: {way}");
    drop(out);
}

#[test]
fn an_administrator_is_not_locked_out() {
    let Some([_out, mut host]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    host.run(NAME);
    let conf =
        |extra: &str| mesh.interface(2, &format!("KillSwitch = on\n{extra}")) + &mesh.peer(1, "");
    let over_ssh = |conf: &str| {
        let script = format!("SSH_CONNECTION='198.51.100.7 50000 192.0.2.2 22' {} stage {NAME} --id {} << 'END' 2>&1; echo $?\n{}END", common::MESHD, sha256(conf), conf);
        host.sh(&script)
    };
    let refused = over_ssh(&conf(""));
    assert!(
        refused.contains("add KillSwitchAllow = tcp/22") && refused.ends_with("3\n"),
        "{refused}"
    );
    assert!(
        refused.contains("connected to h2 from 198.51.100.7"),
        "{refused}"
    );
    assert_eq!(over_ssh(&conf("KillSwitchAllow = tcp/22\n")), "0\n");
}

#[test]
fn answers_of_a_declared_service_leave_and_nothing_else() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mesh = Mesh::new(2);
    let conf = mesh.interface(2, "KillSwitch = on\nKillSwitchAllow = tcp/22\n") + &mesh.peer(1, "");
    if common::installed("python3") {
        let frames = begin_at_22(&scene);
        assert!(frames.iter().any(is_from_22), "it is able to");
    }
    scene.closed.run(NAME);
    scene.closed.apply(NAME, &conf);
    let report = scene.closed.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    let reached = |ip: &str, port: u16| {
        let at: SocketAddr = format!("{ip}:{port}").parse().unwrap();
        let _listener = on(&scene.closed, || TcpListener::bind(at).unwrap());
        on(&scene.out, || {
            TcpStream::connect_timeout(&at, Duration::from_millis(500)).is_ok()
        })
    };
    for ip in ["192.0.2.2", "[2001:db8::2]"] {
        assert!(reached(ip, 22), "{ip}");
        assert!(!has_nft() || !reached(ip, 23), "{ip}");
    }
    if common::installed("python3") {
        let frames = begin_at_22(&scene);
        assert!(
            !frames.iter().any(is_from_22),
            "a connection that begins there is no answer"
        );
    }
}

/// Has the closed host begin a connection from port 22; what came out.
fn begin_at_22(scene: &Scene) -> Vec<Frame> {
    scene.tap.frames();
    let script = "import socket as s; c = s.socket(); c.settimeout(0.3); c.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1); c.bind(('0.0.0.0', 22)); c.connect_ex(('192.0.2.1', 7))";
    let done = scene.closed.command("python3", &["-c", script]).status();
    assert!(done.unwrap().success());
    scene.tap.frames()
}

fn is_from_22(frame: &Frame) -> bool {
    matches!(frame, Frame::Packet { inner, .. } if inner.starts_with(&[0, 22, 0, 7]))
}

#[test]
fn one_mesh_closes_a_host_and_others_leave_it_so() {
    let Some([_out, mut host]) = hosts::<2>() else {
        return;
    };
    let mesh = Mesh::new(2);
    let closed = mesh.interface(2, "KillSwitch = on\n") + &mesh.peer(1, "");
    let other = closed.replace("51820", "51821").replace("77", "78");
    let kernel = |host: &Host| {
        host.sh("ip rule; ip -6 rule; ip route show table 5210; ip route show table 5250")
    };
    host.run(NAME);
    host.apply(NAME, &closed);
    let before = kernel(&host);
    host.run("other");
    let id = host.stage("other", &other);
    let (code, _, err) = host.try_meshd(&["switch", "other", "--id", &id], "");
    assert_eq!(code, 1);
    assert!(
        err.contains("the mesh prod keeps this host closed already"),
        "{err}"
    );
    host.apply("other", &other.replace("KillSwitch = on\n", ""));
    assert_eq!(kernel(&host), before);
    host.meshd(&["remove", "other"]);
    assert_eq!(kernel(&host), before);
    let report = host.report(NAME);
    assert_eq!(report["running"], report["conf"]);
}
