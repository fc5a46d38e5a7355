//! The network namespaces that the daemon holds: those that a configuration names, as they are handed over.

use super::conversation::Conversation;
use super::loaded::Loaded;
use super::mesh::Mesh;
use super::space::{self, Space};
use crate::failure::Failure;

impl Mesh {
    /// A network namespace was handed over: what waits for it is taken live.
    pub(super) fn space_comes(&mut self, token: u64, namespace: &str) -> Result<(), Vec<Failure>> {
        let conversation = self.conversations.get_mut(&token);
        let fds = conversation.map_or(Vec::new(), Conversation::take_fds);
        let Some(space) = Space::from_fds(namespace, fds) else {
            let what = format!("network namespace {namespace}");
            return Err(Failure::new(what, "its descriptors did not come along", "").into());
        };
        let lives_there = space::wanted(self.in_force().conf.as_ref()) == Some(namespace);
        if !self.engine.spaces.iter().any(|known| known.is(&space)) {
            // The name means another namespace now; the link goes there.
            if lives_there {
                self.engine.destroy();
            }
            self.keep_space(space);
        }
        // Nor is it live when that failed the last time.
        if lives_there && self.engine.interface.is_none() {
            self.take_live(&self.in_force().clone())?;
        }
        Ok(())
    }

    /// That `loaded` can't be taken live before a network namespace is handed over.
    pub(super) fn lacks_space(&self, loaded: &Loaded) -> Option<Failure> {
        let namespace = space::wanted(loaded.conf.as_ref())?;
        let has = self
            .engine
            .spaces
            .iter()
            .any(|space| space.name == namespace);
        (!has).then(|| space::missing(&self.name, namespace))
    }

    /// Holds a network namespace, in the place of one of that name.
    pub(super) fn keep_space(&mut self, space: Space) {
        let of_that_name = |known: &Space| known.name == space.name;
        if let Some(at) = self.engine.spaces.iter().position(of_that_name) {
            self.engine
                .spaces
                .swap_remove(at)
                .forget(&self.engine.store);
        }
        space.keep(&self.engine.store);
        self.engine.spaces.push(space);
    }

    /// Lets go of the network namespaces that no configuration names any more.
    pub(super) fn settle_spaces(&mut self) {
        let loaded = [
            Some(&self.confirmed),
            self.switched.as_ref(),
            self.staged.as_ref(),
        ];
        let named: Vec<String> = loaded
            .into_iter()
            .flatten()
            .filter_map(|loaded| space::wanted(loaded.conf.as_ref()).map(str::to_owned))
            .collect();
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.engine.spaces)
            .into_iter()
            .partition(|space| named.contains(&space.name));
        self.engine.spaces = kept;
        for space in gone {
            space.forget(&self.engine.store);
        }
    }
}
