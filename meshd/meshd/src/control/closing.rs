//! Closing and opening the host around a change: closed before anything else happens, opened after everything else has.

use super::interface::failure;
use super::live;
use super::loaded::Loaded;
use super::mesh::Mesh;
use super::upkeep::SETTLE;
use super::world;
use crate::closed::Closed;
use crate::failure::Failure;

impl Mesh {
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

    /// Routes or rules changed: ours may be among them. Such changes come in storms.
    pub(super) fn heal_soon(&mut self) {
        if self.guard.is_closed() && self.heal_at.is_none() {
            self.heal_at = Some(world::now().after(SETTLE));
        }
    }

    /// Puts back what others took away of what keeps the host closed.
    pub(super) fn heal(&mut self) {
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
