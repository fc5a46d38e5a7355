//! `RouteUsers`: a peer is the default way for some users alone. They are kept in as by the kill switch, in every phase of a
//! daemon's life; everybody else goes on as before, but for mesh networks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[allow(dead_code)]
#[path = "closed/scene.rs"]
mod scene;
#[allow(dead_code)]
#[path = "closed/wire.rs"]
mod wire;

use common::{Host, Mesh};
use meshd_os::namespace;
use meshd_os::nft::{Nft, NftError};
use scene::{assert_no_leak, on, send_all, Scene, Tie, OUTSIDE};
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use wire::Frame;

const NAME: &str = "prod";
const PORT: u16 = 51820;
/// Users, by number: alice is in /etc/passwd, carol is one of a range, bob is none of ours.
const ALICE: u32 = 1001;
const CAROL: u32 = 2005;
const BOB: u32 = 1002;
/// Somebody on the internet, who is behind the other host of the mesh and behind its uplink.
const FAR: [&str; 2] = ["198.51.100.9", "2001:db8:ffff::9"];

/// Runs `f` on a host with sockets that are `uid`'s.
fn as_user<T>(host: &Host, uid: u32, f: impl FnOnce() -> T) -> T {
    on(host, || {
        become_user(uid);
        let done = f();
        become_user(0);
        done
    })
}

/// The user id that sockets made by this thread have from now on.
fn become_user(uid: u32) {
    // SAFETY: no pointers are passed; it changes this thread alone (setfsuid(2)).
    unsafe { libc::setfsuid(uid) };
    // SAFETY: as before; it says what is so.
    let is = unsafe { libc::setfsuid(u32::MAX) };
    assert_eq!(is as u32, uid);
}

/// What comes out of the uplink when a user sends everything.
fn sent_by(scene: &Scene, uid: u32) -> Vec<Frame> {
    scene.tap.frames();
    as_user(&scene.closed, uid, || {
        send_all(scene.uplink);
        for to in OUTSIDE {
            let _ = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(10));
        }
    });
    scene.tap.frames()
}

/// Alice and Carol are kept in, Bob and root are not, but for what is the mesh's.
fn assert_users_apart(scene: &Scene, phase: &str) {
    for uid in [ALICE, CAROL] {
        assert_no_leak(&format!("{phase}: {uid}"), &sent_by(scene, uid));
    }
    for uid in [BOB, 0] {
        // Neighbours have to be found first.
        sent_by(scene, uid);
        let frames = sent_by(scene, uid);
        for tie in [Tie::None, Tie::Device, Tie::Unicast, Tie::Address] {
            for to in OUTSIDE {
                let text = format!("<{tie:?}>{to}</>");
                let is = |frame: &Frame| matches!(frame, Frame::Packet { text: sent, .. } if sent.contains(&text));
                let mesh = to.contains("10.77.") || to.contains("fd77:");
                assert_eq!(frames.iter().any(is), !mesh, "{phase}: {uid}: {text}");
            }
        }
    }
}

/// Alice, who sends without a pause until this is dropped.
struct Alice {
    end: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
}

impl Alice {
    fn start(scene: &Scene) -> Self {
        let there = File::open(format!("/proc/{}/ns/net", scene.closed.holder())).unwrap();
        let alice = Self {
            end: Arc::default(),
            rounds: Arc::default(),
        };
        let (end, rounds, uplink) = (alice.end.clone(), alice.rounds.clone(), scene.uplink);
        thread::spawn(move || {
            namespace::enter(there.as_fd()).unwrap();
            become_user(ALICE);
            while !end.load(Ordering::Relaxed) {
                send_all(uplink);
                rounds.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        alice
    }

    /// Waits for a round that begins after now.
    fn one_round_more(&self) {
        let (before, start) = (self.rounds.load(Ordering::Relaxed), Instant::now());
        while self.rounds.load(Ordering::Relaxed) < before + 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "Alice died");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Alice {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Alice sends while `what` happens, and nothing of hers gets out.
fn while_alice_sends<T>(scene: &mut Scene, phase: &str, what: impl FnOnce(&mut Scene) -> T) -> T {
    scene.tap.frames();
    let alice = Alice::start(scene);
    alice.one_round_more();
    let done = what(scene);
    alice.one_round_more();
    drop(alice);
    let mut frames = scene.tap.frames();
    // Answers to what she sent are still on their way when the daemon has ended. The host is not closed, only she is.
    frames.retain(|frame| !frame.says_tunnel_is_closed(PORT));
    assert_no_leak(phase, &frames);
    assert_eq!(scene.tap.lost(), 0, "{phase}: the tap lost frames");
    done
}

/// The address that somebody far away sees a user come from.
fn seen_as(scene: &Scene, uid: u32, far: &str) -> IpAddr {
    let at = SocketAddr::new(far.parse().unwrap(), 7);
    let listener = on(&scene.out, || TcpListener::bind(at).unwrap());
    let patience = Duration::from_secs(5);
    let connection = as_user(&scene.closed, uid, || {
        TcpStream::connect_timeout(&at, patience)
    });
    let connection = connection.unwrap_or_else(|error| panic!("{uid} to {far}: {error}"));
    assert_eq!(connection.peer_addr().unwrap(), at);
    listener.accept().unwrap().1.ip()
}

#[test]
fn some_users_go_through_a_peer_and_by_no_other_way() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let missing = Nft::open().and_then(|nft| nft.find("none"));
    if matches!(missing, Err(NftError::Missing)) {
        eprintln!("skipped: this kernel has no nf_tables");
        return;
    }
    scene
        .out
        .sh("ip addr add 198.51.100.9/32 dev lo && ip addr add 2001:db8:ffff::9/128 dev lo");
    scene.closed.sh(&format!(
        "echo alice:x:{ALICE}:{ALICE}::/:/bin/sh >> /etc/passwd"
    ));
    let mesh = Mesh::new(2);
    let way = mesh
        .peer(1, "PersistentKeepalive = 1\n")
        .replace("fd77::1/128", "fd77::1/128, 0.0.0.0/0, ::/0");
    let conf = |users: &str| mesh.interface(2, &format!("RouteUsers = {users}\n")) + &way;
    let before = scene.kernel();

    // Boot: the guard comes before the daemon.
    scene.closed.sh(&format!(
        "mkdir -p /etc/meshd && umask 077 && cat > /etc/meshd/prod.conf << 'END'\n{}END",
        conf("alice, 2000-2999")
    ));
    scene.closed.meshd(&["guard", NAME]);
    assert_users_apart(&scene, "guarded, before the daemon");
    let daemon = scene.closed.run(NAME);
    scene.out.run(NAME);
    scene
        .out
        .apply(NAME, &(mesh.interface(1, "") + &mesh.peer(2, "")));
    scene.closed.until("the mesh works", |host| {
        host.pings("10.77.0.1") && host.pings("fd77::1")
    });
    assert_users_apart(&scene, "up");
    for (far, through, past) in [
        (FAR[0], "10.77.0.2", "192.0.2.2"),
        (FAR[1], "fd77::2", "2001:db8::2"),
    ] {
        for uid in [ALICE, CAROL] {
            assert_eq!(
                seen_as(&scene, uid, far),
                through.parse::<IpAddr>().unwrap(),
                "{uid}"
            );
        }
        for uid in [BOB, 0] {
            assert_eq!(
                seen_as(&scene, uid, far),
                past.parse::<IpAddr>().unwrap(),
                "{uid}"
            );
        }
    }
    let report = scene.closed.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["running"]
        .as_str()
        .unwrap()
        .contains("RouteUsers = 2000-2999, alice\n"));

    // Another list, there and back.
    let id = scene.closed.stage(NAME, &conf("1002, alice"));
    let switch = ["switch", NAME, "--id", &id, "--within", "60"];
    while_alice_sends(&mut scene, "another list", |scene| {
        scene.closed.meshd(&switch);
    });
    assert_no_leak("Bob is on the list", &sent_by(&scene, BOB));
    while_alice_sends(&mut scene, "the way back", |scene| {
        scene.closed.meshd(&["rollback", NAME]);
    });
    assert_users_apart(&scene, "another list was taken back");

    // A default of one family alone: the other has no way for them, there and back.
    let id = scene
        .closed
        .stage(NAME, &conf("alice, 2000-2999").replace(", ::/0", ""));
    let switch = ["switch", NAME, "--id", &id, "--within", "60"];
    while_alice_sends(&mut scene, "IPv4's default alone", |scene| {
        scene.closed.meshd(&switch);
    });
    assert_users_apart(&scene, "IPv4's default alone is there");
    while_alice_sends(&mut scene, "both defaults again", |scene| {
        scene.closed.meshd(&["rollback", NAME]);
    });

    let daemon = while_alice_sends(&mut scene, "kill -9 and a start", |scene| {
        scene.closed.kill(daemon);
        scene.closed.run(NAME)
    });
    while_alice_sends(&mut scene, "a flush, put right", |scene| {
        scene.flush();
        scene.closed.until("whole", |host| {
            let report = host.report(NAME);
            report["running"] == report["conf"]
        });
    });
    while_alice_sends(&mut scene, "stopped", |scene| {
        assert_eq!(scene.closed.terminate(daemon), 0);
    });
    assert_users_apart(&scene, "stopped");
    scene.closed.meshd(&["remove", NAME]);
    assert_eq!(scene.kernel(), before);
    scene.assert_open("removed");
}

#[test]
fn a_list_that_cannot_be_kept_is_refused() {
    let Some([host]) = common::hosts::<1>() else {
        return;
    };
    let mut host = host;
    host.run(NAME);
    let mesh = Mesh::new(2);
    let stage = |interface: &str, allowed: &str| {
        let peer = mesh.peer(2, "").replace("fd77::2/128", allowed);
        let conf = mesh.interface(1, interface) + &peer;
        let id = common::sha256(&conf);
        host.try_meshd(&["stage", NAME, "--id", &id], &conf)
    };
    for (interface, allowed, why) in [
        (
            "RouteUsers = mallory\n",
            "0.0.0.0/0",
            "mallory is no user in /etc/passwd",
        ),
        ("RouteUsers = root\n", "0.0.0.0/0", "counts as root's"),
        (
            "RouteUsers = 7\n",
            "fd77::2/128",
            "no peer is a default way",
        ),
        (
            "RouteUsers = 7\nKillSwitch = on\n",
            "0.0.0.0/0",
            "KillSwitch closes the host",
        ),
        (
            "RouteUsers = 7\nTable = 9\n",
            "0.0.0.0/0",
            "routing tables of its own",
        ),
        (
            "RouteUsers = 7\nNamespace = x\n",
            "0.0.0.0/0",
            "in a namespace",
        ),
    ] {
        let (code, _, err) = stage(interface, allowed);
        assert_eq!(code, 3, "{interface}{err}");
        assert!(err.contains(why), "{err}");
    }
    let conf = mesh.interface(1, "RouteUsers = 7\n")
        + &mesh.peer(2, "").replace("fd77::2/128", "0.0.0.0/0");
    host.sh("echo nameserver 127.0.0.53 > /etc/resolv.conf");
    let id = common::sha256(&conf);
    let (code, _, err) = host.try_meshd(&["stage", NAME, "--id", &id], &conf);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("a resolver on this host"), "{err}");
}

#[test]
fn an_administrator_over_the_uplink_is_not_locked_out() {
    let Some([mut host]) = common::hosts::<1>() else {
        return;
    };
    host.run(NAME);
    let mesh = Mesh::new(2);
    let peer = mesh.peer(2, "").replace("fd77::2/128", "0.0.0.0/0");
    let conf = |extra: &str| mesh.interface(1, &format!("RouteUsers = 7\n{extra}")) + &peer;
    let over_ssh = |conf: &str, port: u16| {
        let id = common::sha256(conf);
        host.sh(&format!(
            "SSH_CONNECTION='198.51.100.7 50000 192.0.2.1 {port}' {} stage {NAME} --id {id} << 'END' 2>&1; echo $?\n{conf}END",
            common::MESHD
        ))
    };
    // sshd's sockets are root's, who is none of the users; another server may be run by one.
    let server = |uid| {
        let at: SocketAddr = "0.0.0.0:0".parse().unwrap();
        as_user(&host, uid, || TcpListener::bind(at).unwrap())
    };
    let (roots, anothers, users) = (server(0), server(8), server(7));
    let port = |server: &TcpListener| server.local_addr().unwrap().port();
    for free in [&roots, &anothers] {
        let said = over_ssh(&conf(""), port(free));
        assert!(said.ends_with("0\n"), "{said}");
    }
    let refused = over_ssh(&conf(""), port(&users));
    let hint = format!("add KillSwitchAllow = tcp/{}", port(&users));
    assert!(
        refused.contains("runs as user 7") && refused.contains(&hint) && refused.ends_with("3\n"),
        "{refused}"
    );
    let allowed = conf(&format!("KillSwitchAllow = tcp/{}\n", port(&users)));
    let said = over_ssh(&allowed, port(&users));
    assert!(said.ends_with("0\n"), "{said}");

    // Root's answers from the uplink's own address would go by the mesh.
    let same = conf("Address = 192.0.2.1/32\n");
    let refused = over_ssh(&same, port(&roots));
    assert!(
        refused.contains("192.0.2.1 is an address of eth0 too") && refused.ends_with("3\n"),
        "{refused}"
    );
    // The interface has its own while it runs.
    host.apply(NAME, &conf(""));
    let said = over_ssh(&conf("MTU = 1400\n"), port(&roots));
    assert!(said.ends_with("0\n"), "{said}");
}
