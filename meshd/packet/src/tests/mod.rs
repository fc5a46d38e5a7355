//! The plane against the real kernel: what goes in at one end comes out at the other, through every combination of tricks.

mod ports;
mod queues;
mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshd_os::netlink::Netlink;

use super::Switches;
use crate::ProbeMark;
use world::{enter_fresh, narrow, pair, End, ALL};

const NONE: Switches = Switches {
    gso: false,
    gro: false,
    tun_offload: false,
    uso: false,
    priority: false,
    one_thread: false,
    queues: 1,
};
const PATIENCE: Duration = Duration::from_secs(10);
/// Port changes during one transfer.
const MOST_PORTS: usize = 100;

/// Bytes that no shift or swap of segments leaves the same.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .take(len)
        .collect()
}

/// Sends `len` bytes each way over one TCP connection and compares what arrives.
fn exchange(a: &End, b: &End, ip: &str, len: usize) {
    let listener = b.inside(|| TcpListener::bind((ip, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let mut client = a.inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    std::thread::scope(|scope| {
        let (mut client_out, mut server_out) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        scope.spawn(move || client_out.write_all(&noise(len, 1)).unwrap());
        scope.spawn(move || server_out.write_all(&noise(len, 2)).unwrap());
        let mut got = vec![0; len];
        server.read_exact(&mut got).unwrap();
        assert!(
            got == noise(len, 1),
            "what {} sent arrives as it was",
            a.number
        );
        client.read_exact(&mut got).unwrap();
        assert!(
            got == noise(len, 2),
            "what {} sent arrives as it was",
            b.number
        );
    });
}

/// Sends datagrams of many sizes from `a` to `b`, a few at a time, and expects each to arrive, in order.
fn datagrams(a: &End, b: &End, from: &str, to: &str) {
    let receiver = b.inside(|| UdpSocket::bind((to, 0)).unwrap());
    let sender = a.inside(|| UdpSocket::bind((from, 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = receiver.local_addr().unwrap();
    // Equal runs, which merge; then every kind of odd one, above the MTU too (fragmented inside).
    let sizes = [100; 12]
        .into_iter()
        .chain([1372; 12])
        .chain([0, 1, 15, 16, 17, 1371, 1373, 1392, 1393, 3000, 9000, 65000]);
    let mut buf = vec![0; 65536];
    for (i, size) in sizes.enumerate() {
        let sent = noise(size, i as u64 + 3);
        sender.send_to(&sent, at).unwrap();
        let n = receiver.recv(&mut buf).unwrap();
        assert!(
            buf[..n] == sent,
            "datagram {i} of {size} bytes arrives as it was"
        );
    }
    let burst: Vec<_> = (0..40).map(|i| noise(700, 100 + i)).collect();
    for datagram in &burst {
        sender.send_to(datagram, at).unwrap();
    }
    for datagram in &burst {
        let n = receiver.recv(&mut buf).unwrap();
        assert!(buf[..n] == datagram[..], "a burst arrives in order");
    }
}

#[test]
fn everything_arrives_through_every_combination_of_tricks() {
    if !enter_fresh() {
        return;
    }
    let each_off = [
        Switches { gso: false, ..ALL },
        Switches { gro: false, ..ALL },
        Switches {
            tun_offload: false,
            ..ALL
        },
        Switches { uso: false, ..ALL },
        Switches {
            one_thread: false,
            ..ALL
        },
        Switches { queues: 3, ..ALL },
    ];
    let combinations = [[ALL, ALL], [NONE, NONE], [ALL, NONE], [NONE, ALL]].into_iter();
    for (i, switches) in combinations.chain(each_off.map(|s| [s, s])).enumerate() {
        // The outer family alternates; the inner ones are both tried.
        let [a, b] = pair(if i % 2 == 0 { "127.0.0.1" } else { "::1" }, switches);
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            exchange(&a, &b, &to, 1 << 20);
            datagrams(&a, &b, &from, &to);
        }
    }
}

#[test]
fn a_path_too_narrow_for_segments_carries_everything_too() {
    if !enter_fresh() {
        return;
    }
    narrow(1300);
    for outer in ["127.0.0.1", "::1"] {
        let [a, b] = pair(outer, [ALL, ALL]);
        exchange(&a, &b, &b.v4(), 1 << 20);
        datagrams(&a, &b, &a.v6(), &b.v6());
    }
}

#[test]
fn the_ports_can_change_under_traffic() {
    if !enter_fresh() {
        return;
    }
    let [mut a, b] = pair("127.0.0.1", [ALL, ALL]);
    let listener = b.inside(|| TcpListener::bind((b.v4(), 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let mut client = a.inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let len = 6 << 20;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || client.write_all(&noise(len, 1)).unwrap());
        let receiver = scope.spawn(move || {
            let mut got = vec![0; len];
            server.read_exact(&mut got).unwrap();
            assert!(got == noise(len, 1));
        });
        // Not for ever: where the machine is slow, an acknowledgement may miss one port after the other.
        for _ in 0..MOST_PORTS {
            if sender.is_finished() {
                break;
            }
            let old = a.port;
            assert_ne!(a.rebind(&ALL.udp_options(0, 0)), old);
            std::thread::sleep(Duration::from_millis(20));
        }
        sender.join().unwrap();
        receiver.join().unwrap();
    });
    // The last change may have come after the last byte, so something is sent from there.
    let datagram = a.inside(|| UdpSocket::bind((a.v4(), 0)).unwrap());
    let at = SocketAddr::new("127.0.0.1".parse().unwrap(), a.port);
    let started = Instant::now();
    loop {
        datagram.send_to(b"here", (b.v4(), 9)).unwrap();
        let key = a.key.public();
        let endpoint =
            b.with_device(move |device, ctx| device.peer(&key, ctx.now).unwrap().endpoint);
        if endpoint.unwrap().remote == at {
            break;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "the other end has not followed: {endpoint:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nobodys_packets_are_answered_with_unreachable() {
    if !enter_fresh() {
        return;
    }
    let [a, b] = pair("127.0.0.1", [ALL, ALL]);
    // A connected UDP socket isn't told of an unreachable host; the counters tell.
    let told = |to: &str| {
        let v6 = to.contains(':');
        let count = || {
            if v6 {
                counter6(&a, "Icmp6InDestUnreachs")
            } else {
                counter4(&a, "InDestUnreachs")
            }
        };
        let before = count();
        let socket = a.inside(|| UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap());
        socket.send_to(b"anybody?", (to, 9)).unwrap();
        let started = Instant::now();
        while count() == before {
            assert!(started.elapsed() < PATIENCE, "{to}: nothing was said");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // In nobody's allowed-ips.
    told("10.9.0.77");
    told("fd09::77");
    // A peer without endpoint.
    let key = b.key.public();
    a.with_device(move |device, ctx| device.set_endpoint(ctx, &key, None).unwrap());
    told("10.9.0.2");
    told("fd09::2");
}

/// An ICMP counter of an end's namespace (/proc/net/snmp).
fn counter4(end: &End, name: &str) -> u64 {
    let text = end.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|l| l.starts_with("Icmp:"));
    let place = lines
        .next()
        .unwrap()
        .split(' ')
        .position(|w| w == name)
        .unwrap();
    lines
        .next()
        .unwrap()
        .split(' ')
        .nth(place)
        .unwrap()
        .parse()
        .unwrap()
}

/// The same for IPv6 (/proc/net/snmp6).
fn counter6(end: &End, name: &str) -> u64 {
    let text = end.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let line = text
        .lines()
        .find(|l| l.split_whitespace().next() == Some(name))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A hub with two spokes which know only the hub.
fn star() -> [End; 3] {
    let [hub, a, b] = [End::new(1, ALL), End::new(2, ALL), End::new(3, ALL)];
    hub.peer(&a, "127.0.0.1", &[("10.9.0.2", 32), ("fd09::2", 128)]);
    hub.peer(&b, "127.0.0.1", &[("10.9.0.3", 32), ("fd09::3", 128)]);
    for spoke in [&a, &b] {
        spoke.peer(&hub, "127.0.0.1", &[("10.9.0.0", 24), ("fd09::", 64)]);
    }
    [hub, a, b]
}

#[test]
fn a_hub_passes_packets_on() {
    if !enter_fresh() {
        return;
    }
    let [hub, a, b] = star();
    hub.plane.set_addresses(vec![
        "10.9.0.1".parse().unwrap(),
        "fd09::1".parse().unwrap(),
    ]);
    hub.plane.set_relay(true);
    exchange(&a, &b, &b.v4(), 1 << 20);
    exchange(&b, &a, &a.v6(), 1 << 20);
    exchange(&a, &hub, &hub.v4(), 1 << 20);
    datagrams(&a, &b, &a.v4(), &b.v4());
    // One hop is spent at the hub.
    let receiver = b.inside(|| UdpSocket::bind((b.v4(), 0)).unwrap());
    let sender = a.inside(|| UdpSocket::bind((a.v4(), 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    for (ttl, text) in [(1, b"no"), (2, b"ok")] {
        sender.set_ttl(ttl).unwrap();
        sender
            .send_to(text, receiver.local_addr().unwrap())
            .unwrap();
    }
    let mut buf = [0; 2];
    receiver.recv(&mut buf).unwrap();
    assert_eq!(&buf, b"ok");
    // The hub's answer goes another way than the packet that got through, so it may come a little later.
    let deadline = Instant::now() + PATIENCE;
    while counter4(&a, "InTimeExcds") == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(
        counter4(&a, "InTimeExcds"),
        1,
        "the hub says which hop was the last"
    );
}

#[test]
fn a_noisy_peer_of_a_hub_leaves_answers_for_the_others() {
    if !enter_fresh() {
        return;
    }
    let [hub, a, b] = star();
    hub.plane.set_addresses(vec!["10.9.0.1".parse().unwrap()]);
    hub.plane.set_relay(true);
    let began = Instant::now();
    let exhaust = |from: &End, to: &End, count| {
        let sender = from.inside(|| UdpSocket::bind((from.v4(), 0)).unwrap());
        sender.set_ttl(1).unwrap();
        for _ in 0..count {
            sender.send_to(b"x", (to.v4(), 9)).unwrap();
        }
    };
    // With sessions, nothing of it waits; when the hub has what comes last, all of it was looked at.
    datagrams(&a, &hub, &a.v4(), &hub.v4());
    datagrams(&b, &hub, &b.v4(), &hub.v4());
    exhaust(&a, &b, 400);
    datagrams(&a, &hub, &a.v4(), &hub.v4());
    exhaust(&b, &a, 10);
    while counter4(&b, "InTimeExcds") < 10 {
        assert!(began.elapsed() < PATIENCE, "b is told of each");
        std::thread::yield_now();
    }
    let told = counter4(&a, "InTimeExcds");
    let earned = began.elapsed().as_millis() as u64 / 200;
    assert!((1..=20 + earned).contains(&told), "a is told {told} times");
}

#[test]
fn without_relay_the_kernel_gets_the_packets() {
    if !enter_fresh() {
        return;
    }
    let [hub, a, b] = star();
    let sender = a.inside(|| UdpSocket::bind((a.v4(), 0)).unwrap());
    let receiver = b.inside(|| UdpSocket::bind((b.v4(), 0)).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let netlink = hub.inside(|| Netlink::open().unwrap());
    netlink.set_forwarding_v4(hub.link, false).unwrap();
    sender
        .send_to(b"x", receiver.local_addr().unwrap())
        .unwrap();
    assert!(receiver.recv(&mut [0; 2]).is_err());
    netlink.set_forwarding_v4(hub.link, true).unwrap();
    sender
        .send_to(b"y", receiver.local_addr().unwrap())
        .unwrap();
    let mut buf = [0; 2];
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(receiver.recv(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], b'y');
}

#[test]
fn answers_to_probes_go_to_control_and_not_to_the_host() {
    if !enter_fresh() {
        return;
    }
    let [a, b] = pair("127.0.0.1", [ALL, ALL]);
    let mark = ProbeMark {
        id: 0x4d44,
        magic: *b"meshd-ut",
    };
    a.plane.set_probe_mark(Some(mark));
    let echo_replies = || {
        (
            counter4(&a, "InEchoReps"),
            counter6(&a, "Icmp6InEchoReplies"),
        )
    };
    let before = echo_replies();
    for (sequence, (from, to)) in [(a.v4(), b.v4()), (a.v6(), b.v6())].into_iter().enumerate() {
        let to: IpAddr = to.parse().unwrap();
        let packet = mark
            .request(from.parse().unwrap(), to, sequence as u16)
            .unwrap();
        let key = b.key.public();
        a.with_device(move |device, ctx| device.send(ctx, &key, &packet).unwrap());
        let got = a.probes.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        assert_eq!((got.from, got.sequence), (to, sequence as u16));
    }
    assert_eq!(echo_replies(), before);
}

#[test]
fn a_deleted_link_is_told_and_a_plane_ends_at_once() {
    if !enter_fresh() {
        return;
    }
    let [a, b] = pair("127.0.0.1", [ALL, ALL]);
    exchange(&a, &b, &b.v4(), 100_000);
    assert_eq!(a.plane.link_up(), Some(true));
    a.inside(|| Netlink::open().unwrap())
        .delete_link(a.link)
        .unwrap();
    let started = Instant::now();
    while !a.gone.load(Ordering::SeqCst) {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(a.plane.link_up(), None);
    let port = b.port;
    let started = Instant::now();
    drop((a, b));
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "threads end when told, not when a packet comes"
    );
    assert!(
        UdpSocket::bind(("0.0.0.0", port)).is_ok(),
        "the sockets are closed"
    );
}

#[test]
fn features_are_what_is_in_use() {
    if !enter_fresh() {
        return;
    }
    let all = End::new(1, ALL).plane.features();
    assert!(
        all.contains(&"gso") && all.contains(&"gro") && all.contains(&"tun-offload"),
        "{all:?}"
    );
    assert!(End::new(2, NONE).plane.features().is_empty());
}
