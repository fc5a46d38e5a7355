//! The half of a peer that all threads share: endpoint, counters, timer marks, staged packets, signals.
//!
//! Strategy: everything is an atomic, written once a batch; what the transmit thread writes and what the receive
//! thread writes lie on cache lines of their own. The other half (handshake, keypairs, deadlines) belongs to the
//! control thread alone and lives in [`crate::Device`].

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicU8, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::endpoint::{Endpoint, EndpointCell};
use crate::kept::Place;
use crate::messages::MAX_STAGED_PACKETS;
use crate::time::Time;
use crate::wake::{Bell, Mark, Wake};

/// Reasons for a peer to ring the bell; bits of [`Peer::take_signals`].
pub(crate) mod signal {
    /// A [`super::Mark`] was started that nobody watches.
    pub const WATCH: u8 = 1;
    /// The first packet under a session we responded to has come: it may be used for sending now.
    pub const CONFIRMED: u8 = 2;
    /// A packet was staged: a session is needed.
    pub const STAGED: u8 = 4;
    /// The session in use asks for its successor.
    pub const REKEY: u8 = 8;
    /// A large packet wants to know whether the path takes it.
    pub const PATH: u8 = 16;
}

/// A peer, as all threads see it.
#[derive(Debug)]
pub struct Peer {
    slot: u32,
    bell: Arc<Bell>,
    pub(crate) endpoint: EndpointCell,
    signals: AtomicU8,
    /// Set while the control thread works on a new session by itself, so that nobody need ask for one.
    pub(crate) handshaking: AtomicBool,
    staged: Mutex<Staged>,
    /// Where it is kept beyond this process.
    pub(crate) place: Option<Place>,
    pub(crate) tx: Transmit,
    pub(crate) rx: Receive,
    path: Path,
    /// Up to when its share of what it may be told is used up.
    told: AtomicU64,
}

/// One of the things that a peer is told takes so much of its share, which is this large.
const TELLING: Duration = Duration::from_millis(200);
const SHARE: Duration = Duration::from_secs(4);

/// Packets this long and longer ask about their path; there is never a limit below it (RFC 8200 section 5).
pub const PATH_FLOOR: u16 = 1280;
/// A large packet asks again this soon while nobody answers.
const PATH_PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the path: which inner packets it takes, and when to ask again. Read by whoever sends something large.
#[derive(Debug)]
struct Path {
    /// The longest inner packet, bytes.
    limit: AtomicU16,
    /// From when on a large packet asks for a look.
    ask_from: AtomicU64,
    /// The version of the endpoint that it is about.
    endpoint: AtomicU64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            limit: AtomicU16::new(u16::MAX),
            ask_from: AtomicU64::new(u64::MAX),
            endpoint: AtomicU64::new(0),
        }
    }
}

/// Written by whoever sends.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Transmit {
    pub bytes: AtomicU64,
    pub last: AtomicU64,
    /// Data was sent and nothing authentic has come back yet.
    pub unanswered: Mark,
}

/// Written by whoever receives.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Receive {
    pub bytes: AtomicU64,
    pub last: AtomicU64,
    /// Data was received and nothing sent back yet: a keepalive is owed.
    pub owing: Mark,
    /// More data came while one was owed already.
    pub owing_again: AtomicBool,
    /// A new session was asked for because the old one is near its end while we only receive.
    pub last_minute: AtomicBool,
}

/// Packets that wait for a session, oldest first.
#[derive(Debug, Default)]
struct Staged {
    packets: VecDeque<Box<[u8]>>,
    /// Whether one was added since the control thread last asked.
    fresh: bool,
}

impl Peer {
    pub(crate) fn new(slot: u32, bell: Arc<Bell>, place: Option<Place>) -> Self {
        Self {
            slot,
            bell,
            endpoint: EndpointCell::mirrored(place.as_ref().map(Place::mirror)),
            place,
            signals: AtomicU8::new(0),
            handshaking: AtomicBool::new(false),
            staged: Mutex::default(),
            tx: Transmit::default(),
            rx: Receive::default(),
            path: Path::default(),
            told: AtomicU64::new(0),
        }
    }

    /// Whether we may tell it one more thing that its own packets make us tell (an ICMP error, an answer to a question about a
    /// path): twenty at once and five a second, so that one peer can't use up what there is for all.
    pub fn may_be_told(&self, now: Time) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        let next = Time(told.max(now.0)).after(TELLING);
        let may = next.since(now) <= SHARE;
        if may {
            // Another thread may overwrite it: then it is told once more.
            self.told.store(next.0, Ordering::Relaxed);
        }
        may
    }

    /// The longest inner packet that the path takes, bytes; `u16::MAX` when no limit is known.
    #[inline]
    pub fn path_limit(&self) -> u16 {
        self.path.limit.load(Ordering::Relaxed)
    }

    /// What a look at the path has found, and from when on a large packet asks for another.
    pub fn set_path(&self, limit: Option<u16>, ask_from: Time) {
        let limit = limit.map_or(u16::MAX, |limit| limit.max(PATH_FLOOR));
        self.path.limit.store(limit, Ordering::Relaxed);
        self.path.ask_from.store(ask_from.0, Ordering::Relaxed);
    }

    /// A packet of at least [`PATH_FLOOR`] bytes is sent: asks for a look at its path when there was none for a while, or the
    /// peer is somewhere else now. Nobody is asked before [`Peer::set_path`] was called once.
    #[inline]
    pub fn big(&self, now: Time) -> Wake {
        let path = &self.path;
        let ask_from = path.ask_from.load(Ordering::Relaxed);
        let endpoint = self.endpoint.version();
        let moved = endpoint != path.endpoint.load(Ordering::Relaxed);
        if ask_from == u64::MAX || now.0 < ask_from && !moved {
            return Wake::No;
        }
        path.endpoint.store(endpoint, Ordering::Relaxed);
        let again = now.after(PATH_PATIENCE).0;
        path.ask_from.store(again, Ordering::Relaxed);
        self.signal(signal::PATH)
    }

    /// Its place among the device's peers.
    pub(crate) const fn slot(&self) -> u32 {
        self.slot
    }

    /// Where to send to, read without a lock; `None` if it is not known. A batch to a peer without an endpoint is
    /// dropped (the daemon answers with ICMP unreachable), not staged.
    #[inline]
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.get()
    }

    /// Changes whenever the endpoint does, so that a transmit thread may keep a prepared address.
    #[inline]
    pub fn endpoint_version(&self) -> u64 {
        self.endpoint.version()
    }

    /// Forgets the sticky source address: for when the system says that a packet can't be sent from it any more.
    pub fn forget_source(&self) {
        self.endpoint.unstick();
    }

    /// Keeps a packet until there is a session, and asks for one. Copies it; at most [`MAX_STAGED_PACKETS`] are kept,
    /// the oldest is dropped first. Meant for when [`crate::Route::seal`] says that there is no session: this takes a
    /// lock and allocates. An empty packet becomes a keepalive.
    pub fn stage(&self, packet: &[u8]) -> Wake {
        {
            let mut staged = self.lock_staged();
            if staged.packets.len() >= MAX_STAGED_PACKETS {
                staged.packets.pop_front();
            }
            staged.packets.push_back(packet.into());
            staged.fresh = true;
        }
        // The control thread clears `handshaking` before it takes what is staged. So either it sees this packet, or
        // this load sees the cleared flag.
        if self.handshaking.load(Ordering::SeqCst) {
            Wake::No
        } else {
            self.signal(signal::STAGED)
        }
    }

    /// Takes all staged packets.
    pub(crate) fn take_staged(&self) -> VecDeque<Box<[u8]>> {
        core::mem::take(&mut self.lock_staged().packets)
    }

    /// How many packets are staged.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn staged(&self) -> usize {
        self.lock_staged().packets.len()
    }

    /// Whether packets are staged.
    pub(crate) fn has_staged(&self) -> bool {
        !self.lock_staged().packets.is_empty()
    }

    /// Whether a packet was staged since this was last asked.
    pub(crate) fn take_fresh(&self) -> bool {
        core::mem::take(&mut self.lock_staged().fresh)
    }

    fn lock_staged(&self) -> std::sync::MutexGuard<'_, Staged> {
        self.staged
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Rings the bell for `reason`, once until the control thread has taken it.
    pub(crate) fn signal(&self, reason: u8) -> Wake {
        // The first bit is what rings; the others ride along.
        match self.signals.fetch_or(reason, Ordering::SeqCst) {
            0 => self.bell.ring(self.slot),
            _ => Wake::No,
        }
    }

    /// Asks for a new session, cheaply when that was done already: a busy sender comes here once a batch.
    #[inline]
    pub(crate) fn ask_rekey(&self) -> Wake {
        let asked = self.signals.load(Ordering::Relaxed) & signal::REKEY != 0;
        if asked || self.handshaking.load(Ordering::Relaxed) {
            Wake::No
        } else {
            self.signal(signal::REKEY)
        }
    }

    /// Takes the reasons; a later signal rings again.
    pub(crate) fn take_signals(&self) -> u8 {
        self.signals.swap(0, Ordering::SeqCst)
    }

    /// For the control thread: nothing is owed and nothing unanswered any more, and nobody watches.
    pub(crate) fn forget_marks(&self) {
        self.rx.owing.reset();
        self.tx.unanswered.reset();
    }

    /// Notes that something authenticated was sent (kernel `wg_timers_any_authenticated_packet_sent`, `_traversal`,
    /// and `wg_timers_data_sent` if it was data).
    #[inline]
    pub(crate) fn sent(&self, now: Time, bytes: usize, data: bool) -> Wake {
        self.tx.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tx.last.store(now.0, Ordering::Relaxed);
        self.rx.owing.clear();
        if data && self.tx.unanswered.start(now) {
            self.signal(signal::WATCH)
        } else {
            Wake::No
        }
    }

    /// Notes that something authenticated was received (kernel `wg_timers_any_authenticated_packet_received`,
    /// `_traversal`, and `wg_timers_data_received` if it was data).
    #[inline]
    pub(crate) fn received(&self, now: Time, bytes: usize, data: bool) -> Wake {
        self.rx.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.rx.last.store(now.0, Ordering::Relaxed);
        self.tx.unanswered.clear();
        if !data {
            return Wake::No;
        }
        if self.rx.owing.running() && !self.rx.owing_again.load(Ordering::Relaxed) {
            self.rx.owing_again.store(true, Ordering::Relaxed);
        }
        if self.rx.owing.start(now) {
            self.signal(signal::WATCH)
        } else {
            Wake::No
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> (Arc<Bell>, Peer) {
        let bell = Arc::new(Bell::default());
        (bell.clone(), Peer::new(3, bell, None))
    }

    #[test]
    fn staging_is_bounded_and_drops_the_oldest() {
        let (_, peer) = peer();
        for number in 0..=MAX_STAGED_PACKETS {
            let _ = peer.stage(&(number as u32).to_le_bytes());
        }
        let staged = peer.take_staged();
        assert_eq!(staged.len(), MAX_STAGED_PACKETS);
        assert_eq!(*staged[0], 1u32.to_le_bytes());
        assert!(peer.take_fresh() && !peer.take_fresh());
    }

    #[test]
    fn a_peer_rings_once_until_it_is_heard() {
        let (bell, peer) = peer();
        assert!(peer.signal(signal::REKEY).needed());
        assert!(!peer.signal(signal::REKEY).needed());
        assert!(!peer.signal(signal::WATCH).needed());
        assert_eq!(bell.listen(), [3]);
        assert_eq!(peer.take_signals(), signal::REKEY | signal::WATCH);
        assert!(peer.signal(signal::REKEY).needed());
    }

    #[test]
    fn large_packets_ask_about_their_path_now_and_then() {
        let (bell, peer) = peer();
        let s = |seconds: u64| Time(seconds * 1_000_000_000);
        assert!(!peer.big(s(1)).needed(), "nobody cares");
        assert_eq!(peer.path_limit(), u16::MAX);
        peer.set_path(None, s(1));
        assert!(peer.big(s(1)).needed());
        bell.listen();
        peer.take_signals();
        assert!(!peer.big(s(1)).needed());
        assert!(peer.big(s(2)).needed(), "there was no answer");
        bell.listen();
        peer.take_signals();
        peer.set_path(Some(1400), s(7));
        assert!(!peer.big(s(6)).needed());
        let there = Endpoint::new(([192, 0, 2, 1], 1).into());
        peer.endpoint.set(Some(there));
        assert!(peer.big(s(6)).needed(), "it is somewhere else");
        assert_eq!(peer.path_limit(), 1400);
        peer.set_path(Some(100), s(7));
        assert_eq!(peer.path_limit(), PATH_FLOOR);
    }

    #[test]
    fn a_peer_is_told_only_so_much() {
        let (_, peer) = peer();
        let tell = |ms: u64| {
            let now = Time(1).after(Duration::from_millis(ms));
            (0..1000).filter(|_| peer.may_be_told(now)).count()
        };
        assert_eq!([tell(0), tell(199), tell(200), tell(1200)], [20, 0, 1, 5]);
        assert_eq!(tell(1_000_000), 20);
    }

    #[test]
    fn nobody_is_woken_for_a_session_that_is_on_its_way() {
        let (_, peer) = peer();
        peer.handshaking.store(true, Ordering::SeqCst);
        assert!(!peer.stage(&[]).needed());
        peer.handshaking.store(false, Ordering::SeqCst);
        assert!(peer.stage(&[]).needed());
    }

    #[test]
    fn a_busy_conversation_wakes_the_control_thread_once() {
        let (_, peer) = peer();
        assert!(peer.sent(Time(1), 100, true).needed());
        let mut woken = 0;
        for now in 2..1000 {
            woken += usize::from(peer.received(Time(now), 100, true).needed());
            woken += usize::from(peer.sent(Time(now), 100, true).needed());
        }
        assert_eq!(woken, 0, "the bell has rung and nobody has listened yet");
        assert_eq!(peer.take_signals(), signal::WATCH);
        for now in 1000..2000 {
            assert!(!(peer.received(Time(now), 1, true) | peer.sent(Time(now), 1, true)).needed());
        }
    }
}
