//! `status`, `ping`, `report`: what is so.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use meshd_proto::PublicKey;

use super::apply::WAIT;
use super::client::Client;
use super::options::Options;
use super::print;
use crate::conf::ToBase64;
use crate::control::wire::{Request, Response};
use crate::digest::sha256;
use crate::failure::{Exit, Failure, Outcome};
use crate::read::{parse, private_key};
use crate::report::{Report, State};
use crate::{conf, paths};

/// Vitals.
pub fn status(options: &Options) -> Outcome {
    let response = Client::connect(&options.name)?.ask(&Request::Status, Duration::ZERO)?;
    show(options, &response)
}

/// Probes every link, then shows vitals.
pub fn ping(options: &Options) -> Outcome {
    let wait = options.wait.unwrap_or(WAIT);
    let request = Request::Ping {
        wait_s: wait.as_secs_f64(),
    };
    let response = Client::connect(&options.name)?.ask(&request, wait)?;
    show(options, &response)
}

fn show(options: &Options, response: &Response) -> Outcome {
    let Response::Status(status) = response else {
        return Ok(());
    };
    if options.json {
        print(&to_json(status)?)
    } else {
        print(status.to_text().trim_end())
    }
}

/// What is configured, and what is so; without a daemon what NAME.conf says.
pub fn report(options: &Options) -> Outcome {
    let mut report = match Client::connect(&options.name) {
        Ok(mut client) => match client.ask(&Request::Report, Duration::ZERO)? {
            Response::Report(report) => *report,
            _ => {
                return Err(Failure::new(
                    "report",
                    "the daemon answered something else",
                    "is it another version?",
                )
                .into())
            }
        },
        Err(failure) if failure.exit == Exit::NotRunning => report_down(&options.name)?,
        Err(failure) => return Err(failure.into()),
    };
    // The daemon knows what it confirmed; what a boot would load may have been changed behind its back. While a switch is
    // pending the two may differ for a moment. Whoever may not read the folder gets the daemon's word.
    if let (None, Ok(conf)) = (&report.switched_id, confirmed(&options.name)) {
        report.set_conf(conf.0);
    }
    print(&to_json(&report)?)
}

fn report_down(name: &str) -> Result<Report, Vec<Failure>> {
    let (text, key) = confirmed(name)?;
    let mut report = Report::new(name, State::Down, text, String::new());
    report.staged_id = fs::read(paths::next(name)).ok().map(|bytes| sha256(&bytes));
    report.public_key = key.map(|key| key.to_base64());
    Ok(report)
}

/// The canonical text and the public key of NAME.conf as it is on disk.
fn confirmed(name: &str) -> Result<(String, Option<PublicKey>), Failure> {
    let path = paths::conf(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(Failure::new(
                path.display().to_string(),
                error,
                "run it as root",
            ))
        }
    };
    // A confirmed configuration was read once; if it can't be any more, the report says so by an empty text.
    let parsed = parse(&path.display().to_string(), &bytes);
    let conf = parsed.ok().and_then(|parsed| parsed.conf);
    let key = conf
        .as_ref()
        .and_then(|conf| private_key(conf).ok())
        .map(|key| key.public());
    Ok((conf::canonical(conf.as_ref(), key), key))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new("stdout", error, ""))
}
