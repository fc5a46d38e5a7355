//! The packet plane: sealing runs and opening batches of data messages (paper sections 5.4.6 and 6; kernel send.c and
//! receive.c). Called from any number of threads; nothing here waits, allocates or looks at a clock.
//!
//! Sending: look up a [`Route`] by destination, lay the packets out as a *run* (every `stride` bytes: header room,
//! packet padded with zeros to [`crate::padded_len`], tag room; the last may be shorter), then [`Route::seal`].
//! Receiving: collect the data messages of one buffer that name the same receiver index in a [`Batch`], then
//! [`Receiver::open`]. Passing a packet on to another peer (a hub) is looking up its destination and sealing it.

use core::net::IpAddr;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use meshd_aead::{Packet, TAG_LEN};

use crate::endpoint::Endpoint;
use crate::messages::DATA_HEADER;
use crate::packet;
use crate::peer::signal;
use crate::session::Session;
use crate::table::{Receiver, Route, Table};
use crate::time::Time;
use crate::wake::Wake;

/// There is no session to seal with: give the packets to [`crate::Peer::stage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSession;

impl Route {
    /// Seals a run of packets in place: headers are written, counters taken, packets encrypted. `run` is a number of
    /// messages at distance `stride`; each is [`DATA_HEADER`] bytes of room, the packet padded with zeros, and 16
    /// bytes of room for the tag. Only the last may be shorter than `stride`.
    ///
    /// # Errors
    /// [`NoSession`] if there is none, it has ended, or the run is misshapen (a message has no room for header and
    /// tag); `run` is untouched then.
    #[inline]
    pub fn seal(&self, now: Time, run: &mut [u8], stride: usize) -> Result<Wake, NoSession> {
        self.seal_run(now, run, stride, true)
    }

    pub(crate) fn seal_run(
        &self,
        now: Time,
        run: &mut [u8],
        stride: usize,
        data: bool,
    ) -> Result<Wake, NoSession> {
        let session = self.sending().ok_or(NoSession)?;
        if !session.seal(now, run, stride) {
            return Err(NoSession);
        }
        let mut wake = self.peer.sent(now, run.len(), data);
        if session.wants_rekey(now) {
            wake |= self.peer.ask_rekey();
        }
        Ok(wake)
    }

    /// The session to seal with. One that we answered with counts from the moment its initiator used it, before the
    /// control thread knows: the reply to that first packet must not go out under a session that an initiator which
    /// started anew no longer has (kernel receive.c: `wg_noise_received_with_keypair` comes before delivery).
    #[inline]
    pub(crate) fn sending(&self) -> Option<&Arc<Session>> {
        let next = self.next.as_ref();
        next.filter(|next| next.confirmed.load(Ordering::Acquire))
            .or(self.session.as_ref())
    }
}

/// What became of one received data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An inner packet, from an address that its peer may use.
    Packet,
    /// An authentic message without a packet in it.
    Keepalive,
    /// Not authentic, or the session has ended.
    Forged,
    /// Authentic but seen before, or too old to tell.
    Replayed,
    /// Authentic, but its source address is not among the peer's allowed-ips.
    ForeignSource,
    /// Authentic, but not IPv4 or IPv6, or its length field lies.
    Malformed,
}

/// One message of a [`Batch`] after it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Offset in the buffer of the inner packet's first byte.
    pub at: usize,
    /// Length of the inner packet without padding; 0 unless the verdict is [`Verdict::Packet`].
    pub len: usize,
    /// What it is.
    pub verdict: Verdict,
}

/// A packet thread's list of data messages to open, reused so that nothing is allocated on the way.
#[derive(Debug, Default)]
pub struct Batch {
    packets: Vec<Packet>,
    opened: Vec<Opened>,
}

impl Batch {
    /// An empty batch with room for `capacity` messages.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            packets: Vec::with_capacity(capacity),
            opened: Vec::with_capacity(capacity),
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.opened.clear();
    }

    /// Adds the data message at `at..at + len` of the buffer, with the counter that [`crate::classify`] read.
    #[inline]
    pub fn push(&mut self, at: usize, len: usize, counter: u64) {
        self.packets.push(Packet::new(
            at + DATA_HEADER,
            len.saturating_sub(DATA_HEADER),
            counter,
        ));
    }

    /// How many messages are in it.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// After [`Receiver::open`]: what became of each message, in order.
    pub fn opened(&self) -> &[Opened] {
        &self.opened
    }
}

impl Receiver {
    /// Opens the messages of `batch`, which lie in `buf` and came from `from`, all for this receiver.
    ///
    /// Each is authenticated, then held against the replay window, then its source against the allowed-ips. What is
    /// authentic and new moves the peer's endpoint to `from` (roaming) and counts for timers and statistics.
    pub fn open(
        &self,
        table: &Table,
        now: Time,
        from: &Endpoint,
        buf: &mut [u8],
        batch: &mut Batch,
    ) -> Wake {
        batch.opened.clear();
        if self.session.can_receive(now) {
            self.session.receiving().open_batch(buf, &mut batch.packets);
        }
        let (mut bytes, mut data, mut authentic) = (0, false, false);
        {
            let mut replay = self
                .session
                .replay
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut inspector = Inspector::new(table, self.slot);
            for packet in &batch.packets {
                let at = packet.at;
                let (len, verdict) = if !packet.valid {
                    (0, Verdict::Forged)
                } else if !replay.accept(packet.counter) {
                    (0, Verdict::Replayed)
                } else {
                    authentic = true;
                    bytes += packet.len + DATA_HEADER;
                    data |= packet.len > TAG_LEN;
                    inspector.judge(buf.get(at..at + packet.len - TAG_LEN).unwrap_or_default())
                };
                batch.opened.push(Opened { at, len, verdict });
            }
            if authentic {
                self.session.keep_top(&replay);
            }
        }
        if authentic {
            self.note(table, now, from, bytes, data)
        } else {
            Wake::No
        }
    }

    /// What follows from authentic messages, once a batch.
    fn note(&self, table: &Table, now: Time, from: &Endpoint, bytes: usize, data: bool) -> Wake {
        let (peer, session) = (&self.peer, &self.session);
        peer.endpoint.set(Some(*from));
        let mut wake = peer.received(now, bytes, data);
        if !session.confirmed.load(Ordering::Relaxed)
            && !session.confirmed.swap(true, Ordering::SeqCst)
        {
            wake |= peer.signal(signal::CONFIRMED);
        }
        if session.wants_last_minute_rekey(now)
            && !peer.rx.last_minute.load(Ordering::Relaxed)
            && self.is_current(table)
            && !peer.rx.last_minute.swap(true, Ordering::Relaxed)
        {
            wake |= peer.signal(signal::REKEY);
        }
        wake
    }

    /// Whether this is the session its peer's packets are sealed with, not one that was replaced.
    fn is_current(&self, table: &Table) -> bool {
        let session = table.route_of(self.slot).and_then(|route| route.sending());
        session.is_some_and(|session| Arc::ptr_eq(session, &self.session))
    }
}

/// Judges the authentic plaintexts of one batch.
struct Inspector<'a> {
    table: &'a Table,
    slot: u32,
    /// The last source that was found to be the peer's: most of a batch comes from one, which is looked up once.
    known: Option<IpAddr>,
}

impl<'a> Inspector<'a> {
    const fn new(table: &'a Table, slot: u32) -> Self {
        Self {
            table,
            slot,
            known: None,
        }
    }

    /// Length of the inner packet, and what it is.
    #[inline]
    fn judge(&mut self, plain: &[u8]) -> (usize, Verdict) {
        if plain.is_empty() {
            return (0, Verdict::Keepalive);
        }
        let Some(header) = packet::header(plain) else {
            return (0, Verdict::Malformed);
        };
        if self.known != Some(header.source) {
            if self.table.owner(header.source) != Some(self.slot) {
                return (0, Verdict::ForeignSource);
            }
            self.known = Some(header.source);
        }
        (header.len, Verdict::Packet)
    }
}
