//! Batches of packets against one packet at a time, which is ring alone.

use meshd_aead::{Key, Packet, TAG_LEN};

use crate::cursor::Cursor;

/// A key, packets of any lengths and counters with gaps between them, and damage.
pub(crate) fn batch(bytes: &[u8]) {
    let mut input = Cursor::new(bytes);
    let mut secret = [0; 32];
    for byte in &mut secret {
        *byte = input.byte();
    }
    let key = Key::new(&secret);
    let mut packets = Vec::new();
    let mut at = input.below(65);
    for _ in 0..input.below(40) {
        let len = input.below(300) + TAG_LEN;
        packets.push(Packet::new(at, len, input.u64() >> (input.byte() % 64)));
        at += len + input.below(20);
    }
    let damage: Vec<_> = packets
        .iter()
        .map(|packet: &Packet| (input.byte() % 8 == 7).then(|| input.below(packet.len)))
        .collect();
    let filling = input.rest();
    let plain: Vec<u8> = (0..at + 64)
        .map(|i| {
            filling
                .get(i % filling.len().max(1))
                .map_or(0, |b| b ^ i as u8)
        })
        .collect();

    let (mut batched, mut single) = (plain.clone(), plain.clone());
    key.seal_batch(&mut batched, &packets);
    for packet in &packets {
        key.seal_in_place(packet.counter, &mut single[packet.at..][..packet.len]);
    }
    assert_eq!(batched, single, "sealed otherwise");

    for (packet, damage) in packets.iter().zip(&damage) {
        if let Some(at) = damage {
            batched[packet.at + at] ^= 0x40;
        }
    }
    key.open_batch(&mut batched, &mut packets);
    for (packet, damage) in packets.iter().zip(&damage) {
        assert_eq!(packet.valid, damage.is_none(), "judged otherwise");
        if packet.valid {
            let text = packet.at..packet.at + packet.len - TAG_LEN;
            assert_eq!(batched[text.clone()], plain[text], "opened otherwise");
        }
    }
}
