//! What follows from time passing, and from what packet threads have signalled (paper section 6, kernel timers.c).

use core::sync::atomic::Ordering;
use core::time::Duration;

use super::{jitter, Device, PeerState, ZERO_KEYS_AFTER};
use crate::keys::PublicKey;
use crate::messages::{self, KEEPALIVE_TIMEOUT, MAX_HANDSHAKE_RETRIES, REKEY_TIMEOUT};
use crate::outputs::{Datagram, Event};
use crate::peer::signal;
use crate::session::Session;
use crate::status::Trouble;
use crate::time::Time;
use crate::timers::Timer;
use crate::wake::{Found, Mark};
use crate::{Context, NoSuchPeer};

/// Data that had no answer for this long asks for a new handshake.
const NEW_HANDSHAKE_TIMEOUT: Duration =
    Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());

impl Device {
    /// When [`Device::tick`] must be called next; `None` while nothing is due ever.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Does what is due at `ctx.now`.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some((slot, timer)) = self.timers.pop(ctx.now) {
            match timer {
                Timer::Retransmit => self.retransmit(slot, ctx),
                Timer::Keepalive => self.keepalive_due(slot, ctx),
                Timer::NewHandshake => self.new_handshake_due(slot, ctx),
                Timer::ZeroKeys => {
                    self.drop_sessions(slot);
                    self.event(slot, ctx, Event::Erased);
                }
                Timer::PersistentKeepalive => self.persistent_due(slot, ctx),
            }
        }
        self.settle(ctx);
    }

    /// Listens to the packet threads: call it after a [`crate::Wake::Yes`].
    pub fn attend(&mut self, ctx: &mut Context<'_>) {
        self.settle(ctx);
    }

    /// Ends every call that may have sent something: what the control thread seals rings the bell like what packet
    /// threads seal, and is heard here.
    pub(super) fn settle(&mut self, ctx: &mut Context<'_>) {
        loop {
            let waiting = self.bell.listen();
            if waiting.is_empty() {
                break;
            }
            for slot in waiting {
                self.heed(slot, ctx);
            }
        }
        self.publish();
    }

    /// Does what a peer's signals ask for.
    fn heed(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot) else {
            return;
        };
        let signals = peer.shared.take_signals();
        if !self.up {
            // A packet thread that still held the old table. Nothing is timed on a link that is down.
            peer.shared.forget_marks();
            return;
        }
        if signals & signal::WATCH != 0 {
            self.watch(slot, ctx);
        }
        if signals & signal::CONFIRMED != 0 {
            self.confirm(slot, ctx);
        }
        if signals & signal::STAGED != 0 {
            self.flush(slot, ctx);
        }
        if signals & signal::PATH != 0 {
            self.event(slot, ctx, Event::PathAsked);
        }
        if signals & signal::REKEY != 0 && self.wants_rekey(slot, ctx.now) {
            self.initiate(slot, ctx, false);
        }
    }

    /// Sends an inner packet to a peer whatever its destination address: staged and released like any other.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn send(
        &mut self,
        ctx: &mut Context<'_>,
        key: &PublicKey,
        packet: &[u8],
    ) -> Result<(), NoSuchPeer> {
        let slot = *self.by_key.get(key).ok_or(NoSuchPeer)?;
        if let Some(peer) = self.state(slot) {
            // The wake-up is this call itself.
            let _ = peer.shared.stage(packet);
        }
        self.flush(slot, ctx);
        self.settle(ctx);
        Ok(())
    }

    /// Shakes hands with a peer now, whether or not there is a session: at a cold start, or to try a new endpoint.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn shake_hands(
        &mut self,
        ctx: &mut Context<'_>,
        key: &PublicKey,
    ) -> Result<(), NoSuchPeer> {
        let slot = *self.by_key.get(key).ok_or(NoSuchPeer)?;
        self.initiate(slot, ctx, false);
        self.settle(ctx);
        Ok(())
    }

    /// No answer to an initiation came in time.
    fn retransmit(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        if core::mem::take(&mut peer.deferred) {
            peer.shared.handshaking.store(false, Ordering::SeqCst);
            let moving = core::mem::take(&mut peer.moving);
            let moving = moving
                && self
                    .state(slot)
                    .is_some_and(|peer| self.wants_to_move(peer));
            if self.lacks_session(slot, ctx.now) || self.wants_rekey(slot, ctx.now) {
                self.initiate(slot, ctx, false);
            } else if moving {
                self.begin_move(slot, ctx);
            }
            return;
        }
        if self.alternates(slot) {
            self.initiate(slot, ctx, true);
            return;
        }
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        if peer.shared.take_fresh() {
            peer.retries = 0;
        }
        let attempts = peer.attempts;
        if peer.retries > MAX_HANDSHAKE_RETRIES {
            self.give_up(slot, ctx);
            return;
        }
        peer.retries += 1;
        // The source may be what is wrong (kernel `wg_socket_clear_peer_endpoint_src`).
        peer.shared.endpoint.unstick();
        self.trouble(slot, ctx.now, Trouble::Unanswered(attempts));
        self.event(slot, ctx, |key| Event::Retrying(key, attempts));
        self.initiate(slot, ctx, true);
    }

    fn give_up(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let attempts = self.state(slot).map_or(0, |peer| peer.attempts);
        self.stop_handshake(slot);
        self.timers.cancel(slot, Timer::Keepalive);
        if !self.timers.is_set(slot, Timer::ZeroKeys) {
            self.timers
                .set(slot, Timer::ZeroKeys, ctx.now.after(ZERO_KEYS_AFTER));
        }
        if let Some(peer) = self.state(slot) {
            peer.shared.rx.owing.reset();
            peer.shared.take_staged();
        }
        self.trouble(slot, ctx.now, Trouble::Unanswered(attempts));
        self.arm_persistent(slot, ctx.now);
        self.event(slot, ctx, Event::GivenUp);
    }

    fn keepalive_due(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot) else {
            return;
        };
        match peer.shared.rx.owing.look(ctx.now, KEEPALIVE_TIMEOUT) {
            Found::Clear => {}
            Found::Later(deadline) => self.timers.set(slot, Timer::Keepalive, deadline),
            Found::Due => {
                let again = peer.shared.rx.owing_again.swap(false, Ordering::Relaxed);
                self.send_keepalive(slot, ctx);
                if let Some(peer) = self.state(slot).filter(|_| again) {
                    peer.shared.rx.owing.start(ctx.now);
                    self.timers
                        .set(slot, Timer::Keepalive, ctx.now.after(KEEPALIVE_TIMEOUT));
                }
            }
        }
    }

    fn new_handshake_due(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot) else {
            return;
        };
        match peer
            .shared
            .tx
            .unanswered
            .look(ctx.now, NEW_HANDSHAKE_TIMEOUT)
        {
            Found::Clear => {}
            Found::Later(deadline) => {
                let deadline = deadline.after(jitter(ctx.random));
                self.timers.set(slot, Timer::NewHandshake, deadline);
            }
            Found::Due => {
                peer.shared.endpoint.unstick();
                self.initiate(slot, ctx, false);
            }
        }
    }

    fn persistent_due(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot).filter(|peer| peer.keepalive > 0) else {
            return;
        };
        let interval = Duration::from_secs(peer.keepalive.into());
        let shared = &peer.shared;
        let last = shared
            .tx
            .last
            .load(Ordering::Relaxed)
            .max(shared.rx.last.load(Ordering::Relaxed));
        let deadline = Time(last).after(interval);
        if deadline > ctx.now {
            self.timers.set(slot, Timer::PersistentKeepalive, deadline);
        } else {
            self.send_keepalive(slot, ctx);
            self.arm_persistent(slot, ctx.now);
        }
    }

    /// Begins to watch the marks that packet threads have started. One that was cleared again meanwhile is looked at
    /// when it could have run out.
    fn watch(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot) else {
            return;
        };
        let (owing, unanswered) = (&peer.shared.rx.owing, &peer.shared.tx.unanswered);
        if !self.up {
            // A packet thread had an old table in its hands; nothing is owed over a link that is down.
            owing.reset();
            unanswered.reset();
            return;
        }
        let deadline = |mark: &Mark, period| mark.deadline(period).unwrap_or(ctx.now.after(period));
        let keepalive = owing.watched().then(|| deadline(owing, KEEPALIVE_TIMEOUT));
        let handshake = unanswered
            .watched()
            .then(|| deadline(unanswered, NEW_HANDSHAKE_TIMEOUT));
        if let Some(keepalive) = keepalive.filter(|_| !self.timers.is_set(slot, Timer::Keepalive)) {
            self.timers.set(slot, Timer::Keepalive, keepalive);
        }
        if let Some(handshake) =
            handshake.filter(|_| !self.timers.is_set(slot, Timer::NewHandshake))
        {
            let deadline = handshake.after(jitter(ctx.random));
            self.timers.set(slot, Timer::NewHandshake, deadline);
        }
    }

    /// The first packet under a session that we answered for has come.
    pub(super) fn confirm(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        let Some(dropped) = peer.keypairs.confirm(ctx.now) else {
            return;
        };
        if let Some(answered) = peer.answered.take() {
            peer.proof = Some(answered);
        }
        if let Some(peer) = self.state(slot) {
            peer.keypairs.keep();
        }
        self.forget(dropped);
        self.reroute(slot);
        self.complete(slot, ctx);
        self.flush(slot, ctx);
    }

    /// Sends an empty message, or what is staged instead; without a session, asks for one.
    pub(super) fn send_keepalive(&mut self, slot: u32, ctx: &mut Context<'_>) {
        if let Some(peer) = self.state(slot) {
            if !peer.shared.has_staged() {
                let _ = peer.shared.stage(&[]);
            }
        }
        self.flush(slot, ctx);
    }

    /// Sends all staged packets, or starts a handshake for them.
    pub(super) fn flush(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let now = ctx.now;
        if self.lacks_session(slot, now) {
            let waits = self.state(slot).is_some_and(|peer| {
                peer.shared.has_staged() && !peer.shared.handshaking.load(Ordering::SeqCst)
            });
            if waits {
                self.initiate(slot, ctx, false);
            }
            return;
        }
        let Some((peer, route)) = self.state(slot).zip(self.table.route_of(slot)) else {
            return;
        };
        let Some(endpoint) = peer.shared.endpoint() else {
            return;
        };
        for packet in peer.shared.take_staged() {
            let mut bytes = vec![0; messages::data_len(packet.len(), self.mtu)];
            bytes[messages::DATA_HEADER..][..packet.len()].copy_from_slice(&packet);
            let stride = bytes.len();
            if route
                .seal_run(now, &mut bytes, stride, !packet.is_empty())
                .is_ok()
            {
                ctx.out.datagrams.push(Datagram {
                    to: endpoint,
                    bytes,
                });
            }
        }
    }

    /// What starts when the link comes up or an endpoint becomes known: a persistent keepalive, else what is staged.
    pub(super) fn wake_up(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let Some(peer) = self.state(slot).filter(|_| self.up) else {
            return;
        };
        if peer.keepalive > 0
            && !self.timers.is_set(slot, Timer::PersistentKeepalive)
            && peer.shared.endpoint().is_some()
        {
            self.send_keepalive(slot, ctx);
            self.arm_persistent(slot, ctx.now);
        } else {
            self.flush(slot, ctx);
        }
    }

    /// Sets the persistent keepalive's timer unless it is set. Without an endpoint there is nothing to keep alive, and
    /// [`Device::set_link`] starts it when the link comes up.
    pub(super) fn arm_persistent(&mut self, slot: u32, now: Time) {
        let armed = |peer: &&PeerState| self.up && peer.keepalive > 0;
        let Some(peer) = self.state(slot).filter(armed) else {
            return;
        };
        if peer.shared.endpoint().is_some() && !self.timers.is_set(slot, Timer::PersistentKeepalive)
        {
            let deadline = now.after(Duration::from_secs(peer.keepalive.into()));
            self.timers.set(slot, Timer::PersistentKeepalive, deadline);
        }
    }

    /// Ends everything under way with a peer.
    pub(super) fn quiet(&mut self, slot: u32) {
        self.stop_handshake(slot);
        self.timers.cancel_all(slot);
        self.drop_sessions(slot);
        if let Some(peer) = self.state_mut(slot) {
            peer.shared.take_staged();
            peer.shared.take_signals();
            peer.shared.forget_marks();
            peer.last_handshake_sent = None;
        }
    }

    fn lacks_session(&self, slot: u32, now: Time) -> bool {
        self.state(slot)
            .is_some_and(|peer| peer.keypairs.sending(now).is_none())
    }

    fn wants_rekey(&self, slot: u32, now: Time) -> bool {
        let wants =
            |session: &Session| session.wants_rekey(now) || session.wants_last_minute_rekey(now);
        self.state(slot)
            .and_then(|peer| peer.keypairs.current.as_ref())
            .is_some_and(|session| wants(session))
    }
}
