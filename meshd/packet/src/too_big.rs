//! Packets that are longer than the path to their peer takes (see `control/path_mtu.rs` for how that is known).
//!
//! Strategy: TCP is cut into shorter segments and nobody notices, so that it goes on where a firewall inside hears no ICMP, whenever
//! the connection began; whoever sent segments of that length is told all the same, since longer and shorter ones by turns
//! are a waste. An IPv4 packet that may be fragmented is; whoever sent anything else is told how long it may be (RFC 1191,
//! RFC 8201), and sends again. A packet below [`PATH_FLOOR`] costs one comparison, a larger one two loads.

use meshd_os::checksum;
use meshd_os::offload::{Segments, VnetHeader};
use meshd_proto::{Route, PATH_FLOOR};

use super::icmp::{self, Trouble};
use super::outbox::Posting;

const HEADER: usize = 20;

/// How long a packet to this peer may be, given that one of `len` bytes is at hand; asks for a look at the path now and then.
#[inline]
pub(super) fn limit(posting: &Posting<'_, '_>, route: &Route, len: usize) -> usize {
    if len < usize::from(PATH_FLOOR) {
        return usize::MAX;
    }
    posting.shared.wake(route.peer.big(posting.now));
    usize::from(route.peer.path_limit())
}

/// Makes what is to be sent fit: true when it does now. Fragments have been posted otherwise, if that is allowed.
pub(super) enum Fit {
    /// It fits.
    Fits,
    /// It fits, cut into more packets than its sender made: to be told.
    Cut,
    /// It went off in fragments.
    Fragmented,
    /// It can't be sent; its sender is to be told.
    TooBig,
}

/// Makes the segments of a packet from the TUN fit `limit`.
pub(super) fn fit<'t>(
    posting: &mut Posting<'t, '_>,
    route: &'t Route,
    segments: &mut Segments<'_>,
    limit: usize,
    ecn: u8,
) -> Fit {
    let was = segments.count();
    if segments.shorten(limit) {
        return if was == 1 { Fit::Cut } else { Fit::Fits };
    }
    for i in 0..segments.count() {
        // Off the path of data: memory for one packet.
        let mut whole = vec![0; segments.len(i)];
        segments.write(i, &mut whole);
        if !fragment(&whole, limit, |piece| post(posting, route, piece, ecn)) {
            return Fit::TooBig;
        }
    }
    Fit::Fragmented
}

/// What a hub passes on and doesn't fit: cut or fragmented, if that is allowed. What its sender is to be told.
pub(super) fn pass_on<'t>(
    packet: &[u8],
    limit: usize,
    route: &'t Route,
    ecn: u8,
    posting: &mut Posting<'t, '_>,
) -> Option<Trouble> {
    let cut = Segments::new(&VnetHeader::PLAIN, packet).ok();
    let cut = cut.and_then(|mut segments| segments.shorten(limit).then_some(segments));
    if let Some(segments) = cut {
        for i in 0..segments.count() {
            if let Some(slot) = posting.slot(route, segments.len(i), ecn) {
                segments.write(i, slot);
            }
        }
    } else if fragment(packet, limit, |piece| post(posting, route, piece, ecn)) {
        return None;
    }
    Some(trouble(limit))
}

fn post<'t>(posting: &mut Posting<'t, '_>, route: &'t Route, piece: &[u8], ecn: u8) {
    if let Some(slot) = posting.slot(route, piece.len(), ecn) {
        slot.copy_from_slice(piece);
    }
}

/// What the sender is to be told.
fn trouble(limit: usize) -> Trouble {
    Trouble::TooBig(u16::try_from(limit).unwrap_or(u16::MAX))
}

/// Cuts an IPv4 packet into fragments of at most `limit` bytes (RFC 791 section 3.2). False, and nothing is given out, when it
/// must not be cut, can't be part of a datagram, or has options, whose copying is not worth the code.
pub(super) fn fragment(packet: &[u8], limit: usize, mut give: impl FnMut(&[u8])) -> bool {
    const DONT: u16 = 0x4000;
    const MORE: u16 = 0x2000;
    let Some((header, payload)) = packet.split_first_chunk::<HEADER>() else {
        return false;
    };
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let (offset, last_more) = (flags & 0x1fff, flags & MORE);
    // A datagram ends at 65535 bytes: what would lie behind that would be told as lying at its beginning.
    let ends = HEADER + usize::from(offset) * 8 + payload.len();
    let may = flags & DONT == 0 && ends <= usize::from(u16::MAX);
    if header[0] != 0x45 || !may || limit < HEADER + 8 {
        return false;
    }
    let share = (limit - HEADER) / 8 * 8;
    let mut piece = vec![0; HEADER + share];
    let count = payload.len().div_ceil(share);
    for (i, part) in payload.chunks(share).enumerate() {
        let len = HEADER + part.len();
        let piece = &mut piece[..len];
        piece[..HEADER].copy_from_slice(header);
        piece[HEADER..].copy_from_slice(part);
        let more = if i + 1 < count { MORE } else { last_more };
        let flags = (offset + (i * share / 8) as u16) & 0x1fff | more;
        piece[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        piece[6..8].copy_from_slice(&flags.to_be_bytes());
        checksum::fill_ipv4(&mut piece[..HEADER]);
        give(piece);
    }
    true
}

/// The error for the TUN about a packet that came from it; its length, `None` when there must be none.
pub(super) fn error(packet: &[u8], limit: usize, out: &mut [u8; icmp::MAX_LEN]) -> Option<usize> {
    icmp::error(trouble(limit), packet, None, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u16, payload: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend((0..payload).map(|i| i as u8));
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn fragments(packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        fragment(packet, limit, |piece| pieces.push(piece.to_vec())).then_some(pieces)
    }

    #[test]
    fn fragments_put_together_are_the_packet() {
        for (payload, limit) in [(1400, 1280), (1261, 1280), (4000, 1296), (17, 28)] {
            // Alone, and as a fragment itself that more follow.
            for flags in [0, 0x2000 | 100] {
                let whole = packet(flags, payload);
                let pieces = fragments(&whole, limit).unwrap();
                let mut payload: Vec<u8> = Vec::new();
                for (i, piece) in pieces.iter().enumerate() {
                    assert!(piece.len() <= limit);
                    assert!(checksum::verifies(&piece[..HEADER], 0));
                    assert_eq!(
                        usize::from(piece[2]) << 8 | usize::from(piece[3]),
                        piece.len()
                    );
                    let field = u16::from_be_bytes([piece[6], piece[7]]);
                    let more = i + 1 < pieces.len() || flags != 0;
                    assert_eq!(field & 0x2000 != 0, more);
                    let at = usize::from(field & 0x1fff) - usize::from(flags & 0x1fff);
                    assert_eq!(at * 8, payload.len());
                    payload.extend(&piece[HEADER..]);
                }
                assert_eq!(payload, whole[HEADER..]);
            }
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert_eq!(fragments(&packet(0x4000, 1400), 1280), None);
        let mut options = packet(0, 1400);
        options[0] = 0x46;
        assert_eq!(fragments(&options, 1280), None);
        let mut v6 = packet(0, 1400);
        v6[0] = 0x60;
        assert_eq!(fragments(&v6, 1280), None);
        assert_eq!(fragments(&[], 1280), None);
        // A fragment of more than a datagram can hold: its later pieces would have offsets from the beginning again.
        assert_eq!(fragments(&packet(8190, 1400), 1280), None);
        assert!(fragments(&packet(8000, 1400), 1280).is_some());
    }
}
