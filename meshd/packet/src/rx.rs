//! Out of the tunnel, as far as it comes to one pair of sockets, and into one queue of the TUN: one thread, which sends too while there
//! is little to send (`duty`).
//!
//! Strategy: receive what waits, many datagrams a call, some merged by the kernel; open those that follow one another for the
//! same session as one batch, in place; put flows together again and write them. Handshake messages and answers to our own
//! probes go to control. Nothing of a batch waits for the next one. When what arrives waits here too long, because this
//! thread can't follow, a segment is marked or lost early, so that TCP's windows don't fill the socket's buffer.

use std::io::{ErrorKind, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshd_os::offload::{Coalescer, Headers, Merging, TCP};
use meshd_os::tun::{self, Tun};
use meshd_os::udp::{Datagram, RecvBatch, UdpPair, UdpSocket};
use meshd_os::{clock, events};
use meshd_proto::{classify, packet, Batch, Endpoint, Kind, Local, Reader, Table, Time, Verdict};

use super::duty::Desk;
use super::ecn;
use super::icmp::Pace;
use super::left::Left;
use super::outbox::{Outbox, Posting};
use super::pressure::{Due, Pressure};
use super::probe;
use super::relay::{self, Fate};
use super::shared::{ProbeArrival, Settings, Shared};
use super::tx::{Ended, Tx};
use super::{Lane, Switches, RELAY_PATIENCE};

/// Datagrams, merged or not, taken in one call.
const SLOTS: usize = 16;
/// Messages opened as one batch at most.
const MESSAGES: usize = 256;
/// Receives from one socket before the other has its turn.
const TURNS: usize = 16;
/// The same before a socket is closed: more than its buffer holds, but an end all the same.
const LAST_TURNS: usize = 1024;
/// Shorter ones may be a dialogue's.
const BULK_LEN: usize = 1000;

pub(super) struct Rx {
    /// Its number among the queues.
    queue: usize,
    tun: Arc<Tun>,
    shared: Arc<Shared>,
    reader: Reader,
    settings: Settings,
    version: u64,
    /// The sockets before these, while they are read too.
    left: Option<Left>,
    received: RecvBatch,
    batch: Batch,
    coalescer: Coalescer,
    out: Outbox,
    pace: Pace,
    pressure: Pressure,
    /// The next TCP segment with much in it must tell its flow to slow down.
    slow_down: Due,
    gone: bool,
    desk: Arc<Desk<Tx>>,
    /// While this thread sends too.
    sending: Option<Box<Tx>>,
}

/// Messages that follow one another for the same session, from the same sender.
#[derive(Clone, Copy, PartialEq)]
struct Group {
    receiver: u32,
    from: Endpoint,
    ecn: u8,
}

impl Rx {
    pub fn new(lane: Lane, switches: Switches, desk: Arc<Desk<Tx>>) -> Self {
        let Lane {
            queue,
            tun,
            shared,
            reader,
        } = lane;
        let (version, settings) = shared.settings();
        let offloads = tun.offloads();
        let merging = Merging {
            tcp: offloads.tcp,
            udp: offloads.udp && switches.uso,
        };
        Self {
            queue,
            tun,
            shared,
            reader,
            settings,
            version,
            left: None,
            received: RecvBatch::new(SLOTS),
            batch: Batch::with_capacity(MESSAGES),
            coalescer: Coalescer::new(merging),
            out: Outbox::new(switches.gso),
            pace: Pace::new(),
            pressure: Pressure::default(),
            slow_down: Due::default(),
            gone: false,
            sending: desk.by_receiver(),
            desk,
        }
    }

    pub fn run(mut self) {
        let mut ready = [true; 3];
        while !self.shared.stopping() && !self.gone {
            if self.shared.refresh(&mut self.version, &mut self.settings) {
                self.leave();
            }
            if self.left.is_some() {
                self.receive_from_left(false);
            }
            let sockets = self.settings.sockets.clone();
            let pair = &sockets[self.queue];
            let [v4, v6, tun] = ready;
            if tun {
                self.send(true);
            }
            for (socket, ready) in [(&pair.v4, v4), (&pair.v6, v6)] {
                if let (Some(socket), true) = (socket, ready) {
                    self.receive(socket);
                }
            }
            if !self.gone {
                ready = self.sleep(pair);
            }
        }
        if self.gone {
            self.shared.link_gone();
        } else {
            self.leave();
            self.receive_from_left(true);
        }
        // What the other thread may not have seen before it ended.
        let sending = self.sending.take().or_else(|| self.desk.by_sender());
        if let Some(mut sending) = sending {
            sending.finish();
        }
    }

    fn receive(&mut self, socket: &UdpSocket) {
        for _ in 0..TURNS {
            match socket.receive(&mut self.received) {
                Ok(count) => {
                    self.process();
                    self.send(false);
                    if count < SLOTS {
                        break;
                    }
                }
                // Anything else belongs to a packet sent earlier and is taken by asking, or may last: don't spin.
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// From now on what was left is read beside the others.
    fn leave(&mut self) {
        for left in self.shared.take_left(self.queue) {
            if let Some(before) = self.left.replace(left) {
                self.empty(&before, LAST_TURNS);
            }
        }
    }

    fn receive_from_left(&mut self, ending: bool) {
        let Some(left) = self.left.take() else { return };
        let over = ending || left.is_over(self.shared.called_back());
        self.empty(&left, if over { LAST_TURNS } else { TURNS });
        self.left = Some(left).filter(|_| !over);
    }

    fn empty(&mut self, left: &Left, turns: usize) {
        for socket in left.pair(self.queue).iter() {
            for _ in 0..turns {
                match socket.receive(&mut self.received) {
                    Ok(_) => self.process(),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    // An error belongs to a packet sent earlier.
                    Err(_) => {}
                }
            }
        }
    }

    /// Sends what the TUN has, or hands that on when it is much.
    fn send(&mut self, woken: bool) {
        let Some(mut sending) = self.sending.take() else {
            return;
        };
        match sending.a_little(woken) {
            Ended::Empty => self.sending = Some(sending),
            Ended::More => {
                self.desk.to_sender(sending);
                self.shared.tx_kicks[self.queue].raise();
            }
            Ended::Gone => self.gone = true,
        }
    }

    /// Sleeps until a socket is readable, or the TUN if this thread sends, and says which.
    fn sleep(&mut self, sockets: &UdpPair) -> [bool; 3] {
        self.reader.let_go_of_old();
        if let Some(sending) = &mut self.sending {
            sending.let_go_of_old();
        }
        let event = &self.shared.rx_kicks[self.queue];
        let kick = event.as_fd();
        // A family that isn't there never has anything to say: the kick stands in for it.
        let fds = [
            sockets.v4.as_ref().map_or(kick, AsFd::as_fd),
            sockets.v6.as_ref().map_or(kick, AsFd::as_fd),
            self.sending.as_ref().map_or(kick, |_| self.tun.as_fd()),
            kick,
        ];
        let waited = match &self.left {
            None => events::wait_readable(fds, None),
            Some(left) => left.wait(fds, self.queue),
        };
        match waited {
            Ok([v4, v6, tun, kicked]) => {
                if kicked {
                    event.lower();
                    if let Some(sending) = self.desk.by_receiver() {
                        self.sending = Some(sending);
                    }
                }
                // After a kick the sockets may be others.
                [v4 || kicked, v6 || kicked, tun || kicked]
            }
            Err(_) => [true; 3],
        }
    }

    /// Handles what was received last.
    fn process(&mut self) {
        let now = Time(clock::boottime_ns());
        let Self {
            queue,
            tun,
            shared,
            reader,
            settings,
            received,
            batch,
            coalescer,
            out,
            pace,
            pressure,
            slow_down,
            gone,
            ..
        } = self;
        let table = reader.table();
        let (arena, datagrams) = received.parts();
        let kick = &shared.rx_kicks[*queue];
        let patience = Some(RELAY_PATIENCE);
        let posting = Posting {
            out,
            shared,
            settings,
            queue: *queue,
            now,
            kick,
            patience,
            route: None,
        };
        let mut opener = Opener {
            table,
            now,
            shared,
            settings,
            posting,
            pace,
            slow_down,
            coalescer,
            tun,
            gone,
        };
        let mut group: Option<Group> = None;
        batch.clear();
        let mut bytes = 0;
        for datagram in datagrams {
            bytes += datagram.range().len();
            let from = endpoint(datagram);
            for range in datagram.ranges() {
                match classify(&arena[range.clone()]) {
                    Kind::Data { receiver, counter } => {
                        let next = Group {
                            receiver,
                            from,
                            ecn: datagram.ecn,
                        };
                        if group != Some(next) || batch.len() >= MESSAGES {
                            opener.open(group, arena, batch);
                            group = Some(next);
                        }
                        batch.push(range.start, range.len(), counter);
                    }
                    Kind::Handshake => shared.handshake(&arena[range], from),
                    Kind::Unknown => {}
                }
            }
        }
        opener.open(group, arena, batch);
        opener.finish(arena);
        // All of it had arrived at the start: the last of it waited till now.
        let done = Time(clock::boottime_ns());
        if pressure.signals(done, done.since(now), bytes) {
            slow_down.set(done);
        }
    }
}

fn endpoint(datagram: &Datagram) -> Endpoint {
    let local = datagram.source.map(|source| Local {
        ip: source.ip,
        ifindex: source.ifindex,
    });
    Endpoint {
        remote: datagram.from,
        local,
    }
}

/// What opened packets go through, for one receive.
struct Opener<'t, 'a> {
    table: &'t Table,
    now: Time,
    shared: &'a Shared,
    settings: &'a Settings,
    posting: Posting<'t, 'a>,
    pace: &'a mut Pace,
    slow_down: &'a mut Due,
    coalescer: &'a mut Coalescer,
    tun: &'a Tun,
    gone: &'a mut bool,
}

impl Opener<'_, '_> {
    /// Opens the messages of `batch`, which belong to `group`, delivers what is in them, and empties it.
    fn open(&mut self, group: Option<Group>, arena: &mut [u8], batch: &mut Batch) {
        let Some(group) = group.filter(|_| !batch.is_empty()) else {
            return;
        };
        if let Some(receiver) = self.table.receiver(group.receiver) {
            let wake = receiver.open(self.table, self.now, &group.from, arena, batch);
            self.shared.wake(wake);
            let alone = batch.len() == 1;
            for opened in batch
                .opened()
                .iter()
                .filter(|opened| opened.verdict == Verdict::Packet)
            {
                let at = opened.at..opened.at + opened.len;
                self.deliver(group.ecn, arena, at, alone);
            }
        }
        batch.clear();
    }

    fn deliver(&mut self, outer_ecn: u8, arena: &mut [u8], at: Range<usize>, alone: bool) {
        let packet = &mut arena[at.clone()];
        if !ecn::decapsulate(packet, outer_ecn) {
            return;
        }
        if self.slow_down.is_due(self.now, alone) && bulk(packet) {
            self.slow_down.clear();
            // A flow that can be told is told; another loses the segment.
            if !ecn::mark(packet) {
                return;
            }
        }
        if let Some(reply) = self
            .settings
            .probe_mark
            .as_ref()
            .and_then(|mark| mark.reply(packet))
        {
            self.shared.probe(ProbeArrival {
                from: reply.from,
                sequence: reply.sequence,
                at: self.now,
            });
            return;
        }
        if self.is_answered(packet) {
            return;
        }
        if self.settings.relay {
            let addresses = &self.settings.addresses;
            if relay::pass_on(packet, self.table, addresses, self.pace, &mut self.posting)
                == Fate::Taken
            {
                return;
            }
        }
        let mut sink = sink(self.tun, self.gone);
        self.coalescer.push(arena, at, &mut sink);
    }

    /// Answers what asks about the path to this host; more than a few a moment are the host's own to answer.
    fn is_answered(&mut self, packet: &[u8]) -> bool {
        let Some(answer) = probe::answer(packet, &self.settings.addresses) else {
            return false;
        };
        // That the sender may use its source address was checked when the packet was opened.
        let Some(back) = packet::destination(&answer).and_then(|to| self.table.route(to)) else {
            return false;
        };
        if !(back.peer.may_be_told(self.now) && self.pace.allows(self.now)) {
            return false;
        }
        if let Some(slot) = self.posting.slot(back, answer.len(), 0) {
            slot.copy_from_slice(&answer);
        }
        true
    }

    /// Writes and sends what is still in hand.
    fn finish(&mut self, arena: &[u8]) {
        let mut sink = sink(self.tun, self.gone);
        self.coalescer.flush(arena, &mut sink);
        self.posting.flush();
    }
}

/// Whether a packet belongs to a flow that fills queues and listens: a TCP segment with much in it.
fn bulk(packet: &[u8]) -> bool {
    packet.len() >= BULK_LEN
        && Headers::read(packet).is_some_and(|h| h.protocol == TCP && !h.fragment)
}

fn sink<'a>(tun: &'a Tun, gone: &'a mut bool) -> impl FnMut(&[IoSlice<'_>]) + 'a {
    move |parts| {
        // A link that is down, or memory that is short, loses packets; a link that is deleted ends the thread.
        if let Err(e) = tun.write(parts) {
            *gone |= tun::detached(&e);
        }
    }
}
