//! What is so, as text and numbers: the running canonical text, vitals, the report.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use meshd_proto::{PeerStatus as CoreStatus, PublicKey, Rotation, Trouble, PATH_FLOOR};

use super::mesh::Mesh;
use super::world;
use crate::closed;
use crate::conf::{
    table, Cidr, Conf, Endpoint, Host, Peer, PeerKeys, Section, Table, ToBase64, UtcTime,
};
use crate::exit;
use crate::failure::Failure;
use crate::reload::{PeerSetup, Setup};
use crate::report::{PeerStatus, Report, State, Status, SCHEMA, VERSION};
use crate::{hosts, paths};

impl Mesh {
    /// Canonical text of what is live; empty when there is no interface or its link is down.
    pub fn running_text(&self) -> Result<String, Failure> {
        let loaded = self.in_force();
        let Some((interface, conf)) = self.engine.interface.as_ref().zip(loaded.conf.as_ref())
        else {
            return Ok(String::new());
        };
        let Some(setup) = interface
            .observe(&closed::tables(conf))?
            .filter(|setup| setup.up)
        else {
            return Ok(String::new());
        };
        let port = match conf.interface.listen_port {
            0 if interface.outer.port_is_chosen() => None,
            _ => setup.listen_port,
        };
        let mtu = match conf.interface.mtu {
            None if interface.found_mtu == Some(setup.mtu) => None,
            _ => Some(setup.mtu),
        };
        let whole = self.guard.is_whole();
        let hosts = host_lines(&self.name);
        let namespace = interface.namespace.as_deref();
        let exit = exit::wanted(Some(conf))
            .is_some_and(|conf| self.way_out.is_whole(conf, &interface.net));
        let state = (namespace, whole, exit);
        Ok(text(conf, &setup, port, mtu, &hosts, state))
    }

    /// Vitals.
    pub fn status(&self) -> Status {
        let interface = self.engine.interface.as_ref();
        let link = interface.and_then(|interface| interface.net.link().ok().flatten());
        Status {
            schema: SCHEMA,
            version: VERSION.to_owned(),
            name: self.name.clone(),
            state: self.state(),
            interface: interface.map(|interface| interface.name.clone()),
            link_up: link.as_ref().map(|link| link.up),
            public_key: interface
                .and_then(|interface| interface.device.public_key())
                .map(|key| key.to_base64()),
            listen_port: interface.map(|interface| interface.outer.port()),
            mtu: link.and_then(|link| u16::try_from(link.mtu).ok()),
            uptime_s: world::now().since(self.started).as_secs_f64(),
            features: interface.map_or(Vec::new(), |interface| interface.outer.features()),
            notes: self.notes(),
            peers: self.peer_statuses(),
        }
    }

    /// The report.
    pub fn report(&self) -> Result<Report, Failure> {
        let running = self.running_text()?;
        let mut report = Report::new(
            &self.name,
            self.state(),
            self.confirmed.canonical(),
            running,
        );
        report.staged_id = self.safe.staged_id().map(str::to_owned);
        report.switched_id = self.safe.switched_id().map(str::to_owned);
        let now = std::time::Duration::from_nanos(world::now().0);
        report.rollback_in_s = self
            .safe
            .deadline()
            .map(|at| at.saturating_sub(now).as_secs_f64());
        report.public_key = self.in_force().public_key();
        report.listen_port = self
            .engine
            .interface
            .as_ref()
            .map(|interface| interface.outer.port());
        report.peers = self.peer_statuses();
        Ok(report)
    }

    fn state(&self) -> State {
        if self.engine.interface.is_some() {
            State::Running
        } else {
            State::Absent
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.trouble.clone();
        notes.extend(self.guard.note());
        if let Some(conf) = exit::wanted(self.in_force().conf.as_ref()) {
            notes.extend(self.way_out.notes(conf));
        }
        notes.extend(self.engine.keeping.note());
        if self.engine.interface.is_none() {
            notes.extend(
                self.lacks_space(self.in_force())
                    .map(|missing| missing.to_string()),
            );
        }
        if self
            .engine
            .interface
            .as_ref()
            .is_some_and(|interface| interface.net.lacks_ipv6())
        {
            notes.push(
                "IPv6 is turned off on this host: the mesh's IPv6 addresses and routes are not set"
                    .to_owned(),
            );
        }
        notes
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let Some(interface) = &self.engine.interface else {
            return Vec::new();
        };
        let names: BTreeMap<PublicKey, &Peer> = self
            .configured_peers()
            .map(|peer| (peer.public_key, peer))
            .collect();
        let mtu = interface.mtu();
        let peers = interface.device.peers(world::now());
        peers
            .iter()
            .map(|peer| self.peer_status(peer, names.get(&peer.public_key).copied(), mtu))
            .collect()
    }

    fn peer_status(&self, peer: &CoreStatus, configured: Option<&Peer>, mtu: u16) -> PeerStatus {
        let now = world::now();
        let endpoints = self
            .engine
            .interface
            .as_ref()
            .map(|interface| &interface.endpoints);
        let configured_endpoint = endpoints.and_then(|endpoints| endpoints.get(&peer.public_key));
        let vitals = self.links.vitals(&peer.public_key);
        let shared = self
            .engine
            .interface
            .as_ref()
            .and_then(|interface| interface.device.shared_peer(&peer.public_key));
        let limit = shared
            .map(|shared| shared.path_limit())
            .filter(|limit| *limit < mtu);
        // Whatever came after the probe is fresher than its outcome; what comes under a session that is about to end is not.
        let alive = vitals.map(|vitals| {
            let fresh = peer.last_received.is_some_and(|at| at > vitals.at);
            (vitals.alive || fresh) && peer.ends.is_none()
        });
        PeerStatus {
            name: configured.and_then(|peer| peer.name.clone()),
            public_key: peer.public_key.to_base64(),
            endpoint: peer.endpoint.map(|endpoint| endpoint.remote.to_string()),
            configured_endpoint: configured_endpoint.map(ToString::to_string),
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            next_public_key: peer.next_public_key.map(|key| key.to_base64()),
            rotation: peer.rotation.map(|rotation| match rotation {
                Rotation::Waiting => "waiting".to_owned(),
                Rotation::Moved => "moved".to_owned(),
            }),
            latest_handshake_s: peer.handshake_age(now).map(|age| age.as_secs_f64()),
            rtt_ms: vitals
                .and_then(|vitals| vitals.rtt)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: vitals.and_then(|vitals| vitals.loss),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            mtu: limit.unwrap_or(mtu),
            mtu_reason: limit.map(|limit| match limit {
                PATH_FLOOR => {
                    format!("packets of {mtu} bytes get lost on the way; it takes {limit} or less")
                }
                _ => format!("packets longer than {limit} bytes get lost on the way"),
            }),
            keepalive_s: peer.keepalive,
            alive,
            reason: (alive == Some(false)).then(|| self.reason(peer, configured_endpoint)),
        }
    }

    /// Why a peer that was probed isn't alive, as a sentence.
    fn reason(&self, peer: &CoreStatus, configured: Option<&Endpoint>) -> String {
        if let Some(end) = peer.ends {
            let left = end.since(world::now()).as_secs();
            return format!("its session was made with a key that is gone, and ends in {left} s");
        }
        if let Some(Host::Name(name)) = configured.map(|endpoint| &endpoint.host) {
            if self.lookups.failed(name) && !peer.connected {
                return format!("endpoint name does not resolve: {name}");
            }
        }
        match (peer.endpoint, peer.trouble) {
            (_, Some(trouble))
                if !matches!(trouble, Trouble::Unanswered(_) | Trouble::NoEndpoint) =>
            {
                trouble.to_string()
            }
            (None, _) => "no endpoint known".to_owned(),
            (Some(at), _) => format!("no answer from {}", at.remote),
        }
    }
}

/// The lines of our block in the hosts file, as they can be read.
fn host_lines(name: &str) -> Vec<String> {
    let text = fs::read(paths::HOSTS).unwrap_or_default();
    let mut lines = hosts::lines(&text, name).unwrap_or_default();
    lines.sort();
    lines.dedup();
    lines
}

/// The canonical text of a set-up that was found. Names, expiry and the like, which only meshd knows, are those of
/// `conf`, the configuration in force; so is a peer that has expired, since expiry is no drift.
fn text(
    conf: &Conf,
    found: &Setup,
    port: Option<u16>,
    mtu: Option<u16>,
    hosts: &[String],
    (namespace, closed, exit): (Option<&str>, bool, bool),
) -> String {
    let interface = &conf.interface;
    let mut text = String::new();
    let mut section = Section::new(&mut text, "Interface");
    section.value("Name", interface.name.as_ref());
    section.value(
        "PublicKey",
        found
            .private_key
            .as_ref()
            .map(|key| key.public().to_base64()),
    );
    section.value(
        "NextPublicKey",
        found
            .next_private_key
            .as_ref()
            .map(|key| key.public().to_base64()),
    );
    section.list("Address", &found.addresses.iter().collect::<Vec<_>>());
    section.value("ListenPort", port);
    let fwmark = match found.fwmark {
        // Chosen by meshd where the configuration leaves it open.
        mark if mark == closed::mark(conf) => interface.fwmark,
        other => other,
    };
    section.value(
        "FwMark",
        Some(fwmark)
            .filter(|mark| *mark != 0)
            .map(|mark| format!("{mark:#x}")),
    );
    section.value("MTU", mtu);
    section.value("Table", table(interface.table));
    section.value("Namespace", namespace);
    section.flag("Relay", found.relay);
    section.list("Forward", &found.forward.iter().collect::<Vec<_>>());
    section.flag("Exit", exit);
    section.each("Host", hosts);
    section.flag("KillSwitch", interface.kill_switch && closed);
    section.list("KillSwitchAllow", &interface.kill_switch_allow);
    if closed {
        section.list("RouteUsers", &interface.route_users);
    }
    if interface.table != Table::Off {
        // They may be in several tables.
        let routes: BTreeSet<Cidr> = found.routes.iter().map(|route| route.network).collect();
        section.list("Routes", &routes.into_iter().collect::<Vec<_>>());
    }

    let configured: BTreeMap<PublicKey, &Peer> = conf
        .peers
        .iter()
        .map(|peer| (peer.public_key, peer))
        .collect();
    let mut peers: BTreeMap<PublicKey, PeerSetup> = found.peers.clone();
    for (key, peer) in &configured {
        if is_expired(peer, world::utc()) {
            peers.entry(*key).or_insert_with(|| PeerSetup::from(*peer));
        }
    }
    for (key, peer) in &peers {
        let known = configured.get(key);
        let keys = PeerKeys {
            current: key,
            next: peer.next_public_key.as_ref(),
            preshared: [&peer.preshared_key, &peer.next_preshared_key].map(Option::as_ref),
        };
        let name = known.and_then(|peer| peer.name.as_ref());
        let mut section = Section::peer(&mut text, name, &keys);
        let allowed_ips: Vec<_> = peer.allowed_ips.iter().collect();
        section.reach(&allowed_ips, peer.endpoint.as_ref(), peer.keepalive);
        section.value("Expires", known.and_then(|peer| peer.expires));
    }
    text
}

/// Whether a peer's time is over.
pub fn is_expired(peer: &Peer, now: UtcTime) -> bool {
    peer.expires.is_some_and(|at| now >= at)
}
