//! TUN and rtnetlink against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::in_namespace;
use meshd_os::netlink::{IfAddress, LinkEvent, LinkEvents, Netlink, Route, RouteKind, TABLE_MAIN};
use meshd_os::offload::VNET_LEN;
use meshd_os::tun::{self, Tun, TunError, TunOptions};
use meshd_os::{events, namespace};
use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;

const OPTIONS: TunOptions = TunOptions {
    multi_queue: false,
    offload: true,
};
const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str, prefix: u8) -> IfAddress {
    IfAddress {
        ip: ip(text),
        prefix,
    }
}

/// A TUN that is up with 10.9.0.1/24, and its index.
fn tun_up(netlink: &Netlink, name: &str) -> (Tun, u32) {
    let tun = Tun::create(name, OPTIONS).unwrap();
    let index = netlink.link(name).unwrap().unwrap().index;
    netlink.add_address(index, address("10.9.0.1", 24)).unwrap();
    netlink.set_up(index, true).unwrap();
    (tun, index)
}

#[test]
fn a_link_lives_and_dies_with_its_tun() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link("wg0").unwrap(), None);
        let tun = Tun::create("wg0", OPTIONS).unwrap();
        assert_eq!(tun.name().unwrap(), "wg0");
        assert!(tun.attached());
        assert!(
            tun.offloads().tcp,
            "every kernel of today has TCP offload on a TUN"
        );
        let link = netlink.link("wg0").unwrap().unwrap();
        assert!(link.is_tun && !link.up);
        assert_eq!(link.kind, "tun");
        assert_eq!(
            netlink.link_by_index(link.index).unwrap().as_ref(),
            Some(&link)
        );
        netlink.set_mtu(link.index, 1420).unwrap();
        netlink.set_queue_len(link.index, 1000).unwrap();
        netlink.set_up(link.index, true).unwrap();
        let link = netlink.require_link(link.index).unwrap();
        assert_eq!((link.mtu, link.up, link.queue_len), (1420, true, 1000));
        assert_eq!(tun.link_up(), Some(true));
        netlink.set_up(link.index, false).unwrap();
        assert_eq!(tun.link_up(), Some(false));
        drop(tun);
        assert_eq!(netlink.link("wg0").unwrap(), None);
        assert_eq!(
            netlink.require_link(link.index).unwrap_err().errno(),
            Some(libc::ENODEV)
        );
    });
}

#[test]
fn errors_are_told_apart() {
    in_namespace(|| {
        let tun = Tun::create("wg0", OPTIONS).unwrap();
        for options in [
            OPTIONS,
            TunOptions {
                multi_queue: true,
                ..OPTIONS
            },
        ] {
            assert!(matches!(
                Tun::create("wg0", options),
                Err(TunError::NameTaken)
            ));
            assert!(matches!(
                Tun::create("lo", options),
                Err(TunError::NameTaken)
            ));
        }
        for name in ["", "a/b", "sixteen-letters-", "a b", ".", "a%s"] {
            assert!(
                matches!(Tun::create(name, OPTIONS), Err(TunError::BadName)),
                "{name}"
            );
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Tun::adopt(file.into(), OPTIONS),
            Err(TunError::NotTun)
        ));
        let copy = tun.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(Tun::adopt(copy, OPTIONS).unwrap().name().unwrap(), "wg0");
        meshd_os::sandbox::keep_capabilities(&[]).unwrap();
        assert!(matches!(
            Tun::create("wg1", OPTIONS),
            Err(TunError::Forbidden)
        ));
    });
}

#[test]
fn packets_pass_both_ways() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let (tun, _) = tun_up(&netlink, "wg0");
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.set_read_timeout(SECOND).unwrap();
        socket.send_to(b"ping", "10.9.0.2:7").unwrap();
        let mut buf = [0; 2048];
        // The kernel may send router solicitations first.
        let n = loop {
            events::wait_readable([tun.as_fd()], SECOND).unwrap();
            let n = tun.read(&mut buf).unwrap();
            if buf[VNET_LEN] >> 4 == 4 {
                break n;
            }
        };
        assert_eq!(n, VNET_LEN + 20 + 8 + 4);
        assert_eq!(&buf[n - 4..n], b"ping");
        // The answer: addresses and ports exchanged; both checksums stay what they were, except a partial one.
        let packet = &mut buf[VNET_LEN..n];
        packet[12..20].rotate_left(4);
        packet[20..24].rotate_left(2);
        packet[26..28].fill(0);
        let (head, body) = packet.split_at(20);
        tun.write(&[
            IoSlice::new(&[0; VNET_LEN]),
            IoSlice::new(head),
            IoSlice::new(body),
        ])
        .unwrap();
        let mut answer = [0; 16];
        let (n, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(
            (&answer[..n], from),
            (&b"ping"[..], "10.9.0.2:7".parse().unwrap())
        );
        // Nor is there an answer to the answer; a router solicitation may still come.
        let empty = loop {
            match tun.read(&mut buf) {
                Ok(_) => assert_eq!(buf[VNET_LEN] >> 4, 6),
                Err(error) => break error,
            }
        };
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn queues_of_one_device() {
    in_namespace(|| {
        let mut queues = Tun::create_queues("wg0", 2, OPTIONS).unwrap();
        assert!(matches!(
            Tun::create_queues("wg0", 2, OPTIONS),
            Err(TunError::NameTaken)
        ));
        let (second, tun) = (queues.pop().unwrap(), queues.pop().unwrap());
        assert_eq!(second.name().unwrap(), "wg0");
        assert_eq!(second.offloads(), tun.offloads());
        drop(tun);
        assert!(second.attached(), "the device lives while one queue does");
    });
}

#[test]
fn a_deleted_link_is_noticed_everywhere() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let mut events = LinkEvents::subscribe().unwrap();
        let (tun, index) = tun_up(&netlink, "wg0");
        netlink.delete_link(index).unwrap();
        assert!(!tun.attached());
        assert_eq!(tun.link_up(), None);
        assert!(tun.name().is_err());
        assert_eq!(
            events::wait_readable([tun.as_fd()], SECOND).unwrap(),
            [true],
            "a sleeping reader wakes"
        );
        assert!(tun::detached(&tun.read(&mut [0; 2048]).unwrap_err()));
        assert!(tun::detached(
            &tun.write(&[IoSlice::new(&[0; 40])]).unwrap_err()
        ));
        let mut seen = Vec::new();
        while let Some(event) = events.next().unwrap() {
            seen.push(event);
        }
        assert!(seen.iter().any(
            |e| matches!(e, LinkEvent::Changed(l) if l.index == index && l.name == "wg0" && l.up)
        ));
        assert!(seen.contains(&LinkEvent::Deleted { index }));
        assert!(seen.contains(&LinkEvent::Routing));
    });
}

#[test]
fn a_link_moved_to_another_namespace_lives_on() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let mut events = LinkEvents::subscribe().unwrap();
        let (tun, index) = tun_up(&netlink, "wg0");
        // The other namespace, made by a thread that has left it when it is needed.
        let (other, elsewhere) = std::thread::spawn(|| {
            namespace::unshare().unwrap();
            (namespace::current().unwrap(), Netlink::open().unwrap())
        })
        .join()
        .unwrap();
        netlink.move_link(index, other.as_fd()).unwrap();
        assert!(tun.attached());
        assert_eq!(tun.name().unwrap(), "wg0");
        assert_eq!(netlink.link("wg0").unwrap(), None);
        let there = elsewhere.link("wg0").unwrap().unwrap();
        elsewhere.set_up(there.index, true).unwrap();
        let mut seen = Vec::new();
        while let Some(event) = events.next().unwrap() {
            seen.push(event);
        }
        assert!(seen.contains(&LinkEvent::Moved { index }), "{seen:?}");
        assert!(!seen.contains(&LinkEvent::Deleted { index }));
        let seen_there = namespace::within(&other, || {
            std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
        });
        assert!(seen_there.unwrap().contains("wg0:"));
    });
}

#[test]
fn addresses_come_and_go() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let (_tun, index) = tun_up(&netlink, "wg0");
        let v6 = address("fd01:2::1", 64);
        netlink.add_address(index, v6).unwrap();
        let again = netlink.add_address(index, v6).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let listed = netlink.addresses(index).unwrap();
        assert!(
            listed.contains(&v6) && listed.contains(&address("10.9.0.1", 24)),
            "{listed:?}"
        );
        assert!(UdpSocket::bind("[fd01:2::1]:0").is_ok(), "usable at once");
        netlink.delete_address(index, v6).unwrap();
        assert!(!netlink.addresses(index).unwrap().contains(&v6));
        assert_eq!(
            netlink.delete_address(index, v6).unwrap_err().kind(),
            io::ErrorKind::AddrNotAvailable
        );
        // Addresses of other links aren't listed.
        let lo = netlink.link("lo").unwrap().unwrap().index;
        assert_eq!(netlink.addresses(lo).unwrap(), []);
    });
}

#[test]
fn routes_come_and_go_in_any_table() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let (_tun, index) = tun_up(&netlink, "wg0");
        for table in [TABLE_MAIN, 51820] {
            for (network, prefix) in [
                ("192.0.2.0", 24),
                ("2001:db8:7::", 48),
                ("0.0.0.0", 0),
                ("::", 0),
            ] {
                let route = Route::new(ip(network), prefix, index, table);
                netlink.add_route(&route).unwrap();
                assert_eq!(
                    netlink.add_route(&route).unwrap_err().kind(),
                    io::ErrorKind::AlreadyExists
                );
                let listed = netlink.routes(index, Some(table)).unwrap();
                let like = |r: &&Route| (r.network, r.prefix) == (route.network, route.prefix);
                let found = listed.iter().find(like).unwrap();
                assert_eq!(
                    (found.kind, found.protocol),
                    (RouteKind::Unicast, route.protocol)
                );
            }
        }
        let way = netlink.route_to(ip("192.0.2.9"), 0).unwrap().unwrap();
        assert_eq!((way.ifindex, way.source), (index, Some(ip("10.9.0.1"))));
        assert_eq!(
            netlink
                .route_to(ip("2001:db8:7::9"), 0)
                .unwrap()
                .map(|w| w.ifindex),
            Some(index)
        );
        for (network, prefix) in [("192.0.2.0", 24), ("0.0.0.0", 0), ("::", 0)] {
            let route = Route::new(ip(network), prefix, index, TABLE_MAIN);
            netlink.delete_route(&route).unwrap();
            assert_eq!(
                netlink.delete_route(&route).unwrap_err().errno(),
                Some(libc::ESRCH)
            );
        }
        assert_eq!(netlink.route_to(ip("192.0.2.9"), 0).unwrap(), None);
        assert_eq!(netlink.route_to(ip("2001:db9::"), 0).unwrap(), None);
        let closed = Route {
            kind: RouteKind::Unreachable,
            ifindex: 0,
            metric: 9,
            ..Route::new(ip("192.0.2.0"), 24, 0, TABLE_MAIN)
        };
        netlink.add_route(&closed).unwrap();
        assert_eq!(netlink.route_to(ip("192.0.2.9"), 0).unwrap(), None);
    });
}

#[test]
fn an_event_too_large_to_be_read_is_told_as_lost() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let (_tun, index) = tun_up(&netlink, "wg0");
        netlink.add_address(index, address("fd09::1", 64)).unwrap();
        // A route of many ways, to which another one is added: the notice tells all of them.
        let add = |ways: std::ops::Range<u32>| {
            let way = |n| format!("route append fd0a::/64 via fd09::{n:x} dev wg0\n");
            let mut ip = std::process::Command::new("ip");
            let mut ip = ip
                .args(["-6", "-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let lines: String = ways.map(way).collect();
            ip.stdin
                .take()
                .unwrap()
                .write_all(lines.as_bytes())
                .unwrap();
            assert!(ip.wait().unwrap().success());
        };
        add(2..1500);
        let mut events = LinkEvents::subscribe().unwrap();
        add(1500..1501);
        assert_eq!(events.next().unwrap(), Some(LinkEvent::Lost));
        assert_eq!(events.next().unwrap(), None);
    });
}

#[test]
fn forwarding_is_switched_per_link() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let (_tun, index) = tun_up(&netlink, "wg0");
        let lo = netlink.link("lo").unwrap().unwrap();
        assert!(lo.forwarding_v4.is_some());
        for on in [true, false, true] {
            netlink.set_forwarding_v4(index, on).unwrap();
            assert_eq!(netlink.require_link(index).unwrap().forwarding_v4, Some(on));
        }
        assert_eq!(netlink.link("lo").unwrap().unwrap(), lo, "only that link");
        // Who turns it by sysctl is told of, and so is IPv6.
        let mut events = LinkEvents::subscribe().unwrap();
        for switch in ["ipv4/conf/wg0/forwarding", "ipv6/conf/wg0/forwarding"] {
            while events.next().unwrap().is_some() {}
            let path = format!("/proc/sys/net/{switch}");
            let now = std::fs::read_to_string(&path).unwrap();
            let other = if now.trim() == "1" { "0" } else { "1" };
            std::fs::write(&path, other).unwrap();
            let mut seen = Vec::new();
            while let Some(event) = events.next().unwrap() {
                seen.push(event);
            }
            assert!(seen.contains(&LinkEvent::Switches), "{switch}: {seen:?}");
        }
    });
}

#[test]
fn the_kernel_explains_itself() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        let error = netlink
            .add_route(&Route::new(
                IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                24,
                lo,
                TABLE_MAIN,
            ))
            .unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(
            error.to_string().starts_with("add route 192.0.2.1/24 ("),
            "{error}"
        );
    });
}
