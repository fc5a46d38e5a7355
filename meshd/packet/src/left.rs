//! Sockets that others have replaced, for as long as something may come to them.
//!
//! Strategy: a peer learns of another port by the first packet that comes from there. What is on its way by then, and what the kernel has
//! for us already, is in the old sockets. So the receiving thread of each queue reads its old pair beside the new one for a moment, takes
//! what is there in the end, and lets go. Who needs the old port sooner says so ([`Left::is_over`]).
//!
//! What it does not do: keep more than one pair a queue waiting (who changes ports faster has the one before emptied and closed), nor send.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use meshd_os::udp::UdpPair;
use meshd_os::{clock, events};
use meshd_proto::Time;

/// Longer than a packet takes to the other side of the earth and back.
const MOMENT: Duration = Duration::from_millis(250);

/// See the file's head.
#[derive(Clone)]
pub(super) struct Left {
    sockets: Arc<[UdpPair]>,
    until: Time,
    /// How often all that was left had been called back when these were.
    called_back: u64,
}

impl Left {
    /// `sockets` are left now.
    pub fn new(sockets: Arc<[UdpPair]>, called_back: u64) -> Self {
        Self {
            sockets,
            until: Time(clock::boottime_ns()).after(MOMENT),
            called_back,
        }
    }

    /// Whether it is time to let go, either by itself or because somebody asked for that meanwhile.
    pub fn is_over(&self, called_back: u64) -> bool {
        self.called_back != called_back || Time(clock::boottime_ns()) >= self.until
    }

    /// The pair of a queue.
    pub fn pair(&self, queue: usize) -> &UdpPair {
        &self.sockets[queue]
    }

    /// Sleeps until one of `fds`, or of `queue`'s sockets, is readable, or it is over. Says which of `fds` are.
    pub fn wait(&self, [a, b, c, d]: [BorrowedFd<'_>; 4], queue: usize) -> io::Result<[bool; 4]> {
        let pair = self.pair(queue);
        // A family that isn't there never has anything to say.
        let [v4, v6] = [&pair.v4, &pair.v6].map(|socket| socket.as_ref().map_or(d, AsFd::as_fd));
        let rest = self.until.since(Time(clock::boottime_ns()));
        let [a, b, c, d, ..] = events::wait_readable([a, b, c, d, v4, v6], Some(rest))?;
        Ok([a, b, c, d])
    }
}
