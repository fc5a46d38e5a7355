//! The network namespace that a link lives in while its UDP sockets stay here.
//!
//! Strategy: who may enter the namespace (root) opens three descriptors there, and whoever holds them needs not enter:
//! the namespace itself, to move a link into it; a conversation about its links, addresses and routes; a subscription to
//! what happens to them. CAP_NET_ADMIN is enough to use them. The daemon opens them itself when it starts as root; under
//! systemd, where it never is, `meshd space NAME` does and hands them over. They outlive the process in the keeper's store.
//!
//! What it does not do: make the link (`interface.rs`), or change anything in the namespace.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};

use meshd_os::netlink::{LinkEvents, Netlink};
use meshd_os::{namespace, sandbox, Error, Result};

use super::store::Store;
use crate::conf::Conf;
use crate::failure::Failure;
use crate::paths;

/// Names in the store start so; the namespace's own name follows.
pub const KEPT: [&str; 3] = ["space-net-", "space-route-", "space-events-"];

/// See the file's head.
#[derive(Debug)]
pub struct Space {
    /// The namespace's name, below /run/netns.
    pub name: String,
    fds: [OwnedFd; 3],
}

impl Space {
    /// Opens the namespace `name` for `mesh`, made when it is not there. Takes CAP_SYS_ADMIN.
    pub fn open(mesh: &str, name: &str) -> Result<Self> {
        let (namespace, made) = namespace::named_or_new(name)?;
        if made {
            // So that `remove` takes away what was made, and nothing else.
            let marker = paths::made_namespace(mesh);
            let folder = |path| {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
            };
            let written = marker.parent().map_or(Ok(()), folder);
            if let Err(error) = written.and_then(|()| fs::write(&marker, name)) {
                eprintln!("meshd: warning: {}: {error}", marker.display());
            }
        }
        // In a thread of its own: if there is no way back from there, this one must not go on astray.
        let inside = || namespace::within(&namespace, conversations);
        let opened = std::thread::scope(|scope| scope.spawn(inside).join());
        let [route, events] = opened.unwrap_or_else(|_| {
            let what = format!("look into the network namespace {name}");
            Err(Error::new(what, std::io::ErrorKind::Other.into()))
        })??;
        Ok(Self {
            name: name.to_owned(),
            fds: [namespace, route, events],
        })
    }

    /// As [`Space::open`] when this process may, which is to be asked before it gives up what it needs for that.
    pub fn open_if_allowed(mesh: &str, conf: Option<&Conf>) -> Option<Self> {
        let name = wanted(conf).filter(|_| sandbox::has_capability(sandbox::SYS_ADMIN))?;
        let opened = Self::open(mesh, name);
        opened
            .map_err(|error| eprintln!("meshd: warning: {error}"))
            .ok()
    }

    /// From descriptors that were handed over.
    pub fn from_fds(name: &str, fds: Vec<OwnedFd>) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            fds: fds.try_into().ok()?,
        })
    }

    /// What the store holds of the namespace `name`. A part of it, left by who died while handing it in, is of no use.
    pub fn take(store: &Store, name: &str) -> Option<Self> {
        let one = |prefix: &str| store.take_one(&format!("{prefix}{name}"));
        let fds: Vec<OwnedFd> = KEPT.into_iter().filter_map(one).collect();
        let space = Self::from_fds(name, fds);
        if space.is_none() {
            // Else the next one of that name would count as kept already.
            forget(store, name);
        }
        space
    }

    /// Has it outlive this process.
    pub fn keep(&self, store: &Store) {
        for (prefix, fd) in KEPT.into_iter().zip(&self.fds) {
            store.keep(&format!("{prefix}{}", self.name), fd.as_fd());
        }
    }

    /// Has the store forget it.
    pub fn forget(&self, store: &Store) {
        forget(store, &self.name);
    }

    /// Whether both are the same namespace: a name may have been given to another one since.
    pub fn is(&self, other: &Self) -> bool {
        let identity = |space: &Self| {
            let file = fs::File::from(space.fds[0].try_clone().ok()?);
            file.metadata().ok().map(|data| (data.dev(), data.ino()))
        };
        self.name == other.name && identity(self).is_some_and(|ours| identity(other) == Some(ours))
    }

    /// The descriptors, to be handed over.
    pub fn fds(&self) -> &[OwnedFd; 3] {
        &self.fds
    }

    /// A conversation about what is in there.
    pub fn netlink(&self) -> Result<Netlink> {
        Netlink::adopt(copy(&self.fds[1])?)
    }

    /// What happens in there.
    pub fn events(&self) -> Result<LinkEvents> {
        Ok(LinkEvents::adopt(copy(&self.fds[2])?))
    }

    /// Moves the link of that number, which is here, into it.
    pub fn bring(&self, index: u32) -> Result<()> {
        Netlink::open()?.move_link(index, self.fds[0].as_fd())
    }
}

/// The two conversations, with the namespace that the thread is in; its loopback is brought up.
fn conversations() -> Result<[OwnedFd; 2]> {
    let netlink = Netlink::open()?;
    if let Some(loopback) = netlink.link("lo")?.filter(|link| !link.up) {
        netlink.set_up(loopback.index, true)?;
    }
    Ok([netlink.into_fd(), LinkEvents::subscribe()?.into_fd()])
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd> {
    let copied = fd.try_clone();
    copied.map_err(|error| Error::new("duplicate a descriptor", error))
}

fn forget(store: &Store, name: &str) {
    for prefix in KEPT {
        store.forget_one(&format!("{prefix}{name}"));
    }
}

/// The namespace that `conf` wants, if it wants one.
pub fn wanted(conf: Option<&Conf>) -> Option<&str> {
    conf?.interface.namespace.as_deref()
}

/// Nobody has handed it over.
pub fn missing(mesh: &str, name: &str) -> Failure {
    Failure::new(
        format!("network namespace {name}"),
        "the daemon may not enter it by itself",
        format!("hand it over as root: meshd space {mesh}"),
    )
}
