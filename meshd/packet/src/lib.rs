//! The packet plane: the threads that move packets between the TUN and the sockets.
//!
//! Strategy: one thread a direction for each queue of the TUN, or one for both while there is little to send (`duty`), each from the system call that brings packets to the one that takes them away, with
//! fixed buffers, no hand-over in between, no allocation and no lock on the way. `tx` reads the TUN, lets flows take turns
//! (`flows`), cuts super-packets straight into the output buffer, seals a run and sends it in one call; `rx` receives merged runs, opens them in place, puts flows
//! together again and writes them to the TUN; `relay` is what a hub does in between. Look-ups, timers, counters and endpoints
//! are those of [`meshd_proto`], asked once a run.
//!
//! What control does: start a [`Plane`], sleep on [`Plane::wake_fd`], and when it is readable call [`Plane::take_notices`]
//! and [`meshd_proto::Device::attend`]. Everything else is told to the threads through [`Shared`], which they look at when
//! something has changed; nothing is ever waited for but their end.
//!
//! A crate of its own so that it can be compiled for speed while the rest of the daemon is compiled for size.
//!
//! What it does not do: shake hands, keep timers, or make packets of its own but ICMP errors.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod duty;
mod ecn;
mod flows;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod icmp;
mod left;
mod outbox;
mod paths;
mod pressure;
mod probe;
mod relay;
mod room;
mod rx;
mod shared;
mod switches;
#[cfg(test)]
mod tests;
mod too_big;
mod tx;

pub use probe::{ProbeMark, ProbeReply, MAGIC_LEN};
pub use shared::{Handshake, Notices, ProbeArrival};
pub use switches::Switches;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meshd_os::tun::Tun;
use meshd_os::udp::{Source, UdpPair, UdpSocket};
use meshd_os::{events, priority, Error, Result};
use meshd_proto::{Datagram, Reader};

use duty::Desk;
use shared::Shared;

/// The packet threads of one interface. Dropping it ends them and closes TUN and sockets.
pub struct Plane {
    shared: Arc<Shared>,
    tuns: Vec<Arc<Tun>>,
    /// Of the device; each thread takes a copy, this one never holds a table.
    reader: Reader,
    threads: Vec<JoinHandle<()>>,
    switches: Switches,
    /// The table that sleeping threads were last told of.
    told: AtomicU64,
}

/// What the two threads of one queue work with.
struct Lane {
    queue: usize,
    tun: Arc<Tun>,
    shared: Arc<Shared>,
    reader: Reader,
}

impl Plane {
    /// Takes everything over, but starts no thread yet: until [`Plane::start`] whatever comes waits in the kernel, so that an
    /// interface which was there before is set up first and loses nothing. Each of the TUN's queues gets two threads, with the
    /// pair of sockets of the same place; all pairs have one port. `reader` is the device's.
    ///
    /// # Errors
    /// There is no queue, or not one pair of sockets for each; no eventfd can be made.
    pub fn new(
        mut queues: Vec<Tun>,
        sockets: Vec<UdpPair>,
        reader: Reader,
        switches: Switches,
    ) -> Result<Self> {
        same_number(&sockets, queues.len())?;
        if !switches.tun_offload {
            queues.iter_mut().try_for_each(Tun::stop_offloading)?;
        }
        Ok(Self {
            shared: Arc::new(Shared::new(sockets)?),
            tuns: queues.into_iter().map(Arc::new).collect(),
            threads: Vec::new(),
            switches,
            told: AtomicU64::new(reader.version()),
            reader,
        })
    }

    /// Starts the threads, unless they run.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(&mut self) -> Result<()> {
        if !self.threads.is_empty() {
            return Ok(());
        }
        for (queue, tun) in self.tuns.clone().iter().enumerate() {
            let lane = || Lane {
                queue,
                tun: tun.clone(),
                shared: self.shared.clone(),
                reader: self.reader.clone(),
            };
            let one_thread = self.switches.one_thread;
            let tx = Box::new(tx::Tx::new(lane(), self.switches));
            let desk = Arc::new(Desk::new(tx, one_thread));
            let rx = rx::Rx::new(lane(), self.switches, desk.clone());
            let shared = self.shared.clone();
            self.spawn(&format!("meshd-tx{queue}"), move || {
                // It would run before a program has more for it: a system call for each datagram.
                priority::step_back();
                tx::run(&desk, &shared, queue, one_thread);
            })?;
            self.spawn(&format!("meshd-rx{queue}"), move || rx.run())?;
        }
        Ok(())
    }

    /// Ends the threads once they have sent or written what they hold; what comes from then on waits in the kernel, for a
    /// successor. [`Plane::send`] and [`Plane::take_notices`] go on working.
    pub fn halt(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
        self.shared.forget_left();
    }

    /// Lets more than usual wait in the sockets while nobody reads them.
    pub fn make_room(&self) {
        for socket in self.shared.sockets().iter().flat_map(UdpPair::iter) {
            // What doesn't fit is lost, as it would be without.
            let _ = socket.set_receive_buffer(HANDOVER_BUFFER);
        }
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK)
            .spawn(body);
        self.threads
            .push(thread.map_err(|e| Error::new("start a packet thread", e))?);
        Ok(())
    }

    /// Tells threads that sleep of a new table, so that none of them holds an old one, with the keys of ended sessions, until
    /// its next packet. Call it after every use of the core.
    pub fn table_may_be_new(&self) {
        let newest = self.reader.version();
        if self.told.swap(newest, Ordering::Relaxed) != newest {
            self.shared.kick();
        }
    }

    /// Readable when [`Plane::take_notices`] has something or a peer rang the bell ([`meshd_proto::Wake`]).
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// What the threads have for control; silences [`Plane::wake_fd`].
    pub fn take_notices(&self) -> Notices {
        self.shared.take_notices()
    }

    /// Sends handshake messages and whatever else the core wants sent, from the calling thread. Where the socket is full of
    /// data it waits a moment for room, since a lost handshake costs seconds; what still can't be sent is dropped, as the
    /// network would.
    pub fn send(&self, datagrams: &[Datagram]) {
        let sockets = self.shared.sockets();
        for datagram in datagrams {
            if let Some(socket) = sockets[0].towards(&datagram.to.remote) {
                self.send_one(socket, datagram);
            }
        }
    }

    fn send_one(&self, socket: &UdpSocket, Datagram { to, bytes }: &Datagram) {
        let source = to.local.map(|l| Source {
            ip: l.ip,
            ifindex: l.ifindex,
        });
        for _ in 0..PATIENT_TRIES {
            match socket.send(bytes, bytes.len(), &to.remote, source.as_ref(), 0, false) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let _ = events::wait_writable(socket.as_fd(), None, Some(PATIENCE));
                }
                _ => return,
            }
        }
    }

    /// How many queues there are, and so pairs of sockets.
    pub fn queues(&self) -> usize {
        self.tuns.len()
    }

    /// Moves the threads to other sockets, one pair for each queue. What the old ones have, and what comes to them for a quarter of a
    /// second, is delivered too; then they are closed.
    ///
    /// # Errors
    /// There isn't one pair for each queue.
    pub fn rebind(&self, sockets: Vec<UdpPair>) -> Result<()> {
        same_number(&sockets, self.queues())?;
        self.shared.set_sockets(sockets);
        Ok(())
    }

    /// Has the sockets before these closed as soon as they are empty, for who wants their port back.
    pub fn let_go_of_left(&self) {
        if self.threads.is_empty() {
            self.shared.forget_left();
        }
        self.shared.call_back();
    }

    /// Marks outer packets from now on; 0 doesn't.
    ///
    /// # Errors
    /// The kernel refuses (no CAP_NET_ADMIN).
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        let sockets = self.shared.sockets();
        sockets.iter().try_for_each(|pair| pair.set_mark(mark))
    }

    /// The link's MTU in bytes: packets are padded up to it.
    pub fn set_mtu(&self, mtu: usize) {
        self.shared.set_mtu(mtu);
    }

    /// Whether packets of one peer for another are passed on here instead of by the kernel.
    pub fn set_relay(&self, on: bool) {
        self.shared.set_relay(on);
    }

    /// This host's own addresses in the tunnel: with relaying on, packets for them are never passed on, whoever's allowed-ips
    /// hold them, and ICMP errors come from them.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.shared.set_addresses(addresses);
    }

    /// From now on echo replies that carry `mark` are handed to control ([`Notices::probes`]) and not to the TUN.
    pub fn set_probe_mark(&self, mark: Option<ProbeMark>) {
        self.shared.set_probe_mark(mark);
    }

    /// Whether the link is up, wherever it was moved; `None` once it was deleted.
    pub fn link_up(&self) -> Option<bool> {
        self.tuns[0].link_up()
    }

    /// What is in use, for status: of the kernel `gso`, `gro`, `tun-offload`, `uso`, and `multi-queue` with more than one; `priority`
    /// where the process may go before others; and `one-thread`, which sends and receives while there is little to send.
    pub fn features(&self) -> Vec<&'static str> {
        let sockets = self.shared.sockets();
        let sockets = || sockets.iter().flat_map(UdpPair::iter);
        let offloads = self.tuns[0].offloads();
        let features = [
            ("gso", self.switches.gso && sockets().all(|s| s.gso())),
            ("gro", sockets().all(|s| s.gro())),
            ("tun-offload", offloads.tcp),
            ("uso", offloads.udp),
            ("multi-queue", self.queues() > 1),
            ("priority", self.switches.priority && priority::is_ahead()),
            ("one-thread", self.switches.one_thread),
        ];
        features
            .into_iter()
            .filter_map(|(name, used)| used.then_some(name))
            .collect()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.halt();
    }
}

/// What waits in a socket during a handover, bytes: 60 ms of some gigabits a second.
const HANDOVER_BUFFER: usize = 16 << 20;

fn same_number(sockets: &[UdpPair], queues: usize) -> Result<()> {
    if queues == 0 || sockets.len() != queues {
        let what = format!("use {} pairs of sockets for {queues} queues", sockets.len());
        return Err(Error::new(what, ErrorKind::InvalidInput.into()));
    }
    Ok(())
}

/// How long a thread that delivers waits for room in the socket, for what it passes on or answers, before it drops: what is behind waits as
/// long.
const RELAY_PATIENCE: Duration = Duration::from_millis(2);

/// How long control waits for room in the socket, and how often.
const PATIENCE: Duration = Duration::from_millis(5);
const PATIENT_TRIES: usize = 4;

/// Enough for the arrays that system calls fill, and no more.
const STACK: usize = 256 << 10;
