//! Sessions, and what was learned of peers, in memory that outlives the process.
//!
//! Strategy: the daemon hands in a stretch of shared words ([`Memory::open`]) and has it kept by whoever starts the next
//! process. It is a table of *places* (one a peer: key, endpoint, handshake times) and of *cells* (one a session: keys,
//! indices, the send counter, the top of the replay window). All are atomics, so nothing here is unsafe and no thread waits
//! for another.
//!
//! - The counter in the cell is the session's only one: taken with one `fetch_add` before it is used, so that no process
//!   which goes on from it can take the same one again.
//! - The top of the window is stored before packets are delivered. After a crash everything below counts as seen; after an
//!   orderly end ([`Memory::leave`]) the window itself is there.
//! - A cell is used again only when its session's last holder has let go of it: a packet thread may still seal with a
//!   session that was replaced, and must not count in another one's counter.
//! - What is written in several words has a checksum. What was torn by a crash, or isn't sound, is not used; a process that
//!   dies soon after its start three times in a row gives up what it went on from.
//!
//! What it does not do: map memory, decide which memory is safe for keys, or keep handshakes under way: those start anew.

mod cell;
mod place;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use cell::{Cell, Fixed, Kept, Role};
pub(crate) use place::{mark, Marks, Mirror, Place, Times};

use core::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::keys::PublicKey;
use crate::time::Time;
use words::{erase, key_bytes, key_words, read, write, Words};

/// "meshd", and the layout's number: another layout is not read.
const MAGIC: u64 = 0x6d65_7368_6400_0001;

/// So many deaths soon after a start, and what was kept is forgotten.
const QUICK_DEATHS: u64 = 3;

const HEADER: usize = 64;
use cell::CELL;
use place::PLACE;
/// Cells for each place: a peer has three sessions, and replaced ones are held for a moment.
const CELLS: usize = 4;

/// Words of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const PLACES: usize = 1;
    /// Set by an orderly end, cleared at the start.
    pub const CLEAN: usize = 2;
    pub const DEATHS: usize = 3;
    pub const STARTED: usize = 4;
    /// Places and cells from these on were never used, and are not looked at: that would make memory of them.
    pub const PLACES_USED: usize = 5;
    pub const CELLS_USED: usize = 6;
    pub const IDENTITIES: [usize; 2] = [8, 12];
}

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is new.
    Blank,
    /// What a predecessor has left.
    Sessions,
    /// The same, but predecessors kept dying of it, so it was forgotten.
    Poisoned,
}

/// See the file's head.
#[derive(Debug)]
pub struct Memory {
    words: Words,
    places: usize,
    found: Found,
    /// The predecessor has ended in good order.
    clean: bool,
    /// Nothing is erased any more: it belongs to a successor.
    left: AtomicBool,
    full: AtomicBool,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    places: Vec<usize>,
    cells: Vec<usize>,
    /// Places of a predecessor's peers that nobody has claimed yet.
    found: BTreeMap<PublicKey, usize>,
    /// The cells of its sessions.
    found_cells: Vec<usize>,
}

impl Memory {
    /// How many words it takes for so many peers.
    pub const fn words_for(peers: usize) -> usize {
        HEADER + peers * (PLACE + CELLS * CELL)
    }

    /// Takes `words` over at `now`: all zero, or what a predecessor has left. `None`: neither, or too small. A predecessor that
    /// died within `quick` of its start counts as killed by what is in here.
    pub fn open(words: Words, now: Time, quick: Duration) -> Option<Arc<Self>> {
        let places = words.len().checked_sub(HEADER)? / (PLACE + CELLS * CELL);
        let load = |at: usize| words[at].load(Relaxed);
        let blank = load(header::MAGIC) == 0;
        let sound = load(header::MAGIC) == MAGIC && load(header::PLACES) == places as u64;
        if places == 0 || !(blank || sound) {
            return None;
        }
        let clean = load(header::CLEAN) == 1;
        let quick_death = !clean && !Time(load(header::STARTED)).expired(now, quick);
        let deaths = if sound && quick_death {
            load(header::DEATHS).saturating_add(1)
        } else {
            0
        };
        let mut memory = Self {
            words,
            places,
            found: if blank { Found::Blank } else { Found::Sessions },
            clean,
            left: AtomicBool::new(false),
            full: AtomicBool::new(false),
            free: Mutex::default(),
        };
        if deaths >= QUICK_DEATHS {
            memory.wipe();
            memory.found = Found::Poisoned;
        } else {
            memory.find();
        }
        let store = |at: usize, value: u64| words[at].store(value, SeqCst);
        store(header::CLEAN, 0);
        store(
            header::DEATHS,
            if deaths >= QUICK_DEATHS { 0 } else { deaths },
        );
        store(header::STARTED, now.0);
        store(header::PLACES, places as u64);
        store(header::MAGIC, MAGIC);
        Some(Arc::new(memory))
    }

    /// Whether word `at` of memory for so many peers is taken as it is. Such a word changes with every packet, or says how the
    /// predecessor ended, and is whole by itself; what it says can't be told from anything else it could say.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn is_bare(peers: usize, at: usize) -> bool {
        match at.checked_sub(HEADER + peers * PLACE) {
            Some(at) => cell::is_bare(at % CELL),
            None => at == header::CLEAN,
        }
    }

    /// What was there at the start.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Whether there are, or were, more peers than it has room for.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// From now on nothing is erased any more: a successor goes on from what is here. The caller has stored the windows.
    pub(crate) fn leave(&self) {
        self.left.store(true, SeqCst);
        self.words[header::CLEAN].store(1, SeqCst);
    }

    /// Erases all peers and sessions. Nobody may hold one any more.
    pub fn wipe(&self) {
        let (places, cells) = self.used();
        for place in 0..places {
            erase(self.place_words(place));
        }
        for cell in 0..cells {
            erase(self.cell_words(cell));
        }
        erase(&self.words[header::PLACES_USED..HEADER]);
        *self.free() = Free::default();
    }

    /// Whether this was one of our public keys when the sessions were made.
    pub(crate) fn is_of(&self, key: &PublicKey) -> bool {
        let words = key_words(&key.0);
        let known = |at: usize| {
            let mut pairs = self.words[at..].iter().zip(&words);
            pairs.all(|(kept, word)| kept.load(Relaxed) == *word)
        };
        header::IDENTITIES.into_iter().any(known)
    }

    /// Our public keys: the current and the next one.
    pub(crate) fn set_identity(&self, ours: &[PublicKey]) {
        for (at, key) in header::IDENTITIES.into_iter().zip(0..) {
            let words = ours.get(key).map_or([0; 4], |key| key_words(&key.0));
            for (kept, word) in self.words[at..].iter().zip(words) {
                kept.store(word, SeqCst);
            }
        }
    }

    /// The place of a peer: the one it had, or a new one. `None` when there is no room.
    pub(crate) fn place(self: &Arc<Self>, key: &PublicKey) -> Option<Place> {
        let mut free = self.free();
        let known = free.found.remove(key);
        let number = known
            .or_else(|| free.places.pop())
            .or_else(|| self.next(header::PLACES_USED, self.places));
        drop(free);
        let Some(number) = number else {
            self.full.store(true, Relaxed);
            return None;
        };
        let words = self.place_words(number);
        if known.is_none() {
            erase(words);
            write(&words[place::PEER], &key_words(&key.0));
        }
        Some(Place::new(Arc::clone(self), words, number, known.is_some()))
    }

    /// Forgets the peers of a predecessor that nobody has claimed, and sessions without a peer.
    pub(crate) fn forget_rest(&self) {
        let rest = core::mem::take(&mut self.free().found);
        for number in rest.into_values() {
            erase(self.place_words(number));
            self.free().places.push(number);
        }
    }

    /// Takes the sessions of a predecessor out, each with its place; the second call finds none. What isn't sound is erased.
    pub(crate) fn take_sessions(self: &Arc<Self>) -> Vec<Kept> {
        let found = core::mem::take(&mut self.free().found_cells);
        let cell = |number| Cell::new(Arc::clone(self), self.cell_words(number), number);
        // What can't be read is dropped here, which erases it.
        found
            .into_iter()
            .filter_map(|number| Kept::read(cell(number)))
            .collect()
    }

    /// A cell for a new session of the peer in `place`.
    pub(crate) fn cell(self: &Arc<Self>) -> Option<Cell> {
        let mut free = self.free();
        let number = free
            .cells
            .pop()
            .or_else(|| self.next(header::CELLS_USED, self.places * CELLS));
        drop(free);
        let Some(number) = number else {
            self.full.store(true, Relaxed);
            return None;
        };
        let words = self.cell_words(number);
        erase(words);
        Some(Cell::new(Arc::clone(self), words, number))
    }

    /// Reads what a predecessor has left.
    fn find(&self) {
        let (places, cells) = self.used();
        let mut free = self.free();
        for number in 0..places {
            match read::<4>(&self.place_words(number)[place::PEER]) {
                Some(words) => {
                    let twin = free.found.insert(PublicKey(key_bytes(&words)), number);
                    free.places.extend(twin);
                }
                None => free.places.push(number),
            }
        }
        for number in 0..cells {
            match self.cell_words(number)[0].load(Relaxed) {
                0 => free.cells.push(number),
                _ => free.found_cells.push(number),
            }
        }
    }

    /// One more of the places or cells that were never used; under the lock of [`Memory::free`].
    fn next(&self, counter: usize, limit: usize) -> Option<usize> {
        let next = self.words[counter].load(Relaxed) as usize;
        (next < limit).then(|| {
            self.words[counter].store(next as u64 + 1, SeqCst);
            next
        })
    }

    /// How many places and cells have ever been used.
    fn used(&self) -> (usize, usize) {
        let load = |at: usize, limit: usize| (self.words[at].load(Relaxed) as usize).min(limit);
        (
            load(header::PLACES_USED, self.places),
            load(header::CELLS_USED, self.places * CELLS),
        )
    }

    fn place_words(&self, number: usize) -> Words {
        &self.words[HEADER + number * PLACE..][..PLACE]
    }

    fn cell_words(&self, number: usize) -> Words {
        &self.words[HEADER + self.places * PLACE + number * CELL..][..CELL]
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place or cell whose last holder has let go of it.
    fn give_back(&self, words: Words, free: impl FnOnce(&mut Free)) {
        if !self.is_left() {
            erase(words);
            free(&mut self.free());
        }
    }

    fn is_left(&self) -> bool {
        self.left.load(SeqCst)
    }
}
