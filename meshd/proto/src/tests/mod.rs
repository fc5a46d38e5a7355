//! Whole devices on a simulated network with a virtual clock: alice, bob, and eve who sees and sends everything.
//!
//! A [`World`] holds nodes, each a [`Device`] and one packet thread's worth of code, and the datagrams under way. No
//! mock anywhere: the packets are sealed and opened by the code that ships. Time moves from event to event, so a test of
//! ten minutes takes milliseconds; everything random comes from a seed.

mod attacks;
mod dice;
mod keepalives;
mod load;
mod moving;
mod rotation;
mod rules;
mod spacing;
mod traffic;
mod uapi;
mod weather;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

pub(crate) use dice::Dice;

use crate::*;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub latency: Duration,
    /// Each datagram is late by up to this much more, so they overtake each other.
    pub jitter: Duration,
    pub loss: u64,
    pub duplication: u64,
}

impl Weather {
    pub const FINE: Weather = Weather {
        latency: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0,
        duplication: 0,
    };
}

/// A datagram on the wire, as eve sees it.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub at: Time,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

impl Wire {
    pub fn kind(&self) -> u8 {
        self.bytes[0]
    }

    pub fn is_keepalive(&self) -> bool {
        self.bytes.len() == DATA_OVERHEAD && self.kind() == 4
    }
}

pub(crate) struct Node {
    pub device: Device,
    pub key: PublicKey,
    pub private: PrivateKey,
    pub address: SocketAddr,
    pub reader: Reader,
    pub dice: Dice,
    /// What this host's clock is ahead of the world's.
    pub wall_offset: i64,
    /// Inner packets that came out of the tunnel, with the key of their peer.
    pub delivered: Vec<(PublicKey, Vec<u8>)>,
    pub verdicts: Vec<Verdict>,
    pub events: Vec<Event>,
    /// Data messages that came for a session which isn't held any more.
    pub strays: usize,
    /// How often a packet thread had to wake the control thread.
    pub wakes: usize,
    pub handshakes_waiting: usize,
    pub online: bool,
    /// Whether the control thread answers the bell; one that is busy answers later.
    pub attends: bool,
}

pub(crate) struct World {
    pub now: Time,
    pub weather: Weather,
    pub nodes: Vec<Node>,
    dice: Dice,
    serial: u64,
    under_way: BTreeMap<(Time, u64), Wire>,
    /// Everything that was ever sent, lost or not, from nodes that were offline too.
    pub seen: Vec<Wire>,
}

pub(crate) const ALICE: usize = 0;
pub(crate) const BOB: usize = 1;
pub(crate) const MTU: usize = 1420;

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The inner IPv4 address of a node.
pub(crate) fn inner(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8 + 1])
}

/// An inner IPv4 packet whose payload is a number.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, number: u32) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("packet() makes IPv4 only");
    };
    let mut packet = vec![0; 24];
    packet[0] = 0x45;
    packet[3] = 24;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..].copy_from_slice(&number.to_be_bytes());
    packet
}

/// Calls the control plane of node `$node` with a context as `$ctx`, then sends what it asks for.
macro_rules! control {
    ($world:expr, $node:expr, |$device:ident, $ctx:ident| $body:expr) => {{
        let (now, node) = ($world.now, $node);
        let mut out = Outputs::default();
        let this = &mut $world.nodes[node];
        let wall = this.wall(now);
        let $device = &mut this.device;
        let $ctx = &mut Context {
            now,
            wall,
            random: &mut this.dice,
            out: &mut out,
        };
        let result = $body;
        $world.send_out(node, out);
        result
    }};
}
pub(crate) use control;

impl Node {
    pub fn wall(&self, now: Time) -> WallTime {
        let start = 1_700_000_000_000_000_000i128;
        let nanos = start + i128::from(now.0) + i128::from(self.wall_offset) * 1_000_000_000;
        // No system has a clock before 1970.
        let nanos = nanos.max(0);
        WallTime {
            secs: (nanos / 1_000_000_000) as u64,
            nanos: (nanos % 1_000_000_000) as u32,
        }
    }

    /// The numbers of the packets that came out of the tunnel, in order.
    pub fn numbers(&self) -> Vec<u32> {
        let number = |packet: &[u8]| u32::from_be_bytes(packet[20..24].try_into().unwrap());
        self.delivered
            .iter()
            .map(|(_, packet)| number(packet))
            .collect()
    }
}

impl World {
    /// Nodes without peers, their links up.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let node = |number: usize| {
            let mut dice = Dice(seed.wrapping_mul(1000) + number as u64);
            let private = crypto::generate(&mut dice);
            let mut device = Device::new(Tai64n::ZERO);
            device.set_private_key(Some(private.clone()));
            Node {
                reader: device.reader(),
                device,
                key: private.public(),
                private,
                address: SocketAddr::from(([192, 0, 2, number as u8 + 1], 51820)),
                dice,
                wall_offset: 0,
                delivered: Vec::new(),
                verdicts: Vec::new(),
                events: Vec::new(),
                strays: 0,
                wakes: 0,
                handshakes_waiting: 0,
                online: true,
                attends: true,
            }
        };
        let mut world = Self {
            now: Time(1_000_000_000),
            weather: Weather::FINE,
            nodes: (0..nodes).map(node).collect(),
            dice: Dice(seed ^ 0xe7e),
            serial: 0,
            under_way: BTreeMap::new(),
            seen: Vec::new(),
        };
        for node in 0..nodes {
            control!(world, node, |device, ctx| device.set_link(ctx, true));
        }
        world
    }

    /// Alice and bob, who know each other's key, network and endpoint.
    pub fn pair(seed: u64) -> Self {
        let mut world = Self::new(2, seed);
        world.introduce(ALICE, BOB);
        world.introduce(BOB, ALICE);
        world
    }

    /// Makes `other` a peer of `node`.
    pub fn introduce(&mut self, node: usize, other: usize) {
        let (key, address) = (self.nodes[other].key, self.nodes[other].address);
        control!(self, node, |device, ctx| {
            assert_eq!(device.upsert_peer(&key), Upsert::Added);
            device
                .set_allowed_ips(&key, &[Cidr::host(inner(other))])
                .unwrap();
            device
                .set_endpoint(ctx, &key, Some(Endpoint::new(address)))
                .unwrap();
        });
    }

    /// What `node` knows of `other`.
    pub fn status(&self, node: usize, other: usize) -> PeerStatus {
        self.nodes[node]
            .device
            .peer(&self.nodes[other].key, self.now)
            .unwrap()
    }

    /// A new packet with this number from `node` into the tunnel.
    pub fn talk(&mut self, node: usize, other: usize, number: u32) {
        self.transmit(node, &packet(inner(node), inner(other), number));
    }

    /// The transmit thread of `node` reads a packet from its TUN.
    pub fn transmit(&mut self, node: usize, packet: &[u8]) {
        let now = self.now;
        let this = &mut self.nodes[node];
        let Some(route) = packet::destination(packet).and_then(|to| this.reader.table().route(to))
        else {
            return;
        };
        let Some(endpoint) = route.peer.endpoint() else {
            return;
        };
        let mut run = vec![0; data_len(packet.len(), MTU)];
        run[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
        let stride = run.len();
        match route.seal(now, &mut run, stride) {
            Ok(wake) => {
                self.put(node, endpoint.remote, run);
                self.wake(node, wake);
            }
            Err(NoSession) => {
                let wake = route.peer.stage(packet);
                self.wake(node, wake);
            }
        }
    }

    fn wake(&mut self, node: usize, wake: Wake) {
        if wake.needed() {
            self.nodes[node].wakes += 1;
        }
        if wake.needed() && self.nodes[node].attends {
            control!(self, node, |device, ctx| device.attend(ctx));
        }
    }

    pub fn send_out(&mut self, node: usize, out: Outputs) {
        self.nodes[node].events.extend(out.events);
        for datagram in out.datagrams {
            self.put(node, datagram.to.remote, datagram.bytes);
        }
    }

    fn put(&mut self, node: usize, to: SocketAddr, bytes: Vec<u8>) {
        let wire = Wire {
            at: self.now,
            from: self.nodes[node].address,
            to,
            bytes,
        };
        if self.nodes[node].online {
            self.throw(wire);
        } else {
            self.seen.push(wire);
        }
    }

    /// Somebody sends a datagram: the weather decides.
    pub fn throw(&mut self, wire: Wire) {
        self.seen.push(wire.clone());
        let copies = if self.dice.falls(self.weather.loss) {
            0
        } else {
            1 + usize::from(self.dice.falls(self.weather.duplication))
        };
        for _ in 0..copies {
            let late = self.dice.next() % (self.weather.jitter.as_nanos() as u64 + 1);
            let arrival = self
                .now
                .after(self.weather.latency + Duration::from_nanos(late));
            self.serial += 1;
            self.under_way.insert((arrival, self.serial), wire.clone());
        }
    }

    /// The receive thread of whoever has the address gets a datagram.
    pub fn arrive(&mut self, mut wire: Wire) {
        let Some(node) = self
            .nodes
            .iter()
            .position(|node| node.address == wire.to && node.online)
        else {
            return;
        };
        let (now, from) = (self.now, Endpoint::new(wire.from));
        match classify(&wire.bytes) {
            Kind::Unknown => {}
            Kind::Handshake => {
                let waiting = self.nodes[node].handshakes_waiting;
                control!(self, node, |device, ctx| device.receive(
                    ctx,
                    &wire.bytes,
                    from,
                    waiting
                ));
            }
            Kind::Data { receiver, counter } => {
                let this = &mut self.nodes[node];
                let table = this.reader.table();
                let Some(receiver) = table.receiver(receiver) else {
                    this.strays += 1;
                    return;
                };
                let Some(name) = this.device.name_of(&receiver.peer) else {
                    return;
                };
                let mut batch = Batch::default();
                batch.push(0, wire.bytes.len(), counter);
                let wake = receiver.open(table, now, &from, &mut wire.bytes, &mut batch);
                for opened in batch.opened() {
                    this.verdicts.push(opened.verdict);
                    if opened.verdict == Verdict::Packet {
                        let packet = wire.bytes[opened.at..][..opened.len].to_vec();
                        this.delivered.push((name, packet));
                    }
                }
                self.wake(node, wake);
            }
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<Time> {
        let timers = self
            .nodes
            .iter()
            .filter_map(|node| node.device.next_timeout());
        timers
            .chain(self.under_way.keys().next().map(|(at, _)| *at))
            .min()
    }

    /// Lets `duration` pass.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            while let Some(entry) = self
                .under_way
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let wire = entry.remove();
                self.arrive(wire);
            }
            for node in 0..self.nodes.len() {
                control!(self, node, |device, ctx| device.tick(ctx));
            }
        }
        for node in &self.nodes {
            node.device.assert_sound();
        }
        self.now = end;
    }

    /// All that was sent since `from`, as (kind, sender) in order.
    pub fn kinds_since(&self, from: usize) -> Vec<(u8, usize)> {
        let sender = |wire: &Wire| {
            self.nodes
                .iter()
                .position(|node| node.address == wire.from)
                .unwrap_or(99)
        };
        self.seen[from..]
            .iter()
            .map(|wire| (wire.kind(), sender(wire)))
            .collect()
    }

    /// How many messages of a kind were sent so far.
    pub fn count(&self, kind: u8) -> usize {
        self.seen.iter().filter(|wire| wire.kind() == kind).count()
    }
}
