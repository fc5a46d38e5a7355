//! Configurations and key files, read: what is wrong with them becomes failures, all of it at once.

use std::path::Path;

use crate::conf::{self, Conf, Parsed, PrivateKey, Problem, Secret};
use crate::failure::{Exit, Failure};

/// Parses a configuration called `what`, printing its warnings to stderr.
pub fn parse(what: &str, bytes: &[u8]) -> Result<Parsed, Vec<Failure>> {
    let parsed = conf::parse(bytes).map_err(|problems| {
        problems
            .iter()
            .map(|problem| failure(what, problem))
            .collect::<Vec<_>>()
    })?;
    for warning in &parsed.warnings {
        eprintln!("meshd: warning: {}", failure(what, warning));
    }
    Ok(parsed)
}

fn failure(what: &str, problem: &Problem) -> Failure {
    let place = match problem.line {
        0 => format!("{what}, {}", problem.key),
        line => format!("{what} line {line}, {}", problem.key),
    };
    Failure::new(place, &problem.fault.what, &problem.fault.hint).exit(Exit::BadConf)
}

/// The private key of `conf`, read from its file if it is kept in one.
pub fn private_key(conf: &Conf) -> Result<Secret, Failure> {
    match &conf.interface.private_key {
        PrivateKey::Inline(secret) => Ok(secret.clone()),
        PrivateKey::File(path) => private_key_file(path),
    }
}

/// The private key in a file: base64, white space around it ignored.
pub fn private_key_file(path: &Path) -> Result<Secret, Failure> {
    let what = format!("PrivateKeyFile {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(&what, error, "make one with `meshd genkey`").exit(Exit::BadConf)
    })?;
    Secret::parse(text.trim())
        .map_err(|fault| Failure::new(&what, fault.what, fault.hint).exit(Exit::BadConf))
}
