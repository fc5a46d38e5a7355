//! The port changes: what is in the old sockets, and what still comes to them, is delivered.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use meshd_os::udp::{UdpOptions, UdpPair};
use meshd_proto::{Datagram, Endpoint};

use super::world::{enter_fresh, pair, End, ALL};
use super::{Switches, PATIENCE};

/// Inner datagrams from one end to the other.
struct Wire {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Wire {
    fn new(from: &End, to: &End) -> Self {
        let receiver = to.inside(|| UdpSocket::bind((to.v4(), 0)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = from.inside(|| UdpSocket::bind((from.v4(), 0)).unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        Self { sender, receiver }
    }

    fn send(&self, numbers: std::ops::Range<u8>) {
        for n in numbers {
            self.sender.send(&[n; 100]).unwrap();
        }
    }

    /// They come, in order.
    fn expect(&self, numbers: std::ops::Range<u8>, what: &str) {
        let mut got = [0; 200];
        for n in numbers {
            let len = self.receiver.recv(&mut got);
            assert_eq!(len.ok(), Some(100), "{what}: {n} is missing");
            assert_eq!(got[..100], [n; 100], "{what}");
        }
    }
}

/// Bytes that wait in the UDP socket of a port (proc_pid_net(5), `rx_queue` of /proc/net/udp).
fn waiting(port: u16) -> usize {
    let text = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let at = format!(":{port:04X}");
    let of = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (_, waiting) = words.get(4)?.split_once(':')?;
        let mine = words.get(1)?.ends_with(&at);
        mine.then(|| usize::from_str_radix(waiting, 16).unwrap())
    };
    text.lines().filter_map(of).sum()
}

fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "never so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_waits_in_the_old_sockets_is_delivered() {
    if !enter_fresh() {
        return;
    }
    for queues in [1, 3] {
        let [mut a, b] = pair("127.0.0.1", [Switches { queues, ..ALL }, ALL]);
        let wire = Wire::new(&b, &a);
        wire.send(0..1);
        wire.expect(0..1, "a session");
        let plane = a.plane.clone();
        let held = plane.shared.hold();
        // The thread that b's datagrams come to waits with a handshake message in its hands.
        let mut initiation = [0; 148];
        initiation[0] = 1;
        b.plane.send(&[Datagram {
            to: Endpoint::new(SocketAddr::from(([127, 0, 0, 1], a.port))),
            bytes: initiation.into(),
        }]);
        let old = a.port;
        until("it has taken it", || waiting(old) == 0);
        wire.send(1..100);
        until("the first waits", || waiting(old) > 0);
        a.rebind(&ALL.udp_options(0, 0));
        drop(held);
        wire.expect(1..100, "after another port");
    }
}

#[test]
fn what_comes_to_the_old_port_before_the_peer_knows_is_delivered() {
    if !enter_fresh() {
        return;
    }
    let [mut a, b] = pair("127.0.0.1", [ALL, ALL]);
    let wire = Wire::new(&b, &a);
    wire.send(0..1);
    wire.expect(0..1, "a session");
    // One after the other, faster than any of them is over.
    for n in 1..4 {
        a.rebind(&ALL.udp_options(0, 0));
        wire.send(n..n + 1);
        wire.expect(n..n + 1, "to the old port");
        // This end says where it is now.
        let back = Wire::new(&a, &b);
        back.send(0..1);
        back.expect(0..1, "from the new one");
        let (at, key) = (a.port, a.key.public());
        until("the peer has followed", || {
            let peer = b.with_device(move |device, ctx| device.peer(&key, ctx.now).unwrap());
            peer.endpoint.unwrap().remote.port() == at
        });
    }
}

/// Whether all of a port can be bound.
fn is_free(port: u16) -> bool {
    let options = UdpOptions {
        port,
        ..UdpOptions::default()
    };
    UdpPair::bind(&options).is_ok()
}

#[test]
fn a_port_that_was_left_is_free_after_a_moment_or_when_it_is_needed() {
    if !enter_fresh() {
        return;
    }
    let [mut a, _b] = pair("127.0.0.1", [Switches { queues: 2, ..ALL }, ALL]);
    let first = a.port;
    a.rebind(&ALL.udp_options(0, 0));
    until("nobody has it", || is_free(first));
    let second = a.port;
    let started = Instant::now();
    a.rebind(&ALL.udp_options(0, 0));
    a.plane.let_go_of_left();
    while !is_free(second) {
        assert!(started.elapsed() < PATIENCE, "somebody has it");
        std::thread::yield_now();
    }
}
