//! Commands about the daemon as a process: letting a new one take over, and ending one for good.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::client::Client;
use super::options::Options;
use crate::control::wire::{Request, Response};
use crate::failure::{Exit, Failure, Outcome};
use crate::report::{Status, VERSION};

/// How long a successor may take to serve.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// The running daemon ends and its service starts the installed version, which goes on with interface and sessions. Done
/// when that one serves.
pub fn upgrade(options: &Options) -> Outcome {
    let name = &options.name;
    let asked = Instant::now();
    let answer = Client::connect(name)?.ask(&Request::Upgrade, Duration::ZERO)?;
    // Asked for by systemd's own restart, since it runs `ExecStop=` after the end of a service that ends by itself: while
    // nobody reads.
    if let Response::Restart = answer {
        restart_unit(name)?;
    }
    let end = asked + PATIENCE;
    loop {
        match status(name) {
            // It started after it was asked for.
            Ok(status) if status.uptime_s < asked.elapsed().as_secs_f64() => {
                return match status.version.as_str() {
                    VERSION => Ok(()),
                    other => Err(Failure::new(
                        name,
                        format!("the daemon that took over is version {other}, not {VERSION}"),
                        "is the right version installed, as `current`?",
                    )
                    .into()),
                };
            }
            Err(failures) if !is_passing(&failures) => return Err(failures),
            _ if Instant::now() > end => {
                let hint = format!("see `journalctl -u meshd@{name}` or /var/log/meshd-{name}.log");
                return Err(Failure::new(name, "no daemon has taken over", hint).into());
            }
            _ => sleep(LOOK),
        }
    }
}

fn restart_unit(name: &str) -> Result<(), Failure> {
    let unit = format!("meshd@{name}");
    let done = Command::new("systemctl").args(["restart", &unit]).output();
    let hint = format!("restart the service that runs it, or see `journalctl -u {unit}`");
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said
                .lines()
                .next()
                .unwrap_or("systemctl restart failed")
                .to_owned();
            Err(Failure::new(unit, why, hint))
        }
        Err(error) => Err(Failure::new("systemctl", error, hint)),
    }
}

fn status(name: &str) -> Result<Status, Vec<Failure>> {
    match Client::connect(name)?.ask(&Request::Status, Duration::ZERO)? {
        Response::Status(status) => Ok(*status),
        _ => Err(Failure::new(name, "the daemon answers something else", "").into()),
    }
}

/// Between two daemons nobody answers, or one hangs up.
fn is_passing(failures: &[Failure]) -> bool {
    failures
        .iter()
        .all(|failure| matches!(failure.exit, Exit::NotRunning | Exit::Failed))
}

/// What the unit runs before systemd ends the daemon. systemd sends one signal for a stop and for a restart, and tells
/// nobody which it is; its list of jobs does. Before a stop the daemon puts back what it has changed on other links; when
/// nothing can be learned, nothing is done, and systemd's letting go of the descriptors ends interface and sessions.
pub fn stopping(options: &Options) -> Outcome {
    let name = &options.name;
    let listed = Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--plain", "--no-pager"])
        .output();
    let jobs = match listed {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => return Ok(()),
    };
    if is_stop(&jobs, &format!("meshd@{name}.service")) {
        Client::connect(name)?.ask(&Request::Stop, Duration::ZERO)?;
    }
    Ok(())
}

/// Whether systemd's list of jobs (JOB UNIT TYPE STATE) has a stop of `unit` in it.
fn is_stop(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&unit) && words.get(2) == Some(&"stop")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_told_from_a_restart() {
        let jobs = |kind: &str| {
            format!("  7 other.service stop waiting\n 812 meshd@prod.service {kind} running\n")
        };
        assert!(is_stop(&jobs("stop"), "meshd@prod.service"));
        assert!(!is_stop(&jobs("restart"), "meshd@prod.service"));
        assert!(!is_stop(&jobs("stop"), "meshd@pro.service"));
        assert!(!is_stop("No jobs running.\n", "meshd@prod.service"));
    }
}
