//! The device's books, checked against each other: for tests and `fuzz`, which call it after every step.
//!
//! It looks for what would be wrong whatever happened before: an index that leads nowhere, a table that packet threads
//! see and the control thread doesn't mean, a timer of nobody, a list without bound.

use std::collections::{BTreeMap, BTreeSet};

use super::ending::GRACE;
use super::Device;
use crate::allowed_ips::Cidr;
use crate::messages::MAX_STAGED_PACKETS;
use crate::time::Time;

impl Device {
    /// See the file's head.
    ///
    /// # Panics
    /// When the books don't agree, with a sentence that says which.
    pub fn assert_sound(&self) {
        self.peers_are_found_by_their_keys();
        self.indices_lead_to_what_is_held();
        self.networks_have_one_owner();
        assert!(!self.changed.held, "no transaction is left open");
        assert!(
            self.up || self.timers.next().is_none(),
            "a link that is down has no deadline: {:?}",
            self.timers
        );
        let living: BTreeSet<u32> = self.by_key.values().copied().collect();
        for slot in self.timers.slots() {
            assert!(
                living.contains(&slot),
                "slot {slot} is free and has a timer"
            );
        }
    }

    /// To be called after [`Device::move_sessions`] at `now`.
    ///
    /// # Panics
    /// When a session outlives its keys, or ends early with keys that are accepted.
    pub fn assert_sessions_end_with_their_keys(&self, now: Time) {
        for peer in self.peers.iter().flatten() {
            for session in peer.keypairs.all() {
                let index = session.local_index();
                if self.accepts(peer, session.made_with()) {
                    assert!(!session.ends_early(), "index {index} ends early");
                } else {
                    let lives = session.can_receive(now.after(GRACE));
                    assert!(!lives, "index {index} outlives its keys");
                }
            }
        }
    }

    fn peers_are_found_by_their_keys(&self) {
        for (at, keys) in [&self.by_key, &self.by_next].into_iter().enumerate() {
            for (key, slot) in keys {
                let remote = self.state(*slot).and_then(|peer| peer.remotes.get(at));
                assert!(
                    remote.is_some_and(|remote| remote.key == *key),
                    "slot {slot} is not the peer that it is known for"
                );
            }
        }
        let next = |peer: &&super::PeerState| peer.remotes.len() > 1;
        assert_eq!(
            self.peers.iter().flatten().filter(next).count(),
            self.by_next.len(),
            "next keys, and peers that have one"
        );
        let filled = self.peers.iter().flatten().count();
        assert_eq!(filled, self.by_key.len(), "peers, and keys of peers");
        let free: BTreeSet<u32> = self.free_slots.iter().copied().collect();
        assert_eq!(free.len(), self.free_slots.len(), "a slot is free twice");
        assert_eq!(
            free.len() + filled,
            self.peers.len(),
            "free slots, and slots that are empty"
        );
        for peer in self.peers.iter().flatten() {
            let staged = peer.shared.staged();
            assert!(staged <= MAX_STAGED_PACKETS, "{staged} packets are staged");
        }
    }

    fn indices_lead_to_what_is_held(&self) {
        let mut held = BTreeMap::new();
        let mut receivers = BTreeSet::new();
        for (slot, peer) in (0..).zip(&self.peers) {
            let Some(peer) = peer else { continue };
            let pairs = &peer.keypairs;
            for session in pairs.all() {
                let index = session.local_index();
                assert_eq!(held.insert(index, slot), None, "index {index} twice");
                receivers.insert(index);
            }
            if let Some(pending) = &peer.pending {
                let index = pending.pending.local_index;
                assert_eq!(held.insert(index, slot), None, "index {index} twice");
            }
        }
        assert_eq!(held, self.indices, "indices, and what they stand for");
        let known: BTreeSet<u32> = self.table.receiver_indices().collect();
        assert_eq!(known, receivers, "the table's receivers, and sessions");
    }

    fn networks_have_one_owner(&self) {
        let mut listed: BTreeMap<Cidr, u32> = BTreeMap::new();
        for (slot, peer) in (0..).zip(&self.peers) {
            for network in peer.iter().flat_map(|peer| peer.allowed_ips.keys()) {
                let former = listed.insert(*network, slot);
                assert_eq!(former, None, "{network} is listed twice");
                let owner = self.allowed_ips.owner(network);
                assert_eq!(owner, Some(slot), "the owner of {network}");
                // Nothing is longer than a host's network, so it must lead here.
                if *network == Cidr::host(network.address()) {
                    let found = self.table.owner(network.address());
                    assert_eq!(found, Some(slot), "who packet threads take {network} for");
                }
            }
        }
        assert_eq!(listed.len(), self.allowed_ips.len(), "networks of nobody");
    }
}
