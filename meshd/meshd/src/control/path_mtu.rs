//! How large a packet may be for each peer: paths that lose the large ones in silence are found by echoes of every size
//! inside the tunnel. Pure: the control thread sends what it says, and tells it what came back and when.
//!
//! Strategy: a packet of [`FLOOR`] bytes or more asks for a look ([`meshd_proto::Peer::big`]), at a new endpoint at once and then
//! every few seconds while there are such packets; an idle mesh is never woken. A look is one echo of the size in use.
//! If it stays without an answer, echoes of all sizes go out at once, three times: the largest that is answered is the limit,
//! the small one among them tells a narrow path from a dead one, and nothing is concluded of a dead one. Below [`FLOOR`]
//! there is no limit: IPv6 needs it, and outer packets may be fragmented on the way. A limit is tried again from above
//! every [`UPWARD`], in case the path is better now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use meshd_proto::{PublicKey, Time};

pub use meshd_proto::PATH_FLOOR as FLOOR;

/// Sequence numbers of these echoes; those of [`super::links`] have this bit clear.
pub const SEQUENCE: u16 = 0x8000;

/// An echo as small as this passes wherever anything does.
const SMALL: u16 = 100;
/// How long the first echo alone is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// Echoes of all sizes are sent at these times, then the last answers are waited for.
const TRIES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(400),
    Duration::from_millis(800),
];
const LADDER: Duration = Duration::from_millis(1500);
/// At most so many sizes at once.
const STEPS: u16 = 12;
/// Data is padded to this.
const GRAIN: u16 = 16;
/// While large packets are sent, the size in use is proven again this often.
const AGAIN: Duration = Duration::from_secs(5);
/// A peer that answers nothing is left in peace for this long.
const SILENT: Duration = Duration::from_secs(15);
/// How often more than the limit is tried.
const UPWARD: Duration = Duration::from_secs(20);

/// An echo to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// To whom.
    pub key: PublicKey,
    /// To which address inside the tunnel.
    pub to: IpAddr,
    /// Its sequence number.
    pub sequence: u16,
    /// Length of the whole inner packet, bytes.
    pub len: u16,
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// About whom.
    pub key: PublicKey,
    /// The largest packet; `None`: whatever the link takes.
    pub limit: Option<u16>,
    /// When a large packet may ask for the next look.
    pub again: Time,
}

/// All paths of an interface.
#[derive(Debug, Default)]
pub struct Paths {
    looks: BTreeMap<PublicKey, Look>,
    /// When more than the limit was last tried.
    upward: BTreeMap<PublicKey, Time>,
    sequence: u16,
}

/// A look under way.
#[derive(Debug)]
struct Look {
    to: IpAddr,
    /// What the link takes.
    top: u16,
    limit: Option<u16>,
    began: Time,
    /// All sizes are asked about, not the one in use alone.
    ladder: bool,
    /// Times that the sizes were sent.
    sent: usize,
    sizes: BTreeMap<u16, bool>,
    /// Sequence numbers under way, and the sizes they stand for.
    under_way: BTreeMap<u16, u16>,
    /// The largest that passed, and the least that didn't, of what was asked before.
    passed: u16,
    failed: u16,
}

impl Paths {
    /// A packet of at least [`FLOOR`] bytes goes to a peer and asks whether the path takes it. `limit` is what holds now.
    pub fn asked(&mut self, now: Time, key: PublicKey, to: IpAddr, top: u16, limit: Option<u16>) {
        if top <= FLOOR || self.looks.contains_key(&key) {
            return;
        }
        let limit = limit.filter(|limit| *limit < top);
        let tried = self.upward.get(&key);
        let upward = limit.is_some() && tried.is_none_or(|at| at.expired(now, UPWARD));
        let mut look = Look {
            to,
            top,
            limit,
            began: now,
            ladder: false,
            sent: 0,
            sizes: [(limit.unwrap_or(top), false)].into(),
            under_way: BTreeMap::new(),
            passed: 0,
            failed: top.saturating_add(1),
        };
        if upward {
            look.climb(now);
        }
        self.looks.insert(key, look);
    }

    /// When [`Paths::due`] wants to be called; `None`: nothing is under way.
    pub fn next_timeout(&self) -> Option<Time> {
        self.looks.values().map(Look::next).min()
    }

    /// What is to be sent now, and what was found.
    pub fn due(&mut self, now: Time) -> (Vec<Echo>, Vec<Finding>) {
        let (mut echoes, mut findings) = (Vec::new(), Vec::new());
        let due: Vec<PublicKey> = self
            .looks
            .iter()
            .filter(|(_, look)| look.next() <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            let Some(look) = self.looks.get_mut(&key) else {
                continue;
            };
            if look.is_over(now) {
                if look.ladder {
                    if let Some(finding) = look.conclude(key, now) {
                        self.upward.insert(key, now);
                        self.looks.remove(&key);
                        findings.push(finding);
                        continue;
                    }
                } else {
                    look.climb(now);
                }
            }
            look.sent += 1;
            for (len, _) in look.sizes.iter().filter(|(_, passed)| !**passed) {
                self.sequence = self.sequence.wrapping_add(1);
                let sequence = self.sequence | SEQUENCE;
                look.under_way.insert(sequence, *len);
                echoes.push(Echo {
                    key,
                    to: look.to,
                    sequence,
                    len: *len,
                });
            }
        }
        (echoes, findings)
    }

    /// An echo came back.
    pub fn answered(&mut self, now: Time, from: IpAddr, sequence: u16) -> Option<Finding> {
        let (key, look) = self
            .looks
            .iter_mut()
            .find(|(_, look)| look.to == from && look.under_way.contains_key(&sequence))?;
        let len = look.under_way.remove(&sequence)?;
        look.sizes.insert(len, true);
        let key = *key;
        // The size in use passes, or everything does: that is all there is to know.
        let known = len >= look.top || !look.ladder;
        if !known {
            return None;
        }
        let limit = look.limit.filter(|_| len < look.top);
        self.looks.remove(&key);
        if limit.is_none() {
            self.upward.remove(&key);
        }
        Some(Finding {
            key,
            limit,
            again: now.after(AGAIN),
        })
    }

    /// Forgets peers that are gone.
    pub fn retain(&mut self, keep: impl Fn(&PublicKey) -> bool) {
        self.looks.retain(|key, _| keep(key));
        self.upward.retain(|key, _| keep(key));
    }
}

impl Look {
    fn next(&self) -> Time {
        let after = match (self.ladder, TRIES.get(self.sent)) {
            (true, Some(at)) => *at,
            (true, None) => LADDER,
            (false, _) if self.sent == 0 => Duration::ZERO,
            (false, _) => PATIENCE,
        };
        self.began.after(after)
    }

    fn is_over(&self, now: Time) -> bool {
        let all = if self.ladder { TRIES.len() } else { 1 };
        self.sent >= all && self.next() <= now
    }

    /// Asks about all sizes between what is known to pass and what isn't.
    fn climb(&mut self, now: Time) {
        let (low, high) = (self.passed.max(FLOOR), self.failed.min(self.top));
        let step = ((high - low) / STEPS).next_multiple_of(GRAIN).max(GRAIN);
        self.sizes = (low..high)
            .step_by(usize::from(step))
            .filter(|size| *size > self.passed)
            .map(|size| (size, false))
            .collect();
        if self.failed > self.top {
            self.sizes.insert(self.top, false);
        }
        if self.passed == 0 {
            self.sizes.insert(SMALL, false);
        }
        (self.ladder, self.began, self.sent) = (true, now, 0);
    }

    /// The answers to all sizes are in, or won't come. `None`: it goes on, between two of them.
    fn conclude(&mut self, key: PublicKey, now: Time) -> Option<Finding> {
        let passed = self.sizes.iter().filter(|(_, passed)| **passed);
        let largest = passed.map(|(size, _)| *size).max();
        self.passed = largest.unwrap_or_default().max(self.passed);
        if self.passed == 0 {
            return Some(Finding {
                key,
                limit: self.limit,
                again: now.after(SILENT),
            });
        }
        let lost = self.sizes.keys().filter(|size| **size > self.passed).min();
        self.failed = lost.copied().unwrap_or(self.failed).min(self.failed);
        if self.passed >= FLOOR && self.failed.saturating_sub(self.passed) > GRAIN {
            self.climb(now);
            return None;
        }
        Some(Finding {
            key,
            limit: Some(self.passed.max(FLOOR)),
            again: now.after(AGAIN),
        })
    }
}

#[cfg(test)]
mod tests;
