//! What packet threads see: an immutable table of who owns which address and which session an index means.
//!
//! Strategy: the control thread edits a [`Table`] of its own and publishes a copy after every change; parts are
//! shared between copies (chunks of peers, shards of indices), so publishing costs little even with many peers. A
//! packet thread has a [`Reader`], which looks at a version number once a batch and takes the new table only when
//! there is one: no lock, no reference count on the packet path.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::allowed_ips::Routes;
use crate::peer::Peer;
use crate::session::Session;

/// The way to a peer: itself, and the session to send with.
#[derive(Clone, Debug)]
pub struct Route {
    /// The peer.
    pub peer: Arc<Peer>,
    /// The session to seal with; `None` if there is none now.
    pub session: Option<Arc<Session>>,
    /// The session we answered with, until the control thread has heard that its initiator used it.
    pub(crate) next: Option<Arc<Session>>,
}

/// What a receiver index stands for.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Whose session it is.
    pub peer: Arc<Peer>,
    /// The session.
    pub session: Arc<Session>,
    pub(crate) slot: u32,
}

const CHUNK: usize = 32;
const SHARDS: usize = 64;

type Chunk = Arc<Vec<Option<Route>>>;
type Shard = Arc<Vec<(u32, Receiver)>>;

/// The packet plane's view of a device at one moment.
#[derive(Clone, Debug)]
pub struct Table {
    routes: Arc<Routes>,
    peers: Vec<Chunk>,
    receivers: Vec<Shard>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            routes: Arc::default(),
            peers: Vec::new(),
            receivers: vec![Shard::default(); SHARDS],
        }
    }
}

impl Table {
    /// The peer whose allowed-ips hold `address`, by longest prefix: for an inner packet's destination.
    #[inline]
    pub fn route(&self, address: IpAddr) -> Option<&Route> {
        self.route_of(self.routes.lookup(address)?)
    }

    /// The session that a data message is for.
    #[inline]
    pub fn receiver(&self, index: u32) -> Option<&Receiver> {
        let shard = self.receivers.get(index as usize % SHARDS)?;
        let place = shard
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        Some(&shard.get(place)?.1)
    }

    /// Whose allowed-ips hold `address`.
    #[inline]
    pub(crate) fn owner(&self, address: IpAddr) -> Option<u32> {
        self.routes.lookup(address)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn receiver_indices(&self) -> impl Iterator<Item = u32> + '_ {
        let shards = self.receivers.iter();
        shards.flat_map(|shard| shard.iter().map(|(index, _)| *index))
    }

    pub(crate) fn route_of(&self, slot: u32) -> Option<&Route> {
        let slot = slot as usize;
        self.peers.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    pub(crate) fn set_routes(&mut self, routes: Routes) {
        self.routes = Arc::new(routes);
    }

    pub(crate) fn set_route(&mut self, slot: u32, route: Option<Route>) {
        let slot = slot as usize;
        while self.peers.len() <= slot / CHUNK {
            self.peers.push(Arc::new(vec![None; CHUNK]));
        }
        Arc::make_mut(&mut self.peers[slot / CHUNK])[slot % CHUNK] = route;
    }

    pub(crate) fn add_receiver(&mut self, index: u32, receiver: Receiver) {
        let shard = Arc::make_mut(&mut self.receivers[index as usize % SHARDS]);
        match shard.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(place) => shard[place].1 = receiver,
            Err(place) => shard.insert(place, (index, receiver)),
        }
    }

    pub(crate) fn remove_receiver(&mut self, index: u32) {
        let shard = Arc::make_mut(&mut self.receivers[index as usize % SHARDS]);
        shard.retain(|(other, _)| *other != index);
    }
}

/// Where tables are published.
#[derive(Debug, Default)]
pub(crate) struct Published {
    version: AtomicU64,
    table: Mutex<Arc<Table>>,
}

impl Published {
    pub fn publish(&self, table: Table) {
        let table = Arc::new(table);
        let former = {
            let mut current = self
                .table
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            core::mem::replace(&mut *current, table)
        };
        self.version.fetch_add(1, Ordering::Release);
        drop(former);
    }
}

/// A packet thread's access to the newest table.
#[derive(Clone, Debug)]
pub struct Reader {
    published: Arc<Published>,
    seen: u64,
    table: Option<Arc<Table>>,
}

impl Reader {
    pub(crate) fn new(published: Arc<Published>) -> Self {
        Self {
            published,
            seen: 0,
            table: None,
        }
    }

    /// The newest table. Call it once a batch: it costs one atomic load while nothing has changed.
    #[inline]
    pub fn table(&mut self) -> &Table {
        let version = self.published.version.load(Ordering::Acquire);
        if self.table.is_none() || self.seen != version {
            let table = self
                .published
                .table
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            self.table = Some(Arc::clone(&table));
            self.seen = version;
        }
        match &self.table {
            Some(table) => table,
            None => unreachable!("filled just above"),
        }
    }

    /// The number of the newest table: it changes with each.
    pub fn version(&self) -> u64 {
        self.published.version.load(Ordering::Acquire)
    }

    /// Lets go of a table that isn't the newest: it keeps the keys of ended sessions from being erased. Call it before every
    /// sleep, and end the sleep when [`Reader::version`] changes.
    pub fn let_go_of_old(&mut self) {
        if self.seen != self.version() {
            self.table = None;
        }
    }
}
