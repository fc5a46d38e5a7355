//! The stage of the fail-closed tests: a host with an uplink, somebody behind it, and senders of many kinds.
use super::wire::{Frame, Tap};
use super::PORT;
use crate::common::{self, hosts, Host};
use meshd_os::namespace;
use meshd_os::nft::{Nft, NftError};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Runs `f` in a host's network namespace.
pub fn on<T>(host: &Host, f: impl FnOnce() -> T) -> T {
    let there = File::open(format!("/proc/{}/ns/net", host.holder())).unwrap();
    namespace::within(&there, f).unwrap()
}

/// Destinations out there: the internet, the mesh's own, and DNS at the internet, at the LAN and in the mesh.
pub const OUTSIDE: [&str; 9] = [
    "198.51.100.9:9",
    "[2001:db8:ffff::9]:9",
    "192.0.2.1:9",
    "[2001:db8::1]:9",
    "10.77.0.1:9",
    "[fd77::1]:9",
    "198.51.100.53:53",
    "192.168.77.1:53",
    "192.168.77.1:853",
];
/// The private LAN.
pub const LAN: &str = "192.168.77.1:9";

/// How a socket is tied to the uplink.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tie {
    None,
    /// SO_BINDTODEVICE.
    Device,
    /// IP_UNICAST_IF, IPV6_UNICAST_IF.
    Unicast,
    /// Bound to the uplink's own address.
    Address,
}

/// Sends one datagram, if the kernel lets it be sent. Its text says who sent it.
fn send(to: &str, tie: Tie, uplink: &str) -> Option<()> {
    let to: SocketAddr = to.parse().unwrap();
    let from = match (to.ip(), tie) {
        (IpAddr::V4(_), Tie::Address) => "192.0.2.2:0",
        (IpAddr::V6(_), Tie::Address) => "[2001:db8::2]:0",
        (IpAddr::V4(_), _) => "0.0.0.0:0",
        (IpAddr::V6(_), _) => "[::]:0",
    };
    let socket = UdpSocket::bind(from).ok()?;
    let name = std::ffi::CString::new(uplink).unwrap();
    // SAFETY: the name is live and ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    match tie {
        // In the namespace behind there is no such link.
        Tie::Device if index == 0 => return None,
        Tie::Device => option(
            &socket,
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            uplink.as_bytes(),
        ),
        Tie::Unicast if index == 0 => return None,
        Tie::Unicast => {
            let index = index.to_be_bytes();
            match to {
                SocketAddr::V4(_) => option(&socket, libc::IPPROTO_IP, libc::IP_UNICAST_IF, &index),
                SocketAddr::V6(_) => {
                    option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF, &index)
                }
            }
        }
        Tie::None | Tie::Address => {}
    }
    socket
        .send_to(format!("<{tie:?}>{to}</>").as_bytes(), to)
        .ok()
        .map(drop)
}

fn option(socket: &UdpSocket, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the pointer and length describe `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Sends by every tie to everywhere, the LAN included.
pub fn send_all(uplink: &str) {
    for tie in [Tie::None, Tie::Device, Tie::Unicast, Tie::Address] {
        for to in OUTSIDE.into_iter().chain([LAN]) {
            let _ = send(to, tie, uplink);
        }
    }
}

/// Sends what somebody else is to forward.
fn send_forwarded() {
    for to in OUTSIDE {
        let _ = send(&to.replace(":9", ":99"), Tie::None, "door");
    }
}

/// A thread that sends from a host without end; it ends when this is dropped.
struct Sender {
    end: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(host: &Host, uplink: &'static str) -> Self {
        let there = File::open(format!("/proc/{}/ns/net", host.holder())).unwrap();
        let (end, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (its_end, its_rounds) = (end.clone(), rounds.clone());
        let thread = thread::spawn(move || {
            namespace::enter(there.as_fd()).unwrap();
            while !its_end.load(Ordering::Relaxed) {
                send_all(uplink);
                send_forwarded();
                its_rounds.fetch_add(1, Ordering::Relaxed);
                // The machine has other work too.
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            end,
            rounds,
            thread: Some(thread),
        }
    }

    /// Waits for a round that begins after now.
    fn one_round_more(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        while self.rounds.load(Ordering::Relaxed) < before + 2 {
            assert!(
                !self.thread.as_ref().unwrap().is_finished(),
                "a sender died"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Any frame outside the written list of exemptions is a leak.
pub fn assert_no_leak(phase: &str, frames: &[Frame]) {
    let leaks: BTreeSet<String> = frames
        .iter()
        .filter(|frame| !frame.is_exempt(PORT))
        .map(|frame| format!("{frame:?}"))
        .collect();
    assert!(leaks.is_empty(), "{phase}: {leaks:#?}");
}

/// A host with an uplink, a client behind it whose packets it forwards, and what it takes to watch the uplink.
pub struct Scene {
    /// Owns the other end of the uplink, and is the other host of the mesh.
    pub out: Host,
    pub closed: Host,
    behind: Host,
    pub tap: Tap,
    pub uplink: &'static str,
    /// A connection that was there before anything was closed, and its other end.
    old: (TcpStream, TcpStream),
}

impl Scene {
    pub fn new() -> Option<Self> {
        let [out, closed, behind] = hosts::<3>()?;
        out.sh("ip addr add 192.168.77.1/24 dev eth0");
        closed.sh(&format!(
            "ip addr add 192.168.77.2/24 dev eth0
             ip link add inside type veth peer name door netns {}
             ip addr add 172.30.0.1/24 dev inside && ip addr add fdbe::1/64 dev inside nodad && ip link set inside up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=1",
            behind.holder()
        ));
        behind.sh(
            "ip addr add 172.30.0.2/24 dev door && ip addr add fdbe::2/64 dev door nodad && ip link set door up
             ip route add default via 172.30.0.1 && ip -6 route add default via fdbe::1",
        );
        let listener = on(&out, || TcpListener::bind("192.0.2.1:7").unwrap());
        let old = on(&closed, || TcpStream::connect("192.0.2.1:7").unwrap());
        let old = (old, listener.accept().unwrap().0);
        let scene = Self {
            tap: Tap::new(&out, "port2"),
            out,
            closed,
            behind,
            uplink: "eth0",
            old,
        };
        scene.give_ways();
        Some(scene)
    }

    /// What DHCP and router advertisements give.
    pub fn give_ways(&self) {
        self.closed.sh(&format!(
            "ip route replace default via 192.0.2.1 dev {0} && ip -6 route replace default via 2001:db8::1 dev {0}",
            self.uplink
        ));
    }

    /// Has everyone send, and returns what came out of the uplink.
    fn send(&mut self) -> Vec<Frame> {
        let uplink = self.uplink;
        on(&self.closed, || {
            send_all(uplink);
            for to in OUTSIDE {
                let _ = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(10));
            }
        });
        on(&self.behind, send_forwarded);
        self.old.0.set_nonblocking(true).unwrap();
        let _ = self.old.0.write_all(b"<old>");
        self.tap.frames()
    }

    /// Everyone goes on sending while `what` happens, and nothing gets out that isn't exempt.
    pub fn while_sending<T>(&mut self, phase: &str, what: impl FnOnce(&mut Self) -> T) -> T {
        self.tap.frames();
        let uplink = self.uplink;
        let senders = [&self.closed, &self.behind].map(|host| Sender::start(host, uplink));
        // Whole rounds before, while and after it happens.
        senders.iter().for_each(Sender::one_round_more);
        let done = what(self);
        senders.iter().for_each(Sender::one_round_more);
        drop(senders);
        let frames = self.tap.frames();
        assert_no_leak(phase, &frames);
        assert_eq!(self.tap.lost(), 0, "{phase}: the tap lost frames");
        done
    }

    /// Nothing gets out that isn't exempt; the LAN does.
    pub fn assert_closed(&mut self, phase: &str) {
        self.tap.frames();
        let frames = self.send();
        assert_no_leak(phase, &frames);
        let near = format!("<{:?}>{LAN}</>", Tie::None);
        let is_near =
            |frame: &Frame| matches!(frame, Frame::Packet { text, .. } if text.contains(&near));
        assert!(
            frames.iter().any(is_near),
            "{phase}: the LAN is out of reach"
        );
    }

    /// Everything gets out: the senders are able to.
    pub fn assert_open(&mut self, phase: &str) {
        // Neighbours have to be found first.
        self.send();
        let frames = self.send();
        for tie in [Tie::None, Tie::Device, Tie::Unicast, Tie::Address] {
            for to in OUTSIDE {
                let text = format!("<{tie:?}>{to}</>");
                let is = |frame: &Frame| matches!(frame, Frame::Packet { text: sent, .. } if sent.contains(&text));
                assert!(frames.iter().any(is), "{phase}: {text} did not get out");
            }
        }
        let forwarded = "<None>198.51.100.9:99</>";
        for text in [forwarded, "<old>"] {
            let is = |frame: &Frame| matches!(frame, Frame::Packet { text: sent, .. } if sent.contains(text));
            assert!(frames.iter().any(is), "{phase}: {text} did not get out");
        }
    }

    /// Rules, routes and tables, as text; without link-local addresses, which come when the kernel has looked for others'.
    pub fn kernel(&self) -> String {
        self.closed.sh(
            "ip rule; ip -6 rule; (ip route show table all; ip -6 route show table all) | sed 's/ expires [^ ]*//' | grep -v fe80 | sort
             ! command -v nft > /dev/null || nft list tables",
        )
    }

    /// What `nft flush ruleset` does to our table, where there is no `nft`.
    pub fn flush(&self) {
        if common::installed("nft") {
            self.closed.sh("nft flush ruleset");
        }
        on(&self.closed, || {
            match Nft::open().and_then(|nft| nft.delete("meshd_prod")) {
                Ok(()) | Err(NftError::Owned) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }
}
