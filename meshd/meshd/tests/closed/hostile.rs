//! A network that wants the packets: a DHCP server whose leases carry routes (RFC 3442 in option 121, and 249 as Windows
//! has it), and a router whose advertisements do (RFC 4861, 4191).
use super::scene::on;
use crate::common::Host;
use std::io;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Half the world each, and a mesh address.
const STOLEN_V4: &str = "0.0.0.0/1 192.0.2.1, 128.0.0.0/1 192.0.2.1, 10.77.0.1/32 192.0.2.1";
const STOLEN_V6: [(&str, u8); 3] = [("::", 1), ("8000::", 1), ("fd77::1", 128)];

/// What the client does with a lease: what every client does, and a line a time to see that it was asked.
const SCRIPT: &str = r#"#!/bin/sh
case $1 in
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface" valid_lft "$lease" preferred_lft "$lease"
    set -- "$1" ${staticroutes:-}
    echo "$1 $# ${msstaticroutes:+249}" >> /run/leases
    shift
    while [ $# -ge 2 ]; do
        ip route replace "$1" via "$2" dev "$interface"
        shift 2
    done
    ;;
esac
"#;

/// Starts the server on `out` and a client on `closed`, and waits for the first lease; the client.
pub fn dhcp(out: &mut Host, closed: &mut Host) -> usize {
    out.sh(&format!(
        "cat > /run/udhcpd.conf << 'END'
start 192.0.2.100
end 192.0.2.110
interface eth0
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
opt subnet 255.255.255.0
opt dns 192.168.77.1
opt lease 600
opt staticroutes {STOLEN_V4}
opt msstaticroutes {STOLEN_V4}
END
        : > /run/udhcpd.leases"
    ));
    out.spawn("busybox", &["udhcpd", "-f", "/run/udhcpd.conf"]);
    closed.sh(&format!(
        "cat > /run/lease.sh << 'END'\n{SCRIPT}END\nchmod +x /run/lease.sh && : > /run/leases"
    ));
    let client = closed.spawn(
        "busybox",
        &[
            "udhcpc",
            "-f",
            "-i",
            "eth0",
            "-s",
            "/run/lease.sh",
            "-O",
            "staticroutes",
            "-O",
            "msstaticroutes",
            "-t",
            "20",
            "-T",
            "1",
        ],
    );
    closed.until("a lease with routes", |host| leases(host, "bound") == 1);
    client
}

/// Has the client renew its lease, and waits until it has.
pub fn renew(closed: &Host, client: usize) {
    let before = leases(closed, "renew");
    closed.sh(&format!("kill -USR1 {}", closed.pid(client)));
    closed.until("a renewed lease", |host| leases(host, "renew") > before);
}

/// How many leases of a kind brought all three routes, by both options.
fn leases(host: &Host, kind: &str) -> usize {
    let all = host.sh("cat /run/leases");
    let whole = format!("{kind} 7 249");
    all.lines().filter(|line| *line == whole).count()
}

/// Advertises a router on `out`'s link to everyone: a default way of high preference, routes, and a prefix.
pub fn advertise(out: &Host) {
    let mut options = Vec::new();
    for (network, prefix) in STOLEN_V6 {
        // Route information: 3 units of 8 bytes, preference high, lifetime.
        options.extend([24, 3, prefix, 0b0000_1000, 0, 0, 0x07, 0x08]);
        options.extend(network.parse::<Ipv6Addr>().unwrap().octets());
    }
    // Prefix information: on-link and autonomous.
    options.extend([3, 4, 64, 0b1100_0000, 0, 0, 0x07, 0x08]);
    options.extend([0, 0, 0x07, 0x08, 0, 0, 0, 0]);
    options.extend("2001:db8:66::".parse::<Ipv6Addr>().unwrap().octets());
    advertise_with(out, &options);
}

/// Advertises a default way of high preference to everyone on `out`'s link, with these options (RFC 4861, section 4.6).
pub fn advertise_with(out: &Host, options: &[u8]) {
    let link = on(out, || index("eth0"));
    // Type, code, checksum (the kernel's), hop limit, preference high, lifetime; reachable and retransmission time.
    let mut message = vec![134, 0, 0, 0, 64, 0b0000_1000, 0x07, 0x08];
    message.extend([0; 8]);
    message.extend(options);
    on(out, || {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
        for name in [libc::IPV6_MULTICAST_HOPS, libc::IPV6_UNICAST_HOPS] {
            let hops = 255i32;
            // SAFETY: the pointer and length describe `hops`.
            let done = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IPV6,
                    name,
                    (&raw const hops).cast(),
                    4,
                )
            };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        }
        let everyone = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, link);
        socket.send_to(&message, everyone).unwrap();
    });
}

/// Advertises until `closed` has taken the routes.
pub fn advertise_until_taken(out: &Host, closed: &Host) {
    closed.until("routes by advertisement", |host| {
        advertise(out);
        let routes = host.sh("ip -6 route show proto ra");
        ["default", "::/1", "8000::/1", "fd77::1"]
            .iter()
            .all(|route| {
                routes
                    .lines()
                    .any(|line| line.split(' ').next() == Some(*route))
            })
    });
}

fn index(link: &str) -> u32 {
    let name = std::ffi::CString::new(link).unwrap();
    // SAFETY: the name is live and ends with a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}
