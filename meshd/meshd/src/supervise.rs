//! `meshd start` and `meshd stop`: the daemon in the background, for hosts without an init.
//!
//! Strategy: `start` starts a supervisor, this same program in a session of its own, which holds the pid file's lock, runs
//! `meshd run NAME` and runs it again at once when it ends. It also keeps the daemon's descriptors (the TUN, the sockets, the
//! memory of sessions), so that the next one goes on with them. A lock dies with its holder, so a stale pid file misleads
//! nobody. A daemon that can't be started (its file is being replaced, memory is short) is tried again like one that died:
//! were the supervisor to give up, interface and sessions would go with it.
//! What it does not do: survive a reboot; that takes an init.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use meshd_os::events::{wait_readable, Signals};
use meshd_os::keeper::Keeper;
use meshd_os::process::{ask_to_end, end_holder, end_with_parent, start_in_background, PidFile};
use std::os::fd::AsFd;

use crate::failure::{Failure, Outcome};
use crate::paths;

/// How long a daemon may take to serve its control socket, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);
/// A daemon that lived this long is followed at once; one that dies sooner waits, longer each time.
const WELL: Duration = Duration::from_millis(100);
/// The first and the longest such wait.
const QUICKEST: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(10);

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
    let pid_file = paths::pid_file(name);
    let Some(pid) = holder(name)? else {
        return Ok(());
    };
    if !end_holder(&pid_file, PATIENCE).map_err(|error| failure(name, error))? {
        return Err(
            Failure::new(name, "the daemon does not end", format!("see `ps {pid}`")).into(),
        );
    }
    // The file without a holder means nothing; leave none behind.
    let _ = fs::remove_file(pid_file);
    Ok(())
}

/// The supervisor itself.
pub fn supervise(name: &str) -> Outcome {
    let fail = |error| failure(name, error);
    let signals = Signals::new(&[libc::SIGTERM, libc::SIGINT, libc::SIGCHLD]).map_err(fail)?;
    let Some(_held) = PidFile::acquire(&paths::pid_file(name)).map_err(fail)? else {
        return Err(Failure::new(name, "it is supervised already", "").into());
    };
    let mut keeper = Keeper::bind(&paths::keeper_socket(name)).map_err(fail)?;
    let mut wait = Duration::ZERO;
    loop {
        let started = Instant::now();
        let mut child = match spawn(name, &keeper) {
            Ok(child) => child,
            Err(failure) => {
                wait = next_wait(wait, Duration::ZERO);
                let again = wait.as_millis();
                eprintln!(
                    "meshd: the daemon can't be started, trying again in {again} ms: {failure}"
                );
                if is_ended_within(&signals, wait).map_err(fail)? {
                    return Ok(());
                }
                continue;
            }
        };
        if !watch(&signals, &mut keeper, &mut child, None).map_err(fail)? {
            ask_to_end(&child).map_err(fail)?;
            let end = Instant::now() + PATIENCE;
            if !watch(&signals, &mut keeper, &mut child, Some(end)).map_err(fail)? {
                eprintln!("meshd: {name}: the daemon does not end, killing it");
                let _ = child.kill();
            }
            return Ok(());
        }
        wait = next_wait(wait, started.elapsed());
        let how = match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                wait = Duration::ZERO;
                "made way".to_owned()
            }
            Ok(Some(status)) => format!("died ({status})"),
            _ => "died".to_owned(),
        };
        eprintln!(
            "meshd: {name}: the daemon {how}, starting it again in {} ms",
            wait.as_millis()
        );
        if !wait.is_zero() && is_ended_within(&signals, wait).map_err(fail)? {
            return Ok(());
        }
    }
}

/// Starts the daemon, with what is kept for it.
fn spawn(name: &str, keeper: &Keeper) -> Result<Child, Failure> {
    let mut command = this_program(name)?;
    command.args(["run", name]);
    keeper.hand_in(&mut command);
    end_with_parent(&mut command);
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .spawn()
        .map_err(|error| Failure::new(program, error, ""))
}

/// Waits so long, or until we are told to end: whether we were. A child that failed to become the daemon tells too, by its end.
fn is_ended_within(signals: &Signals, wait: Duration) -> meshd_os::Result<bool> {
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let [told] = wait_readable([signals.as_fd()], Some(left))
            .map_err(|error| meshd_os::Error::new("wait for signals", error))?;
        if told && next_is_end(signals) {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// How long to wait before the next daemon, when the last one lived for `lived` after a wait of `last`.
fn next_wait(last: Duration, lived: Duration) -> Duration {
    if lived >= WELL {
        Duration::ZERO
    } else {
        (last * 2).clamp(QUICKEST, SLOWEST)
    }
}

/// Keeps what the child wants kept, until it has died (true) or we are told to end or `end` has come (false).
fn watch(
    signals: &Signals,
    keeper: &mut Keeper,
    child: &mut Child,
    end: Option<Instant>,
) -> meshd_os::Result<bool> {
    loop {
        // Before its death is looked at, so that nothing it has said is lost.
        let died = matches!(child.try_wait(), Ok(Some(_)));
        keeper.serve(child.id())?;
        if died {
            return Ok(true);
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let [told, _] = wait_readable([signals.as_fd(), keeper.as_fd()], left)
            .map_err(|error| meshd_os::Error::new("wait for signals", error))?;
        if told && next_is_end(signals) && end.is_none() {
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
    Ok(Command::new(program_after(path)))
}

/// Where the program lies that a supervisor at `own` runs next: an installed one runs the version that is current by then.
fn program_after(own: PathBuf) -> PathBuf {
    if own.starts_with(paths::LIB) {
        paths::current_program()
    } else {
        own
    }
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|error| Failure::new(folder.display().to_string(), error, "run it as root"))
}

fn failure(name: &str, error: meshd_os::Error) -> Failure {
    Failure::new(name, error, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_at_once_waits_ever_longer_and_who_was_well_does_not() {
        let mut wait = Duration::ZERO;
        let waits: Vec<u128> = (0..10)
            .map(|_| {
                wait = next_wait(wait, Duration::from_millis(5));
                wait.as_millis()
            })
            .collect();
        assert_eq!(
            waits,
            [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(next_wait(wait, WELL), Duration::ZERO);
    }

    #[test]
    fn an_installed_supervisor_runs_what_is_current() {
        let next = |own: &str| program_after(PathBuf::from(own));
        let current = PathBuf::from("/usr/local/lib/meshd/current/meshd");
        assert_eq!(next("/usr/local/lib/meshd/0.1.0/meshd"), current);
        assert_eq!(next("/usr/local/lib/meshd/0.1.0/meshd (deleted)"), current);
        assert_eq!(next("/opt/meshd"), PathBuf::from("/opt/meshd"));
    }
}
