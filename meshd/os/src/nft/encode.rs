//! A table as the requests of one transaction.
//!
//! Networks go into anonymous interval sets, which are looked up in logarithmic time, belong to their rule and go with it.
//! All numbers of nf_tables are in network byte order; packet data is compared as it is on the wire, and what the kernel
//! loads from its own structures (`meta`) in host byte order.
//! Source: include/uapi/linux/netfilter/nf_tables.h; what `nft --debug=netlink` prints for the same rules.
use super::message;
use super::table::{octets, ranges, Chain, Hook, Match, Rule, Table, Verdict};
use crate::netlink::wire::Request;
use crate::netlink::Family;
use std::net::IpAddr;

/// Elements a message carries: an attribute ends at 64 KiB.
const ELEMENTS: usize = 500;

/// Attributes (NFTA_…), by what they belong to.
mod attr {
    pub const LIST_ELEM: u16 = 1;
    pub const EXPR_NAME: u16 = 1;
    pub const EXPR_DATA: u16 = 2;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const TABLE_NAME: u16 = 1;
    pub const TABLE_FLAGS: u16 = 2;
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_POLICY: u16 = 5;
    pub const CHAIN_TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    pub const RULE_TABLE: u16 = 1;
    pub const RULE_CHAIN: u16 = 2;
    pub const RULE_EXPRESSIONS: u16 = 4;
    pub const SET_TABLE: u16 = 1;
    pub const SET_NAME: u16 = 2;
    pub const SET_FLAGS: u16 = 3;
    pub const SET_KEY_TYPE: u16 = 4;
    pub const SET_KEY_LEN: u16 = 5;
    pub const SET_ID: u16 = 10;
    pub const ELEM_LIST_TABLE: u16 = 1;
    pub const ELEM_LIST_SET: u16 = 2;
    pub const ELEM_LIST_ELEMENTS: u16 = 3;
    pub const ELEM_LIST_SET_ID: u16 = 4;
    pub const ELEM_KEY: u16 = 1;
    pub const ELEM_FLAGS: u16 = 3;
}

/// Register 1, and the one that holds the verdict.
const REG: u32 = 1;
const REG_VERDICT: u32 = 0;
/// Operators of `cmp` (NFT_CMP_…).
const EQ: u32 = 0;
const NEQ: u32 = 1;
const LTE: u32 = 3;
const GTE: u32 = 5;
/// Where `payload` starts to count (NFT_PAYLOAD_…_HEADER).
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// NF_INET_FORWARD, NF_INET_POST_ROUTING.
const FORWARD: u32 = 2;
const POST_ROUTING: u32 = 4;
/// Verdicts of netfilter.h, which are policies too.
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_INTERVAL; the mark of an element that ends an interval; the name that has
/// the kernel choose one.
const SET_FLAGS: u32 = 1 | 2 | 4;
const INTERVAL_END: u32 = 1;
const SET_NAME: &str = "__set%d";
/// Data types as `nft` numbers them, so that it can list our sets (datatype.h: TYPE_IPADDR, TYPE_IP6ADDR).
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
/// Bytes of a link's name, padded with zeroes.
const IFNAMSIZ: usize = 16;

fn be32(request: Request, kind: u16, value: u32) -> Request {
    request.attr(kind, &value.to_be_bytes())
}

/// Makes or replaces `table`. A chain that is there keeps its place, so that not one packet meets none.
pub(super) fn load(table: &Table, flags: u32) -> Vec<Request> {
    let name = table.name.as_str();
    let create = libc::NLM_F_CREATE;
    let new_table = message(libc::NFT_MSG_NEWTABLE, create).name(attr::TABLE_NAME, name);
    let mut requests = vec![be32(new_table, attr::TABLE_FLAGS, flags)];
    let mut sets = 0;
    for Chain { hook, drops, rules } in &table.chains {
        let (kind, number, priority) = place(*hook);
        let new_chain = message(libc::NFT_MSG_NEWCHAIN, create)
            .name(attr::CHAIN_TABLE, name)
            .name(attr::CHAIN_NAME, hook.chain())
            .nest(attr::CHAIN_HOOK, |request| {
                let request = be32(request, attr::HOOK_NUMBER, number);
                be32(request, attr::HOOK_PRIORITY, priority as u32)
            })
            .name(attr::CHAIN_TYPE, kind);
        let policy = if *drops { NF_DROP } else { NF_ACCEPT };
        let no_rules = message(libc::NFT_MSG_DELRULE, 0)
            .name(attr::RULE_TABLE, name)
            .name(attr::RULE_CHAIN, hook.chain());
        requests.push(be32(new_chain, attr::CHAIN_POLICY, policy));
        requests.push(no_rules);
        for rule in rules {
            add_rule(&mut requests, &mut sets, (name, *hook), rule);
        }
    }
    requests
}

/// Chain type, hook and priority. Lower ones are asked first: `filter` has 0, `srcnat` 100; 300 is behind all others' filters
/// and NAT (NF_IP_PRI_LAST is later: conntrack's end).
fn place(hook: Hook) -> (&'static str, u32, i32) {
    match hook {
        Hook::Forward => ("filter", FORWARD, 10),
        Hook::SourceNat => ("nat", POST_ROUTING, 100),
        Hook::End => ("filter", POST_ROUTING, 300),
    }
}

/// Deletes the table `name` with everything in it.
pub(super) fn delete(name: &str) -> Request {
    message(libc::NFT_MSG_DELTABLE, 0).name(attr::TABLE_NAME, name)
}

fn add_rule(requests: &mut Vec<Request>, sets: &mut u32, (table, hook): (&str, Hook), rule: &Rule) {
    // The sets come before the rule that looks into them.
    let first = *sets + 1;
    for one in &rule.matches {
        if let Some((family, networks)) = one.networks() {
            *sets += 1;
            add_set(requests, *sets, table, family, networks);
        }
    }
    let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    let new_rule = message(libc::NFT_MSG_NEWRULE, flags)
        .name(attr::RULE_TABLE, table)
        .name(attr::RULE_CHAIN, hook.chain());
    requests.push(new_rule.nest(attr::RULE_EXPRESSIONS, |mut list| {
        let mut set = first;
        for one in &rule.matches {
            list = add_match(list, one, set);
            set += u32::from(one.networks().is_some());
        }
        verdict(list, rule.verdict)
    }));
}

fn add_set(
    requests: &mut Vec<Request>,
    id: u32,
    table: &str,
    family: Family,
    networks: &[(IpAddr, u8)],
) {
    let (key_type, key_len, top) = match family {
        Family::V4 => (TYPE_IPV4, 4, u128::from(u32::MAX)),
        Family::V6 => (TYPE_IPV6, 16, u128::MAX),
    };
    let set = message(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE)
        .name(attr::SET_TABLE, table)
        .name(attr::SET_NAME, SET_NAME);
    let set = be32(set, attr::SET_FLAGS, SET_FLAGS);
    let set = be32(set, attr::SET_KEY_TYPE, key_type);
    let set = be32(set, attr::SET_KEY_LEN, key_len);
    requests.push(be32(set, attr::SET_ID, id));

    let mut elements = Vec::new();
    for (first, last) in ranges(family, networks) {
        elements.push((first, 0));
        // An interval that reaches the top needs no end.
        if last < top {
            elements.push((last + 1, INTERVAL_END));
        }
    }
    for some in elements.chunks(ELEMENTS) {
        let list = message(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE)
            .name(attr::ELEM_LIST_TABLE, table)
            .name(attr::ELEM_LIST_SET, SET_NAME);
        let list = be32(list, attr::ELEM_LIST_SET_ID, id);
        requests.push(list.nest(attr::ELEM_LIST_ELEMENTS, |mut list| {
            for &(number, flags) in some {
                list = list.nest(attr::LIST_ELEM, |element| {
                    let key = octets(family, number);
                    let element =
                        element.nest(attr::ELEM_KEY, |data| data.attr(attr::DATA_VALUE, &key));
                    be32(element, attr::ELEM_FLAGS, flags)
                });
            }
            list
        }));
    }
}

/// The expressions of a match; `set` is the number of the set it looks into, if it does.
fn add_match(list: Request, one: &Match, set: u32) -> Request {
    match one {
        Match::OutLink(name) => cmp(meta(list, libc::NFT_META_OIFNAME), EQ, &padded(name)),
        Match::InLink(name) => cmp(meta(list, libc::NFT_META_IIFNAME), EQ, &padded(name)),
        Match::State(states) => {
            let list = ct(list, libc::NFT_CT_STATE);
            let list = masked(list, &states.to_ne_bytes());
            cmp(list, NEQ, &[0; 4])
        }
        Match::Status { mask, is } => {
            let list = ct(list, libc::NFT_CT_STATUS);
            cmp(masked(list, &mask.to_ne_bytes()), EQ, &is.to_ne_bytes())
        }
        Match::Mark(mark) => cmp(meta(list, libc::NFT_META_MARK), EQ, &mark.to_ne_bytes()),
        Match::Family(family) => in_family(list, *family),
        Match::IpProtocol(number) => cmp(meta(list, libc::NFT_META_L4PROTO), EQ, &[*number]),
        Match::SourcePort(port) => cmp(payload(list, TRANSPORT, 0, 2), EQ, &port.to_be_bytes()),
        Match::Port(port) => cmp(payload(list, TRANSPORT, 2, 2), EQ, &port.to_be_bytes()),
        Match::NotFirstOfTcp => {
            const SYN: u8 = 0x02;
            const ACK: u8 = 0x10;
            cmp(
                masked(payload(list, TRANSPORT, 13, 1), &[SYN | ACK]),
                NEQ,
                &[SYN],
            )
        }
        Match::Users(uids) => {
            // Numbers are compared as on the wire, the kernel's own are in host byte order.
            let list = network_order(meta(list, libc::NFT_META_SKUID));
            let list = cmp(list, GTE, &uids.start().to_be_bytes());
            cmp(list, LTE, &uids.end().to_be_bytes())
        }
        Match::Icmpv6 { types, hop_limit } => {
            let list = in_family(list, Family::V6);
            let icmpv6 = [libc::IPPROTO_ICMPV6 as u8];
            let list = cmp(meta(list, libc::NFT_META_L4PROTO), EQ, &icmpv6);
            let list = cmp(payload(list, NETWORK, 7, 1), EQ, &[*hop_limit]);
            let list = cmp(payload(list, TRANSPORT, 0, 1), GTE, &[*types.start()]);
            cmp(list, LTE, &[*types.end()])
        }
        Match::Destination(family, _) => {
            let offset = match family {
                Family::V4 => 16,
                Family::V6 => 24,
            };
            lookup(address(list, *family, offset), set, 0)
        }
        Match::Source(family, _) => lookup(source(list, *family), set, 0),
        Match::OtherSource(family, _) => lookup(source(list, *family), set, LOOKUP_INVERTED),
    }
}

/// NFT_LOOKUP_F_INV.
const LOOKUP_INVERTED: u32 = 1;

fn source(list: Request, family: Family) -> Request {
    let offset = match family {
        Family::V4 => 12,
        Family::V6 => 8,
    };
    address(list, family, offset)
}

/// Loads an address of the header of that family's packets.
fn address(list: Request, family: Family, offset: u32) -> Request {
    let len = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    payload(in_family(list, family), NETWORK, offset, len)
}

/// Goes on only if what is loaded is in that set: NFTA_LOOKUP_SET, _SREG, _SET_ID, _FLAGS.
fn lookup(list: Request, set: u32, flags: u32) -> Request {
    expression(list, "lookup", |data| {
        let data = be32(be32(data.name(1, SET_NAME), 2, REG), 4, set);
        be32(data, 5, flags)
    })
}

/// A link's name as it is compared.
fn padded(name: &str) -> [u8; IFNAMSIZ] {
    let mut padded = [0; IFNAMSIZ];
    let len = name.len().min(IFNAMSIZ - 1);
    padded[..len].copy_from_slice(&name.as_bytes()[..len]);
    padded
}

fn in_family(list: Request, family: Family) -> Request {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    cmp(meta(list, libc::NFT_META_NFPROTO), EQ, &[number as u8])
}

/// One expression: NFTA_LIST_ELEM of a name and its data.
fn expression(list: Request, name: &str, data: impl FnOnce(Request) -> Request) -> Request {
    list.nest(attr::LIST_ELEM, |element| {
        element
            .name(attr::EXPR_NAME, name)
            .nest(attr::EXPR_DATA, data)
    })
}

/// Loads something the kernel knows about the packet: NFTA_META_DREG, NFTA_META_KEY.
fn meta(list: Request, key: libc::c_int) -> Request {
    expression(list, "meta", |data| be32(be32(data, 1, REG), 2, key as u32))
}

/// Turns the four bytes loaded into network byte order: NFTA_BYTEORDER_SREG, _DREG, _OP (NFT_BYTEORDER_HTON), _LEN, _SIZE.
fn network_order(list: Request) -> Request {
    expression(list, "byteorder", |data| {
        be32(
            be32(be32(be32(be32(data, 1, REG), 2, REG), 3, 1), 4, 4),
            5,
            4,
        )
    })
}

/// Loads bytes of the packet: NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
fn payload(list: Request, base: u32, offset: u32, len: u32) -> Request {
    expression(list, "payload", |data| {
        be32(be32(be32(be32(data, 1, REG), 2, base), 3, offset), 4, len)
    })
}

/// Loads what is known of the packet's connection: NFTA_CT_DREG, NFTA_CT_KEY.
fn ct(list: Request, key: libc::c_int) -> Request {
    expression(list, "ct", |data| be32(be32(data, 1, REG), 2, key as u32))
}

/// Keeps these bits of the bytes loaded: NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR.
fn masked(list: Request, mask: &[u8]) -> Request {
    let len = mask.len();
    expression(list, "bitwise", |data| {
        be32(be32(be32(data, 1, REG), 2, REG), 3, len as u32)
            .nest(4, |data| data.attr(attr::DATA_VALUE, mask))
            .nest(5, |data| data.attr(attr::DATA_VALUE, &vec![0; len]))
    })
}

/// Goes on only if what is loaded compares so: NFTA_CMP_SREG, _OP, _DATA.
fn cmp(list: Request, op: u32, value: &[u8]) -> Request {
    expression(list, "cmp", |data| {
        be32(be32(data, 1, REG), 2, op).nest(3, |data| data.attr(attr::DATA_VALUE, value))
    })
}

/// Decides: NFTA_IMMEDIATE_DREG, _DATA.
fn verdict(list: Request, verdict: Verdict) -> Request {
    let code = match verdict {
        Verdict::Accept => NF_ACCEPT,
        Verdict::Drop => NF_DROP,
        Verdict::Masquerade => return expression(list, "masq", |data| data),
    };
    expression(list, "immediate", |data| {
        be32(data, 1, REG_VERDICT).nest(2, |data| {
            data.nest(attr::DATA_VERDICT, |data| {
                be32(data, attr::VERDICT_CODE, code)
            })
        })
    })
}
