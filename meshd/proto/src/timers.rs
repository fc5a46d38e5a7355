//! Deadlines of all peers, for the control thread: one ordered queue, no tick (paper section 6, kernel timers.c).
//!
//! It only knows when; what follows is decided in `device/timing.rs`.

use std::collections::BTreeSet;

use crate::time::Time;

/// A peer's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// No response to our initiation came.
    Retransmit,
    /// A keepalive is owed for received data.
    Keepalive,
    /// Sent data had no answer.
    NewHandshake,
    /// All keys are too old to be kept.
    ZeroKeys,
    /// The configured keepalive.
    PersistentKeepalive,
}

const TIMERS: usize = 5;

/// The deadlines of a device.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Time, u32, Timer)>,
    /// By slot, what stands in the queue.
    deadlines: Vec<[Option<Time>; TIMERS]>,
}

impl Timers {
    /// Sets or moves a timer.
    pub fn set(&mut self, slot: u32, timer: Timer, deadline: Time) {
        let slots = slot as usize + 1;
        if self.deadlines.len() < slots {
            self.deadlines.resize(slots, [None; TIMERS]);
        }
        self.cancel(slot, timer);
        self.deadlines[slot as usize][timer as usize] = Some(deadline);
        self.queue.insert((deadline, slot, timer));
    }

    /// Whether a timer is set.
    pub fn is_set(&self, slot: u32, timer: Timer) -> bool {
        self.deadlines
            .get(slot as usize)
            .is_some_and(|deadlines| deadlines[timer as usize].is_some())
    }

    /// When a timer is due; `None` if it isn't set.
    pub fn deadline(&self, slot: u32, timer: Timer) -> Option<Time> {
        self.deadlines.get(slot as usize)?[timer as usize]
    }

    /// Unsets a timer.
    pub fn cancel(&mut self, slot: u32, timer: Timer) {
        let entry = self.deadlines.get_mut(slot as usize);
        if let Some(deadline) = entry.and_then(|deadlines| deadlines[timer as usize].take()) {
            self.queue.remove(&(deadline, slot, timer));
        }
    }

    /// Unsets all timers of a peer.
    pub fn cancel_all(&mut self, slot: u32) {
        for timer in [
            Timer::Retransmit,
            Timer::Keepalive,
            Timer::NewHandshake,
            Timer::ZeroKeys,
            Timer::PersistentKeepalive,
        ] {
            self.cancel(slot, timer);
        }
    }

    /// Whose deadlines stand in the queue.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.queue.iter().map(|(_, slot, _)| *slot)
    }

    /// The first deadline of all.
    pub fn next(&self) -> Option<Time> {
        self.queue.first().map(|(deadline, ..)| *deadline)
    }

    /// Takes one timer whose deadline has come.
    pub fn pop(&mut self, now: Time) -> Option<(u32, Timer)> {
        let (_, slot, timer) = *self
            .queue
            .first()
            .filter(|(deadline, ..)| *deadline <= now)?;
        self.cancel(slot, timer);
        Some((slot, timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_deadlines() {
        let mut timers = Timers::default();
        timers.set(7, Timer::ZeroKeys, Time(30));
        timers.set(0, Timer::Retransmit, Time(20));
        timers.set(7, Timer::Keepalive, Time(10));
        assert_eq!(timers.next(), Some(Time(10)));
        assert_eq!(timers.pop(Time(9)), None);
        timers.set(7, Timer::Keepalive, Time(25));
        assert_eq!(timers.pop(Time(40)), Some((0, Timer::Retransmit)));
        assert_eq!(timers.pop(Time(40)), Some((7, Timer::Keepalive)));
        assert!(timers.is_set(7, Timer::ZeroKeys) && !timers.is_set(7, Timer::Keepalive));
        timers.cancel_all(7);
        assert_eq!((timers.next(), timers.pop(Time(40))), (None, None));
        timers.cancel(99, Timer::Keepalive);
    }
}
