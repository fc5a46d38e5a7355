//! A session: one key a direction, the send counter, the replay window (the kernel's `noise_keypair`; paper section
//! 5.4.6). What is fixed is plain data, what moves is atomic; the window has the packet plane's only lock, taken once
//! a batch by the one thread that receives this session's packets.
//!
//! Age ends a session; what it was made with ([`Marks`]) may end it sooner, when keys are removed: then the control thread
//! brings its end forward, and puts it back when they are accepted again. Packet threads look at the one moment only.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;

use meshd_aead::Key;

use crate::handshake::SessionKeys;
use crate::kept::{Cell, Fixed, Kept, Marks, Role};
use crate::messages::{self, DATA_HEADER, DATA_OVERHEAD};
use crate::messages::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
};
use crate::messages::{REKEY_AFTER_TIME, REKEY_TIMEOUT};
use crate::replay::Replay;
use crate::time::Time;

/// A session with a peer. Keys are erased when the last holder drops it.
#[derive(Debug)]
pub struct Session {
    local_index: u32,
    remote_index: u32,
    initiator: bool,
    born: Time,
    made_with: Marks,
    /// From this moment on nothing is sealed or opened.
    end: AtomicU64,
    sending: Key,
    receiving: Key,
    /// The next counter to send with, unless the session is kept: then it is the cell's. Counters are taken before they are
    /// used, and never given back.
    own_counter: AtomicU64,
    /// Where it is kept beyond this process, and the place of its peer there.
    kept: Option<(Cell, usize)>,
    pub(crate) replay: Mutex<Replay>,
    /// As responder: whether the initiator has used it, which shows that it got our response.
    pub(crate) confirmed: AtomicBool,
    /// Cleared when our own key has changed, until it is back: packets are still opened, but none are sealed.
    sendable: AtomicBool,
}

impl Session {
    pub(crate) fn new(
        keys: &SessionKeys,
        (local_index, remote_index): (u32, u32),
        initiator: bool,
        born: Time,
        made_with: Marks,
    ) -> Self {
        Self {
            local_index,
            remote_index,
            initiator,
            born,
            made_with,
            end: AtomicU64::new(born.after(REJECT_AFTER_TIME).0),
            sending: Key::new(&keys.send),
            receiving: Key::new(&keys.receive),
            own_counter: AtomicU64::new(0),
            kept: None,
            replay: Mutex::default(),
            confirmed: AtomicBool::new(initiator),
            sendable: AtomicBool::new(true),
        }
    }

    /// The same, kept in `cell` for the peer in `place` from now on.
    pub(crate) fn kept_in(mut self, cell: Cell, place: usize, keys: &SessionKeys) -> Self {
        cell.fill(&self.fixed(Role::Next, place), keys, &self.made_with);
        self.kept = Some((cell, place));
        self
    }

    /// A session that a predecessor of this process has left. What may have been received by it counts as received.
    pub(crate) fn restore(kept: Kept) -> Self {
        let Kept { fixed, keys, cell } = kept;
        let top = cell.top().load(Ordering::SeqCst);
        let replay = if cell.is_exact() {
            Replay::load(top, cell.ring())
        } else {
            Replay::all_seen(top)
        };
        let indices = (fixed.local_index, fixed.remote_index);
        let session = Self::new(
            &keys,
            indices,
            fixed.initiator,
            fixed.born,
            cell.made_with(),
        );
        if let Some(end) = cell.end() {
            session.end.fetch_min(end.0, Ordering::SeqCst);
        }
        // Whatever came under it has confirmed it.
        let confirmed = fixed.confirmed || top > 0;
        session.confirmed.store(confirmed, Ordering::SeqCst);
        session.sendable.store(fixed.sendable, Ordering::SeqCst);
        Self {
            replay: Mutex::new(replay),
            kept: Some((cell, fixed.place)),
            ..session
        }
    }

    fn fixed(&self, role: Role, place: usize) -> Fixed {
        Fixed {
            role,
            initiator: self.initiator,
            sendable: self.sendable.load(Ordering::SeqCst),
            confirmed: self.confirmed.load(Ordering::SeqCst),
            place,
            local_index: self.local_index,
            remote_index: self.remote_index,
            born: self.born,
        }
    }

    /// Writes down what the session is to its peer now; for the control thread.
    pub(crate) fn keep_as(&self, role: Role) {
        if let Some((cell, place)) = &self.kept {
            cell.update(&self.fixed(role, *place));
        }
    }

    /// Writes the replay window down, for an orderly end. Nothing may be received any more.
    pub(crate) fn keep_window(&self) {
        if let Some((cell, _)) = &self.kept {
            let replay = self
                .replay
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            cell.top().store(replay.next(), Ordering::SeqCst);
            replay.save(cell.ring());
        }
    }

    /// Writes down how far packets were received; before they are delivered.
    #[inline]
    pub(crate) fn keep_top(&self, replay: &Replay) {
        if let Some((cell, _)) = &self.kept {
            cell.top().store(replay.next(), Ordering::Release);
        }
    }

    /// The counter to send with.
    #[inline]
    fn next_counter(&self) -> &AtomicU64 {
        match &self.kept {
            Some((cell, _)) => cell.counter(),
            None => &self.own_counter,
        }
    }

    /// The index we chose: what the peer writes into its messages.
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Whether we started the handshake.
    pub const fn is_initiator(&self) -> bool {
        self.initiator
    }

    pub(crate) fn receiving(&self) -> &Key {
        &self.receiving
    }

    /// Whether packets may be sealed at this moment.
    pub(crate) fn can_send(&self, now: Time) -> bool {
        self.sendable.load(Ordering::Relaxed)
            && self.can_receive(now)
            && self.next_counter().load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether packets may be opened at this moment.
    #[inline]
    pub(crate) fn can_receive(&self, now: Time) -> bool {
        now.0 < self.end.load(Ordering::Relaxed)
    }

    /// What it was made with.
    pub(crate) fn made_with(&self) -> &Marks {
        &self.made_with
    }

    /// Ends it at `end`, unless it ends sooner; whether that is news. For the control thread, like the other two below.
    pub(crate) fn end_at(&self, end: Time) -> bool {
        let sooner = end.0 < self.end.load(Ordering::Relaxed);
        if sooner {
            self.set_end(end, Some(end));
        }
        sooner
    }

    /// Lets it live, and send, as long as its age allows; whether it was not to.
    pub(crate) fn lift_end(&self) -> bool {
        let ended = self.ends_early();
        if ended {
            self.set_end(self.born.after(REJECT_AFTER_TIME), None);
        }
        ended | !self.sendable.swap(true, Ordering::Relaxed)
    }

    /// Whether it ends sooner than its age says.
    pub(crate) fn ends_early(&self) -> bool {
        self.early_end().is_some()
    }

    /// When it ends, if that is sooner than its age says.
    pub(crate) fn early_end(&self) -> Option<Time> {
        let end = Time(self.end.load(Ordering::Relaxed));
        (end < self.born.after(REJECT_AFTER_TIME)).then_some(end)
    }

    /// The cell first: who comes after us must not let it live longer than we did.
    fn set_end(&self, end: Time, kept: Option<Time>) {
        if let Some((cell, _)) = &self.kept {
            cell.set_end(kept);
        }
        self.end.store(end.0, Ordering::Relaxed);
    }

    /// Never seal again with this session.
    pub(crate) fn forbid_sending(&self) {
        self.sendable.store(false, Ordering::Relaxed);
    }

    /// Whether a sender should ask for a new session (kernel send.c `keep_key_fresh`).
    #[inline]
    pub(crate) fn wants_rekey(&self, now: Time) -> bool {
        self.next_counter().load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
            || self.initiator && self.born.expired(now, REKEY_AFTER_TIME)
    }

    /// Whether a receiver should: we started it, it will end soon, and nothing we sent has renewed it (kernel
    /// receive.c `keep_key_fresh`).
    #[inline]
    pub(crate) fn wants_last_minute_rekey(&self, now: Time) -> bool {
        let near_the_end = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        self.initiator && self.born.expired(now, near_the_end)
    }

    /// Seals a run of packets at distance `stride`, see [`crate::Route::seal`]. Gives false, and seals nothing, when
    /// the session may not send any more or the run is misshapen.
    #[inline]
    pub(crate) fn seal(&self, now: Time, run: &mut [u8], stride: usize) -> bool {
        let count = run.len().div_ceil(stride.max(1)) as u64;
        let last = run.len() % stride.max(1);
        if stride < DATA_OVERHEAD
            || (1..DATA_OVERHEAD).contains(&last)
            || count == 0
            || !self.can_send(now)
        {
            return false;
        }
        let first = self.next_counter().fetch_add(count, Ordering::Relaxed);
        // Several threads may pass the look above at once; the limit lies 8192 below the end of the numbers, so
        // none of them can wrap around.
        if first > REJECT_AFTER_MESSAGES - count {
            return false;
        }
        for (counter, message) in (first..).zip(run.chunks_mut(stride)) {
            messages::write_data_header(message, self.remote_index, counter);
        }
        // One packet is the common case of a quiet tunnel, and needs no list of packets.
        match run.get_mut(DATA_HEADER..) {
            Some(text) if count == 1 => self.sending.seal_in_place(first, text),
            _ => self.sending.seal_stride(first, run, stride, DATA_HEADER),
        }
        true
    }

    #[cfg(test)]
    pub(crate) fn set_counter(&self, counter: u64) {
        self.next_counter().store(counter, Ordering::Relaxed);
    }

    /// The next counter to send with.
    pub fn counter(&self) -> u64 {
        self.next_counter().load(Ordering::Relaxed)
    }
}
