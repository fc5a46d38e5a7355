//! The outer sockets against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::in_namespace;
use meshd_os::events;
use meshd_os::netlink::{IfAddress, Netlink};
use meshd_os::udp::{RecvBatch, UdpOptions, UdpPair, UdpSocket, MAX_SEGMENTS};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn loopback_up() -> Netlink {
    let netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_up(lo, true).unwrap();
    netlink
}

fn options() -> UdpOptions {
    UdpOptions::default()
}

fn to(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// One received datagram: its bytes, sender, the address it came to, ECN bits.
type Got = (Vec<u8>, SocketAddr, IpAddr, u8);

/// All datagrams that arrive until none has for a while, cut apart again, and how many runs they came in.
fn receive(socket: &UdpSocket) -> (Vec<Got>, usize) {
    let (mut got, mut runs) = (Vec::new(), 0);
    let mut batch = RecvBatch::new(8);
    while events::wait_readable([socket.as_fd()], Some(Duration::from_millis(100))).unwrap()
        == [true]
    {
        runs += socket.receive(&mut batch).unwrap();
        let (arena, datagrams) = batch.parts();
        for datagram in datagrams {
            let came_to = datagram.source.unwrap().ip;
            got.extend(
                datagram
                    .ranges()
                    .map(|r| (arena[r].to_vec(), datagram.from, came_to, datagram.ecn)),
            );
        }
    }
    (got, runs)
}

#[test]
fn both_families_share_a_port_which_nobody_else_gets() {
    in_namespace(|| {
        loopback_up();
        let pair = UdpPair::bind(&options()).unwrap();
        assert!(pair.port != 0 && pair.v4.is_some() && pair.v6.is_some());
        assert!(pair.iter().all(|s| s.port() == pair.port));
        let taken = UdpPair::bind(&UdpOptions {
            port: pair.port,
            ..options()
        })
        .unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let port = pair.port;
        drop(pair);
        assert_eq!(
            UdpPair::bind(&UdpOptions { port, ..options() })
                .unwrap()
                .port,
            port
        );
    });
}

#[test]
fn several_pairs_on_a_port_share_senders_and_not_packets() {
    in_namespace(|| {
        loopback_up();
        let pairs = UdpPair::bind_several(&options(), 4).unwrap();
        let port = pairs[0].port;
        assert!(pairs.iter().all(|pair| pair.port == port));
        let again = UdpPair::bind_several(&UdpOptions { port, ..options() }, 4);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        for ip in ["127.0.0.1", "::1"] {
            let target = to(ip, port);
            let senders: Vec<_> = (0..24)
                .map(|_| UdpPair::bind(&options()).unwrap())
                .collect();
            for number in 0..5u8 {
                for sender in &senders {
                    let socket = sender.towards(&target).unwrap();
                    socket.send(&[number], 1, &target, None, 0, false).unwrap();
                }
            }
            let mut seen = BTreeMap::<_, Vec<_>>::new();
            let mut busy = 0;
            for pair in &pairs {
                let (got, _) = receive(pair.towards(&target).unwrap());
                busy += usize::from(!got.is_empty());
                for (bytes, from, ..) in got {
                    seen.entry(from.port()).or_default().push(bytes[0]);
                }
            }
            assert_eq!(seen.len(), senders.len());
            assert!(
                seen.values().all(|numbers| numbers == &[0, 1, 2, 3, 4]),
                "each sender's come to one pair, in order"
            );
            // That 24 senders all fall to one pair of four happens once in 4^23 times.
            assert!(busy > 1, "the pairs share the work");
        }
    });
}

#[test]
fn a_port_taken_in_one_family_is_taken() {
    in_namespace(|| {
        loopback_up();
        let blocker = UdpSocket::bind("::".parse().unwrap(), &options()).unwrap();
        let taken = UdpPair::bind(&UdpOptions {
            port: blocker.port(),
            ..options()
        })
        .unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn runs_arrive_whole_with_every_way_of_sending_and_receiving() {
    in_namespace(|| {
        loopback_up();
        for (ip, gso, gro) in [
            ("127.0.0.1", true, true),
            ("127.0.0.1", true, false),
            ("127.0.0.1", false, true),
            ("::1", true, true),
            ("::1", false, false),
        ] {
            let sender = UdpPair::bind(&UdpOptions { gso, ..options() }).unwrap();
            let receiver = UdpPair::bind(&UdpOptions { gro, ..options() }).unwrap();
            let target = to(ip, receiver.port);
            let (out, into) = (
                sender.towards(&target).unwrap(),
                receiver.towards(&target).unwrap(),
            );
            let run: Vec<u8> = (0..1452 * 20 + 100).map(|i| (i / 7) as u8).collect();
            let sent = out.send(&run, 1452, &target, None, 0, true).unwrap();
            assert_eq!(sent.bytes, run.len());
            assert!(!sent.segmenting_refused && !sent.source_refused);
            let (got, runs) = receive(into);
            assert_eq!(got.len(), 21, "gso {gso} gro {gro}");
            assert_eq!(
                got.iter().flat_map(|g| g.0.clone()).collect::<Vec<_>>(),
                run
            );
            assert!(got
                .iter()
                .all(|g| g.1 == to(ip, sender.port) && g.2 == target.ip()));
            if gro && gso {
                assert_eq!(runs, 1, "what left as one arrives as one");
            }
        }
    });
}

#[test]
fn a_run_longer_than_one_call_says_how_far_it_came() {
    in_namespace(|| {
        loopback_up();
        let pair = UdpPair::bind(&options()).unwrap();
        let target = to("127.0.0.1", pair.port);
        let socket = pair.towards(&target).unwrap();
        let small = vec![1; 100 * (MAX_SEGMENTS + 10)];
        assert_eq!(
            socket
                .send(&small, 100, &target, None, 0, true)
                .unwrap()
                .bytes,
            100 * MAX_SEGMENTS
        );
        let large = vec![2; 1452 * 60];
        assert_eq!(
            socket
                .send(&large, 1452, &target, None, 0, true)
                .unwrap()
                .bytes,
            1452 * 45
        );
        assert_eq!(
            socket
                .send(&[], 1452, &target, None, 0, true)
                .unwrap()
                .bytes,
            0
        );
        assert_eq!(receive(socket).0.len(), MAX_SEGMENTS + 45);
    });
}

#[test]
fn congestion_marks_travel() {
    in_namespace(|| {
        loopback_up();
        let pair = UdpPair::bind(&options()).unwrap();
        for ip in ["127.0.0.1", "::1"] {
            let target = to(ip, pair.port);
            let socket = pair.towards(&target).unwrap();
            for ecn in 0..4 {
                socket
                    .send(&[ecn; 300], 100, &target, None, ecn, true)
                    .unwrap();
            }
            let (got, _) = receive(socket);
            assert_eq!(got.len(), 12);
            assert!(got.iter().all(|g| g.3 == g.0[0]), "{ip}");
        }
    });
}

#[test]
fn replies_leave_from_where_the_question_went_and_a_dead_source_is_given_up() {
    in_namespace(|| {
        let netlink = loopback_up();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        for (mine, prefix, target_ip) in [("10.1.1.1", 32, "127.0.0.1"), ("fd00::7", 128, "::1")] {
            let address = IfAddress {
                ip: mine.parse().unwrap(),
                prefix,
            };
            netlink.add_address(lo, address).unwrap();
            let pair = UdpPair::bind(&options()).unwrap();
            let target = to(target_ip, pair.port);
            let socket = pair.towards(&target).unwrap();
            let source = meshd_os::udp::Source {
                ip: address.ip,
                ifindex: lo,
            };
            let send = |segments: usize| {
                let run = vec![5; 100 * segments];
                let sent = socket.send(&run, 100, &target, Some(&source), 0, true);
                sent.unwrap()
            };
            for segments in [1, 3] {
                let sent = send(segments);
                assert!(!sent.source_refused);
                let (got, _) = receive(socket);
                assert_eq!(got.len(), segments);
                assert!(
                    got.iter().all(|g| g.1.ip() == address.ip),
                    "sent from {mine}"
                );
            }
            netlink.delete_address(lo, address).unwrap();
            for segments in [1, 3] {
                let sent = send(segments);
                assert!(sent.source_refused && !sent.segmenting_refused);
                assert_eq!(receive(socket).0.len(), segments);
            }
        }
    });
}

#[test]
fn a_path_too_narrow_for_segments_is_served_unsegmented() {
    in_namespace(|| {
        let netlink = loopback_up();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_mtu(lo, 1400).unwrap();
        let pair = UdpPair::bind(&options()).unwrap();
        for ip in ["127.0.0.1", "::1"] {
            let target = to(ip, pair.port);
            let socket = pair.towards(&target).unwrap();
            let sent = socket
                .send(&vec![5; 1452 * 4 + 1], 1452, &target, None, 0, true)
                .unwrap();
            assert!(sent.segmenting_refused);
            assert_eq!(sent.bytes, 1452 * 4 + 1);
            let (got, _) = receive(socket);
            assert_eq!(
                got.iter().map(|g| g.0.len()).collect::<Vec<_>>(),
                [1452, 1452, 1452, 1452, 1],
                "{ip}"
            );
        }
    });
}

#[test]
fn marks_and_buffers_are_set_and_sockets_adopted() {
    in_namespace(|| {
        loopback_up();
        let wanted = UdpOptions {
            mark: 0x51,
            receive_buffer: 8 << 20,
            send_buffer: 1 << 20,
            ..options()
        };
        let pair = UdpPair::bind(&wanted).unwrap();
        for socket in pair.iter() {
            let (receive, send) = socket.buffers().unwrap();
            assert!(receive >= 16 << 20 && send >= 2 << 20, "{receive} {send}");
        }
        pair.set_mark(0).unwrap();
        let v4 = pair.v4.unwrap();
        let (port, gro) = (v4.port(), v4.gro());
        let copy = v4.as_fd().try_clone_to_owned().unwrap();
        drop(v4);
        let adopted = UdpSocket::adopt(copy, &wanted).unwrap();
        assert_eq!(
            (adopted.port(), adopted.gro(), adopted.is_ipv4()),
            (port, gro, true)
        );
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(UdpSocket::adopt(file.into(), &wanted).is_err());
        meshd_os::sandbox::keep_capabilities(&[]).unwrap();
        let without = UdpPair::bind(&UdpOptions { mark: 0, ..wanted }).unwrap();
        assert!(
            without.v4.is_some(),
            "forcing buffers needs a capability, buffers don't"
        );
        assert!(without.set_mark(1).is_err());
    });
}

#[test]
fn a_full_send_buffer_says_so_and_has_room_again() {
    in_namespace(|| {
        loopback_up();
        // A device that sends one packet in ten milliseconds.
        let slow = [
            "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "2000", "limit",
            "10000000",
        ];
        if !std::process::Command::new("tc")
            .args(slow)
            .status()
            .is_ok_and(|s| s.success())
        {
            return eprintln!("skipped: no tc, or no tbf in this kernel");
        }
        let pair = UdpPair::bind(&UdpOptions {
            send_buffer: 1 << 15,
            ..options()
        })
        .unwrap();
        let target = to("127.0.0.1", 9);
        let socket = pair.towards(&target).unwrap();
        let send = || socket.send(&[1; 1000], 1000, &target, None, 0, true);
        let full = (0..1000).find_map(|_| send().err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        let stop = events::Event::new().unwrap();
        let wait = |t| events::wait_writable(socket.as_fd(), Some(stop.as_fd()), t).unwrap();
        assert!(!wait(Some(Duration::from_millis(1))));
        assert!(wait(SECOND));
        assert!(send().is_ok());
        while send().is_ok() {}
        stop.raise();
        assert!(!wait(None), "a stop ends the wait");
    });
}
