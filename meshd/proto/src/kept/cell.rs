//! A cell: a session as it is kept.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::place::{Marks, MARKS};
use super::words::{key_bytes, key_words, read, write, Words};
use super::Memory;
use crate::handshake::SessionKeys;
use crate::replay::RING_WORDS;
use crate::time::Time;

/// Words of a cell. What packet threads write lies on cache lines of its own.
pub(super) const CELL: usize = 168;
/// Checksum, role and flags and place, indices, birth, two keys.
const FIXED: Range<usize> = 0..12;
/// What it was made with, written before the fixed part makes the cell valid, and never again; and when it ends, if that is
/// sooner than its age says, else 0: a word that is whole by itself. So neither needs a checksum, and the layout is still the one
/// of daemons that left these words 0.
const MADE_WITH: Range<usize> = 12..12 + MARKS;
const END: usize = 15;
const COUNTER: usize = 16;
const TOP: usize = 24;
const RING: Range<usize> = 32..32 + RING_WORDS as usize;
const _: () = assert!(RING.end <= CELL && MADE_WITH.end <= END && END < COUNTER);

/// See [`Memory::is_bare`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn is_bare(at: usize) -> bool {
    at == COUNTER || at == TOP || RING.contains(&at)
}

/// What a session is to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    Dropped = 0,
    Current = 1,
    Previous = 2,
    Next = 3,
    Fading = 4,
}

const INITIATOR: u64 = 1 << 8;
const SENDABLE: u64 = 1 << 9;
const CONFIRMED: u64 = 1 << 10;

/// The part of a session that doesn't move, as it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    pub role: Role,
    pub initiator: bool,
    pub sendable: bool,
    pub confirmed: bool,
    pub place: usize,
    pub local_index: u32,
    pub remote_index: u32,
    pub born: Time,
}

impl Fixed {
    fn pack(&self) -> [u64; 3] {
        let flag = |so: bool, bit: u64| if so { bit } else { 0 };
        let first = self.role as u64
            | flag(self.initiator, INITIATOR)
            | flag(self.sendable, SENDABLE)
            | flag(self.confirmed, CONFIRMED)
            | (self.place as u64) << 32;
        let indices = u64::from(self.local_index) | u64::from(self.remote_index) << 32;
        [first, indices, self.born.0]
    }

    fn unpack([first, indices, born]: [u64; 3]) -> Option<Self> {
        Some(Self {
            role: match first & 0xff {
                1 => Role::Current,
                2 => Role::Previous,
                3 => Role::Next,
                4 => Role::Fading,
                _ => return None,
            },
            initiator: first & INITIATOR != 0,
            sendable: first & SENDABLE != 0,
            confirmed: first & CONFIRMED != 0,
            place: (first >> 32) as usize,
            local_index: indices as u32,
            remote_index: (indices >> 32) as u32,
            born: Time(born),
        })
    }
}

/// A session of a predecessor.
pub(crate) struct Kept {
    pub fixed: Fixed,
    pub keys: SessionKeys,
    pub cell: Cell,
}

impl Kept {
    pub(super) fn read(cell: Cell) -> Option<Self> {
        let words = Zeroizing::new(read::<11>(&cell.words[FIXED])?);
        let fixed = Fixed::unpack([words[0], words[1], words[2]])?;
        let key = |at: usize| Zeroizing::new(key_bytes(&words[at..at + 4]));
        let keys = SessionKeys {
            send: key(3),
            receive: key(7),
        };
        Some(Self { fixed, keys, cell })
    }
}

/// Where a session is kept. Erased when the session's last holder lets go of it.
#[derive(Debug)]
pub(crate) struct Cell {
    memory: Arc<Memory>,
    words: Words,
    number: usize,
}

impl Cell {
    pub(super) fn new(memory: Arc<Memory>, words: Words, number: usize) -> Self {
        Self {
            memory,
            words,
            number,
        }
    }

    /// The next counter to send with.
    #[inline]
    pub fn counter(&self) -> &AtomicU64 {
        &self.words[COUNTER]
    }

    /// One above the greatest counter received.
    #[inline]
    pub fn top(&self) -> &AtomicU64 {
        &self.words[TOP]
    }

    /// The replay window, which is true after an orderly end.
    pub fn ring(&self) -> &[AtomicU64] {
        &self.words[RING]
    }

    /// Whether the window is true.
    pub fn is_exact(&self) -> bool {
        self.memory.clean
    }

    /// What the session was made with.
    pub fn made_with(&self) -> Marks {
        let mut marks = [0; MARKS];
        for (mark, word) in marks.iter_mut().zip(&self.words[MADE_WITH]) {
            *mark = word.load(SeqCst);
        }
        marks
    }

    /// When the session ends, if that is sooner than its age says.
    pub fn end(&self) -> Option<Time> {
        let end = self.words[END].load(SeqCst);
        (end != 0).then_some(Time(end))
    }

    pub fn set_end(&self, end: Option<Time>) {
        if !self.memory.is_left() {
            self.words[END].store(end.map_or(0, |end| end.0), SeqCst);
        }
    }

    /// Writes the session down for the first time.
    pub fn fill(&self, fixed: &Fixed, keys: &SessionKeys, made_with: &Marks) {
        for (word, mark) in self.words[MADE_WITH].iter().zip(made_with) {
            word.store(*mark, SeqCst);
        }
        let mut words = Zeroizing::new([0; 11]);
        words[..3].copy_from_slice(&fixed.pack());
        words[3..7].copy_from_slice(&*Zeroizing::new(key_words(&keys.send)));
        words[7..].copy_from_slice(&*Zeroizing::new(key_words(&keys.receive)));
        write(&self.words[FIXED], &*words);
    }

    /// Writes down what has become of it.
    pub fn update(&self, fixed: &Fixed) {
        if self.memory.is_left() {
            return;
        }
        if let Some(words) = read::<11>(&self.words[FIXED]) {
            let mut words = Zeroizing::new(words);
            words[..3].copy_from_slice(&fixed.pack());
            write(&self.words[FIXED], &*words);
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let number = self.number;
        self.memory
            .give_back(self.words, |free| free.cells.push(number));
    }
}
