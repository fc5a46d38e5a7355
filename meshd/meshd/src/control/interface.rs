//! A live interface: TUN, packet threads, sockets, protocol core and kernel settings as one thing that steps can be
//! applied to and that can be looked at.
//!
//! What it does not do: decide what is wanted (`mesh.rs`) or wait for anything (`engine.rs`).

mod steps;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use meshd_os::tun::Tun;
use meshd_proto::uapi::{self, Operation, PeerOperation, Request};
use meshd_proto::{Device, Local, Memory, PresharedKey, PublicKey, Tai64n};

use zeroize::Zeroizing;

pub use values::{failure, foreign_link, literal, port_taken};
use values::{from_network, from_private, from_socket, tun_failure};

use super::outer::{Outer, Sockets};
use super::space::Space;
use super::store::{self, Store};
use super::world::{self, World};
use crate::conf::{Cidr, Endpoint, Secret};
use crate::failure::Failure;
use crate::netdev::NetDev;
use crate::put::Put;
use crate::reload::{PeerSetup, Setup};
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

    /// Lets go of source addresses learned of IPv4 peers whose packets leave by another link by now: a network behind that one
    /// would drop them (kernel socket.c `send4`).
    pub fn let_go_of_sources(&self) {
        for peer in self.device.peers(world::now()) {
            let Some(at) = peer.endpoint.filter(|at| at.remote.is_ipv4()) else {
                continue;
            };
            let Some(Local { ip, ifindex }) = at.local else {
                continue;
            };
            let (to, mark) = (at.remote.ip(), self.outer.mark());
            let elsewhere = self.net.leaves_elsewhere(ip, ifindex, to, mark);
            let shared = self.device.shared_peer(&peer.public_key);
            if let (Ok(true), Some(shared)) = (elsewhere, shared) {
                shared.forget_source();
            }
        }
    }

    /// The addresses of the link; none when they can't be read.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let seen = self.net.observe(&[]);
        seen.map_or(Vec::new(), |seen| {
            seen.addresses.iter().map(|cidr| cidr.addr).collect()
        })
    }

    /// Whether it leads to site networks.
    pub fn has_sites(&self) -> bool {
        !self.forward.is_empty()
    }

    /// Turns on again what somebody has turned off of the forwarding for site networks, and where routes lead to them by now.
    pub fn heal_sites(&mut self) {
        let name = &self.name;
        for network in &self.forward {
            match self.net.forward_site(*network) {
                Ok(false) => {}
                Ok(true) => eprintln!(
                    "meshd: {name}: forwarding for {network} was off on its link; it is on again"
                ),
                Err(error) => eprintln!("meshd: warning: {name}: {error}"),
            }
        }
    }

    /// Takes the link away and puts back what was changed beside it.
    pub fn close(mut self) {
        if let Err(error) = self.net.forward_exit(&BTreeSet::new()) {
            eprintln!("meshd: warning: {}: {error}", self.name);
        }
        for network in std::mem::take(&mut self.forward) {
            if let Err(error) = self.net.forward(Put::Remove, network) {
                eprintln!("meshd: warning: {}: {error}", self.name);
            }
        }
    }

    /// Answers a UAPI request, and remembers what it says about endpoints.
    pub fn uapi(&mut self, world: &mut World, request: &[u8]) -> Zeroizing<Vec<u8>> {
        let operations = match uapi::parse(request, &|name| uapi::Host::link(&self.outer, name)) {
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
