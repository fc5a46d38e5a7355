//! Sessions whose keys were removed: a key that is accepted no more must be of no use to whoever still has it.
//!
//! Every session knows what it was made with ([`Marks`]); nothing is concluded from which one is in use. When a configuration
//! has been taken live each of a peer's sessions is judged: one that was made with a key of ours, a key of the peer's or a
//! preshared key that is accepted no more ends after [`GRACE`], for sending and for receiving. Until then it carries what is
//! under way, while the peer is moved over by a handshake like in any change of keys (`rotation.rs`). A second look doesn't put
//! the end off. When the keys are accepted again (a switch that is taken back) the end is lifted, even if it has come, and so is
//! what a change of our own key forbids: the session's counters and window are what they were.
//!
//! What it does not do: judge what `wg set` does, which ends no session in any WireGuard; erase a session that has ended,
//! which happens as to any other.

use core::time::Duration;

use super::rotation::Proof;
use super::{Device, PeerState};
use crate::kept::{mark, Marks};
use crate::time::Time;
use crate::Context;

/// What a peer that changes its keys together with us is given to move over. The end with the greater key may begin as late as
/// 7 s after the change: it may have sent a handshake just before, which bars the next one for 5 s (REKEY_TIMEOUT), and leaves
/// the other end 2 s to begin (`YIELD`). When the network loses that, the retry comes another 5 s and a third later at most.
/// So there are two tries within 13 s in the worst case, three or more else; 10 s would leave one. A packet that is under way
/// arrives long before.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// What [`Device::judge_sessions`] has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judged {
    /// A session ends early that did not before.
    pub ended: bool,
    /// An end was lifted.
    pub lifted: bool,
}

impl Proof {
    /// How it is remembered and kept.
    pub fn marks(&self) -> Marks {
        [
            mark(&self.own.0),
            mark(&self.theirs.0),
            mark(self.preshared_key.expose()),
        ]
    }
}

impl Device {
    /// Whether a session that was made with these would be made today.
    pub(super) fn accepts(&self, peer: &PeerState, [own, theirs, psk]: &Marks) -> bool {
        let mut owns = self.owns.iter();
        let mut remotes = peer.remotes.iter();
        let mut psks = core::iter::once(&peer.preshared_key).chain(&peer.next_preshared_key);
        owns.any(|key| mark(&key.identity.public.0) == *own)
            && remotes.any(|remote| mark(&remote.key.0) == *theirs)
            && psks.any(|key| mark(key.expose()) == *psk)
    }

    /// Ends a peer's sessions whose keys are gone in [`GRACE`] from now, and lifts the end of those whose keys are back.
    pub(super) fn judge_sessions(&self, slot: u32, now: Time) -> Judged {
        let mut judged = Judged::default();
        let Some(peer) = self.state(slot) else {
            return judged;
        };
        for session in peer.keypairs.all() {
            if self.accepts(peer, session.made_with()) {
                judged.lifted |= session.lift_end();
            } else {
                judged.ended |= session.end_at(now.after(GRACE));
            }
        }
        if judged.lifted {
            peer.keypairs.keep();
        }
        judged
    }

    /// The keys of a peer may have changed: judges its sessions, and sees that no packet is lost by it.
    pub(super) fn end_removed(&mut self, slot: u32, ctx: &mut Context<'_>) {
        let judged = self.judge_sessions(slot, ctx.now);
        if judged.lifted {
            // What has waited for another session can go.
            self.flush(slot, ctx);
        }
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        if peer.keypairs.current_ends_early() {
            peer.moving = true;
        } else if judged.ended && peer.keypairs.sending(ctx.now).is_some() {
            // We have moved, and the peer may not know it yet: a responder goes on sending under the session before until it
            // has had a packet under the new one.
            self.send_keepalive(slot, ctx);
        }
    }
}
