//! What outlives the process: handing a [`Memory`] in, taking up what a predecessor left in it, leaving it to a successor.

use std::collections::BTreeMap;
use std::sync::Arc;

use core::sync::atomic::Ordering;

use super::rotation::Proof;
use super::{Device, ZERO_KEYS_AFTER};
use crate::handshake::SessionKeys;
use crate::kept::{mark, Kept, Marks, Memory, Role, Times};
use crate::peer::signal;
use crate::session::Session;
use crate::table::Receiver;
use crate::time::Time;
use crate::timers::Timer;
use crate::Context;

impl Device {
    /// Keeps peers and sessions in `memory` from now on. Call it on a new device, before it has peers; when it has all of them
    /// call [`Device::restore`].
    pub fn keep_in(&mut self, memory: Arc<Memory>) {
        self.memory = Some(memory);
    }

    /// Takes up what a predecessor has left of the peers that are there: sessions (if we still have one of the keys we had), where they
    /// were last seen, when they shook hands. What it has left of others is erased. Says how many sessions were taken up.
    /// Call it while the link is down to the device, so that nobody shakes hands before.
    pub fn restore(&mut self, ctx: &mut Context<'_>) -> usize {
        let Some(memory) = self.memory.clone() else {
            return 0;
        };
        // As in a live change: with a key in common all sessions go on.
        let ours = self
            .owns
            .iter()
            .any(|own| memory.is_of(&own.identity.public));
        let kept = memory.take_sessions();
        let mut taken = 0;
        self.transaction(|device| {
            for slot in device.slots() {
                device.restore_peer(slot);
            }
            let owners: BTreeMap<usize, u32> = device
                .slots()
                .into_iter()
                .filter_map(|slot| {
                    let peer = device.state(slot).filter(|peer| peer.inherited)?;
                    Some((peer.shared.place.as_ref()?.number, slot))
                })
                .collect();
            for session in kept {
                let owner = owners.get(&session.fixed.place).filter(|_| ours);
                // A session that isn't used is dropped here, which erases it.
                taken += usize::from(
                    owner.is_some_and(|slot| device.restore_session(*slot, session, ctx.now)),
                );
            }
            for slot in device.slots() {
                if let Some(peer) = device.state_mut(slot) {
                    peer.inherited = false;
                }
                // Before packets flow: keys may have gone, or come back, while nobody was there.
                device.judge_sessions(slot, ctx.now);
            }
        });
        memory.forget_rest();
        self.keep_identity();
        self.restored = true;
        taken
    }

    /// Writes down whose sessions are kept from now on.
    pub(super) fn keep_identity(&self) {
        if let Some(memory) = &self.memory {
            let ours = self.owns.iter().map(|own| own.identity.public);
            memory.set_identity(&ours.collect::<Vec<_>>());
        }
    }

    fn restore_peer(&mut self, slot: u32) {
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        let shared = Arc::clone(&peer.shared);
        let Some(place) = shared.place.as_ref().filter(|_| peer.inherited) else {
            return;
        };
        let times = place.times();
        peer.last_handshake = times.last_handshake;
        peer.latest_timestamp = times.latest_timestamp;
        if let Some(marks) = place.proof() {
            self.restore_proof(slot, marks);
        }
        let (received, sent) = place.bytes();
        shared.rx.bytes.store(received, Ordering::Relaxed);
        shared.tx.bytes.store(sent, Ordering::Relaxed);
    }

    /// What the session in use was made with, if it is among the keys there are now: while they rotate it says whether to move.
    fn restore_proof(&mut self, slot: u32, [own, theirs, psk]: Marks) {
        let own = self
            .owns
            .iter()
            .map(|own| own.identity.public)
            .find(|key| mark(&key.0) == own);
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        let theirs = peer
            .remotes
            .iter()
            .map(|remote| remote.key)
            .find(|key| mark(&key.0) == theirs);
        let next = peer.next_preshared_key.as_ref();
        let preshared_key = [Some(&peer.preshared_key), next]
            .into_iter()
            .flatten()
            .find(|key| mark(key.expose()) == psk);
        if let (Some(own), Some(theirs), Some(preshared_key)) = (own, theirs, preshared_key) {
            peer.proof = Some(Proof {
                own,
                theirs,
                preshared_key: preshared_key.clone(),
            });
        }
    }

    fn restore_session(&mut self, slot: u32, kept: Kept, now: Time) -> bool {
        let (role, born) = (kept.fixed.role, kept.fixed.born);
        let index = kept.fixed.local_index;
        let over = born > now || born.expired(now, ZERO_KEYS_AFTER);
        if over || self.indices.contains_key(&index) {
            return false;
        }
        let Some(peer) = self.state_mut(slot) else {
            return false;
        };
        let session = Arc::new(Session::restore(kept));
        if !peer.keypairs.restore(role, Arc::clone(&session)) {
            return false;
        }
        if role == Role::Next && session.confirmed.load(Ordering::SeqCst) {
            // Its initiator has used it, and nobody came to say so. Settling follows.
            let _ = peer.shared.signal(signal::CONFIRMED);
        }
        let receiver = Receiver {
            peer: Arc::clone(&peer.shared),
            session,
            slot,
        };
        self.indices.insert(index, slot);
        self.table.add_receiver(index, receiver);
        self.reroute(slot);
        let deadline = born.after(ZERO_KEYS_AFTER);
        let set = self.timers.deadline(slot, Timer::ZeroKeys);
        if set.is_none_or(|set| set < deadline) {
            self.timers.set(slot, Timer::ZeroKeys, deadline);
        }
        true
    }

    /// Leaves everything to a successor: nothing that is kept changes any more. The packet threads have ended.
    pub fn leave(&self) {
        for peer in self.peers.iter().flatten() {
            for session in peer.keypairs.all() {
                session.keep_window();
            }
        }
        for slot in self.slots() {
            self.keep_times(slot);
        }
        if let Some(memory) = &self.memory {
            memory.leave();
        }
    }

    /// Writes down when a peer shook hands, and its byte counts, which are for people: a crash loses what came since.
    pub(super) fn keep_times(&self, slot: u32) {
        let Some(peer) = self.state(slot) else { return };
        if let Some(place) = &peer.shared.place {
            place.set_times(&Times {
                last_handshake: peer.last_handshake,
                latest_timestamp: peer.latest_timestamp,
            });
            if let Some(proof) = &peer.proof {
                place.set_proof(proof.marks());
            }
            let (rx, tx) = (&peer.shared.rx.bytes, &peer.shared.tx.bytes);
            place.set_bytes((rx.load(Ordering::Relaxed), tx.load(Ordering::Relaxed)));
        }
    }

    /// A new session with a peer, kept where there is room.
    pub(super) fn new_session(
        &self,
        slot: u32,
        keys: &SessionKeys,
        indices: (u32, u32),
        initiator: bool,
        born: Time,
        made_with: Marks,
    ) -> Session {
        let session = Session::new(keys, indices, initiator, born, made_with);
        let place = self.state(slot).and_then(|peer| peer.shared.place.as_ref());
        match place.zip(self.memory.as_ref()) {
            Some((place, memory)) => match memory.cell() {
                Some(cell) => session.kept_in(cell, place.number, keys),
                None => session,
            },
            None => session,
        }
    }
}
