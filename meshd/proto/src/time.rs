//! Time as the protocol sees it: two kinds of it, both handed in by the caller.
//!
//! [`Time`] counts nanoseconds of CLOCK_BOOTTIME and drives every timer; it goes on while a laptop sleeps.
//! [`WallTime`] is Unix time; it only feeds TAI64N and the "last handshake" shown to people. Nothing here reads a
//! clock, and no arithmetic here can panic when a caller's clock jumps.

use core::time::Duration;

/// Nanoseconds of CLOCK_BOOTTIME. Zero is reserved by the packet plane to mean "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// How long after `earlier` this is; zero if a clock went backwards.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `delay`, saturating.
    pub const fn after(self, delay: Duration) -> Time {
        Time(self.0.saturating_add(saturating_nanos(delay)))
    }

    /// Whether `period` or more has passed between `self` and `now`.
    pub const fn expired(self, now: Time, period: Duration) -> bool {
        now.0.saturating_sub(self.0) >= saturating_nanos(period)
    }
}

const fn saturating_nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// Unix time: seconds since 1970-01-01T00:00:00Z without leap seconds, and nanoseconds below one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime {
    /// Seconds since the Unix epoch.
    pub secs: u64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanos: u32,
}

/// A TAI64N label as message 1 carries it (paper section 5.1): 8 bytes seconds since 1970 TAI plus 2^62, 4 bytes
/// nanoseconds, both big endian. Comparing two of them is comparing their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tai64n(pub [u8; 12]);

/// TAI64 labels count from 2^62; 10 s is TAI's offset at the Unix epoch (kernel `tai64n_now`).
const TAI64_BASE: u64 = 0x4000_0000_0000_000a;

/// Timestamps are rounded down to 2^24 ns (16.8 ms), so that they are no fine clock for an observer and so that
/// at most about 50 a second exist (kernel `tai64n_now`, INITIATIONS_PER_SECOND).
const WHITEN: u32 = 1 << 24;

impl Tai64n {
    /// The label before all others.
    pub const ZERO: Tai64n = Tai64n([0; 12]);

    /// The whitened label of `wall`.
    pub fn from_wall(wall: WallTime) -> Self {
        let nanos = wall.nanos.min(999_999_999);
        Self::pack(TAI64_BASE.saturating_add(wall.secs), nanos - nanos % WHITEN)
    }

    /// The next label after this one that [`Tai64n::from_wall`] could give.
    pub fn next(self) -> Self {
        let (secs, nanos) = self.unpack();
        let nanos = nanos - nanos % WHITEN + WHITEN;
        if nanos >= 1_000_000_000 {
            Self::pack(secs.saturating_add(1), 0)
        } else {
            Self::pack(secs, nanos)
        }
    }

    fn pack(secs: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&secs.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    fn unpack(self) -> (u64, u32) {
        let mut secs = [0; 8];
        let mut nanos = [0; 4];
        secs.copy_from_slice(&self.0[..8]);
        nanos.copy_from_slice(&self.0[8..]);
        (
            u64::from_be_bytes(secs),
            u32::from_be_bytes(nanos).min(999_999_999),
        )
    }
}

/// Gives labels that only go up, whatever the wall clock does.
///
/// A responder remembers the greatest label of each initiator, so an initiator whose clock was set back would be
/// refused until the clock caught up again. The high-water mark is what the daemon keeps on disk.
#[derive(Clone, Copy, Debug)]
pub struct Stamper {
    high: Tai64n,
}

impl Stamper {
    /// Starts above `high`, the mark a former process has written down ([`Tai64n::ZERO`] if none).
    pub const fn new(high: Tai64n) -> Self {
        Self { high }
    }

    /// A label for now, greater than every one before.
    pub fn stamp(&mut self, wall: WallTime) -> Tai64n {
        let now = Tai64n::from_wall(wall);
        self.high = if now > self.high {
            now
        } else {
            self.high.next()
        };
        self.high
    }

    /// The greatest label given so far.
    pub const fn high_water(&self) -> Tai64n {
        self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_bytes_of_the_paper() {
        let label = Tai64n::from_wall(WallTime {
            secs: 1,
            nanos: 20_000_000,
        });
        assert_eq!(label.0, [0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0x01, 0, 0, 0]);
    }

    #[test]
    fn labels_rise_though_the_clock_is_set_back() {
        let mut stamper = Stamper::new(Tai64n::ZERO);
        let mut last = Tai64n::ZERO;
        for secs in [1_000, 1_000, 5, 0, 999, 2_000, 2_000] {
            let label = stamper.stamp(WallTime { secs, nanos: 0 });
            assert!(label > last);
            last = label;
        }
        assert_eq!(last.unpack(), (TAI64_BASE + 2_000, WHITEN));
    }

    #[test]
    fn next_carries_into_the_seconds() {
        let label = Tai64n::from_wall(WallTime {
            secs: 7,
            nanos: 999_999_999,
        });
        assert_eq!(
            label.next(),
            Tai64n::from_wall(WallTime { secs: 8, nanos: 0 })
        );
        assert!(Tai64n([0xff; 12]).next().0[0] == 0xff);
    }

    #[test]
    fn no_jump_panics() {
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(u64::MAX).after(Duration::MAX), Time(u64::MAX));
        assert!(!Time(9).expired(Time(5), Duration::from_nanos(1)));
    }
}
