//! Policy rules: which packets look into which routing table, in the order of their priorities.
//!
//! A rule is known to the kernel by everything it says, not by a number: deleting takes the same value as adding. The rules
//! of the two families are two lists. Source: fib_rules(7) of iproute2 (`ip rule`), include/uapi/linux/fib_rules.h.
use super::wire::{u32_at, Attrs, Message, Request};
use super::Netlink;
use crate::error::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Bytes of fib_rule_hdr.
const HEADER: usize = 12;

/// Actions (FR_ACT_…).
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;
const NOP: u8 = 3;
const UNREACHABLE: u8 = 7;

/// Attributes (FRA_…).
const DST: u16 = 1;
const SRC: u16 = 2;
const IIFNAME: u16 = 3;
const GOTO_TARGET: u16 = 4;
const PRIORITY: u16 = 6;
const FWMARK: u16 = 10;
const SUPPRESS_PREFIXLEN: u16 = 14;
const TABLE: u16 = 15;
const FWMASK: u16 = 16;
const OIFNAME: u16 = 17;
const UID_RANGE: u16 = 20;
const PROTOCOL: u16 = 21;
const IP_PROTO: u16 = 22;
const SPORT_RANGE: u16 = 23;
const DPORT_RANGE: u16 = 24;
const SPORT_MASK: u16 = 28;
const DPORT_MASK: u16 = 29;
/// A tunnel's id, a group of links whose answers don't count, a VRF, DSCP, an IPv6 flow.
const MORE: [u16; 5] = [12, 13, 19, 25, 26];

/// It matches what it doesn't say (FIB_RULE_INVERT).
const INVERT: u32 = 2;

/// The table of the host's own addresses, which the kernel's first rule looks into.
pub const TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

/// Which of the two lists a rule belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Looks into this table; goes on when it has no answer.
    Table(u32),
    /// Goes on at the rules of this priority (which must be a later one).
    Goto(u32),
    /// Nothing: a place to go to.
    Nop,
    /// Refuses it with ICMP unreachable.
    Unreachable,
    /// Anything else the kernel lists, by its FR_ACT_ number.
    Other(u8),
}

impl RuleAction {
    fn number(self) -> u8 {
        match self {
            Self::Table(_) => TO_TABLE,
            Self::Goto(_) => GOTO,
            Self::Nop => NOP,
            Self::Unreachable => UNREACHABLE,
            Self::Other(n) => n,
        }
    }
}

/// A policy rule. Everything that is `None` matches any packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its list.
    pub family: Family,
    /// Lower is asked first.
    pub priority: u32,
    /// Destination network and its prefix length in bits.
    pub to: Option<(IpAddr, u8)>,
    /// Source network and its prefix length in bits.
    pub from: Option<(IpAddr, u8)>,
    /// The link it came in by; `lo` means made on this host.
    pub iif: Option<String>,
    /// The link a socket is bound to.
    pub oif: Option<String>,
    /// The packet's mark.
    pub mark: Option<u32>,
    /// Which bits of it count.
    pub mark_mask: u32,
    /// Protocol number of IP (IPPROTO_…); ports need one.
    pub ip_protocol: Option<u8>,
    /// Source port.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Destination port.
    pub ports: Option<RangeInclusive<u16>>,
    /// User ids that the socket was made with; packets that no socket sent count as 0.
    pub uids: Option<RangeInclusive<u32>>,
    /// Of the table's answers those with a prefix of at most this many bits don't count.
    pub suppress_prefix_len: Option<u32>,
    /// It says more about the packets that it matches, so that it isn't what it looks like: `not`, TOS, a VRF.
    pub more: bool,
    /// What to do.
    pub action: RuleAction,
    /// Who made it (RTPROT_…).
    pub protocol: u8,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(family: Family, priority: u32, action: RuleAction) -> Self {
        Self {
            family,
            priority,
            to: None,
            from: None,
            iif: None,
            oif: None,
            mark: None,
            mark_mask: u32::MAX,
            ip_protocol: None,
            source_ports: None,
            ports: None,
            uids: None,
            suppress_prefix_len: None,
            more: false,
            action,
            protocol: super::PROTO_BOOT,
        }
    }
}

impl Netlink {
    /// The rules of a list, in the order the kernel asks them; none when it lacks the family.
    pub fn rules(&self, family: Family) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        let mut body = [0; HEADER];
        body[0] = family.number();
        let request = Request::new(libc::RTM_GETRULE, libc::NLM_F_DUMP, &body);
        let told = self.dump(request, "list rules", &mut |m| match m {
            None => rules.clear(),
            Some(m) => rules.extend(parse(m)),
        });
        match told {
            // ipv6.disable=1: net/core/fib_rules.c knows no such list.
            Err(e) if matches!(e.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            Err(e) => Err(e),
            Ok(()) => {
                // Without that family the kernel answers with those of all others.
                rules.retain(|rule| rule.family == family);
                Ok(rules)
            }
        }
    }

    /// Adds a rule. `AlreadyExists` when the same is there; EAFNOSUPPORT when the kernel lacks the family.
    pub fn add_rule(&self, rule: &Rule) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let what = format!("add rule {}", rule.priority);
        self.change(request(libc::RTM_NEWRULE, flags, rule), &what)
    }

    /// Takes a rule away. ENOENT when it isn't there.
    pub fn delete_rule(&self, rule: &Rule) -> Result<()> {
        let what = format!("delete rule {}", rule.priority);
        self.change(request(libc::RTM_DELRULE, 0, rule), &what)
    }
}

pub(super) fn request(kind: u16, flags: i32, rule: &Rule) -> Request {
    let mut body = [0; HEADER];
    body[0] = rule.family.number();
    body[1] = rule.to.map_or(0, |(_, bits)| bits);
    body[2] = rule.from.map_or(0, |(_, bits)| bits);
    body[7] = rule.action.number();
    let mut request = Request::new(kind, flags, &body)
        .u32(PRIORITY, rule.priority)
        .attr(PROTOCOL, &[rule.protocol]);
    if let Some((to, _)) = rule.to {
        request = request.ip(DST, to);
    }
    if let Some((from, _)) = rule.from {
        request = request.ip(SRC, from);
    }
    if let Some(iif) = &rule.iif {
        request = request.name(IIFNAME, iif);
    }
    if let Some(oif) = &rule.oif {
        request = request.name(OIFNAME, oif);
    }
    if let Some(mark) = rule.mark {
        request = request.u32(FWMARK, mark).u32(FWMASK, rule.mark_mask);
    }
    if let Some(protocol) = rule.ip_protocol {
        request = request.attr(IP_PROTO, &[protocol]);
    }
    if let Some(ports) = &rule.source_ports {
        request = request.attr(SPORT_RANGE, &port_range(ports));
    }
    if let Some(ports) = &rule.ports {
        request = request.attr(DPORT_RANGE, &port_range(ports));
    }
    if let Some(uids) = &rule.uids {
        // fib_rule_uid_range: two numbers in host byte order.
        let both = [*uids.start(), *uids.end()].map(u32::to_ne_bytes);
        request = request.attr(UID_RANGE, both.as_flattened());
    }
    if let Some(len) = rule.suppress_prefix_len {
        request = request.u32(SUPPRESS_PREFIXLEN, len);
    }
    match rule.action {
        RuleAction::Table(table) => request.u32(TABLE, table),
        RuleAction::Goto(target) => request.u32(GOTO_TARGET, target),
        RuleAction::Nop | RuleAction::Unreachable | RuleAction::Other(_) => request,
    }
}

/// fib_rule_port_range: two numbers in host byte order.
fn port_range(ports: &RangeInclusive<u16>) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&ports.start().to_ne_bytes());
    bytes[2..].copy_from_slice(&ports.end().to_ne_bytes());
    bytes
}

pub(super) fn parse(message: Message<'_>) -> Option<Rule> {
    if message.kind != libc::RTM_NEWRULE {
        return None;
    }
    let (fixed, attrs) = message.split(HEADER)?;
    let family = match i32::from(fixed[0]) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let network = |kind, bits: u8| {
        (bits != 0).then(|| (attrs.ip(kind).unwrap_or(family.unspecified()), bits))
    };
    Some(Rule {
        family,
        priority: attrs.u32(PRIORITY).unwrap_or(0),
        to: network(DST, fixed[1]),
        from: network(SRC, fixed[2]),
        iif: attrs.name(IIFNAME).map(str::to_owned),
        oif: attrs.name(OIFNAME).map(str::to_owned),
        mark: attrs.u32(FWMASK).map(|_| attrs.u32(FWMARK).unwrap_or(0)),
        mark_mask: attrs.u32(FWMASK).unwrap_or(u32::MAX),
        ip_protocol: byte(attrs, IP_PROTO),
        source_ports: ports(attrs, SPORT_RANGE),
        ports: ports(attrs, DPORT_RANGE),
        uids: attrs
            .get(UID_RANGE)
            .and_then(|both| Some(u32_at(both, 0)?..=u32_at(both, 4)?)),
        // The kernel writes -1 for none.
        suppress_prefix_len: attrs.u32(SUPPRESS_PREFIXLEN).filter(|&len| len != u32::MAX),
        more: says_more(fixed, attrs),
        action: match fixed[7] {
            TO_TABLE => RuleAction::Table(attrs.u32(TABLE).unwrap_or(u32::from(fixed[4]))),
            GOTO => RuleAction::Goto(attrs.u32(GOTO_TARGET)?),
            NOP => RuleAction::Nop,
            UNREACHABLE => RuleAction::Unreachable,
            other => RuleAction::Other(other),
        },
        protocol: byte(attrs, PROTOCOL).unwrap_or(0),
    })
}

/// Whether a rule says which packets it matches by something that has no place in a [`Rule`].
fn says_more(fixed: &[u8], attrs: Attrs<'_>) -> bool {
    let part = |mask: &[u8]| mask.iter().any(|byte| *byte != 0xff);
    let (tos, inverted) = (fixed[3] != 0, u32_at(fixed, 8).unwrap_or(0) & INVERT != 0);
    let more = |(kind, value)| match kind {
        SPORT_MASK | DPORT_MASK => part(value),
        _ => MORE.contains(&kind),
    };
    tos || inverted || attrs.iter().any(more)
}

fn byte(attrs: Attrs<'_>, kind: u16) -> Option<u8> {
    attrs.get(kind)?.first().copied()
}

fn ports(attrs: Attrs<'_>, kind: u16) -> Option<RangeInclusive<u16>> {
    let both = u32_at(attrs.get(kind)?, 0)?.to_ne_bytes();
    let [a, b, c, d] = both;
    Some(u16::from_ne_bytes([a, b])..=u16::from_ne_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_says_more_is_not_taken_for_one_that_says_less() {
        crate::netlink::alone(|netlink| {
            let before = netlink.rules(Family::V4).unwrap();
            let ours = Rule {
                mark: Some(7),
                ..Rule::new(Family::V4, 5250, RuleAction::Unreachable)
            };
            let (inverted, tos) = ([0, 0, 0, 0, 0, 0, 0, 7, 2, 0, 0, 0], 16);
            let add = |mut body: [u8; HEADER], mask: u32| {
                body[0] = libc::AF_INET as u8;
                let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
                let request = Request::new(libc::RTM_NEWRULE, flags, &body)
                    .u32(PRIORITY, 5250)
                    .attr(PROTOCOL, &[ours.protocol])
                    .u32(FWMARK, 7)
                    .u32(FWMASK, mask);
                netlink.change(request, "add a rule").unwrap();
            };
            let told = || {
                let mut rules = netlink.rules(Family::V4).unwrap();
                rules.retain(|rule| !before.contains(rule));
                rules
            };
            for (body, mask) in [
                (inverted, u32::MAX),
                ([0, 0, 0, tos, 0, 0, 0, 7, 0, 0, 0, 0], u32::MAX),
                ([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0], 0xff),
            ] {
                add(body, mask);
                let [other] = told().try_into().unwrap();
                assert_ne!(other, ours);
                // It can be taken away, and must be: the kernel may take ours for the same.
                netlink.delete_rule(&other).unwrap();
                netlink.add_rule(&ours).unwrap();
                assert_eq!(told(), std::slice::from_ref(&ours));
                netlink.delete_rule(&ours).unwrap();
            }
        });
    }
}
