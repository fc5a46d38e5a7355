//! The command line: one short function per command, in a few files by what they need.
//!
//! Data goes to stdout, talk to stderr. Every [`Failure`] becomes a sentence and an exit code here and
//! nowhere else.

mod apply;
mod check;
mod client;
mod close;
mod keys;
mod options;
mod reach;
mod service;
mod show;
mod space;

use std::process::ExitCode;

pub(crate) use options::Options;

use crate::failure::{Exit, Failure, Outcome};
use crate::supervise;

const HELP: &str = "\
meshd: a WireGuard-compatible tunnel daemon

  meshd run NAME                       the daemon, in the foreground
  meshd start NAME | stop NAME         the same in the background, for hosts without an init
  meshd upgrade NAME                   let the installed version take over, without losing a session
  meshd guard NAME                     close the host as the confirmed configuration says, before `run`
  meshd exec NAME -- PROGRAM …         run a program in the network namespace that the interface lives in
  meshd space NAME                     hand that namespace to the daemon, which may not enter it
  meshd bare IFNAME                    a bare device for `wg`, in the foreground

  meshd stage NAME --id H < conf       check and keep a configuration; H is its SHA-256
  meshd switch NAME --id H --within S  take it live; it goes back by itself after S seconds
  meshd confirm NAME --id H [--wait S] [--force]
  meshd rollback NAME                  back to the confirmed configuration
  meshd remove NAME                    take away the interface and its configuration

  meshd status NAME [--json]           how each link is doing
  meshd ping NAME [--wait S] [--json]  probe each link now
  meshd report NAME --json             what is configured, and what is so

  meshd check [--canonical] < conf     say what is wrong with a configuration
  meshd genkey | pubkey < key          keys in base64
  meshd version [--json]

Exit codes: 0 done; 1 failed; 3 bad configuration; 4 not running; 5 nothing to confirm.
Example: meshd status prod
";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Options::parse(lexopt::Parser::from_env())
        .map_err(Vec::from)
        .and_then(run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            for failure in &failures {
                eprintln!("meshd: {failure}");
            }
            ExitCode::from(
                failures
                    .first()
                    .map_or(Exit::Failed, |failure| failure.exit) as u8,
            )
        }
    }
}

fn run(options: Options) -> Outcome {
    let command = options.command.clone();
    match command.as_str() {
        "help" => print(HELP.trim_end()),
        "version" => keys::version(&options),
        "genkey" => keys::genkey(&options),
        "pubkey" => keys::pubkey(&options),
        "check" => check::check(&options),
        "bare" => crate::control::bare::run(&options.name),
        "run" => crate::control::mesh::run(&options.name),
        "start" => supervise::start(&options.name),
        "stop" => supervise::stop(&options.name),
        "guard" => close::close(&options),
        "upgrade" => service::upgrade(&options),
        "stopping" => service::stopping(&options),
        "supervise" => supervise::supervise(&options.name),
        "space" => space::space(&options),
        "exec" => space::exec(&options),
        "stage" => apply::stage(&options),
        "switch" => apply::switch(&options),
        "confirm" => apply::confirm(&options),
        "rollback" => apply::rollback(&options),
        "remove" => apply::remove(&options),
        "status" => show::status(&options),
        "ping" => show::ping(&options),
        "report" => show::report(&options),
        _ => Err(Failure::new(command, "there is no such command", "see `meshd help`").into()),
    }
}

/// Writes a line to stdout. A reader that went away is not a failure of ours.
pub fn print(line: &str) -> Outcome {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("stdout", error, "is the disk full?").into())
        }
        _ => Ok(()),
    }
}
