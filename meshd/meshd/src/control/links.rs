//! How each link is doing: probe rounds and their outcome. Pure: the control thread sends what it says, tells it what
//! came back and when (boot-time nanoseconds), and wakes it when it asks for that.
//!
//! Strategy: a round asks every peer at once. Echoes go out at growing distances until one is answered; a peer that
//! stays silent is asked for a handshake, which needs no answer to pings. A peer counts as alive when it answered an
//! echo or when anything authentic has come from it since the round began; but not while the session it comes under is about to
//! end because its keys are gone, which says nothing about later. An idle device has no round and needs no time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use meshd_proto::{PublicKey, Time};

use super::path_mtu;

/// When the second, third, … echo is sent, after the round's beginning; then every [`STEADY`].
const SCHEDULE: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1400),
];
const STEADY: Duration = Duration::from_secs(1);

/// The echo with this number comes with a handshake: the peer may be alive and answer no pings.
const SHAKE_WITH: usize = 3;

/// Something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// An echo to this address inside the tunnel.
    Echo {
        /// Whose address it is.
        key: PublicKey,
        /// Where to.
        to: IpAddr,
        /// Its sequence number.
        sequence: u16,
    },
    /// A handshake.
    Shake(PublicKey),
}

/// What is known of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vitals {
    /// Outcome of the last probe.
    pub alive: bool,
    /// When the probe was over, or the answer came.
    pub at: Time,
    /// Round trip of the last answered echo.
    pub rtt: Option<Duration>,
    /// Share of the last round's echoes without answer.
    pub loss: Option<f64>,
}

/// All links of an interface.
#[derive(Debug, Default)]
pub struct Links {
    vitals: BTreeMap<PublicKey, Vitals>,
    round: Option<Round>,
    sequence: u16,
}

#[derive(Debug)]
struct Round {
    started: Time,
    deadline: Time,
    next: Time,
    sent: usize,
    targets: BTreeMap<PublicKey, Target>,
}

#[derive(Debug)]
struct Target {
    to: Option<IpAddr>,
    /// Echoes under way, whose time to an answer is a round trip.
    echoes: Vec<(u16, Time)>,
    sent: u32,
    answered: u32,
    /// Its session ends soon.
    ending: bool,
    alive: bool,
    rtt: Option<Duration>,
}

impl Target {
    /// Whether nothing more is to be learned.
    fn done(&self) -> bool {
        self.alive && (self.rtt.is_some() || self.to.is_none())
    }
}

impl Links {
    /// Begins a round of at most `wait`; one that runs is begun anew and lasts at least as long as it would have.
    pub fn begin(
        &mut self,
        now: Time,
        wait: Duration,
        peers: impl IntoIterator<Item = (PublicKey, Option<IpAddr>)>,
    ) {
        let running = self.round.as_ref().map_or(now, |round| round.deadline);
        let target = |to| Target {
            to,
            echoes: Vec::new(),
            sent: 0,
            answered: 0,
            ending: false,
            alive: false,
            rtt: None,
        };
        self.round = Some(Round {
            started: now,
            deadline: now.after(wait).max(running),
            next: now,
            sent: 0,
            targets: peers
                .into_iter()
                .map(|(key, to)| (key, target(to)))
                .collect(),
        });
    }

    /// When [`Links::due`] wants to be called; `None`: nothing runs.
    pub fn next_timeout(&self) -> Option<Time> {
        self.round
            .as_ref()
            .map(|round| round.next.min(round.deadline))
    }

    /// When the round that runs began.
    pub fn running_since(&self) -> Option<Time> {
        self.round.as_ref().map(|round| round.started)
    }

    /// What is to be sent now. Ends the round when its time is over or nothing more is to be learned.
    pub fn due(&mut self, now: Time) -> Vec<Ask> {
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if now >= round.deadline || round.targets.values().all(Target::done) {
            self.finish(now);
            return Vec::new();
        }
        if now < round.next {
            return Vec::new();
        }
        let mut asks = Vec::new();
        for (key, target) in round
            .targets
            .iter_mut()
            .filter(|(_, target)| !target.done())
        {
            if let Some(to) = target.to {
                // The upper half is for echoes that ask for sizes.
                self.sequence = self.sequence.wrapping_add(1) & !path_mtu::SEQUENCE;
                target.echoes.push((self.sequence, now));
                target.sent += 1;
                asks.push(Ask::Echo {
                    key: *key,
                    to,
                    sequence: self.sequence,
                });
            }
            // Without an address to ping there is nothing but the handshake.
            if !target.alive
                && (round.sent == SHAKE_WITH || (round.sent == 0 && target.to.is_none()))
            {
                asks.push(Ask::Shake(*key));
            }
        }
        let after = match SCHEDULE.get(round.sent) {
            Some(at) => round.started.after(*at),
            None => now.after(STEADY),
        };
        round.next = after.max(now.after(Duration::from_millis(1)));
        round.sent += 1;
        asks
    }

    /// An echo came back at `at`.
    pub fn answered(&mut self, at: Time, from: IpAddr, sequence: u16) {
        let Some(round) = &mut self.round else { return };
        for target in round
            .targets
            .values_mut()
            .filter(|target| target.to == Some(from))
        {
            target.alive |= !target.ending;
            target.answered += 1;
            if let Some((_, sent)) = target.echoes.iter().find(|(number, _)| *number == sequence) {
                target.rtt = Some(at.since(*sent));
            }
        }
    }

    /// Something authentic came from the peer at `at`.
    pub fn heard(&mut self, key: &PublicKey, at: Time) {
        let Some(round) = &mut self.round else { return };
        let started = round.started;
        if let Some(target) = round.targets.get_mut(key).filter(|_| at >= started) {
            target.alive |= !target.ending;
        }
    }

    /// Whether the session with the peer is about to end. To be said before the round's first echo can be answered.
    pub fn is_ending(&mut self, key: &PublicKey, ending: bool) {
        let Some(round) = &mut self.round else { return };
        if let Some(target) = round.targets.get_mut(key) {
            target.ending = ending;
        }
    }

    /// A session with the peer is in use that lasts: echoes that waited for it would tell too long a round trip, so a fresh one is
    /// sent at once.
    pub fn established(&mut self, now: Time, key: &PublicKey) {
        let Some(round) = &mut self.round else { return };
        if let Some(target) = round.targets.get_mut(key) {
            target.ending = false;
            target.alive = true;
            target.sent = target.sent.saturating_sub(target.echoes.len() as u32);
            target.echoes.clear();
            round.next = now;
        }
    }

    /// Whether every one of `keys` is known to be alive in the round that runs, or none runs.
    pub fn settled<'a>(&self, keys: impl IntoIterator<Item = &'a PublicKey>) -> bool {
        match &self.round {
            None => true,
            Some(round) => keys
                .into_iter()
                .all(|key| round.targets.get(key).is_none_or(Target::done)),
        }
    }

    /// What the last round said of a peer, or the running one already says.
    pub fn vitals(&self, key: &PublicKey) -> Option<Vitals> {
        let target = self
            .round
            .as_ref()
            .and_then(|round| Some((round.started, round.targets.get(key)?)));
        match target {
            Some((at, target)) if target.alive => Some(target.vitals(at)),
            _ => self.vitals.get(key).copied(),
        }
    }

    /// Ends the round that runs: who hasn't been heard is not alive.
    pub fn finish(&mut self, now: Time) {
        if let Some(round) = self.round.take() {
            for (key, target) in round.targets {
                self.vitals.insert(key, target.vitals(now));
            }
        }
    }

    /// Forgets peers that are gone.
    pub fn retain(&mut self, keep: impl Fn(&PublicKey) -> bool) {
        self.vitals.retain(|key, _| keep(key));
        if let Some(round) = &mut self.round {
            round.targets.retain(|key, _| keep(key));
        }
    }
}

impl Target {
    fn vitals(&self, at: Time) -> Vitals {
        let lost = self.sent.saturating_sub(self.answered);
        let loss = (self.sent > 0).then(|| f64::from(lost) / f64::from(self.sent));
        Vitals {
            alive: self.alive,
            at,
            rtt: self.rtt,
            loss,
        }
    }
}

#[cfg(test)]
mod tests;
