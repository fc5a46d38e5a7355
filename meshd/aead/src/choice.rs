//! Who works on a batch: ring, packet by packet, or our own lanes.
//!
//! Decided by what the processor has, by a comparison with ring made once, by `MESHD_AEAD` (`ring`: never our lanes;
//! `avx2`: always, where they exist, for measurements and tests), and by the batch itself. Measured with the `bench`
//! example on an EPYC 7003 with AVX2: eight packets of 64 bytes are sealed 2.2 times as fast as by ring on a core
//! of one's own and 1.4 times where the core is shared with another busy thread; at 256 bytes it is 1.4 and 1.0, at
//! 1424 bytes 1.1 and 0.85. ring's cost is mostly per packet, ours per byte. So: several packets, short on average.

use crate::key::Packet;

/// Fewer packets don't fill the lanes.
const MIN_PACKETS: usize = 6;

/// Longest average of text and tag, in bytes, that pays.
const MAX_AVERAGE: usize = 192 + crate::TAG_LEN;

/// Says for the log what batches are worked on with, and why.
pub fn in_use() -> &'static str {
    native::in_use()
}

/// Whether our lanes are expected to be faster than ring. Packets may be malformed.
#[cfg(any(target_arch = "x86_64", test))]
pub(crate) fn pays(packets: &[Packet]) -> bool {
    let bytes = packets
        .iter()
        .fold(0, |sum: usize, packet| sum.saturating_add(packet.len));
    packets.len() >= MIN_PACKETS && bytes <= MAX_AVERAGE * packets.len()
}

#[cfg(target_arch = "x86_64")]
pub(crate) use native::lanes_for;

#[cfg(target_arch = "x86_64")]
mod native {
    use std::sync::OnceLock;

    use super::pays;
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

    /// The lanes that should do this batch, if any.
    pub(crate) fn lanes_for(packets: &[Packet]) -> Option<Avx2> {
        match choice() {
            Choice::Avx2 { lanes, always } if *always || pays(packets) => Some(*lanes),
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
