//! Cuts a super-packet from the TUN into the packets it stands for, straight into the caller's slots.
//!
//! Strategy: `Segments::new` checks everything once; `write` then makes segment number `i` from the headers and its share of
//! the payload, in any order, without looking back. A plain packet is one segment whose checksum may want finishing. The
//! rules are those of the kernel's own software segmentation (net/ipv4/tcp_offload.c, udp_offload.c): sequence number and
//! IPv4 identification count on, FIN and PSH stay on the last segment only, CWR on the first only.
use super::headers::{Headers, TCP, UDP};
use super::vnet::{Gso, VnetHeader};
use crate::checksum::{self, Partial};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Why a packet from the TUN can't be cut. It is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsegmentable {
    /// Shorter than its own headers claim, or no IP packet.
    Malformed,
    /// The virtio header doesn't fit the packet behind it.
    Mismatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper {
    Tcp,
    Udp,
}

/// How the upper checksum of each segment comes about.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// The pseudo-header's sum without the length.
    Over(Partial),
    /// UDP over IPv4 without checksum.
    Absent,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    ipv4: bool,
    upper: usize,
    kind: Upper,
    /// Length of all headers.
    headers: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    check: Check,
}

/// A packet from the TUN, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    count: usize,
    /// `None`: one segment, the packet itself, whose checksum may be unfinished.
    cut: Option<Cut>,
    unfinished: Option<(usize, usize)>,
}

impl<'a> Segments<'a> {
    /// Checks `packet` (without the virtio header) against `vnet`.
    pub fn new(vnet: &VnetHeader, packet: &'a [u8]) -> Result<Self, Unsegmentable> {
        if packet.len() < 20 {
            return Err(Unsegmentable::Malformed);
        }
        let whole = Self {
            packet,
            count: 1,
            cut: None,
            unfinished: None,
        };
        if vnet.gso == Gso::None {
            return Ok(Self {
                unfinished: unfinished(vnet, packet)?,
                ..whole
            });
        }
        let cut = plan(vnet, packet)?;
        let payload = packet.len() - cut.headers;
        Ok(Self {
            count: payload.div_ceil(cut.size).max(1),
            cut: Some(cut),
            ..whole
        })
    }

    /// How many segments there are: at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of segment `i` in bytes; all but the last are equal.
    pub fn len(&self, i: usize) -> usize {
        match &self.cut {
            None => self.packet.len(),
            Some(cut) => cut.headers + self.share(cut, i).len(),
        }
    }

    /// Cuts a packet of TCP into segments of at most `limit` bytes instead of those it came with; whether it could. A plain packet
    /// is cut as a super-packet is, unless that could be told from the stream that was sent: see [`Segments::divisible`].
    pub fn shorten(&mut self, limit: usize) -> bool {
        let given = match self.cut {
            None => self.divisible(),
            cut => cut.filter(|cut| cut.kind == Upper::Tcp),
        };
        let Some(mut cut) = given else {
            return false;
        };
        let size = limit.saturating_sub(cut.headers).min(cut.size);
        if size == 0 {
            return false;
        }
        cut.size = size;
        self.count = (self.packet.len() - cut.headers).div_ceil(size).max(1);
        self.cut = Some(cut);
        true
    }

    /// How a plain packet is cut, if that is harmless: TCP with data, which bears no SYN, RST or urgent data, is not signed as a
    /// whole (RFC 2385, RFC 5925), and is intact, since every segment gets a true checksum. IPv4 that may be fragmented is left to
    /// that, for want of identifications.
    fn divisible(&self) -> Option<Cut> {
        let headers = Headers::read(self.packet)?;
        let dont_fragment = self.packet.get(6)? & 0x40 != 0;
        if headers.ipv4 && !dont_fragment {
            return None;
        }
        let vnet = VnetHeader {
            gso: if headers.ipv4 { Gso::TcpV4 } else { Gso::TcpV6 },
            gso_size: u16::MAX,
            header_len: 0,
            checksum: self
                .unfinished
                .map(|(start, field)| (start as u16, (field - start) as u16)),
        };
        let cut = plan(&vnet, self.packet).ok()?;
        let upper = &self.packet[cut.upper..];
        let intact = || {
            let pseudo = checksum::pseudo(&self.packet[headers.addresses()], TCP, upper.len());
            checksum::verifies(upper, pseudo)
        };
        let plain = upper[13] & !(FIN | PSH | ACK | ECE | CWR) == 0
            && !is_signed(&upper[20..cut.headers - cut.upper])
            && (self.unfinished.is_some() || intact());
        plain.then_some(cut)
    }

    /// Whether there is nothing to send: never, the shortest packet is a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn share(&self, cut: &Cut, i: usize) -> &'a [u8] {
        let payload = &self.packet[cut.headers..];
        let start = payload.len().min(i.saturating_mul(cut.size));
        &payload[start..payload.len().min(start + cut.size)]
    }

    /// Writes segment `i` into `out`.
    ///
    /// # Panics
    /// When `out` is not exactly [`Segments::len`]`(i)` bytes long.
    pub fn write(&self, i: usize, out: &mut [u8]) {
        let Some(cut) = &self.cut else {
            out.copy_from_slice(self.packet);
            if let Some((start, field)) = self.unfinished {
                // The field already holds the pseudo-header's sum.
                let check = checksum::finish(checksum::sum(&out[start..]));
                out[field..field + 2].copy_from_slice(&check);
            }
            return;
        };
        let (headers, payload) = out.split_at_mut(cut.headers);
        headers.copy_from_slice(&self.packet[..cut.headers]);
        let payload_sum = checksum::copy_sum(payload, self.share(cut, i));
        let total = headers.len() + payload.len();
        if cut.ipv4 {
            headers[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            let id = u16::from_be_bytes([headers[4], headers[5]]).wrapping_add(i as u16);
            headers[4..6].copy_from_slice(&id.to_be_bytes());
            checksum::fill_ipv4(&mut headers[..cut.upper]);
        } else {
            headers[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        }
        let upper = &mut headers[cut.upper..];
        let upper_len = total - cut.upper;
        let field = match cut.kind {
            Upper::Tcp => {
                self.write_tcp(cut, i, upper);
                16
            }
            Upper::Udp => {
                upper[4..6].copy_from_slice(&(upper_len as u16).to_be_bytes());
                6
            }
        };
        upper[field..field + 2].fill(0);
        if let Check::Over(pseudo) = cut.check {
            let acc = pseudo + checksum::length(upper_len) + checksum::sum(upper) + payload_sum;
            upper[field..field + 2].copy_from_slice(&checksum::finish(acc));
        }
    }

    fn write_tcp(&self, cut: &Cut, i: usize, tcp: &mut [u8]) {
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        tcp[4..8].copy_from_slice(&sequence.wrapping_add((i * cut.size) as u32).to_be_bytes());
        if i + 1 < self.count {
            tcp[13] &= !(FIN | PSH);
        }
        if i > 0 {
            tcp[13] &= !CWR;
        }
    }
}

/// Whether options of TCP have a signature of the segment among them, or can't be read.
fn is_signed(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MD5: u8 = 19;
    const AUTHENTICATION: u8 = 29;
    loop {
        match options {
            [] | [END, ..] => return false,
            [NOTHING, rest @ ..] => options = rest,
            [MD5 | AUTHENTICATION, ..] => return true,
            [_, len, ..] if (2..=options.len()).contains(&usize::from(*len)) => {
                options = &options[usize::from(*len)..];
            }
            _ => return true,
        }
    }
}

/// Range start and field of an unfinished checksum, checked to lie inside the packet and behind the fixed IP header.
fn unfinished(vnet: &VnetHeader, packet: &[u8]) -> Result<Option<(usize, usize)>, Unsegmentable> {
    let Some((start, offset)) = vnet.checksum else {
        return Ok(None);
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if start < 20 || field + 2 > packet.len() {
        return Err(Unsegmentable::Mismatch);
    }
    Ok(Some((start, field)))
}

fn plan(vnet: &VnetHeader, packet: &[u8]) -> Result<Cut, Unsegmentable> {
    let headers = Headers::read(packet).ok_or(Unsegmentable::Malformed)?;
    let (kind, protocol) = match vnet.gso {
        Gso::TcpV4 if headers.ipv4 => (Upper::Tcp, TCP),
        Gso::TcpV6 if !headers.ipv4 => (Upper::Tcp, TCP),
        Gso::Udp => (Upper::Udp, UDP),
        _ => return Err(Unsegmentable::Mismatch),
    };
    if headers.protocol != protocol || headers.fragment || vnet.gso_size == 0 {
        return Err(Unsegmentable::Mismatch);
    }
    let at = |i: usize| {
        packet
            .get(headers.upper + i)
            .copied()
            .ok_or(Unsegmentable::Malformed)
    };
    let (upper_len, field) = match kind {
        Upper::Tcp => (usize::from(at(12)? >> 4) * 4, 16),
        Upper::Udp => (8, 6),
    };
    let all = headers.upper + upper_len;
    if upper_len < field + 2 || all > packet.len() {
        return Err(Unsegmentable::Malformed);
    }
    // More than 16 bits of length are not written by any segment, since each is at most the packet itself.
    if packet.len() > usize::from(u16::MAX) + if headers.ipv4 { 0 } else { 40 } {
        return Err(Unsegmentable::Mismatch);
    }
    let stored = u16::from_ne_bytes([at(field)?, at(field + 1)?]);
    let check = match vnet.checksum {
        // The field holds the pseudo-header's sum with the whole length: take that out again.
        Some((start, offset)) => {
            if usize::from(start) != headers.upper || usize::from(offset) != field {
                return Err(Unsegmentable::Mismatch);
            }
            let whole = checksum::fold(checksum::length(packet.len() - headers.upper));
            Check::Over(u64::from(stored) + u64::from(!whole))
        }
        None if kind == Upper::Udp && stored == 0 => Check::Absent,
        None => Check::Over(checksum::pseudo(&packet[headers.addresses()], protocol, 0)),
    };
    Ok(Cut {
        ipv4: headers.ipv4,
        upper: headers.upper,
        kind,
        headers: all,
        size: usize::from(vnet.gso_size),
        check,
    })
}
