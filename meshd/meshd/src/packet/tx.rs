//! Out of the TUN and into the tunnel: one thread.
//!
//! Strategy: read until the TUN has nothing more; look a packet's peer up once, however many segments it stands for; cut it
//! straight into the outbox. Whole runs leave as they fill, the last one before the thread sleeps. While the socket has no
//! room the TUN is not read: what queues up stays in the TUN, which drops when it is full.

use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshd_os::offload::{Segments, VnetHeader, VNET_LEN};
use meshd_os::tun::{self, Tun};
use meshd_os::{clock, events};
use meshd_proto::{packet, Reader, Time};

use super::ecn;
use super::icmp::{self, Pace, Trouble};
use super::outbox::{Outbox, Posting};
use super::shared::{Settings, Shared};
use super::Switches;

/// Reads of the TUN after which settings and table are looked at anew.
const READS: usize = 256;
/// The largest packet and its virtio header.
const ROOM: usize = VNET_LEN + 65536;
/// After so long without a packet the table is let go of, so that keys can be erased.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Tx {
    tun: Arc<Tun>,
    shared: Arc<Shared>,
    reader: Reader,
    settings: Settings,
    version: u64,
    input: Vec<u8>,
    out: Outbox,
    pace: Pace,
}

/// What a batch ended with.
enum Ended {
    /// There may be more.
    More,
    /// Nothing waits.
    Empty,
    /// The link was deleted.
    Gone,
}

impl Tx {
    pub fn new(tun: Arc<Tun>, shared: Arc<Shared>, reader: Reader, switches: Switches) -> Self {
        let (version, settings) = shared.settings();
        let out = Outbox::new(switches.gso);
        Self {
            tun,
            shared,
            reader,
            settings,
            version,
            input: vec![0; ROOM],
            out,
            pace: Pace::new(),
        }
    }

    pub fn run(mut self) {
        while !self.shared.stopping() {
            self.shared.refresh(&mut self.version, &mut self.settings);
            match self.batch() {
                Ended::More => {}
                Ended::Empty => self.sleep(),
                Ended::Gone => return self.shared.link_gone(),
            }
        }
    }

    fn sleep(&mut self) {
        let wait = |timeout| {
            events::wait_readable([self.tun.as_fd(), self.shared.tx_kick.as_fd()], timeout)
        };
        let ready = match wait(Some(LINGER)) {
            Ok([false, false]) => {
                self.reader.park();
                wait(None)
            }
            other => other,
        };
        if let Ok([_, true]) = ready {
            self.shared.tx_kick.lower();
        }
    }

    fn batch(&mut self) -> Ended {
        let now = Time(clock::boottime_ns());
        let table = self.reader.table();
        let mut posting = Posting {
            out: &mut self.out,
            shared: &self.shared,
            settings: &self.settings,
            now,
            kick: &self.shared.tx_kick,
            patience: None,
            route: None,
        };
        let mut ended = Ended::More;
        for _ in 0..READS {
            let len = match self.tun.read(&mut self.input) {
                Ok(len) => len,
                Err(e) if tun::detached(&e) => {
                    ended = Ended::Gone;
                    break;
                }
                Err(e) => {
                    if e.kind() != ErrorKind::WouldBlock {
                        // Unknown, so it may last: don't spin.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    ended = Ended::Empty;
                    break;
                }
            };
            let Some((vnet, packet)) = self.input[..len].split_first_chunk::<VNET_LEN>() else {
                continue;
            };
            let Some(vnet) = VnetHeader::read(vnet) else {
                continue;
            };
            let Some(destination) = packet::destination(packet) else {
                continue;
            };
            let route = table
                .route(destination)
                .filter(|route| route.peer.endpoint().is_some());
            let Some(route) = route else {
                if self.pace.allows(now) {
                    unreachable(&self.tun, packet);
                }
                continue;
            };
            let Ok(segments) = Segments::new(&vnet, packet) else {
                continue;
            };
            let ecn = ecn::outer(packet);
            for i in 0..segments.count() {
                if let Some(slot) = posting.slot(route, segments.len(i), ecn) {
                    segments.write(i, slot);
                }
            }
        }
        posting.flush();
        ended
    }
}

/// Tells whoever sent `packet` that it can't be delivered.
fn unreachable(tun: &Tun, packet: &[u8]) {
    let mut buf = [0; icmp::MAX_LEN];
    if let Some(len) = icmp::error(Trouble::Unreachable, packet, None, &mut buf) {
        // It is a courtesy: when it can't be said, so be it.
        let _ = tun.write(&[
            IoSlice::new(&VnetHeader::PLAIN.write()),
            IoSlice::new(&buf[..len]),
        ]);
    }
}
