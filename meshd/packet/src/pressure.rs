//! Whether a queue makes packets wait too long, so that a flow must be told to slow down.
//!
//! Strategy: the wait of the average byte, over short intervals. One burst, or one moment without the processor, is diluted by
//! what passed at once; a window that sloshes between two queues is seen in both, though neither ever stands. That is why
//! this is not CoDel, which asks for the shortest wait. While it stays too long, signals come sooner and sooner, as there.
//! Whose packet is marked or lost, and how, is the caller's business; time is an argument.
//!
//! An interval should span some round trips of a fast path; over a slow one a flow hears several signals and takes them for
//! one (RFC 5681 section 4.3, RFC 9438 section 4.6).

use std::time::Duration;

use meshd_proto::Time;

/// A wait that needs no remedy. A quarter of it halves an echo's wait, but TCP then sends shorter super-packets, which cost half as
/// much again in processor time (measured).
const TARGET: Duration = Duration::from_millis(2);
/// Over which the wait is averaged.
const INTERVAL: Duration = Duration::from_millis(20);
/// Signals in a row after which they come no sooner: who doesn't listen to them won't.
const MAX_SIGNALS: u32 = 16;

/// The state of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressure {
    /// When this interval began.
    began: Time,
    /// Nanoseconds times bytes, and bytes.
    waited: u64,
    bytes: u64,
    /// Signals in a row.
    signals: u32,
}

impl Pressure {
    /// Takes in that `bytes` left the queue at `now` after waiting for `wait`. True: signal to a flow, now.
    pub fn signals(&mut self, now: Time, wait: Duration, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.waited = self.waited.saturating_add(nanos.saturating_mul(bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        let rarity = f64::from(self.signals.clamp(1, MAX_SIGNALS)).sqrt();
        let elapsed = now.since(self.began);
        if elapsed < INTERVAL.div_f64(rarity) {
            return false;
        }
        // What is much older than an interval is the memory of a queue that was idle since.
        let recent = elapsed < INTERVAL * 2;
        let too_long =
            recent && u128::from(self.waited) >= u128::from(self.bytes) * TARGET.as_nanos();
        *self = Self {
            began: now,
            signals: if too_long {
                self.signals.saturating_add(1)
            } else {
                0
            },
            ..Self::default()
        };
        too_long
    }
}

/// A signal that waits for a packet to give it with.
///
/// It doesn't wait long, and a packet that is alone is spared: it may well be what a flow tries after a silence, with which it found
/// out that everything before was lost (RFC 6298, 8985). Were that lost too, the flow would be silent twice as long, each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due(Option<Time>);

impl Due {
    /// A signal is due from `now` on.
    pub fn set(&mut self, now: Time) {
        self.0 = Some(now.after(INTERVAL));
    }

    /// Whether the packet in hand may be the one to give it with; `alone`: no other is with it.
    pub fn is_due(&self, now: Time, alone: bool) -> bool {
        !alone && self.0.is_some_and(|until| now < until)
    }

    /// It was given.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_not_given_to_what_comes_after_a_silence_or_alone() {
        let mut due = Due::default();
        assert!(!due.is_due(Time(0), false));
        due.set(Time(1000 * MS));
        assert!(due.is_due(Time(1010 * MS), false));
        assert!(!due.is_due(Time(1010 * MS), true), "alone");
        assert!(!due.is_due(Time(1200 * MS), false), "a timeout later");
        due.set(Time(1300 * MS));
        due.clear();
        assert!(!due.is_due(Time(1301 * MS), false), "once");
    }

    const MS: u64 = 1_000_000;

    /// The milliseconds at which a signal is given, when a packet leaves each millisecond after `wait(at)`.
    fn signals(
        pressure: &mut Pressure,
        times: std::ops::Range<u64>,
        wait: impl Fn(u64) -> Duration,
    ) -> Vec<u64> {
        times
            .filter(|&ms| pressure.signals(Time(ms * MS), wait(ms), 1500))
            .collect()
    }

    #[test]
    fn a_short_wait_costs_nothing() {
        let mut pressure = Pressure::default();
        assert!(signals(&mut pressure, 1000..9000, |_| TARGET * 9 / 10).is_empty());
    }

    #[test]
    fn a_burst_among_much_that_passed_at_once_costs_nothing() {
        let wait = |ms| {
            if ms % 100 < 3 {
                TARGET * 3
            } else {
                TARGET / 10
            }
        };
        assert!(signals(&mut Pressure::default(), 1000..9000, wait).is_empty());
    }

    #[test]
    fn a_queue_that_empties_often_but_is_long_on_average_is_seen() {
        let wait = |ms| {
            if ms % 4 == 0 {
                Duration::ZERO
            } else {
                TARGET * 2
            }
        };
        assert!(signals(&mut Pressure::default(), 1000..1100, wait).len() >= 3);
    }

    #[test]
    fn signals_come_sooner_and_sooner_but_not_without_bound() {
        let mut pressure = Pressure::default();
        let at = signals(&mut pressure, 1000..1200, |_| TARGET);
        // The first call opens the first interval; then 20/√1, 20/√1, 20/√2, 20/√3, … apart, in whole milliseconds.
        assert_eq!(at[..5], [1020, 1040, 1055, 1067, 1077]);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 5), "{at:?}");
        let quiet = signals(&mut pressure, 1200..1300, |_| Duration::ZERO);
        assert!(quiet.is_empty(), "{quiet:?}");
        let again = signals(&mut pressure, 1300..1345, |_| TARGET);
        assert!(again.len() <= 3, "patience anew: {again:?}");
    }

    #[test]
    fn bytes_count_and_not_packets() {
        let mut pressure = Pressure::default();
        for ms in 1000..1200 {
            // One packet of many waits: the long one.
            assert!(!pressure.signals(Time(ms * MS), TARGET * 5, 60));
            assert!(!pressure.signals(Time(ms * MS), TARGET / 2, 60_000));
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pressure = Pressure::default();
        for ms in (1000..9000).step_by(50) {
            assert!(!pressure.signals(Time(ms * MS), TARGET * 2, 84), "at {ms}");
        }
    }
}
