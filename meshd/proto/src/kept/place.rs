//! A place: what is kept of a peer besides its sessions.

use core::ops::Range;
use core::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::sync::Arc;

use super::words::{checksum, key_words, read, write, Words};
use super::Memory;
use crate::endpoint::{Endpoint, PACKED};
use crate::keys::PublicKey;
use crate::time::{Tai64n, Time, WallTime};

/// Words of a place. Each part has its checksum in front.
pub(super) const PLACE: usize = 32;
/// The peer's key.
pub(super) const PEER: Range<usize> = 0..5;
/// Handshake: wall seconds, nanoseconds, boot time, the peer's timestamp in two words.
const TIMES: Range<usize> = 8..14;
/// Where it is.
const ENDPOINT: Range<usize> = 16..17 + PACKED;
/// The address that was configured, as a checksum; 0: none.
const CONFIGURED: usize = 24;
const RX_BYTES: usize = 25;
const TX_BYTES: usize = 26;
/// The [`Marks`] of the session in use.
const PROOF: Range<usize> = 28..28 + 1 + MARKS;
const _: () = assert!(ENDPOINT.end <= CONFIGURED && TX_BYTES < PROOF.start && PROOF.end <= PLACE);

/// What a session was made with: marks of our key, the peer's and the preshared one ([`mark`]). They are only compared. All
/// zeros, which no key's mark is: a daemon that didn't write them down has made it.
pub(crate) type Marks = [u64; MARKS];
pub(super) const MARKS: usize = 3;

/// Where a peer is kept. Erased when the peer's last holder lets go of it.
#[derive(Debug)]
pub(crate) struct Place {
    memory: Arc<Memory>,
    words: Words,
    pub number: usize,
    /// A predecessor had this peer.
    pub known: bool,
}

/// What a predecessor knew of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub last_handshake: Option<(WallTime, Time)>,
    pub latest_timestamp: Tai64n,
}

impl Place {
    pub(super) fn new(memory: Arc<Memory>, words: Words, number: usize, known: bool) -> Self {
        Self {
            memory,
            words,
            number,
            known,
        }
    }

    /// Where the endpoint is copied to.
    pub fn mirror(&self) -> Mirror {
        Mirror(&self.words[ENDPOINT])
    }

    /// Where the peer was, as last learned.
    pub fn endpoint(&self) -> Option<Endpoint> {
        read::<PACKED>(&self.words[ENDPOINT]).and_then(Endpoint::unpack)
    }

    /// Whether what was learned goes together with what is configured now: an address that was configured anew since wins.
    pub fn agrees(&self, configured: Option<Endpoint>) -> bool {
        let (now, then) = (
            configured_mark(configured),
            self.words[CONFIGURED].load(Relaxed),
        );
        now == 0 || then == 0 || now == then
    }

    /// The peer is called otherwise from now on.
    pub fn set_key(&self, key: &PublicKey) {
        write(&self.words[PEER], &key_words(&key.0));
    }

    pub fn set_configured(&self, configured: Option<Endpoint>) {
        self.words[CONFIGURED].store(configured_mark(configured), SeqCst);
    }

    pub fn times(&self) -> Times {
        let Some([secs, nanos, at, high, low]) = read::<5>(&self.words[TIMES]) else {
            return Times {
                last_handshake: None,
                latest_timestamp: Tai64n::ZERO,
            };
        };
        let mut label = [0; 12];
        label[..8].copy_from_slice(&high.to_be_bytes());
        label[8..].copy_from_slice(&(low as u32).to_be_bytes());
        let nanos = nanos as u32;
        Times {
            last_handshake: (at != 0).then_some((WallTime { secs, nanos }, Time(at))),
            latest_timestamp: Tai64n(label),
        }
    }

    pub fn set_times(&self, times: &Times) {
        let (wall, at) = times.last_handshake.unwrap_or_default();
        let label = times.latest_timestamp.0;
        let (mut high, mut low) = ([0; 8], [0; 4]);
        high.copy_from_slice(&label[..8]);
        low.copy_from_slice(&label[8..]);
        let (high, low) = (u64::from_be_bytes(high), u32::from_be_bytes(low));
        write(
            &self.words[TIMES],
            &[wall.secs, wall.nanos.into(), at.0, high, low.into()],
        );
    }

    /// What the session in use was made with.
    pub fn proof(&self) -> Option<Marks> {
        read::<MARKS>(&self.words[PROOF])
    }

    pub fn set_proof(&self, marks: Marks) {
        write(&self.words[PROOF], &marks);
    }

    /// Bytes received and sent, as of the last time they were noted.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |at: usize| self.words[at].load(Relaxed);
        (load(RX_BYTES), load(TX_BYTES))
    }

    pub fn set_bytes(&self, (received, sent): (u64, u64)) {
        self.words[RX_BYTES].store(received, Relaxed);
        self.words[TX_BYTES].store(sent, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.number;
        self.memory
            .give_back(self.words, |free| free.places.push(number));
    }
}

/// The kept copy of an endpoint, written by whoever writes the endpoint, under its lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mirror(Words);

impl Mirror {
    pub fn set(&self, endpoint: [u64; PACKED]) {
        write(self.0, &endpoint);
    }
}

/// What a key is told by, where it is kept only to be compared.
pub(crate) fn mark(key: &[u8; 32]) -> u64 {
    checksum(&key_words(key))
}

fn configured_mark(configured: Option<Endpoint>) -> u64 {
    configured.map_or(0, |endpoint| {
        checksum(&Endpoint::new(endpoint.remote).pack())
    })
}
