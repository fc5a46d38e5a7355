//! How packet threads tell the control thread that a peer needs it, rarely and without waiting.
//!
//! Strategy: a [`Bell`] holds the slots of the peers that have something to say. A peer rings once and not again until
//! the control thread has listened; whoever rings an empty bell gets [`Wake::Yes`] and must wake the control thread
//! (the daemon writes an eventfd). An idle device never rings.
//!
//! A [`Mark`] is a timer shared between the planes: packet threads store when it started or clear it, both with plain
//! atomics; the control thread watches it with a deadline of its own, and is told only when nobody watches yet. Two words, two
//! threads, each writes one and then reads the other: without the fences between, both could read the old value (on ARM; x86
//! happens to be stricter), and a timer would run that nobody watches. loom tries it.

use core::ops::{BitOr, BitOrAssign};
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::atomic::{fence, AtomicBool, AtomicU64, Mutex};
use crate::time::Time;

/// Whether the control thread must be woken so that it calls [`crate::Device::attend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost wake-up is a stalled handshake"]
pub enum Wake {
    /// Nothing to do, or somebody has woken it already.
    No,
    /// Wake it.
    Yes,
}

impl Wake {
    /// `Yes` as true, for an `if`.
    pub fn needed(self) -> bool {
        self == Wake::Yes
    }
}

impl BitOr for Wake {
    type Output = Wake;

    fn bitor(self, other: Wake) -> Wake {
        if self.needed() {
            self
        } else {
            other
        }
    }
}

impl BitOrAssign for Wake {
    fn bitor_assign(&mut self, other: Wake) {
        *self = *self | other;
    }
}

/// Slots of peers that wait for the control thread.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    waiting: Mutex<Vec<u32>>,
}

impl Bell {
    /// Adds a peer.
    pub fn ring(&self, slot: u32) -> Wake {
        let mut waiting = self
            .waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        waiting.push(slot);
        if waiting.len() == 1 {
            Wake::Yes
        } else {
            Wake::No
        }
    }

    /// Takes all who wait.
    pub fn listen(&self) -> Vec<u32> {
        core::mem::take(
            &mut *self
                .waiting
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }
}

/// A timer that packet threads start and clear and the control thread watches. See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    /// When it started in nanoseconds; 0 when it isn't running.
    since: AtomicU64,
    /// Whether the control thread has a deadline for it.
    watched: AtomicBool,
}

/// What the control thread finds when its deadline for a [`Mark`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was cleared meanwhile; no longer watched.
    Clear,
    /// It was cleared and started again: come back then.
    Later(Time),
    /// It ran out; now clear and no longer watched.
    Due,
}

impl Mark {
    /// Starts it unless it runs. Whether somebody must begin to watch it.
    #[inline]
    pub fn start(&self, now: Time) -> bool {
        if !self.running() {
            self.since.store(now.0.max(1), Ordering::Relaxed);
            // Against `look`. When it ran before, the other's look sees that, or a clear that came after this start.
            fence(Ordering::SeqCst);
        }
        !self.watched.load(Ordering::Relaxed) && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// Stops it.
    #[inline]
    pub fn clear(&self) {
        // Looked at first: the line stays shared between the two packet threads as long as nothing changes.
        if self.running() {
            self.since.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it was started and not cleared.
    #[inline]
    pub fn running(&self) -> bool {
        self.since.load(Ordering::Relaxed) != 0
    }

    /// For the control thread: whether it is to have a deadline for this.
    pub fn watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// For the control thread: when it runs out if nobody clears it; `None` if it doesn't run.
    pub fn deadline(&self, period: Duration) -> Option<Time> {
        match self.since.load(Ordering::SeqCst) {
            0 => None,
            since => Some(Time(since).after(period)),
        }
    }

    /// For the control thread: looks at it when a deadline has come.
    pub fn look(&self, now: Time, period: Duration) -> Found {
        match self.deadline(period) {
            None => {
                self.watched.store(false, Ordering::Relaxed);
                // Against `start`.
                fence(Ordering::SeqCst);
                // Started between our two looks by somebody who saw it still watched: watch on.
                match self.deadline(period) {
                    Some(deadline) if !self.watched.swap(true, Ordering::SeqCst) => {
                        Found::Later(deadline)
                    }
                    _ => Found::Clear,
                }
            }
            Some(deadline) if deadline > now => Found::Later(deadline),
            Some(_) => {
                self.reset();
                Found::Due
            }
        }
    }

    /// For the control thread: clear and unwatched. In this order: whoever starts it anew has seen it clear, and with that
    /// (`Release`, and the fence in `start`) that nobody watches. Who finds it running in between is as one who came before.
    pub fn reset(&self) {
        self.watched.store(false, Ordering::Relaxed);
        self.since.store(0, Ordering::Release);
    }
}

#[cfg(loom)]
#[cfg(test)]
mod orders {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const PERIOD: Duration = Duration::from_nanos(10);

    /// Started while the control thread looks at a mark that was cleared: one of the two watches it from then on.
    #[test]
    fn every_order_of_a_start_and_a_look_leaves_somebody_watching() {
        loom::model(|| {
            let mark = Arc::new(Mark::default());
            assert!(mark.start(Time(1)));
            mark.clear();
            let starting = {
                let mark = mark.clone();
                thread::spawn(move || mark.start(Time(5)))
            };
            let found = mark.look(Time(11), PERIOD);
            let announced = starting.join().unwrap();
            assert!(mark.running());
            let watching = matches!(found, Found::Later(_));
            assert!(announced != watching, "{announced} {found:?}");
            assert!(mark.watched());
        });
    }

    /// Started while an older start runs out: if it runs afterwards, somebody watches or is told to.
    #[test]
    fn every_order_of_a_start_and_an_end_leaves_no_one_waiting_for_nothing() {
        loom::model(|| {
            let mark = Arc::new(Mark::default());
            assert!(mark.start(Time(1)));
            let starting = {
                let mark = mark.clone();
                thread::spawn(move || mark.start(Time(11)))
            };
            assert_eq!(mark.look(Time(11), PERIOD), Found::Due);
            let announced = starting.join().unwrap();
            assert!(!mark.running() || announced);
            assert_eq!(mark.watched(), announced);
        });
    }

    /// Two packet threads start it at once, while nobody watches: one of them says so.
    #[test]
    fn every_order_of_two_starts_announces_once() {
        loom::model(|| {
            let mark = Arc::new(Mark::default());
            let other = {
                let mark = mark.clone();
                thread::spawn(move || mark.start(Time(5)))
            };
            let ours = mark.start(Time(6));
            assert!(ours != other.join().unwrap());
            assert!(mark.running() && mark.watched());
        });
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_nanos(10);

    #[test]
    fn only_the_first_ring_wakes() {
        let bell = Bell::default();
        assert_eq!((bell.ring(1), bell.ring(2)), (Wake::Yes, Wake::No));
        assert_eq!(bell.listen(), [1, 2]);
        assert!(bell.ring(3).needed());
        assert_eq!(Wake::No | Wake::Yes, Wake::Yes);
    }

    #[test]
    fn a_mark_is_announced_once_while_it_is_watched() {
        let mark = Mark::default();
        assert!(mark.start(Time(0)), "time zero runs too");
        assert!(!mark.start(Time(5)));
        mark.clear();
        assert!(!mark.start(Time(7)), "still watched from before");
        assert_eq!(mark.look(Time(11), PERIOD), Found::Later(Time(17)));
        mark.clear();
        assert_eq!(mark.look(Time(17), PERIOD), Found::Clear);
        assert!(mark.start(Time(20)));
        assert_eq!(mark.look(Time(30), PERIOD), Found::Due);
        assert!(!mark.running());
        assert!(mark.start(Time(31)));
    }
}
