//! Puts consecutive packets of a flow together, so that the TUN takes them in one write.
//!
//! Strategy: packets lie opened in the receive arena; a run remembers where each payload is, and the first packet's headers.
//! `push` adds to a run, starts one, or lets the packet through alone; `flush` ends the batch. Nothing is copied but headers.
//! Within a flow order is kept: whatever can't join its flow's run sends the run off first. Only what the kernel would cut
//! into the very same bytes is merged: whole, unfragmented packets without IP options or extension headers, equal in
//! everything but length, checksum, identification, PSH and (TCP) sequence number, with intact checksums: without that check
//! a corrupted packet would get a fresh valid one.
//!
//! The exception is PSH, which moves to the run's end. It asks that what came so far be handed to the program and is no mark in the
//! stream (RFC 9293, section 3.9.1.2); the end comes with the same write. Senders set it every few super-packets, at places that have
//! nothing to do with where a datagram of ours ends, so stopping there, as tcp_gro_receive does, made a third more writes.
//!
//! What it does not do: merge pure ACKs, or wait for more than one batch.
//!
//! Source: net/ipv4/tcp_offload.c tcp_gro_receive, net/ipv4/udp_offload.c udp_gro_receive, inet_gro_receive.
use super::headers::{Headers, TCP, UDP};
use super::vnet::{Gso, VnetHeader, VNET_LEN};
use crate::checksum;
use std::io::IoSlice;
use std::ops::Range;

/// Most packets of a run. The kernel cuts at most 64 UDP segments before 6.5, and TCP's gain ends long before.
const MAX_RUN: usize = 64;
/// Flows that may have a run at the same time.
const FLOWS: usize = 8;
/// IPv6 and the longest TCP header.
const MAX_HEADERS: usize = 40 + 60;
/// Most slices in one write.
pub const MAX_PARTS: usize = MAX_RUN + 1;
/// What total length (IPv4) and payload length (IPv6) can say.
const MAX_LEN: usize = 65535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;
/// "Don't fragment" in the IPv4 header's seventh byte.
const DF: u8 = 0x40;

/// What may be merged: what the TUN takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merging {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// A flow: addresses (padded with zeros for IPv4), ports, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    ports: [u8; 4],
    protocol: u8,
    ipv4: bool,
    addresses: [u8; 32],
}

impl Flow {
    fn of(packet: &[u8], headers: &Headers) -> Option<Self> {
        let ports = packet.get(headers.upper..headers.upper + 4)?;
        let mut flow = Self {
            ports: [0; 4],
            protocol: headers.protocol,
            ipv4: headers.ipv4,
            addresses: [0; 32],
        };
        flow.ports.copy_from_slice(ports);
        let range = headers.addresses();
        flow.addresses[..range.len()].copy_from_slice(&packet[range]);
        Some(flow)
    }
}

/// A packet that may start or join a run.
struct Candidate<'a> {
    packet: &'a [u8],
    ip_len: usize,
    /// Length of all headers.
    headers: usize,
    tcp: bool,
    psh: bool,
}

impl<'a> Candidate<'a> {
    /// `None` when this packet must go alone. The checksums are looked at last: they cost the most.
    fn new(packet: &'a [u8], headers: &Headers) -> Option<Self> {
        if !headers.plain || headers.fragment {
            return None;
        }
        let ip_len = headers.upper;
        let upper = &packet[ip_len..];
        let tcp = headers.protocol == TCP;
        let upper_len = if tcp {
            tcp_header(upper)?
        } else {
            udp_header(upper)?
        };
        // Something must be in it; without payload there is nothing to merge.
        if upper.len() <= upper_len {
            return None;
        }
        let psh = tcp && upper[13] & PSH != 0;
        let pseudo = checksum::pseudo(&packet[headers.addresses()], headers.protocol, upper.len());
        let intact = (!headers.ipv4 || checksum::verifies(&packet[..ip_len], 0))
            && checksum::verifies(upper, pseudo);
        intact.then_some(Self {
            packet,
            ip_len,
            headers: ip_len + upper_len,
            tcp,
            psh,
        })
    }

    fn payload(&self) -> usize {
        self.packet.len() - self.headers
    }

    fn sequence(&self) -> u32 {
        let at = self.ip_len + 4;
        u32::from_be_bytes([
            self.packet[at],
            self.packet[at + 1],
            self.packet[at + 2],
            self.packet[at + 3],
        ])
    }

    fn identification(&self) -> u16 {
        u16::from_be_bytes([self.packet[4], self.packet[5]])
    }
}

/// Header length of a TCP segment that may be merged: ACK, perhaps PSH and ECE, and no other flag.
fn tcp_header(upper: &[u8]) -> Option<usize> {
    let (offset, flags) = (*upper.get(12)?, *upper.get(13)?);
    let len = usize::from(offset >> 4) * 4;
    // The low bits of the offset's byte are reserved, or accurate ECN's.
    (offset & 15 == 0 && flags & !(PSH | ECE) == ACK && (20..=upper.len()).contains(&len))
        .then_some(len)
}

/// Header length of a UDP datagram that may be merged: its own length is right, and it has a checksum.
fn udp_header(upper: &[u8]) -> Option<usize> {
    let len = usize::from(u16::from_be_bytes([*upper.get(4)?, *upper.get(5)?]));
    (len == upper.len() && upper.get(6..8)? != [0, 0]).then_some(8)
}

/// Packets of one flow, waiting to be written as one.
#[derive(Debug)]
struct Run {
    flow: Flow,
    /// The virtio header's room and the first packet's headers.
    head: [u8; VNET_LEN + MAX_HEADERS],
    ip_len: usize,
    headers: usize,
    /// Payload bytes of each packet but the last.
    size: usize,
    /// Bytes of the whole packet so far.
    total: usize,
    next_sequence: u32,
    next_identification: u16,
    /// The last packet was short: nothing may follow.
    closed: bool,
    first: Range<usize>,
    payloads: [(u32, u32); MAX_RUN],
    count: usize,
}

impl Run {
    fn new() -> Self {
        Self {
            flow: Flow {
                ports: [0; 4],
                protocol: 0,
                ipv4: false,
                addresses: [0; 32],
            },
            head: [0; VNET_LEN + MAX_HEADERS],
            ip_len: 0,
            headers: 0,
            size: 0,
            total: 0,
            next_sequence: 0,
            next_identification: 0,
            closed: false,
            first: 0..0,
            payloads: [(0, 0); MAX_RUN],
            count: 0,
        }
    }

    fn start(&mut self, flow: Flow, candidate: &Candidate<'_>, at: Range<usize>) {
        self.flow = flow;
        self.ip_len = candidate.ip_len;
        self.headers = candidate.headers;
        self.head[VNET_LEN..VNET_LEN + candidate.headers]
            .copy_from_slice(&candidate.packet[..candidate.headers]);
        self.size = candidate.payload();
        self.total = candidate.headers;
        self.next_sequence = if candidate.tcp {
            candidate.sequence()
        } else {
            0
        };
        self.next_identification = candidate.identification();
        self.first = at.clone();
        self.count = 0;
        self.append(candidate, at);
    }

    fn append(&mut self, candidate: &Candidate<'_>, at: Range<usize>) {
        let payload = candidate.payload();
        self.payloads[self.count] = ((at.start + candidate.headers) as u32, payload as u32);
        self.count += 1;
        self.total += payload;
        self.next_sequence = self.next_sequence.wrapping_add(payload as u32);
        self.next_identification = self.next_identification.wrapping_add(1);
        self.closed = payload < self.size;
        if candidate.psh {
            self.head[VNET_LEN + self.ip_len + 13] |= PSH;
        }
    }

    /// Whether the kernel, cutting this run, would make exactly this packet its next segment, PSH aside.
    fn takes(&self, candidate: &Candidate<'_>) -> bool {
        let payload = candidate.payload();
        if self.closed
            || self.count == MAX_RUN
            || payload > self.size
            || self.headers != candidate.headers
            || self.total + payload > MAX_LEN
        {
            return false;
        }
        let ours = &self.head[VNET_LEN..VNET_LEN + self.headers];
        let theirs = &candidate.packet[..self.headers];
        let same = |range: Range<usize>| ours[range.clone()] == theirs[range];
        let ip = if self.flow.ipv4 {
            // Version, DSCP and ECN; flags; TTL and protocol. An identification counts only where it may be used.
            let counted =
                theirs[6] & DF != 0 || candidate.identification() == self.next_identification;
            same(0..2) && same(6..10) && counted
        } else {
            // Version, traffic class and flow label; next header and hop limit.
            same(0..4) && same(6..8)
        };
        if !candidate.tcp {
            return ip;
        }
        // Acknowledgement; offset; flags; window; urgent pointer, options.
        let tcp = self.ip_len;
        ip && candidate.sequence() == self.next_sequence
            && same(tcp + 8..tcp + 13)
            && (ours[tcp + 13] ^ theirs[tcp + 13]) & !PSH == 0
            && same(tcp + 14..tcp + 16)
            && same(tcp + 18..self.headers)
    }

    /// Writes the run: as the packet it was when there is only one, else as a super-packet.
    fn write(&mut self, arena: &[u8], sink: &mut impl FnMut(&[IoSlice<'_>])) {
        if self.count == 1 {
            sink(&[
                IoSlice::new(&PLAIN),
                IoSlice::new(&arena[self.first.clone()]),
            ]);
        } else if self.count > 1 {
            self.finish_head();
            let mut parts = [IoSlice::new(&[]); MAX_PARTS];
            parts[0] = IoSlice::new(&self.head[..VNET_LEN + self.headers]);
            for (part, &(at, len)) in parts[1..].iter_mut().zip(&self.payloads[..self.count]) {
                *part = IoSlice::new(&arena[at as usize..(at + len) as usize]);
            }
            sink(&parts[..=self.count]);
        }
        self.count = 0;
    }

    /// Lengths, the IPv4 checksum, the pseudo-header's sum in the upper checksum's place, and the virtio header.
    fn finish_head(&mut self) {
        let (vnet, packet) = self.head.split_at_mut(VNET_LEN);
        let upper_len = self.total - self.ip_len;
        if self.flow.ipv4 {
            packet[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
            checksum::fill_ipv4(&mut packet[..self.ip_len]);
        } else {
            packet[4..6].copy_from_slice(&((self.total - 40) as u16).to_be_bytes());
        }
        let addresses = if self.flow.ipv4 { 12..20 } else { 8..40 };
        let pseudo = checksum::fold(checksum::pseudo(
            &packet[addresses],
            self.flow.protocol,
            upper_len,
        ));
        let (gso, field) = match (self.flow.protocol, self.flow.ipv4) {
            (TCP, true) => (Gso::TcpV4, 16),
            (TCP, false) => (Gso::TcpV6, 16),
            _ => {
                packet[self.ip_len + 4..self.ip_len + 6]
                    .copy_from_slice(&(upper_len as u16).to_be_bytes());
                (Gso::Udp, 6)
            }
        };
        let at = self.ip_len + field;
        packet[at..at + 2].copy_from_slice(&pseudo.to_ne_bytes());
        let header = VnetHeader {
            gso,
            gso_size: self.size as u16,
            header_len: self.headers as u16,
            checksum: Some((self.ip_len as u16, field as u16)),
        };
        vnet.copy_from_slice(&header.write());
    }
}

const PLAIN: [u8; VNET_LEN] = [0; VNET_LEN];

/// The flow table of one packet thread.
#[derive(Debug)]
pub struct Coalescer {
    merging: Merging,
    runs: Box<[Run; FLOWS]>,
    /// Where the next run goes when all places are taken.
    turn: usize,
}

impl Coalescer {
    /// An empty table. Its memory is fixed: about 6 KiB.
    pub fn new(merging: Merging) -> Self {
        Self {
            merging,
            runs: Box::new(std::array::from_fn(|_| Run::new())),
            turn: 0,
        }
    }

    /// Takes the IP packet at `at` of `arena`: exactly one packet, its length that of its header. Hands `sink` what is to be
    /// written to the TUN now, virtio header included. Until `flush` the arena must stay as it is.
    pub fn push(&mut self, arena: &[u8], at: Range<usize>, sink: &mut impl FnMut(&[IoSlice<'_>])) {
        let packet = &arena[at.clone()];
        let headers = Headers::read(packet);
        if headers.as_ref().is_none_or(|h| h.fragment) {
            // What this belongs to isn't known: nothing may be overtaken.
            self.flush(arena, sink);
        }
        let Some(headers) = headers.filter(|h| !h.fragment && self.merges(h.protocol)) else {
            return sink(&[IoSlice::new(&PLAIN), IoSlice::new(packet)]);
        };
        let Some(flow) = Flow::of(packet, &headers) else {
            return sink(&[IoSlice::new(&PLAIN), IoSlice::new(packet)]);
        };
        let candidate = Candidate::new(packet, &headers);
        let mut place = self.runs.iter().position(|r| r.count > 0 && r.flow == flow);
        if let Some(run) = place.map(|i| &mut self.runs[i]) {
            match &candidate {
                Some(candidate) if run.takes(candidate) => return run.append(candidate, at),
                _ => run.write(arena, sink),
            }
        }
        let Some(candidate) = candidate else {
            return sink(&[IoSlice::new(&PLAIN), IoSlice::new(packet)]);
        };
        place = place.or_else(|| self.runs.iter().position(|r| r.count == 0));
        let place = place.unwrap_or_else(|| {
            self.turn = (self.turn + 1) % FLOWS;
            self.turn
        });
        self.runs[place].write(arena, sink);
        self.runs[place].start(flow, &candidate, at);
    }

    /// Writes everything that waits.
    pub fn flush(&mut self, arena: &[u8], sink: &mut impl FnMut(&[IoSlice<'_>])) {
        for run in self.runs.iter_mut() {
            run.write(arena, sink);
        }
    }

    fn merges(&self, protocol: u8) -> bool {
        match protocol {
            TCP => self.merging.tcp,
            UDP => self.merging.udp,
            _ => false,
        }
    }
}
