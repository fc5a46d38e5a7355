//! Doors for `fuzz` into what this crate reads: each takes any bytes, must not panic, and asserts what must hold of the
//! result. Compiled with the feature `fuzzing` only.

use crate::cli::Options;
use crate::conf::{self, UtcTime};
use crate::control::wire::{Request, Response};
use crate::hosts;

/// A configuration. What can be read has one canonical text, and that text names no secret.
pub fn configuration(bytes: &[u8]) {
    let Ok(parsed) = conf::parse(bytes) else {
        return;
    };
    let canonical = conf::canonical(parsed.conf.as_ref(), None);
    let again = conf::parse(bytes).ok().and_then(|parsed| parsed.conf);
    assert_eq!(again, parsed.conf, "reading is a function");
    let Some(conf) = parsed.conf else {
        assert!(canonical.is_empty());
        return;
    };
    if let conf::PrivateKey::Inline(secret) = &conf.interface.private_key {
        assert!(!canonical.contains(&secret.expose_base64()), "a secret");
    }
    for peer in &conf.peers {
        if let Some(secret) = &peer.preshared_key {
            assert!(!canonical.contains(&secret.expose_base64()), "a secret");
        }
    }
    let mut networks: Vec<_> = conf.peers.iter().flat_map(|p| &p.allowed_ips).collect();
    let all = networks.len();
    networks.sort();
    networks.dedup();
    assert_eq!(networks.len(), all, "one peer a network");
    for route in conf.routes() {
        assert!(networks.contains(&&route), "a route belongs to a peer");
    }
}

/// An instant. What can be read is written as it was.
pub fn instant(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(time) = UtcTime::parse(text) {
            assert_eq!(time.to_string(), text);
        }
    }
}

/// A line on the control socket, as the daemon and as the command read it.
pub fn control_line(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).unwrap_or_default();
        let again = serde_json::from_slice::<Request>(&text);
        assert!(again.is_ok(), "what is written can be read");
    }
    if let Ok(response) = serde_json::from_slice::<Response>(bytes) {
        let text = serde_json::to_vec(&response).unwrap_or_default();
        let again = serde_json::from_slice::<Response>(&text);
        assert!(again.is_ok(), "what is written can be read");
    }
}

/// A command line, its words separated by zero bytes.
pub fn command_line(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let words = bytes
        .split(|byte| *byte == 0)
        .map(std::ffi::OsStr::from_bytes);
    let _ = Options::parse(lexopt::Parser::from_args(words));
}

/// A hosts file: a block put in comes out without a trace, and holds what was put in.
pub fn hosts_file(bytes: &[u8]) {
    let lines = ["10.0.0.1 a".to_owned(), "fd00::1 a b".to_owned()];
    let (Ok(with), Ok(found)) = (
        hosts::put(bytes, "prod", &lines),
        hosts::lines(bytes, "prod"),
    ) else {
        return;
    };
    assert_eq!(hosts::lines(&with, "prod").as_deref(), Ok(&lines[..]));
    if found.is_empty() && hosts::take_out(bytes, "prod").as_deref() == Ok(bytes) {
        assert_eq!(hosts::take_out(&with, "prod").as_deref(), Ok(bytes));
    }
}
