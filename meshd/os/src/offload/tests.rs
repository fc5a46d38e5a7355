//! Laws of cutting and merging: what is merged and cut again is what came, in order, whatever came.
use super::*;
use crate::checksum;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io::IoSlice;

const BOTH: Merging = Merging {
    tcp: true,
    udp: true,
};

/// What a test packet is made of.
#[derive(Clone, Debug)]
struct Recipe {
    ipv4: bool,
    tcp: bool,
    port: u16,
    payload: Vec<u8>,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    tcp_options: Vec<u8>,
    ip_options: Vec<u8>,
    tos: u8,
    ttl: u8,
    df: bool,
    more_fragments: bool,
    id: u16,
    no_checksum: bool,
}

impl Recipe {
    fn plain(ipv4: bool, tcp: bool, payload: Vec<u8>) -> Self {
        Self {
            ipv4,
            tcp,
            port: 1000,
            payload,
            sequence: 0,
            acknowledgement: 7,
            flags: 0x10,
            window: 500,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            ip_options: vec![],
            tos: 0,
            ttl: 64,
            df: true,
            more_fragments: false,
            id: 0,
            no_checksum: false,
        }
    }

    fn build(&self) -> Vec<u8> {
        let mut upper = Vec::new();
        if self.tcp {
            upper.extend(self.port.to_be_bytes());
            upper.extend(80u16.to_be_bytes());
            upper.extend(self.sequence.to_be_bytes());
            upper.extend(self.acknowledgement.to_be_bytes());
            upper.push(((20 + self.tcp_options.len()) / 4 * 16) as u8);
            upper.push(self.flags);
            upper.extend(self.window.to_be_bytes());
            upper.extend([0; 4]);
            upper.extend(&self.tcp_options);
        } else {
            upper.extend(self.port.to_be_bytes());
            upper.extend(80u16.to_be_bytes());
            upper.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            upper.extend([0; 2]);
        }
        upper.extend(&self.payload);
        let mut ip = Vec::new();
        if self.ipv4 {
            let header = 20 + self.ip_options.len();
            ip.extend([0x40 | (header / 4) as u8, self.tos]);
            ip.extend(((header + upper.len()) as u16).to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([
                u8::from(self.df) << 6 | u8::from(self.more_fragments) << 5,
                0,
            ]);
            ip.extend([
                self.ttl,
                if self.tcp { TCP } else { UDP },
                0,
                0,
                10,
                0,
                0,
                1,
                10,
                0,
                0,
                2,
            ]);
            ip.extend(&self.ip_options);
            checksum::fill_ipv4(&mut ip);
        } else {
            // A destination options header of eight bytes when options are wanted.
            let ext = if self.ip_options.is_empty() { 0 } else { 8 };
            ip.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 9]);
            ip.extend(((ext + upper.len()) as u16).to_be_bytes());
            let next = if self.tcp { TCP } else { UDP };
            ip.extend([if ext > 0 { 60 } else { next }, self.ttl]);
            ip.extend([0xfd, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            ip.extend([0xfd, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            if ext > 0 {
                ip.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        if self.tcp || !(self.no_checksum && self.ipv4) {
            let addresses = if self.ipv4 {
                ip[12..20].to_vec()
            } else {
                ip[8..40].to_vec()
            };
            let protocol = if self.tcp { TCP } else { UDP };
            let acc = checksum::pseudo(&addresses, protocol, upper.len()) + checksum::sum(&upper);
            let field = if self.tcp { 16 } else { 6 };
            upper[field..field + 2].copy_from_slice(&checksum::finish(acc));
        }
        ip.extend(upper);
        ip
    }
}

/// Merges `packets` as one batch; the writes that come out, each as (virtio header, packet).
fn merge(packets: &[Vec<u8>], merging: Merging) -> Vec<(VnetHeader, Vec<u8>)> {
    let arena = packets.concat();
    let mut out = Vec::new();
    let mut sink = |parts: &[IoSlice<'_>]| {
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.to_vec()).collect();
        let (vnet, packet) = bytes.split_first_chunk::<VNET_LEN>().unwrap();
        out.push((VnetHeader::read(vnet).unwrap(), packet.to_vec()));
    };
    let mut coalescer = Coalescer::new(merging);
    let mut at = 0;
    for packet in packets {
        coalescer.push(&arena, at..at + packet.len(), &mut sink);
        at += packet.len();
    }
    coalescer.flush(&arena, &mut sink);
    out
}

/// Cuts what was written.
fn cut(writes: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (vnet, packet) in writes {
        let segments = Segments::new(vnet, packet).unwrap();
        for i in 0..segments.count() {
            let mut segment = vec![0xaa; segments.len(i)];
            segments.write(i, &mut segment);
            out.push(segment);
        }
    }
    out
}

/// An identification under DF means nothing (RFC 6864) and may change.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] == 0x40 {
        packet[4..6].fill(0);
        let (header, _) = packet.split_at_mut(20);
        if checksum::verifies(header, 0) {
            return packet;
        }
        checksum::fill_ipv4(header);
    }
    packet
}

type ByFlow = HashMap<Option<(u8, Vec<u8>, Vec<u8>)>, Vec<Vec<u8>>>;

fn by_flow(packets: &[Vec<u8>]) -> ByFlow {
    let mut flows = ByFlow::new();
    for packet in packets {
        let flow = Headers::read(packet).and_then(|h| {
            Some((
                h.protocol,
                packet[h.addresses()].to_vec(),
                packet.get(h.upper..h.upper + 4)?.to_vec(),
            ))
        });
        flows
            .entry(flow)
            .or_default()
            .push(without_id(packet.clone()));
    }
    flows
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let ip = (
        any::<bool>(),
        any::<bool>(),
        0u16..3,
        0u8..4,
        63u8..65,
        any::<bool>(),
    );
    let odd = (
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.05),
        any::<u8>(),
    );
    let flags = prop::sample::select(vec![
        0x10u8, 0x10, 0x10, 0x10, 0x18, 0x11, 0x50, 0x90, 0x02, 0x30, 0x04,
    ]);
    let len = prop::sample::select(vec![
        0usize, 1, 7, 100, 100, 100, 101, 1000, 1000, 1000, 1360,
    ]);
    (ip, odd, flags, len, 0u16..2).prop_map(
        |((ipv4, tcp, port, tos, ttl, df), odd, flags, len, window)| Recipe {
            port,
            tos,
            ttl,
            df,
            flags,
            window,
            more_fragments: odd.0,
            ip_options: if odd.1 { vec![1, 1, 1, 0] } else { vec![] },
            no_checksum: odd.2,
            tcp_options: if odd.3 < 20 {
                vec![]
            } else {
                vec![1, 1, 8, 10, 0, 0, 0, odd.3 & 1, 0, 0, 0, 2]
            },
            ..Recipe::plain(ipv4, tcp, vec![odd.3; len])
        },
    )
}

/// Packets of a few flows, mostly in sequence, some of them corrupted.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let packet = (
        recipe(),
        1usize..30,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.05),
        any::<prop::sample::Index>(),
    );
    prop::collection::vec(packet, 1..12).prop_map(|bursts| {
        let mut next: HashMap<(bool, bool, u16), (u32, u16)> = HashMap::new();
        let mut packets = Vec::new();
        for (mut recipe, times, gap, corrupt, place) in bursts {
            for _ in 0..times {
                let state = next
                    .entry((recipe.ipv4, recipe.tcp, recipe.port))
                    .or_insert((u32::MAX - 3000, u16::MAX - 3));
                (recipe.sequence, recipe.id) = *state;
                *state = (
                    state.0.wrapping_add(recipe.payload.len() as u32),
                    state.1.wrapping_add(1),
                );
                packets.push(recipe.build());
            }
            if gap {
                next.clear();
            }
            if corrupt {
                let last = packets.len() - 1;
                let at = place.index(packets[last].len());
                packets[last][at] ^= 0x21;
            }
        }
        // What the receive path would not hand on: a length that is not the packet's.
        packets.retain(|p| packet_len(p) == Some(p.len()));
        packets
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn merged_and_cut_is_what_came(packets in traffic(), tcp: bool, udp: bool) {
        let writes = merge(&packets, Merging { tcp, udp });
        prop_assert_eq!(by_flow(&cut(&writes)), by_flow(&packets));
    }

    #[test]
    fn a_super_packet_is_cut_into_the_stream_it_holds(
        ipv4: bool, tcp: bool, ext in prop::bool::weighted(0.2), size in 1u16..1500, len in 0usize..60000, fin: bool, cwr: bool, seed: u8,
    ) {
        let len = len.min(usize::from(size) * 200);
        let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(seed | 1)).collect();
        let mut recipe = Recipe::plain(ipv4, tcp, payload.clone());
        recipe.sequence = u32::MAX - 10;
        recipe.flags = 0x18 | u8::from(fin) | u8::from(cwr) << 7;
        if ext {
            recipe.ip_options = vec![1, 1, 1, 0];
        }
        let mut packet = recipe.build();
        let headers = Headers::read(&packet).unwrap();
        let field = headers.upper + if tcp { 16 } else { 6 };
        let pseudo = checksum::pseudo(&packet[headers.addresses()], headers.protocol, packet.len() - headers.upper);
        packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        let gso = match (tcp, ipv4) { (true, true) => Gso::TcpV4, (true, false) => Gso::TcpV6, _ => Gso::Udp };
        let checksum = Some((headers.upper as u16, (field - headers.upper) as u16));
        let vnet = VnetHeader { gso, gso_size: size, header_len: 0, checksum };
        let segments = cut(&[(vnet, packet.clone())]);
        prop_assert_eq!(segments.len(), len.div_ceil(usize::from(size)).max(1));
        let upper_len = if tcp { 32 } else { 8 };
        let mut stream = Vec::<u8>::new();
        for (i, segment) in segments.iter().enumerate() {
            prop_assert_eq!(packet_len(segment), Some(segment.len()));
            let h = Headers::read(segment).unwrap();
            let pseudo = checksum::pseudo(&segment[h.addresses()], h.protocol, segment.len() - h.upper);
            prop_assert!(checksum::verifies(&segment[h.upper..], pseudo));
            if ipv4 {
                prop_assert!(checksum::verifies(&segment[..h.upper], 0));
                prop_assert_eq!(u16::from_be_bytes([segment[4], segment[5]]), i as u16);
            }
            let upper = &segment[h.upper..];
            if tcp {
                let sequence = u32::from_be_bytes([upper[4], upper[5], upper[6], upper[7]]);
                prop_assert_eq!(sequence, recipe.sequence.wrapping_add(stream.len() as u32));
                let last = i + 1 == segments.len();
                prop_assert_eq!(upper[13] & 0x09, if last { recipe.flags & 0x09 } else { 0 });
                prop_assert_eq!(upper[13] & 0x80 != 0, cwr && i == 0);
            } else {
                prop_assert_eq!(usize::from(u16::from_be_bytes([upper[4], upper[5]])), upper.len());
            }
            stream.extend(&upper[upper_len..]);
        }
        prop_assert_eq!(stream, payload);
        // And put together again it is the same stream once more.
        prop_assert_eq!(by_flow(&cut(&merge(&segments, BOTH))), by_flow(&segments));
    }

    #[test]
    fn hostile_bytes_never_panic(vnet: [u8; VNET_LEN], mut packet in prop::collection::vec(any::<u8>(), 0..200), v6: bool, protocol in 0u8..64) {
        if packet.len() > 20 {
            packet[0] = if v6 { 0x60 } else { 0x45 };
            packet[if v6 { 6 } else { 9 }] = protocol;
        }
        let _ = Headers::read(&packet);
        if let Some(Ok(segments)) = VnetHeader::read(&vnet).map(|vnet| Segments::new(&vnet, &packet)) {
            for i in 0..segments.count() {
                let mut out = vec![0; segments.len(i)];
                prop_assert!(!out.is_empty() && out.len() <= packet.len());
                segments.write(i, &mut out);
            }
        }
        let merged = merge(&[packet.clone(), packet.clone()], BOTH);
        let alone = (VnetHeader::PLAIN, packet);
        prop_assert_eq!(merged, [alone.clone(), alone]);
    }

    #[test]
    fn a_true_packet_under_a_hostile_virtio_header(recipe in recipe(), vnet: [u8; VNET_LEN], kind in 0u8..6, near: bool) {
        let packet = recipe.build();
        let mut vnet = vnet;
        vnet[1] = kind;
        if near {
            let upper = Headers::read(&packet).map_or(0, |h| h.upper) as u16;
            vnet[6..8].copy_from_slice(&upper.to_ne_bytes());
            vnet[8..10].copy_from_slice(&if recipe.tcp { 16u16 } else { 6 }.to_ne_bytes());
        }
        if let Some(Ok(segments)) = VnetHeader::read(&vnet).map(|vnet| Segments::new(&vnet, &packet)) {
            for i in 0..segments.count() {
                let mut out = vec![0; segments.len(i)];
                segments.write(i, &mut out);
                prop_assert_eq!(packet_len(&out), Some(out.len()));
            }
        }
    }
}

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
    assert!(merges(true, true, |r| r.flags = 0x18), "PSH ends a run");
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
fn nothing_follows_a_push_or_a_short_packet() {
    let mut packets = bulk(true, true, 3, 100);
    packets[1] = Recipe {
        sequence: 200,
        flags: 0x18,
        ..Recipe::plain(true, true, vec![5; 100])
    }
    .build();
    assert_eq!(merge(&packets, BOTH).len(), 2);
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
