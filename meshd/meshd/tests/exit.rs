//! `Exit = on`: a host that is a way out to the internet for its peers, on a real uplink. Who is far away sees the exit's address
//! and nothing else, nobody uses the exit who is no peer, and it leaves no trace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "exit/getting_in.rs"]
mod getting_in;
#[path = "exit/going_out.rs"]
mod going_out;
#[allow(dead_code)]
#[path = "closed/hostile.rs"]
mod hostile;
#[path = "exit/older.rs"]
mod older;
#[path = "exit/refused.rs"]
mod refused;
#[allow(dead_code)]
#[path = "closed/scene.rs"]
mod scene;
#[allow(dead_code)]
#[path = "closed/wire.rs"]
mod wire;
#[path = "exit/world.rs"]
mod world;

use common::supervised::{daemon, kill_daemon, serves};
use going_out::echo;
use older::OlderFlow;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;
use world::{bound, World, ALICE, FAR, NAME};

const PORT: u16 = 51820;
/// Has the exit turn IPv6 forwarding on for the whole host, as kernels before 6.17 must.
const OLDER: &str = "MESHD_NO_FORCE_FORWARDING=1";

#[test]
fn peers_go_out_by_an_exit() {
    let Some(world) = World::new(&["MESHD_NO_FORCE_FORWARDING=0"]) else {
        return;
    };
    a_whole_life(world);
}

#[test]
fn peers_go_out_by_an_exit_whose_kernel_forwards_on_all_links_or_none() {
    let Some(world) = World::new(&[OLDER]) else {
        return;
    };
    a_whole_life(world);
}

fn a_whole_life(mut world: World) {
    let before = world.switches();
    let routes = world.routes();
    world.exit_is("Exit = on\nForward = 172.30.0.0/24\n");
    world.everybody_joins();
    let seen = ["192.0.2.2", "2001:db8::2"];
    world.assert_goes_out("up", seen);
    let report = world.exit.report(NAME);
    assert_eq!(report["running"], report["conf"]);
    assert!(report["conf"]
        .as_str()
        .unwrap()
        .contains("Forward = 172.30.0.0/24\nExit = on\n"));
    assert_eq!(world.exit.status(NAME)["notes"].to_string(), "[]");
    assert_eq!(world.routes(), routes, "advertised routes are still there");
    world.assert_nobody_gets_in("up");
    world.assert_site_works();

    // A flow goes on over a crash, and somebody's flush changes nothing.
    let mut flows = FAR.map(|far| world.flow(&world.client, far));
    let first = daemon(&world.exit, world.supervisor);
    kill_daemon(&world.exit, world.supervisor);
    assert_ne!(daemon(&world.exit, world.supervisor), first);
    flows
        .iter_mut()
        .for_each(|flow| echo(flow, "after a crash"));
    world.exit.meshd(&["upgrade", NAME]);
    flows
        .iter_mut()
        .for_each(|flow| echo(flow, "after an upgrade"));
    world.flush();
    world.exit.until("whole after a flush", |host| {
        let report = host.report(NAME);
        report["running"] == report["conf"]
    });
    flows
        .iter_mut()
        .for_each(|flow| echo(flow, "after a flush"));
    world.turn_off_forwarding();
    world.assert_goes_out("after a crash, a flush and switches turned off", seen);
    world.assert_nobody_gets_in("after a crash and a flush");

    // Another uplink, there and back.
    let eth0 = "cat /proc/sys/net/ipv4/conf/eth0/forwarding";
    assert_eq!(world.exit.sh(eth0), "1\n");
    world
        .exit
        .sh("ip route replace default via 203.0.113.1 dev other");
    world.exit.until("the old link forwards no more", |host| {
        host.sh(eth0) == "0\n"
    });
    assert_eq!(
        world.seen_as(&world.client, ALICE, FAR[0]),
        "203.0.113.2".parse::<IpAddr>().unwrap()
    );
    world
        .exit
        .sh("ip route replace default via 192.0.2.1 dev eth0");
    world
        .exit
        .until("it does again", |host| host.sh(eth0) == "1\n");
    world.assert_goes_out("back on the first link", seen);

    // No exit, and the way back.
    let mut flows = FAR.map(|far| world.flow(&world.client, far));
    let plain = world.conf("");
    let id = world.exit.stage(NAME, &plain);
    world
        .exit
        .meshd(&["switch", NAME, "--id", &id, "--within", "60"]);
    assert_eq!(world.switches(), before, "not an exit");
    world.tap.frames();
    for flow in &mut flows {
        use std::io::{Read, Write};
        flow.0.write_all(b"lost").unwrap();
        let a_moment = Some(Duration::from_millis(300));
        flow.1.set_read_timeout(a_moment).unwrap();
        assert!(flow.1.read(&mut [0; 4]).is_err(), "it goes on");
    }
    for far in FAR {
        let at = SocketAddr::new(far.parse().unwrap(), 7);
        let _listener = scene::on(&world.server, || bound(|| TcpListener::bind(at)));
        let tried = world.client_connects(at);
        assert!(tried.is_err(), "{far} without an exit");
    }
    world.assert_no_mesh_source("not an exit", &world.tap.frames());
    world.exit.meshd(&["rollback", NAME]);
    world.assert_goes_out("an exit again", seen);

    // What the judge is worth: a host that forwards and isn't an exit shows the mesh, and lets the neighbour in.
    world.exit_is("");
    world.exit.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.all.forwarding=1");
    world.assert_shows_the_mesh();
    let old = world.older_than_the_exit();
    world.exit_is("Exit = on\n");
    world.tap.frames();
    old.iter().for_each(OlderFlow::send);
    world.assert_no_mesh_source("older connections", &world.tap.frames());
    world.assert_goes_out("beside older connections", seen);
    world.assert_mesh_is_closed("on a host that forwards anyway");
    world.exit_is("");
    world.assert_older_show_the_mesh(&old);
    world.end_older();
    world.exit.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv6.conf.eth0.accept_ra=1");
    assert_eq!(world.switches(), before);

    // Stopped, it is as it was; so it is when it is removed without a daemon that could do it.
    world.exit_is("Exit = on\n");
    world.assert_goes_out("without a site", seen);
    world.assert_lan_is_out_of_reach();
    let supervisor = world.supervisor;
    assert_eq!(world.exit.terminate(supervisor), 0);
    assert_eq!(world.switches(), before, "stopped");
    assert!(!world.tables().contains("meshd"), "{}", world.tables());
    world.supervise();
    assert!(serves(&world.exit));
    // Peers don't know that their sessions are gone; the exit begins new ones.
    for peer in ["10.77.0.3", "10.77.0.5"] {
        world
            .exit
            .until("the peer answers", |host| host.pings(peer));
    }
    world.assert_goes_out("started again", seen);
    world.kill_all();
    world.exit.meshd(&["remove", NAME]);
    assert_eq!(world.switches(), before, "removed after a crash");
    assert!(!world.tables().contains("meshd"), "{}", world.tables());
    assert_eq!(world.routes(), routes);
}

/// A peer's way is narrower than the server knows: it is told so through the translation.
#[test]
fn large_packets_find_their_size_through_an_exit() {
    let Some(mut world) = World::new(&[]) else {
        return;
    };
    world.exit_is("Exit = on\nMTU = 1280\n");
    world.everybody_joins();
    for far in FAR {
        // The client's own link takes 1420, and says so to the server.
        let (mut client, mut server) = world.flow(&world.client, far);
        let sent = vec![7u8; 1 << 20];
        let writer = {
            let sent = sent.clone();
            std::thread::spawn(move || {
                use std::io::Write;
                server.write_all(&sent).unwrap();
                server
            })
        };
        let mut received = vec![0u8; sent.len()];
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        use std::io::Read;
        client
            .read_exact(&mut received)
            .unwrap_or_else(|error| panic!("{far}: {error}"));
        assert!(received == sent);
        drop(writer.join().unwrap());
    }
    // It was needed: the kernel keeps what it was told for the way to the exit.
    for (far, family) in [("192.0.2.2", "-4"), ("2001:db8::2", "-6")] {
        let way = world.server.sh(&format!("ip {family} route get {far}"));
        assert!(way.contains("mtu 1280"), "{way}");
    }
}
