//! The outer side of an interface: its UDP sockets' port and mark, changed by a configuration or by `wg`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use meshd_os::netlink::Netlink;
use meshd_os::udp::{UdpPair, UdpSocket};
use meshd_os::{Error, Result};
use meshd_proto::uapi::{self, Errno};

use super::store::{self, Store};
use meshd_packet::{Plane, Switches};

/// The packet threads with what is known of their sockets.
pub struct Outer {
    /// The packet threads.
    pub plane: Plane,
    switches: Switches,
    port: u16,
    mark: u32,
    chosen: Option<u16>,
    /// The port before this one.
    left: Option<u16>,
    store: Rc<Store>,
}

/// Sockets, and how they came to be.
pub struct Sockets {
    /// Themselves: a pair for each of the TUN's queues, all of one port.
    pub pairs: Vec<UdpPair>,
    /// What their packets are marked with.
    pub mark: u32,
}

impl Sockets {
    /// Those of a predecessor, or new ones on a port that the kernel chooses: one pair for each of `queues`.
    pub fn get(store: &Store, switches: &Switches, queues: usize) -> Result<Self> {
        let fds = store.take(store::UDP);
        if !fds.is_empty() {
            match Self::adopt(fds, switches, queues) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => eprintln!("meshd: warning: {error}"),
            }
            store.forget(store::UDP);
        }
        Ok(Self {
            pairs: UdpPair::bind_several(&switches.udp_options(0, 0), queues)?,
            mark: 0,
        })
    }

    fn adopt(fds: Vec<(String, OwnedFd)>, switches: &Switches, queues: usize) -> Result<Self> {
        let options = switches.udp_options(0, 0);
        let mut by_queue: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, fd) in fds {
            let queue = name.split_once('-').map_or("", |(_, number)| number);
            by_queue.entry(queue.to_owned()).or_default().push(fd);
        }
        let pairs = by_queue
            .into_values()
            .map(|fds| UdpPair::adopt(fds, &options))
            .collect::<Result<Vec<_>>>()?;
        let port = pairs.first().map(|pair| pair.port);
        if pairs.len() != queues || pairs.iter().any(|pair| Some(pair.port) != port) {
            let what = "adopt the sockets: one pair for each of the link's queues";
            return Err(Error::new(what, ErrorKind::InvalidInput.into()));
        }
        let first = pairs.first().and_then(|pair| pair.iter().next());
        let mark = first.map_or(Ok(0), UdpSocket::mark)?;
        Ok(Self { pairs, mark })
    }

    /// Their port.
    pub fn port(&self) -> u16 {
        self.pairs.first().map_or(0, |pair| pair.port)
    }

    /// Has them kept.
    pub fn keep(&self, store: &Store) {
        keep(&self.pairs, store);
    }
}

fn keep(pairs: &[UdpPair], store: &Store) {
    for (queue, pair) in pairs.iter().enumerate() {
        for (name, socket) in [("udp4", &pair.v4), ("udp6", &pair.v6)] {
            let Some(socket) = socket else { continue };
            let name = match queue {
                0 => name.to_owned(),
                _ => format!("{name}-{queue}"),
            };
            store.keep(&name, socket.as_fd());
        }
    }
}

/// How often, and after how long, a port that we have just left is tried again.
const LETTING_GO: usize = 50;
const MOMENT: Duration = Duration::from_millis(2);

impl Outer {
    /// Packet threads on a port that the kernel chose, or a predecessor had.
    pub fn new(
        plane: Plane,
        switches: Switches,
        (port, mark): (u16, u32),
        store: Rc<Store>,
    ) -> Self {
        Self {
            plane,
            switches,
            port,
            mark,
            chosen: Some(port),
            left: None,
            store,
        }
    }

    /// The kernel features in use.
    pub fn features(&self) -> Vec<String> {
        self.plane
            .features()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The mark of outer packets; 0: none.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Whether the kernel chose the port, since nobody asked for one.
    pub fn port_is_chosen(&self) -> bool {
        self.chosen == Some(self.port)
    }

    /// Nobody asks for a port any more: this one is as good as another.
    pub fn keep_port(&mut self) {
        self.chosen = Some(self.port);
    }

    /// Moves to another port; 0 lets the kernel choose. The old one is kept when this fails.
    pub fn set_port(&mut self, port: u16) -> Result<()> {
        if port == self.port {
            self.chosen = None;
            return Ok(());
        }
        let sockets = self.bind(port)?;
        let bound = sockets[0].port;
        // The old ones would hold their port in the store.
        self.store.forget(store::UDP);
        keep(&sockets, &self.store);
        self.plane.rebind(sockets)?;
        self.left = Some(self.port);
        self.port = bound;
        self.chosen = (port == 0).then_some(bound);
        Ok(())
    }

    /// Whether [`Outer::set_port`] could, as things are.
    pub fn try_port(&self, port: u16) -> Result<()> {
        self.bind(port).map(drop)
    }

    /// Binds new sockets. A port we have just moved away from is still held until the packet threads have let go of it.
    fn bind(&self, port: u16) -> Result<Vec<UdpPair>> {
        let options = self.switches.udp_options(port, self.mark);
        if self.left == Some(port) {
            self.plane.let_go_of_left();
        }
        for _ in 0..if self.left == Some(port) {
            LETTING_GO
        } else {
            0
        } {
            match UdpPair::bind_several(&options, self.plane.queues()) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => sleep(MOMENT),
                other => return other,
            }
        }
        UdpPair::bind_several(&options, self.plane.queues())
    }

    /// Marks outer packets; 0 doesn't.
    pub fn set_mark(&mut self, mark: u32) -> Result<()> {
        self.plane.set_mark(mark)?;
        self.mark = mark;
        Ok(())
    }
}

impl uapi::Host for Outer {
    fn listen_port(&self) -> u16 {
        self.port
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn link(&self, name: &str) -> Option<u32> {
        let link = Netlink::open().and_then(|netlink| netlink.link(name));
        Some(link.ok()??.index)
    }

    fn set_listen_port(&mut self, port: u16) -> std::result::Result<(), Errno> {
        self.set_port(port).map_err(|error| errno(&error))
    }

    fn set_fwmark(&mut self, mark: u32) -> std::result::Result<(), Errno> {
        self.set_mark(mark).map_err(|error| errno(&error))
    }
}

fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::AddrInUse => Errno::EADDRINUSE,
        _ => error.errno().map_or(Errno::EIO, Errno),
    }
}
