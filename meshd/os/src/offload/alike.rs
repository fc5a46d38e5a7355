//! What of a packet must be the same after merging and cutting: all but two things that mean nothing. For the tests here and for `fuzz`,
//! which hold the same law to different packets.

use super::{Headers, TCP};
use crate::checksum;

const PSH: u8 = 0x08;

/// `packet` without what may change on its way: PSH, which merging may move ([`super::Coalescer`]), and the identification of a whole IPv4
/// packet under DF, which means nothing (RFC 6864, section 4.1). One that isn't intact may not change at all.
#[must_use]
pub fn comparable(packet: &[u8]) -> Vec<u8> {
    without_psh(without_id(packet.to_vec()))
}

fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    let whole_under_df = packet.len() >= 20 && packet[0] == 0x45 && packet[6..8] == [0x40, 0];
    if whole_under_df && checksum::verifies(&packet[..20], 0) {
        packet[4..6].fill(0);
        checksum::fill_ipv4(&mut packet[..20]);
    }
    packet
}

fn without_psh(mut packet: Vec<u8>) -> Vec<u8> {
    let Some(headers) = Headers::read(&packet).filter(|h| h.protocol == TCP && !h.fragment) else {
        return packet;
    };
    let addresses = packet[headers.addresses()].to_vec();
    let upper = &mut packet[headers.upper..];
    let pseudo = checksum::pseudo(&addresses, TCP, upper.len());
    if upper.len() >= 20 && upper[13] & PSH != 0 && checksum::verifies(upper, pseudo) {
        upper[13] &= !PSH;
        upper[16..18].fill(0);
        let sum = checksum::finish(pseudo + checksum::sum(upper));
        upper[16..18].copy_from_slice(&sum);
    }
    packet
}
