//! What outlives this process: descriptors kept by the service manager or by our own supervisor, by name.
//!
//! Strategy: both speak sd_notify's datagrams and hand everything in at the next start, so the daemon knows one keeper only,
//! or none: then every call does nothing. Names are `tun-0`, `tun-1`, … for the queues, `udp4`, `udp6`, `space-…` for a namespace (`space.rs`), and `memory`
//! (docs/reference/contracts.md §3). What was handed in and nobody takes is forgotten: a queue that nobody reads would
//! swallow its flows.
//!
//! What it does not do: know what a descriptor is good for; who takes one looks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use meshd_os::notify::{self, Notifier};
use meshd_os::Result;

/// Names of the TUN's queues start so.
pub const TUN: &str = "tun-";
/// Names of the sockets start so.
pub const UDP: &str = "udp";

/// The memory of sessions.
pub const MEMORY: &str = "memory";

/// How long a keeper may take to do what it was told.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the file's head.
pub struct Store {
    notifier: Notifier,
    supervised: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Handed in and not taken yet.
    found: Vec<(String, OwnedFd)>,
    /// Names that are kept now.
    held: BTreeSet<String>,
}

impl Store {
    /// The keeper of this process, with what it handed in. The second call in a process finds nothing.
    pub fn open() -> Result<Self> {
        let found = notify::received_fds();
        let held = found.iter().map(|(name, _)| name.clone()).collect();
        Ok(Self {
            notifier: Notifier::from_env()?,
            supervised: notify::is_supervised(),
            state: RefCell::new(State { found, held }),
        })
    }

    /// The line to the keeper.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Whether anybody keeps anything.
    pub fn keeps(&self) -> bool {
        self.notifier.is_connected()
    }

    /// Whether the keeper is our own supervisor.
    pub fn is_supervised(&self) -> bool {
        self.supervised
    }

    /// What was handed in under names that start so, in the order of the names.
    pub fn take(&self, prefix: &str) -> Vec<(String, OwnedFd)> {
        let mut state = self.state.borrow_mut();
        let (mut taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut state.found)
            .into_iter()
            .partition(|(name, _)| name.starts_with(prefix));
        state.found = left;
        // `tun-10` comes after `tun-9`.
        taken.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        taken
    }

    /// What was handed in under that very name.
    pub fn take_one(&self, name: &str) -> Option<OwnedFd> {
        let found = &mut self.state.borrow_mut().found;
        let at = found.iter().position(|(kept, _)| kept == name)?;
        Some(found.swap_remove(at).1)
    }

    /// Has `fd` kept as `name`, unless something is already. A failure costs an interruption at the next start, and is said.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        if self.keeps() && self.state.borrow_mut().held.insert(name.to_owned()) {
            if let Err(error) = self.notifier.store(fd, name) {
                eprintln!("meshd: warning: {name} will not outlive this process: {error}");
            }
        }
    }

    /// Has everything forgotten whose name starts so, and waits until it is.
    pub fn forget(&self, prefix: &str) {
        self.forget_those(|name| name.starts_with(prefix));
    }

    /// Has what is kept under that very name forgotten, and waits until it is.
    pub fn forget_one(&self, name: &str) {
        self.forget_those(|kept| kept == name);
    }

    fn forget_those(&self, which: impl Fn(&str) -> bool) {
        let names: Vec<String> = {
            let mut state = self.state.borrow_mut();
            state.found.retain(|(name, _)| !which(name));
            let names = state.held.iter().filter(|name| which(name));
            names.cloned().collect()
        };
        if names.is_empty() {
            return;
        }
        for name in names {
            match self.notifier.forget(&name) {
                Err(error) if !is_gone(&error) => {
                    eprintln!("meshd: warning: {name} is kept for nobody: {error}");
                }
                _ => {}
            }
            self.state.borrow_mut().held.remove(&name);
        }
        self.settle();
    }

    /// Has everything forgotten that was handed in and not taken.
    pub fn forget_rest(&self) {
        let rest: BTreeSet<String> = {
            let state = self.state.borrow();
            state.found.iter().map(|(name, _)| name.clone()).collect()
        };
        for name in rest {
            self.forget_one(&name);
        }
    }

    /// Waits until the keeper has done what it was told, so that a process which dies now leaves it so.
    pub fn settle(&self) {
        match self.notifier.barrier(PATIENCE) {
            Ok(true) => {}
            // It will get there: its messages are in order.
            Ok(false) => eprintln!("meshd: warning: the service manager is slow"),
            Err(error) if is_gone(&error) => {}
            Err(error) => eprintln!("meshd: warning: {error}"),
        }
    }
}

/// A keeper that has ended has let go of everything.
fn is_gone(error: &meshd_os::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_os::keeper::Keeper;
    use std::fs::File;
    use std::os::fd::AsFd;

    /// A store, as it is after a start that was handed `found`, and its keeper.
    fn store(test: &str, found: &[&str]) -> (Store, Keeper) {
        let path = std::env::temp_dir().join(format!("meshd-store-{}-{test}", std::process::id()));
        let keeper = Keeper::bind(&path).unwrap();
        let notifier = Notifier::connect(path.to_str().unwrap()).unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let found: Vec<_> = found
            .iter()
            .map(|name| ((*name).to_owned(), null()))
            .collect();
        let state = State {
            held: found.iter().map(|(name, _)| name.clone()).collect(),
            found,
        };
        for name in &state.held {
            notifier.store(null().as_fd(), name).unwrap();
        }
        let store = Store {
            notifier,
            supervised: true,
            state: RefCell::new(state),
        };
        (store, keeper)
    }

    /// What the keeper holds once `f` is done. It answers meanwhile.
    fn kept_after(store: &Store, mut keeper: Keeper, f: impl FnOnce(&Store)) -> Vec<String> {
        let done = std::sync::atomic::AtomicBool::new(false);
        let (done, pid) = (&done, std::process::id());
        std::thread::scope(|scope| {
            let serving = scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    keeper.serve(pid).unwrap();
                    std::thread::yield_now();
                }
                keeper.serve(pid).unwrap();
                keeper.names().map(str::to_owned).collect()
            });
            f(store);
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            serving.join().unwrap()
        })
    }

    #[test]
    fn one_name_that_begins_as_another_does_is_another() {
        let names = ["space-net-a", "space-net-ab", "udp4", "udp4-1"];
        let (store, keeper) = store("one", &names);
        let kept = kept_after(&store, keeper, |store| {
            store.take_one("space-net-ab").unwrap();
            store.forget_one("space-net-a");
            store.take_one("udp4-1").unwrap();
            store.forget_rest();
        });
        assert_eq!(
            kept,
            ["space-net-ab", "udp4-1"],
            "what was taken stays kept"
        );
    }

    #[test]
    fn a_prefix_takes_all_of_a_kind() {
        let (store, keeper) = store("prefix", &["tun-0", "tun-1", "udp4", "memory"]);
        let kept = kept_after(&store, keeper, |store| store.forget(TUN));
        assert_eq!(kept, ["memory", "udp4"]);
        assert!(store.take(TUN).is_empty());
        assert_eq!(store.take(UDP).len(), 1);
    }
}
