//! What a daemon does by itself while all is well: endpoint names, automatic MTU, expiry, probes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshd_proto::{Cidr as Network, Endpoint as Place, PeerStatus, PublicKey, Time};

use super::links::Ask;
use super::loaded::Loaded;
use super::mesh::{name_of, Mesh};
use super::path_mtu::Finding;
use super::running::is_expired;
use super::world;
use crate::reload::{Change, Step};
use meshd_packet::ProbeArrival;

/// After a change of routes the automatic MTU is found again this much later: such changes come in storms.
pub(super) const SETTLE: Duration = Duration::from_secs(1);
/// A peer that was heard of within this time is where it is (paper section 6.5: after 15 s a session is doubted).
const WORKS: Duration = Duration::from_secs(15);

impl Mesh {
    // Names.

    pub(super) fn ask_name(&mut self, name: &str) {
        let mark = self
            .engine
            .interface
            .as_ref()
            .map_or(0, |interface| interface.outer.mark());
        self.names.ask(name, mark);
    }

    pub(super) fn resolved(&mut self) {
        while let Some(answer) = self.names.answer() {
            if let Err(why) = &answer.found {
                eprintln!("meshd: {}: {why}", self.name);
            }
            self.lookups
                .answered(world::now(), &answer.name, answer.found.ok());
            self.point_to(&answer.name);
        }
        self.engine.flush();
    }

    /// Points the peers behind `name` to the address it has now.
    fn point_to(&mut self, name: &str) {
        let Some(interface) = &mut self.engine.interface else {
            return;
        };
        let behind: Vec<(PublicKey, u16)> = interface
            .endpoints
            .iter()
            .filter(|(_, endpoint)| name_of(endpoint).as_deref() == Some(name))
            .map(|(key, endpoint)| (*key, endpoint.port))
            .collect();
        for (key, port) in behind {
            let status = interface.device.peer(&key, world::now());
            let in_use = status
                .as_ref()
                .and_then(|peer| Some(peer.endpoint?.remote.ip()));
            // A session that works is not moved: one lost handshake message says nothing about the address.
            let now = world::now();
            let works = |peer: &PeerStatus| {
                let heard = peer.last_received.is_some_and(|at| !at.expired(now, WORKS));
                peer.connected && (peer.attempts == 0 || heard)
            };
            if status.as_ref().is_some_and(works) {
                continue;
            }
            if let Some(ip) = self.lookups.choose(name, in_use) {
                let place = Place::new(SocketAddr::new(ip, port));
                // The one error is a peer that was removed meanwhile.
                let _ = interface.device.set_endpoint(
                    &mut self.engine.world.context(),
                    &key,
                    Some(place),
                );
            }
        }
        self.find_mtu_soon();
    }

    // MTU and expiry.

    pub(super) fn find_mtu_soon(&mut self) {
        let automatic = self
            .in_force()
            .conf
            .as_ref()
            .is_some_and(|conf| conf.interface.mtu.is_none());
        if automatic && self.engine.interface.is_some() && self.find_mtu_at.is_none() {
            self.find_mtu_at = Some(world::now().after(SETTLE));
        }
    }

    pub(super) fn find_mtu(&mut self) {
        let Some(interface) = &mut self.engine.interface else {
            return;
        };
        // An MTU that somebody else has set since is theirs.
        if interface.found_mtu != Some(interface.mtu()) {
            return;
        }
        let mtu = interface.automatic_mtu([]);
        if mtu != interface.mtu() {
            match interface.set_mtu(mtu) {
                Ok(()) => interface.found_mtu = Some(mtu),
                Err(error) => eprintln!("meshd: warning: {}: {error}", self.name),
            }
        }
    }

    pub(super) fn plan_expiry(&mut self, loaded: &Loaded) {
        let utc = world::utc();
        let next = loaded
            .conf
            .iter()
            .flat_map(|conf| &conf.peers)
            .filter_map(|peer| peer.expires)
            .filter(|at| *at > utc)
            .min();
        // The alarm follows the clock when it is set, forward or back.
        let at = next.map(|at| at.0.saturating_mul(1_000_000_000));
        if let Err(error) = self.calendar.set(at) {
            eprintln!("meshd: warning: {}: {error}", self.name);
        }
    }

    /// Drops the peers whose time is over.
    pub(super) fn expire(&mut self) {
        self.calendar.clear();
        let now = world::utc();
        let over: Vec<PublicKey> = self
            .configured_peers()
            .filter(|peer| is_expired(peer, now))
            .map(|peer| peer.public_key)
            .collect();
        if let Some(interface) = &mut self.engine.interface {
            for key in over {
                let gone = Change {
                    from: None,
                    to: None,
                };
                if let Err(failure) =
                    interface.apply(&mut self.engine.world, &Step::Peer(key, Box::new(gone)))
                {
                    eprintln!("meshd: warning: {failure}");
                }
            }
        }
        self.engine.flush();
        self.plan_expiry(&self.in_force().clone());
    }

    // Paths.

    /// A large packet asks whether its path takes it.
    pub(super) fn look_at_path(&mut self, key: &PublicKey) {
        let Some(interface) = &self.engine.interface else {
            return;
        };
        let (now, top) = (world::now(), interface.mtu());
        let peer = interface.device.peer(key, now);
        let shared = interface.device.shared_peer(key);
        if let Some((to, shared)) = peer.as_ref().and_then(probed_address).zip(shared) {
            let limit = Some(shared.path_limit()).filter(|limit| *limit != u16::MAX);
            self.paths.asked(now, *key, to, top, limit);
        }
    }

    pub(super) fn path_answered(&mut self, reply: &ProbeArrival) {
        let finding = self.paths.answered(reply.at, reply.from, reply.sequence);
        self.found_path(finding);
    }

    pub(super) fn probe_paths(&mut self, now: Time) {
        if self.paths.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        let (echoes, findings) = self.paths.due(now);
        self.found_path(findings);
        let Some(interface) = &mut self.engine.interface else {
            return;
        };
        let own = interface.own_addresses();
        for echo in echoes {
            let from = own.iter().find(|own| own.is_ipv4() == echo.to.is_ipv4());
            let packet = from.and_then(|from| {
                self.mark
                    .request_of(*from, echo.to, echo.sequence, echo.len)
            });
            if let Some(packet) = packet {
                // The one error is a peer that was removed meanwhile.
                let _ = interface
                    .device
                    .send(&mut self.engine.world.context(), &echo.key, &packet);
            }
        }
        self.engine.flush();
    }

    fn found_path(&mut self, findings: impl IntoIterator<Item = Finding>) {
        let Some(interface) = &self.engine.interface else {
            return;
        };
        for finding in findings {
            let Some(peer) = interface.device.shared_peer(&finding.key) else {
                continue;
            };
            peer.set_path(finding.limit, finding.again);
        }
    }

    // Probes.

    /// Begins to probe every link.
    pub(super) fn begin_probes(&mut self, wait: Duration) {
        let Some(interface) = &self.engine.interface else {
            return;
        };
        let peers = interface.device.peers(world::now());
        let targets = peers
            .iter()
            .map(|peer| (peer.public_key, probed_address(peer)));
        self.links.begin(world::now(), wait, targets);
    }

    pub(super) fn probe(&mut self, now: Time) {
        let Some(since) = self.links.running_since() else {
            return;
        };
        let Some(interface) = &mut self.engine.interface else {
            self.links.finish(now);
            return;
        };
        // Looking at every peer is for when something is due; echoes that come back are heard of at once.
        if self.links.next_timeout().is_some_and(|at| at <= now) {
            for peer in interface.device.peers(now) {
                self.links.is_ending(&peer.public_key, peer.ends.is_some());
                if let Some(at) = peer.last_received.filter(|at| *at > since) {
                    self.links.heard(&peer.public_key, at);
                }
            }
        }
        let asks = self.links.due(now);
        if asks.is_empty() {
            return;
        }
        let own = interface.own_addresses();
        for ask in asks {
            // The one error is a peer that was removed meanwhile.
            let _ = match ask {
                Ask::Echo { key, to, sequence } => {
                    let from = own.iter().find(|own| own.is_ipv4() == to.is_ipv4());
                    match from.and_then(|from| self.mark.request(*from, to, sequence)) {
                        Some(packet) => {
                            interface
                                .device
                                .send(&mut self.engine.world.context(), &key, &packet)
                        }
                        None => interface
                            .device
                            .shake_hands(&mut self.engine.world.context(), &key),
                    }
                }
                Ask::Shake(key) => interface
                    .device
                    .shake_hands(&mut self.engine.world.context(), &key),
            };
        }
        self.engine.flush();
    }
}

/// Where a peer is probed: the first host among its networks.
fn probed_address(peer: &PeerStatus) -> Option<IpAddr> {
    let networks = peer.allowed_ips.iter();
    let hosts = networks.filter(|net| **net == Network::host(net.address()));
    hosts.min().map(Network::address)
}
