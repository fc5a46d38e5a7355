//! What was learned of the ways to endpoints: which won't be segmented, and which source addresses are dead.
//!
//! Strategy: a few places, looked through one by one, since troubled paths are rare; what was learned is forgotten after a
//! while, because the path's MTU, the route or the address may have come back.

use std::time::Duration;

use meshd_os::udp::Sent;
use meshd_proto::{Endpoint, Time};

const PLACES: usize = 16;
const KEPT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Path {
    to: Endpoint,
    unsegmented: bool,
    sourceless: bool,
    until: Time,
}

/// How to send to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The kernel may segment.
    pub segment: bool,
    /// The sticky source may be used.
    pub source: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Paths {
    places: [Option<Path>; PLACES],
    known: usize,
    turn: usize,
}

impl Paths {
    /// How to send to `to` now.
    pub fn way(&mut self, to: &Endpoint, now: Time) -> Way {
        let free = Way {
            segment: true,
            source: true,
        };
        if self.known == 0 {
            return free;
        }
        self.forget_old(now);
        let found = self.places.iter().flatten().find(|p| p.to == *to);
        found.map_or(free, |p| Way {
            segment: !p.unsegmented,
            source: !p.sourceless,
        })
    }

    fn forget_old(&mut self, now: Time) {
        for place in &mut self.places {
            if place.is_some_and(|p| p.until <= now) {
                *place = None;
                self.known -= 1;
            }
        }
    }

    /// Notes what sending to `to` has shown.
    pub fn note(&mut self, to: &Endpoint, sent: &Sent, now: Time) {
        if !sent.segmenting_refused && !sent.source_refused {
            return;
        }
        let same = self
            .places
            .iter()
            .position(|p| p.is_some_and(|p| p.to == *to));
        let place = same
            .or_else(|| self.places.iter().position(Option::is_none))
            .unwrap_or_else(|| {
                self.turn = (self.turn + 1) % PLACES;
                self.turn
            });
        let old = self.places[place].filter(|p| p.to == *to);
        self.known += usize::from(self.places[place].is_none());
        self.places[place] = Some(Path {
            to: *to,
            unsegmented: sent.segmenting_refused || old.is_some_and(|p| p.unsegmented),
            sourceless: sent.source_refused || old.is_some_and(|p| p.sourceless),
            until: now.after(KEPT),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(([192, 0, 2, 1], port).into())
    }

    fn sent(segmenting_refused: bool, source_refused: bool) -> Sent {
        Sent {
            bytes: 1,
            segmenting_refused,
            source_refused,
        }
    }

    #[test]
    fn learned_kept_and_forgotten() {
        let mut paths = Paths::default();
        paths.note(&endpoint(1), &sent(false, false), Time(0));
        assert_eq!(paths.known, 0);
        paths.note(&endpoint(1), &sent(true, false), Time(0));
        paths.note(&endpoint(1), &sent(false, true), Time(5));
        assert_eq!(
            paths.way(&endpoint(1), Time(6)),
            Way {
                segment: false,
                source: false
            }
        );
        assert_eq!(
            paths.way(&endpoint(2), Time(6)),
            Way {
                segment: true,
                source: true
            }
        );
        let later = Time(5).after(KEPT);
        assert_eq!(
            paths.way(&endpoint(1), later),
            Way {
                segment: true,
                source: true
            }
        );
        assert_eq!(paths.known, 0);
    }

    #[test]
    fn more_than_there_are_places_for() {
        let mut paths = Paths::default();
        for port in 0..100 {
            paths.note(&endpoint(port), &sent(true, false), Time(0));
            assert!(!paths.way(&endpoint(port), Time(1)).segment);
        }
        assert_eq!(paths.known, PLACES);
    }
}
