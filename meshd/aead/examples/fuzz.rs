//! Random batches against ring, until the time is up or they differ.
//!
//! `MESHD_AEAD=avx512 cargo run --release --example fuzz -- --seconds N [--seed S]`. Every batch is made from the seed
//! printed for it, sealed as a batch and packet by packet, damaged here and there, and opened both ways. Stops with the
//! seed, and exit status 101, at the first difference.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshd_aead::{Key, Packet, TAG_LEN};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

fn main() {
    let mut seconds = 10;
    let mut seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_nanos() as u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (
            arg.as_str(),
            args.next().and_then(|value| value.parse().ok()),
        ) {
            ("--seconds", Some(value)) => seconds = value,
            ("--seed", Some(value)) => seed = value,
            _ => {
                eprintln!("usage: fuzz [--seconds N] [--seed S]");
                std::process::exit(1);
            }
        }
    }
    println!("batches: {}; first seed {seed}", meshd_aead::in_use());
    let start = Instant::now();
    let (mut batches, mut packets) = (0u64, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..100 {
            packets += batch(seed.wrapping_add(batches));
            batches += 1;
        }
    }
    println!("{batches} batches of {packets} packets, no difference");
}

/// Compares one batch; returns its number of packets.
fn batch(seed: u64) -> usize {
    let random = &mut Random(seed);
    let mut secret = [0; 32];
    secret.fill_with(|| random.next() as u8);
    let key = Key::new(&secret);

    // Now and then the longest that UDP carries; else what packets are.
    let longest = match random.below(500) {
        0 => 65536,
        _ => [1, 17, 64, 65, 129, 300, 1500, 1500, 9000][random.below(9)],
    };
    // One length for most of a batch, as segmentation makes them, or a length for each.
    let equal = (random.below(2) == 0).then(|| random.below(longest));
    let mut packets = Vec::new();
    let mut at = random.below(70);
    for _ in 0..random.below(65) {
        let len = match equal {
            Some(len) if random.below(16) != 0 => len,
            _ => random.below(longest) & [usize::MAX, !15][random.below(2)],
        };
        // Counters near the limits of their words, and everywhere.
        let counter = random.next() >> [0, 8, 31, 32, 48][random.below(5)];
        packets.push(Packet::new(at, len + TAG_LEN, counter));
        at += len + TAG_LEN + random.below(40);
    }
    let mut plain = vec![0; at + random.below(70)];
    match random.below(8) {
        0 => plain.fill(0xff),
        1 => {}
        _ => plain.fill_with(|| random.next() as u8),
    }

    let (mut ours, mut rings) = (plain.clone(), plain);
    key.seal_batch(&mut ours, &packets);
    for packet in &packets {
        key.seal_in_place(
            packet.counter,
            &mut rings[packet.at..packet.at + packet.len],
        );
    }
    assert!(ours == rings, "seed {seed}: sealed otherwise");

    for packet in &mut packets {
        match random.below(16) {
            0 => ours[packet.at + random.below(packet.len)] ^= 1 << random.below(8),
            1 => ours[packet.at + packet.len - 1 - random.below(TAG_LEN)] ^= 1 << random.below(8),
            2 => packet.counter ^= 1 << random.below(64),
            _ => {}
        }
    }
    let damaged = ours.clone();
    rings.copy_from_slice(&damaged);
    key.open_batch(&mut ours, &mut packets);
    for (i, packet) in packets.iter().enumerate() {
        let whole = packet.at..packet.at + packet.len;
        let valid = key
            .open_in_place(packet.counter, &mut rings[whole.clone()])
            .is_ok();
        assert!(
            packet.valid == valid,
            "seed {seed}: packet {i} judged otherwise"
        );
        if !valid {
            // ring leaves zeros there, the lanes what came.
            rings[whole.clone()].copy_from_slice(&ours[whole.clone()]);
            let untouched = ours[whole.clone()] == damaged[whole.clone()];
            let erased = ours[whole.start..whole.end - TAG_LEN]
                .iter()
                .all(|&byte| byte == 0);
            assert!(untouched || erased, "seed {seed}: packet {i} half opened");
        }
    }
    assert!(ours == rings, "seed {seed}: opened otherwise");
    packets.len()
}
