//! `genkey`, `pubkey`, `version`: what needs neither a daemon nor a configuration.

use super::options::Options;
use super::print;
use crate::conf::{Secret, ToBase64};
use crate::failure::{Failure, Outcome};
use crate::report::VERSION;

/// A new private key in base64.
pub fn genkey(_: &Options) -> Outcome {
    let mut bytes = [0; 32];
    meshd_os::random::fill(&mut bytes)
        .map_err(|error| Failure::new("random numbers", error, ""))?;
    // Clamped as RFC 7748 §5 says, so that every tool shows the same key.
    bytes[0] &= 248;
    bytes[31] = (bytes[31] & 127) | 64;
    print(&Secret::new(bytes).expose_base64())
}

/// The public key of the private key on stdin.
pub fn pubkey(_: &Options) -> Outcome {
    let text = std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::new("stdin", error, "pipe a private key in"))?;
    let key = Secret::parse(text.trim())
        .map_err(|fault| Failure::new("stdin", fault.what, fault.hint))?;
    print(&key.public().to_base64())
}

/// Name and version.
pub fn version(options: &Options) -> Outcome {
    if options.json {
        let arch = std::env::consts::ARCH;
        return print(
            &serde_json::json!({"schema": 1, "version": VERSION, "arch": arch}).to_string(),
        );
    }
    print(&format!("meshd {VERSION}"))
}
