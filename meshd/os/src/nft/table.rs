//! What a table of ours holds, as values.
use crate::netlink::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// A table, with at most one chain a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name among the tables of family `inet`.
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// The rules that packets meet at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where.
    pub hook: Hook,
    /// Whether a packet that no rule decides about is dropped.
    pub drops: bool,
    /// The first that matches decides.
    pub rules: Vec<Rule>,
}

/// A place on the way of packets, and a rank among those who look at them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Forwarded packets, once it is known by which link they leave.
    Forward,
    /// The first packet of a connection, local or forwarded, when its source may still be translated.
    SourceNat,
    /// Every packet that leaves, local or forwarded, behind all others' filters and NAT.
    End,
}

impl Hook {
    pub(super) const ALL: [Self; 3] = [Self::Forward, Self::SourceNat, Self::End];

    /// The name of the chain there.
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::SourceNat => "nat",
            Self::End => "post",
        }
    }
}

/// All matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, unless another chain drops it.
    Accept,
    /// It is dropped.
    Drop,
    /// From here on its connection has the address of the link it leaves by ([`Hook::SourceNat`] alone).
    Masquerade,
}

/// Something that holds for a packet or doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It leaves through the link of that name.
    OutLink(String),
    /// It came in by the link of that name ([`Hook::Forward`] alone: elsewhere older kernels don't know).
    InLink(String),
    /// Its connection is in one of these states; of several `|` of [`state`].
    State(u32),
    /// What was done to its connection, of [`status`]: `mask` says which of it counts.
    Status {
        /// The bits that count.
        mask: u32,
        /// What they are.
        is: u32,
    },
    /// Its mark, all 32 bits of it.
    Mark(u32),
    /// Its IP version.
    Family(Family),
    /// Protocol number of IP (IPPROTO_…), behind IPv6's extension headers.
    IpProtocol(u8),
    /// Source port of TCP or UDP; put an [`Match::IpProtocol`] before it.
    SourcePort(u16),
    /// Destination port of TCP or UDP; put an [`Match::IpProtocol`] before it.
    Port(u16),
    /// It isn't the first of a TCP connection (SYN without ACK); put an [`Match::IpProtocol`] before it.
    NotFirstOfTcp,
    /// An ICMPv6 message of one of these types, sent with this hop limit.
    Icmpv6 {
        /// Types, both ends included.
        types: RangeInclusive<u8>,
        /// The hop limit.
        hop_limit: u8,
    },
    /// The process that made its socket had one of these user ids; never true of what no socket sent.
    Users(RangeInclusive<u32>),
    /// Its destination is in one of these networks (address, prefix length in bits) of that family; others are ignored.
    Destination(Family, Vec<(IpAddr, u8)>),
    /// The same of its source.
    Source(Family, Vec<(IpAddr, u8)>),
    /// It is of that family, and its source is in none of these networks.
    OtherSource(Family, Vec<(IpAddr, u8)>),
}

/// States of a connection (include/uapi/linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT). What is in none of them
/// belongs to no connection.
pub mod state {
    /// Both sides have sent.
    pub const ESTABLISHED: u32 = 2;
    /// It belongs to another one: an ICMP error, say.
    pub const RELATED: u32 = 4;
    /// No answer has been seen yet.
    pub const NEW: u32 = 8;
}

/// What was done to a connection (IPS_… of the same file).
pub mod status {
    /// Its source is translated.
    pub const SOURCE_NAT: u32 = 1 << 4;
    /// Its destination is translated.
    pub const DESTINATION_NAT: u32 = 1 << 5;
    /// It is decided whether its source is translated.
    pub const SOURCE_NAT_DONE: u32 = 1 << 7;
}

impl Match {
    /// The networks it looks for.
    pub(super) fn networks(&self) -> Option<(Family, &[(IpAddr, u8)])> {
        match self {
            Self::Destination(family, networks)
            | Self::Source(family, networks)
            | Self::OtherSource(family, networks) => Some((*family, networks)),
            _ => None,
        }
    }
}

impl Rule {
    /// A rule that accepts.
    pub fn accept(matches: Vec<Match>) -> Self {
        Self {
            matches,
            verdict: Verdict::Accept,
        }
    }

    /// A rule that masquerades.
    pub fn masquerade(matches: Vec<Match>) -> Self {
        Self {
            matches,
            verdict: Verdict::Masquerade,
        }
    }

    /// A rule that drops.
    pub fn drop(matches: Vec<Match>) -> Self {
        Self {
            matches,
            verdict: Verdict::Drop,
        }
    }
}

/// The addresses of the networks of a family as ranges that neither overlap nor touch, in order; both ends are included.
/// IPv4 addresses are numbers below 2³².
pub(super) fn ranges(family: Family, networks: &[(IpAddr, u8)]) -> Vec<(u128, u128)> {
    let mut ranges: Vec<(u128, u128)> = networks
        .iter()
        .filter(|(ip, _)| Family::of(*ip) == family)
        .map(|&(ip, prefix)| {
            let (number, bits) = match ip {
                IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
                IpAddr::V6(ip) => (u128::from(ip), 128),
            };
            let host = host_mask(bits, prefix);
            (number & !host, number | host)
        })
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The bits of an address that a prefix leaves to hosts.
fn host_mask(bits: u8, prefix: u8) -> u128 {
    match bits.saturating_sub(prefix) {
        128.. => u128::MAX,
        host => (1 << host) - 1,
    }
}

/// An address of a family as the kernel wants it: in network byte order.
pub(super) fn octets(family: Family, number: u128) -> Vec<u8> {
    match family {
        // The high bits are zero, see `ranges`.
        Family::V4 => Ipv4Addr::from(number as u32).octets().to_vec(),
        Family::V6 => Ipv6Addr::from(number).octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> (IpAddr, u8) {
        let (ip, prefix) = text.split_once('/').unwrap();
        (ip.parse().unwrap(), prefix.parse().unwrap())
    }

    fn shown(family: Family, networks: &[&str]) -> Vec<String> {
        let networks: Vec<_> = networks.iter().map(|text| network(text)).collect();
        let ip = |number| match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from(number as u32)),
            Family::V6 => IpAddr::from(Ipv6Addr::from(number)),
        };
        ranges(family, &networks)
            .into_iter()
            .map(|(first, last)| format!("{}-{}", ip(first), ip(last)))
            .collect()
    }

    #[test]
    fn networks_become_ranges_apart() {
        assert_eq!(shown(Family::V4, &[]), [""; 0]);
        assert_eq!(
            shown(
                Family::V4,
                &[
                    "10.0.1.0/24",
                    "10.0.0.0/24",
                    "10.0.0.9/32",
                    "fd00::/8",
                    "192.168.0.0/16"
                ]
            ),
            ["10.0.0.0-10.0.1.255", "192.168.0.0-192.168.255.255"]
        );
        assert_eq!(
            shown(Family::V4, &["0.0.0.0/0", "255.255.255.255/32"]),
            ["0.0.0.0-255.255.255.255"]
        );
        assert_eq!(
            shown(Family::V6, &["::/0", "fd00::1/128"]),
            ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        );
        assert_eq!(
            shown(Family::V6, &["fd00::1/128", "fd00::3/128"]),
            ["fd00::1-fd00::1", "fd00::3-fd00::3"]
        );
    }
}
