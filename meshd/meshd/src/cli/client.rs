//! The command's end of the control socket: one request, one answer.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use meshd_os::passing;

use crate::control::wire::{Request, Response, MAX_LINE};
use crate::failure::{Exit, Failure};
use crate::paths;

/// How long an answer may take beyond what was asked to wait for. Taking a large mesh live is the longest.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the daemon of a mesh.
pub struct Client {
    name: String,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; a daemon that isn't there is exit 4.
    pub fn connect(name: &str) -> Result<Self, Failure> {
        let path = paths::control_socket(name);
        let stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(
                name,
                "there is no daemon running",
                format!("start it with `systemctl start meshd@{name}` or `meshd start {name}`"),
            )
            .exit(Exit::NotRunning),
            ErrorKind::PermissionDenied => {
                Failure::new(path.display().to_string(), error, "run it as root")
            }
            _ => Failure::new(path.display().to_string(), error, ""),
        })?;
        Ok(Self {
            name: name.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Asks, and waits at most `wait` longer than answers usually take.
    pub fn ask(&mut self, request: &Request, wait: Duration) -> Result<Response, Vec<Failure>> {
        self.ask_with(request, &[], wait)
    }

    /// Asks, and hands descriptors over with it.
    pub fn ask_with(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        wait: Duration,
    ) -> Result<Response, Vec<Failure>> {
        let response = self.exchange(request, fds, wait).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    "the daemon does not answer".to_owned()
                }
                ErrorKind::UnexpectedEof => "the daemon hung up".to_owned(),
                _ => error.to_string(),
            };
            Failure::new(&self.name, why, "see its log")
        })?;
        match response {
            Response::Failed { failures } => Err(failures.into_iter().map(Failure::from).collect()),
            other => Ok(other),
        }
    }

    fn exchange(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        wait: Duration,
    ) -> std::io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(PATIENCE.saturating_add(wait)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        passing::send(stream, &line, fds)?;
        let mut answer = Vec::new();
        (&mut self.stream)
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
