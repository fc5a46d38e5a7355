//! How values lie in shared words, so that a half-written one is told from a whole one.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Shared words for as long as the process lives.
pub(super) type Words = &'static [AtomicU64];

/// Writes `values` behind their checksum. Whoever dies half-way leaves a checksum that doesn't fit.
pub(super) fn write(words: &[AtomicU64], values: &[u64]) {
    let Some((check, words)) = words.split_first() else {
        return;
    };
    check.store(0, SeqCst);
    for (word, value) in words.iter().zip(values) {
        word.store(*value, SeqCst);
    }
    check.store(checksum(values), SeqCst);
}

/// Reads what [`write`] wrote; `None` if it isn't whole.
pub(super) fn read<const N: usize>(words: &[AtomicU64]) -> Option<[u64; N]> {
    let (check, words) = words.split_first()?;
    let mut values = [0; N];
    for (value, word) in values.iter_mut().zip(words) {
        *value = word.load(SeqCst);
    }
    (check.load(SeqCst) == checksum(&values)).then_some(values)
}

/// Not against forgery: who can write here can do anything. FNV-1a over words, each turned so that high bits count too; never
/// 0, which is what erased words say.
pub(super) fn checksum(values: &[u64]) -> u64 {
    let mixed = values
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, value| {
            (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
        });
    mixed | 1
}

pub(super) fn erase(words: &[AtomicU64]) {
    for word in words {
        word.store(0, SeqCst);
    }
}

pub(super) fn key_words(key: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    words
}

pub(super) fn key_bytes(words: &[u64]) -> [u8; 32] {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    key
}
