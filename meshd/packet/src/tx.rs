//! Out of one queue of the TUN and into the tunnel: one thread, or the receiving one beside its own work (`duty`).
//!
//! Strategy: whatever the queue has is read into the flow queue, since the TUN's own queue is one for all; then packets leave by
//! turns of their flows ([`Flows`]), and after a super-packet or a run of plain ones the TUN is looked at again. A packet's
//! peer is looked up once, however many segments it stands for, and it is cut straight into the outbox. Whole runs leave as
//! they fill, the last one before the thread sleeps. While the socket has no room the TUN is not read: what doesn't fit into
//! the flow queue stays in the TUN, which drops when it is full.

use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshd_os::events::Event;
use meshd_os::offload::{self, Segments, VnetHeader, VNET_LEN};
use meshd_os::tun::{self, Tun};
use meshd_os::udp::{MAX_SEGMENTS, MAX_SEND};
use meshd_os::{clock, events};
use meshd_proto::{packet, Reader, Table, Time};

use super::duty::{Desk, Load, IDLE};
use super::ecn;
use super::flows::{Flows, Leaving};
use super::icmp::{self, Pace, Trouble};
use super::outbox::{Outbox, Posting};
use super::room::Room;
use super::shared::{Settings, Shared};
use super::too_big::{self, Fit};
use super::{Lane, Switches, RELAY_PATIENCE};

/// Turns after which settings and table are looked at anew.
const TURNS: usize = 64;
/// Packets, and bytes, that leave before the TUN is looked at again.
const TURN_PACKETS: usize = MAX_SEGMENTS;
const TURN_LEN: usize = MAX_SEND;

pub(super) struct Tx {
    /// Its number among the queues.
    queue: usize,
    tun: Arc<Tun>,
    shared: Arc<Shared>,
    reader: Reader,
    settings: Settings,
    version: u64,
    room: Room,
    flows: Flows,
    out: Outbox,
    pace: Pace,
    /// Bytes that left, in all.
    sent: usize,
    load: Load,
}

/// How things stand after a look at the TUN, or a batch of them.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ended {
    /// There may be more.
    More,
    /// Nothing waits.
    Empty,
    /// The link was deleted.
    Gone,
}

/// How a batch is sent.
struct How<'a> {
    /// Whether the TUN is read.
    read: bool,
    turns: usize,
    /// Interrupts a wait for room in the socket, which is no longer than `patience`.
    kick: &'a Event,
    patience: Option<Duration>,
}

/// The sending thread: sends whenever the desk has it to do, and gives it back when there was little, if `one_thread`.
pub(super) fn run(desk: &Desk<Tx>, shared: &Shared, queue: usize, one_thread: bool) {
    let kick = &shared.tx_kicks[queue];
    let patience = one_thread.then_some(IDLE);
    loop {
        // Before the look, so that what is put there afterwards is seen in the next turn.
        let stopping = shared.stopping();
        if let Some(tx) = desk.by_sender() {
            shared.sends_apart(queue, true);
            let Some(tx) = tx.run(patience) else { return };
            shared.sends_apart(queue, false);
            desk.to_receiver(tx);
            shared.rx_kicks[queue].raise();
        } else if stopping {
            return;
        }
        if events::wait_readable([kick.as_fd()], None).is_ok() {
            kick.lower();
        }
    }
}

impl Tx {
    pub fn new(lane: Lane, switches: Switches) -> Self {
        let Lane {
            queue,
            tun,
            shared,
            reader,
        } = lane;
        let (version, settings) = shared.settings();
        let out = Outbox::new(switches.gso);
        Self {
            queue,
            tun,
            shared,
            reader,
            settings,
            version,
            room: Room::new(),
            flows: Flows::new(Room::PLACES),
            out,
            pace: Pace::new(),
            sent: 0,
            load: Load::default(),
        }
    }

    /// Sends until there was nothing to send for `patience`, `None` is as long as it takes; gives itself back then. `None` when it is time to
    /// end.
    fn run(mut self: Box<Self>, patience: Option<Duration>) -> Option<Box<Self>> {
        let shared = self.shared.clone();
        let kick = &shared.tx_kicks[self.queue];
        loop {
            // When it is time to end, what was read is sent, and what wasn't is left to a successor.
            let stopping = shared.stopping();
            match self.batch(How {
                read: !stopping,
                turns: TURNS,
                kick,
                patience: None,
            }) {
                Ended::More => {}
                Ended::Empty if stopping => return None,
                Ended::Empty => {
                    self.let_go_of_old();
                    let fds = [self.tun.as_fd(), kick.as_fd()];
                    match events::wait_readable(fds, patience) {
                        Ok([_, true]) => {
                            kick.lower();
                        }
                        Ok([false, false]) => return Some(self),
                        _ => {}
                    }
                }
                Ended::Gone => {
                    shared.link_gone();
                    return None;
                }
            }
        }
    }

    /// Sends what there is while it is little, for the receiving thread. [`Ended::More`]: it is too much for that. `woken`: it ended a
    /// sleep.
    pub fn a_little(&mut self, woken: bool) -> Ended {
        let (shared, before) = (self.shared.clone(), self.sent);
        let ended = self.batch(How {
            read: true,
            turns: 1,
            kick: &shared.rx_kicks[self.queue],
            patience: Some(RELAY_PATIENCE),
        });
        let sent = self.sent.wrapping_sub(before);
        let now = Time(clock::boottime_ns());
        if ended == Ended::Empty && self.load.is_much(now, sent, woken) {
            return Ended::More;
        }
        ended
    }

    /// Sends what was read, before the thread ends.
    pub fn finish(&mut self) {
        let shared = self.shared.clone();
        while self.batch(How {
            read: false,
            turns: TURNS,
            kick: &shared.rx_kicks[self.queue],
            patience: None,
        }) == Ended::More
        {}
    }

    /// To be called before sleep.
    pub fn let_go_of_old(&mut self) {
        self.reader.let_go_of_old();
    }

    fn batch(&mut self, how: How<'_>) -> Ended {
        self.shared.refresh(&mut self.version, &mut self.settings);
        let Self {
            queue,
            tun,
            shared,
            reader,
            settings,
            room,
            flows,
            out,
            pace,
            sent,
            ..
        } = self;
        let mut sender = Sender {
            tun,
            table: reader.table(),
            posting: Posting {
                out,
                shared,
                settings,
                now: Time(clock::boottime_ns()),
                queue: *queue,
                kick: how.kick,
                patience: how.patience,
                route: None,
            },
            pace,
        };
        let mut ended = Ended::More;
        for _ in 0..how.turns {
            ended = if how.read {
                fill(tun, room, flows, sender.posting.now)
            } else {
                Ended::Empty
            };
            if ended == Ended::Gone || ended == Ended::Empty && flows.is_empty() {
                break;
            }
            let (mut packets, mut bytes) = (0, 0);
            while packets < TURN_PACKETS && bytes < TURN_LEN {
                let Some(leaving) = flows.pop(sender.posting.now) else {
                    break;
                };
                let input = room.packet(leaving.place);
                (packets, bytes) = (packets + 1, bytes + input.len());
                sender.send(input, leaving);
                room.free(leaving.place);
            }
            *sent = sent.wrapping_add(bytes);
            sender.posting.now = Time(clock::boottime_ns());
        }
        sender.posting.flush();
        match ended {
            Ended::Empty if !flows.is_empty() => Ended::More,
            ended => ended,
        }
    }
}

/// Moves what the TUN has into the flow queue, as far as there is room.
fn fill(tun: &Tun, room: &mut Room, flows: &mut Flows, now: Time) -> Ended {
    while let Some(landing) = room.landing() {
        match tun.read(landing) {
            Ok(len) => {
                let hash = landing.get(VNET_LEN..len).map_or(0, offload::flow_hash);
                if let Some(place) = room.keep(len) {
                    flows.push(hash, place, len, now);
                }
            }
            Err(e) if tun::detached(&e) => return Ended::Gone,
            Err(e) => {
                if e.kind() != ErrorKind::WouldBlock {
                    // Unknown, so it may last: don't spin.
                    std::thread::sleep(Duration::from_millis(10));
                }
                return Ended::Empty;
            }
        }
    }
    Ended::More
}

/// What packets leave by, for one batch.
struct Sender<'t, 'a> {
    tun: &'a Tun,
    table: &'t Table,
    posting: Posting<'t, 'a>,
    pace: &'a mut Pace,
}

impl Sender<'_, '_> {
    /// Lays out what was read from the TUN for its peer.
    fn send(&mut self, input: &mut [u8], leaving: Leaving) {
        let Some((vnet, packet)) = input.split_first_chunk_mut::<VNET_LEN>() else {
            return;
        };
        let Some(vnet) = VnetHeader::read(vnet) else {
            return;
        };
        let Some(destination) = packet::destination(packet) else {
            return;
        };
        let route = self
            .table
            .route(destination)
            .filter(|route| route.peer.endpoint().is_some());
        let Some(route) = route else {
            if self.pace.allows(self.posting.now) {
                unreachable(self.tun, packet);
            }
            return;
        };
        // A flow that can be told is told; of another the first segment is lost, unless it is all there is (see `Due`).
        let lost = leaving.slow_down && !ecn::mark(packet);
        let Ok(mut segments) = Segments::new(&vnet, packet) else {
            return;
        };
        let lost = lost && !(leaving.last && segments.count() == 1);
        let ecn = ecn::outer(packet);
        let limit = too_big::limit(&self.posting, route, segments.len(0));
        if segments.len(0) > limit {
            match too_big::fit(&mut self.posting, route, &mut segments, limit, ecn) {
                Fit::Fits => {}
                Fit::Fragmented => return,
                fit @ (Fit::Cut | Fit::TooBig) => {
                    if self.pace.allows(self.posting.now) {
                        tell(self.tun, |out| too_big::error(packet, limit, out));
                    }
                    if let Fit::TooBig = fit {
                        return;
                    }
                }
            }
        }
        for i in usize::from(lost)..segments.count() {
            if let Some(slot) = self.posting.slot(route, segments.len(i), ecn) {
                segments.write(i, slot);
            }
        }
    }
}

/// Tells whoever sent `packet` that it can't be delivered.
fn unreachable(tun: &Tun, packet: &[u8]) {
    tell(tun, |out| {
        icmp::error(Trouble::Unreachable, packet, None, out)
    });
}

/// Hands an error to the host.
fn tell(tun: &Tun, error: impl FnOnce(&mut [u8; icmp::MAX_LEN]) -> Option<usize>) {
    let mut buf = [0; icmp::MAX_LEN];
    if let Some(len) = error(&mut buf) {
        // It is a courtesy: when it can't be said, so be it.
        let _ = tun.write(&[
            IoSlice::new(&VnetHeader::PLAIN.write()),
            IoSlice::new(&buf[..len]),
        ]);
    }
}
