//! The whole API against ring called directly: every length, single and in batches, right and wrong tags.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

use meshd_aead::{Invalid, Key, Packet, TAG_LEN};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};

const SECRET: [u8; 32] = *b"a key of thirty-two bytes, fixed";

fn ring_seal(counter: u64, text: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &SECRET).expect("length"));
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut out = text.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut out)
        .expect("short text");
    out
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + len) as u8).collect()
}

/// Counters whose two words differ and that cross 32 bits.
fn counter(len: usize) -> u64 {
    0xffff_fff0 + len as u64 * 0x1_0000_0001
}

#[test]
fn every_length_is_what_ring_makes_and_opens_again() {
    let key = Key::new(&SECRET);
    for len in (0..=2000).chain([65535]) {
        let plain = text(len);
        let mut buf = plain.clone();
        buf.resize(len + TAG_LEN, 0);
        key.seal_in_place(counter(len), &mut buf);
        assert_eq!(buf, ring_seal(counter(len), &plain), "length {len}");
        assert_eq!(key.open_in_place(counter(len), &mut buf), Ok(len));
        assert_eq!(buf[..len], plain);
    }
}

#[test]
fn a_wrong_bit_or_counter_is_invalid_and_leaves_no_plaintext() {
    let key = Key::new(&SECRET);
    let plain = text(100);
    let sealed = ring_seal(7, &plain);
    for bit in 0..sealed.len() * 8 {
        let mut buf = sealed.clone();
        buf[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key.open_in_place(7, &mut buf), Err(Invalid), "bit {bit}");
        assert!(!buf
            .windows(16)
            .any(|part| plain.windows(16).any(|clear| part == clear)));
    }
    assert_eq!(key.open_in_place(8, &mut sealed.clone()), Err(Invalid));
}

#[test]
fn what_is_too_short_for_a_tag_is_invalid() {
    let key = Key::new(&SECRET);
    for len in 0..TAG_LEN {
        assert_eq!(key.open_in_place(0, &mut vec![0; len]), Err(Invalid));
    }
}

#[test]
fn a_run_at_a_stride_keeps_headers_and_allows_a_short_last_packet() {
    let key = Key::new(&SECRET);
    let (stride, head) = (16 + 1424 + TAG_LEN, 16);
    for count in 1..=45 {
        let mut buf = text(stride * (count - 1) + head + 48 + TAG_LEN);
        let before = buf.clone();
        key.seal_stride(counter(count), &mut buf, stride, head);
        for (i, (now, was)) in buf.chunks(stride).zip(before.chunks(stride)).enumerate() {
            assert_eq!(now[..head], was[..head]);
            let plain = &was[head..was.len() - TAG_LEN];
            assert_eq!(now[head..], ring_seal(counter(count) + i as u64, plain));
        }
    }
}

#[test]
fn a_batch_opens_what_is_right_and_names_what_is_wrong() {
    let key = Key::new(&SECRET);
    let mut buf = Vec::new();
    let mut packets = Vec::new();
    for (i, len) in [
        0, 1424, 17, 64, 1424, 1424, 1424, 1424, 1424, 1, 1408, 63, 1424,
    ]
    .into_iter()
    .enumerate()
    {
        let sealed = ring_seal(counter(i), &text(len));
        packets.push(Packet::new(buf.len(), sealed.len(), counter(i)));
        buf.extend(sealed);
    }
    buf[packets[4].at + 700] ^= 4;
    packets[7].counter += 1;
    packets.push(Packet::new(buf.len() - 15, 15, 0));
    packets.push(Packet::new(buf.len() - 15, 16, 0));
    packets.push(Packet::new(usize::MAX, usize::MAX, 0));
    key.open_batch(&mut buf, &mut packets);
    for (i, packet) in packets.iter().enumerate() {
        assert_eq!(packet.valid, ![4, 7, 13, 14, 15].contains(&i), "packet {i}");
        if packet.valid {
            let len = packet.len - TAG_LEN;
            assert_eq!(buf[packet.at..packet.at + len], text(len));
        }
    }
}

#[test]
fn short_packets_batch_like_single_ones() {
    let key = Key::new(&SECRET);
    for count in 1..=64 {
        let lens: Vec<usize> = (0..count).map(|i| (i * 37 + count) % 200).collect();
        let (mut buf, mut sealed, mut packets) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &len) in lens.iter().enumerate() {
            packets.push(Packet::new(buf.len(), len + TAG_LEN, counter(i * count)));
            buf.extend(text(len));
            buf.extend([0; TAG_LEN]);
            sealed.extend(ring_seal(counter(i * count), &text(len)));
        }
        key.seal_batch(&mut buf, &packets);
        assert_eq!(buf, sealed);
        let bad = count / 2;
        buf[packets[bad].at + lens[bad]] ^= 1;
        key.open_batch(&mut buf, &mut packets);
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(packet.valid, i != bad);
            assert!(i == bad || buf[packet.at..][..lens[i]] == text(lens[i]));
        }
    }
}

#[test]
#[should_panic(expected = "packet outside of its buffer")]
fn sealing_outside_of_the_buffer_panics() {
    Key::new(&SECRET).seal_batch(&mut [0; 32], &[Packet::new(17, 16, 0)]);
}

#[test]
#[should_panic(expected = "no room for the header")]
fn a_last_packet_shorter_than_its_header_panics() {
    Key::new(&SECRET).seal_stride(0, &mut [0; 150], 140, 16);
}

#[test]
fn a_key_prints_no_secret() {
    assert_eq!(format!("{:?}", Key::new(&SECRET)), "Key(..)");
}
