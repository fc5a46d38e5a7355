//! The lanes against ring, the oracle: every length, mixed batches, every kind of damage.

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};

use super::{engines, Engine};
use crate::engine::Context;
use crate::key::Packet;
use crate::TAG_LEN;

const SECRET: [u8; 32] = *b"a key of thirty-two bytes, fixed";

fn with_context(test: impl Fn(&Engine, &Context<'_>)) {
    let key =
        core::array::from_fn(|i| u32::from_le_bytes(core::array::from_fn(|j| SECRET[4 * i + j])));
    for engine in engines() {
        test(
            &engine,
            &Context {
                key: &key,
                salt: 0,
                aad: &[],
            },
        );
    }
}

/// xorshift64*: tests need many bytes, not good ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }
}

/// A buffer of random texts of these lengths, its packets, and the buffer as ring seals it.
fn batch(lens: &[usize], random: &mut Random) -> (Vec<u8>, Vec<Packet>, Vec<u8>) {
    let (mut at, mut packets) = (random.below(40), Vec::new());
    for &len in lens {
        packets.push(Packet::new(at, len + TAG_LEN, random.next()));
        at += len + TAG_LEN + random.below(40);
    }
    let plain: Vec<u8> = (0..at).map(|_| random.next() as u8).collect();
    let ring = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &SECRET).expect("length"));
    let mut sealed = plain.clone();
    for packet in &packets {
        let (text, tag) = sealed[packet.at..][..packet.len].split_at_mut(packet.len - TAG_LEN);
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&packet.counter.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        tag.copy_from_slice(
            ring.seal_in_place_separate_tag(nonce, Aad::empty(), text)
                .expect("short")
                .as_ref(),
        );
    }
    (plain, packets, sealed)
}

/// Seals as ring does, headers and gaps untouched; opens again, except for the packets in `damaged`.
fn check(
    engine: &Engine,
    context: &Context<'_>,
    lens: &[usize],
    damaged: &[usize],
    random: &mut Random,
) {
    let (plain, mut packets, sealed) = batch(lens, random);
    let mut buf = plain.clone();
    (engine.seal)(context, &mut buf, &packets);
    assert!(buf == sealed, "{} seals {lens:?}", engine.name);

    for &index in damaged {
        let packet = &mut packets[index];
        let bit = random.below(8 * packet.len);
        match random.below(4) {
            0 => packet.counter ^= 1 << random.below(64),
            _ => buf[packet.at + bit / 8] ^= 1 << (bit % 8),
        }
    }
    let before = buf.clone();
    (engine.open)(context, &mut buf, &mut packets);
    for (index, packet) in packets.iter().enumerate() {
        let text = packet.at..packet.at + packet.len - TAG_LEN;
        let bad = damaged.contains(&index);
        assert_eq!(
            packet.valid, !bad,
            "{} opens {index} of {lens:?}",
            engine.name
        );
        let expected = if bad { &before } else { &plain };
        assert!(
            buf[text.clone()] == expected[text],
            "{} opens {index} of {lens:?}",
            engine.name
        );
        // Everything that is no text stays as it was.
        buf[packet.at..packet.at + packet.len]
            .copy_from_slice(&before[packet.at..packet.at + packet.len]);
    }
    assert!(buf == before, "{} writes beside {lens:?}", engine.name);
}

#[test]
fn every_length() {
    with_context(|engine, context| {
        let mut random = Random(1);
        for len in (0..=2000).chain([65535]) {
            check(engine, context, &[len], &[], &mut random);
        }
    });
}

#[test]
fn every_length_beside_others() {
    with_context(|engine, context| {
        let mut random = Random(2);
        for len in (0..=2000).step_by(8) {
            let lens: Vec<usize> = (len..len + 8).collect();
            check(engine, context, &lens, &[random.below(8)], &mut random);
        }
    });
}

#[test]
fn every_length_of_a_full_group_and_beside_longer_ones() {
    with_context(|engine, context| {
        let mut random = Random(6);
        for len in (0..=2000).step_by(16) {
            let equal: Vec<usize> = (len..len + 16).collect();
            check(engine, context, &equal, &[random.below(16)], &mut random);
            // The last of a run is short; one that is long among short ones.
            let mut run = vec![len; 13];
            run[12] = random.below(len + 1);
            check(engine, context, &run, &[random.below(13)], &mut random);
            let one = [16, len, 48, 7, 64, 0];
            check(engine, context, &one, &[random.below(6)], &mut random);
        }
        check(engine, context, &[65535; 9], &[3], &mut random);
        check(engine, context, &[65535, 64, 65535], &[1], &mut random);
    });
}

#[test]
fn every_count_of_equal_packets() {
    with_context(|engine, context| {
        let mut random = Random(3);
        for count in 0..=64 {
            for len in [0, 16, 64, 96, 1424] {
                check(engine, context, &vec![len; count], &[], &mut random);
            }
        }
    });
}

#[test]
fn mixed_and_damaged_batches() {
    with_context(|engine, context| {
        let mut random = Random(4);
        for _ in 0..100 {
            let longest = [1, 17, 65, 300, 1500][random.below(5)];
            let lens: Vec<usize> = (0..random.below(50))
                .map(|_| random.below(longest))
                .collect();
            let damaged: Vec<usize> = (0..lens.len()).filter(|_| random.below(3) == 0).collect();
            check(engine, context, &lens, &damaged, &mut random);
        }
    });
}

#[test]
fn every_single_bit_of_a_batch_counts() {
    with_context(|engine, context| {
        let (_, packets, sealed) = batch(&[0, 33, 64, 5], &mut Random(5));
        for (index, packet) in packets.iter().enumerate() {
            for bit in 8 * packet.at..8 * (packet.at + packet.len) {
                let (mut buf, mut packets) = (sealed.clone(), packets.clone());
                buf[bit / 8] ^= 1 << (bit % 8);
                (engine.open)(context, &mut buf, &mut packets);
                let valid: Vec<bool> = packets.iter().map(|packet| packet.valid).collect();
                let expected: Vec<bool> = (0..4).map(|i| i != index).collect();
                assert_eq!(valid, expected, "{}, bit {bit}", engine.name);
            }
        }
    });
}

#[test]
fn every_bit_of_every_tag_counts_in_every_lane() {
    with_context(|engine, context| {
        for lens in [
            [40; 17],
            core::array::from_fn(|i| if i == 3 { 900 } else { i }),
        ] {
            let (_, packets, sealed) = batch(&lens, &mut Random(7));
            for index in 0..packets.len() {
                for bit in 0..8 * TAG_LEN {
                    let (mut buf, mut packets) = (sealed.clone(), packets.clone());
                    buf[packets[index].text_end() + bit / 8] ^= 1 << (bit % 8);
                    (engine.open)(context, &mut buf, &mut packets);
                    for (i, packet) in packets.iter().enumerate() {
                        let whole = packet.at..packet.text_end();
                        assert_eq!(packet.valid, i != index, "{}, bit {bit}", engine.name);
                        let same = buf[whole.clone()] == sealed[whole];
                        assert_eq!(same, i == index || lens[i] == 0, "{}", engine.name);
                    }
                }
            }
        }
    });
}

#[test]
fn extreme_texts_and_counters() {
    with_context(|engine, context| {
        // A text whose sealed form is all ones or zeros makes Poly1305 carry most: seal that which gives it.
        for fill in [0x00, 0xff] {
            for counter in [0, u64::from(u32::MAX), 1 << 32, u64::MAX] {
                let packets = [
                    Packet::new(0, 400 + TAG_LEN, counter),
                    Packet::new(416, 1008 + TAG_LEN, counter),
                ];
                let mut stream = [0; 1440];
                (engine.seal)(context, &mut stream, &packets);
                let mut ours = stream.map(|byte| byte ^ fill);
                let plain = ours;
                (engine.seal)(context, &mut ours, &packets);
                assert!(ours[..400].iter().all(|&byte| byte == fill));
                let key = crate::Key::new(&SECRET);
                for packet in packets {
                    let mut rings = plain[packet.at..][..packet.len].to_vec();
                    key.seal_in_place(counter, &mut rings);
                    assert_eq!(ours[packet.at..][..packet.len], rings, "{}", engine.name);
                }
            }
        }
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_start_up_test_accepts_what_is_right_and_refuses_what_is_not() {
    use crate::key::agrees_with_ring;
    use crate::lanes::{portable::Portable, Blocks, Lanes, Row, LANES};

    /// One word of one lane is wrong, in one block counter only.
    #[derive(Clone, Copy)]
    struct Broken;

    impl Lanes for Broken {
        type Words = [u32; LANES];
        fn splat(self, word: u32) -> Self::Words {
            Portable.splat(word)
        }
        fn load(self, words: &[u32; LANES]) -> Self::Words {
            Portable.load(words)
        }
        fn add(self, a: Self::Words, b: Self::Words) -> Self::Words {
            Portable.add(a, b)
        }
        fn double_round(
            self,
            a: &mut Row<Self>,
            b: &mut Row<Self>,
            c: &mut Row<Self>,
            d: &mut Row<Self>,
        ) {
            Portable.double_round(a, b, c, d);
        }
        fn mix(self, text: &mut [u8; 64], stream: &[u8; 64]) {
            Portable.mix(text, stream);
        }
        fn store(self, state: &[Row<Self>; 4], blocks: &mut Blocks) {
            Portable.store(state, blocks);
            blocks[6][31] ^= 1;
        }
    }

    impl crate::engine::Engine for Broken {
        fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
            crate::batch::seal(self, context, buf, packets);
        }
        fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
            crate::batch::open(self, context, buf, packets);
        }
    }

    assert!(agrees_with_ring(Portable));
    assert!(!agrees_with_ring(Broken));
}
