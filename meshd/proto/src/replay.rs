//! The replay window: which counters of a session were seen (paper section 5.4.6, RFC 6479's ring of words).
//!
//! Strategy: a ring of 64-bit words indexed by the counter's high bits; moving forward clears the words passed over,
//! so no bit is ever shifted. One word more than the window is kept, because the newest word is only partly in use:
//! exactly the last 8192 counters are remembered. Counters are judged only after the packet was authenticated.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::messages::{REJECT_AFTER_MESSAGES, WINDOW};

const WORD_BITS: u64 = 64;
pub(crate) const RING_WORDS: u64 = WINDOW / WORD_BITS + 1;

/// The window of one session.
#[derive(Debug)]
pub struct Replay {
    /// One above the greatest counter seen; 0 when none was.
    next: u64,
    ring: Box<[u64; RING_WORDS as usize]>,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            next: 0,
            ring: Box::new([0; RING_WORDS as usize]),
        }
    }
}

impl Replay {
    /// Marks `counter` as seen. Whether it is new: neither seen before nor older than the window, nor beyond the
    /// last counter a session may use.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        } else if self.next - counter > WINDOW {
            return false;
        }
        let word = &mut self.ring[(counter / WORD_BITS % RING_WORDS) as usize];
        let bit = 1 << (counter % WORD_BITS);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// One above the greatest counter seen.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A window in which everything below `next` counts as seen.
    pub fn all_seen(next: u64) -> Self {
        Self {
            next,
            ring: Box::new([u64::MAX; RING_WORDS as usize]),
        }
        .cut()
    }

    /// The window that [`Replay::save`] has saved, whose top was `next`.
    pub fn load(next: u64, words: &[AtomicU64]) -> Self {
        let mut replay = Self {
            next,
            ..Self::default()
        };
        for (to, from) in replay.ring.iter_mut().zip(words) {
            *to = from.load(Ordering::SeqCst);
        }
        replay
    }

    /// Writes the window to [`RING_WORDS`] words.
    pub fn save(&self, words: &[AtomicU64]) {
        for (to, from) in words.iter().zip(self.ring.iter()) {
            to.store(*from, Ordering::SeqCst);
        }
    }

    /// Nothing from `next` on counts as seen, though its word is in the ring already.
    fn cut(mut self) -> Self {
        let word = &mut self.ring[(self.next / WORD_BITS % RING_WORDS) as usize];
        *word = (1 << (self.next % WORD_BITS)) - 1;
        self
    }

    /// Makes `counter` the newest: clears every word entered since the last newest one.
    fn advance(&mut self, counter: u64) {
        let target = counter / WORD_BITS;
        let entered = match self.next.checked_sub(1) {
            Some(newest) => target - newest / WORD_BITS,
            None => RING_WORDS,
        };
        for back in 0..entered.min(RING_WORDS) {
            self.ring[(target.wrapping_sub(back) % RING_WORDS) as usize] = 0;
        }
        self.next = counter + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the window means, without cleverness.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let next = self.seen.last().map_or(0, |newest| newest + 1);
            counter < REJECT_AFTER_MESSAGES
                && next.saturating_sub(counter) <= WINDOW
                && self.seen.insert(counter)
        }
    }

    fn agree(counters: impl IntoIterator<Item = u64>) {
        let (mut replay, mut model) = (Replay::default(), Model::default());
        for counter in counters {
            assert_eq!(
                replay.accept(counter),
                model.accept(counter),
                "counter {counter}"
            );
        }
    }

    #[test]
    fn the_window_is_8192() {
        assert_eq!(WINDOW, 8192);
        let mut replay = Replay::default();
        assert!(replay.accept(8192));
        assert!(replay.accept(1), "8191 behind the newest");
        assert!(!replay.accept(0), "8192 behind the newest: one too old");
    }

    #[test]
    fn after_a_crash_everything_below_the_top_was_seen_and_nothing_above() {
        for next in [0, 1, 63, 64, 65, 8191, 8192, 8255, 1 << 40] {
            let mut replay = Replay::all_seen(next);
            for back in 1..=next.min(9000) {
                assert!(!replay.accept(next - back), "{back} below {next}");
            }
            for ahead in 0..200 {
                assert!(replay.accept(next + ahead), "{ahead} above {next}");
                assert!(!replay.accept(next + ahead));
            }
            assert!(Replay::all_seen(next).accept(next + 20_000));
        }
    }

    #[test]
    fn a_saved_window_goes_on_as_it_was() {
        let words: Vec<AtomicU64> = (0..RING_WORDS).map(|_| AtomicU64::new(7)).collect();
        let mut replay = Replay::default();
        for counter in (0..20_000).filter(|counter| counter % 3 != 0) {
            replay.accept(counter);
        }
        replay.save(&words);
        let mut again = Replay::load(replay.next(), &words);
        for counter in 0..30_000 {
            assert_eq!(again.accept(counter), replay.accept(counter), "{counter}");
        }
    }

    #[test]
    fn edges_agree_with_the_model() {
        agree([
            0, 0, 1, 1, 9, 8, 7, 7, 63, 64, 65, 8191, 0, 8192, 1, 0, 8193, 1, 2,
        ]);
        agree([8255, 64, 63, 62, 8256, 65, 64]);
        agree([
            u64::MAX,
            REJECT_AFTER_MESSAGES,
            REJECT_AFTER_MESSAGES - 1,
            0,
            REJECT_AFTER_MESSAGES - 1,
        ]);
        agree([1 << 60, 0, (1 << 60) - 8191, (1 << 60) - 8192]);
        agree((0..30_000).chain(0..30_000));
        agree((0..30_000).rev());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn random_orders_agree_with_the_model(
            start in prop_oneof![Just(0u64), any::<u32>().prop_map(u64::from), Just(REJECT_AFTER_MESSAGES - 9000)],
            steps in prop::collection::vec(prop_oneof![0u64..4, 0u64..200, 8000u64..8400, 0u64..20_000], 1..400),
            backs in prop::collection::vec(0u64..9000, 1..400),
        ) {
            let mut newest = start;
            let counters: Vec<u64> = steps.iter().zip(&backs).flat_map(|(step, back)| {
                newest = newest.saturating_add(*step);
                [newest, newest.saturating_sub(*back)]
            }).collect();
            agree(counters);
        }
    }
}
