//! Which memory sessions are kept in, if any: what the kernel has, weighed against where it could be written to.
//!
//! Strategy: secret memory is always good. Plain shared memory is good while nothing swaps to a disk. Else sessions end with
//! the process: a restart costs one handshake a peer, keys on a disk would cost more, and status says so. Where nobody keeps
//! descriptors there is nothing to weigh.
//!
//! What it does not do: know what is in it; that is the protocol core's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshd_os::memory::{self, Kind, Memory};
use meshd_proto::{Found, Memory as Sessions, Time};

use super::store::{Store, MEMORY};

/// Peers there is room for: the most that can be locked, which `LimitMEMLOCK=` in the unit allows for. Memory is taken only for
/// the ones there are.
const ROOMS: [usize; 4] = [16384, 4096, 1024, 32];

/// A predecessor that lived less than this may have died of what it went on from.
const QUICK: Duration = Duration::from_secs(5);

/// What is so on this host. Tests and the curious can say it is otherwise.
#[derive(Debug)]
struct Facts {
    /// The kernel has memfd_secret; `MESHD_NO_MEMFD_SECRET=1` says no.
    secret: bool,
    /// Where swap is listed; `MESHD_SWAPS`.
    swaps: PathBuf,
    /// See [`QUICK`]; `MESHD_QUICK_DEATH_MS`, since a test kills faster than any crash.
    quick: Duration,
}

impl Facts {
    fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let millis = var("MESHD_QUICK_DEATH_MS").and_then(|text| text.parse().ok());
        Self {
            secret: var("MESHD_NO_MEMFD_SECRET").is_none_or(|value| value == "0"),
            swaps: var("MESHD_SWAPS").map_or_else(|| "/proc/swaps".into(), PathBuf::from),
            quick: millis.map_or(QUICK, Duration::from_millis),
        }
    }
}

/// The memory, and a sentence for status where it isn't what one would expect.
#[derive(Default)]
pub struct Keeping {
    /// Where sessions are kept.
    pub sessions: Option<Arc<Sessions>>,
    note: Option<String>,
}

impl Keeping {
    /// Goes on with the memory of a predecessor, or makes some.
    pub fn open(store: &Store, now: Time) -> Self {
        let facts = Facts::from_env();
        let found = store.take(MEMORY).into_iter().next().map(|(_, fd)| fd);
        if !store.keeps() {
            return Self::default();
        }
        match open(&facts, store, found, now) {
            Ok(sessions) => {
                let note = match sessions.found() {
                    Found::Poisoned => Some(
                        "the daemon kept dying soon after its start, so its sessions were forgotten"
                            .to_owned(),
                    ),
                    _ => None,
                };
                if let Some(note) = &note {
                    eprintln!("meshd: {note}");
                }
                Self {
                    sessions: Some(sessions),
                    note,
                }
            }
            Err(why) => {
                store.forget_one(MEMORY);
                let note = format!(
                    "sessions are not kept over a restart, which costs one handshake a peer: {why}"
                );
                eprintln!("meshd: {note}");
                Self {
                    sessions: None,
                    note: Some(note),
                }
            }
        }
    }

    /// What people should know.
    pub fn note(&self) -> Option<String> {
        let full = self
            .sessions
            .as_ref()
            .is_some_and(|sessions| sessions.is_full());
        let full = full.then(|| {
            "there are more peers than locked memory allows to keep sessions for over a restart (LimitMEMLOCK)"
                .to_owned()
        });
        self.note.clone().or(full)
    }
}

fn open(
    facts: &Facts,
    store: &Store,
    found: Option<OwnedFd>,
    now: Time,
) -> Result<Arc<Sessions>, String> {
    let former = found.and_then(|fd| match Memory::adopt(fd) {
        Ok(memory) => Some(memory),
        Err(error) => {
            eprintln!("meshd: warning: {error}");
            None
        }
    });
    if let Some(memory) = former {
        let good = memory.kind() == Kind::Secret || allow_plain(facts).is_ok();
        let sessions = Sessions::open(memory.words(), now, facts.quick);
        match sessions {
            Some(sessions) if good => return Ok(sessions),
            Some(sessions) => sessions.wipe(),
            None => eprintln!("meshd: what was kept of sessions is of another version"),
        }
        store.forget_one(MEMORY);
    }
    let memory = create(facts)?;
    let sessions = Sessions::open(memory.words(), now, facts.quick);
    store.keep(MEMORY, memory.as_fd());
    sessions.ok_or_else(|| "there is too little memory".to_owned())
}

fn create(facts: &Facts) -> Result<Memory, String> {
    let why_not = if facts.secret {
        match largest(Kind::Secret) {
            Ok(memory) => return Ok(memory),
            Err(error) => error.to_string(),
        }
    } else {
        "this kernel has no memfd_secret".to_owned()
    };
    allow_plain(facts).map_err(|swap| format!("{why_not}, and {swap}"))?;
    largest(Kind::Plain).map_err(|error| error.to_string())
}

/// Plain memory is as good as other memory of this process while nothing is swapped out to where it stays.
fn allow_plain(facts: &Facts) -> Result<(), String> {
    match memory::swaps_to_disk(&facts.swaps) {
        Ok(false) => Ok(()),
        Ok(true) => Err("there is swap on disk, where keys must not go".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn largest(kind: Kind) -> meshd_os::Result<Memory> {
    let [first, rest @ ..] = ROOMS;
    rest.into_iter().fold(
        Memory::create(kind, Sessions::words_for(first)),
        |best, peers| best.or_else(|_| Memory::create(kind, Sessions::words_for(peers))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(secret: bool, swap: bool) -> Facts {
        let path = std::env::temp_dir().join(format!("meshd-swaps-{}-{swap}", std::process::id()));
        let disk = if swap { "/swapfile file 4 0 -2\n" } else { "" };
        std::fs::write(&path, format!("Filename Type Size Used Priority\n{disk}")).unwrap();
        Facts {
            secret,
            swaps: path,
            quick: QUICK,
        }
    }

    #[test]
    fn keys_go_where_they_cannot_reach_a_disk_or_nowhere() {
        assert_eq!(create(&facts(false, false)).unwrap().kind(), Kind::Plain);
        let why = create(&facts(false, true)).unwrap_err();
        assert!(
            why.contains("no memfd_secret") && why.contains("swap on disk"),
            "{why}"
        );
        if Memory::create(Kind::Secret, 1).is_err() {
            eprintln!("skipped: this kernel has no memfd_secret");
            return;
        }
        for swap in [false, true] {
            assert_eq!(create(&facts(true, swap)).unwrap().kind(), Kind::Secret);
        }
    }
}
