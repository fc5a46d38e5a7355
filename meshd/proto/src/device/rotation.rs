//! Keys in rotation: a peer may have a next public key and a next preshared key, we a next private key.
//!
//! While there are two, both are accepted, whoever begins. Who begins tries the newest pair of keys first while a session
//! is in use, since a try that fails costs nothing then; else the pair that last worked, since packets wait. When one isn't
//! answered within [`ALTERNATE_TIMEOUT`] the other pairs have their turn, so a peer that knows only one key of ours, or
//! has only one itself (any other WireGuard), goes on working. The initiator takes an answer under either preshared key.
//! The responder must choose: the next one if the peer has shown that it has it, or when a wrong guess costs nothing,
//! and the other one when an answer was not used.
//!
//! A change of keys moves the session in use over by a handshake at once ([`Device::move_sessions`]): the end with the
//! lesser key begins, and the other end only when that hasn't happened after [`YIELD`], because two handshakes that cross
//! drop packets under way (`keypairs.rs`: the session before them goes). A session under a key that is no longer accepted
//! ends soon after (`ending.rs`).
//!
//! What it does not do: say when a key becomes the next one or the only one. That is the configuration's.

use core::time::Duration;

use super::{Device, PeerState};
use crate::cookie::{Checker, Maker};
use crate::crypto::{self, Secret};
use crate::handshake::{Identity, Pending};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::messages::REKEY_TIMEOUT;
use crate::status::Rotation;
use crate::time::Time;
use crate::timers::Timer;
use crate::{Context, NoSuchPeer};

/// The next pair of keys is tried when one had no answer for this long, once each.
pub(super) const ALTERNATE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end with the greater key leaves the move to new keys to the other.
const YIELD: Duration = Duration::from_secs(2);
/// So often a move is begun again; one that is put off counts too.
pub(super) const MOVES: u8 = 6;
/// A peer that was heard of within this time has a session to go on with if a handshake fails; one that has just
/// restarted has been silent for longer.
const IN_USE: Duration = Duration::from_secs(1);

/// One of our own static keys, with what judges messages that are addressed to it.
pub(super) struct Own {
    pub identity: Identity,
    pub checker: Checker,
}

/// One of a peer's static keys.
pub(super) struct Remote {
    pub key: PublicKey,
    pub maker: Maker,
    /// When it was sent its last initiation (`spacing.rs`).
    pub initiated: Option<Time>,
    /// DH with our keys, by the public one, computed when first needed; `None` is a weak key.
    shared: Vec<(PublicKey, Option<Secret>)>,
}

/// A handshake that we began, and the keys it was begun with.
pub(super) struct Begun {
    pub pending: Pending,
    pub own: PublicKey,
    pub theirs: PublicKey,
}

/// What a session was made with.
pub(super) struct Proof {
    pub own: PublicKey,
    pub theirs: PublicKey,
    pub preshared_key: PresharedKey,
}

impl Own {
    fn new(private: PrivateKey) -> Self {
        let identity = Identity::new(private);
        Self {
            checker: Checker::new(&identity.public),
            identity,
        }
    }
}

impl Remote {
    pub fn new(key: PublicKey) -> Self {
        Self {
            key,
            maker: Maker::new(&key),
            initiated: None,
            shared: Vec::new(),
        }
    }

    /// The cached DH of both static keys.
    pub fn static_static(&mut self, own: &Identity) -> Option<&Secret> {
        let known = self.shared.iter().position(|(key, _)| *key == own.public);
        let at = known.unwrap_or_else(|| {
            let secret = crypto::dh(&own.private, &self.key);
            self.shared.push((own.public, secret));
            self.shared.len() - 1
        });
        self.shared.get(at)?.1.as_ref()
    }
}

impl PeerState {
    /// The key that names the peer.
    pub(super) fn key(&self) -> PublicKey {
        self.remotes[0].key
    }

    pub(super) fn remote(&self, key: &PublicKey) -> Option<usize> {
        self.remotes.iter().position(|remote| remote.key == *key)
    }

    fn newest_preshared_key(&self) -> &PresharedKey {
        self.next_preshared_key
            .as_ref()
            .unwrap_or(&self.preshared_key)
    }

    /// The preshared key to answer with. `newer`: the message that is answered shows that its sender knows of a next key.
    pub(super) fn answer_with(&self, newer: bool, now: Time) -> &PresharedKey {
        let Some(next) = &self.next_preshared_key else {
            return &self.preshared_key;
        };
        let proof = self.proof.as_ref();
        let proven = proof.is_some_and(|proof| proof.preshared_key == *next);
        let heard = Time(
            self.shared
                .rx
                .last
                .load(core::sync::atomic::Ordering::Relaxed),
        );
        let spare = self.keypairs.sending(now).is_some() && !heard.expired(now, IN_USE);
        let unused = self.unused_answers % 2 == 1;
        if (proven || newer || spare) != unused {
            next
        } else {
            &self.preshared_key
        }
    }
}

/// The pairs (of our keys, of theirs) in the order they are tried: as places in their lists, which begin with the current
/// key. `proven` is the pair that last worked.
fn order(
    (ours, theirs): (usize, usize),
    proven: (usize, usize),
    in_use: bool,
) -> Vec<(usize, usize)> {
    let newest = (ours.saturating_sub(1), theirs.saturating_sub(1));
    let first = if in_use {
        [newest, proven]
    } else {
        [proven, newest]
    };
    let mut pairs = Vec::with_capacity(4);
    for pair in first.into_iter().chain([(0, 0), (1, 1), (1, 0), (0, 1)]) {
        if pair.0 < ours && pair.1 < theirs && !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

impl Device {
    /// Sets our key and the one that it changes to. A peer that has one of them is removed. With a key in common with
    /// before all sessions go on, and are to be moved to the newest one ([`Device::move_sessions`]); else they end for
    /// sending, as in [`Device::set_private_key`].
    pub fn set_private_keys(&mut self, current: Option<PrivateKey>, next: Option<PrivateKey>) {
        let next = next.filter(|next| current.as_ref().is_some_and(|key| key != next));
        let mut former = core::mem::take(&mut self.owns);
        let mut in_common = false;
        for private in current.into_iter().chain(next) {
            // One that stays keeps the secret of its cookies.
            let known = former
                .iter()
                .position(|own| own.identity.private == private);
            in_common |= known.is_some();
            let own = known.map_or_else(|| Own::new(private), |at| former.swap_remove(at));
            self.owns.push(own);
        }
        let ours: Vec<PublicKey> = self.owns.iter().map(|own| own.identity.public).collect();
        if self.restored {
            self.keep_identity();
        }
        self.transaction(|device| {
            for public in &ours {
                device.remove_peer(public);
            }
            for slot in device.slots() {
                let Some(peer) = device.state_mut(slot) else {
                    continue;
                };
                for remote in &mut peer.remotes {
                    remote.shared.retain(|(own, _)| ours.contains(own));
                }
                if !in_common {
                    peer.keypairs.expire();
                    peer.keypairs.keep();
                    // What was sent before came from somebody else (kernel `wg_noise_reset_last_sent_handshake`).
                    peer.last_handshake_sent = None;
                }
                peer.moving |= in_common;
                let begun = peer.pending.as_ref();
                if !in_common || begun.is_some_and(|begun| !ours.contains(&begun.own)) {
                    device.stop_handshake(slot);
                }
            }
        });
    }

    /// Sets the key that names a peer and the one that it changes to. The peer stays the same whatever its name: endpoint,
    /// networks and counters are kept. With a key in common with before so is the session, and it is to be moved ([`Device::move_sessions`]). Another peer that
    /// has one of these keys loses it, and is removed when that is its name.
    ///
    /// # Errors
    /// [`NoSuchPeer`]: there is none called `name`, or the new name is our own key.
    pub fn set_peer_keys(
        &mut self,
        name: &PublicKey,
        current: &PublicKey,
        next: Option<&PublicKey>,
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(name)?;
        if self.is_own(current) {
            return Err(NoSuchPeer);
        }
        let next = next.filter(|next| *next != current && !self.is_own(next));
        self.transaction(|device| {
            for key in [Some(current), next].into_iter().flatten() {
                device.release(key, slot);
            }
            let Some(peer) = device.state_mut(slot) else {
                return;
            };
            let mut former = core::mem::take(&mut peer.remotes);
            let mut kept = false;
            let remotes = [Some(current), next].into_iter().flatten().map(|key| {
                let known = former.iter().position(|remote| remote.key == *key);
                kept |= known.is_some();
                known.map_or_else(|| device.former.remote(*key), |at| former.swap_remove(at))
            });
            let remotes = remotes.collect();
            let Some(peer) = device.state_mut(slot) else {
                return;
            };
            peer.remotes = remotes;
            let begun = peer.pending.as_ref();
            let lost = begun.is_some_and(|begun| peer.remote(&begun.theirs).is_none());
            // Nobody has shown to be the same under other keys: what was made with the former ones is a stranger's.
            let stranger = !kept;
            for remote in former {
                device.former.note(&remote);
                device.by_key.remove(&remote.key);
                device.by_next.remove(&remote.key);
            }
            device.by_next.remove(current);
            device.by_key.insert(*current, slot);
            if let Some(next) = next {
                device.by_key.remove(next);
                device.by_next.insert(*next, slot);
            }
            if lost || stranger {
                device.stop_handshake(slot);
            }
            if stranger {
                device.drop_sessions(slot);
            }
            if let Some(peer) = device.state_mut(slot) {
                peer.moving = kept;
                if let Some(place) = &peer.shared.place {
                    place.set_key(current);
                }
            }
        });
        Ok(())
    }

    /// Sets a peer's preshared key, all zeros for none, and the one that it changes to. If there is or was one, the session
    /// is to be moved ([`Device::move_sessions`]).
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn set_preshared_keys(
        &mut self,
        name: &PublicKey,
        current: PresharedKey,
        next: Option<PresharedKey>,
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(name)?;
        if let Some(peer) = self.state_mut(slot) {
            peer.moving |= next.is_some() || peer.next_preshared_key.is_some();
            peer.next_preshared_key = next.filter(|next| *next != current);
            peer.preshared_key = current;
        }
        Ok(())
    }

    /// Moves the sessions in use whose keys were changed over to the newest ones, and ends those whose keys are gone 15 s from
    /// now: to be called when all changes are made.
    pub fn move_sessions(&mut self, ctx: &mut Context<'_>) {
        for slot in self.slots() {
            self.end_removed(slot, ctx);
            let moving = self.state_mut(slot).filter(|peer| peer.moving);
            if let Some(peer) = moving {
                peer.moves = MOVES;
                self.move_on(slot, ctx);
            }
        }
        self.settle(ctx);
    }

    pub(super) fn is_own(&self, key: &PublicKey) -> bool {
        self.owns.iter().any(|own| own.identity.public == *key)
    }

    /// Takes a key away from whoever else has it.
    pub(super) fn release(&mut self, key: &PublicKey, unless: u32) {
        if self.by_key.get(key).is_some_and(|slot| *slot != unless) {
            self.remove_peer(key);
        }
        let Some(slot) = self
            .by_next
            .get(key)
            .copied()
            .filter(|slot| *slot != unless)
        else {
            return;
        };
        self.by_next.remove(key);
        let gone = self.state_mut(slot).map(|peer| peer.remotes.split_off(1));
        for remote in gone.iter().flatten() {
            self.former.note(remote);
        }
    }

    /// The peer that has this key, as its name or as the next one.
    pub(super) fn whose(&self, key: &PublicKey) -> Option<u32> {
        self.by_key
            .get(key)
            .or_else(|| self.by_next.get(key))
            .copied()
    }

    /// The keys to begin a handshake with: places in `owns` and in the peer's `remotes`, and how many pairs are left to be
    /// tried after this one. `None` without a key of our own.
    pub(super) fn pair(&self, peer: &PeerState, now: Time) -> Option<(usize, usize, usize)> {
        let own = |key| self.owns.iter().position(|own| own.identity.public == key);
        let proven = peer
            .proof
            .as_ref()
            .and_then(|proof| Some((own(proof.own)?, peer.remote(&proof.theirs)?)));
        let pairs = order(
            (self.owns.len(), peer.remotes.len()),
            proven.unwrap_or_default(),
            peer.keypairs.sending(now).is_some(),
        );
        let attempts = peer.attempts as usize;
        let at = attempts.checked_rem(pairs.len())?;
        let left = (pairs.len() - 1).saturating_sub(attempts);
        pairs.get(at).map(|(own, theirs)| (*own, *theirs, left))
    }

    /// Whether another pair of keys than those of the last try has its first turn next.
    pub(super) fn alternates(&self, slot: u32) -> bool {
        self.state(slot).is_some_and(|peer| {
            let pairs = self.owns.len() * peer.remotes.len();
            (1..pairs).contains(&(peer.attempts as usize))
        })
    }

    /// Whether the session in use was made with other keys than the newest.
    pub(super) fn wants_to_move(&self, peer: &PeerState) -> bool {
        if peer.keypairs.current_ends_early() {
            return true;
        }
        let newest = self.owns.last().zip(peer.remotes.last());
        newest.is_some_and(|(own, remote)| {
            peer.proof.as_ref().is_none_or(|proof| {
                proof.own != own.identity.public
                    || proof.theirs != remote.key
                    || proof.preshared_key != *peer.newest_preshared_key()
            })
        })
    }

    /// Moves a session that is in use over to the newest keys, if it isn't made with them. See the file's head.
    pub(super) fn move_on(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let now = ctx.now;
        let Some(peer) = self.state(slot).filter(|_| self.up) else {
            return;
        };
        let in_use = peer.keypairs.sending(now).is_some();
        let wanted = in_use && self.wants_to_move(peer);
        let proof = peer.proof.as_ref();
        let begins = proof.is_none_or(|proof| proof.own < proof.theirs);
        let ready = peer
            .last_handshake_sent
            .map_or(now, |last| last.after(REKEY_TIMEOUT).max(now));
        if wanted && self.timers.is_set(slot, Timer::Retransmit) {
            // Looked at again when the handshake under way has ended.
            return;
        }
        if let Some(peer) = self.state_mut(slot) {
            peer.moving = wanted;
        }
        if !in_use {
            // What waits for a session may have lost its handshake with a key.
            self.flush(slot, ctx);
        } else if wanted && begins {
            self.begin_move(slot, ctx);
        } else if wanted {
            self.defer(slot, ready.after(YIELD));
        }
    }

    /// Begins a handshake with the newest keys. A keepalive goes ahead: it shows the responder that there is a session to go
    /// on with, so that it dares to answer under the next preshared key.
    pub(super) fn begin_move(&mut self, slot: u32, ctx: &mut Context<'_>) {
        if self
            .state(slot)
            .is_some_and(|peer| peer.next_preshared_key.is_some())
        {
            self.send_keepalive(slot, ctx);
        }
        // One message of it lost, and the handshake falls back to the keys before: the session would stay there till its
        // end. A peer that has one key only is left alone after some tries.
        if let Some(peer) = self.state_mut(slot) {
            peer.moving = peer.moves > 0;
            peer.moves = peer.moves.saturating_sub(1);
        }
        self.initiate(slot, ctx, false);
    }

    /// How far a peer's change of keys is; `None` when none is under way.
    pub(super) fn rotation(&self, peer: &PeerState) -> Option<Rotation> {
        let any =
            self.owns.len() > 1 || peer.remotes.len() > 1 || peer.next_preshared_key.is_some();
        any.then(|| {
            if self.wants_to_move(peer) {
                Rotation::Waiting
            } else {
                Rotation::Moved
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn without_a_next_key_there_is_one_pair() {
        for in_use in [false, true] {
            assert_eq!(order((1, 1), (0, 0), in_use), [(0, 0)]);
        }
        assert_eq!(order((0, 1), (0, 0), true), []);
    }

    #[test]
    fn what_worked_comes_first_unless_nothing_is_at_stake() {
        assert_eq!(order((2, 1), (0, 0), false), [(0, 0), (1, 0)]);
        assert_eq!(order((2, 1), (0, 0), true), [(1, 0), (0, 0)]);
        assert_eq!(order((1, 2), (0, 1), false), [(0, 1), (0, 0)]);
        assert_eq!(
            order((2, 2), (0, 0), false),
            [(0, 0), (1, 1), (1, 0), (0, 1)]
        );
        assert_eq!(
            order((2, 2), (0, 1), true),
            [(1, 1), (0, 1), (0, 0), (1, 0)]
        );
    }
}
