//! A hub passing packets of one peer on to another, without the kernel.
//!
//! Strategy: what was opened and is for another peer loses one hop and goes into an outbox of the receiving thread, in order.
//! What it does not do: pass on what is for this host itself, for several hosts, or for one link only; cut packets.

use std::net::IpAddr;

use meshd_os::checksum;
use meshd_proto::{packet, Table};

use super::ecn;
use super::icmp::{self, Pace, Trouble};
use super::outbox::Posting;
use super::too_big;

/// What became of a packet that a hub opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is this host's: write it to the TUN.
    Ours,
    /// It was passed on, or had no hop left.
    Taken,
}

/// Passes `packet` on if it is for a peer and not for one of `addresses`.
pub(super) fn pass_on<'t>(
    packet: &mut [u8],
    table: &'t Table,
    addresses: &[IpAddr],
    pace: &mut Pace,
    posting: &mut Posting<'t, '_>,
) -> Fate {
    let Some(destination) = packet::destination(packet) else {
        return Fate::Ours;
    };
    if addresses.contains(&destination) || !forwardable(destination) {
        return Fate::Ours;
    }
    let Some(route) = table.route(destination) else {
        return Fate::Ours;
    };
    if !spend_hop(packet) {
        tell(
            Trouble::HopsExceeded,
            packet,
            table,
            addresses,
            pace,
            posting,
        );
        return Fate::Taken;
    }
    let limit = too_big::limit(posting, route, packet.len());
    if packet.len() > limit {
        let ecn = ecn::outer(packet);
        if let Some(trouble) = too_big::pass_on(packet, limit, route, ecn, posting) {
            tell(trouble, packet, table, addresses, pace, posting);
        }
        return Fate::Taken;
    }
    if let Some(slot) = posting.slot(route, packet.len(), ecn::outer(packet)) {
        slot.copy_from_slice(packet);
    }
    Fate::Taken
}

/// Tells the sender, whose way is its source address: that it may use it was checked when it was opened. Bounded for each peer, and
/// for all of them.
fn tell<'t>(
    trouble: Trouble,
    packet: &[u8],
    table: &'t Table,
    addresses: &[IpAddr],
    pace: &mut Pace,
    posting: &mut Posting<'t, '_>,
) {
    let Some(back) = packet::header(packet).and_then(|header| table.route(header.source)) else {
        return;
    };
    if !(back.peer.may_be_told(posting.now) && pace.allows(posting.now)) {
        return;
    }
    let ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let Some(from) = addresses.iter().copied().find(|ip| ip.is_ipv4() == ipv4) else {
        return;
    };
    let mut buf = [0; icmp::MAX_LEN];
    let Some(len) = icmp::error(trouble, packet, Some(from), &mut buf) else {
        return;
    };
    if let Some(slot) = posting.slot(back, len, 0) {
        slot.copy_from_slice(&buf[..len]);
    }
}

/// Takes one hop off TTL or hop limit; false, and nothing changed, when the packet ends here.
pub(super) fn spend_hop(packet: &mut [u8]) -> bool {
    match packet {
        [first, _, _, _, _, _, _, _, ttl, protocol, check @ ..]
            if *first >> 4 == 4 && *ttl > 1 && check.len() >= 2 =>
        {
            let old = [*ttl, *protocol];
            *ttl -= 1;
            let new = checksum::update([check[0], check[1]], old, [*ttl, *protocol]);
            check[..2].copy_from_slice(&new);
            true
        }
        [first, _, _, _, _, _, _, hops, ..] if *first >> 4 == 6 && *hops > 1 => {
            *hops -= 1;
            true
        }
        _ => false,
    }
}

/// Whether a router may pass on what is for `destination`: not multicast, broadcast, loopback or link-local.
fn forwardable(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(ip) => {
            !ip.is_multicast()
                && !ip.is_broadcast()
                && !ip.is_loopback()
                && !ip.is_link_local()
                && !ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            !ip.is_multicast()
                && !ip.is_loopback()
                && !ip.is_unicast_link_local()
                && !ip.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_spent_and_the_checksum_follows() {
        let mut v4 = vec![
            0x45, 0, 0, 20, 1, 2, 0, 0, 2, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        checksum::fill_ipv4(&mut v4);
        assert!(spend_hop(&mut v4));
        assert_eq!(v4[8], 1);
        assert!(checksum::verifies(&v4, 0));
        let before = v4.clone();
        assert!(!spend_hop(&mut v4));
        assert_eq!(v4, before);
        let mut v6 = vec![0x60; 40];
        v6[7] = 2;
        assert!(spend_hop(&mut v6));
        assert!(!spend_hop(&mut v6));
        assert!(!spend_hop(&mut []));
        assert!(!spend_hop(&mut [0x45, 0, 0, 0, 0, 0, 0, 0, 9]));
    }

    #[test]
    fn some_destinations_stay() {
        for (ip, passes) in [
            ("10.0.0.1", true),
            ("8.8.8.8", true),
            ("224.0.0.251", false),
            ("255.255.255.255", false),
            ("169.254.1.1", false),
            ("127.0.0.1", false),
            ("fd00::1", true),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(forwardable(ip.parse().unwrap()), passes, "{ip}");
        }
    }
}
