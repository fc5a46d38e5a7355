//! `meshd run NAME`: the daemon of one mesh. It keeps the confirmed, staged and switched configurations, answers the
//! command, probes links, looks names up, and returns by itself when nobody confirms.
//!
//! Strategy: one thread, one loop on the [`Engine`]. Whatever takes time is a [`Waiting`] request with a deadline; every
//! turn of the loop looks at the clock once and does what is due. The requests are in `requests.rs`, what is shown in
//! `running.rs`, taking a configuration live in `live.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshd_os::events::Alarm;
use meshd_os::notify;
use meshd_os::uapi_socket::Listener;
use meshd_proto::{Event, PublicKey, Time};

use super::conversation::Conversation;
use super::engine::{Engine, Happening, FIRST_TOKEN, MAX_CONVERSATIONS};
use super::interface::failure;
use super::links::Links;
use super::loaded::Loaded;
use super::lookups::Lookups;
use super::names::Names;
use super::path_mtu::{self, Paths};
use super::requests::Waiting;
use super::space::{self, Space};
use super::world;
use crate::conf::{Endpoint, Host, Peer};
use crate::failure::{Failure, Outcome};
use crate::guard::Guard;
use crate::paths;
use crate::safe::{Id, Safe};
use crate::state::State;
use crate::way_out::WayOut;
use meshd_packet::ProbeMark;

/// Tokens of ours in the engine's set.
pub const CONTROL: u64 = FIRST_TOKEN;
const NAMES: u64 = FIRST_TOKEN + 1;
const NFT: u64 = FIRST_TOKEN + 2;
const CALENDAR: u64 = FIRST_TOKEN + 3;
pub(super) const EXIT: u64 = FIRST_TOKEN + 4;
/// Control connections are counted from here.
const FIRST_CONVERSATION: u64 = FIRST_TOKEN + 16;

/// See the file's head.
pub struct Mesh {
    pub(super) name: String,
    pub(super) engine: Engine,
    pub(super) started: Time,
    pub(super) safe: Safe,
    pub(super) confirmed: Loaded,
    pub(super) staged: Option<Loaded>,
    pub(super) switched: Option<Loaded>,
    pub(super) links: Links,
    pub(super) lookups: Lookups,
    pub(super) paths: Paths,
    /// Sentences about what doesn't work.
    pub(super) trouble: Vec<String>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) conversations: BTreeMap<u64, Conversation>,
    /// Links that were alive when the switched configuration was taken live.
    pub(super) alive_before: Vec<Link>,
    pub(super) names: Names,
    state: State,
    pub(super) mark: ProbeMark,
    control: Listener,
    own_uid: u32,
    next_token: u64,
    /// Set when it is time to end.
    pub(super) ending: Option<Ending>,
    watchdog: Option<(Duration, Time)>,
    pub(super) find_mtu_at: Option<Time>,
    /// Keeps the host closed.
    pub(super) guard: Guard,
    /// Makes it a way out for its peers.
    pub(super) way_out: WayOut,
    pub(super) heal_at: Option<Time>,
    /// The confirmed configuration can't be used: nobody knows what it wants.
    pub(super) unread: bool,
    /// Rings when the time of a peer is over.
    pub(super) calendar: Alarm,
}

/// What becomes of the interface and its sessions when the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They end too.
    Stop,
    /// They are left to a successor. If none comes the keeper lets go of them, and they end with that.
    Leave,
}

/// A link as a configuration names it: keys change, names stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The peer's key.
    pub key: PublicKey,
    /// The key it changes to.
    pub next: Option<PublicKey>,
    /// Its name in the mesh.
    pub name: Option<String>,
}

/// Runs the daemon in the foreground until it is told to end.
pub fn run(name: &str) -> Outcome {
    let mut mesh = Mesh::new(name)?;
    mesh.start()?;
    let outcome = mesh.serve();
    mesh.stop(*outcome.as_ref().unwrap_or(&Ending::Stop));
    outcome.map(drop).map_err(Vec::from)
}

impl Mesh {
    fn new(name: &str) -> Result<Self, Vec<Failure>> {
        let fail = |error| failure(name, error);
        let space = Loaded::confirmed(name)
            .ok()
            .and_then(|loaded| Space::open_if_allowed(name, loaded.conf.as_ref()));
        let mut engine = Engine::new(&paths::written()).map_err(fail)?;
        let path = paths::control_socket(name);
        if let Some(folder) = path.parent() {
            // If it can't be made, binding says so in better words.
            let _ = std::fs::create_dir_all(folder);
        }
        let control = Listener::bind(&path).map_err(fail)?;
        let added = engine.poller().add_edge(&control, CONTROL);
        added.map_err(fail)?;
        let names = Names::new().map_err(fail)?;
        engine.poller().add(names.event(), NAMES).map_err(fail)?;
        let calendar = Alarm::on_calendar().map_err(fail)?;
        engine.poller().add(&calendar, CALENDAR).map_err(fail)?;
        let (mut trouble, mut unread) = (Vec::new(), false);
        let confirmed = Loaded::confirmed(name).unwrap_or_else(|failures| {
            // Without an interface, but there: so that a better configuration can be staged.
            unread = true;
            for failure in failures {
                eprintln!("meshd: {failure}");
                trouble.push(format!(
                    "the confirmed configuration cannot be used: {failure}"
                ));
            }
            Loaded::absent()
        });
        let kept = space::wanted(confirmed.conf.as_ref())
            .and_then(|namespace| Space::take(&engine.store, namespace));
        let (state, labels) = State::open(name, world::wall());
        engine.start_labels_above(labels);
        let now = world::now();
        let mark = ProbeMark {
            id: u16::from_ne_bytes(engine.world.random()),
            magic: engine.world.random(),
        };
        let mut mesh = Self {
            name: name.to_owned(),
            engine,
            started: now,
            safe: Safe::new(confirmed.id.clone()),
            confirmed,
            staged: None,
            switched: None,
            links: Links::default(),
            lookups: Lookups::default(),
            paths: Paths::default(),
            trouble,
            waiting: Vec::new(),
            conversations: BTreeMap::new(),
            alive_before: Vec::new(),
            names,
            state,
            mark,
            control,
            own_uid: own_uid().map_err(fail)?,
            next_token: FIRST_CONVERSATION,
            ending: None,
            watchdog: notify::watchdog_interval().map(|interval| (interval / 2, now)),
            find_mtu_at: None,
            guard: Guard::new(name)?,
            way_out: WayOut::new(name)?,
            heal_at: None,
            unread,
            calendar,
        };
        // One that was opened just now is what the name means now.
        let known = |opened: &Space| kept.as_ref().is_some_and(|kept| kept.is(opened));
        match space.filter(|opened| !known(opened)) {
            Some(opened) => {
                if let Some(old) = &kept {
                    old.forget(&mesh.engine.store);
                }
                mesh.keep_space(opened);
            }
            None => mesh.engine.spaces.extend(kept),
        }
        Ok(mesh)
    }

    /// Takes the confirmed configuration live and tells the service manager.
    fn start(&mut self) -> Result<(), Failure> {
        self.watch_nft(NFT)?;
        match self.lacks_space(&self.confirmed) {
            // It comes by the control socket, which is served from now on.
            Some(missing) => eprintln!("meshd: {missing}"),
            None => self.take_live(&self.confirmed.clone())?,
        }
        // Of a link that this configuration doesn't want, say.
        self.engine.store.forget_rest();
        self.engine.store.settle();
        let ready = self.engine.store.notifier().ready();
        ready.map_err(|error| failure(&self.name, error))
    }

    /// How a signal to end is meant. A service manager sends the same one for a stop and for a restart; it holds the
    /// descriptors until it knows that nobody comes, so they are left to it. Our own supervisor sends it for a stop alone.
    fn ending_by_signal(&self) -> Ending {
        if self.engine.store.keeps() && !self.engine.store.is_supervised() {
            Ending::Leave
        } else {
            Ending::Stop
        }
    }

    fn stop(&mut self, ending: Ending) {
        // The service manager sees the process end in any case.
        let _ = self.engine.store.notifier().stopping();
        if let Err(error) = self.state.close(self.engine.labels()) {
            eprintln!(
                "meshd: warning: {}: {error}",
                paths::label_mark(&self.name).display()
            );
        }
        match ending {
            Ending::Stop => {
                self.engine.destroy();
                self.way_out.close(None);
            }
            Ending::Leave => self.engine.leave(),
        }
    }

    fn serve(&mut self) -> Result<Ending, Failure> {
        loop {
            let deadline = self.deadline();
            let happening = self
                .engine
                .next(deadline)
                .map_err(|error| failure(&self.name, error))?;
            match happening {
                Happening::End => return Ok(self.ending_by_signal()),
                Happening::LinkGone => {
                    let name = &self.name;
                    eprintln!("meshd: {name}: the interface was deleted by somebody else");
                    self.way_out.close(None);
                }
                Happening::Routing => {
                    self.find_mtu_soon();
                    self.heal_soon();
                }
                Happening::Switches => self.heal_soon(),
                Happening::Protocol(event) => self.protocol(&event),
                Happening::Probe(reply) if reply.sequence & path_mtu::SEQUENCE != 0 => {
                    self.path_answered(&reply);
                }
                Happening::Probe(reply) => {
                    self.links.answered(reply.at, reply.from, reply.sequence);
                }
                Happening::Ready(ready) if ready.token == CONTROL => self.accept(),
                Happening::Ready(ready) if ready.token == NAMES => self.resolved(),
                Happening::Ready(ready) if ready.token == NFT => self.nft_changed(),
                Happening::Ready(ready) if ready.token == EXIT => self.exit_changed(),
                Happening::Ready(ready) if ready.token == CALENDAR => self.expire(),
                Happening::Ready(ready) => self.converse(ready.token),
                Happening::Time => {}
            }
            self.turn(world::now())?;
            if let Some(ending) = self.ending {
                return Ok(ending);
            }
        }
    }

    /// The soonest of everything that has a time.
    fn deadline(&self) -> Option<Time> {
        let safe = self.safe.deadline().map(to_time);
        let waiting = self.waiting.iter().map(Waiting::next_timeout).min();
        let watchdog = self.watchdog.map(|(_, at)| at);
        [
            safe,
            waiting,
            watchdog,
            self.links.next_timeout(),
            self.lookups.next_timeout(),
            self.paths.next_timeout(),
            self.find_mtu_at,
            self.heal_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due. An error means that not even the confirmed configuration could be taken live again: the daemon
    /// ends, and starts anew from it.
    fn turn(&mut self, now: Time) -> Result<(), Failure> {
        if self.safe.is_due(to_duration(now)) {
            eprintln!("meshd: {}: not confirmed in time, going back", self.name);
            self.go_back()?;
        }
        if let Some((interval, at)) = self.watchdog.filter(|(_, at)| *at <= now) {
            self.watchdog = Some((interval, at.after(interval).max(now)));
            // A manager that can't be told will restart us, which is what it is for.
            let _ = self.engine.store.notifier().watchdog();
        }
        if self.find_mtu_at.is_some_and(|at| at <= now) {
            self.find_mtu_at = None;
            self.find_mtu();
        }
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.heal();
        }
        for name in self.lookups.due(now) {
            self.ask_name(&name);
        }
        self.probe(now);
        self.probe_paths(now);
        self.settle_waiting(now);
        Ok(())
    }

    /// What is live: the switched configuration, or the confirmed one.
    pub(super) fn in_force(&self) -> &Loaded {
        self.switched.as_ref().unwrap_or(&self.confirmed)
    }

    /// The peers of the configuration in force.
    pub(super) fn configured_peers(&self) -> impl Iterator<Item = &Peer> {
        self.in_force().conf.iter().flat_map(|conf| &conf.peers)
    }

    /// Takes a configuration live, all of it or nothing.
    pub(super) fn take_live(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        self.take_live_as_exit(loaded)?;
        if let Some(interface) = &self.engine.interface {
            interface.outer.plane.set_probe_mark(Some(self.mark));
            let device = &interface.device;
            self.links.retain(|key| device.shared_peer(key).is_some());
            self.paths.retain(|key| device.shared_peer(key).is_some());
        }
        let now = world::now();
        self.plan_expiry(loaded);
        let wanted: BTreeSet<String> = loaded
            .conf
            .iter()
            .flat_map(|conf| &conf.peers)
            .filter_map(|peer| name_of(peer.endpoint.as_ref()?))
            .collect();
        if wanted.is_empty() {
            self.names.stop();
        }
        for name in self
            .lookups
            .keep(now, &wanted.into_iter().collect::<Vec<_>>())
        {
            self.ask_name(&name);
        }
        Ok(())
    }

    /// Returns to the confirmed configuration.
    pub(super) fn go_back(&mut self) -> Result<(), Failure> {
        self.switched = None;
        self.safe.rolled_back();
        let confirmed = self.confirmed.clone();
        self.take_live(&confirmed)
    }

    fn protocol(&mut self, event: &Event) {
        let now = world::now();
        match event {
            Event::Established(key) => {
                let interface = self.engine.interface.as_ref();
                let peer = interface.and_then(|interface| interface.device.peer(key, now));
                if peer.is_none_or(|peer| peer.ends.is_none()) {
                    self.links.established(now, key);
                }
                if let Err(error) = self.state.note(self.engine.labels()) {
                    eprintln!(
                        "meshd: warning: {}: {error}",
                        paths::label_mark(&self.name).display()
                    );
                }
            }
            Event::Retrying(key, _) => {
                let endpoints = self
                    .engine
                    .interface
                    .as_ref()
                    .map(|interface| &interface.endpoints);
                let name = endpoints.and_then(|endpoints| name_of(endpoints.get(key)?));
                if let Some(name) = name.filter(|name| self.lookups.doubt(now, name)) {
                    self.ask_name(&name);
                }
            }
            Event::PathAsked(key) => self.look_at_path(key),
            _ => {}
        }
    }

    pub(super) fn accept(&mut self) {
        while let Ok(Some((stream, who))) = self.control.accept() {
            if who.uid != 0 && who.uid != self.own_uid {
                continue;
            }
            let Ok(conversation) = Conversation::new(stream) else {
                continue;
            };
            self.next_token += 1;
            let added = self.engine.poller().add(&conversation, self.next_token);
            if added.is_ok() && self.conversations.len() < MAX_CONVERSATIONS {
                self.conversations.insert(self.next_token, conversation);
            }
        }
    }

    /// A link of the configuration in force by the identity it had in an earlier one.
    pub(super) fn successor(&self, link: &Link) -> Option<&Peer> {
        let find = |is: &dyn Fn(&Peer) -> bool| self.configured_peers().find(|peer| is(peer));
        find(&|peer| peer.public_key == link.key)
            .or_else(|| {
                find(&|peer| {
                    link.next == Some(peer.public_key) || peer.next_public_key == Some(link.key)
                })
            })
            .or_else(|| find(&|peer| link.name.is_some() && peer.name == link.name))
    }

    /// Makes what is switched the confirmed one.
    pub(super) fn make_confirmed(&mut self, id: &Id) -> Result<(), crate::safe::Refusal> {
        self.safe.confirmed(id)?;
        if let Some(loaded) = self.switched.take() {
            self.confirmed = loaded;
        }
        self.trouble.clear();
        self.settle_spaces();
        Ok(())
    }
}

/// The name of an endpoint that needs a look-up.
pub(super) fn name_of(endpoint: &Endpoint) -> Option<String> {
    match &endpoint.host {
        Host::Name(name) => Some(name.clone()),
        Host::Addr(_) => None,
    }
}

/// Boot time as [`Safe`] counts it.
pub fn to_duration(time: Time) -> Duration {
    Duration::from_nanos(time.0)
}

fn to_time(since_boot: Duration) -> Time {
    Time(0).after(since_boot)
}

/// This process's user, as the kernel tells the other end of a socket.
fn own_uid() -> meshd_os::Result<u32> {
    use std::os::fd::AsFd;
    let fail = |error| meshd_os::Error::new("ask the own user id", error);
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().map_err(fail)?;
    Ok(meshd_os::uapi_socket::credentials(ours.as_fd())
        .map_err(fail)?
        .uid)
}
