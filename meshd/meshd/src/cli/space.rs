//! `space` and `exec`: the network namespace that an interface lives in.
//!
//! Only root may enter one. `space` opens it and hands the descriptors to the daemon, which may not; `exec` goes there and
//! becomes another program, whose exit status is then the command's.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use meshd_os::namespace::{self, View};

use super::client::Client;
use super::options::Options;
use crate::conf::Conf;
use crate::control::space::{wanted, Space};
use crate::control::wire::Request;
use crate::failure::{Failure, Outcome};
use crate::paths;
use crate::read::parse;

/// Folders with sockets of resolvers outside. A socket in a folder is no network: it would answer by another way
/// (systemd-resolved, nscd, avahi).
const RESOLVERS: [&str; 4] = [
    "/run/systemd/resolve",
    "/run/nscd",
    "/var/run/nscd",
    "/run/avahi-daemon",
];

/// The exit status of a shell for what can't be run, or isn't there (POSIX, 2.8.2).
const CANNOT_RUN: i32 = 126;
const NOT_THERE: i32 = 127;

/// Hands the namespace that NAME.conf wants to the daemon. The unit runs it as root; it does nothing for other meshes.
pub fn space(options: &Options) -> Outcome {
    let path = paths::conf(&options.name);
    match fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => Ok(()),
        Ok(bytes) => {
            // A configuration that can't be read is the daemon's to complain about.
            let Ok(parsed) = parse("conf", &bytes) else {
                return Ok(());
            };
            match wanted(parsed.conf.as_ref()) {
                Some(_) if is_run_by_systemd() => {
                    namespace::use_mounts_of_init()
                        .map_err(|error| Failure::new(&options.name, error, ""))?;
                    hand_over(&mut Client::connect(&options.name)?, &options.name, &bytes)
                }
                Some(_) => hand_over(&mut Client::connect(&options.name)?, &options.name, &bytes),
                None => Ok(()),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::new(path.display().to_string(), error, "run it as root").into()),
    }
}

/// Whether this is a command of a unit: systemd 252 runs even those with `+` among the unit's own mounts, and with its umask.
fn is_run_by_systemd() -> bool {
    std::os::unix::process::parent_id() == 1 && std::env::var_os("INVOCATION_ID").is_some()
}

/// Hands the namespace that a configuration wants over, if it wants one.
pub fn hand_over(client: &mut Client, name: &str, conf: &[u8]) -> Outcome {
    let conf = parse("conf", conf)?.conf;
    let Some(namespace) = wanted(conf.as_ref()) else {
        return Ok(());
    };
    let space = Space::open(name, namespace)
        .map_err(|error| Failure::new(format!("interface {name}"), error, "run it as root"))?;
    let fds = space.fds().each_ref().map(AsFd::as_fd);
    let request = Request::Space {
        namespace: namespace.to_owned(),
    };
    client.ask_with(&request, &fds, Duration::ZERO).map(drop)
}

/// Deletes the namespace if it was made for this mesh.
pub fn remove(name: &str) -> Result<(), Failure> {
    let marker = paths::made_namespace(name);
    let Ok(namespace) = fs::read_to_string(&marker) else {
        return Ok(());
    };
    let fail = |error| Failure::new(format!("interface {name}"), error, "run it as root");
    namespace::delete_named(&namespace).map_err(fail)?;
    fs::remove_file(&marker)
        .map_err(|error| Failure::new(marker.display().to_string(), error, "run it as root"))?;
    // The folder goes with the last one; it stays while there are others.
    let _ = marker.parent().map(fs::remove_dir);
    Ok(())
}

/// Runs a program where the interface lives.
pub fn exec(options: &Options) -> Outcome {
    let name = &options.name;
    let path = paths::conf(name);
    let at = path.display().to_string();
    let bytes = fs::read(&path).map_err(|error| {
        Failure::new(&at, error, "run it as root, with the name of a mesh here")
    })?;
    let conf = parse(&at, &bytes)?.conf;
    let Some((conf, namespace)) = conf
        .as_ref()
        .and_then(|conf| Some((conf, conf.interface.namespace.as_ref()?)))
    else {
        let why = "the interface lives in no network namespace of its own";
        return Err(Failure::new(at, why, "add Namespace = NAME to its [Interface]").into());
    };
    let view = View {
        resolver: resolver(conf),
        emptied: RESOLVERS.into_iter().map(Into::into).collect(),
    };
    let left_out = namespace::move_in(namespace, &view).map_err(|error| {
        Failure::new(
            format!("mesh {name}"),
            error,
            "is the daemon running, and are you root?",
        )
    })?;
    for file in left_out {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        eprintln!(
            "meshd: warning: {}: there is no /etc/{name} to put it over",
            file.display()
        );
    }
    let Some((program, arguments)) = options.program.split_first() else {
        return Err(Failure::new("arguments", "there is no program", "see `meshd help`").into());
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("meshd: {}: {error}", program.to_string_lossy());
    std::process::exit(if error.kind() == ErrorKind::NotFound {
        NOT_THERE
    } else {
        CANNOT_RUN
    })
}

/// A resolv.conf(5) of the `DNS` key: its addresses, and its domains to search.
fn resolver(conf: &Conf) -> Option<String> {
    let (servers, domains): (Vec<&String>, Vec<&String>) = conf
        .interface
        .dns
        .iter()
        .partition(|word| word.parse::<std::net::IpAddr>().is_ok());
    if servers.is_empty() {
        return None;
    }
    let mut text: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !domains.is_empty() {
        let domains: Vec<&str> = domains.iter().map(|domain| domain.as_str()).collect();
        text += &format!("search {}\n", domains.join(" "));
    }
    Some(text)
}
