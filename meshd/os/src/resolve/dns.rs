//! DNS messages, as far as asking for addresses needs them (RFC 1035 §4, RFC 3596, RFC 6891 for the size).
#![forbid(unsafe_code)]

use std::net::IpAddr;

/// Type of an IPv4 address record.
pub(super) const A: u16 = 1;
/// Type of an IPv6 address record.
pub(super) const AAAA: u16 = 28;

const CNAME: u16 = 5;
const OPT: u16 = 41;
const IN: u16 = 1;
const HEADER: usize = 12;
/// The answer size to offer: what survives any path unfragmented (DNS flag day 2020).
const SIZE: u16 = 1232;
/// Most aliases followed, so that a loop of them ends.
const ALIASES: usize = 16;

/// A recursive question for the records of `kind` of `name`. `None` when it can't be a name: empty, with an empty or too long
/// label, or longer than 253 characters.
pub(super) fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let mut message = Vec::with_capacity(HEADER + name.len() + 17);
    message.extend(id.to_be_bytes());
    // Recursion desired; one question, one additional record.
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        let len = u8::try_from(label.len())
            .ok()
            .filter(|len| (1..=63).contains(len))?;
        message.push(len);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    message.push(0);
    message.extend(OPT.to_be_bytes());
    message.extend(SIZE.to_be_bytes());
    message.extend([0; 6]);
    Some(message)
}

/// The addresses in an answer to [`question`]`(id, name, kind)`, aliases followed within the message. An empty list says that
/// there are none; `None` that this is no answer: of another question, an error of the server, or broken.
pub(super) fn answer(message: &[u8], id: u16, name: &str, kind: u16) -> Option<Vec<IpAddr>> {
    let flags = word(message, 2)?;
    // A response; and no error, or "no such name".
    if word(message, 0)? != id
        || flags & 0x8000 == 0
        || !matches!(flags & 15, 0 | 3)
        || word(message, 4)? != 1
    {
        return None;
    }
    let (asked, at) = read_name(message, HEADER)?;
    if asked != name.trim_end_matches('.').to_ascii_lowercase()
        || word(message, at)? != kind
        || word(message, at + 2)? != IN
    {
        return None;
    }
    let records = read_records(message, at + 4, word(message, 6)?);
    let mut owner = asked;
    for _ in 0..ALIASES {
        match records.iter().find(|r| r.kind == CNAME && r.owner == owner) {
            Some(alias) => owner = read_name(message, alias.at)?.0,
            None => break,
        }
    }
    let found = records
        .iter()
        .filter(|r| r.kind == kind && r.owner == owner);
    Some(
        found
            .filter_map(|r| address(message.get(r.at..r.at + r.len)?, kind))
            .collect(),
    )
}

struct Record {
    owner: String,
    kind: u16,
    /// Where its data lies.
    at: usize,
    len: usize,
}

/// The records that are whole; an answer cut short (TC) gives those it has.
fn read_records(message: &[u8], mut at: usize, count: u16) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..count {
        let Some((owner, rest)) = read_name(message, at) else {
            break;
        };
        let (Some(kind), Some(class), Some(len)) = (
            word(message, rest),
            word(message, rest + 2),
            word(message, rest + 8),
        ) else {
            break;
        };
        let (start, len) = (rest + 10, usize::from(len));
        if class == IN && start + len <= message.len() {
            records.push(Record {
                owner,
                kind,
                at: start,
                len,
            });
        }
        at = start + len;
    }
    records
}

/// The address in a record of `kind`; `None` when its length is another family's.
fn address(data: &[u8], kind: u16) -> Option<IpAddr> {
    match kind {
        A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
    }
}

/// The name at `at`, in lower case, compression followed, and where the message goes on behind it.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    // Each step takes a label or goes strictly backwards; a name has at most 128 labels.
    for _ in 0..256 {
        let len = usize::from(*message.get(at)?);
        match len >> 6 {
            0 if len == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + len)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
                at += 1 + len;
            }
            3 => {
                let target = usize::from(word(message, at)? & 0x3fff);
                end = end.or(Some(at + 2));
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
        if name.len() > 255 {
            return None;
        }
    }
    None
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([
        *message.get(at)?,
        *message.get(at + 1)?,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer to `a.example` IN A: an alias to `b.example`, and that one's address, compressed.
    fn aliased() -> Vec<u8> {
        let mut message = question(7, "a.example", A).unwrap();
        message.truncate(message.len() - 11);
        message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        // a.example at 12, so "example" is at 14.
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'B', 0xc0, 14]);
        let alias = message.len() - 4;
        message.extend([
            0xc0,
            alias as u8,
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            9,
            0,
            4,
            192,
            0,
            2,
            1,
        ]);
        message
    }

    #[test]
    fn aliases_are_followed() {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(answer(&aliased(), 7, "A.Example.", A), Some(vec![ip]));
    }

    #[test]
    fn only_the_answer_to_our_question_is_believed() {
        let good = aliased();
        assert_eq!(answer(&good, 8, "a.example", A), None, "another id");
        assert_eq!(answer(&good, 7, "c.example", A), None, "another name");
        assert_eq!(answer(&good, 7, "a.example", AAAA), None, "another type");
        let mut refused = good.clone();
        refused[3] = 0x85;
        assert_eq!(answer(&refused, 7, "a.example", A), None, "refused");
        let mut missing = good[..good.len() - 32].to_vec();
        missing[3] = 0x83;
        missing[7] = 0;
        assert_eq!(
            answer(&missing, 7, "a.example", A),
            Some(vec![]),
            "no such name"
        );
        let question = question(7, "a.example", A).unwrap();
        assert_eq!(
            answer(&question, 7, "a.example", A),
            None,
            "our own question"
        );
    }

    #[test]
    fn an_address_of_the_other_family_is_none() {
        let mut message = question(7, "a.example", AAAA).unwrap();
        message.truncate(message.len() - 11);
        message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend([
            0xc0, 12, 0, AAAA as u8, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1,
        ]);
        assert_eq!(answer(&message, 7, "a.example", AAAA), Some(vec![]));
    }

    #[test]
    fn an_answer_cut_short_gives_what_it_has() {
        let good = aliased();
        assert_eq!(
            answer(&good[..good.len() - 1], 7, "a.example", A),
            Some(vec![])
        );
    }

    #[test]
    fn names_that_cannot_be() {
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", ".a", "a b", "\u{e4}", long.as_str()] {
            assert_eq!(question(1, name, A), None, "{name}");
        }
        assert!(question(1, &"a".repeat(63), A).is_some());
    }

    #[test]
    fn a_pointer_loop_ends() {
        let mut message = aliased();
        message[12] = 0xc0;
        message[13] = 12;
        assert_eq!(answer(&message, 7, "a.example", A), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut message in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, byte: u8) {
            let _ = answer(&message, 0, "a.example", A);
            message = aliased();
            let at = at.index(message.len());
            message[at] = byte;
            let _ = answer(&message, 7, "a.example", A);
        }
    }
}
