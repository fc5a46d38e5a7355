//! What gets out by the exit, and as whom.
use super::scene::on;
use super::wire::Frame;
use super::world::{as_user, bound, World, ALICE, BOB, FAR, PATIENCE};
use crate::common::Host;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// A client's end, and the server's.
pub type Connection = (TcpStream, TcpStream);

impl World {
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
        let accepted = accept(&listener)
            .unwrap_or_else(|| panic!("{uid} to {far}: nobody came\n{}", self.situation()));
        (made, accepted.0)
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
pub fn is_of_mesh(frame: &Frame) -> bool {
    let Frame::Packet { from, .. } = frame else {
        return false;
    };
    match from {
        IpAddr::V4(ip) => ip.octets()[..3] == [10, 77, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xfd77,
    }
}

/// The next connection, if one comes soon.
pub fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).unwrap();
                return Some((stream, from));
            }
            Err(_) if Instant::now() < end => {}
            Err(error) => {
                eprintln!("nobody to accept: {error}");
                return None;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
