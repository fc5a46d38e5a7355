//! The two clocks meshd reads: time since boot with suspend counted, and the calendar.
//!
//! All timers of the protocol run on CLOCK_BOOTTIME, so a laptop that slept knows its sessions are old; the calendar is
//! only for TAI64N stamps and for what people read.
use crate::sys::Zeroed;
use std::time::Duration;

fn read(id: libc::clockid_t) -> Duration {
    let mut ts = libc::timespec::zeroed();
    // SAFETY: `ts` is a live timespec the kernel fills in. The call cannot fail for these two clocks, which every Linux
    // since 2.6.39 has; were it to, `ts` stays zero.
    unsafe { libc::clock_gettime(id, &mut ts) };
    Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)
}

/// Nanoseconds since boot, suspend included (CLOCK_BOOTTIME). Never goes back.
pub fn boottime_ns() -> u64 {
    read(libc::CLOCK_BOOTTIME).as_nanos() as u64
}

/// Time since 1970-01-01 UTC (CLOCK_REALTIME). May jump in either direction.
pub fn realtime() -> Duration {
    read(libc::CLOCK_REALTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_advances() {
        let a = boottime_ns();
        std::thread::sleep(Duration::from_millis(2));
        let b = boottime_ns();
        assert!(b - a >= 2_000_000, "{a} {b}");
    }

    #[test]
    fn realtime_is_the_calendar() {
        let std = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(realtime().abs_diff(std) < Duration::from_secs(1));
    }
}
