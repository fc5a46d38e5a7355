//! Which of a queue's two threads sends: the receiving one beside its own work while there is little to send, else the other.
//!
//! Strategy: whoever holds the sending side ([`super::tx::Tx`]) sends; it is handed over whole, with what waits in it, so packets keep their order and nothing is
//! locked on their way. While little is sent, one thread less must be woken for a packet that answers another: an echo, or
//! the acknowledgements of a download. The receiving thread hands it on when there is much to send ([`Load`]), and gets it back once
//! nothing was to be sent for a while.
//!
//! What it does not do: move packets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meshd_proto::Time;

/// The sending thread gives back what it had no use for so long.
pub(super) const IDLE: Duration = Duration::from_millis(10);

/// Over which load is counted.
const WINDOW: Duration = Duration::from_millis(1);
/// More packets than this that came one by one, without having been the answer to what was delivered: a program that floods. The
/// receiving thread, which goes before programs, would be woken for each. A download at 5 Gbit/s has 7 to 11 acknowledgements in a
/// window that find the thread asleep: these must not count as a flood.
const MAX_WAKES: u32 = 32;
/// More bytes than this, about a gigabit a second, are worth a second processor.
const MAX_BYTES: usize = 128 << 10;

/// The way of the sending side, a `T`, from one thread to the other. Whoever puts it there wakes the one that it is for.
pub(super) struct Desk<T> {
    for_sender: Mutex<Option<Box<T>>>,
    for_receiver: Mutex<Option<Box<T>>>,
}

impl<T> Desk<T> {
    /// One with `tx` on it, for the receiving thread when `one_thread`.
    pub fn new(tx: Box<T>, one_thread: bool) -> Self {
        let (sender, receiver) = if one_thread {
            (None, Some(tx))
        } else {
            (Some(tx), None)
        };
        Self {
            for_sender: Mutex::new(sender),
            for_receiver: Mutex::new(receiver),
        }
    }

    /// For the sending thread.
    pub fn to_sender(&self, tx: Box<T>) {
        put(&self.for_sender, tx);
    }

    /// For the receiving thread.
    pub fn to_receiver(&self, tx: Box<T>) {
        put(&self.for_receiver, tx);
    }

    /// What there is for the sending thread.
    pub fn by_sender(&self) -> Option<Box<T>> {
        take(&self.for_sender)
    }

    /// What there is for the receiving thread.
    pub fn by_receiver(&self) -> Option<Box<T>> {
        take(&self.for_receiver)
    }
}

/// Nothing panics while it holds a place.
fn put<T>(place: &Mutex<Option<Box<T>>>, tx: Box<T>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(tx);
}

fn take<T>(place: &Mutex<Option<Box<T>>>) -> Option<Box<T>> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// How much there was to send lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    began: Time,
    wakes: u32,
    bytes: usize,
}

impl Load {
    /// Takes in that `bytes` were sent at `now`, and whether they ended a sleep. True: it is much.
    pub fn is_much(&mut self, now: Time, bytes: usize, woken: bool) -> bool {
        if now.since(self.began) >= WINDOW {
            *self = Self {
                began: now,
                ..Self::default()
            };
        }
        self.wakes += u32::from(woken);
        self.bytes = self.bytes.saturating_add(bytes);
        self.wakes > MAX_WAKES || self.bytes > MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// How many steps of `us` microseconds it takes until it is much, if that is less than a thousand.
    fn steps(us: u64, bytes: usize, woken: bool) -> Option<u64> {
        let mut load = Load::default();
        (1..1000).find(|step| load.is_much(Time(1_000_000_000 + step * us * US), bytes, woken))
    }

    #[test]
    fn a_dialogue_is_little() {
        assert_eq!(steps(500, 84, true), None, "an echo twice a millisecond");
        assert_eq!(steps(50, 52, false), None, "acknowledgements");
        assert_eq!(steps(100, 9000, false), None, "a slow stream");
    }

    #[test]
    fn a_flood_and_a_fast_stream_are_much_at_once() {
        assert_eq!(steps(15, 100, true), Some(u64::from(MAX_WAKES) + 1));
        assert_eq!(steps(100, 65_000, false), Some(3));
    }
}
