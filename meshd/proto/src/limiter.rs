//! How many handshakes one source may ask for while we are under load (kernel ratelimiter.c): a token bucket for
//! each IPv4 address and each IPv6 /64, 20 a second, 5 at once.
//!
//! Strategy: buckets live in an ordered map, so nothing random is needed and nobody can force collisions. There is
//! no timer: full buckets are swept out at most once a second, when a new source comes. When the map is full, new
//! sources are refused, as the kernel does: memory stays bounded whoever sends.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::time::Time;

const PACKETS_PER_SECOND: u64 = 20;
const BURST: u64 = 5;
const PACKET_COST: u64 = 1_000_000_000 / PACKETS_PER_SECOND;
const MAX_TOKENS: u64 = PACKET_COST * BURST;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const MAX_SOURCES: usize = 1 << 16;

/// What is limited: an IPv4 address, or an IPv6 /64, since a host gets that much for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// Tokens are nanoseconds of earned time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    updated: Time,
}

/// The buckets of one device.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: BTreeMap<Source, Bucket>,
    swept: Time,
}

impl Limiter {
    /// Takes one token of `ip`'s bucket; whether there was one.
    pub fn allow(&mut self, ip: IpAddr, now: Time) -> bool {
        let source = Source::of(ip);
        if let Some(bucket) = self.buckets.get_mut(&source) {
            let earned = now.0.saturating_sub(bucket.updated.0);
            bucket.tokens = bucket.tokens.saturating_add(earned).min(MAX_TOKENS);
            bucket.updated = now;
            let allowed = bucket.tokens >= PACKET_COST;
            if allowed {
                bucket.tokens -= PACKET_COST;
            }
            return allowed;
        }
        if self.swept.expired(now, SWEEP_INTERVAL) {
            self.swept = now;
            self.buckets
                .retain(|_, bucket| !bucket.updated.expired(now, SWEEP_INTERVAL));
        }
        if self.buckets.len() >= MAX_SOURCES {
            return false;
        }
        let bucket = Bucket {
            tokens: MAX_TOKENS - PACKET_COST,
            updated: now,
        };
        self.buckets.insert(source, bucket);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The kernel's own self-test (selftest/ratelimiter.c): delays in ms and whether the packet then passes.
    #[test]
    fn the_kernels_table() {
        let mut expected = vec![(0, true); 5];
        expected.extend([
            (0, false),
            (50, true),
            (0, false),
            (100, true),
            (0, true),
            (0, false),
        ]);
        for address in ["10.0.0.1", "2001:db8::1"] {
            let mut limiter = Limiter::default();
            let mut now = Time(1);
            for (step, (delay, passes)) in expected.iter().enumerate() {
                now.0 += delay * MILLISECOND;
                assert_eq!(
                    limiter.allow(ip(address), now),
                    *passes,
                    "step {step} of {address}"
                );
            }
        }
    }

    #[test]
    fn sources_do_not_share_a_bucket_but_a_64_does() {
        let mut limiter = Limiter::default();
        let now = Time(1);
        while limiter.allow(ip("10.0.0.1"), now) {}
        assert!(limiter.allow(ip("10.0.0.2"), now));
        assert!(
            !limiter.allow(ip("::ffff:10.0.0.1"), now),
            "a mapped address is the same host"
        );
        while limiter.allow(ip("2001:db8:0:1::1"), now) {}
        assert!(!limiter.allow(ip("2001:db8:0:1:ffff::2"), now));
        assert!(limiter.allow(ip("2001:db8:0:2::1"), now));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut limiter = Limiter::default();
        for host in 0..=MAX_SOURCES as u32 {
            let allowed = limiter.allow(IpAddr::V4(host.into()), Time(1));
            assert_eq!(allowed, (host as usize) < MAX_SOURCES);
        }
        let later = Time(1).after(SWEEP_INTERVAL);
        assert!(limiter.allow(ip("10.0.0.1"), later));
        assert_eq!(limiter.buckets.len(), 1);
    }

    #[test]
    fn a_clock_that_jumps_back_gives_nothing_away() {
        let mut limiter = Limiter::default();
        while limiter.allow(ip("10.0.0.1"), Time(u64::MAX)) {}
        assert!(!limiter.allow(ip("10.0.0.1"), Time(0)));
    }
}
