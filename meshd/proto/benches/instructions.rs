//! How many instructions the protocol takes: the half of `bench/instructions` that runs under callgrind.
//!
//! Each case warms up, then works once inside [`measured`], the only function callgrind counts in and after which it
//! writes its count down. So the n-th count belongs to the n-th line this prints: `name`, and how many packets, look-ups
//! or peers it was for, separated by a tab. Cases called `aead …` do the encryption of the case before them alone.

#![allow(clippy::expect_used)]

use std::hint::black_box;

use meshd_aead::{Key, Packet};
use meshd_proto::{messages, DATA_HEADER};

mod conversation;
// The window is private to the crate; this is the very file.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../src/replay.rs"]
mod replay;

use conversation::{configuration, configure, fresh, run, sealed, v4, v6, Pair};

/// How often a run is sealed or opened: enough that chance in addresses is no matter.
const RUNS: usize = 16;
/// How many look-ups.
const LOOKUPS: usize = 1000;

/// What callgrind counts. Called by name.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn case(name: &str, units: usize, mut work: impl FnMut()) {
    println!("{name}\t{units}");
    measured(&mut work);
}

fn main() {
    for len in [64, 1424] {
        for count in [1, 8, 45] {
            seal(count, len);
            open(count, len);
        }
    }
    for peers in [1, 100, 1000] {
        let mut pair = Pair::new(peers);
        for (family, address) in [("v4", v4 as fn(usize) -> _), ("v6", v6)] {
            let table = pair.near.reader.table();
            let addresses: Vec<_> = (0..LOOKUPS).map(|i| address(i * 611 % peers)).collect();
            case(&format!("route, {family}, {peers} peers"), LOOKUPS, || {
                for address in &addresses {
                    black_box(table.route(*address));
                }
            });
        }
    }
    let mut window = replay::Replay::default();
    case("replay window, in order", LOOKUPS, || {
        for counter in 0..LOOKUPS as u64 {
            black_box(window.accept(black_box(counter)));
        }
    });
    let mut pair = Pair::new(1);
    case("handshake, both ends", 1, || pair.shake_hands());
    for peers in [100, 1000, 4000] {
        let (request, mut device) = (configuration(peers), fresh());
        case(&format!("wg setconf, a peer of {peers}"), peers, || {
            configure(&mut device, &request);
        });
    }
}

fn seal(count: usize, len: usize) {
    let mut pair = Pair::new(1);
    let (route, now) = (pair.route(), pair.now);
    let (mut run, stride) = run(count, len);
    let _ = route.seal(now, &mut run, stride);
    case(
        &format!("seal, {len} B, runs of {count}"),
        count * RUNS,
        || {
            for _ in 0..RUNS {
                let _ = black_box(route.seal(now, black_box(&mut run), stride));
            }
        },
    );
    let key = Key::new(&[7; 32]);
    case("aead seal", count * RUNS, || {
        for first in 0..RUNS as u64 {
            seal_alone(&key, first, black_box(&mut run), stride);
        }
    });
}

/// What a run must cost at least: nothing but encryption, by the cheapest call there is.
fn seal_alone(key: &Key, first: u64, run: &mut [u8], stride: usize) {
    if run.len() == stride {
        key.seal_in_place(first, &mut run[DATA_HEADER..]);
    } else {
        key.seal_stride(first, run, stride, DATA_HEADER);
    }
}

fn open(count: usize, len: usize) {
    let mut pair = Pair::new(1);
    let (route, now) = (pair.route(), pair.now);
    let stride = run(count, len).1;
    let mut opening = pair.opening(count);
    let _ = opening.open(now, &mut sealed(&route, now, count, len), stride);
    assert!(opening.all_packets(count), "an inner packet each");
    let mut runs: Vec<_> = (0..RUNS).map(|_| sealed(&route, now, count, len)).collect();
    case(
        &format!("open, {len} B, runs of {count}"),
        count * RUNS,
        || {
            for run in &mut runs {
                let _ = black_box(opening.open(now, run, stride));
            }
        },
    );
    assert!(opening.all_packets(count), "and each time");

    let key = Key::new(&[7; 32]);
    let mut runs: Vec<_> = (0..RUNS).map(|_| run(count, len).0).collect();
    for run in &mut runs {
        key.seal_stride(0, run, stride, DATA_HEADER);
    }
    let mut packets: Vec<Packet> = (0..count)
        .map(|i| Packet::new(i * stride + DATA_HEADER, stride - DATA_HEADER, i as u64))
        .collect();
    case("aead open", count * RUNS, || {
        for run in &mut runs {
            key.open_batch(black_box(run), &mut packets);
        }
    });
    assert!(packets.iter().all(|packet| packet.valid));
}
