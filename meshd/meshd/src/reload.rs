//! The difference between two set-ups of an interface, as the smallest ordered list of steps. Pure.
//!
//! Strategy: what is wanted and what is found have one shape, [`Setup`]; [`steps`] compares field by field, so a peer
//! that didn't change gets no step and keeps its session and learned endpoint. The order is: what can fail first (port),
//! then what must be there before a peer is usable (addresses, MTU, up, routes), then peers, then what is no longer
//! needed. Every step has an inverse, so that a list which fails half-way is taken back. Applying is `netdev.rs`'s and
//! the control thread's part.

use std::collections::{BTreeMap, BTreeSet};

use meshd_proto::PublicKey;

use crate::conf::{Cidr, Conf, Endpoint, Peer, Secret, UtcTime};

/// Everything about an interface that a configuration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The private key; `None` only where a bare device was found without one.
    pub private_key: Option<Secret>,
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

/// A route to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The kernel's number of the routing table.
    pub table: u32,
    /// Destination.
    pub network: Cidr,
}

/// Everything about a peer that a configuration decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerSetup {
    /// Mixed into the handshake.
    pub preshared_key: Option<Secret>,
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
        let routes = match interface.table.id() {
            Some(table) => conf
                .routes()
                .into_iter()
                .map(|network| Route { table, network })
                .collect(),
            None => BTreeSet::new(),
        };
        let alive = conf
            .peers
            .iter()
            .filter(|peer| peer.expires.is_none_or(|at| now < at));
        let peers = alive.map(|peer| {
            let setup = PeerSetup {
                preshared_key: peer.preshared_key.clone(),
                allowed_ips: peer.allowed_ips.iter().copied().collect(),
                endpoint: peer.endpoint.clone(),
                keepalive: peer.keepalive,
            };
            (peer.public_key, setup)
        });
        Self {
            private_key: Some(private_key),
            listen_port: Some(interface.listen_port).filter(|port| *port != 0),
            fwmark: interface.fwmark,
            mtu,
            up: true,
            relay: interface.relay,
            addresses: interface.addresses.iter().copied().collect(),
            routes,
            forward: interface.forward.iter().copied().collect(),
            peers: peers.collect(),
        }
    }

    /// A link that was just made: nothing configured, down. Its MTU is known to be none that is wanted.
    pub fn blank() -> Self {
        Self {
            private_key: None,
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
            preshared_key: peer.preshared_key.clone(),
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

/// Whether something is put there or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Make it be there; fine if it is.
    Add,
    /// Make it not be there; fine if it isn't.
    Remove,
}

impl Put {
    fn inverse(self) -> Self {
        match self {
            Self::Add => Self::Remove,
            Self::Remove => Self::Add,
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the link, its socket and an empty device.
    Create,
    /// Take away the link and everything with it. Always alone, so it needs no inverse.
    Destroy,
    /// Change the private key.
    PrivateKey(Change<Option<Secret>>),
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
}

impl Step {
    /// The step that takes this one back. `None`: there is no way back (the link is gone) or nothing to do (a blank
    /// link has no MTU or port to return to).
    pub fn inverse(&self) -> Option<Self> {
        Some(match self {
            Self::Create => Self::Destroy,
            Self::Destroy => return None,
            Self::PrivateKey(change) => Self::PrivateKey(change.inverse()),
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
    steps.extend(Change::between(&from.private_key, &to.private_key).map(Step::PrivateKey));
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

    let gone = from
        .peers
        .iter()
        .filter(|(key, _)| !to.peers.contains_key(key));
    steps.extend(gone.map(|(key, peer)| peer_step(*key, Some(peer), None)));
    for (key, peer) in &to.peers {
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
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    fn route(text: &str) -> Route {
        Route {
            table: 254,
            network: cidr(text),
        }
    }

    fn peer(net: &str) -> PeerSetup {
        PeerSetup {
            allowed_ips: [cidr(net)].into(),
            ..PeerSetup::default()
        }
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey([byte; 32])
    }

    fn setup() -> Setup {
        Setup {
            private_key: Some(Secret::new([1; 32])),
            listen_port: Some(51820),
            mtu: 1420,
            up: true,
            addresses: [cidr("10.0.0.1/32")].into(),
            routes: [route("10.0.0.2/32")].into(),
            peers: [(key(2), peer("10.0.0.2/32"))].into(),
            ..Setup::blank()
        }
    }

    /// The model of an interface: what the steps do to a set-up.
    fn apply(found: Option<Setup>, step: &Step) -> Option<Setup> {
        let mut found = match step {
            Step::Create => return Some(Setup::blank()),
            Step::Destroy => return None,
            _ => found.expect("there is a link"),
        };
        fn put<T: Ord>(set: &mut BTreeSet<T>, put: Put, item: T) {
            match put {
                Put::Add => set.insert(item),
                Put::Remove => set.remove(&item),
            };
        }
        match step {
            Step::Create | Step::Destroy => {}
            Step::PrivateKey(change) => found.private_key = change.to.clone(),
            Step::ListenPort(change) => found.listen_port = change.to,
            Step::FwMark(change) => found.fwmark = change.to,
            Step::Mtu(change) => found.mtu = change.to,
            Step::Up(change) => found.up = change.to,
            Step::Relay(change) => found.relay = change.to,
            Step::Address(p, address) => put(&mut found.addresses, *p, *address),
            Step::Route(p, route) => put(&mut found.routes, *p, *route),
            Step::Forward(p, network) => put(&mut found.forward, *p, *network),
            Step::Peer(key, change) => match &change.to {
                Some(to) => {
                    found.peers.insert(*key, to.clone());
                }
                None => {
                    found.peers.remove(key);
                }
            },
        }
        Some(found)
    }

    fn all(found: Option<Setup>, steps: &[Step]) -> Option<Setup> {
        steps.iter().fold(found, apply)
    }

    fn variants() -> Vec<Option<Setup>> {
        let mut other = setup();
        other.private_key = Some(Secret::new([9; 32]));
        other.listen_port = Some(51821);
        other.fwmark = 7;
        other.mtu = 1280;
        other.relay = true;
        other.addresses = [cidr("10.0.0.1/24"), cidr("fd00::1/64")].into();
        other.routes = [route("10.0.0.3/32"), route("fd00::3/128")].into();
        other.forward = [cidr("192.168.0.0/24")].into();
        other.peers = [(key(2), peer("10.0.0.3/32")), (key(3), peer("10.0.0.2/32"))].into();
        let mut down = setup();
        down.up = false;
        down.routes.clear();
        vec![None, Some(setup()), Some(other), Some(down)]
    }

    #[test]
    fn no_difference_no_step() {
        for setup in variants() {
            assert_eq!(steps(setup.as_ref(), setup.as_ref()), []);
        }
    }

    #[test]
    fn steps_lead_there_and_their_inverses_back_from_any_point() {
        for from in variants() {
            for to in variants() {
                let steps = steps(from.as_ref(), to.as_ref());
                assert_eq!(all(from.clone(), &steps), to);
                for done in 0..=steps.len() {
                    let half = all(from.clone(), &steps[..done]);
                    let back: Vec<Step> = steps[..done]
                        .iter()
                        .rev()
                        .filter_map(Step::inverse)
                        .collect();
                    if steps != [Step::Destroy] || done == 0 {
                        assert_eq!(all(half, &back), from, "after {done} of {steps:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_new_peer_touches_no_other() {
        let mut to = setup();
        to.peers.insert(key(3), peer("10.0.0.3/32"));
        to.routes.insert(route("10.0.0.3/32"));
        let steps = steps(Some(&setup()), Some(&to));
        assert_eq!(
            steps[0],
            Step::Route(Put::Add, route("10.0.0.3/32")),
            "the route comes first"
        );
        assert!(
            matches!(&steps[1], Step::Peer(k, change) if *k == key(3) && change.from.is_none())
        );
        assert_eq!(steps.len(), 2);
    }

    #[test]
    fn a_peer_leaves_before_its_route() {
        let mut to = setup();
        to.peers.clear();
        to.routes.clear();
        let steps = steps(Some(&setup()), Some(&to));
        assert!(matches!(&steps[0], Step::Peer(_, change) if change.to.is_none()));
        assert_eq!(steps[1], Step::Route(Put::Remove, route("10.0.0.2/32")));
    }

    #[test]
    fn any_port_will_do_when_none_is_wanted() {
        let mut to = setup();
        to.listen_port = None;
        assert_eq!(steps(Some(&setup()), Some(&to)), []);
    }

    #[test]
    fn addresses_the_kernel_deletes_along_are_put_back() {
        let mut from = setup();
        from.addresses = [cidr("10.0.0.1/24"), cidr("10.0.0.5/24")].into();
        let mut to = setup();
        to.addresses = [cidr("10.0.0.5/24")].into();
        assert_eq!(
            steps(Some(&from), Some(&to)),
            [
                Step::Address(Put::Remove, cidr("10.0.0.1/24")),
                Step::Address(Put::Add, cidr("10.0.0.5/24"))
            ]
        );
    }

    #[test]
    fn a_link_found_down_gets_all_its_routes() {
        let mut found = setup();
        found.up = false;
        assert_eq!(
            steps(Some(&found), Some(&setup())),
            [
                Step::Up(Change {
                    from: false,
                    to: true
                }),
                Step::Route(Put::Add, route("10.0.0.2/32"))
            ]
        );
    }
}
