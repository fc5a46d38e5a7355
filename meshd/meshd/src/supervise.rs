//! `meshd start` and `meshd stop`: the daemon in the background, for hosts without an init.
//!
//! Strategy: `start` starts a supervisor, this same program in a session of its own, which holds the pid file's lock, runs
//! `meshd run NAME` and runs it again when it dies. A lock dies with its holder, so a stale pid file misleads nobody. What
//! it does not do: survive a reboot; that takes an init.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use meshd_os::events::{wait_readable, Signals};
use meshd_os::process::{end_with_parent, start_in_background, terminate, PidFile};
use std::os::fd::AsFd;

use crate::failure::{Failure, Outcome};
use crate::paths;

/// How long a daemon may take to serve its control socket, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);
/// The first wait before a dead daemon is started again; it doubles up to [`SLOWEST`] while it dies at once.
const QUICKEST: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(10);
/// A daemon that lived this long was well.
const WELL: Duration = Duration::from_secs(30);

/// Starts the supervisor of mesh `name`, unless it runs, and waits until the daemon can be talked to.
pub fn start(name: &str) -> Outcome {
    let pid_file = paths::pid_file(name);
    if holder(name)?.is_some() {
        return Ok(());
    }
    for folder in [pid_file.parent(), paths::log_file(name).parent()]
        .into_iter()
        .flatten()
    {
        make_folder(folder)?;
    }
    let mut command = this_program(name)?;
    command.args(["supervise", name]);
    let mut child = start_in_background(command, &paths::log_file(name))
        .map_err(|error| failure(name, error))?;
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(paths::control_socket(name)).is_err() {
        let died = matches!(child.try_wait(), Ok(Some(_)));
        if died || Instant::now() > end {
            let why = if died {
                "the supervisor ended at once"
            } else {
                "the daemon doesn't come up"
            };
            return Err(Failure::new(
                name,
                why,
                format!("see {}", paths::log_file(name).display()),
            )
            .into());
        }
        sleep(LOOK);
    }
    Ok(())
}

/// Ends the supervisor and the daemon; fine when there is none.
pub fn stop(name: &str) -> Outcome {
    let Some(pid) = holder(name)? else {
        return Ok(());
    };
    if !terminate(pid, PATIENCE).map_err(|error| failure(name, error))? {
        return Err(
            Failure::new(name, "the daemon does not end", format!("see `ps {pid}`")).into(),
        );
    }
    // The file without a holder means nothing; leave none behind.
    let _ = fs::remove_file(paths::pid_file(name));
    Ok(())
}

/// The supervisor itself.
pub fn supervise(name: &str) -> Outcome {
    let fail = |error| failure(name, error);
    let signals = Signals::new(&[libc::SIGTERM, libc::SIGINT, libc::SIGCHLD]).map_err(fail)?;
    let Some(_held) = PidFile::acquire(&paths::pid_file(name)).map_err(fail)? else {
        return Err(Failure::new(name, "it is supervised already", "").into());
    };
    let mut wait = QUICKEST;
    loop {
        let started = Instant::now();
        let mut command = this_program(name)?;
        command.args(["run", name]);
        end_with_parent(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::new(name, error, ""))?;
        if !watch(&signals, &mut child).map_err(fail)? {
            terminate(child.id(), PATIENCE).map_err(fail)?;
            return Ok(());
        }
        wait = if started.elapsed() > WELL {
            QUICKEST
        } else {
            (wait * 2).min(SLOWEST)
        };
        eprintln!(
            "meshd: {name}: the daemon died, starting it again in {} ms",
            wait.as_millis()
        );
        let [told] = wait_readable([signals.as_fd()], Some(wait))
            .map_err(|error| Failure::new(name, error, ""))?;
        if told && next_is_end(&signals) {
            return Ok(());
        }
    }
}

/// Waits until the child has died (true) or we are told to end (false).
fn watch(signals: &Signals, child: &mut Child) -> meshd_os::Result<bool> {
    loop {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return Ok(true);
        }
        wait_readable([signals.as_fd()], None)
            .map_err(|error| meshd_os::Error::new("wait for signals", error))?;
        if next_is_end(signals) {
            return Ok(false);
        }
    }
}

/// Takes the signals that have come; whether one of them asks to end.
fn next_is_end(signals: &Signals) -> bool {
    let mut end = false;
    while let Some(signal) = signals.next() {
        end |= signal != libc::SIGCHLD;
    }
    end
}

fn holder(name: &str) -> Result<Option<u32>, Failure> {
    PidFile::holder(&paths::pid_file(name)).map_err(|error| failure(name, error))
}

fn this_program(name: &str) -> Result<Command, Failure> {
    let path =
        std::env::current_exe().map_err(|error| Failure::new(name, error, "is /proc mounted?"))?;
    Ok(Command::new(path))
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|error| Failure::new(folder.display().to_string(), error, "run it as root"))
}

fn failure(name: &str, error: meshd_os::Error) -> Failure {
    Failure::new(name, error, "")
}
