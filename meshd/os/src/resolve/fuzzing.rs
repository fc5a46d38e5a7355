//! Names and their files for `fuzz`.
#![forbid(unsafe_code)]
use super::{dns, hosts_lookup, servers};

/// An answer to a question of ours. What is believed was asked, and is bounded by the message's length.
pub(crate) fn answer(bytes: &[u8]) {
    let name = "a.example";
    for kind in [dns::A, dns::AAAA] {
        if let Some(found) = dns::answer(bytes, 7, name, kind) {
            assert!(bytes[..2] == [0, 7] && bytes[2] & 0x80 != 0);
            assert!(found.iter().all(|ip| ip.is_ipv4() == (kind == dns::A)));
            // A record with an address has 14 bytes at least.
            assert!(found.len() * 14 <= bytes.len());
        }
    }
    if let Ok(name) = std::str::from_utf8(bytes) {
        if let Some(question) = dns::question(7, name, dns::A) {
            assert!(question.len() <= 12 + 255 + 4 + 11);
            assert_eq!(dns::answer(&question, 7, name, dns::A), None, "a question");
        }
    }
}

/// A hosts file, a resolv.conf.
pub(crate) fn files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = hosts_lookup(&text, "a.example");
    assert!(!servers(&text).is_empty());
}
