//! `check`: says everything that is wrong with the configuration on stdin.

use std::io::Read;
use std::path::Path;

use super::options::Options;
use super::{Exit, Failure, Outcome};
use crate::conf::{self, Conf, Parsed, PrivateKey, Problem, Secret};

/// No configuration is larger; a pipe that doesn't end must not fill the memory. Bytes.
const MAX_CONF: u64 = 16 << 20;

/// Parses stdin; with `--canonical` prints the canonical text.
pub fn check(options: &Options) -> Outcome {
    let parsed = parse("conf", &read_stdin()?)?;
    if options.canonical {
        let key = parsed
            .conf
            .as_ref()
            .and_then(|conf| private_key(conf).ok())
            .map(|key| key.public());
        use std::io::Write;
        std::io::stdout()
            .write_all(conf::canonical(parsed.conf.as_ref(), key).as_bytes())
            .map_err(|error| Failure::new("stdout", error, ""))?;
    }
    Ok(())
}

/// All of stdin.
pub fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(MAX_CONF + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new("stdin", error, "pipe a configuration in"))?;
    if bytes.len() as u64 > MAX_CONF {
        return Err(
            Failure::new("conf", "it is larger than 16 MiB", "is it the right file?")
                .exit(Exit::BadConf),
        );
    }
    Ok(bytes)
}

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
