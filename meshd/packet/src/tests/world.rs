//! A tunnel between namespaces in one process: each end has its TUN in a namespace of its own, the outer sockets meet on the
//! loopback of the test's namespace, and a small control loop stands in for the daemon's.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use meshd_os::netlink::{IfAddress, Netlink, Route, TABLE_MAIN};
use meshd_os::tun::Tun;
use meshd_os::udp::{UdpOptions, UdpPair};
use meshd_os::{clock, events, namespace, random};
use meshd_proto::{
    Cidr, Context, Device, Endpoint, Outputs, PrivateKey, Random, Tai64n, Time, WallTime,
};

use super::super::{Plane, ProbeArrival, Switches};

pub const ALL: Switches = Switches {
    gso: true,
    gro: true,
    tun_offload: true,
    uso: true,
    priority: true,
    one_thread: true,
    queues: 1,
};

/// Moves the test's thread into a fresh namespace with a loopback, or says why it can't and gives false.
pub fn enter_fresh() -> bool {
    if let Err(e) = namespace::unshare() {
        eprintln!("skipped: no network namespace of its own: {e}");
        return false;
    }
    let netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_up(lo, true).unwrap();
    true
}

/// Sets the MTU of the outer path.
pub fn narrow(mtu: u32) {
    let netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_mtu(lo, mtu).unwrap();
}

struct Kernel;

impl Random for Kernel {
    fn fill(&mut self, out: &mut [u8]) {
        random::fill(out).unwrap();
    }
}

type Job = Box<dyn FnOnce(&mut Device, &mut Context<'_>) + Send>;

/// One end of the tunnel: 10.9.0.N/24 and fd09::N/64.
pub struct End {
    pub number: u8,
    pub namespace: OwnedFd,
    pub plane: Arc<Plane>,
    pub key: PrivateKey,
    pub port: u16,
    pub link: u32,
    pub probes: Mutex<Receiver<ProbeArrival>>,
    pub gone: Arc<AtomicBool>,
    jobs: Sender<Job>,
    stop: Arc<events::Event>,
    control: Option<JoinHandle<()>>,
}

impl End {
    pub fn new(number: u8, switches: Switches) -> Self {
        let namespace = std::thread::spawn(|| {
            namespace::unshare().unwrap();
            namespace::current().unwrap()
        });
        let namespace = namespace.join().unwrap();
        let (queues, link) = namespace::within(&namespace, || make_link(number, switches)).unwrap();
        let pairs = UdpPair::bind_several(&switches.udp_options(0, 0), queues.len()).unwrap();
        let port = pairs[0].port;
        let mut secret = [0; 32];
        random::fill(&mut secret).unwrap();
        let key = PrivateKey::new(secret);
        let mut device = Device::new(Tai64n::ZERO);
        device.set_private_key(Some(key.clone()));
        let mut plane = Plane::new(queues, pairs, device.reader(), switches).unwrap();
        plane.start().unwrap();
        let plane = Arc::new(plane);
        let (stop, gone) = (
            Arc::new(events::Event::new().unwrap()),
            Arc::new(AtomicBool::new(false)),
        );
        let (jobs, jobs_in) = channel();
        let (probes_out, probes) = channel();
        let control = Control {
            device,
            plane: plane.clone(),
            stop: stop.clone(),
            gone: gone.clone(),
            jobs: jobs_in,
            probes: probes_out,
        };
        let control = Some(std::thread::spawn(move || control.run()));
        let end = Self {
            number,
            namespace,
            plane,
            key,
            port,
            link,
            probes: Mutex::new(probes),
            gone,
            jobs,
            stop,
            control,
        };
        end.with_device(|device, ctx| device.set_link(ctx, true));
        end
    }

    /// Runs `job` in the control thread and waits until it is done.
    pub fn with_device<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Device, &mut Context<'_>) -> T + Send + 'static,
    ) -> T {
        let (answer, wait) = channel();
        let job: Job = Box::new(move |device, ctx| answer.send(job(device, ctx)).unwrap());
        self.jobs.send(job).unwrap();
        self.stop.raise();
        wait.recv().unwrap()
    }

    /// Makes `other` a peer that has `networks`, at its port of `ip`.
    pub fn peer(&self, other: &End, ip: &str, networks: &[(&str, u8)]) {
        let (key, at) = (
            other.key.public(),
            SocketAddr::new(ip.parse().unwrap(), other.port),
        );
        let networks: Vec<_> = networks
            .iter()
            .map(|(n, p)| Cidr::new(n.parse().unwrap(), *p).unwrap())
            .collect();
        self.with_device(move |device, ctx| {
            device.upsert_peer(&key);
            device.set_allowed_ips(&key, &networks).unwrap();
            device
                .set_endpoint(ctx, &key, Some(Endpoint::new(at)))
                .unwrap();
        });
    }

    /// Runs `f` in this end's namespace, in the calling thread.
    pub fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        namespace::within(&self.namespace, f).unwrap()
    }

    pub fn v4(&self) -> String {
        format!("10.9.0.{}", self.number)
    }

    pub fn v6(&self) -> String {
        format!("fd09::{}", self.number)
    }

    /// Moves to another outer port and gives it.
    pub fn rebind(&mut self, options: &UdpOptions) -> u16 {
        let pairs = UdpPair::bind_several(options, self.plane.queues()).unwrap();
        self.port = pairs[0].port;
        self.plane.rebind(pairs).unwrap();
        self.port
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // The control loop ends when nobody can give it a job any more.
        self.jobs = channel().0;
        self.stop.raise();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

fn make_link(number: u8, switches: Switches) -> (Vec<Tun>, u32) {
    let queues = Tun::create_queues("mesh0", switches.queues, switches.tun_options()).unwrap();
    let netlink = Netlink::open().unwrap();
    let index = netlink.link("mesh0").unwrap().unwrap().index;
    netlink.set_mtu(index, 1420).unwrap();
    for (ip, prefix) in [
        (format!("10.9.0.{number}"), 24),
        (format!("fd09::{number}"), 64),
    ] {
        netlink
            .add_address(
                index,
                IfAddress {
                    ip: ip.parse().unwrap(),
                    prefix,
                },
            )
            .unwrap();
    }
    netlink.set_up(index, true).unwrap();
    netlink
        .add_route(&Route::new(
            "10.10.0.0".parse().unwrap(),
            16,
            index,
            TABLE_MAIN,
        ))
        .unwrap();
    while tentative() {
        std::thread::sleep(Duration::from_millis(1));
    }
    (queues, index)
}

/// Whether an IPv6 address isn't usable yet: even on a link without duplicate detection a worker of the kernel says when
/// (addrconf_dad_work), and until then what comes for it is dropped.
fn tentative() -> bool {
    let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
    addresses.lines().any(|line| {
        let flags = line.split_whitespace().nth(4).unwrap();
        u32::from_str_radix(flags, 16).unwrap() & 0x40 != 0
    })
}

struct Control {
    device: Device,
    plane: Arc<Plane>,
    stop: Arc<events::Event>,
    gone: Arc<AtomicBool>,
    jobs: Receiver<Job>,
    probes: Sender<ProbeArrival>,
}

impl Control {
    fn run(mut self) {
        let mut out = Outputs::default();
        loop {
            let (now, wall) = (Time(clock::boottime_ns()), clock::realtime());
            let wall = WallTime {
                secs: wall.as_secs(),
                nanos: wall.subsec_nanos(),
            };
            let mut ctx = Context {
                now,
                wall,
                random: &mut Kernel,
                out: &mut out,
            };
            self.device.tick(&mut ctx);
            let notices = self.plane.take_notices();
            for handshake in &notices.handshakes {
                self.device
                    .receive(&mut ctx, &handshake.bytes, handshake.from, 0);
            }
            self.device.attend(&mut ctx);
            self.gone.fetch_or(notices.link_gone, Ordering::SeqCst);
            for probe in notices.probes {
                let _ = self.probes.send(probe);
            }
            loop {
                match self.jobs.try_recv() {
                    Ok(job) => job(&mut self.device, &mut ctx),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            self.plane.table_may_be_new();
            self.plane.send(&out.datagrams);
            out.datagrams.clear();
            out.events.clear();
            let timeout = self.device.next_timeout().map(|at| at.since(now));
            events::wait_readable([self.plane.wake_fd(), self.stop.as_fd()], timeout).unwrap();
            self.stop.lower();
        }
    }
}

/// Two ends that are each other's only peer, over `outer` (an address of the loopback).
pub fn pair(outer: &str, switches: [Switches; 2]) -> [End; 2] {
    let [a, b] = [End::new(1, switches[0]), End::new(2, switches[1])];
    a.peer(&b, outer, &[("10.9.0.2", 32), ("fd09::2", 128)]);
    b.peer(&a, outer, &[("10.9.0.1", 32), ("fd09::1", 128)]);
    [a, b]
}
