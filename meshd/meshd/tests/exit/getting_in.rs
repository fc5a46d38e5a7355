//! What gets into the mesh by the exit, or past it, and what doesn't: the neighbour's packets, a site's, and a peer's to the exit's LAN.
use super::going_out::{accept, is_of_mesh};
use super::scene::on;
use super::wire::Frame;
use super::world::{bound, World, FAR, NAME, PATIENCE};
use crate::common::Host;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// What got where it doesn't belong: the senders' names.
#[derive(Debug)]
struct Intrusions {
    peer: Vec<String>,
    site: Vec<String>,
}

impl World {
    pub fn assert_nobody_gets_in(&self, phase: &str) {
        let heard = self.intrude();
        assert!(
            heard.peer.is_empty() && heard.site.is_empty(),
            "{phase}: {heard:?}"
        );
    }

    /// The same of a host that is a router for other reasons: what isn't for the mesh is not the exit's business.
    pub fn assert_mesh_is_closed(&self, phase: &str) {
        let heard = self.intrude_until(|heard| !heard.site.is_empty());
        assert!(heard.peer.is_empty(), "{phase}: {heard:?}");
        assert!(!heard.site.is_empty(), "{phase}: nothing was sent");
    }

    /// A host that forwards and is no exit lets all of that happen.
    pub fn assert_shows_the_mesh(&self) {
        let own = ["192.0.2.1:19", "[2001:db8::1]:19"];
        let all = |who: &Vec<String>| own.iter().all(|own| who.iter().any(|who| who == own));
        let heard = self.intrude_until(|heard| all(&heard.peer) && all(&heard.site));
        assert!(all(&heard.peer) && all(&heard.site), "{heard:?}");
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
        let from = accept(&listener)
            .unwrap_or_else(|| panic!("nobody came to the site\n{}", self.situation()))
            .1
            .ip();
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

    /// The same until something was heard, for who expects it; a busy machine takes its time.
    fn intrude_until(&self, so: impl Fn(&Intrusions) -> bool) -> Intrusions {
        let (mut heard, end) = (self.intrude(), Instant::now() + PATIENCE);
        while !so(&heard) && Instant::now() < end {
            let more = self.intrude();
            heard.peer.extend(more.peer);
            heard.site.extend(more.site);
        }
        heard
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
}
