//! Super-packets: cutting and putting together, as the TUN's and the socket's sides see them.

use std::collections::BTreeMap;
use std::io::IoSlice;

use meshd_os::checksum;
use meshd_os::offload::{
    alike, packet_len, Coalescer, Headers, Merging, Segments, VnetHeader, TCP, VNET_LEN,
};

use crate::cursor::Cursor;

/// A virtio header and a packet as the TUN gives them: cut into whole packets, none longer than what came.
pub(crate) fn segment(bytes: &[u8]) {
    let Some((vnet, packet)) = bytes.split_first_chunk::<VNET_LEN>() else {
        return;
    };
    let Some(vnet) = VnetHeader::read(vnet) else {
        return;
    };
    assert_eq!(VnetHeader::read(&vnet.write()), Some(vnet));
    let Ok(segments) = Segments::new(&vnet, packet) else {
        return;
    };
    let whole = packet_len(packet) == Some(packet.len());
    for i in 0..segments.count() {
        let mut out = vec![0xaa; segments.len(i)];
        assert!(!out.is_empty() && out.len() <= packet.len());
        segments.write(i, &mut out);
        if whole {
            assert_eq!(packet_len(&out), Some(out.len()), "a whole packet");
        }
    }
}

/// Packets of a few flows, made from the input, merged as one batch and cut again: the same bytes, each flow in order.
pub(crate) fn coalesce(bytes: &[u8]) {
    let mut input = Cursor::new(bytes);
    let merging = Merging {
        tcp: !input.one_in(4),
        udp: !input.one_in(4),
    };
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut sequence = u32::MAX - 2000;
    while !input.is_empty() && packets.len() < 100 {
        let packet = if input.one_in(8) {
            let len = input.below(120);
            input.take(len).to_vec()
        } else {
            make(&mut input, &mut sequence)
        };
        // What the receive path would not hand on: a length that is not the packet's.
        if packet_len(&packet) == Some(packet.len()) {
            packets.push(packet);
        }
    }
    let arena = packets.concat();
    let mut writes = Vec::new();
    let mut sink = |parts: &[IoSlice<'_>]| {
        writes.push(
            parts
                .iter()
                .flat_map(|part| part.to_vec())
                .collect::<Vec<u8>>(),
        );
    };
    let mut coalescer = Coalescer::new(merging);
    let mut at = 0;
    for packet in &packets {
        coalescer.push(&arena, at..at + packet.len(), &mut sink);
        at += packet.len();
    }
    coalescer.flush(&arena, &mut sink);
    let mut cut = Vec::new();
    for write in &writes {
        let Some((vnet, packet)) = write.split_first_chunk::<VNET_LEN>() else {
            panic!("a write without virtio header");
        };
        let segments = VnetHeader::read(vnet).map(|vnet| Segments::new(&vnet, packet));
        let Some(Ok(segments)) = segments else {
            panic!("a write that can't be cut");
        };
        for i in 0..segments.count() {
            let mut out = vec![0xaa; segments.len(i)];
            segments.write(i, &mut out);
            cut.push(out);
        }
    }
    assert_eq!(by_flow(&cut), by_flow(&packets));
}

/// One IPv4 or IPv6 packet with TCP or UDP, mostly as a busy sender would go on.
fn make(input: &mut Cursor<'_>, sequence: &mut u32) -> Vec<u8> {
    let choice = input.byte();
    let (ipv4, tcp) = (choice & 1 == 0, choice & 2 == 0);
    let flags = input.choose(&[0x10, 0x10, 0x10, 0x18, 0x11, 0x50, 0x90, 0x02]);
    let payload = vec![choice; input.choose(&[0, 1, 100, 100, 100, 101, 600])];
    let port = u16::from(choice >> 2 & 1);
    let mut upper = port.to_be_bytes().to_vec();
    upper.extend(80u16.to_be_bytes());
    if tcp {
        upper.extend(sequence.to_be_bytes());
        upper.extend([0, 0, 0, 7, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        *sequence = sequence.wrapping_add(payload.len() as u32);
    } else {
        upper.extend(((8 + payload.len()) as u16).to_be_bytes());
        upper.extend([0, 0]);
    }
    upper.extend(&payload);
    let protocol = if tcp { TCP } else { 17 };
    let mut ip = Vec::new();
    if ipv4 {
        ip.extend([0x45, choice >> 6]);
        ip.extend(((20 + upper.len()) as u16).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        checksum::fill_ipv4(&mut ip);
    } else {
        ip.extend([0x60, 0, 0, 0]);
        ip.extend((upper.len() as u16).to_be_bytes());
        ip.extend([protocol, 64]);
        ip.extend([0xfd; 16]);
        ip.extend([0xfe; 16]);
    }
    let addresses = if ipv4 { &ip[12..20] } else { &ip[8..40] };
    let acc = checksum::pseudo(addresses, protocol, upper.len()) + checksum::sum(&upper);
    let field = if tcp { 16 } else { 6 };
    upper[field..field + 2].copy_from_slice(&checksum::finish(acc));
    ip.extend(upper);
    if input.one_in(16) {
        let at = input.below(ip.len());
        ip[at] ^= 0x21;
    }
    ip
}

type Flows = BTreeMap<Option<(u8, Vec<u8>)>, Vec<Vec<u8>>>;

/// Packets by protocol, addresses and ports.
fn by_flow(packets: &[Vec<u8>]) -> Flows {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let flow = Headers::read(packet).and_then(|headers| {
            let mut ends = packet[headers.addresses()].to_vec();
            ends.extend(packet.get(headers.upper..headers.upper + 4)?);
            Some((headers.protocol, ends))
        });
        flows
            .entry(flow)
            .or_default()
            .push(alike::comparable(packet));
    }
    flows
}
