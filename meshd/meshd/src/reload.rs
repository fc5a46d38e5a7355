//! The difference between two set-ups of an interface, as the smallest ordered list of steps. Pure.
//!
//! Strategy: what is wanted and what is found have one shape, [`Setup`]; [`steps`] compares field by field, so a peer
//! that didn't change gets no step and keeps its session and learned endpoint; one that goes by the key which it
//! was to change to is the same peer under another name. The order is: what can fail first (port),
//! then what must be there before a peer is usable (addresses, MTU, up, routes), then peers, then what is no longer
//! needed. Every step has an inverse, so that a list which fails half-way is taken back. Applying is `netdev.rs`'s and
//! the control thread's part.

use std::collections::{BTreeMap, BTreeSet};

use meshd_proto::PublicKey;

use crate::closed;
use crate::conf::{Cidr, Conf, Endpoint, Peer, Secret, UtcTime};
use crate::put::{Put, Route};

/// Everything about an interface that a configuration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The private key; `None` only where a bare device was found without one.
    pub private_key: Option<Secret>,
    /// The one it changes to (rotation).
    pub next_private_key: Option<Secret>,
    /// UDP port; as wanted, `None` leaves it as it is.
    pub listen_port: Option<u16>,
    /// SO_MARK; 0: none.
    pub fwmark: u32,
    /// Bytes.
    pub mtu: u16,
    /// Whether the link is up.
    pub up: bool,
    /// Whether packets are passed on between peers.
    pub relay: bool,
    /// Addresses of the interface.
    pub addresses: BTreeSet<Cidr>,
    /// Routes to the interface.
    pub routes: BTreeSet<Route>,
    /// Site networks that the kernel forwards for.
    pub forward: BTreeSet<Cidr>,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, PeerSetup>,
}

/// Everything about a peer that a configuration decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerSetup {
    /// The key it changes to (rotation).
    pub next_public_key: Option<PublicKey>,
    /// Mixed into the handshake.
    pub preshared_key: Option<Secret>,
    /// The one it changes to (rotation).
    pub next_preshared_key: Option<Secret>,
    /// Networks.
    pub allowed_ips: BTreeSet<Cidr>,
    /// As configured, never a learned one.
    pub endpoint: Option<Endpoint>,
    /// Seconds; 0: off.
    pub keepalive: u16,
}

impl Setup {
    /// What `conf` wants at `now`: expired peers are left out, but the routes to them stay (their packets go nowhere
    /// rather than elsewhere).
    pub fn wanted(conf: &Conf, private_key: Secret, mtu: u16, now: UtcTime) -> Self {
        let interface = &conf.interface;
        let routes = conf.routes().into_iter().filter_map(|network| {
            let table = closed::table_of(conf, &network)?;
            Some(Route { table, network })
        });
        let alive = conf
            .peers
            .iter()
            .filter(|peer| peer.expires.is_none_or(|at| now < at));
        let peers = alive.map(|peer| (peer.public_key, PeerSetup::from(peer)));
        Self {
            private_key: Some(private_key),
            next_private_key: interface.next_private_key.clone(),
            listen_port: Some(interface.listen_port).filter(|port| *port != 0),
            fwmark: closed::mark(conf),
            mtu,
            up: true,
            relay: interface.relay,
            addresses: interface.addresses.iter().copied().collect(),
            routes: routes.collect(),
            forward: interface.forward.iter().copied().collect(),
            peers: peers.collect(),
        }
    }

    /// A link that was just made: nothing configured, down. Its MTU is known to be none that is wanted.
    pub fn blank() -> Self {
        Self {
            private_key: None,
            next_private_key: None,
            listen_port: None,
            fwmark: 0,
            mtu: 0,
            up: false,
            relay: false,
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            forward: BTreeSet::new(),
            peers: BTreeMap::new(),
        }
    }
}

impl From<&Peer> for PeerSetup {
    fn from(peer: &Peer) -> Self {
        Self {
            next_public_key: peer.next_public_key,
            preshared_key: peer.preshared_key.clone(),
            next_preshared_key: peer.next_preshared_key.clone(),
            allowed_ips: peer.allowed_ips.iter().copied().collect(),
            endpoint: peer.endpoint.clone(),
            keepalive: peer.keepalive,
        }
    }
}

/// A value before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// Before.
    pub from: T,
    /// After.
    pub to: T,
}

impl<T: Clone> Change<T> {
    fn inverse(&self) -> Self {
        Self {
            from: self.to.clone(),
            to: self.from.clone(),
        }
    }
}

impl<T: Clone + PartialEq> Change<T> {
    fn between(from: &T, to: &T) -> Option<Self> {
        (from != to).then(|| Self {
            from: from.clone(),
            to: to.clone(),
        })
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the link, its socket and an empty device.
    Create,
    /// Take away the link and everything with it. Always alone, so it needs no inverse.
    Destroy,
    /// Change the private keys: the current and the next one.
    PrivateKeys(Change<[Option<Secret>; 2]>),
    /// Move the UDP socket to another port.
    ListenPort(Change<Option<u16>>),
    /// Mark outer packets.
    FwMark(Change<u32>),
    /// Set the link's MTU.
    Mtu(Change<u16>),
    /// Set the link up or down.
    Up(Change<bool>),
    /// Pass packets on between peers.
    Relay(Change<bool>),
    /// An address of the link.
    Address(Put, Cidr),
    /// A route to the link.
    Route(Put, Route),
    /// Kernel forwarding between the link and the network's.
    Forward(Put, Cidr),
    /// Add (`from` is none), change or remove (`to` is none) a peer.
    Peer(PublicKey, Box<Change<Option<PeerSetup>>>),
    /// A peer goes by another key from now on, and may change in other ways too.
    Rename(Change<PublicKey>, Box<Change<PeerSetup>>),
}

impl Step {
    /// The step that takes this one back. `None`: there is no way back (the link is gone) or nothing to do (a blank
    /// link has no MTU or port to return to).
    pub fn inverse(&self) -> Option<Self> {
        Some(match self {
            Self::Create => Self::Destroy,
            Self::Destroy => return None,
            Self::PrivateKeys(change) => Self::PrivateKeys(change.inverse()),
            Self::ListenPort(change) if change.from.is_none() => return None,
            Self::ListenPort(change) => Self::ListenPort(change.inverse()),
            Self::FwMark(change) => Self::FwMark(change.inverse()),
            Self::Mtu(change) if change.from == 0 => return None,
            Self::Mtu(change) => Self::Mtu(change.inverse()),
            Self::Up(change) => Self::Up(change.inverse()),
            Self::Relay(change) => Self::Relay(change.inverse()),
            Self::Address(put, address) => Self::Address(put.inverse(), *address),
            Self::Route(put, route) => Self::Route(put.inverse(), *route),
            Self::Forward(put, network) => Self::Forward(put.inverse(), *network),
            Self::Peer(key, change) => Self::Peer(*key, Box::new(change.inverse())),
            Self::Rename(key, change) => Self::Rename(key.inverse(), Box::new(change.inverse())),
        })
    }
}

/// The steps that lead from what is found to what is wanted; `None`: there is no interface.
pub fn steps(from: Option<&Setup>, to: Option<&Setup>) -> Vec<Step> {
    match (from, to) {
        (None, None) => Vec::new(),
        (Some(_), None) => vec![Step::Destroy],
        (None, Some(to)) => {
            let mut steps = vec![Step::Create];
            steps.extend(changes(&Setup::blank(), to));
            steps
        }
        (Some(from), Some(to)) => changes(from, to),
    }
}

fn changes(from: &Setup, to: &Setup) -> Vec<Step> {
    let mut steps = Vec::new();
    if to.listen_port.is_some() {
        steps.extend(Change::between(&from.listen_port, &to.listen_port).map(Step::ListenPort));
    }
    steps.extend(Change::between(&from.fwmark, &to.fwmark).map(Step::FwMark));
    let keys = |setup: &Setup| [setup.private_key.clone(), setup.next_private_key.clone()];
    steps.extend(Change::between(&keys(from), &keys(to)).map(Step::PrivateKeys));
    steps.extend(Change::between(&from.relay, &to.relay).map(Step::Relay));
    steps.extend(
        to.addresses
            .difference(&from.addresses)
            .map(|a| Step::Address(Put::Add, *a)),
    );
    steps.extend(Change::between(&from.mtu, &to.mtu).map(Step::Mtu));
    steps.extend(Change::between(&from.up, &to.up).map(Step::Up));
    // A link set down has lost its routes, so one that goes up gets all of them.
    let kept = if from.up == to.up {
        from.routes.clone()
    } else {
        BTreeSet::new()
    };
    steps.extend(
        to.routes
            .difference(&kept)
            .map(|r| Step::Route(Put::Add, *r)),
    );
    steps.extend(
        to.forward
            .difference(&from.forward)
            .map(|n| Step::Forward(Put::Add, *n)),
    );

    let renamed = renamed(from, to);
    let gone = from.peers.iter().filter(|(key, _)| {
        !to.peers.contains_key(key) && !renamed.values().any(|former| former == *key)
    });
    steps.extend(gone.map(|(key, peer)| peer_step(*key, Some(peer), None)));
    for (key, peer) in &to.peers {
        let former = renamed
            .get(key)
            .and_then(|former| Some((*former, from.peers.get(former)?)));
        if let Some((former, before)) = former {
            let key = Change {
                from: former,
                to: *key,
            };
            let change = Change {
                from: before.clone(),
                to: peer.clone(),
            };
            steps.push(Step::Rename(key, Box::new(change)));
            continue;
        }
        let before = from.peers.get(key);
        if before != Some(peer) {
            steps.push(peer_step(*key, before, Some(peer)));
        }
    }

    steps.extend(
        from.forward
            .difference(&to.forward)
            .map(|n| Step::Forward(Put::Remove, *n)),
    );
    steps.extend(
        from.routes
            .difference(&to.routes)
            .map(|r| Step::Route(Put::Remove, *r)),
    );
    let gone: Vec<Cidr> = from.addresses.difference(&to.addresses).copied().collect();
    steps.extend(gone.iter().map(|a| Step::Address(Put::Remove, *a)));
    // The kernel deletes an IPv4 network's other addresses along with its first one (net/ipv4/devinet.c,
    // __inet_del_ifa without promote_secondaries), and the routes of a family along with its last address.
    let hit = |kept: &&Cidr| gone.iter().any(|a| a.addr.is_ipv4() && a.contains(**kept));
    steps.extend(
        to.addresses
            .iter()
            .filter(hit)
            .map(|a| Step::Address(Put::Add, *a)),
    );
    steps
}

/// Peers that are the same under another key, new key to old: one has announced the other, before or after.
fn renamed(from: &Setup, to: &Setup) -> BTreeMap<PublicKey, PublicKey> {
    let gone = || {
        from.peers
            .iter()
            .filter(|(key, _)| !to.peers.contains_key(key))
    };
    let new = to
        .peers
        .iter()
        .filter(|(key, _)| !from.peers.contains_key(key));
    new.filter_map(|(key, peer)| {
        let mut same = gone().filter(|(former, before)| {
            before.next_public_key == Some(*key) || peer.next_public_key == Some(**former)
        });
        same.next().map(|(former, _)| (*key, *former))
    })
    .collect()
}

fn peer_step(key: PublicKey, from: Option<&PeerSetup>, to: Option<&PeerSetup>) -> Step {
    Step::Peer(
        key,
        Box::new(Change {
            from: from.cloned(),
            to: to.cloned(),
        }),
    )
}

#[cfg(test)]
mod tests;
