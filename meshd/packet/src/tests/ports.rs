//! The port changes: what is in the old sockets, and what still comes to them, is delivered.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
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

/// Bytes that wait in the UDP socket of a port, to be sent and to be received (proc_pid_net(5), `tx_queue` and `rx_queue` of
/// /proc/net/udp).
fn queued(port: u16) -> [usize; 2] {
    let text = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let at = format!(":{port:04X}");
    let of = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (tx, rx) = words.get(4)?.split_once(':')?;
        let mine = words.get(1)?.ends_with(&at);
        mine.then(|| [tx, rx].map(|bytes| usize::from_str_radix(bytes, 16).unwrap()))
    };
    let sum = |[tx, rx]: [usize; 2], [more_tx, more_rx]: [usize; 2]| [tx + more_tx, rx + more_rx];
    text.lines().filter_map(of).fold([0, 0], sum)
}

fn waiting(port: u16) -> usize {
    queued(port)[1]
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
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

/// Lets so much leave by the loopback; the rest waits, and fills the socket's buffer.
fn at_most(verb: &str, rate: &str) {
    let words = ["qdisc", verb, "dev", "lo", "root", "tbf", "rate", rate];
    let mut tc = Command::new("tc");
    tc.args(words).args(["burst", "5000", "limit", "10mb"]);
    assert!(tc.status().unwrap().success());
}

#[test]
fn a_run_that_waits_for_room_goes_on_by_the_new_sockets() {
    if !enter_fresh() {
        return;
    }
    let apart = Switches {
        gso: false,
        one_thread: false,
        ..ALL
    };
    let [mut a, b] = pair("127.0.0.1", [apart, ALL]);
    // Room for some of the datagrams that follow.
    a.rebind(&UdpOptions {
        send_buffer: 8 << 10,
        ..ALL.udp_options(0, 0)
    });
    let wire = Wire::new(&a, &b);
    wire.send(0..1);
    wire.expect(0..1, "a session");
    at_most("add", "8kbit");
    let old = a.port;
    let full = || queued(old)[0];
    wire.send(1..60);
    let mut before = 0;
    until("its buffer is full", || {
        let now = full();
        now > 8 << 10 && std::mem::replace(&mut before, now) == now
    });
    a.rebind(&ALL.udp_options(0, 0));
    at_most("change", "1gbit");
    wire.expect(1..60, "by another port");
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
