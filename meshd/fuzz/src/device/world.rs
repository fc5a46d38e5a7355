//! The devices, the memories that outlive them, what they send, and time. What arrives is in `arrivals.rs`, what eve does in
//! `eve.rs`.

mod arrivals;
mod eve;

pub(super) use eve::eve;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use meshd_proto::*;

/// Alice, bob and carol.
pub(super) const NODES: usize = 3;
const MTU: usize = 1420;
/// Peers that a memory has room for: fewer than there can be.
const PLACES: usize = 4;
/// Datagrams that are on their way at most, and how many of the past eve remembers.
const UNDER_WAY: usize = 64;
const REMEMBERED: usize = 256;

/// A daemon that lives shorter than this was killed by what it went on from.
const QUICK: Duration = Duration::from_secs(5);

/// The memory that outlives each daemon, zeroed for each script: it is as static as the kernel's.
fn memory(node: usize) -> &'static [AtomicU64] {
    static ALL: OnceLock<Vec<AtomicU64>> = OnceLock::new();
    let len = Memory::words_for(PLACES);
    let all = ALL.get_or_init(|| (0..NODES * len).map(|_| AtomicU64::new(0)).collect());
    &all[node * len..][..len]
}

/// Splitmix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Random for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..chunk.len()]);
        }
    }
}

#[derive(Clone)]
pub(super) struct Wire {
    pub from: SocketAddr,
    to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub(super) struct Node {
    pub device: Device,
    pub key: PublicKey,
    pub private: PrivateKey,
    pub spare_key: PublicKey,
    pub spare_private: PrivateKey,
    pub address: SocketAddr,
    pub wall_offset: i64,
    /// Handshakes that wait behind each one that is taken in.
    pub waiting: usize,
    under_load_until: Time,
    reader: Reader,
    /// What a packet thread holds that hasn't looked for a long time.
    stale: Option<Table>,
    dice: Dice,
    /// Data messages that were accepted.
    accepted: BTreeSet<Vec<u8>>,
    /// Numbers of packets that came out.
    delivered: BTreeSet<u32>,
}

impl Node {
    fn new(number: usize, seed: u16) -> Self {
        let mut dice = Dice(u64::from(seed) << 8 | number as u64);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        dice.fill(&mut one);
        dice.fill(&mut two);
        let (private, spare_private) = (PrivateKey::new(one), PrivateKey::new(two));
        let mut device = Device::new(Tai64n::ZERO);
        device.set_private_key(Some(private.clone()));
        Self {
            reader: device.reader(),
            device,
            key: private.public(),
            private,
            spare_key: spare_private.public(),
            spare_private,
            address: SocketAddr::from(([192, 0, 2, number as u8 + 1], 51820)),
            wall_offset: 0,
            waiting: 0,
            under_load_until: Time(0),
            stale: None,
            dice,
            accepted: BTreeSet::new(),
            delivered: BTreeSet::new(),
        }
    }

    pub fn keep_table(&mut self) {
        self.stale = Some(self.reader.table().clone());
    }

    fn endpoints(&self, now: Time) -> Vec<(PublicKey, Option<Endpoint>)> {
        let peers = self.device.peers(now);
        peers.iter().map(|p| (p.public_key, p.endpoint)).collect()
    }
}

pub(super) struct World {
    now: Time,
    pub nodes: Vec<Node>,
    under_way: VecDeque<Wire>,
    seen: VecDeque<Wire>,
    /// Who put which packet into a tunnel, by number, and for which key.
    sent: BTreeMap<u32, (usize, Option<PublicKey>, Vec<u8>)>,
    /// (sender, receiver index, counter) of every data message.
    counters: BTreeSet<(usize, u32, u64)>,
    number: u32,
    /// Somebody else wrote to a memory.
    damaged: bool,
}

impl World {
    pub fn new(seed: u16) -> Self {
        let mut world = Self {
            now: Time(1_000_000_000),
            nodes: (0..NODES).map(|number| Node::new(number, seed)).collect(),
            under_way: VecDeque::new(),
            seen: VecDeque::new(),
            sent: BTreeMap::new(),
            counters: BTreeSet::new(),
            number: 0,
            damaged: false,
        };
        for node in 0..NODES {
            for word in memory(node) {
                word.store(0, Ordering::Relaxed);
            }
            world.begin(node);
        }
        world
    }

    /// A daemon starts, and goes on from what its predecessor has left.
    fn begin(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let mut device = Device::new(this.device.timestamp_high_water());
        match Memory::open(memory(node), self.now, QUICK) {
            Some(memory) => device.keep_in(memory),
            None => assert!(
                self.damaged,
                "a memory that nobody else wrote can be opened"
            ),
        }
        this.reader = device.reader();
        this.device = device;
        self.configure(node);
        self.control(node, |device, ctx| {
            let _ = device.restore(ctx);
            device.set_link(ctx, true);
        });
    }

    /// A daemon ends, by `kill -9` or in good order, and another one starts.
    pub fn restart(&mut self, node: usize, killed: bool) {
        self.restart_damaged(node, killed, &[]);
    }

    /// The same, but words of what it has left aren't what they were: which, and what is there.
    pub fn restart_damaged(&mut self, node: usize, killed: bool, damage: &[(usize, u64)]) {
        let words = memory(node);
        let this = &mut self.nodes[node];
        this.stale = None;
        if !killed {
            this.device.leave();
        }
        let left: Vec<u64> = words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let label = this.device.timestamp_high_water();
        // Letting go erases what is kept; a process that is killed lets go of nothing.
        this.device = Device::new(label);
        this.reader = this.device.reader();
        for (word, left) in words.iter().zip(left) {
            word.store(left, Ordering::Relaxed);
        }
        for &(at, value) in damage {
            let at = at % words.len();
            if !Memory::is_bare(PLACES, at) {
                words[at].store(value, Ordering::Relaxed);
                self.damaged = true;
            }
        }
        self.begin(node);
    }

    /// Gives a node its key, its peers, their networks and endpoints, and raises its link. What it knows already it keeps.
    fn set_up(&mut self, node: usize) {
        self.configure(node);
        self.control(node, |device, ctx| device.set_link(ctx, true));
    }

    fn configure(&mut self, node: usize) {
        let private = self.nodes[node].private.clone();
        let peers: Vec<_> = (0..NODES)
            .filter(|other| *other != node)
            .map(|other| (other, self.nodes[other].key, self.nodes[other].address))
            .collect();
        self.control(node, |device, ctx| {
            device.set_private_key(Some(private));
            for (other, key, address) in peers {
                let _ = device.upsert_peer(&key);
                let _ = device.set_preshared_key(&key, PresharedKey::default());
                let _ = device.set_keepalive(ctx, &key, 0);
                let _ = device.set_allowed_ips(&key, &[Cidr::host(inner(other as u8 + 1))]);
                let _ = device.set_endpoint(ctx, &key, Some(Endpoint::new(address)));
            }
        });
    }

    /// Calls the control plane of a node and sends what it asks for.
    pub fn control(&mut self, node: usize, call: impl FnOnce(&mut Device, &mut Context<'_>)) {
        let out = self.call(node, call);
        for Datagram { to, bytes } in out.datagrams {
            self.put(node, to.remote, bytes);
        }
    }

    fn call(&mut self, node: usize, call: impl FnOnce(&mut Device, &mut Context<'_>)) -> Outputs {
        let mut out = Outputs::default();
        let this = &mut self.nodes[node];
        let secs = 1_700_000_000 + (self.now.0 / 1_000_000_000) as i64 + this.wall_offset;
        let wall = WallTime {
            secs: secs.max(0) as u64,
            nanos: (self.now.0 % 1_000_000_000) as u32,
        };
        let mut ctx = Context {
            now: self.now,
            wall,
            random: &mut this.dice,
            out: &mut out,
        };
        call(&mut this.device, &mut ctx);
        assert!(out.datagrams.len() <= 1000, "a flood from one call");
        out
    }

    /// A node sends a datagram.
    fn put(&mut self, node: usize, to: SocketAddr, bytes: Vec<u8>) {
        if let Kind::Data { receiver, counter } = classify(&bytes) {
            let new = self.counters.insert((node, receiver, counter));
            assert!(new, "node {node} sealed twice with counter {counter}");
        }
        let wire = Wire {
            from: self.nodes[node].address,
            to,
            bytes,
        };
        self.under_way.push_back(wire.clone());
        self.seen.push_back(wire);
        self.under_way.truncate(UNDER_WAY);
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
    }

    /// A packet for host `to` that says it is from host `from`, into the tunnel of `node`.
    pub fn talk(&mut self, node: usize, from: u8, to: u8, stale: bool) {
        self.number += 1;
        let packet = packet(from, to, self.number);
        let now = self.now;
        let this = &mut self.nodes[node];
        let kept = this.stale.clone().filter(|_| stale);
        let fresh = kept.is_none();
        let table = kept.as_ref().unwrap_or(this.reader.table());
        let route = table.route(inner(to)).cloned();
        if fresh {
            let found = route
                .as_ref()
                .and_then(|route| this.device.name_of(&route.peer));
            assert_eq!(
                found,
                super::owner(&this.device, now, inner(to)),
                "who has {to}"
            );
        }
        let Some(route) = route else { return };
        let Some(endpoint) = route.peer.endpoint() else {
            return;
        };
        // None: by a table from before the peer was removed.
        let for_key = this.device.name_of(&route.peer);
        assert!(stale || for_key.is_some(), "a route to nobody");
        self.sent
            .insert(self.number, (node, for_key, packet.clone()));
        let mut run = vec![0; data_len(packet.len(), MTU)];
        run[DATA_HEADER..][..packet.len()].copy_from_slice(&packet);
        let stride = run.len();
        let wake = match route.seal(now, &mut run, stride) {
            Ok(wake) => {
                self.put(node, endpoint.remote, run);
                wake
            }
            Err(NoSession) => route.peer.stage(&packet),
        };
        if wake.needed() {
            self.control(node, |device, ctx| device.attend(ctx));
        }
    }

    /// Lets time pass from event to event; `carrying` delivers what is sent.
    pub fn pass(&mut self, duration: Duration, carrying: bool) {
        let end = self.now.after(duration);
        let peers: usize = self.nodes.iter().map(|node| node.device.peer_count()).sum();
        // A second has room for few events of a peer: retries come every 5 s, keepalives every 10 s, and what is delivered.
        let most = 200 + peers * 8 * (duration.as_secs() as usize + 1);
        for turn in 0.. {
            assert!(turn < most, "timers don't come to rest");
            while carrying && !self.under_way.is_empty() {
                self.deliver_next();
            }
            let next = self
                .nodes
                .iter()
                .filter_map(|node| node.device.next_timeout())
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            for node in 0..NODES {
                self.control(node, |device, ctx| device.tick(ctx));
            }
        }
        self.now = end;
    }

    /// Nobody looks at the clock for so long.
    pub fn sleep(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        for node in 0..NODES {
            self.control(node, |device, ctx| device.tick(ctx));
        }
    }

    pub fn assert_sound(&self) {
        for node in &self.nodes {
            node.device.assert_sound();
        }
    }

    /// The network turns fine, everybody is set up as in the beginning: after a while packets pass in all directions. The
    /// clocks stay as wrong as they are.
    pub fn must_recover(&mut self) {
        for node in 0..NODES {
            self.nodes[node].waiting = 0;
            self.set_up(node);
        }
        // A dead session is noticed after 15 s, its successor may be tried for a moment later: twice that, and some.
        for second in 0..60 {
            let from = self.number;
            for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                self.talk(a, a as u8 + 1, b + 1, false);
            }
            self.pass(Duration::from_secs(1), true);
            let came = |number: &u32| self.nodes.iter().any(|n| n.delivered.contains(number));
            if (from + 1..=self.number).all(|number| came(&number)) {
                return self.assert_sound();
            }
            assert!(second < 59, "they don't find each other again");
        }
    }
}

/// The address of a host in the tunnel.
fn inner(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

/// An inner packet whose payload is a number.
fn packet(from: u8, to: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend([10, 0, 0, from, 10, 0, 0, to]);
    packet.extend(number.to_be_bytes());
    packet
}

/// Bytes as the UAPI writes keys.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
