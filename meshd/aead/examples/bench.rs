//! Batches against single packets (which ring does), as a Markdown table.
//!
//! `cargo run --release --example bench`: what callers get. With `MESHD_AEAD=avx512` or `avx2` these lanes do all batches, which
//! shows where they pay. Both are timed in turns of some ten microseconds, so that what else the machine does hits
//! both; given are medians over all turns, in nanoseconds a packet.

use std::time::Instant;

use meshd_aead::{Key, Packet, TAG_LEN};

const TURNS: usize = 301;

/// Nanoseconds that `work` takes.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let key = Key::new(&[7; 32]);
    println!("batches: {}\n", meshd_aead::in_use());
    println!("| bytes | packets | seal: ring | batch | ratio | open: ring | batch | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    for len in [64, 128, 256, 512, 1424, 16384] {
        for count in [1, 2, 3, 4, 6, 8, 16, 45] {
            row(&key, len, count);
        }
    }
}

fn row(key: &Key, len: usize, count: usize) {
    let stride = len + TAG_LEN;
    let mut packets: Vec<Packet> = (0..count)
        .map(|i| Packet::new(i * stride, stride, i as u64))
        .collect();
    let mut sealed = vec![7; stride * count];
    key.seal_batch(&mut sealed, &packets);
    // Opening uses a sealed batch up: as many as make a turn.
    let mut batches = vec![sealed.clone(); 30_000 / (count * (len + 200)) + 1];
    let per_packet = (batches.len() * count) as f64;
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        let took = [
            time(|| {
                for batch in &mut batches {
                    for (counter, packet) in batch.chunks_mut(stride).enumerate() {
                        key.seal_in_place(counter as u64, packet);
                    }
                }
            }),
            time(|| {
                batches
                    .iter_mut()
                    .for_each(|batch| key.seal_batch(batch, &packets))
            }),
            {
                batches
                    .iter_mut()
                    .for_each(|batch| batch.copy_from_slice(&sealed));
                let mut valid = true;
                let took = time(|| {
                    for batch in &mut batches {
                        for (counter, packet) in batch.chunks_mut(stride).enumerate() {
                            valid &= key.open_in_place(counter as u64, packet).is_ok();
                        }
                    }
                });
                assert!(valid);
                took
            },
            {
                batches
                    .iter_mut()
                    .for_each(|batch| batch.copy_from_slice(&sealed));
                let took = time(|| {
                    batches
                        .iter_mut()
                        .for_each(|batch| key.open_batch(batch, &mut packets))
                });
                assert!(packets.iter().all(|packet| packet.valid));
                took
            },
        ];
        for (all, took) in times.iter_mut().zip(took) {
            all.push(took / per_packet);
        }
    }
    let [seal_ring, seal, open_ring, open] = times.map(median);
    println!(
        "| {len} | {count} | {seal_ring:.0} | {seal:.0} | {:.2} | {open_ring:.0} | {open:.0} | {:.2} |",
        seal_ring / seal,
        open_ring / open
    );
}
