//! UAPI transcripts: what `wg` writes and what it reads back.

use super::*;
use crate::uapi::{handle, request_len, Errno, Host};

#[derive(Default)]
struct Socket {
    port: u16,
    mark: u32,
}

impl Host for Socket {
    fn listen_port(&self) -> u16 {
        self.port
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn link(&self, name: &str) -> Option<u32> {
        (name == "eth0").then_some(7)
    }

    fn set_listen_port(&mut self, port: u16) -> Result<(), Errno> {
        if port == 53 {
            return Err(Errno::EADDRINUSE);
        }
        self.port = if port == 0 { 40_000 } else { port };
        Ok(())
    }

    fn set_fwmark(&mut self, mark: u32) -> Result<(), Errno> {
        self.mark = mark;
        Ok(())
    }
}

struct Session {
    world: World,
    socket: Socket,
}

impl Session {
    fn new() -> Self {
        let mut world = World::new(1, 1);
        world.nodes[0].device.set_private_key(None);
        Self {
            world,
            socket: Socket::default(),
        }
    }

    fn ask(&mut self, request: &str) -> String {
        let socket = &mut self.socket;
        let answer = control!(self.world, 0, |device, ctx| handle(
            device,
            ctx,
            socket,
            request.as_bytes()
        ));
        String::from_utf8(answer.to_vec()).unwrap()
    }

    #[track_caller]
    fn set(&mut self, lines: &str, errno: i32) {
        assert_eq!(
            self.ask(&format!("set=1\n{lines}\n\n")),
            format!("errno={errno}\n\n")
        );
    }

    fn get(&mut self) -> String {
        self.ask("get=1\n\n")
    }
}

fn key(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn an_empty_device() {
    let mut session = Session::new();
    assert_eq!(session.get(), "errno=0\n\n");
    session.set("listen_port=0\nfwmark=0x10", 0);
    assert_eq!(session.get(), "listen_port=40000\nfwmark=16\nerrno=0\n\n");
    session.set("fwmark=0", 0);
    assert_eq!(session.get(), "listen_port=40000\nerrno=0\n\n");
}

#[test]
fn a_whole_configuration_is_read_back() {
    let mut session = Session::new();
    let (own, one, two, psk) = (key(0x48), key(0x11), key(0x22), key(0x33));
    session.set(
        &format!(
            "private_key={own}\nlisten_port=51820\nreplace_peers=true\npublic_key={two}\nendpoint=192.0.2.2:2\n\
             replace_allowed_ips=true\nallowed_ip=10.2.0.7/16\nallowed_ip=fd00:2::/64\npublic_key={one}\n\
             preshared_key={psk}\nendpoint=[2001:db8::1]:1\npersistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16"
        ),
        0,
    );
    let answer = session.get();
    // A keepalive was sent at once: a handshake counts as sent bytes.
    assert_eq!(
        answer,
        format!(
            "private_key={own}\nlisten_port=51820\n\
             public_key={two}\npreshared_key={ZEROS}\nprotocol_version=1\nendpoint=192.0.2.2:2\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n\
             persistent_keepalive_interval=0\nallowed_ip=10.2.0.0/16\nallowed_ip=fd00:2::/64\n\
             public_key={one}\npreshared_key={psk}\nprotocol_version=1\nendpoint=[2001:db8::1]:1\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=148\nrx_bytes=0\n\
             persistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16\nerrno=0\n\n"
        )
        .replace(
            &own,
            &crate::keys::hex(PrivateKey::new([0x48; 32]).expose())
        )
    );
    // What was read can be set again, and changes nothing.
    let kept: String = answer
        .lines()
        .filter(|line| {
            !["last_", "tx_", "rx_", "errno"]
                .iter()
                .any(|start| line.starts_with(start))
        })
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    session.set(kept.trim_end(), 0);
    assert_eq!(session.get(), answer);
}

#[test]
fn peers_are_added_changed_and_removed() {
    let mut session = Session::new();
    let (one, two) = (key(1), key(2));
    let peers = |session: &mut Session| -> Vec<String> {
        let text = session.get();
        text.lines()
            .filter_map(|line| line.strip_prefix("public_key="))
            .map(str::to_owned)
            .collect()
    };
    session.set(&format!("public_key={one}\npublic_key={two}"), 0);
    assert_eq!(peers(&mut session), [one.clone(), two.clone()]);
    session.set(
        &format!(
            "public_key={}\nupdate_only=true\nallowed_ip=10.0.0.0/8",
            key(3)
        ),
        0,
    );
    assert_eq!(
        peers(&mut session),
        [one.clone(), two.clone()],
        "update_only adds nobody"
    );
    session.set(
        &format!(
            "public_key={one}\nremove=true\npublic_key={}\nremove=true",
            key(9)
        ),
        0,
    );
    assert_eq!(peers(&mut session).join(" "), two);
    session.set(&format!("public_key={one}"), 0);
    assert_eq!(
        peers(&mut session),
        [two, one],
        "in the order they were added"
    );
    session.set(&format!("replace_peers=true\npublic_key={}", key(4)), 0);
    assert_eq!(peers(&mut session), [key(4)]);
}

#[test]
fn networks_are_added_moved_replaced_and_taken_away() {
    let mut session = Session::new();
    let (one, two) = (key(1), key(2));
    let networks = |session: &mut Session| -> Vec<String> {
        let text = session.get();
        let wanted =
            |line: &&str| line.starts_with("public_key=") || line.starts_with("allowed_ip=");
        text.lines()
            .filter(wanted)
            .map(|line| {
                line.split_once('=')
                    .unwrap()
                    .1
                    .replace(&key(1), "one")
                    .replace(&key(2), "two")
            })
            .collect()
    };
    session.set(
        &format!(
            "public_key={one}\nallowed_ip=10.0.0.0/8\nallowed_ip=10.1.0.0/16\npublic_key={two}"
        ),
        0,
    );
    session.set(
        &format!("public_key={two}\nallowed_ip=10.1.0.0/16\nallowed_ip=::/0"),
        0,
    );
    assert_eq!(
        networks(&mut session),
        ["one", "10.0.0.0/8", "two", "10.1.0.0/16", "::/0"]
    );
    session.set(
        &format!("public_key={two}\nallowed_ip=-::/0\nallowed_ip=-10.0.0.0/8"),
        0,
    );
    assert_eq!(
        networks(&mut session),
        ["one", "10.0.0.0/8", "two", "10.1.0.0/16"],
        "one's stays one's"
    );
    session.set(
        &format!("public_key={one}\nreplace_allowed_ips=true\nallowed_ip=10.9.0.0/16"),
        0,
    );
    assert_eq!(
        networks(&mut session),
        ["one", "10.9.0.0/16", "two", "10.1.0.0/16"]
    );
}

#[test]
fn a_peer_with_our_own_key_is_ignored() {
    let mut session = Session::new();
    let own = PrivateKey::new([7; 32]);
    let (private, public) = (
        crate::keys::hex(own.expose()),
        crate::keys::hex(&own.public().0),
    );
    session.set(&format!("public_key={public}\npublic_key={}", key(2)), 0);
    session.set(&format!("private_key={private}"), 0);
    session.set(&format!("public_key={public}\nallowed_ip=10.0.0.0/8"), 0);
    assert!(!session.get().contains(&format!("public_key={public}")));
    session.set(&format!("private_key={ZEROS}"), 0);
    assert!(!session.get().contains("private_key"));
}

#[test]
fn a_wrong_request_changes_nothing() {
    let mut session = Session::new();
    session.set(&format!("listen_port=1000\npublic_key={}", key(1)), 0);
    let before = session.get();
    session.set(
        &format!(
            "listen_port=2000\npublic_key={}\nremove=true\ncolour=red",
            key(1)
        ),
        -71,
    );
    session.set(
        &format!(
            "replace_peers=true\npublic_key={}\nallowed_ip=10.0.0.0/99",
            key(2)
        ),
        -22,
    );
    session.set("listen_port=53", -98);
    assert_eq!(session.ask("say=hello\n\n"), "errno=-71\n\n");
    assert_eq!(session.get(), before);
}

#[test]
fn requests_end_with_an_empty_line() {
    assert_eq!(request_len(b"get=1\n"), None);
    assert_eq!(request_len(b"get=1\n\n"), Some(7));
    assert_eq!(request_len(b"get=1\n\nset=1\n\n"), Some(7));
}

#[test]
fn changing_a_peer_keeps_its_session() {
    let mut world = World::pair(2);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let bob = crate::keys::hex(&world.nodes[BOB].key.0);
    let request = format!(
        "set=1\npublic_key={bob}\nreplace_allowed_ips=true\nallowed_ip=10.0.0.2/32\nallowed_ip=10.0.9.0/24\n\
         endpoint={}\npersistent_keepalive_interval=25\n\n",
        world.nodes[BOB].address
    );
    let answer = control!(world, ALICE, |device, ctx| handle(
        device,
        ctx,
        &mut Socket::default(),
        request.as_bytes()
    ));
    assert_eq!(**answer, *b"errno=0\n\n");
    world.talk(ALICE, BOB, 2);
    world.pass(seconds(1));
    assert_eq!(world.nodes[BOB].numbers(), [1, 2]);
    assert_eq!(world.count(1), 1, "no new handshake");
}

#[test]
fn the_handshake_is_shown_as_wall_time() {
    let mut world = World::pair(3);
    world.talk(ALICE, BOB, 1);
    world.pass(seconds(1));
    let answer = control!(world, ALICE, |device, ctx| handle(
        device,
        ctx,
        &mut Socket::default(),
        b"get=1\n\n"
    ));
    let answer = String::from_utf8(answer.to_vec()).unwrap();
    assert!(
        answer
            .contains("\nlast_handshake_time_sec=1700000001\nlast_handshake_time_nsec=20000000\n"),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("\ntx_bytes={}\nrx_bytes=92\n", 148 + 64)),
        "{answer}"
    );
}

/// So many networks, each of one address.
fn networks(count: u32) -> String {
    let network = |n: u32| format!("allowed_ip={}/32\n", core::net::Ipv4Addr::from(n));
    (0..count).map(network).collect()
}

/// The one test here that measures: what it is about is time.
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
#[test]
fn many_networks_that_move_to_another_peer_take_no_time() {
    let mut session = Session::new();
    let (one, other) = (key(1), key(2));
    let all = networks(100_000);
    let given = session.ask(&format!("set=1\npublic_key={one}\n{all}\n"));
    assert_eq!(given, "errno=0\n\n");
    // Looking at all that the former owner has for each of them would take minutes.
    let start = std::time::Instant::now();
    let moved = session.ask(&format!("set=1\npublic_key={other}\n{all}\n"));
    assert_eq!(moved, "errno=0\n\n");
    // A second or so; sixty times that is for a machine with other work.
    assert!(start.elapsed() < seconds(60), "{:?}", start.elapsed());
}
