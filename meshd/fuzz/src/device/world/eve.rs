//! What eve does, who owns the network: she loses, holds back and repeats what is under way, and makes things up.

use std::net::SocketAddr;

use blake2::digest::consts::{U16, U32};
use blake2::digest::{FixedOutput, KeyInit, Update};
use meshd_proto::*;

use super::{Dice, Wire, World};

/// Where eve sends from.
pub(in crate::device) fn eve() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}

impl Wire {
    pub fn from_eve(to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self {
            from: eve(),
            to,
            bytes,
        }
    }
}

impl World {
    /// Something that was sent before arrives again, perhaps from elsewhere.
    pub fn repeat(&mut self, wire: Wire) {
        self.arrive(&wire, true);
    }

    /// Something that no node has sent arrives: nothing may come of it.
    pub fn forge(&mut self, wire: Wire) {
        if self.seen.iter().any(|seen| seen.bytes == wire.bytes) {
            return;
        }
        self.arrive(&wire, false);
    }

    /// Eve shakes hands under a key of her own that nobody has as a peer.
    pub fn knock(&mut self, node: usize) {
        let mut eves = Device::new(Tai64n::ZERO);
        let mut dice = Dice(self.now.0 ^ 0xe7e);
        eves.set_private_key(Some(PrivateKey::new([7; 32])));
        let (key, address) = (self.nodes[node].key, self.nodes[node].address);
        let mut out = Outputs::default();
        let wall = WallTime {
            secs: 1_700_000_000,
            nanos: 0,
        };
        let mut ctx = Context {
            now: self.now,
            wall,
            random: &mut dice,
            out: &mut out,
        };
        eves.set_link(&mut ctx, true);
        let _ = eves.upsert_peer(&key);
        let _ = eves.set_endpoint(&mut ctx, &key, Some(Endpoint::new(address)));
        let _ = eves.shake_hands(&mut ctx, &key);
        for datagram in out.datagrams {
            self.forge(Wire::from_eve(address, datagram.bytes));
        }
    }

    /// Something from the past, if there was anything.
    pub fn captured(&self, which: u16) -> Option<Wire> {
        let at = usize::from(which).checked_rem(self.seen.len())?;
        Some(self.seen[at].clone())
    }

    /// Makes the first MAC of a handshake message right again: it needs the receiver's public key and nothing else.
    pub fn sign_mac1(&self, wire: &mut Wire) {
        let Some(node) = self.nodes.iter().find(|node| node.address == wire.to) else {
            return;
        };
        let Some(body) = wire
            .bytes
            .len()
            .checked_sub(32)
            .filter(|_| wire.bytes[0] != 4)
        else {
            return;
        };
        let mut key = blake2::Blake2s::<U32>::default();
        key.update(b"mac1----");
        key.update(&node.key.0);
        let key: [u8; 32] = key.finalize_fixed().into();
        let Ok(mut mac) = blake2::Blake2sMac::<U16>::new_from_slice(&key) else {
            return;
        };
        mac.update(&wire.bytes[..body]);
        let mac: [u8; 16] = mac.finalize_fixed().into();
        wire.bytes[body..body + 16].copy_from_slice(&mac);
    }

    pub fn lose(&mut self, at: u8) {
        if let Some(at) = usize::from(at).checked_rem(self.under_way.len()) {
            let _ = self.under_way.remove(at);
        }
    }

    pub fn hold_back(&mut self, at: u8) {
        if let Some(at) = usize::from(at).checked_rem(self.under_way.len()) {
            self.under_way.rotate_left(at);
        }
    }

    pub fn double(&mut self, at: u8) {
        if let Some(at) = usize::from(at).checked_rem(self.under_way.len()) {
            let again = self.under_way[at].clone();
            self.under_way.push_back(again);
        }
    }

    /// A node has another address from now on.
    pub fn move_to(&mut self, node: usize, place: u8) {
        let address = [198, 51, 100, node as u8 * 80 + place % 4];
        self.nodes[node].address = SocketAddr::from((address, 51820));
    }
}
