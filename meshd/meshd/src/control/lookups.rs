//! Which endpoint names are looked up when, and what came of it. Pure: `names.rs` does the asking.
//!
//! A name is asked for once when it is configured, again when handshakes to its peer fail, and again after a failure at
//! growing distances. While all is well nothing is asked and nothing needs time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use meshd_proto::Time;

/// A name is not asked for again sooner than this.
const RATE: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(80);

/// All names of an interface.
#[derive(Debug, Default)]
pub struct Lookups {
    names: BTreeMap<String, Lookup>,
}

#[derive(Debug)]
struct Lookup {
    asked: Time,
    pending: bool,
    addresses: Vec<IpAddr>,
    failures: u32,
    retry_at: Option<Time>,
}

impl Lookups {
    /// Keeps these names and no others; those never asked for are to be asked for now.
    pub fn keep(&mut self, now: Time, names: &[String]) -> Vec<String> {
        self.names.retain(|name, _| names.contains(name));
        let mut fresh = Vec::new();
        for name in names {
            if !self.names.contains_key(name) {
                self.names.insert(name.clone(), Lookup::begin(now));
                fresh.push(name.clone());
            }
        }
        fresh
    }

    /// The peer behind `name` doesn't answer: whether to ask again.
    pub fn doubt(&mut self, now: Time, name: &str) -> bool {
        match self.names.get_mut(name) {
            Some(lookup) if !lookup.pending && lookup.asked.expired(now, RATE) => {
                lookup.pending = true;
                lookup.asked = now;
                true
            }
            _ => false,
        }
    }

    /// Names whose retry is due.
    pub fn due(&mut self, now: Time) -> Vec<String> {
        let mut due = Vec::new();
        for (name, lookup) in &mut self.names {
            if lookup.retry_at.is_some_and(|at| at <= now) {
                lookup.retry_at = None;
                lookup.pending = true;
                lookup.asked = now;
                due.push(name.clone());
            }
        }
        due
    }

    /// When [`Lookups::due`] wants to be called.
    pub fn next_timeout(&self) -> Option<Time> {
        self.names
            .values()
            .filter_map(|lookup| lookup.retry_at)
            .min()
    }

    /// A look-up has ended; `None`: without addresses.
    pub fn answered(&mut self, now: Time, name: &str, addresses: Option<Vec<IpAddr>>) {
        let Some(lookup) = self.names.get_mut(name) else {
            return;
        };
        lookup.pending = false;
        match addresses.filter(|addresses| !addresses.is_empty()) {
            Some(addresses) => {
                lookup.addresses = addresses;
                lookup.failures = 0;
                lookup.retry_at = None;
            }
            None => {
                let wait = FIRST
                    .saturating_mul(1 << lookup.failures.min(4))
                    .min(LONGEST);
                lookup.failures += 1;
                lookup.retry_at = Some(now.after(wait));
            }
        }
    }

    /// The address to use for `name` now, given the one in use: another of its addresses when there are several, because
    /// one is asked again only when the one in use doesn't answer.
    pub fn choose(&self, name: &str, in_use: Option<IpAddr>) -> Option<IpAddr> {
        let addresses = &self.names.get(name)?.addresses;
        let at = in_use.and_then(|ip| addresses.iter().position(|known| *known == ip));
        match at {
            Some(at) => addresses.get((at + 1) % addresses.len()).copied(),
            None => addresses.first().copied(),
        }
    }

    /// Whether the last look-up of `name` failed.
    pub fn failed(&self, name: &str) -> bool {
        self.names
            .get(name)
            .is_some_and(|lookup| lookup.failures > 0)
    }
}

impl Lookup {
    fn begin(now: Time) -> Self {
        Self {
            asked: now,
            pending: true,
            addresses: Vec::new(),
            failures: 0,
            retry_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Time {
        Time(1).after(Duration::from_secs(n))
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn asked_once_and_again_in_doubt() {
        let mut lookups = Lookups::default();
        let names = ["b.example".to_owned()];
        assert_eq!(lookups.keep(s(0), &names), names);
        assert_eq!(lookups.keep(s(1), &names), [""; 0]);
        assert!(!lookups.doubt(s(20), "b.example"), "it is being asked for");
        lookups.answered(s(20), "b.example", Some(vec![ip(1), ip(2)]));
        assert_eq!(
            lookups.next_timeout(),
            None,
            "nothing to do while all is well"
        );
        assert!(lookups.doubt(s(21), "b.example"));
        assert!(!lookups.doubt(s(22), "b.example"));
        assert!(!lookups.doubt(s(99), "other"));
    }

    #[test]
    fn failures_are_tried_again_ever_later() {
        let mut lookups = Lookups::default();
        lookups.keep(s(0), &["b".to_owned()]);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            lookups.answered(s(now), "b", None);
            assert!(lookups.failed("b"));
            let next = lookups.next_timeout().unwrap();
            waits.push(next.since(s(now)).as_secs());
            now += next.since(s(now)).as_secs();
            assert_eq!(lookups.due(s(now)), ["b"]);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 80, 80]);
        lookups.answered(s(now), "b", Some(vec![ip(1)]));
        assert!(!lookups.failed("b"));
        assert_eq!(lookups.next_timeout(), None);
    }

    #[test]
    fn another_address_is_tried_when_one_does_not_answer() {
        let mut lookups = Lookups::default();
        lookups.keep(s(0), &["b".to_owned()]);
        assert_eq!(lookups.choose("b", None), None);
        lookups.answered(s(0), "b", Some(vec![ip(1), ip(2)]));
        assert_eq!(lookups.choose("b", None), Some(ip(1)));
        assert_eq!(lookups.choose("b", Some(ip(1))), Some(ip(2)));
        assert_eq!(lookups.choose("b", Some(ip(2))), Some(ip(1)));
        assert_eq!(lookups.choose("b", Some(ip(9))), Some(ip(1)));
    }
}
