//! What the user sets: our key, peers, their networks, endpoints, preshared keys and keepalives.
//!
//! A change keeps everything it doesn't concern: an existing peer keeps its session, endpoint and counters.

use std::sync::Arc;

use super::{Device, PeerState};
use crate::allowed_ips::Cidr;
use crate::endpoint::Endpoint;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::messages::MAX_PEERS;
use crate::peer::Peer;
use crate::time::Time;
use crate::timers::Timer;
use crate::Context;

/// There is no peer with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchPeer;

/// What [`Device::upsert_peer`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// The peer is new.
    Added,
    /// It was there already.
    Kept,
    /// It has our own key, and was not added (kernel netlink.c `set_peer` ignores it silently).
    OwnKey,
    /// There are 2^20 peers.
    Full,
}

impl Device {
    /// The link was set up or down. Down forgets all sessions, staged packets and timers (kernel device.c `wg_stop`); up
    /// sends what is staged and starts persistent keepalives (`wg_open`). While down nothing is sent or received.
    pub fn set_link(&mut self, ctx: &mut Context<'_>, up: bool) {
        if core::mem::replace(&mut self.up, up) == up {
            return;
        }
        self.transaction(|device| {
            for slot in device.slots() {
                if up {
                    device.wake_up(slot, ctx);
                } else {
                    device.quiet(slot);
                }
            }
        });
        self.settle(ctx);
    }

    /// The tunnel's MTU in bytes; bounds padding of the packets sent from here.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// From now on peers that are added ask about their paths: [`crate::Event::PathAsked`].
    pub fn watch_paths(&mut self) {
        self.watches_paths = true;
    }

    /// Sets or clears our key. A peer that has the same key is removed; all sessions end for sending, so that each
    /// peer shakes hands anew with the new key, while packets under way can still be read (kernel `wg_set_device`). Only
    /// where the new key is the one that ours was to change to ([`Device::set_private_keys`]) sessions go on.
    pub fn set_private_key(&mut self, key: Option<PrivateKey>) {
        if self.private_key() == key.as_ref() {
            return;
        }
        self.set_private_keys(key, None);
    }

    /// Adds a peer, or finds it.
    pub fn upsert_peer(&mut self, key: &PublicKey) -> Upsert {
        if self.by_key.contains_key(key) {
            return Upsert::Kept;
        }
        if self.is_own(key) {
            return Upsert::OwnKey;
        }
        // Where another peer was to change to this key, somebody has said otherwise since.
        self.release(key, u32::MAX);
        if self.by_key.len() >= MAX_PEERS {
            return Upsert::Full;
        }
        let slot = self.free_slots.pop().unwrap_or(self.peers.len() as u32);
        let place = self.memory.as_ref().and_then(|memory| memory.place(key));
        let shared = Peer::new(slot, Arc::clone(&self.bell), place);
        if self.watches_paths {
            shared.set_path(None, Time(0));
        }
        let remote = self.former.remote(*key);
        let peer = PeerState::new(remote, shared, self.next_serial);
        self.next_serial += 1;
        match self.peers.get_mut(slot as usize) {
            Some(place) => *place = Some(peer),
            None => self.peers.push(Some(peer)),
        }
        self.by_key.insert(*key, slot);
        self.reroute(slot);
        self.publish();
        Upsert::Added
    }

    /// Removes a peer, its sessions and its networks; whether it was there.
    pub fn remove_peer(&mut self, key: &PublicKey) -> bool {
        let Some(slot) = self.by_key.remove(key) else {
            return false;
        };
        self.quiet(slot);
        self.drop_allowed_ips(slot);
        let next = self.state(slot).and_then(|peer| peer.remotes.get(1));
        if let Some(next) = next.map(|next| next.key) {
            self.by_next.remove(&next);
        }
        if let Some(place) = self.peers.get_mut(slot as usize) {
            for remote in place.take().iter().flat_map(|peer| &peer.remotes) {
                self.former.note(remote);
            }
            self.free_slots.push(slot);
        }
        self.reroute(slot);
        self.publish();
        true
    }

    /// Removes all peers.
    pub fn remove_all_peers(&mut self) {
        let keys: Vec<PublicKey> = self.by_key.keys().copied().collect();
        self.transaction(|device| {
            for key in &keys {
                device.remove_peer(key);
            }
        });
    }

    /// Sets a peer's preshared key; all zeros means none. Used from the next handshake on, also one under way.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn set_preshared_key(
        &mut self,
        key: &PublicKey,
        preshared: PresharedKey,
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        if let Some(peer) = self.state_mut(slot) {
            peer.preshared_key = preshared;
        }
        Ok(())
    }

    /// Sets where a peer is, and sends what waits for it.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn set_endpoint(
        &mut self,
        ctx: &mut Context<'_>,
        key: &PublicKey,
        endpoint: Option<Endpoint>,
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        if let Some(peer) = self.state_mut(slot) {
            peer.configured_endpoint = endpoint.map(|endpoint| endpoint.remote);
            let place = peer.shared.place.as_ref();
            // What a predecessor has learned is better than what was configured even then.
            let learned = peer.inherited && place.is_some_and(|place| place.agrees(endpoint));
            if let Some(place) = place {
                place.set_configured(endpoint);
            }
            let known = peer.shared.endpoint();
            // A sticky source learned for this very address is still right.
            let same = known.map(|known| known.remote) == endpoint.map(|new| new.remote);
            let stays = same || learned && known.is_some();
            if !stays {
                peer.shared.endpoint.set(endpoint);
            }
        }
        self.wake_up(slot, ctx);
        self.settle(ctx);
        Ok(())
    }

    /// Sets a peer's persistent keepalive in seconds, 0 for off. Turning it on sends one at once.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn set_keepalive(
        &mut self,
        ctx: &mut Context<'_>,
        key: &PublicKey,
        seconds: u16,
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        if let Some(peer) = self.state_mut(slot) {
            let former = core::mem::replace(&mut peer.keepalive, seconds);
            if former != seconds {
                self.timers.cancel(slot, Timer::PersistentKeepalive);
            }
            if former == 0 {
                self.wake_up(slot, ctx);
            } else {
                self.arm_persistent(slot, ctx.now);
            }
        }
        self.settle(ctx);
        Ok(())
    }

    /// Makes these a peer's networks, and no others. A network that another peer has moves over.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn set_allowed_ips(
        &mut self,
        key: &PublicKey,
        networks: &[Cidr],
    ) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        self.drop_allowed_ips(slot);
        for network in networks {
            self.give(*network, slot);
        }
        self.publish();
        Ok(())
    }

    /// Gives a network to a peer; it moves over if another has it.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn add_allowed_ip(&mut self, key: &PublicKey, network: Cidr) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        self.give(network, slot);
        self.publish();
        Ok(())
    }

    /// Takes a network away from a peer, if it has it.
    ///
    /// # Errors
    /// [`NoSuchPeer`].
    pub fn remove_allowed_ip(&mut self, key: &PublicKey, network: &Cidr) -> Result<(), NoSuchPeer> {
        let slot = self.slot(key)?;
        if self.allowed_ips.remove(network, slot) {
            self.delist(slot, network);
            self.changed.allowed_ips = true;
        }
        self.publish();
        Ok(())
    }

    pub(super) fn slot(&self, key: &PublicKey) -> Result<u32, NoSuchPeer> {
        self.by_key.get(key).copied().ok_or(NoSuchPeer)
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.by_key.values().copied().collect()
    }

    fn give(&mut self, network: Cidr, slot: u32) {
        if self.allowed_ips.owner(&network) == Some(slot) {
            return;
        }
        if let Some(former) = self.allowed_ips.insert(network, slot) {
            self.delist(former, &network);
        }
        let number = self.next_serial;
        self.next_serial += 1;
        if let Some(peer) = self.state_mut(slot) {
            peer.allowed_ips.insert(network, number);
        }
        self.changed.allowed_ips = true;
    }

    fn delist(&mut self, slot: u32, network: &Cidr) {
        if let Some(peer) = self.state_mut(slot) {
            peer.allowed_ips.remove(network);
        }
    }

    fn drop_allowed_ips(&mut self, slot: u32) {
        let networks = self
            .state_mut(slot)
            .map(|peer| core::mem::take(&mut peer.allowed_ips))
            .unwrap_or_default();
        for network in networks.keys() {
            self.allowed_ips.remove(network, slot);
            self.changed.allowed_ips = true;
        }
    }
}
