//! Netlink messages for `fuzz`: any bytes are read without panic, what is built reads back.
use super::wire::{self, Request};
use super::{address, events, link, route, rule};

/// Reads a datagram as every kind of answer and event.
pub(crate) fn read(bytes: &[u8]) {
    for message in wire::messages(bytes) {
        let _ = message.error();
        let _ = address::parse(message);
        let _ = link::parse(message);
        let _ = route::parse(message);
        let _ = route::parse_way(message);
        let _ = route::parse_default(message);
        if let Some(rule) = rule::parse(message) {
            // What the kernel told is what we would ask for.
            let mut request = rule::request(libc::RTM_NEWRULE, 0, &rule);
            let again = wire::messages(request.finish(1)).find_map(rule::parse);
            assert_eq!(again.map(|rule| rule.priority), Some(rule.priority));
        }
        let _ = events::event(message);
        let _ = crate::nft::read(&message);
        let _ = crate::nft::read_forward_dropper(&message);
        let _ = crate::nft::names(&message, "meshd_prod");
    }
}

/// Builds a message from pieces of `bytes`: a kind, a length and so many bytes each.
pub(crate) fn build(mut bytes: &[u8]) {
    let mut request = Request::new(16, 0, &[0; 16]);
    let mut put = Vec::new();
    let mut kind = 1;
    while let Some((&len, rest)) = bytes.split_first() {
        let (value, rest) = rest.split_at(rest.len().min(usize::from(len)));
        request = request.attr(kind, value);
        put.push((kind, value));
        kind += 1;
        bytes = rest;
        // An attribute's kind has 14 bits, a message 32 of length.
        if kind == 0x3fff {
            break;
        }
    }
    let built = request.finish(7).to_vec();
    let read: Vec<_> = wire::messages(&built)
        .filter_map(|message| message.split(16))
        .flat_map(|(_, attrs)| attrs.iter())
        .collect();
    assert_eq!(read, put);
}
