//! A connection on one of the UNIX sockets: bytes collected until a request is whole, answers written as room allows.
//!
//! Nothing here waits, so that a client which stops reading or writing stops nobody else. Nor does one that asks faster than
//! it reads fill the memory: while [`FULL`] bytes of answers wait it is neither read from nor served, and no turn serves more
//! than [`TURN`] requests of it. Requests and answers may hold keys: they are wiped when they are done with.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use meshd_os::events::Poller;
use meshd_os::passing;

use zeroize::{Zeroize, Zeroizing};

/// Bytes of answers that wait for a client before it has to read some. One answer may be longer.
const FULL: usize = 256 << 10;

/// Requests of one client that are served, and bytes that are read of it, before others have their turn.
const TURN: u32 = 64;
const TURN_BYTES: usize = 1 << 20;

/// Both directions of a connection.
pub struct Conversation {
    stream: UnixStream,
    input: Zeroizing<Vec<u8>>,
    /// So many bytes of it were requests that have been taken.
    taken: usize,
    /// In so many bytes of it, beside those, no request ends.
    searched: usize,
    /// Descriptors that came along.
    fds: Vec<OwnedFd>,
    output: Zeroizing<Vec<u8>>,
    written: usize,
    /// Requests that may still be served in this turn.
    turn: u32,
    /// It was cut short: there may be more of them.
    more: bool,
    ended: bool,
}

impl Conversation {
    /// Takes a connection over.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Zeroizing::default(),
            taken: 0,
            searched: 0,
            fds: Vec::new(),
            output: Zeroizing::default(),
            written: 0,
            turn: 0,
            more: false,
            ended: false,
        })
    }

    /// Begins a turn, and reads what has come unless there is enough to serve. An error ends the conversation: one is that more
    /// than `limit` bytes wait beside what a turn reads, so that no request of so many is cut off.
    pub fn receive(&mut self, limit: usize) -> io::Result<()> {
        self.turn = TURN;
        let mut room = if std::mem::take(&mut self.more) {
            0
        } else {
            TURN_BYTES
        };
        let mut chunk = Zeroizing::new([0; 16384]);
        while self.listens() && room > 0 {
            match passing::receive(&self.stream, &mut *chunk) {
                Ok((0, _)) => self.ended = true,
                Ok(_) if self.input.len() - self.taken > limit + TURN_BYTES => {
                    return Err(ErrorKind::InvalidData.into());
                }
                Ok((n, fds)) => {
                    // Not each time: so moving costs no more in all than was received.
                    if self.taken > self.input.len() / 2 {
                        self.input.drain(..std::mem::take(&mut self.taken));
                    }
                    append(&mut self.input, &chunk[..n]);
                    self.fds.extend(fds);
                    // Nothing takes more than one message of them.
                    self.fds.truncate(passing::MOST);
                    room = room.saturating_sub(n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the next request that is whole, up to and with `end`; `None` also when it isn't to be served in this turn.
    pub fn next(&mut self, end: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.more = self.turn == 0 || self.is_full();
        if self.more {
            return None;
        }
        let rest = &self.input[self.taken..];
        let from = self.searched;
        let Some(at) = rest[from..].windows(end.len()).position(|few| few == end) else {
            // The end itself may be there in part.
            self.searched = (rest.len() + 1).saturating_sub(end.len());
            return None;
        };
        let request = Zeroizing::new(rest[..from + at + end.len()].to_vec());
        self.searched = 0;
        self.taken += request.len();
        self.turn -= 1;
        if self.taken == self.input.len() {
            self.input.zeroize();
            self.taken = 0;
        }
        Some(request)
    }

    /// Takes the descriptors that came along.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Queues an answer.
    pub fn answer(&mut self, bytes: &[u8]) {
        append(&mut self.output, bytes);
    }

    /// Writes what there is room for, and has `poller` say when to go on. Whether there is anything to go on with.
    pub fn flush(&mut self, poller: &Poller, token: u64) -> io::Result<bool> {
        let left = self.write()?;
        // A turn that was cut short goes on when others have had theirs: whoever reads has room to write to.
        let (read, write) = (self.listens() && !self.more, left || self.more);
        poller
            .watch(&self.stream, token, read, write)
            .map_err(io::Error::other)?;
        Ok(write || !self.ended)
    }

    /// Whether something is left.
    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.written > self.output.len() / 2 {
                        self.output.drain(..std::mem::take(&mut self.written));
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.zeroize();
        self.written = 0;
        Ok(false)
    }

    /// Whether it has so much to read that it isn't read from.
    fn is_full(&self) -> bool {
        self.output.len() - self.written >= FULL
    }

    /// Whether more is taken in. What has ended is always readable: to watch it would be to spin.
    fn listens(&self) -> bool {
        !self.ended && !self.is_full()
    }
}

/// Appends without leaving a copy behind where `to` was before it grew.
fn append(to: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let needed = to.len() + bytes.len();
    if needed > to.capacity() {
        let mut grown = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
        grown.extend_from_slice(to);
        *to = grown;
    }
    to.extend_from_slice(bytes);
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
#[path = "conversation/tests.rs"]
mod tests;
