//! Messages 1, 2 and cookie replies, in and out (paper sections 5.4 and 6; kernel receive.c and send.c).
//!
//! The order of checks is the defence: mac1 before anything, the cookie before any public key operation when under
//! load, the whole message before any state is touched. What fails is dropped in silence.

use core::sync::atomic::Ordering;

use super::rotation::{Begun, Proof, ALTERNATE_TIMEOUT, MOVES};
use super::spacing::{DISTANCE, INITIATION_INTERVAL};
use super::{jitter, Device, UNDER_LOAD_FOR, UNDER_LOAD_QUEUE};
use crate::cookie::Verdict;
use crate::crypto;
use crate::endpoint::Endpoint;
use crate::handshake::{Introduced, Pending, Proven};
use crate::messages::REKEY_TIMEOUT;
use crate::messages::{self, CookieReply, Handshake, Initiation, Response};
use crate::outputs::{Datagram, Event};
use crate::status::Trouble;
use crate::time::Time;
use crate::timers::Timer;
use crate::Context;

/// After so many answers that were not used we say so.
const SUSPICIOUS_ANSWERS: u32 = 2;

impl Device {
    /// Takes a handshake message or cookie reply ([`crate::Kind::Handshake`]) in. `waiting` is how many more wait behind
    /// it: above [`messages::MAX_QUEUED_HANDSHAKES`]` / 8` we are under load and ask for cookies.
    pub fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        datagram: &[u8],
        from: Endpoint,
        waiting: usize,
    ) {
        if !self.up {
            return;
        }
        match messages::parse_handshake(datagram) {
            None => {}
            Some(Handshake::CookieReply(message)) => self.consume_cookie(ctx, &message),
            Some(Handshake::Initiation(message)) => {
                if let Some(own) = self.admit(ctx, datagram, message.sender, from, waiting) {
                    self.consume_initiation(ctx, &message, from, own);
                }
            }
            Some(Handshake::Response(message)) => {
                if let Some(own) = self.admit(ctx, datagram, message.sender, from, waiting) {
                    self.consume_response(ctx, &message, from, own);
                }
            }
        }
        self.settle(ctx);
    }

    /// Checks the MACs; answers with a cookie if one is missing. Which key of ours (its place) it is addressed to, if we
    /// are to go on.
    fn admit(
        &mut self,
        ctx: &mut Context<'_>,
        message: &[u8],
        sender: u32,
        from: Endpoint,
        waiting: usize,
    ) -> Option<usize> {
        let under_load = self.is_under_load(ctx.now, waiting);
        for (at, own) in self.owns.iter_mut().enumerate() {
            let (checker, limiter) = (&mut own.checker, under_load.then_some(&mut self.limiter));
            match checker.check(message, from.remote, limiter, ctx.now) {
                Verdict::Foreign => {}
                Verdict::Pass => return Some(at),
                Verdict::Drop => return None,
                Verdict::NeedsCookie => {
                    let reply = checker.reply(message, sender, from.remote, ctx.now, ctx.random);
                    ctx.out.datagrams.extend(reply.map(|bytes| Datagram {
                        to: from,
                        bytes: bytes.to_vec(),
                    }));
                    return None;
                }
            }
        }
        None
    }

    fn is_under_load(&mut self, now: Time, waiting: usize) -> bool {
        if waiting >= UNDER_LOAD_QUEUE {
            self.under_load_at = Some(now);
        }
        self.under_load_at
            .is_some_and(|at| !at.expired(now, UNDER_LOAD_FOR))
    }

    /// Starts a handshake with a peer, unless one was started less than 5 s ago, or its keys have just been sent an initiation: then it is
    /// put off until it may be.
    /// `retry` is false when a packet asks for it.
    pub(super) fn initiate(&mut self, slot: u32, ctx: &mut Context<'_>, retry: bool) {
        let now = ctx.now;
        let index = self.new_index(ctx.random);
        let alternates = self.alternates(slot);
        let pair = self.state(slot).and_then(|peer| self.pair(peer, now));
        let Some((own, theirs, left)) = pair.filter(|_| self.up) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if !retry {
            peer.retries = 0;
        }
        let Some(endpoint) = peer.shared.endpoint() else {
            peer.shared.handshaking.store(false, Ordering::SeqCst);
            self.trouble(slot, now, Trouble::NoEndpoint);
            return;
        };
        // Another pair of keys need not wait: what had no answer was another handshake.
        let alternate = retry && alternates;
        let rekey = peer.last_handshake_sent.filter(|_| !alternate);
        let initiated = peer.remotes.iter().filter_map(|remote| remote.initiated);
        let ready = [
            rekey.map(|last| last.after(REKEY_TIMEOUT)),
            initiated.max().map(|last| last.after(DISTANCE)),
        ];
        let ready = ready.into_iter().flatten().max();
        if let Some(ready) = ready.filter(|ready| *ready > now) {
            if !self.timers.is_set(slot, Timer::Retransmit) {
                self.defer(slot, ready);
            }
            return;
        }
        let (Some(own), Some(remote)) = (self.owns.get(own), peer.remotes.get_mut(theirs)) else {
            return;
        };
        let (identity, key) = (&own.identity, remote.key);
        let timestamp = self.stamper.stamp(ctx.wall);
        let initiated = remote.static_static(identity).and_then(|static_static| {
            let ephemeral = crypto::generate(ctx.random);
            Pending::initiate(identity, (&key, static_static), ephemeral, index, timestamp).ok()
        });
        let Some((pending, mut message)) = initiated else {
            self.trouble(slot, now, Trouble::WeakKey);
            return;
        };
        remote.maker.stamp(&mut message, now);
        remote.initiated = Some(now);
        self.former.let_go(now);
        let begun = Begun {
            pending,
            own: identity.public,
            theirs: key,
        };
        if let Some(former) = peer.pending.replace(begun) {
            self.indices.remove(&former.pending.local_index);
        }
        self.indices.insert(index, slot);
        peer.last_handshake_sent = Some(now);
        peer.attempts = peer.attempts.saturating_add(1);
        peer.deferred = false;
        peer.moving &= peer.moves > 0;
        peer.shared.handshaking.store(true, Ordering::SeqCst);
        // An initiation is not data: it starts no timer that somebody would have to be woken for.
        let _ = peer.shared.sent(now, message.len(), false);
        let patience = if left > 0 {
            ALTERNATE_TIMEOUT
        } else {
            REKEY_TIMEOUT
        };
        let retransmit = now.after(patience).after(jitter(ctx.random));
        self.timers.set(slot, Timer::Retransmit, retransmit);
        ctx.out.datagrams.push(Datagram {
            to: endpoint,
            bytes: message.to_vec(),
        });
    }

    /// Puts a handshake off.
    pub(super) fn defer(&mut self, slot: u32, until: Time) {
        if let Some(peer) = self.state_mut(slot) {
            peer.deferred = true;
            peer.shared.handshaking.store(true, Ordering::SeqCst);
            self.timers.set(slot, Timer::Retransmit, until);
        }
    }

    /// Message 1 of a peer, for the key of ours at place `own`: answer it.
    fn consume_initiation(
        &mut self,
        ctx: &mut Context<'_>,
        message: &Initiation<'_>,
        from: Endpoint,
        own: usize,
    ) {
        let Some(identity) = self.owns.get(own).map(|own| &own.identity) else {
            return;
        };
        let Ok(introduced) = Introduced::read(identity, message) else {
            return;
        };
        let key = introduced.peer;
        let Some(slot) = self.whose(&key) else {
            ctx.out.events.push(Event::UnknownPeer(key));
            return;
        };
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(theirs) = peer.remote(&key) else {
            return;
        };
        let Some(static_static) = peer.remotes[theirs].static_static(identity) else {
            return;
        };
        let Ok(proven) = introduced.prove(static_static, message) else {
            return;
        };
        if proven.timestamp <= peer.latest_timestamp {
            self.trouble(slot, ctx.now, Trouble::StaleTimestamp);
            return;
        }
        let flood = peer
            .last_initiation_consumed
            .is_some_and(|last| !last.expired(ctx.now, INITIATION_INTERVAL));
        if flood {
            return;
        }
        peer.latest_timestamp = proven.timestamp;
        peer.last_initiation_consumed = Some(ctx.now);
        self.keep_times(slot);
        self.respond(slot, ctx, proven, message, from, (own, theirs));
    }

    /// Message 2 to a peer whose message 1 is authentic and new.
    fn respond(
        &mut self,
        slot: u32,
        ctx: &mut Context<'_>,
        proven: Proven,
        message: &Initiation<'_>,
        from: Endpoint,
        (own, theirs): (usize, usize),
    ) {
        // Packets may have come under the session before, which the bell has yet to tell: it isn't one that was never used.
        self.confirm(slot, ctx);
        let now = ctx.now;
        let index = self.new_index(ctx.random);
        let ephemeral = crypto::generate(ctx.random);
        let Some(public) = self.owns.get(own).map(|own| own.identity.public) else {
            return;
        };
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        let unused = peer.keypairs.next.is_some();
        peer.unused_answers = if unused {
            peer.unused_answers.saturating_add(1)
        } else {
            0
        };
        let unused_answers = peer.unused_answers;
        let indices = (index, message.sender);
        let preshared_key = peer.answer_with(own > 0 || theirs > 0, now).clone();
        let Ok((keys, mut response)) = proven.respond(&preshared_key, &ephemeral, indices) else {
            return;
        };
        let remote = &mut peer.remotes[theirs];
        remote.maker.stamp(&mut response, now);
        let proof = Proof {
            own: public,
            theirs: remote.key,
            preshared_key,
        };
        let made_with = proof.marks();
        peer.answered = Some(proof);
        peer.shared.endpoint.set(Some(from));
        peer.last_handshake_sent = Some(now);
        // Neither is data, see `initiate`.
        let _ = peer.shared.received(now, messages::INITIATION_LEN, false);
        let _ = peer.shared.sent(now, response.len(), false);
        if unused_answers >= SUSPICIOUS_ANSWERS {
            self.trouble(slot, now, Trouble::AnswerUnused(unused_answers));
        }
        let session = self.new_session(slot, &keys, indices, false, now, made_with);
        self.install(slot, session, now);
        self.arm_persistent(slot, now);
        ctx.out.datagrams.push(Datagram {
            to: from,
            bytes: response.to_vec(),
        });
    }

    /// Message 2 of a peer: the session is there.
    fn consume_response(
        &mut self,
        ctx: &mut Context<'_>,
        message: &Response<'_>,
        from: Endpoint,
        own: usize,
    ) {
        let now = ctx.now;
        let own = self.owns.get(own).map(|own| &own.identity);
        let (Some(identity), Some(&slot)) = (own, self.indices.get(&message.receiver)) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(begun) = peer.pending.take_if(|begun| {
            begun.pending.local_index == message.receiver && begun.own == identity.public
        }) else {
            return;
        };
        let psks = core::iter::once(&peer.preshared_key).chain(&peer.next_preshared_key);
        let Ok((keys, preshared_key)) = begun.pending.finish(identity, psks, message) else {
            // It may be forged: the true answer can still come.
            peer.pending = Some(begun);
            self.trouble(slot, now, Trouble::PresharedKeyMismatch);
            return;
        };
        let proof = Proof {
            own: begun.own,
            theirs: begun.theirs,
            preshared_key: preshared_key.clone(),
        };
        let made_with = proof.marks();
        peer.proof = Some(proof);
        peer.shared.endpoint.set(Some(from));
        let _ = peer.shared.received(now, messages::RESPONSE_LEN, false);
        let indices = (message.receiver, message.sender);
        let session = self.new_session(slot, &keys, indices, true, now, made_with);
        self.install(slot, session, now);
        self.complete(slot, ctx);
        // The responder may not send before it has heard from us (kernel `wg_packet_send_keepalive`).
        self.send_keepalive(slot, ctx);
    }

    /// A cookie for our last message to a peer. Says nothing about where the peer is, so the endpoint stays; nothing is
    /// sent now either: the next retry carries it.
    fn consume_cookie(&mut self, ctx: &mut Context<'_>, message: &CookieReply<'_>) {
        let Some(&slot) = self.indices.get(&message.receiver) else {
            return;
        };
        let consumed = self.state_mut(slot).is_some_and(|peer| {
            let mut makers = peer.remotes.iter_mut().map(|remote| &mut remote.maker);
            makers.any(|maker| maker.consume(message, ctx.now))
        });
        if consumed {
            self.trouble(slot, ctx.now, Trouble::CookieDemanded);
        }
    }

    /// A session is in use: end the handshake and send what has waited (kernel `wg_timers_handshake_complete`).
    pub(super) fn complete(&mut self, slot: u32, ctx: &mut Context<'_>) {
        self.stop_handshake(slot);
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        peer.unused_answers = 0;
        peer.trouble = None;
        peer.last_handshake = Some((ctx.wall, ctx.now));
        peer.shared.rx.last_minute.store(false, Ordering::Relaxed);
        // One that we answered for before its keys were removed is first used now: nobody has moved it yet.
        if peer.keypairs.current_ends_early() {
            peer.moving = true;
            peer.moves = MOVES;
        }
        let moving = peer.moving;
        self.keep_times(slot);
        self.arm_persistent(slot, ctx.now);
        self.event(slot, ctx, Event::Established);
        if moving {
            self.move_on(slot, ctx);
        }
    }

    /// Forgets an initiation under way. Clears the flag that keeps packet threads from asking, so this comes before
    /// staged packets are taken.
    pub(super) fn stop_handshake(&mut self, slot: u32) {
        self.timers.cancel(slot, Timer::Retransmit);
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        peer.retries = 0;
        peer.attempts = 0;
        peer.deferred = false;
        peer.shared.handshaking.store(false, Ordering::SeqCst);
        if let Some(pending) = peer.pending.take() {
            // After a response the index belongs to the session and `pending` was taken before.
            self.indices.remove(&pending.pending.local_index);
        }
    }
}
