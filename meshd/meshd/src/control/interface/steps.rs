//! The steps of a change, each carried out on the live interface.

use std::io::ErrorKind;

use meshd_proto::{Cidr as Network, Endpoint as Place, PresharedKey, PublicKey};

use super::super::world::World;
use super::values::{failure, literal, port_taken, to_network, to_private};
use super::Interface;
use crate::failure::Failure;
use crate::put::Put;
use crate::reload::{Change, PeerSetup, Step};

impl Interface {
    /// Carries out one step ([`Step::Create`] and [`Step::Destroy`] are the caller's).
    pub fn apply(&mut self, world: &mut World, step: &Step) -> Result<(), Failure> {
        let done = match step {
            Step::Create | Step::Destroy => Ok(()),
            Step::PrivateKeys(Change { to, .. }) => {
                let [current, next] = to.each_ref().map(|key| key.as_ref().map(to_private));
                self.device.set_private_keys(current, next);
                Ok(())
            }
            Step::ListenPort(Change { to, .. }) => {
                let port = to.unwrap_or(0);
                match self.outer.set_port(port) {
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        return Err(port_taken(&self.name, port))
                    }
                    other => other,
                }
            }
            Step::FwMark(Change { to, .. }) => self.outer.set_mark(*to),
            Step::Mtu(Change { to, .. }) => self.set_mtu(*to),
            Step::Up(Change { to, .. }) => self
                .net
                .set_up(*to)
                .map(|()| self.device.set_link(&mut world.context(), *to)),
            Step::Relay(Change { to, .. }) => {
                self.relay = *to;
                self.outer.plane.set_relay(*to);
                Ok(())
            }
            Step::Address(put, address) => {
                let done = self.net.address(*put, *address);
                self.outer.plane.set_addresses(self.own_addresses());
                done
            }
            Step::Route(put, route) => self.net.route(*put, *route),
            Step::Forward(put, network) => {
                match put {
                    Put::Add => self.forward.insert(*network),
                    Put::Remove => self.forward.remove(network),
                };
                self.net.forward(*put, *network)
            }
            Step::Peer(key, change) => {
                self.apply_peer(world, key, change);
                Ok(())
            }
            Step::Rename(key, change) => {
                self.rename_peer(world, key, change);
                Ok(())
            }
        };
        done.map_err(|error| failure(&self.name, error))
    }

    fn apply_peer(
        &mut self,
        world: &mut World,
        key: &PublicKey,
        change: &Change<Option<PeerSetup>>,
    ) {
        let Some(to) = &change.to else {
            self.device.remove_peer(key);
            self.endpoints.remove(key);
            return;
        };
        let blank = PeerSetup::default();
        let from = change.from.as_ref().unwrap_or(&blank);
        match &to.endpoint {
            Some(endpoint) => self.endpoints.insert(*key, endpoint.clone()),
            None => self.endpoints.remove(key),
        };
        self.device.transaction(|device| {
            device.upsert_peer(key);
            // The one error these have is a peer that isn't there: our own key, which `conf` refuses.
            if from.next_public_key != to.next_public_key {
                let _ = device.set_peer_keys(key, key, to.next_public_key.as_ref());
            }
            let keys = |peer: &PeerSetup| {
                [&peer.preshared_key, &peer.next_preshared_key].map(|key| {
                    key.as_ref()
                        .map(|secret| PresharedKey::new(*secret.expose()))
                })
            };
            if keys(from) != keys(to) {
                let [current, next] = keys(to);
                let _ = device.set_preshared_keys(key, current.unwrap_or_default(), next);
            }
            if from.allowed_ips != to.allowed_ips {
                let networks: Vec<Network> = to.allowed_ips.iter().filter_map(to_network).collect();
                let _ = device.set_allowed_ips(key, &networks);
            }
            if from.endpoint != to.endpoint {
                if let Some(at) = to.endpoint.as_ref().and_then(literal) {
                    let _ = device.set_endpoint(&mut world.context(), key, Some(Place::new(at)));
                }
            }
            if from.keepalive != to.keepalive {
                let _ = device.set_keepalive(&mut world.context(), key, to.keepalive);
            }
        });
    }

    fn rename_peer(
        &mut self,
        world: &mut World,
        Change { from, to }: &Change<PublicKey>,
        change: &Change<PeerSetup>,
    ) {
        // The one error is a peer that isn't there: then it is made below.
        let _ = self
            .device
            .set_peer_keys(from, to, change.to.next_public_key.as_ref());
        if let Some(endpoint) = self.endpoints.remove(from) {
            self.endpoints.insert(*to, endpoint);
        }
        let mut before = change.from.clone();
        before.next_public_key = change.to.next_public_key;
        let change = Change {
            from: Some(before),
            to: Some(change.to.clone()),
        };
        self.apply_peer(world, to, &change);
    }
}
