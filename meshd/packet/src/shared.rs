//! What control and the packet threads share besides the protocol's table.
//!
//! Strategy: settings are values behind a mutex with one version number in front; a thread compares the number once a batch
//! and looks behind it only when it has changed ([`Shared::refresh`]). Notices go the other way through a bounded list and an
//! eventfd. Both are off the path of data.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshd_os::events::Event;
use meshd_os::udp::UdpPair;
use meshd_os::Result;
use meshd_proto::messages::MAX_QUEUED_HANDSHAKES;
use meshd_proto::{Endpoint, Time, Wake};

use crate::left::Left;
use crate::probe::ProbeMark;

/// Probe replies kept for control at most.
const MAX_WAITING_PROBES: usize = 1024;

/// A handshake message or cookie reply, for [`meshd_proto::Device::receive`].
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The datagram.
    pub bytes: Box<[u8]>,
    /// Who sent it, and where it came to.
    pub from: Endpoint,
}

/// An echo reply that carries our mark, from a peer that may use its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeArrival {
    /// Who answered.
    pub from: IpAddr,
    /// The echo's sequence number.
    pub sequence: u16,
    /// When it came.
    pub at: Time,
}

/// What the threads have for control.
#[derive(Debug, Default)]
pub struct Notices {
    /// In order of arrival; when it overflows, new ones are dropped.
    pub handshakes: Vec<Handshake>,
    /// In order of arrival.
    pub probes: Vec<ProbeArrival>,
    /// The link was deleted; the thread that noticed has ended.
    pub link_gone: bool,
}

/// What control tells the threads.
#[derive(Clone)]
pub(super) struct Settings {
    /// One pair for each queue, all of one port.
    pub sockets: Arc<[UdpPair]>,
    pub mtu: usize,
    pub relay: bool,
    pub addresses: Arc<[IpAddr]>,
    pub probe_mark: Option<ProbeMark>,
}

#[derive(Default)]
struct Waiting {
    handshakes: VecDeque<Handshake>,
    probes: Vec<ProbeArrival>,
    link_gone: bool,
}

pub(super) struct Shared {
    version: AtomicU64,
    settings: Mutex<Settings>,
    /// Replaced sockets that the receiving thread of each queue has not seen yet.
    left: Box<[Mutex<Vec<Left>>]>,
    /// How often all of them were called back.
    called_back: AtomicU64,
    stopping: AtomicBool,
    /// Ends the sleep of the sending thread of each queue.
    pub tx_kicks: Box<[Event]>,
    /// The same for the other direction.
    pub rx_kicks: Box<[Event]>,
    /// Ends control's sleep.
    pub wake: Event,
    waiting: Mutex<Waiting>,
    /// For tests: the queues whose sending thread sends.
    #[cfg(test)]
    pub apart: AtomicU64,
}

/// No code panics while it holds one of these, and the values are whole at all times.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(sockets: Vec<UdpPair>) -> Result<Self> {
        let kicks = || sockets.iter().map(|_| Event::new()).collect::<Result<_>>();
        let (tx_kicks, rx_kicks) = (kicks()?, kicks()?);
        let left = sockets.iter().map(|_| Mutex::default()).collect();
        let settings = Settings {
            sockets: sockets.into(),
            mtu: 1420,
            relay: false,
            addresses: Arc::new([]),
            probe_mark: None,
        };
        Ok(Self {
            version: AtomicU64::new(0),
            settings: Mutex::new(settings),
            left,
            called_back: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            tx_kicks,
            rx_kicks,
            wake: Event::new()?,
            waiting: Mutex::default(),
            #[cfg(test)]
            apart: AtomicU64::new(0),
        })
    }

    pub fn sockets(&self) -> Arc<[UdpPair]> {
        lock(&self.settings).sockets.clone()
    }

    pub fn set_sockets(&self, sockets: Vec<UdpPair>) {
        self.change(|s| {
            let old = std::mem::replace(&mut s.sockets, sockets.into());
            let left = Left::new(old, self.called_back());
            for place in &self.left {
                lock(place).push(left.clone());
            }
        });
        // Receiving threads sleep in the old ones; sending ones may sleep with them in their hands.
        self.kick();
    }

    /// The sockets that were replaced since the last call for `queue`, oldest first.
    pub fn take_left(&self, queue: usize) -> Vec<Left> {
        std::mem::take(&mut *lock(&self.left[queue]))
    }

    /// Has all that was left let go of as soon as it is empty.
    pub fn call_back(&self) {
        self.called_back.fetch_add(1, Ordering::Release);
        self.kick();
    }

    /// For [`Left::is_over`].
    pub fn called_back(&self) -> u64 {
        self.called_back.load(Ordering::Acquire)
    }

    /// Drops what was left and no thread has seen: there is none.
    pub fn forget_left(&self) {
        for place in &self.left {
            lock(place).clear();
        }
    }

    pub fn set_mtu(&self, mtu: usize) {
        self.change(|s| s.mtu = mtu);
    }

    pub fn set_relay(&self, on: bool) {
        self.change(|s| s.relay = on);
    }

    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.change(|s| s.addresses = addresses.into());
    }

    pub fn set_probe_mark(&self, mark: Option<ProbeMark>) {
        self.change(|s| s.probe_mark = mark);
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Wakes all threads that sleep.
    pub fn kick(&self) {
        for kick in self.tx_kicks.iter().chain(&self.rx_kicks) {
            kick.raise();
        }
    }

    /// The settings as they are now, with the number to [`Shared::refresh`] them by.
    pub fn settings(&self) -> (u64, Settings) {
        // The number first: a change in between is then seen as one still to come.
        let version = self.version.load(Ordering::Acquire);
        (version, lock(&self.settings).clone())
    }

    /// Brings a thread's copy up to date; one atomic load when nothing has changed. True: something has.
    pub fn refresh(&self, version: &mut u64, settings: &mut Settings) -> bool {
        let changed = self.version.load(Ordering::Acquire) != *version;
        if changed {
            (*version, *settings) = self.settings();
        }
        changed
    }

    /// For tests: a thread that has a handshake message or an answer to a probe for control waits until this is dropped.
    #[cfg(test)]
    pub fn hold(&self) -> impl Drop + '_ {
        lock(&self.waiting)
    }

    /// Notes, for tests, whether it is the sending thread of `queue` that sends.
    #[cfg_attr(not(test), allow(clippy::unused_self, unused_variables))]
    pub fn sends_apart(&self, queue: usize, it_is: bool) {
        #[cfg(test)]
        if it_is {
            self.apart.fetch_or(1 << queue, Ordering::SeqCst);
        } else {
            self.apart.fetch_and(!(1 << queue), Ordering::SeqCst);
        }
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.kick();
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Wakes control when the core wants it.
    pub fn wake(&self, wake: Wake) {
        if wake.needed() {
            self.wake.raise();
        }
    }

    /// Hands a handshake message to control, or drops it when too many wait.
    pub fn handshake(&self, bytes: &[u8], from: Endpoint) {
        let mut waiting = lock(&self.waiting);
        if waiting.handshakes.len() < MAX_QUEUED_HANDSHAKES {
            waiting.handshakes.push_back(Handshake {
                bytes: bytes.into(),
                from,
            });
            // Under the lock, so that control never lowers what it has not taken.
            self.wake.raise();
        }
    }

    pub fn probe(&self, arrival: ProbeArrival) {
        let mut waiting = lock(&self.waiting);
        if waiting.probes.len() < MAX_WAITING_PROBES {
            waiting.probes.push(arrival);
            self.wake.raise();
        }
    }

    pub fn link_gone(&self) {
        lock(&self.waiting).link_gone = true;
        self.wake.raise();
    }

    pub fn take_notices(&self) -> Notices {
        self.wake.lower();
        let mut waiting = lock(&self.waiting);
        Notices {
            handshakes: std::mem::take(&mut waiting.handshakes).into(),
            probes: std::mem::take(&mut waiting.probes),
            link_gone: waiting.link_gone,
        }
    }
}
