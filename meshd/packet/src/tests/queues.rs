//! Several queues, each with two threads and sockets of its own; and threads that sleep.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::world::{enter_fresh, pair, End, ALL};
use super::{datagrams, exchange, Switches, PATIENCE};

#[test]
fn threads_that_sleep_let_go_of_keys_at_once() {
    if !enter_fresh() {
        return;
    }
    let switches = Switches { queues: 2, ..ALL };
    let [a, b] = pair("127.0.0.1", [switches, switches]);
    exchange(&a, &b, &b.v4(), 1000);
    let key = b.key.public();
    let held = a.with_device(move |device, _| {
        let peer = Arc::downgrade(&device.shared_peer(&key).unwrap());
        device.remove_peer(&key);
        peer
    });
    // No packet comes that would make them look.
    let started = Instant::now();
    while held.strong_count() > 0 {
        assert!(started.elapsed() < PATIENCE, "a thread holds an old table");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_thread_does_both_until_there_is_much_to_send_and_again_afterwards() {
    if !enter_fresh() {
        return;
    }
    let [a, b] = pair("127.0.0.1", [ALL, ALL]);
    let apart = || a.plane.shared.apart.load(Ordering::SeqCst) != 0;
    let receiver = b.inside(|| UdpSocket::bind((b.v4(), 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = receiver.local_addr().unwrap();
    let sender = a.inside(|| UdpSocket::bind((a.v4(), 0)).unwrap());
    for n in 0..20u8 {
        sender.send_to(&[n; 100], to).unwrap();
        let mut got = [0; 200];
        assert_eq!(receiver.recv(&mut got).unwrap(), 100);
        assert_eq!(got[..100], [n; 100]);
        assert!(!apart(), "after {n}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    while !apart() {
        assert!(started.elapsed() < PATIENCE, "a flood needs two threads");
        sender.send_to(&[0; 1000], to).unwrap();
    }
    while apart() {
        assert!(started.elapsed() < PATIENCE, "what is over needs one");
        std::thread::sleep(Duration::from_millis(1));
    }
    exchange(&a, &b, &b.v4(), 1 << 20);
    datagrams(&a, &b, &a.v6(), &b.v6());
}

#[test]
fn many_peers_and_flows_share_several_queues() {
    if !enter_fresh() {
        return;
    }
    let switches = Switches { queues: 3, ..ALL };
    let hub = End::new(1, switches);
    assert!(hub.plane.features().contains(&"multi-queue"));
    let spokes: Vec<_> = (2..8).map(|n| End::new(n, ALL)).collect();
    for spoke in &spokes {
        hub.peer(spoke, "127.0.0.1", &[(&spoke.v4(), 32), (&spoke.v6(), 128)]);
        spoke.peer(&hub, "127.0.0.1", &[("10.9.0.0", 24), ("fd09::", 64)]);
    }
    std::thread::scope(|scope| {
        for spoke in &spokes {
            let hub = &hub;
            scope.spawn(move || {
                exchange(spoke, hub, &hub.v4(), 1 << 19);
                datagrams(spoke, hub, &spoke.v6(), &hub.v6());
            });
        }
    });
}
