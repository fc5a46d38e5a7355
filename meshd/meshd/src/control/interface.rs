//! A live interface: TUN, packet threads, sockets, protocol core and kernel settings as one thing that steps can be
//! applied to and that can be looked at.
//!
//! What it does not do: decide what is wanted (`mesh.rs`) or wait for anything (`engine.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use meshd_os::tun::{Tun, TunError};
use meshd_proto::uapi::{self, Operation, PeerOperation, Request};
use meshd_proto::{
    Cidr as Network, Device, Endpoint as Place, Memory, PresharedKey, PrivateKey, PublicKey, Tai64n,
};

use zeroize::Zeroizing;

use super::outer::{Outer, Sockets};
use super::space::Space;
use super::store::{self, Store};
use super::world::{self, World};
use crate::conf::{Cidr, Endpoint, Host, Secret};
use crate::failure::Failure;
use crate::netdev::NetDev;
use crate::reload::{Change, PeerSetup, Put, Setup, Step};
use meshd_packet::{Plane, Switches};

/// See the file's head.
pub struct Interface {
    /// The link's name.
    pub name: String,
    /// The protocol core.
    pub device: Device,
    /// The packet threads and their sockets.
    pub outer: Outer,
    /// The link in the kernel.
    pub net: NetDev,
    /// Where peers are, as configured by file or `wg`; the core knows where they are now.
    pub endpoints: BTreeMap<PublicKey, Endpoint>,
    /// The MTU that meshd itself found, so that it isn't taken for configured.
    pub found_mtu: Option<u16>,
    /// The tables that hold our routes.
    pub routes_in: Vec<u32>,
    /// The network namespace that the link lives in; `None`: here.
    pub namespace: Option<String>,
    /// The link was there before this process, with its addresses and routes.
    pub adopted: bool,
    started: bool,
    mtu: u16,
    relay: bool,
    forward: BTreeSet<Cidr>,
}

impl Interface {
    /// Takes over the link and the sockets of a predecessor; else makes the link, still down, and a socket on a port of the
    /// kernel's choice. No packet is moved before [`Interface::start`].
    ///
    /// The link lives in `space` if there is one; one of a predecessor that lives elsewhere is given up.
    pub fn create(
        name: &str,
        high_water: Tai64n,
        store: &Rc<Store>,
        sessions: Option<Arc<Memory>>,
        space: Option<&Space>,
    ) -> Result<Self, Failure> {
        let fail = |error| failure(name, error);
        let switches = Switches::from_env();
        let former = inherit(name, store, &switches);
        let former = found(name, space)
            .filter(|_| !former.is_empty())
            .map(|net| (former, net));
        let adopted = former.is_some();
        let (queues, net) = match former {
            Some(former) => former,
            None => {
                store.forget(store::TUN);
                let queues = Tun::create_queues(name, switches.queues, switches.tun_options())
                    .map_err(|error| tun_failure(name, &error))?;
                (queues, placed(name, space)?)
            }
        };
        let sockets = Sockets::get(store, &switches, queues.len()).map_err(fail)?;
        for (number, queue) in queues.iter().enumerate() {
            store.keep(&format!("{}{number}", store::TUN), queue.as_fd());
        }
        sockets.keep(store);
        let at = (sockets.port(), sockets.mark);
        let mut device = Device::new(high_water);
        if let Some(sessions) = sessions {
            device.keep_in(sessions);
        }
        let plane = Plane::new(queues, sockets.pairs, device.reader(), switches).map_err(fail)?;
        let mut interface = Self {
            name: name.to_owned(),
            device,
            outer: Outer::new(plane, switches, at, store.clone()),
            net,
            endpoints: BTreeMap::new(),
            found_mtu: None,
            routes_in: Vec::new(),
            namespace: space.map(|space| space.name.clone()),
            adopted,
            started: false,
            mtu: 0,
            relay: false,
            forward: BTreeSet::new(),
        };
        if let (true, Some(link)) = (adopted, interface.net.link().map_err(fail)?) {
            interface.mtu_is(u16::try_from(link.mtu).unwrap_or(u16::MAX));
            interface
                .outer
                .plane
                .set_addresses(interface.own_addresses());
        }
        Ok(interface)
    }

    /// Lets packets flow. Of an adopted link that is up the protocol core hears now, when its peers are known and have their
    /// sessions back.
    pub fn start(&mut self, world: &mut World) -> Result<(), Failure> {
        let fail = |error| failure(&self.name, error);
        if self.started {
            return Ok(());
        }
        self.started = true;
        let sessions = self.device.restore(&mut world.context());
        if std::mem::take(&mut self.adopted) {
            let link = self.net.link().map_err(fail)?;
            self.device.set_link(&mut world.context(), true);
            if !link.is_some_and(|link| link.up) {
                self.device.set_link(&mut world.context(), false);
            }
            let name = &self.name;
            eprintln!("meshd: {name}: going on with the interface and {sessions} sessions");
        }
        self.outer.plane.start().map_err(fail)
    }

    /// Ends this process's part of it and leaves the rest, kept in the store, to a successor.
    pub fn leave(&mut self) {
        // What comes until then waits in the link's queue and in the sockets. The queue stays as long as it is: to change it the
        // kernel takes the link's qdisc away for a moment (dev_qdisc_change_tx_queue_len), which loses packets.
        self.outer.plane.make_room();
        self.outer.plane.halt();
    }

    /// What is so. `tables` hold the routes that are ours. `None` when the link is gone or was renamed.
    pub fn observe(&self, tables: &[u32]) -> Result<Option<Setup>, Failure> {
        let link = self
            .net
            .link()
            .map_err(|error| failure(&self.name, error))?;
        if link.is_none_or(|link| link.name != self.name) {
            return Ok(None);
        }
        let seen = self
            .net
            .observe(tables)
            .map_err(|error| failure(&self.name, error))?;
        let peers = self.device.peers(world::now()).into_iter().map(|peer| {
            let secret = |key: &PresharedKey| Secret::new(*key.expose());
            let setup = PeerSetup {
                next_public_key: peer.next_public_key,
                preshared_key: (!peer.preshared_key.is_none()).then(|| secret(&peer.preshared_key)),
                next_preshared_key: peer.next_preshared_key.as_ref().map(secret),
                allowed_ips: peer.allowed_ips.iter().map(from_network).collect(),
                endpoint: self.endpoints.get(&peer.public_key).cloned(),
                keepalive: peer.keepalive,
            };
            (peer.public_key, setup)
        });
        Ok(Some(Setup {
            private_key: self.device.private_key().map(from_private),
            next_private_key: self.device.next_private_key().map(from_private),
            listen_port: Some(self.outer.port()),
            fwmark: self.outer.mark(),
            mtu: seen.mtu,
            up: seen.up,
            relay: self.relay,
            addresses: seen.addresses,
            routes: seen.routes,
            forward: self.forward.clone(),
            peers: peers.collect(),
        }))
    }

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

    /// Sets the link's MTU and what follows from it.
    pub fn set_mtu(&mut self, mtu: u16) -> meshd_os::Result<()> {
        self.net.set_mtu(mtu)?;
        self.mtu_is(mtu);
        Ok(())
    }

    /// The link's MTU, as last heard of.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The link's MTU was set by us or somebody else.
    pub fn mtu_is(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.device.set_mtu(usize::from(mtu));
        self.outer.plane.set_mtu(usize::from(mtu));
    }

    /// The MTU that fits the routes to all endpoints that are known: the lowest less 80 bytes (IPv6 40, UDP 8, WireGuard
    /// 32), never below 1280, where the kernel would delete the link's IPv6 addresses; 1420 when no endpoint is known.
    pub fn automatic_mtu(&self, more: impl IntoIterator<Item = SocketAddr>) -> u16 {
        let known = self
            .device
            .peers(world::now())
            .into_iter()
            .filter_map(|peer| Some(peer.endpoint?.remote));
        let mut lowest: Option<u32> = None;
        for at in known.chain(more) {
            // A route that can't be looked up tells nothing.
            if let Ok(Some(mtu)) = self.net.mtu_towards(at.ip(), self.outer.mark()) {
                lowest = Some(lowest.map_or(mtu, |known| known.min(mtu)));
            }
        }
        lowest.map_or(1420, |mtu| mtu.saturating_sub(80).clamp(1280, 65455) as u16)
    }

    /// The addresses of the link; none when they can't be read.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let seen = self.net.observe(&[]);
        seen.map_or(Vec::new(), |seen| {
            seen.addresses.iter().map(|cidr| cidr.addr).collect()
        })
    }

    /// Takes the link away and puts back what was changed beside it.
    pub fn close(mut self) {
        for network in std::mem::take(&mut self.forward) {
            if let Err(error) = self.net.forward(Put::Remove, network) {
                eprintln!("meshd: warning: {}: {error}", self.name);
            }
        }
    }

    /// Answers a UAPI request, and remembers what it says about endpoints.
    pub fn uapi(&mut self, world: &mut World, request: &[u8]) -> Zeroizing<Vec<u8>> {
        let operations = match uapi::parse(request) {
            Ok(Request::Set(operations)) => operations,
            _ => Vec::new(),
        };
        let answer = uapi::handle(
            &mut self.device,
            &mut world.context(),
            &mut self.outer,
            request,
        );
        for operation in operations {
            match operation {
                Operation::ReplacePeers => self.endpoints.clear(),
                Operation::Peer(key, operations) => {
                    for operation in operations {
                        if let PeerOperation::Endpoint(at) = operation {
                            self.endpoints.insert(key, from_socket(at));
                        }
                    }
                }
                _ => {}
            }
        }
        let device = &self.device;
        self.endpoints
            .retain(|key, _| device.shared_peer(key).is_some());
        answer
    }
}

/// The queue of a predecessor, if it is still the link's. What can't be used is forgotten: its link would stay without
/// anybody who reads it.
fn inherit(name: &str, store: &Store, switches: &Switches) -> Vec<Tun> {
    let mut queues: Vec<Tun> = Vec::new();
    for (kept, fd) in store.take(store::TUN) {
        match Tun::adopt(fd, switches.tun_options()) {
            // TUNGETIFF fails on a link that was deleted; one that was renamed is somebody else's now.
            Ok(tun) if tun.name().is_ok_and(|now| now == name) => queues.push(tun),
            _ => {
                eprintln!("meshd: {name}: what was kept as {kept} is no queue of this link");
                store.forget_one(&kept);
            }
        }
    }
    queues
}

/// The link of a predecessor, where it is wanted now.
fn found(name: &str, space: Option<&Space>) -> Option<NetDev> {
    let found = match space {
        None => NetDev::find(name),
        Some(space) => space
            .netlink()
            .and_then(|netlink| NetDev::find_there(name, netlink)),
    };
    found.ok()
}

/// A link that was just made here, where it is wanted.
fn placed(name: &str, space: Option<&Space>) -> Result<NetDev, Failure> {
    let fail = |error| failure(name, error);
    let here = NetDev::find(name).map_err(fail)?;
    let Some(space) = space else { return Ok(here) };
    let netlink = space.netlink().map_err(fail)?;
    if netlink.link(name).map_err(fail)?.is_some() {
        let why = format!(
            "another interface has that name in the network namespace {}",
            space.name
        );
        let hint = format!(
            "rename or delete it (`ip -n {} link show {name}`)",
            space.name
        );
        return Err(Failure::new(format!("interface {name}"), why, hint));
    }
    space.bring(here.index()).map_err(fail)?;
    NetDev::find_there(name, netlink).map_err(fail)
}

/// An endpoint that needs no look-up.
pub fn literal(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint.host {
        Host::Addr(ip) => Some(SocketAddr::new(ip, endpoint.port)),
        Host::Name(_) => None,
    }
}

fn from_socket(at: SocketAddr) -> Endpoint {
    Endpoint {
        host: Host::Addr(at.ip()),
        port: at.port(),
    }
}

fn to_private(key: &Secret) -> PrivateKey {
    PrivateKey::new(*key.expose())
}

fn from_private(key: &PrivateKey) -> Secret {
    Secret::new(*key.expose())
}

fn to_network(cidr: &Cidr) -> Option<Network> {
    Network::new(cidr.addr, cidr.prefix)
}

fn from_network(network: &Network) -> Cidr {
    Cidr {
        addr: network.address(),
        prefix: network.prefix(),
    }
}

/// A failure of the interface `name`.
pub fn failure(name: &str, error: meshd_os::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "it needs CAP_NET_ADMIN",
        _ => "",
    };
    Failure::new(format!("interface {name}"), error, hint)
}

/// The port belongs to somebody else.
pub fn port_taken(name: &str, port: u16) -> Failure {
    Failure::new(
        format!("interface {name}"),
        format!("UDP port {port} is taken by another program"),
        format!("choose another port, or see who has it with `ss -lunp sport = :{port}`"),
    )
}

/// A link that isn't ours has the name.
pub fn foreign_link(name: &str) -> Failure {
    Failure::new(
        format!("interface {name}"),
        "another interface has that name",
        format!("rename or delete it (`ip link show {name}`), or name the mesh otherwise"),
    )
}

fn tun_failure(name: &str, error: &TunError) -> Failure {
    let hint = match error {
        TunError::NameTaken => return foreign_link(name),
        TunError::Missing => "load the module `tun`, or give the container /dev/net/tun",
        TunError::Forbidden => {
            "it needs CAP_NET_ADMIN, and /dev/net/tun of mode 0666 as udev makes it"
        }
        _ => "",
    };
    Failure::new(format!("interface {name}"), error, hint)
}
