//! Closing and opening the host around a change: closed before anything else happens, opened after everything else has.

use std::collections::BTreeSet;

use super::interface::{failure, Interface};
use super::live;
use super::loaded::Loaded;
use super::mesh::{Mesh, EXIT};
use super::upkeep::SETTLE;
use super::world;
use crate::closed::Closed;
use crate::exit;
use crate::failure::Failure;

impl Mesh {
    /// Takes a configuration live, and this host's being a way out with it: what looks at forwarded packets is there before any
    /// flow, and forwarding is turned on when everything else is done. A configuration that is in force already is taken as
    /// well as can be, and status says what isn't; another one is refused for it.
    pub(super) fn take_live_as_exit(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        if loaded.conf.is_none() && self.unread {
            return self.take_live_closed(loaded);
        }
        let in_force = loaded.id == self.in_force().id;
        let wanted = exit::wanted(loaded.conf.as_ref());
        let before = self.way_out.held().cloned();
        let mut works = true;
        if let Some(Err(failure)) = wanted.map(|conf| self.way_out.load(conf)) {
            if !in_force {
                self.way_out.go_back(before);
                return Err(failure);
            }
            self.way_out.close(None);
            self.way_out.fail(failure);
            works = false;
        }
        if let Err(failure) = self.take_live_closed(loaded) {
            self.way_out.go_back(before);
            return Err(failure);
        }
        let net = self.engine.interface.as_mut().map(|live| &mut live.net);
        match (wanted, net) {
            (Some(conf), Some(net)) if works && in_force => {
                self.way_out.open_as_well_as_can_be(conf, net);
            }
            (Some(conf), Some(net)) if works => {
                if let Err(failure) = self.way_out.open(conf, net) {
                    let back = self.in_force().clone();
                    if let Err(failure) = self.take_live_as_exit(&back) {
                        eprintln!("meshd: warning: going back: {failure}");
                    }
                    return Err(failure);
                }
            }
            (Some(_), Some(net)) => {
                // Whatever a predecessor has turned on.
                if let Err(error) = net.forward_exit(&BTreeSet::new()) {
                    eprintln!("meshd: warning: {}: {error}", self.name);
                }
            }
            (_, net) => self.way_out.close(net),
        }
        self.watch_exit()
    }

    /// Watches what others do to the exit's table.
    fn watch_exit(&mut self) -> Result<(), Failure> {
        let Some(events) = self.way_out.events_to_watch() else {
            return Ok(());
        };
        let added = self.engine.poller().add(events, EXIT);
        added.map_err(|error| failure(&self.name, error))
    }

    /// Something happened to nf_tables.
    pub(super) fn exit_changed(&mut self) {
        if self.way_out.touched() {
            self.heal_exit();
        }
    }

    /// Puts back what others took away of the way out, and follows the default routes.
    fn heal_exit(&mut self) {
        let loaded = self.in_force().clone();
        let live = self.engine.interface.as_mut();
        if let Some((conf, live)) = exit::wanted(loaded.conf.as_ref()).zip(live) {
            if self.way_out.heal(conf, &mut live.net) {
                let name = &self.name;
                eprintln!(
                    "meshd: {name}: somebody took away what makes this host an exit; it is back"
                );
            }
            if let Err(failure) = self.watch_exit() {
                eprintln!("meshd: warning: {failure}");
            }
        }
    }

    /// Takes the interface of a configuration live between the two. On failure the host is as closed as it was before;
    /// at start, when that isn't known, as closed as the configuration wants it.
    pub(super) fn take_live_closed(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        // A confirmed configuration that can't be read may be one that wants the host closed.
        if loaded.conf.is_none() && self.unread {
            return live::take(&mut self.engine, &self.name, loaded, false);
        }
        let before = self.guard.held().cloned();
        let wanted = self.closed(loaded);
        let opens = wanted == Closed::default() && self.guard.is_closed();
        let mut prepared = Vec::new();
        if wanted != Closed::default() {
            prepared = live::prepare(&mut self.engine, loaded)?;
            if let Err(failure) = self.guard.set(&wanted) {
                live::take_back(&mut self.engine, &prepared);
                return Err(failure);
            }
        }
        let taken = live::take(&mut self.engine, &self.name, loaded, opens);
        // Now the port is known, and what isn't wanted any more can go.
        let result = taken.and_then(|()| self.guard.set(&self.closed(loaded)));
        if let (Err(_), Some(before)) = (&result, before) {
            if let Err(failure) = self.guard.set(&before) {
                eprintln!("meshd: warning: going back: {failure}");
            }
            live::take_back(&mut self.engine, &prepared);
        }
        if result.is_ok() && opens {
            // Open it is, whatever is left behind in tables that nobody asks any more.
            if let Err(failure) = live::take(&mut self.engine, &self.name, loaded, false) {
                eprintln!("meshd: warning: {failure}");
            }
        }
        result
    }

    fn closed(&self, loaded: &Loaded) -> Closed {
        let Some(conf) = &loaded.conf else {
            return Closed::default();
        };
        let live = self.engine.interface.as_ref();
        let port = match conf.interface.listen_port {
            0 => live.map_or(0, |interface| interface.outer.port()),
            port => port,
        };
        Closed::wanted(&self.name, conf, &loaded.uids, port)
    }

    /// Something happened to nf_tables.
    pub(super) fn nft_changed(&mut self) {
        if self.guard.touched() {
            self.heal();
        }
    }

    /// Routes, rules or switches changed: ours may be among them. Such changes come in storms.
    pub(super) fn heal_soon(&mut self) {
        let sites = self.engine.interface.as_ref();
        let sites = sites.is_some_and(Interface::has_sites);
        let watched = self.guard.is_closed() || self.way_out.is_held() || sites;
        if watched && self.heal_at.is_none() {
            self.heal_at = Some(world::now().after(SETTLE));
        }
    }

    /// Puts back what others took away of what keeps the host closed.
    pub(super) fn heal(&mut self) {
        self.heal_exit();
        if let Some(interface) = &mut self.engine.interface {
            interface.heal_sites();
        }
        match self.guard.heal() {
            Ok(false) => {}
            Ok(true) => eprintln!(
                "meshd: {}: somebody took away what keeps this host closed; it is back",
                self.name
            ),
            Err(error) => eprintln!("meshd: warning: {error}"),
        }
    }

    /// Watches what others do to our table.
    pub(super) fn watch_nft(&self, token: u64) -> Result<(), Failure> {
        let Some(events) = self.guard.events() else {
            return Ok(());
        };
        let added = self.engine.poller().add(events, token);
        added.map_err(|error| failure(&self.name, error))
    }
}
