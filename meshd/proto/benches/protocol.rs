//! How long the protocol takes: sealing, opening, handshakes, look-ups, the replay window, configuring.
//!
//! `cargo bench -p meshd-proto --features criterion`. Everything goes the way the daemon's threads go: `Route::seal`, `Receiver::open`,
//! `Table::route`, `uapi::handle`. Times shake with the machine; `bench/instructions` counts what doesn't.

// Criterion's macro makes a public function without a word on it.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkId, Criterion, Throughput};
use meshd_proto::messages;

mod conversation;
// The window is private to the crate; this is the very file.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../src/replay.rs"]
mod replay;

use conversation::{configuration, configure, fresh, run, sealed, v4, v6, Pair};

/// Packets in one run, and bytes of a packet: an ACK or a small datagram, and a full segment.
const COUNTS: [usize; 3] = [1, 8, 45];
const LENS: [usize; 2] = [64, 1424];

fn sealing(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    let mut pair = Pair::new(1);
    let (route, now) = (pair.route(), pair.now);
    for len in LENS {
        for count in COUNTS {
            let (mut run, stride) = run(count, len);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(format!("{len} B"), count), |b| {
                b.iter(|| route.seal(now, black_box(&mut run), stride));
            });
        }
    }
}

fn opening(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    let mut pair = Pair::new(1);
    let (route, now) = (pair.route(), pair.now);
    for len in LENS {
        for count in COUNTS {
            let stride = run(count, len).1;
            let mut opening = pair.opening(count);
            let fresh = || sealed(&route, now, count, len);
            let _ = opening.open(now, &mut fresh(), stride);
            assert!(opening.all_packets(count));
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(format!("{len} B"), count), |b| {
                b.iter_batched_ref(
                    fresh,
                    |run| opening.open(now, run, stride),
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn handshake(c: &mut Criterion) {
    let mut pair = Pair::new(1);
    c.bench_function("handshake, both ends", |b| b.iter(|| pair.shake_hands()));
}

fn allowed_ips(c: &mut Criterion) {
    let mut group = c.benchmark_group("allowed-ips");
    for peers in [1, 100, 1000] {
        let mut pair = Pair::new(peers);
        for (family, address) in [("v4", v4 as fn(usize) -> _), ("v6", v6)] {
            let table = pair.near.reader.table();
            let mut number = 0;
            group.bench_function(BenchmarkId::new(family, peers), |b| {
                b.iter(|| {
                    // No order that a branch predictor could learn.
                    number = (number + 611) % peers;
                    table.route(black_box(address(number))).is_some()
                });
            });
        }
    }
}

fn replay_window(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    let mut window = replay::Replay::default();
    let mut counter = 0;
    group.bench_function("in order", |b| {
        b.iter(|| {
            counter += 1;
            window.accept(black_box(counter))
        });
    });
    let mut window = replay::Replay::default();
    let mut counter = 0u64;
    group.bench_function("every other late", |b| {
        b.iter(|| {
            counter += 1;
            window.accept(black_box(counter ^ 1))
        });
    });
}

fn configuring(c: &mut Criterion) {
    let mut group = c.benchmark_group("wg setconf");
    for peers in [100, 1000, 10_000] {
        let request = configuration(peers);
        group.throughput(Throughput::Elements(peers as u64));
        group.bench_function(BenchmarkId::from_parameter(peers), |b| {
            b.iter_batched_ref(
                fresh,
                |device| configure(device, &request),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group! {
    name = protocol;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = sealing, opening, handshake, allowed_ips, replay_window, configuring
}
criterion_main!(protocol);
