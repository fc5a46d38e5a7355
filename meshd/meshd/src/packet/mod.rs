//! The packet plane: the threads that move packets between the TUN and the sockets.
//!
//! Strategy: one thread a direction, each from the system call that brings packets to the one that takes them away, with
//! fixed buffers, no hand-over in between, no allocation and no lock on the way. `tx` reads the TUN, lets flows take turns
//! (`flows`), cuts super-packets straight into the output buffer, seals a run and sends it in one call; `rx` receives merged runs, opens them in place, puts flows
//! together again and writes them to the TUN; `relay` is what a hub does in between. Look-ups, timers, counters and endpoints
//! are those of [`meshd_proto`], asked once a run.
//!
//! What control does: start a [`Plane`], sleep on [`Plane::wake_fd`], and when it is readable call [`Plane::take_notices`]
//! and [`meshd_proto::Device::attend`]. Everything else is told to the threads through [`Shared`], which they look at when
//! something has changed; nothing is ever waited for but their end.
//!
//! What it does not do: shake hands, keep timers, or make packets of its own but ICMP errors.

mod ecn;
mod flows;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod icmp;
mod outbox;
mod paths;
mod pressure;
mod relay;
mod room;
mod rx;
mod shared;
mod switches;
#[cfg(test)]
mod tests;
mod tx;

pub use shared::{Notices, ProbeArrival};
pub use switches::Switches;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meshd_os::tun::Tun;
use meshd_os::udp::{Source, UdpPair, UdpSocket};
use meshd_os::{events, Error, Result};
use meshd_proto::{Datagram, Reader};

use crate::probe::ProbeMark;
use shared::Shared;

/// The packet threads of one interface. Dropping it ends them and closes TUN and sockets.
pub struct Plane {
    shared: Arc<Shared>,
    tun: Arc<Tun>,
    reader: Reader,
    threads: Vec<JoinHandle<()>>,
    switches: Switches,
}

impl Plane {
    /// Takes everything over, but starts no thread yet: until [`Plane::start`] whatever comes waits in the kernel, so that an
    /// interface which was there before is set up first and loses nothing. `reader` is the device's; each thread takes a copy.
    ///
    /// # Errors
    /// No eventfd can be made.
    pub fn new(mut tun: Tun, sockets: UdpPair, reader: Reader, switches: Switches) -> Result<Self> {
        if !switches.tun_offload {
            tun.stop_offloading()?;
        }
        Ok(Self {
            shared: Arc::new(Shared::new(sockets)?),
            tun: Arc::new(tun),
            reader,
            threads: Vec::new(),
            switches,
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
        let (tun, shared) = (self.tun.clone(), self.shared.clone());
        let tx = tx::Tx::new(tun, shared, self.reader.clone(), self.switches);
        self.spawn("meshd-tx", move || tx.run())?;
        let (tun, shared) = (self.tun.clone(), self.shared.clone());
        let rx = rx::Rx::new(tun, shared, self.reader.clone(), self.switches);
        self.spawn("meshd-rx", move || rx.run())
    }

    /// Ends the threads once they have sent or written what they hold; what comes from then on waits in the kernel, for a
    /// successor. [`Plane::send`] and [`Plane::take_notices`] go on working.
    pub fn halt(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }

    /// Lets more than usual wait in the sockets while nobody reads them.
    pub fn make_room(&self) {
        for socket in self.shared.sockets().iter() {
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
            if let Some(socket) = sockets.towards(&datagram.to.remote) {
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
                    let (room, stop) = (socket.as_fd(), self.shared.tx_kick.as_fd());
                    let _ = events::wait_writable(room, stop, Some(PATIENCE));
                }
                _ => return,
            }
        }
    }

    /// Moves the threads to other sockets; the old ones are closed as soon as no thread is in them.
    ///
    /// # Errors
    /// None today; the result is there for sockets that must be set up per thread.
    pub fn rebind(&self, sockets: UdpPair) -> Result<()> {
        self.shared.set_sockets(sockets);
        Ok(())
    }

    /// Marks outer packets from now on; 0 doesn't.
    ///
    /// # Errors
    /// The kernel refuses (no CAP_NET_ADMIN).
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.shared.sockets().set_mark(mark)
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
        self.tun.link_up()
    }

    /// The kernel features in use, for status: `gso`, `gro`, `tun-offload`, `uso`.
    pub fn features(&self) -> Vec<&'static str> {
        let sockets = self.shared.sockets();
        let offloads = self.tun.offloads();
        let features = [
            ("gso", self.switches.gso && sockets.iter().all(|s| s.gso())),
            ("gro", sockets.iter().all(|s| s.gro())),
            ("tun-offload", offloads.tcp),
            ("uso", offloads.udp),
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

/// How long control waits for room in the socket, and how often.
const PATIENCE: Duration = Duration::from_millis(5);
const PATIENT_TRIES: usize = 4;

/// Enough for the arrays that system calls fill, and no more.
const STACK: usize = 256 << 10;
