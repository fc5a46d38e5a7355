//! Rules one by one: what merges, what doesn't, what is finished, what is believed.
use super::super::*;
use super::{cut, merge, Recipe, BOTH};
use crate::checksum;

/// `count` packets in sequence, as a bulk sender makes them.
fn bulk(ipv4: bool, tcp: bool, count: usize, size: usize) -> Vec<Vec<u8>> {
    let mut recipe = Recipe::plain(ipv4, tcp, vec![5; size]);
    (0..count)
        .map(|i| {
            recipe.sequence = 100 + (i * size) as u32;
            recipe.id = i as u16;
            recipe.build()
        })
        .collect()
}

#[test]
fn bulk_traffic_is_one_write() {
    for (ipv4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut packets = bulk(ipv4, tcp, 43, 1340);
        let writes = merge(&packets, BOTH);
        assert_eq!(writes.len(), 1, "v4 {ipv4} tcp {tcp}");
        assert_eq!(writes[0].0.gso_size, 1340);
        assert_eq!(packet_len(&writes[0].1), Some(writes[0].1.len()));
        packets.extend(bulk(ipv4, tcp, 1, 1340));
        assert_eq!(
            merge(&packets, BOTH).len(),
            if tcp { 2 } else { 1 },
            "a gap in the sequence is no sequence"
        );
        assert_eq!(
            merge(
                &packets,
                Merging {
                    tcp: false,
                    udp: false
                }
            )
            .len(),
            44
        );
    }
}

#[test]
fn interleaved_flows_have_a_run_each() {
    let mut other = Recipe::plain(true, true, vec![5; 100]);
    other.port = 2000;
    let packets: Vec<_> = bulk(true, true, 20, 100)
        .into_iter()
        .enumerate()
        .flat_map(|(i, packet)| {
            other.sequence = 9 + i as u32 * 100;
            [packet, other.build()]
        })
        .collect();
    assert_eq!(merge(&packets, BOTH).len(), 2);
}

/// Two packets in sequence of which the second is `change`d: do they merge?
fn merges(ipv4: bool, tcp: bool, change: impl Fn(&mut Recipe)) -> bool {
    let mut recipe = Recipe {
        df: false,
        id: 5,
        ..Recipe::plain(ipv4, tcp, vec![5; 100])
    };
    let first = recipe.build();
    recipe.sequence += 100;
    recipe.id += 1;
    change(&mut recipe);
    let writes = merge(&[first.clone(), recipe.build()], BOTH);
    assert_eq!(
        cut(&writes).concat(),
        [first, recipe.build()].concat(),
        "order and bytes are kept"
    );
    writes.len() == 1
}

#[test]
fn what_may_differ_and_what_may_not() {
    for (ipv4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        assert!(merges(ipv4, tcp, |_| {}));
        assert!(
            merges(ipv4, tcp, |r| r.payload.truncate(3)),
            "the last may be shorter"
        );
        assert!(!merges(ipv4, tcp, |r| r.payload.push(1)), "but not longer");
        assert!(!merges(ipv4, tcp, |r| r.payload.clear()), "nor empty");
        assert!(
            !merges(ipv4, tcp, |r| r.tos = 3),
            "ECN congestion experienced must not be lost"
        );
        assert!(
            !merges(ipv4, tcp, |r| r.tos = 0x20),
            "nor the traffic class"
        );
        assert!(!merges(ipv4, tcp, |r| r.ttl -= 1));
        assert!(!merges(ipv4, tcp, |r| r.port += 1));
        assert!(!merges(ipv4, tcp, |r| r.ip_options = vec![1, 1, 1, 0]));
    }
    assert!(
        !merges(true, true, |r| r.id += 1),
        "identifications that count must count on"
    );
    assert!(!merges(true, true, |r| r.df = true));
    assert!(!merges(true, true, |r| r.more_fragments = true));
    assert!(merges(true, true, |r| r.flags = 0x18), "PSH joins a run");
    for flags in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
        assert!(!merges(true, true, |r| r.flags = flags), "flags {flags:x}");
    }
    assert!(!merges(true, true, |r| r.sequence += 1));
    assert!(!merges(true, true, |r| r.acknowledgement += 1));
    assert!(!merges(true, true, |r| r.window += 1));
    assert!(!merges(true, true, |r| r.tcp_options[7] += 1), "timestamps");
    assert!(!merges(true, true, |r| r.tcp_options.clear()));
    assert!(!merges(true, false, |r| r.no_checksum = true));
}

#[test]
fn a_push_moves_to_the_end_and_nothing_follows_a_short_packet() {
    let mut packets = bulk(true, true, 3, 100);
    packets[1] = Recipe {
        sequence: 200,
        flags: 0x18,
        ..Recipe::plain(true, true, vec![5; 100])
    }
    .build();
    let writes = merge(&packets, BOTH);
    assert_eq!(writes.len(), 1);
    let flags: Vec<u8> = cut(&writes).iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [0x10, 0x10, 0x18]);
    let short = Recipe {
        sequence: 200,
        ..Recipe::plain(true, true, vec![5; 50])
    }
    .build();
    let after = Recipe {
        sequence: 250,
        ..Recipe::plain(true, true, vec![5; 50])
    }
    .build();
    assert_eq!(merge(&[packets[0].clone(), short, after], BOTH).len(), 2);
}

#[test]
fn a_corrupted_packet_stays_corrupted() {
    for (ipv4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut packets = bulk(ipv4, tcp, 3, 100);
        let last = packets[1].len() - 1;
        packets[1][last] ^= 1;
        let writes = merge(&packets, BOTH);
        assert_eq!(writes.len(), 3, "nothing merges with or across it");
        assert_eq!(writes[1], (VnetHeader::PLAIN, packets[1].clone()));
    }
}

#[test]
fn an_unfinished_checksum_is_finished() {
    for (ipv4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let whole = Recipe::plain(ipv4, tcp, vec![9; 77]).build();
        let headers = Headers::read(&whole).unwrap();
        let field = headers.upper + if tcp { 16 } else { 6 };
        let mut packet = whole.clone();
        let pseudo = checksum::pseudo(
            &packet[headers.addresses()],
            headers.protocol,
            packet.len() - headers.upper,
        );
        packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        let checksum = Some((headers.upper as u16, (field - headers.upper) as u16));
        assert_eq!(
            cut(&[(
                VnetHeader {
                    checksum,
                    ..VnetHeader::PLAIN
                },
                packet
            )]),
            [whole]
        );
    }
}

#[test]
fn extension_headers_are_walked_to_the_end() {
    let mut packet = Recipe {
        ip_options: vec![1],
        ..Recipe::plain(false, true, vec![1])
    }
    .build();
    let headers = Headers::read(&packet).unwrap();
    assert_eq!(
        (
            headers.upper,
            headers.protocol,
            headers.plain,
            headers.fragment
        ),
        (48, TCP, false, false)
    );
    packet[6] = 44;
    packet[42..44].copy_from_slice(&[0, 1]);
    let first = Headers::read(&packet).unwrap();
    assert_eq!(
        (first.upper, first.protocol, first.fragment),
        (48, TCP, true)
    );
    packet[43] = 8;
    let later = Headers::read(&packet).unwrap();
    assert_eq!(
        (later.upper, later.protocol, later.fragment),
        (40, 44, true)
    );
    packet[6] = 60;
    packet[41] = 255;
    assert_eq!(
        Headers::read(&packet),
        None,
        "a header longer than the packet"
    );
}

#[test]
fn lengths_are_believed_only_within_bounds() {
    let packet = Recipe::plain(true, true, vec![1; 10]).build();
    assert_eq!(packet_len(&packet), Some(packet.len()));
    let padded = [packet.clone(), vec![0; 6]].concat();
    assert_eq!(packet_len(&padded), Some(packet.len()));
    assert_eq!(packet_len(&packet[..packet.len() - 1]), None);
    assert_eq!(packet_len(&[0x45, 0, 0, 19]), None);
    assert_eq!(packet_len(&[]), None);
    assert_eq!(packet_len(&[0x50; 40]), None);
}

#[test]
fn what_would_be_told_from_what_was_sent_is_not_cut() {
    let plain = Recipe::plain(true, true, vec![7; 1000]);
    let shortens = |recipe: &Recipe, spoil: bool| {
        let mut packet = recipe.build();
        let last = packet.len() - 1;
        packet[last] ^= u8::from(spoil);
        let mut segments = Segments::new(&VnetHeader::PLAIN, &packet).unwrap();
        segments.shorten(600)
    };
    assert!(shortens(&plain, false));
    assert!(!shortens(&plain, true), "corrupt stays corrupt");
    for flags in [0x12, 0x14, 0x30] {
        let recipe = Recipe {
            flags,
            ..plain.clone()
        };
        assert!(!shortens(&recipe, false), "SYN, RST, URG: {flags:#x}");
    }
    let signature = |kind: u8| [vec![1, 1, kind, 18], vec![0; 16]].concat();
    let broken = vec![8, 1, 0, 0];
    let far = vec![1, 1, 8, 99];
    for tcp_options in [signature(19), signature(29), broken, far] {
        let recipe = Recipe {
            tcp_options,
            ..plain.clone()
        };
        assert!(!shortens(&recipe, false), "{:?}", recipe.tcp_options);
    }
    let fragmentable = Recipe {
        df: false,
        ..plain.clone()
    };
    assert!(!shortens(&fragmentable, false));
    let fragment = Recipe {
        more_fragments: true,
        ..plain.clone()
    };
    assert!(!shortens(&fragment, false));
    assert!(!shortens(&Recipe::plain(true, false, vec![7; 1000]), false));
}
