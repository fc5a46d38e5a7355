//! Laws: what is merged and cut again is what came, in order, whatever came; and no bytes make the code panic.
use super::super::*;
use super::{cut, merge, Recipe, BOTH};
use crate::checksum;
use proptest::prelude::*;
use std::collections::HashMap;

const PSH: u8 = 0x08;

type Flow = Option<(u8, Vec<u8>, Vec<u8>)>;
type ByFlow = HashMap<Flow, Vec<Vec<u8>>>;

fn flow(packet: &[u8]) -> Flow {
    let h = Headers::read(packet)?;
    let ports = packet.get(h.upper..h.upper + 4)?;
    Some((h.protocol, packet[h.addresses()].to_vec(), ports.to_vec()))
}

fn by_flow(packets: &[Vec<u8>]) -> ByFlow {
    let mut flows = ByFlow::new();
    for packet in packets {
        flows
            .entry(flow(packet))
            .or_default()
            .push(alike::comparable(packet));
    }
    flows
}

/// Whether a packet asks that what came so far be handed on.
fn pushes(packet: &[u8]) -> bool {
    let upper = Headers::read(packet).filter(|h| h.protocol == TCP && !h.fragment);
    upper
        .and_then(|h| packet.get(h.upper + 13))
        .is_some_and(|flags| flags & PSH != 0)
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
    fn a_push_comes_with_the_same_write_and_none_is_made_up(packets in traffic()) {
        let mut came = HashMap::<Flow, Vec<bool>>::new();
        for packet in packets.iter().rev() {
            came.entry(flow(packet)).or_default().push(pushes(packet));
        }
        for write in merge(&packets, BOTH) {
            let segments = cut(&[write]);
            let (last, others) = segments.split_last().unwrap();
            prop_assert!(!others.iter().any(|segment| pushes(segment)));
            let came = came.get_mut(&flow(last)).unwrap();
            let came = came.split_off(came.len() - segments.len());
            prop_assert_eq!(pushes(last), came.contains(&true));
        }
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
    fn a_packet_too_long_for_its_path_is_cut_into_the_stream_it_holds(
        ipv4: bool, ext in prop::bool::weighted(0.2), limit in 100usize..1500, len in 1usize..1400, flags in 0u8..8, unfinished: bool, seed: u8,
    ) {
        let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(seed | 1)).collect();
        let mut recipe = Recipe::plain(ipv4, true, payload.clone());
        recipe.sequence = u32::MAX - 10;
        // FIN, PSH and CWR.
        recipe.flags = 0x10 | flags & 1 | (flags & 2) << 2 | (flags & 4) << 5;
        if ext {
            recipe.ip_options = vec![1, 1, 1, 0];
        }
        let mut packet = recipe.build();
        let whole = Headers::read(&packet).unwrap();
        let mut vnet = VnetHeader::PLAIN;
        if unfinished {
            let pseudo = checksum::pseudo(&packet[whole.addresses()], TCP, packet.len() - whole.upper);
            packet[whole.upper + 16..whole.upper + 18].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
            vnet.checksum = Some((whole.upper as u16, 16));
        }
        let mut segments = Segments::new(&vnet, &packet).unwrap();
        prop_assert!(segments.shorten(limit));
        let mut stream = Vec::<u8>::new();
        for i in 0..segments.count() {
            let mut segment = vec![0; segments.len(i)];
            segments.write(i, &mut segment);
            prop_assert!(segment.len() <= limit);
            prop_assert_eq!(packet_len(&segment), Some(segment.len()));
            let h = Headers::read(&segment).unwrap();
            prop_assert_eq!((h.upper, h.protocol), (whole.upper, TCP));
            let pseudo = checksum::pseudo(&segment[h.addresses()], TCP, segment.len() - h.upper);
            prop_assert!(checksum::verifies(&segment[h.upper..], pseudo));
            prop_assert!(!ipv4 || checksum::verifies(&segment[..h.upper], 0));
            let tcp = &segment[h.upper..];
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            prop_assert_eq!(sequence, recipe.sequence.wrapping_add(stream.len() as u32));
            let last = i + 1 == segments.count();
            prop_assert_eq!(tcp[13] & 0x09, if last { recipe.flags & 0x09 } else { 0 });
            prop_assert_eq!(tcp[13] & 0x80, if i == 0 { recipe.flags & 0x80 } else { 0 });
            stream.extend(&tcp[32..]);
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn hostile_bytes_never_panic(vnet: [u8; VNET_LEN], mut packet in prop::collection::vec(any::<u8>(), 0..200), v6: bool, protocol in 0u8..64) {
        if packet.len() > 20 {
            packet[0] = if v6 { 0x60 } else { 0x45 };
            packet[if v6 { 6 } else { 9 }] = protocol;
        }
        let _ = Headers::read(&packet);
        if let Some(Ok(mut segments)) = VnetHeader::read(&vnet).map(|vnet| Segments::new(&vnet, &packet)) {
            for limit in [usize::MAX, 100] {
                for i in 0..segments.count() {
                    let mut out = vec![0; segments.len(i)];
                    prop_assert!(!out.is_empty() && out.len() <= packet.len());
                    segments.write(i, &mut out);
                }
                segments.shorten(limit.min(100));
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
