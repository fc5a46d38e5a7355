//! Initiations to one responder keep a distance: it drops what comes faster than 50 a second ([`INITIATIONS_PER_SECOND`]; kernel
//! `wg_noise_handshake_consume_initiation`), in silence, and the next try would be 5 s later.
//!
//! Strategy: the time of the last one is remembered with the key that it was for, and for a while when that key is no peer's any more,
//! since `wg setconf` takes all peers out and puts them back. What would come too soon is put off by some milliseconds.

use std::collections::BTreeMap;

use core::time::Duration;

use super::rotation::Remote;
use crate::keys::PublicKey;
use crate::messages::INITIATIONS_PER_SECOND;
use crate::time::Time;

/// What a responder demands.
pub(super) const INITIATION_INTERVAL: Duration =
    Duration::from_nanos(1_000_000_000 / INITIATIONS_PER_SECOND as u64);
/// What an initiator keeps: the kernel's responder looks at a clock that moves in steps of up to 10 ms, and the network may bring the two
/// closer together.
pub(super) const DISTANCE: Duration = Duration::from_millis(30).saturating_add(INITIATION_INTERVAL);
/// So many keys are remembered at most; a responder that was forgotten costs 5 s at worst.
const MAX_FORMER: usize = 1 << 12;

/// When keys that were taken out have been sent their last initiation.
#[derive(Debug, Default)]
pub(super) struct Former(BTreeMap<PublicKey, Time>);

impl Former {
    /// A key of a peer is taken out.
    pub fn note(&mut self, remote: &Remote) {
        let Some(at) = remote.initiated else { return };
        if self.0.len() >= MAX_FORMER {
            self.0.clear();
        }
        self.0.insert(remote.key, at);
    }

    /// A key of a peer that comes, or comes back.
    pub fn remote(&mut self, key: PublicKey) -> Remote {
        let mut remote = Remote::new(key);
        remote.initiated = self.0.remove(&key);
        remote
    }

    /// Forgets what matters no more.
    pub fn let_go(&mut self, now: Time) {
        self.0.retain(|_, at| !at.expired(now, DISTANCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut former = Former::default();
        let remote = |n: usize, initiated| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            let mut remote = Remote::new(PublicKey(key));
            remote.initiated = initiated;
            remote
        };
        for n in 0..=2 * MAX_FORMER {
            former.note(&remote(n, Some(Time(1))));
            assert!(former.0.len() <= MAX_FORMER);
        }
        former.note(&remote(9, None));
        assert_eq!(former.remote(remote(9, None).key).initiated, None);
        let last = remote(2 * MAX_FORMER, None).key;
        assert_eq!(former.remote(last).initiated, Some(Time(1)));
        former.note(&remote(1, Some(Time(1))));
        former.let_go(Time(1).after(DISTANCE));
        assert!(former.0.is_empty());
    }
}
