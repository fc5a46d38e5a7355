//! The stage of the exit's tests: a peer whose everything goes through the exit, one of whose users some do, the exit, the
//! internet, and a neighbour of the exit who would like to be in the mesh.
use super::hostile;
use super::scene::on;
use super::wire::{Frame, Tap};
use super::Connection;
use crate::common::{hosts, Host, Mesh};
use meshd_os::nft::{Nft, NftError};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

pub const NAME: &str = "prod";
/// A user whose default way is the exit, on the host that sends nobody else there.
pub const ALICE: u32 = 1001;
const BOB: u32 = 1002;
/// Somebody on the internet.
pub const FAR: [&str; 2] = ["198.51.100.9", "2001:db8:ffff::9"];
const PATIENCE: Duration = Duration::from_secs(5);

/// See the file's head.
pub struct World {
    mesh: Mesh,
    /// All it has goes through the exit.
    pub client: Host,
    pub exit: Host,
    /// The internet, and the router to it.
    pub server: Host,
    /// Somebody on the exit's uplink, and at another link a site behind the exit.
    neighbour: Host,
    /// Alice goes through the exit.
    some: Host,
    /// Sees what the exit sends by its uplink.
    pub tap: Tap,
    pub supervisor: usize,
    environment: Vec<String>,
}

impl World {
    pub fn new(environment: &[&str]) -> Option<Self> {
        let [server, exit, client, neighbour, some] = hosts::<5>()?;
        if matches!(
            Nft::open().and_then(|nft| nft.find("none")),
            Err(NftError::Missing)
        ) {
            eprintln!("skipped: this kernel has no nf_tables");
            return None;
        }
        // It is a router, says so to neighbours who ask (RFC 4861, section 7.2.5), and the switch is in it.
        server.sh("for link in eth0 switch; do sysctl -qw net.ipv6.conf.$link.accept_ra=0; done; sysctl -qw net.ipv6.conf.all.forwarding=1; ip addr add 198.51.100.9/32 dev lo; ip addr add 2001:db8:ffff::9/128 dev lo nodad");
        for host in [&client, &some] {
            host.sh(
                "ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8::1",
            );
        }
        exit.sh("ip route add default via 192.0.2.1");
        let [to_neighbour, to_server] = [&neighbour, &server].map(Host::holder);
        exit.sh(&format!(
            "ip link add inside type veth peer name door netns {to_neighbour}
             ip addr add 172.30.0.1/24 dev inside && ip addr add fdbe::1/64 dev inside nodad && ip link set inside up
             ip link add other type veth peer name other netns {to_server}
             ip addr add 203.0.113.2/24 dev other && ip link set other up"
        ));
        server.sh("ip addr add 203.0.113.1/24 dev other && ip link set other up");
        neighbour.sh("ip addr add 172.30.0.2/24 dev door && ip addr add fdbe::2/64 dev door nodad && ip link set door up");
        // The exit's IPv6 default comes from a router.
        exit.until("an advertised default", |host| {
            hostile::advertise_with(&server, &[]);
            host.sh("ip -6 route show default proto ra")
                .contains("default")
        });
        let mut world = Self {
            mesh: Mesh::new(5),
            tap: Tap::new(&server, "port2"),
            client,
            exit,
            server,
            neighbour,
            some,
            supervisor: 0,
            environment: environment.iter().map(|word| (*word).to_owned()).collect(),
        };
        world.supervise();
        Some(world)
    }

    /// Starts the exit's daemon under a supervisor.
    pub fn supervise(&mut self) {
        let words: Vec<&str> = self.environment.iter().map(String::as_str).collect();
        self.supervisor = crate::common::supervised::supervise_with(&mut self.exit, &words);
    }

    /// Kills the supervisor and with it the daemon, as a crash of everything does.
    pub fn kill_all(&mut self) {
        let daemon = crate::common::supervised::daemon(&self.exit, self.supervisor);
        self.exit.kill(self.supervisor);
        self.exit
            .sh(&format!("kill -9 {daemon} 2> /dev/null || true"));
        self.exit.until("nobody serves", |host| {
            !crate::common::supervised::serves(host)
        });
    }

    /// The exit's configuration, with these lines.
    pub fn conf(&self, lines: &str) -> String {
        self.mesh.interface(2, lines) + &self.mesh.peer(3, "") + &self.mesh.peer(5, "")
    }

    pub fn exit_is(&self, lines: &str) {
        self.exit.apply(NAME, &self.conf(lines));
    }

    /// The peers' daemons, with the exit as their default way.
    pub fn everybody_joins(&mut self) {
        let way = self
            .mesh
            .peer(2, "PersistentKeepalive = 1\n")
            .replace("fd77::2/128", "fd77::2/128, 0.0.0.0/0, ::/0");
        for (n, host, lines) in [
            (3, &mut self.client, String::new()),
            (5, &mut self.some, format!("RouteUsers = {ALICE}\n")),
        ] {
            host.run(NAME);
            host.apply(NAME, &(self.mesh.interface(n, &lines) + &way));
            host.until("the exit answers", |host| {
                host.pings("10.77.0.2") && host.pings("fd77::2")
            });
        }
    }

    /// All of TCP, UDP and ping get out and their answers back, and the uplink shows the exit's address alone.
    pub fn assert_goes_out(&self, phase: &str, seen: [&str; 2]) {
        self.tap.frames();
        for (far, seen) in FAR.into_iter().zip(seen) {
            let seen: IpAddr = seen.parse().unwrap();
            for (host, uid) in [(&self.client, BOB), (&self.some, ALICE)] {
                assert_eq!(
                    self.seen_as(host, uid, far),
                    seen,
                    "{phase}: {uid} over TCP"
                );
                assert_eq!(
                    self.seen_by_udp(host, uid, far),
                    seen,
                    "{phase}: {uid} over UDP"
                );
            }
            let pings = self.client.pings(far);
            assert!(pings, "{phase}: {far}");
        }
        // Everybody else there has a way of his own.
        assert_eq!(
            self.seen_as(&self.some, BOB, FAR[0]),
            "192.0.2.5".parse::<IpAddr>().unwrap()
        );
        let frames = self.tap.frames();
        self.assert_no_mesh_source(phase, &frames);
        // The tap sees: the translated packets are there.
        let far = |frame: &Frame| matches!(frame, Frame::Packet { to, .. } if FAR.contains(&to.to_string().as_str()));
        assert!(
            frames.iter().filter(|frame| far(frame)).count() > 10,
            "{phase}: {frames:?}"
        );
        assert_eq!(self.tap.lost(), 0);
    }

    pub fn assert_no_mesh_source(&self, phase: &str, frames: &[Frame]) {
        let shown: Vec<_> = frames.iter().filter(|frame| is_of_mesh(frame)).collect();
        assert!(shown.is_empty(), "{phase}: {shown:?}");
    }

    /// The address that somebody far away sees a user come from.
    pub fn seen_as(&self, host: &Host, uid: u32, far: &str) -> IpAddr {
        let (client, server) = self.connect(host, uid, far);
        drop(client);
        server.peer_addr().unwrap().ip()
    }

    /// A connection of the client's.
    pub fn flow(&self, host: &Host, far: &str) -> Connection {
        let mut flow = self.connect(host, BOB, far);
        echo(&mut flow, "new");
        flow
    }

    fn connect(&self, host: &Host, uid: u32, far: &str) -> Connection {
        let at = SocketAddr::new(far.parse().unwrap(), 7);
        let listener = on(&self.server, || bound(|| TcpListener::bind(at)));
        let made = as_user(host, uid, || TcpStream::connect_timeout(&at, PATIENCE));
        let made = made.unwrap_or_else(|error| panic!("{uid} to {far}: {error}"));
        let accepted = accept(&listener).0;
        (made, accepted)
    }

    pub fn client_connects(&self, at: SocketAddr) -> std::io::Result<TcpStream> {
        on(&self.client, || {
            TcpStream::connect_timeout(&at, Duration::from_millis(500))
        })
    }

    fn seen_by_udp(&self, host: &Host, uid: u32, far: &str) -> IpAddr {
        let at = SocketAddr::new(far.parse().unwrap(), 9);
        let server = on(&self.server, || bound(|| UdpSocket::bind(at)));
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = as_user(host, uid, || UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"ask", at).unwrap();
        let mut buffer = [0; 16];
        let (n, from) = server
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{uid} to {far}: {error}"));
        assert_eq!(&buffer[..n], b"ask");
        server.send_to(b"answer", from).unwrap();
        let (n, answerer) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..n], answerer), (&b"answer"[..], at));
        from.ip()
    }

    /// The neighbour sends to the peers through the exit, as himself and as a peer, and to the site behind it.
    fn intrude(&self) -> Intrusions {
        let listen = |host: &Host, at: &str| {
            let socket = on(host, || bound(|| UdpSocket::bind(at)));
            socket
                .set_read_timeout(Some(Duration::from_millis(400)))
                .unwrap();
            socket
        };
        let peer = ["10.77.0.3:19", "[fd77::3]:19"].map(|at| listen(&self.client, at));
        let site = ["172.30.0.2:19", "[fdbe::2]:19"].map(|at| listen(&self.neighbour, at));
        // The server is a neighbour too, and has no link to the site.
        let way = "ip route replace 10.77.0.0/24 via 192.0.2.2 && ip -6 route replace fd77::/64 via 2001:db8::2
            ip route replace 172.30.0.0/24 via 192.0.2.2 && ip -6 route replace fdbe::/64 via 2001:db8::2
            ip addr replace 10.77.0.5/32 dev lo && ip addr replace fd77::5/128 dev lo nodad";
        self.server.sh(way);
        on(&self.server, || {
            for from in [
                "192.0.2.1:19",
                "[2001:db8::1]:19",
                "10.77.0.5:19",
                "[fd77::5]:19",
            ] {
                let from: SocketAddr = from.parse().unwrap();
                let socket = bound(|| UdpSocket::bind(from));
                for to in [
                    "10.77.0.3:19",
                    "[fd77::3]:19",
                    "172.30.0.2:19",
                    "[fdbe::2]:19",
                ] {
                    let to: SocketAddr = to.parse().unwrap();
                    if to.is_ipv4() == from.is_ipv4() {
                        // Twice: the first may wait for a neighbour to be found.
                        for _ in 0..2 {
                            let _ = socket.send_to(format!("{from}").as_bytes(), to);
                        }
                    }
                }
            }
        });
        let heard = |socket: &UdpSocket| {
            let mut buffer = [0; 64];
            let mut who = Vec::new();
            while let Ok((n, _)) = socket.recv_from(&mut buffer) {
                who.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
            who
        };
        let intrusions = Intrusions {
            peer: peer.iter().flat_map(heard).collect(),
            site: site.iter().flat_map(heard).collect(),
        };
        self.server.sh(
            "ip route del 10.77.0.0/24; ip -6 route del fd77::/64; ip route del 172.30.0.0/24; ip -6 route del fdbe::/64
             ip addr del 10.77.0.5/32 dev lo; ip addr del fd77::5/128 dev lo",
        );
        intrusions
    }

    pub fn assert_nobody_gets_in(&self, phase: &str) {
        let heard = self.intrude();
        assert!(
            heard.peer.is_empty() && heard.site.is_empty(),
            "{phase}: {heard:?}"
        );
    }

    /// The same of a host that is a router for other reasons: what isn't for the mesh is not the exit's business.
    pub fn assert_mesh_is_closed(&self, phase: &str) {
        let heard = self.intrude();
        assert!(heard.peer.is_empty(), "{phase}: {heard:?}");
        assert!(!heard.site.is_empty(), "{phase}: nothing was sent");
    }

    /// A host that forwards and is no exit lets all of that happen.
    pub fn assert_shows_the_mesh(&self) {
        let heard = self.intrude();
        for own in ["192.0.2.1:19", "[2001:db8::1]:19"] {
            assert!(heard.peer.iter().any(|who| who == own), "{own}: {heard:?}");
            assert!(heard.site.iter().any(|who| who == own), "{own}: {heard:?}");
        }
        self.tap.frames();
        for far in FAR {
            let at = SocketAddr::new(far.parse().unwrap(), 7);
            let _ = self.client_connects(at);
        }
        let frames = self.tap.frames();
        for family in [true, false] {
            let is = |frame: &Frame| {
                matches!(frame, Frame::Packet { from, .. } if from.is_ipv4() == family)
                    && is_of_mesh(frame)
            };
            assert!(frames.iter().any(is), "the mesh's address was to be seen");
        }
    }

    /// Connections that go out with the mesh's addresses, through somebody's firewall that tracks them: one that is answered
    /// and one that isn't, of both families.
    pub fn older_than_the_exit(&self) -> Vec<OlderFlow> {
        if !crate::common::installed("nft") {
            eprintln!("older connections are left out: nft is not installed");
            return Vec::new();
        }
        self.exit.sh("nft 'add table inet other
                add chain inet other nat { type nat hook postrouting priority 200; }
                add chain inet other forward { type filter hook forward priority 0; }
                add rule inet other forward ct state established accept'");
        self.server
            .sh("ip route add 10.77.0.3 via 192.0.2.2 && ip -6 route add fd77::3 via 2001:db8::2");
        let mut flows = Vec::new();
        for far in FAR {
            for (port, answered) in [(29, true), (39, false)] {
                let to = SocketAddr::new(far.parse().unwrap(), port);
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let flow = OlderFlow {
                    socket: on(&self.client, || UdpSocket::bind(any).unwrap()),
                    to,
                };
                let server = on(&self.server, || bound(|| UdpSocket::bind(to)));
                server.set_read_timeout(Some(PATIENCE)).unwrap();
                flow.send();
                let from = server.recv_from(&mut [0; 64]).unwrap().1;
                if answered {
                    flow.socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    server.send_to(b"answer", from).unwrap();
                    flow.socket.recv_from(&mut [0; 64]).unwrap();
                }
                flows.push(flow);
            }
        }
        flows
    }

    /// Takes away what that took.
    pub fn end_older(&self) {
        self.exit.try_sh("nft delete table inet other");
        self.server
            .try_sh("ip route del 10.77.0.3; ip -6 route del fd77::3");
    }

    /// A site behind the exit reaches peers and is reached, with its own addresses.
    pub fn assert_site_works(&self) {
        self.neighbour
            .sh("ip route replace 10.77.0.0/24 via 172.30.0.1");
        let pings = self.neighbour.pings("10.77.0.3");
        assert!(pings, "from the site to a peer");
        let at: SocketAddr = "172.30.0.2:7".parse().unwrap();
        let listener = on(&self.neighbour, || bound(|| TcpListener::bind(at)));
        let _made = on(&self.client, || {
            TcpStream::connect_timeout(&at, PATIENCE).unwrap()
        });
        let from = accept(&listener).1.ip();
        assert_eq!(from, "10.77.0.3".parse::<IpAddr>().unwrap());
        self.neighbour.sh("ip route del 10.77.0.0/24");
    }

    /// The exit's private network, when it isn't named as a site: nothing of a peer's gets there, be it without an answer.
    pub fn assert_lan_is_out_of_reach(&self) {
        // As other WireGuards do; ours takes a private network for one of its own neighbourhood's.
        let ways = |what: &str| {
            format!("ip route {what} 172.30.0.0/24 dev {NAME} && ip -6 route {what} fdbe::/64 dev {NAME}")
        };
        self.client.sh(&ways("add"));
        for at in ["172.30.0.2:19", "[fdbe::2]:19"] {
            let at: SocketAddr = at.parse().unwrap();
            let lan = on(&self.neighbour, || bound(|| UdpSocket::bind(at)));
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            for (host, said) in [(&self.client, "a peer"), (&self.exit, "the exit")] {
                let socket = on(host, || UdpSocket::bind(any).unwrap());
                // Twice: the first may wait for a neighbour to be found.
                for _ in 0..2 {
                    socket.send_to(said.as_bytes(), at).unwrap();
                }
                // An echo of the peer's comes after what it has sent.
                assert!(self.client.pings("10.77.0.2"));
            }
            lan.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 16];
            for _ in 0..2 {
                let n = lan.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..n], b"the exit", "{at} is no part of the internet");
            }
        }
        self.client.sh(&ways("del"));
    }

    /// What others may do to our table: all that the kernel lets them.
    pub fn flush(&self) {
        if crate::common::installed("nft") {
            self.exit.sh("nft flush ruleset");
        }
        on(&self.exit, || {
            match Nft::open().and_then(|nft| nft.delete("meshd_prod_exit")) {
                Ok(()) | Err(NftError::Owned) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }

    /// Every switch of the exit's links, but those of the tunnel, which come and go with it.
    pub fn switches(&self) -> String {
        self.exit.sh(
            "cd /proc/sys/net && for file in ipv4/ip_forward ipv4/conf/*/* ipv6/conf/*/*; do
                case $file in */prod/* | *stable_secret) continue ;; esac
                echo $file $(cat $file)
             done",
        )
    }

    /// The IPv6 routes that the exit learned.
    pub fn routes(&self) -> String {
        self.exit
            .sh("ip -6 route show proto ra | sed 's/ expires [^ ]*//'")
    }

    pub fn tables(&self) -> String {
        self.exit.try_sh("nft list tables")
    }
}

/// See [`World::older_than_the_exit`].
pub struct OlderFlow {
    socket: UdpSocket,
    to: SocketAddr,
}

impl OlderFlow {
    pub fn send(&self) {
        // Nobody may be there any more, which is told at the next one.
        let _ = self.socket.send_to(b"older", self.to);
        let _ = self.socket.send_to(b"older", self.to);
    }

    /// Whether the mesh's address was seen on its packets.
    pub fn is_among(&self, frames: &[Frame]) -> bool {
        let mine = |frame: &&Frame| matches!(frame, Frame::Packet { to, inner, .. } if *to == self.to.ip() && inner[2..4] == self.to.port().to_be_bytes());
        frames.iter().filter(mine).any(is_of_mesh)
    }
}

/// What got where it doesn't belong: the senders' names.
#[derive(Debug)]
struct Intrusions {
    peer: Vec<String>,
    site: Vec<String>,
}

/// A word goes there and comes back.
pub fn echo(flow: &mut Connection, word: &str) {
    let mut buffer = vec![0; word.len()];
    for one in [&flow.0, &flow.1] {
        one.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    flow.0.write_all(word.as_bytes()).unwrap();
    flow.1
        .read_exact(&mut buffer)
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    flow.1.write_all(&buffer).unwrap();
    flow.0
        .read_exact(&mut buffer)
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(buffer, word.as_bytes());
}

/// Whether a packet, other than the tunnel's own, shows the mesh's addresses.
fn is_of_mesh(frame: &Frame) -> bool {
    let Frame::Packet { from, .. } = frame else {
        return false;
    };
    match from {
        IpAddr::V4(ip) => ip.octets()[..3] == [10, 77, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xfd77,
    }
}

/// Runs `f` on a host with sockets that are `uid`'s.
pub fn as_user<T>(host: &Host, uid: u32, f: impl FnOnce() -> T) -> T {
    let become_user = |uid: u32| {
        // SAFETY: no pointers are passed; it changes this thread alone (setfsuid(2)).
        unsafe { libc::setfsuid(uid) };
    };
    on(host, || {
        become_user(uid);
        let done = f();
        become_user(0);
        done
    })
}

/// The next connection, which must come soon.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).unwrap();
                return (stream, from);
            }
            Err(error) => assert!(Instant::now() < end, "nobody came: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bound socket. A program that another thread has just started holds copies of all sockets until it runs.
pub fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {}
            other => return other.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
