//! Tests of cutting and merging: packets made by recipe, merged and cut again. `laws` holds for all traffic, `rules` shows
//! single cases.
use super::*;
use crate::checksum;
use std::io::IoSlice;

mod laws;
mod rules;

/// TCP and UDP.
pub(super) const BOTH: Merging = Merging {
    tcp: true,
    udp: true,
};

/// What a test packet is made of.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) ipv4: bool,
    pub(super) tcp: bool,
    pub(super) port: u16,
    pub(super) payload: Vec<u8>,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) tcp_options: Vec<u8>,
    pub(super) ip_options: Vec<u8>,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) df: bool,
    pub(super) more_fragments: bool,
    pub(super) id: u16,
    pub(super) no_checksum: bool,
}

impl Recipe {
    pub(super) fn plain(ipv4: bool, tcp: bool, payload: Vec<u8>) -> Self {
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

    pub(super) fn build(&self) -> Vec<u8> {
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
pub(super) fn merge(packets: &[Vec<u8>], merging: Merging) -> Vec<(VnetHeader, Vec<u8>)> {
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
pub(super) fn cut(writes: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
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
