//! The control plane: one object that owns all peers, handshakes, cookies and timers of an interface.
//!
//! Strategy: every method takes the world as a [`Context`] (time, randomness, a sink for results), does what the
//! paper says, and publishes a new [`crate::Table`] for the packet threads if anything they see has changed. It must
//! be published before the datagrams of the same call are sent, and it is. One thread owns it; there is no lock in it.
//!
//! The daemon's loop: wait until [`Device::next_timeout`], an eventfd rung for [`crate::Wake::Yes`], or a handshake
//! datagram; then call [`Device::tick`], [`Device::attend`] or [`Device::receive`]; then send
//! [`crate::Outputs::datagrams`]. When nothing happens there is no deadline and the thread sleeps for good.
//!
//! Files: `config.rs` what the user sets; `handshaking.rs` messages 1, 2 and cookies; `rotation.rs` which of two keys;
//! `ending.rs` sessions whose keys are gone; `spacing.rs` the distance between initiations; `timing.rs` what follows from time and from the packet threads' signals; `keeping.rs` what outlives the process.

mod config;
mod ending;
mod handshaking;
mod keeping;
mod rotation;
#[cfg(any(test, feature = "fuzzing"))]
mod sound;
mod spacing;
mod timing;

pub use config::{NoSuchPeer, Upsert};

use std::collections::BTreeMap;
use std::sync::Arc;

use core::net::SocketAddr;
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::allowed_ips::{AllowedIps, Cidr};
use crate::crypto::{self, Random};
use crate::kept::{Memory, Place, Role};
use crate::keypairs::{Dropped, Keypairs};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::limiter::Limiter;
use crate::messages::{MAX_QUEUED_HANDSHAKES, REJECT_AFTER_TIME, REKEY_TIMEOUT_JITTER};
use crate::outputs::Event;
use crate::peer::Peer;
use crate::status::{PeerStatus, Rotation, Trouble};
use crate::table::{Published, Reader, Receiver, Route, Table};
use crate::time::{Stamper, Tai64n, Time, WallTime};
use crate::timers::{Timer, Timers};
use crate::wake::Bell;
use crate::{Context, Session};
use rotation::{Begun, Own, Proof, Remote};
use spacing::Former;

/// Key material is erased this long after the last new session (paper section 6.3).
const ZERO_KEYS_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());
/// We are under load when this many handshakes wait (kernel `wg_receive_handshake_packet`: an eighth of the queue).
const UNDER_LOAD_QUEUE: usize = MAX_QUEUED_HANDSHAKES / 8;
/// And stay so for this long after.
const UNDER_LOAD_FOR: Duration = Duration::from_secs(1);

/// A WireGuard interface without its sockets.
pub struct Device {
    /// Our key, and the one that it changes to. Empty: we have none.
    owns: Vec<Own>,
    limiter: Limiter,
    under_load_at: Option<Time>,
    stamper: Stamper,
    up: bool,
    mtu: usize,
    /// Large packets ask about their paths.
    watches_paths: bool,
    /// By slot. A slot is used again after its peer was removed.
    peers: Vec<Option<PeerState>>,
    free_slots: Vec<u32>,
    by_key: BTreeMap<PublicKey, u32>,
    /// By the key that a peer changes to, which is no other peer's.
    by_next: BTreeMap<PublicKey, u32>,
    /// Whose handshake or session each of our indices is.
    indices: BTreeMap<u32, u32>,
    /// Keys that were taken out a moment ago.
    former: Former,
    next_serial: u64,
    allowed_ips: AllowedIps,
    timers: Timers,
    bell: Arc<Bell>,
    table: Table,
    published: Arc<Published>,
    changed: Changed,
    /// What outlives the process.
    memory: Option<Arc<Memory>>,
    /// What a predecessor has left was taken up, or there was nothing.
    restored: bool,
}

/// What must be published.
#[derive(Debug, Default)]
struct Changed {
    table: bool,
    allowed_ips: bool,
    /// Inside [`Device::transaction`].
    held: bool,
}

/// The control thread's half of a peer.
struct PeerState {
    shared: Arc<Peer>,
    /// Peers are listed in the order they were added.
    serial: u64,
    /// Its key, which names it, and the one that it changes to. Never empty.
    remotes: Vec<Remote>,
    preshared_key: PresharedKey,
    next_preshared_key: Option<PresharedKey>,
    /// What the last session that was used was made with.
    proof: Option<Proof>,
    /// What the session that we answered for last was made with.
    answered: Option<Proof>,
    /// The session in use is to be moved to newer keys.
    moving: bool,
    /// How often that is tried again, should the network lose it.
    moves: u8,
    /// The remote address of [`Device::set_endpoint`]; roaming doesn't change it.
    configured_endpoint: Option<SocketAddr>,
    /// Its networks, and the number of each in the order they were given.
    allowed_ips: BTreeMap<Cidr, u64>,
    /// Persistent keepalive in seconds; 0 is off.
    keepalive: u16,
    pending: Option<Begun>,
    keypairs: Keypairs,
    /// The greatest timestamp of the peer's initiations.
    latest_timestamp: Tai64n,
    last_initiation_consumed: Option<Time>,
    last_handshake_sent: Option<Time>,
    /// Retries since a packet last asked for a session (kernel `timer_handshake_attempts`).
    retries: u32,
    /// Initiations sent since the last session or give-up.
    attempts: u32,
    /// An initiation was asked for too soon after the last; the retransmit timer stands for it.
    deferred: bool,
    /// Sessions we answered for that were replaced before they were used.
    unused_answers: u32,
    last_handshake: Option<(WallTime, Time)>,
    trouble: Option<Trouble>,
    /// A predecessor's, whose sessions and endpoint are still to be taken up.
    inherited: bool,
}

impl PeerState {
    fn new(remote: Remote, shared: Peer, serial: u64) -> Self {
        let former = shared.place.as_ref().filter(|place| place.known);
        let inherited = former.is_some();
        if let Some(endpoint) = former.and_then(Place::endpoint) {
            shared.endpoint.set(Some(endpoint));
        }
        Self {
            inherited,
            shared: Arc::new(shared),
            serial,
            remotes: vec![remote],
            preshared_key: PresharedKey::default(),
            next_preshared_key: None,
            proof: None,
            answered: None,
            moving: false,
            moves: 0,
            configured_endpoint: None,
            allowed_ips: BTreeMap::new(),
            keepalive: 0,
            pending: None,
            keypairs: Keypairs::default(),
            latest_timestamp: Tai64n::ZERO,
            last_initiation_consumed: None,
            last_handshake_sent: None,
            retries: 0,
            attempts: 0,
            deferred: false,
            unused_answers: 0,
            last_handshake: None,
            trouble: None,
        }
    }

    fn status(&self, rotation: Option<Rotation>, now: Time) -> PeerStatus {
        let moment = |nanos: u64| (nanos != 0).then_some(Time(nanos));
        let shared = &self.shared;
        let given = self.allowed_ips.iter().map(|(network, at)| (*at, *network));
        let mut networks: Vec<_> = given.collect();
        networks.sort_unstable();
        PeerStatus {
            public_key: self.key(),
            next_public_key: self.remotes.get(1).map(|remote| remote.key),
            preshared_key: self.preshared_key.clone(),
            next_preshared_key: self.next_preshared_key.clone(),
            rotation,
            endpoint: shared.endpoint(),
            configured_endpoint: self.configured_endpoint,
            allowed_ips: networks.into_iter().map(|(_, network)| network).collect(),
            keepalive: self.keepalive,
            rx_bytes: shared.rx.bytes.load(Ordering::Relaxed),
            tx_bytes: shared.tx.bytes.load(Ordering::Relaxed),
            last_handshake: self.last_handshake.map(|(wall, _)| wall),
            last_handshake_at: self.last_handshake.map(|(_, at)| at),
            last_received: moment(shared.rx.last.load(Ordering::Relaxed)),
            last_sent: moment(shared.tx.last.load(Ordering::Relaxed)),
            connected: self.keypairs.sending(now).is_some(),
            ends: self
                .keypairs
                .sending(now)
                .and_then(|session| session.early_end()),
            attempts: self.attempts,
            trouble: self.trouble,
        }
    }
}

impl Device {
    /// A device without key and peers, whose link is down. `high_water` is the greatest timestamp a former process has
    /// used ([`Device::timestamp_high_water`]), or [`Tai64n::ZERO`].
    pub fn new(high_water: Tai64n) -> Self {
        Self {
            owns: Vec::new(),
            limiter: Limiter::default(),
            under_load_at: None,
            stamper: Stamper::new(high_water),
            up: false,
            mtu: 1420,
            watches_paths: false,
            peers: Vec::new(),
            free_slots: Vec::new(),
            by_key: BTreeMap::new(),
            by_next: BTreeMap::new(),
            indices: BTreeMap::new(),
            former: Former::default(),
            next_serial: 0,
            allowed_ips: AllowedIps::default(),
            timers: Timers::default(),
            bell: Arc::default(),
            table: Table::default(),
            published: Arc::default(),
            changed: Changed::default(),
            memory: None,
            restored: false,
        }
    }

    /// A packet thread's access to the published table.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.published))
    }

    /// The greatest timestamp used so far: to be written to disk now and then, so that a clock set back before the next
    /// start does not lock this host out of its peers.
    pub const fn timestamp_high_water(&self) -> Tai64n {
        self.stamper.high_water()
    }

    /// Our private key, if set.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.owns.first().map(|own| &own.identity.private)
    }

    /// The private key that ours changes to, if there is one.
    pub fn next_private_key(&self) -> Option<&PrivateKey> {
        self.owns.get(1).map(|own| &own.identity.private)
    }

    /// Our public key, if a private one is set.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.owns.first().map(|own| own.identity.public)
    }

    /// All peers in the order they were added.
    pub fn peers(&self, now: Time) -> Vec<PeerStatus> {
        let mut peers: Vec<&PeerState> = self.peers.iter().flatten().collect();
        peers.sort_by_key(|peer| peer.serial);
        peers
            .into_iter()
            .map(|peer| peer.status(self.rotation(peer), now))
            .collect()
    }

    /// One peer.
    pub fn peer(&self, key: &PublicKey, now: Time) -> Option<PeerStatus> {
        let peer = self.state(*self.by_key.get(key)?)?;
        Some(peer.status(self.rotation(peer), now))
    }

    /// The shared half of a peer, for looking at its endpoint or staging a packet from any thread.
    pub fn shared_peer(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let slot = *self.by_key.get(key)?;
        Some(Arc::clone(&self.state(slot)?.shared))
    }

    /// The key that names the peer of a route or receiver; `None` when it was removed meanwhile.
    pub fn name_of(&self, shared: &Arc<Peer>) -> Option<PublicKey> {
        let peer = self.state(shared.slot())?;
        Arc::ptr_eq(&peer.shared, shared).then(|| peer.key())
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.by_key.len()
    }

    /// Does several changes as one: packet threads see all of them or none, and the table is built once.
    pub fn transaction<T>(&mut self, changes: impl FnOnce(&mut Self) -> T) -> T {
        let outer = core::mem::replace(&mut self.changed.held, true);
        let result = changes(self);
        self.changed.held = outer;
        self.publish();
        result
    }

    fn state(&self, slot: u32) -> Option<&PeerState> {
        self.peers.get(slot as usize)?.as_ref()
    }

    fn state_mut(&mut self, slot: u32) -> Option<&mut PeerState> {
        self.peers.get_mut(slot as usize)?.as_mut()
    }

    /// Publishes what has changed, if anything.
    fn publish(&mut self) {
        if self.changed.held {
            return;
        }
        if core::mem::take(&mut self.changed.allowed_ips) {
            self.table.set_routes(self.allowed_ips.routes());
            self.changed.table = true;
        }
        if core::mem::take(&mut self.changed.table) {
            self.published.publish(self.table.clone());
        }
    }

    /// Brings the table's route to a peer up to date.
    fn reroute(&mut self, slot: u32) {
        let route = self.state(slot).map(|peer| Route {
            peer: Arc::clone(&peer.shared),
            session: peer.keypairs.current.clone(),
            next: peer.keypairs.next.clone(),
        });
        self.table.set_route(slot, route);
        self.changed.table = true;
    }

    /// Takes a new session into use for receiving, and for sending if we initiated it.
    fn install(&mut self, slot: u32, session: Session, now: Time) {
        let Some(peer) = self.state_mut(slot) else {
            return;
        };
        let session = Arc::new(session);
        let receiver = Receiver {
            peer: Arc::clone(&peer.shared),
            session: Arc::clone(&session),
            slot,
        };
        let index = session.local_index();
        let dropped = peer.keypairs.install(session, now);
        peer.keypairs.keep();
        self.indices.insert(index, slot);
        self.table.add_receiver(index, receiver);
        self.forget(dropped);
        self.reroute(slot);
        self.timers
            .set(slot, Timer::ZeroKeys, now.after(ZERO_KEYS_AFTER));
    }

    /// Forgets the indices of sessions that are no longer held.
    fn forget(&mut self, dropped: Dropped) {
        for session in dropped {
            session.keep_as(Role::Dropped);
            self.indices.remove(&session.local_index());
            self.table.remove_receiver(session.local_index());
            self.changed.table = true;
        }
    }

    /// Lets go of a peer's sessions, which erases their keys. A handshake under way is younger than they are, and is
    /// erased when it is given up.
    fn drop_sessions(&mut self, slot: u32) {
        if let Some(peer) = self.state_mut(slot) {
            let dropped = peer.keypairs.clear();
            self.forget(dropped);
            self.reroute(slot);
        }
    }

    /// An index of ours that nobody can guess and nothing else uses (paper section 5.4).
    fn new_index(&self, random: &mut dyn Random) -> u32 {
        loop {
            let index = crypto::random_u32(random);
            if !self.indices.contains_key(&index) {
                return index;
            }
        }
    }

    /// Notes why a peer has no session; nothing is noted while it has one.
    fn trouble(&mut self, slot: u32, now: Time, trouble: Trouble) {
        if let Some(peer) = self.state_mut(slot) {
            if peer.keypairs.sending(now).is_none() {
                peer.trouble = Some(trouble);
            }
        }
    }

    fn event(&self, slot: u32, ctx: &mut Context<'_>, event: impl FnOnce(PublicKey) -> Event) {
        if let Some(peer) = self.state(slot) {
            ctx.out.events.push(event(peer.key()));
        }
    }
}

/// A random delay that keeps two ends from staying in step.
fn jitter(random: &mut dyn Random) -> Duration {
    Duration::from_nanos(crypto::random_below(
        random,
        REKEY_TIMEOUT_JITTER.as_nanos() as u64,
    ))
}
