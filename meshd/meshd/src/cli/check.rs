//! `check`: says everything that is wrong with the configuration on stdin.

use std::io::Read;

use super::options::Options;
use crate::conf;
use crate::failure::{Exit, Failure, Outcome};
use crate::read::{parse, private_key};

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
