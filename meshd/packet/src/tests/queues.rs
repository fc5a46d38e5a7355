//! Several queues, each with two threads and sockets of its own; and threads that sleep.

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
