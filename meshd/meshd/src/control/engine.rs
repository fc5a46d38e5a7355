//! The control thread's engine: one place that waits. It owns the interface, serves `wg`, feeds the protocol core with
//! handshakes, wake-ups and time, and hands everything else to its user as [`Happening`]s.
//!
//! Strategy: one epoll set. Nothing is polled: with nothing to do there is no deadline and the thread sleeps for good.
//! The one exception is a bare device whose link was moved to another network namespace, where the kernel tells us
//! nothing: its state is looked at once a second.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use meshd_os::events::{Alarm, Poller, Ready, Signals};
use meshd_os::netlink::{LinkEvent, LinkEvents};
use meshd_os::uapi_socket::Listener;
use meshd_os::{priority, Result};
use meshd_proto::{uapi, Event, Tai64n, Time};

use super::confine;
use super::conversation::Conversation;
use super::interface::Interface;
use super::memory::Keeping;
use super::space::Space;
use super::store::{self, Store};
use super::world::{self, World};
use crate::paths;
use meshd_packet::{ProbeArrival, Switches};

/// Something that isn't the engine's business.
#[derive(Debug)]
pub enum Happening {
    /// A signal that asks to end.
    End,
    /// The interface's link was deleted by somebody else; the interface is gone.
    LinkGone,
    /// Addresses, routes or other links changed.
    Routing,
    /// Switches of `net.ipv4.conf` or `net.ipv6.conf` were turned.
    Switches,
    /// The protocol core says so.
    Protocol(Event),
    /// A reply to a probe of ours.
    Probe(ProbeArrival),
    /// A descriptor that the user added is ready.
    Ready(Ready),
    /// The user's deadline has come, or something woke the engine: look at the clock.
    Time,
}

/// Tokens below this are the engine's; users start here.
pub const FIRST_TOKEN: u64 = 1 << 32;

const ALARM: u64 = 1;
const SIGNALS: u64 = 2;
const LINKS: u64 = 3;
const PLANE: u64 = 4;
const UAPI: u64 = 5;
const SPACE: u64 = 6;
/// UAPI connections are counted from here.
const FIRST_CONVERSATION: u64 = 16;

/// Most connections at a time on one socket; more are hung up on, so that descriptors are left for everything else.
pub const MAX_CONVERSATIONS: usize = 256;

/// How often the state of a link in another namespace is looked at, and where packets leave while routes change.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// See the file's head.
pub struct Engine {
    poller: Poller,
    alarm: Alarm,
    signals: Signals,
    link_events: LinkEvents,
    /// What happens where the link lives, if that is elsewhere.
    space_events: Option<LinkEvents>,
    /// Network namespaces that links may live in.
    pub spaces: Vec<Space>,
    /// Clocks, randomness, and what the core wants done.
    pub world: World,
    /// The interface, if there is one.
    pub interface: Option<Interface>,
    /// What outlives this process.
    pub store: Rc<Store>,
    /// The part of it that holds sessions.
    pub keeping: Keeping,
    uapi: Option<Listener>,
    conversations: BTreeMap<u64, Conversation>,
    next_token: u64,
    happenings: VecDeque<Happening>,
    /// When to look at a link in another namespace.
    look_at: Option<Time>,
    /// When to look whether packets still leave by the links that their source addresses are of, and not before when.
    sources_at: (Option<Time>, Time),
    /// The greatest handshake label of this and former interfaces.
    labels: Tai64n,
}

impl Engine {
    /// An engine without interface; from here on this process writes to `folders` only. Blocks the signals it waits for, so
    /// call it before any thread is started.
    pub fn new(folders: &[PathBuf]) -> Result<Self> {
        let signals = Signals::new(&[libc::SIGTERM, libc::SIGINT])?;
        if Switches::from_env().priority {
            // Where it isn't permitted, packets take turns with everything else.
            if let Err(error) = priority::go_first() {
                eprintln!("meshd: {error}: packets take turns with programs");
            }
        }
        confine::confine(folders);
        let (poller, alarm, link_events) =
            (Poller::new()?, Alarm::new()?, LinkEvents::subscribe()?);
        poller.add(&alarm, ALARM)?;
        poller.add(&signals, SIGNALS)?;
        poller.add(&link_events, LINKS)?;
        let store = Rc::new(Store::open()?);
        let keeping = Keeping::open(&store, world::now());
        Ok(Self {
            poller,
            alarm,
            signals,
            link_events,
            space_events: None,
            spaces: Vec::new(),
            world: World::new(),
            interface: None,
            store,
            keeping,
            uapi: None,
            conversations: BTreeMap::new(),
            next_token: FIRST_CONVERSATION,
            happenings: VecDeque::new(),
            look_at: None,
            sources_at: (None, Time(0)),
            labels: Tai64n::ZERO,
        })
    }

    /// Handshake labels are to be greater than this one.
    pub fn start_labels_above(&mut self, label: Tai64n) {
        self.labels = self.labels.max(label);
    }

    /// The greatest handshake label used so far.
    pub fn labels(&self) -> Tai64n {
        let used = self.interface.as_ref().map_or(Tai64n::ZERO, |interface| {
            interface.device.timestamp_high_water()
        });
        used.max(self.labels)
    }

    /// Where the user adds descriptors, under a token from [`FIRST_TOKEN`] on.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Takes an interface over.
    pub fn install(&mut self, interface: Interface) -> Result<()> {
        self.poller.add(interface.outer.plane.wake_fd(), PLANE)?;
        let home = interface.namespace.as_ref();
        if let Some(space) = self.spaces.iter().find(|space| Some(&space.name) == home) {
            let events = space.events()?;
            self.poller.add(&events, SPACE)?;
            self.space_events = Some(events);
        }
        self.interface = Some(interface);
        Ok(())
    }

    /// Serves `wg` for the interface. An error leaves everything else working.
    pub fn serve_uapi(&mut self, name: &str) -> Result<()> {
        let path = paths::uapi_socket(name);
        if let Some(folder) = path.parent() {
            // If it can't be made, binding says so in better words.
            let _ = std::fs::create_dir_all(folder);
        }
        let listener = Listener::bind(&path)?;
        self.poller.add_edge(&listener, UAPI)?;
        self.uapi = Some(listener);
        Ok(())
    }

    /// Ends the interface: its link is gone when this returns.
    pub fn destroy(&mut self) {
        self.uapi = None;
        self.conversations.clear();
        self.look_at = None;
        if let Some(events) = self.space_events.take() {
            // Closing it would not be enough: others hold the same socket.
            let _ = self.poller.remove(&events);
        }
        self.labels = self.labels();
        if let Some(interface) = self.interface.take() {
            interface.close();
        }
        if let Some(sessions) = &self.keeping.sessions {
            sessions.wipe();
        }
        // Copies of the same: the link lives as long as one of its queues is open.
        self.store.forget(store::TUN);
        self.store.forget(store::UDP);
    }

    /// Ends this process's part of the interface and leaves the rest to a successor: the link, its addresses and routes, and
    /// whatever comes meanwhile.
    pub fn leave(&mut self) {
        if let Some(interface) = &mut self.interface {
            interface.leave();
        }
        // Handshakes that the threads have brought in are answered, for nobody else knows of them.
        self.attend();
        self.flush();
        if let Some(interface) = &self.interface {
            interface.device.leave();
        }
        self.uapi = None;
    }

    /// Sends what the core wants sent and keeps what it wants known. Call it after every use of the core.
    pub fn flush(&mut self) {
        let out = std::mem::take(&mut self.world.out);
        if let Some(interface) = &self.interface {
            interface.outer.plane.table_may_be_new();
            interface.outer.plane.send(&out.datagrams);
        }
        self.happenings
            .extend(out.events.into_iter().map(Happening::Protocol));
    }

    /// Waits until something happens that is the user's business; `deadline` is the user's own.
    pub fn next(&mut self, deadline: Option<Time>) -> Result<Happening> {
        loop {
            if let Some(happening) = self.happenings.pop_front() {
                return Ok(happening);
            }
            let now = world::now();
            self.tick(now);
            if deadline.is_some_and(|at| at <= now) {
                return Ok(Happening::Time);
            }
            if !self.happenings.is_empty() {
                continue;
            }
            self.wait(deadline)?;
        }
    }

    fn tick(&mut self, now: Time) {
        if let Some(interface) = &mut self.interface {
            if interface.device.next_timeout().is_some_and(|at| at <= now) {
                interface.device.tick(&mut self.world.context());
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = Some(now.after(LOOK_INTERVAL));
            self.look();
        }
        if self.sources_at.0.is_some_and(|at| at <= now) {
            self.sources_at = (None, now.after(LOOK_INTERVAL));
            if let Some(interface) = &self.interface {
                interface.let_go_of_sources();
            }
        }
        self.flush();
    }

    fn wait(&mut self, deadline: Option<Time>) -> Result<()> {
        let core = self
            .interface
            .as_ref()
            .and_then(|interface| interface.device.next_timeout());
        let next = [core, deadline, self.look_at, self.sources_at.0]
            .into_iter()
            .flatten()
            .min();
        self.alarm.set(next.map(|at| at.0))?;
        let mut ready = Vec::new();
        self.poller.wait(&mut ready, None)?;
        for one in ready {
            match one.token {
                ALARM => drop(self.alarm.clear()),
                SIGNALS => self.read_signals(),
                LINKS => self.read_link_events(false)?,
                SPACE => self.read_link_events(true)?,
                PLANE => self.attend(),
                UAPI => self.accept(),
                token if token < FIRST_TOKEN => self.converse(token),
                _ => self.happenings.push_back(Happening::Ready(one)),
            }
        }
        self.flush();
        Ok(())
    }

    fn read_signals(&mut self) {
        while self.signals.next().is_some() {
            self.happenings.push_back(Happening::End);
        }
    }

    /// Reads what happened here, or `there` where the link lives.
    fn read_link_events(&mut self, there: bool) -> Result<()> {
        let (mut routing, mut switches) = (false, false);
        while let Some(event) = self.next_link_event(there)? {
            let here = |interface: &&Interface| interface.namespace.is_some() == there;
            let ours = self.interface.as_ref().filter(here);
            let ours = ours.map(|interface| interface.net.index());
            match event {
                LinkEvent::Changed(link) if Some(link.index) == ours => {
                    self.link_is(link.up, link.mtu)
                }
                LinkEvent::Deleted { index } if Some(index) == ours => self.link_gone(),
                LinkEvent::Moved { index } if Some(index) == ours => {
                    self.look_at = Some(world::now().after(LOOK_INTERVAL));
                }
                LinkEvent::Lost => {
                    routing = true;
                    let link = self
                        .interface
                        .as_ref()
                        .and_then(|interface| interface.net.link().ok());
                    match link {
                        Some(Some(link)) => self.link_is(link.up, link.mtu),
                        Some(None) if self.look_at.is_none() => self.look(),
                        _ => {}
                    }
                }
                LinkEvent::Switches => switches = true,
                _ => routing = true,
            }
        }
        if switches {
            self.happenings.push_back(Happening::Switches);
        }
        if routing {
            // The first of a storm at once, the rest now and then.
            let (at, not_before) = &mut self.sources_at;
            at.get_or_insert(world::now().max(*not_before));
            self.happenings.push_back(Happening::Routing);
        }
        Ok(())
    }

    fn next_link_event(&mut self, there: bool) -> Result<Option<LinkEvent>> {
        match &mut self.space_events {
            Some(events) if there => events.next(),
            None if there => Ok(None),
            _ => self.link_events.next(),
        }
    }

    fn link_is(&mut self, up: bool, mtu: u32) {
        if let Some(interface) = &mut self.interface {
            interface.device.set_link(&mut self.world.context(), up);
            interface.mtu_is(u16::try_from(mtu).unwrap_or(u16::MAX));
        }
    }

    fn link_gone(&mut self) {
        self.destroy();
        self.happenings.push_back(Happening::LinkGone);
    }

    /// Looks at a link that the kernel tells us nothing about.
    fn look(&mut self) {
        let Some(interface) = &mut self.interface else {
            return;
        };
        match interface.outer.plane.link_up() {
            Some(up) => interface.device.set_link(&mut self.world.context(), up),
            None => self.link_gone(),
        }
    }

    /// The packet threads want something.
    fn attend(&mut self) {
        let Some(interface) = &mut self.interface else {
            return;
        };
        let notices = interface.outer.plane.take_notices();
        let mut waiting = notices.handshakes.len();
        for handshake in &notices.handshakes {
            waiting -= 1;
            interface.device.receive(
                &mut self.world.context(),
                &handshake.bytes,
                handshake.from,
                waiting,
            );
        }
        interface.device.attend(&mut self.world.context());
        self.happenings
            .extend(notices.probes.into_iter().map(Happening::Probe));
        if notices.link_gone {
            self.link_gone();
        }
    }

    /// Whatever is wrong with a new connection ends it and nothing else.
    fn accept(&mut self) {
        while let Some(Ok(Some((stream, _)))) = self.uapi.as_mut().map(Listener::accept) {
            let Ok(conversation) = Conversation::new(stream) else {
                continue;
            };
            self.next_token += 1;
            let added = self.poller.add(conversation.as_fd(), self.next_token);
            if added.is_ok() && self.conversations.len() < MAX_CONVERSATIONS {
                self.conversations.insert(self.next_token, conversation);
            }
        }
    }

    /// Serves a connection of `wg`. Whatever is wrong with it ends it and nothing else.
    fn converse(&mut self, token: u64) {
        let Some(conversation) = self.conversations.get_mut(&token) else {
            return;
        };
        let mut alive = conversation.receive(uapi::MAX_REQUEST).is_ok();
        while let Some(request) = conversation.next(uapi::END) {
            if let Some(interface) = &mut self.interface {
                let answer = interface.uapi(&mut self.world, &request);
                conversation.answer(&answer);
            }
        }
        alive &= conversation.flush(&self.poller, token).unwrap_or(false);
        if !alive {
            self.conversations.remove(&token);
            // Somebody may wait for its descriptor.
            self.accept();
        }
    }
}
