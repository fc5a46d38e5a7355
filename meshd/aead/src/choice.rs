//! Who works on a batch: ring, packet by packet, or our own lanes.
//!
//! Decided by what the processor has, by a comparison with ring made once, by `MESHD_AEAD` (`ring`: never our lanes;
//! `avx2`: always, where they exist, for measurements and tests), and by the batch itself. ring's cost is mostly per
//! packet, ours per byte: our lanes pay for several packets, short on average. The limits are set by the `bench`
//! example: within them our lanes are 1.1 to 2.5 times as fast on a quiet core, and lose a little, near the limits only,
//! on a core whose execution units are shared with another busy thread. README.md has the figures.

/// Fewer packets don't fill the lanes.
#[cfg(target_arch = "x86_64")]
pub(crate) const MIN_TO_SEAL: usize = 4;
/// Opening has a start of its own: a packet's tag must be known before its text joins the others.
#[cfg(target_arch = "x86_64")]
pub(crate) const MIN_TO_OPEN: usize = 6;

/// Longest average of text and tag, in bytes, that pays.
#[cfg(target_arch = "x86_64")]
const MAX_AVERAGE: usize = 256 + crate::TAG_LEN;

/// Says for the log what batches are worked on with, and why.
pub fn in_use() -> &'static str {
    native::in_use()
}

#[cfg(target_arch = "x86_64")]
pub(crate) use native::lanes_for;

#[cfg(target_arch = "x86_64")]
mod native {
    use std::sync::OnceLock;

    use super::MAX_AVERAGE;
    use crate::key::{self, Packet};
    use crate::lanes::avx2::Avx2;

    enum Choice {
        Ring(&'static str),
        /// For batches that pay, or for all.
        Avx2 {
            lanes: Avx2,
            always: bool,
        },
    }

    fn choice() -> &'static Choice {
        static CHOICE: OnceLock<Choice> = OnceLock::new();
        CHOICE.get_or_init(|| {
            let wish = std::env::var_os("MESHD_AEAD").unwrap_or_default();
            if wish == "ring" {
                return Choice::Ring("ring (MESHD_AEAD)");
            }
            let Some(lanes) = Avx2::detect() else {
                return Choice::Ring("ring (no AVX2)");
            };
            if !key::agrees_with_ring(lanes) {
                return Choice::Ring("ring (AVX2 failed its start-up test)");
            }
            Choice::Avx2 {
                lanes,
                always: wish == "avx2",
            }
        })
    }

    /// The lanes that should do this batch of `min` packets at least, if any. Packets may be malformed.
    pub(crate) fn lanes_for(packets: &[Packet], min: usize) -> Option<Avx2> {
        let bytes = packets
            .iter()
            .fold(0, |sum: usize, packet| sum.saturating_add(packet.len));
        let pays = packets.len() >= min && bytes <= MAX_AVERAGE * packets.len();
        match choice() {
            Choice::Avx2 { lanes, always } if *always || pays => Some(*lanes),
            _ => None,
        }
    }

    pub(super) fn in_use() -> &'static str {
        match choice() {
            Choice::Ring(why) => why,
            Choice::Avx2 { always: false, .. } => "ring, AVX2 for batches of short packets",
            Choice::Avx2 { always: true, .. } => "AVX2 for all batches (MESHD_AEAD)",
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod native {
    pub(super) fn in_use() -> &'static str {
        "ring"
    }
}
