//! The packets that wait to be sent, a queue for each flow: so that an echo or a key stroke doesn't wait behind a download.
//!
//! Strategy: that of FQ-CoDel. A flow that was idle goes first, with a quantum of bytes; then flows take turns, each a quantum
//! a turn; and a flow that makes itself wait too long is told to slow down ([`Pressure`]). Within a flow packets keep their order. Packets are known by the
//! number of the place they lie in; the bytes are the caller's, time is an argument, and nothing is allocated.
//!
//! What it does not do: drop for want of room. Whoever fills it stops reading when there are no places left, and the kernel's
//! queue in front drops.
//!
//! Source: RFC 8290, section 4.

use meshd_proto::Time;

use super::pressure::Pressure;

/// Flows that are kept apart; more of them share.
const FLOWS: usize = 256;
/// Bytes of a turn: a few full packets.
const QUANTUM: i64 = 6000;
/// No packet, or no flow.
const NONE: u16 = u16::MAX;

/// What is known of a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    len: u32,
    since: Time,
    /// The packet behind it in its flow.
    next: u16,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    first: u16,
    last: u16,
    /// Bytes it may still send this turn.
    credit: i64,
    /// It is in one of the two lists.
    listed: bool,
    /// The flow behind it in its list.
    next: u16,
    pressure: Pressure,
}

/// Flows in the order of their turns.
#[derive(Clone, Copy, Debug)]
struct Turns {
    first: u16,
    last: u16,
}

impl Turns {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    fn append(&mut self, flows: &mut [Flow; FLOWS], at: u16) {
        flows[usize::from(at)].next = NONE;
        match self.last {
            NONE => self.first = at,
            last => flows[usize::from(last)].next = at,
        }
        self.last = at;
    }

    fn take_first(&mut self, flows: &[Flow; FLOWS]) {
        self.first = flows[usize::from(self.first)].next;
        if self.first == NONE {
            self.last = NONE;
        }
    }
}

/// A packet whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// The place it lies in, which is the caller's again.
    pub place: u16,
    /// Its flow must be told to slow down: mark the packet, or drop it or a part of it.
    pub slow_down: bool,
    /// Nothing of its flow waits behind it.
    pub last: bool,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Flows {
    waiting: Box<[Waiting]>,
    flows: Box<[Flow; FLOWS]>,
    /// Flows that were idle.
    new: Turns,
    old: Turns,
    count: usize,
}

impl Flows {
    /// An empty one, for packets in places `0..places`.
    pub fn new(places: u16) -> Self {
        let idle = Flow {
            first: NONE,
            last: NONE,
            credit: 0,
            listed: false,
            next: NONE,
            pressure: Pressure::default(),
        };
        Self {
            waiting: vec![Waiting::default(); usize::from(places)].into(),
            flows: Box::new([idle; FLOWS]),
            new: Turns::EMPTY,
            old: Turns::EMPTY,
            count: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the packet of `len` bytes in `place`, whose flow has the number `hash`.
    pub fn push(&mut self, hash: u32, place: u16, len: usize, now: Time) {
        let at = (hash % FLOWS as u32) as u16;
        self.waiting[usize::from(place)] = Waiting {
            len: len as u32,
            since: now,
            next: NONE,
        };
        let flow = &mut self.flows[usize::from(at)];
        match flow.last {
            NONE => flow.first = place,
            last => self.waiting[usize::from(last)].next = place,
        }
        flow.last = place;
        if !flow.listed {
            flow.listed = true;
            flow.credit = QUANTUM;
            self.new.append(&mut self.flows, at);
        }
        self.count += 1;
    }

    /// The packet whose turn it is.
    pub fn pop(&mut self, now: Time) -> Option<Leaving> {
        loop {
            let fresh = self.new.first != NONE;
            let turns = if fresh { &mut self.new } else { &mut self.old };
            let at = turns.first;
            if at == NONE {
                return None;
            }
            let flow = &mut self.flows[usize::from(at)];
            if flow.credit > 0 && flow.first != NONE {
                return Some(self.leave(at, now));
            }
            // A fresh flow that sent all it had goes through the old ones once: else it would stay fresh by sending little
            // but often. An old one that is empty is forgotten.
            let stays = flow.first != NONE || fresh;
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
            }
            flow.listed = stays;
            turns.take_first(&self.flows);
            if stays {
                self.old.append(&mut self.flows, at);
            }
        }
    }

    fn leave(&mut self, at: u16, now: Time) -> Leaving {
        let flow = &mut self.flows[usize::from(at)];
        let place = flow.first;
        let packet = self.waiting[usize::from(place)];
        flow.first = packet.next;
        if packet.next == NONE {
            flow.last = NONE;
        }
        flow.credit -= i64::from(packet.len);
        self.count -= 1;
        let wait = now.since(packet.since);
        Leaving {
            place,
            slow_down: flow.pressure.signals(now, wait, packet.len as usize),
            last: packet.next == NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: u64 = 1_000_000;

    /// Everything that leaves at once.
    fn drain(flows: &mut Flows) -> Vec<u16> {
        std::iter::from_fn(|| flows.pop(Time(0)))
            .map(|leaving| leaving.place)
            .collect()
    }

    #[test]
    fn a_mouse_goes_before_the_elephant_that_came_first() {
        let mut flows = Flows::new(64);
        for place in 0..10 {
            flows.push(1, place, 60_000, Time(0));
        }
        let first = flows.pop(Time(0)).unwrap();
        assert_eq!((first.place, first.last), (0, false));
        flows.push(2, 10, 84, Time(0));
        assert_eq!(drain(&mut flows), [10, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn elephants_share_by_bytes_and_not_by_packets() {
        let mut flows = Flows::new(512);
        for place in 0..10 {
            flows.push(1, place, 60_000, Time(0));
        }
        for place in 10..410 {
            flows.push(2, place, 1500, Time(0));
        }
        let mut sent = [0i64; 2];
        for place in drain(&mut flows).iter().take(200) {
            sent[usize::from(*place >= 10)] += if *place >= 10 { 1500 } else { 60_000 };
            assert!(
                (sent[0] - sent[1]).abs() <= 60_000 + 2 * QUANTUM,
                "{sent:?}"
            );
        }
    }

    #[test]
    fn a_flow_that_sends_little_but_often_does_not_starve_the_others() {
        let mut flows = Flows::new(16);
        for place in 0..4 {
            flows.push(1, place, 3000, Time(0));
        }
        let mut elephant = 0;
        for round in 0..100 {
            // Place 8 is given again whenever it has left.
            flows.push(2, 8, 1500, Time(0));
            let mut left = vec![];
            while !left.contains(&8) {
                left.push(flows.pop(Time(0)).unwrap().place);
            }
            elephant += left.len() - 1;
            assert!(
                round < 20 || elephant == 4,
                "round {round}: {elephant} of 4"
            );
        }
    }

    #[test]
    fn only_the_flow_that_stands_is_thinned() {
        let mut flows = Flows::new(64);
        let mut places: VecDeque<u16> = (0..64).collect();
        let mut thinned = [0; 2];
        // The elephant always has 30 packets of a millisecond each waiting; the mouse's packet comes every 10 ms.
        for _ in 0..30 {
            flows.push(1, places.pop_front().unwrap(), 60_000, Time(0));
        }
        for ms in 1..2000u64 {
            let now = Time(ms * MS);
            if ms % 10 == 0 {
                flows.push(2, places.pop_front().unwrap(), 84, now);
                let mouse = flows.pop(now).unwrap();
                assert!(mouse.last);
                thinned[1] += u32::from(mouse.slow_down);
                places.push_back(mouse.place);
            }
            let elephant = flows.pop(now).unwrap();
            thinned[0] += u32::from(elephant.slow_down);
            places.push_back(elephant.place);
            flows.push(1, places.pop_front().unwrap(), 60_000, now);
        }
        assert!(thinned[0] > 10, "{thinned:?}");
        assert_eq!(thinned[1], 0);
    }

    #[test]
    fn nothing_is_lost_doubled_or_overtaken() {
        let mut flows = Flows::new(300);
        let mut model: Vec<VecDeque<u16>> = vec![VecDeque::new(); FLOWS];
        let mut flow_of = [0; 300];
        let mut free: Vec<u16> = (0..300).collect();
        let mut state = 1u64;
        let mut random = |below: u64| {
            // A linear congruential generator (Knuth's MMIX): the high bits are good.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..200_000u64 {
            // It fills up and empties again and again.
            let filling = step / 500 % 2 == 0;
            let push = !free.is_empty() && random(10) < if filling { 7 } else { 3 };
            if push {
                let place = free.swap_remove(random(free.len() as u64) as usize);
                let hash = random(1 + step % 400) as u32;
                flows.push(hash, place, 1 + random(65_000) as usize, Time(step));
                flow_of[usize::from(place)] = hash as usize % FLOWS;
                model[flow_of[usize::from(place)]].push_back(place);
            } else if let Some(leaving) = flows.pop(Time(step)) {
                let flow = &mut model[flow_of[usize::from(leaving.place)]];
                assert_eq!(flow.pop_front(), Some(leaving.place), "step {step}");
                free.push(leaving.place);
            }
            assert_eq!(flows.is_empty(), free.len() == 300);
        }
        let left = drain(&mut flows).len();
        assert_eq!(left + free.len(), 300);
    }
}
