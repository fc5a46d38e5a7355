//! A connection on one of the UNIX sockets: bytes collected until a request is whole, answers written as room allows.
//!
//! Nothing here waits, so that a client which stops reading or writing stops nobody else. Requests and answers may hold
//! keys: they are wiped when they are done with.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use meshd_os::passing;

use zeroize::{Zeroize, Zeroizing};

/// Both directions of a connection.
pub struct Conversation {
    stream: UnixStream,
    input: Zeroizing<Vec<u8>>,
    /// Descriptors that came along.
    fds: Vec<OwnedFd>,
    output: Zeroizing<Vec<u8>>,
    written: usize,
    ended: bool,
}

impl Conversation {
    /// Takes a connection over.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Zeroizing::default(),
            fds: Vec::new(),
            output: Zeroizing::default(),
            written: 0,
            ended: false,
        })
    }

    /// Reads what has come, at most `limit` bytes in all. An error ends the conversation.
    pub fn receive(&mut self, limit: usize) -> io::Result<()> {
        let mut chunk = [0; 16384];
        while !self.ended {
            match passing::receive(&self.stream, &mut chunk) {
                Ok((0, _)) => self.ended = true,
                Ok(_) if self.input.len() > limit => return Err(ErrorKind::InvalidData.into()),
                Ok((n, fds)) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    self.fds.extend(fds);
                    // Nothing takes more than one message of them.
                    self.fds.truncate(passing::MOST);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the next whole request: `length` says how long the first one is.
    pub fn next(&mut self, length: impl Fn(&[u8]) -> Option<usize>) -> Option<Zeroizing<Vec<u8>>> {
        let len = length(&self.input)?.min(self.input.len());
        let rest = Zeroizing::new(self.input.split_off(len));
        Some(std::mem::replace(&mut self.input, rest))
    }

    /// Takes the descriptors that came along.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Queues an answer.
    pub fn answer(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Writes what there is room for; whether something is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.zeroize();
        self.written = 0;
        Ok(false)
    }

    /// Whether the other end says nothing more.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
