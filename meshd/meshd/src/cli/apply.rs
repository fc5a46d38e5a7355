//! `stage`, `switch`, `confirm`, `rollback`, `remove`: the safe way from one configuration to the next.
//!
//! The daemon decides and acts on the interface; these commands, run as root, write what it may not: the files below
//! /etc/meshd and the block in the hosts file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::check::read_stdin;
use super::client::Client;
use super::close;
use super::options::Options;
use super::print;
use super::reach;
use super::space;
use crate::closed::Closed;
use crate::conf::{Conf, PrivateKey};
use crate::control::wire::{Request, Response};
use crate::digest::sha256;
use crate::failure::{Exit, Failure, Outcome};
use crate::guard::Guard;
use crate::read::{parse, private_key};
use crate::report::Status;
use crate::{forwarding, hosts, paths, way_out};

/// How long a switch lasts unless it is confirmed, when the caller doesn't say.
const WITHIN: Duration = Duration::from_secs(60);

/// How long `confirm` and `ping` probe at most, when the caller doesn't say.
pub const WAIT: Duration = Duration::from_secs(10);

/// Checks the configuration on stdin, has the daemon keep it, writes NAME.next.
pub fn stage(options: &Options) -> Outcome {
    let bytes = read_stdin()?;
    if sha256(&bytes) != options.id {
        let why = format!(
            "the SHA-256 of what came in is {}, not {}",
            sha256(&bytes),
            options.id
        );
        return Err(
            Failure::new("stage", why, "stage the bytes the id was made of")
                .exit(Exit::BadConf)
                .into(),
        );
    }
    let mut client = Client::connect(&options.name)?;
    client.ask(
        &stage_request(&options.name, &options.id, &bytes)?,
        Duration::ZERO,
    )?;
    let path = paths::next(&options.name);
    write_private(&path, &bytes)
        .map_err(|error| Failure::new(path.display().to_string(), error, "run it as root").into())
}

fn stage_request(name: &str, id: &str, bytes: &[u8]) -> Result<Request, Vec<Failure>> {
    let parsed = parse("conf", bytes)?;
    if let Some(conf) = &parsed.conf {
        reach::check(name, conf)?;
        close::warn_of_gaps(conf);
    }
    let in_file = |conf: &&Conf| matches!(conf.interface.private_key, PrivateKey::File(_));
    let key = match parsed.conf.as_ref().filter(in_file) {
        Some(conf) => Some(private_key(conf)?.expose_base64()),
        None => None,
    };
    Ok(Request::Stage {
        id: id.to_owned(),
        conf: String::from_utf8_lossy(bytes).into_owned(),
        key,
    })
}

/// Has the daemon take the staged configuration live.
pub fn switch(options: &Options) -> Outcome {
    let mut client = Client::connect(&options.name)?;
    if let Some(bytes) = staged(&options.name, &options.id) {
        space::hand_over(&mut client, &options.name, &bytes)?;
    }
    let within_s = options.within.unwrap_or(WITHIN).as_secs_f64();
    let request = Request::Switch {
        id: options.id.clone(),
        within_s,
    };
    let response = match client.ask(&request, Duration::ZERO) {
        // A daemon that was restarted since has forgotten what was staged; the file has not.
        Err(failures) if failures.iter().any(|f| f.exit == Exit::NothingToConfirm) => {
            let Some(bytes) = staged(&options.name, &options.id) else {
                return Err(failures);
            };
            client.ask(
                &stage_request(&options.name, &options.id, &bytes)?,
                Duration::ZERO,
            )?;
            client.ask(&request, Duration::ZERO)?
        }
        other => other?,
    };
    match response {
        Response::Status(status) if options.json => {
            print(&json!({"schema": 1, "links": status.peers}).to_string())
        }
        _ => Ok(()),
    }
}

/// NAME.next, if it is what `id` says.
fn staged(name: &str, id: &str) -> Option<Vec<u8>> {
    fs::read(paths::next(name))
        .ok()
        .filter(|bytes| sha256(bytes) == id)
}

/// Judges the links, makes NAME.next NAME.conf, writes the hosts block.
pub fn confirm(options: &Options) -> Outcome {
    let (name, id) = (&options.name, &options.id);
    let wait = options.wait.unwrap_or(WAIT);
    let mut client = Client::connect(name)?;
    let request = Request::Judge {
        id: id.clone(),
        wait_s: wait.as_secs_f64(),
        force: options.force,
    };
    match client.ask(&request, wait)? {
        Response::Judged { status, dead } => {
            if !dead.is_empty() && !options.force {
                show_confirmed(options, &status, false)?;
                return Err(dead.into_iter().map(Failure::from).collect());
            }
            let bytes = make_confirmed(name, id)?;
            client.ask(&Request::Confirmed { id: id.clone() }, Duration::ZERO)?;
            write_hosts(name, &bytes)?;
            show_confirmed(options, &status, true)
        }
        // Confirmed before; the hosts block may have been hurt since.
        _ => {
            let path = paths::conf(name);
            let bytes = fs::read(&path)
                .map_err(|error| Failure::new(path.display().to_string(), error, ""))?;
            write_hosts(name, &bytes)?;
            if options.json {
                return print(&json!({"schema": 1, "confirmed": true, "links": []}).to_string());
            }
            Ok(())
        }
    }
}

fn show_confirmed(options: &Options, status: &Status, confirmed: bool) -> Outcome {
    if options.json {
        return print(
            &json!({"schema": 1, "confirmed": confirmed, "links": status.peers}).to_string(),
        );
    }
    Ok(())
}

/// NAME.next becomes NAME.conf, for good, if it is what `id` says; its bytes. It is taken aside before it is looked at, so
/// that another `stage` in that moment can't put an unproven configuration in its place.
fn make_confirmed(name: &str, id: &str) -> Result<Vec<u8>, Failure> {
    let (next, aside, to) = (paths::next(name), paths::aside(name), paths::conf(name));
    let fail = |error: io::Error| Failure::new(to.display().to_string(), error, "run it as root");
    let taken = match fs::rename(&next, &aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
        Err(_) => None,
        Ok(()) => Some(fs::read(&aside).map_err(fail)?),
    };
    let Some(bytes) = taken.as_ref().filter(|bytes| sha256(bytes) == id) else {
        if taken.is_some() {
            fs::rename(&aside, &next).map_err(fail)?;
        }
        let path = next.display().to_string();
        return Err(
            Failure::new(path, "it is not what was staged", "stage it again")
                .exit(Exit::NothingToConfirm),
        );
    };
    fs::rename(&aside, &to)
        .and_then(|()| sync_folder(&to))
        .map_err(fail)?;
    Ok(bytes.clone())
}

fn write_hosts(name: &str, conf: &[u8]) -> Result<(), Vec<Failure>> {
    let parsed = parse("conf", conf)?;
    let lines: Vec<String> = parsed
        .conf
        .iter()
        .flat_map(|conf| &conf.interface.hosts)
        .map(ToString::to_string)
        .collect();
    edit_hosts(|text| hosts::put(text, name, &lines)).map_err(Vec::from)
}

fn edit_hosts(
    edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, hosts::BrokenBlock>,
) -> Result<(), Failure> {
    match hosts::rewrite(Path::new(paths::HOSTS), edit) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(broken)) => Err(Failure::new(
            paths::HOSTS,
            format!("the line `{}` is missing below our block", broken.missing),
            "put it back or take the whole block out",
        )),
        Err(error) => Err(Failure::new(paths::HOSTS, error, "run it as root")),
    }
}

/// Back to the confirmed configuration.
pub fn rollback(options: &Options) -> Outcome {
    Client::connect(&options.name)?
        .ask(&Request::Rollback, Duration::ZERO)
        .map(drop)
}

/// Takes away the interface, the configuration and the hosts block, whether there is a daemon or not.
pub fn remove(options: &Options) -> Outcome {
    let name = &options.name;
    match Client::connect(name) {
        Ok(mut client) => drop(client.ask(&Request::Remove, Duration::ZERO)?),
        Err(failure) if failure.exit == Exit::NotRunning => {}
        Err(failure) => return Err(failure.into()),
    }
    Guard::new(name)?.set(&Closed::default())?;
    way_out::put_back(name)?;
    forwarding::put_back(&paths::forward_record(name))
        .map_err(|error| Failure::new(format!("interface {name}"), error, "run it as root"))?;
    for path in [
        paths::conf(name),
        paths::next(name),
        paths::aside(name),
        paths::label_mark(name),
    ] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(
                    Failure::new(path.display().to_string(), error, "run it as root").into(),
                );
            }
            _ => {}
        }
    }
    space::remove(name)?;
    edit_hosts(|text| hosts::take_out(text, name)).map_err(Vec::from)
}

/// Writes a file of mode 0600, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let beside = path.with_extension("next.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // The disk may be full: nothing half-written stays.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(path)
}

/// Makes a rename in the folder of `path` last.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
