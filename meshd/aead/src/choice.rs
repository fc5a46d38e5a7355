//! Who works on a batch: ring, packet by packet, or our own lanes.
//!
//! Decided by what the processor has, by a comparison with ring made once, by `MESHD_AEAD` (`ring`: never our lanes;
//! `avx512` or `avx2`: always these, where they exist, for measurements and tests), and by the batch itself. The limits are
//! set by the `bench` example; README.md has the figures.
//!
//! AVX-512 beats ring for nearly every batch. AVX2 does where ring's cost is mostly per packet, for several packets, short
//! on average; and for runs of long ones that go two by two. Near the limits it loses a little on a core whose execution
//! units are shared with another busy thread.

/// Fewer packets don't fill AVX2's lanes, if they are short, or if they go two by two.
#[cfg(target_arch = "x86_64")]
const MIN_TO_SEAL: Min = Min { short: 4, long: 2 };
/// Opening has a start of its own there: a packet's tag must be known before its text joins the others.
#[cfg(target_arch = "x86_64")]
const MIN_TO_OPEN: Min = Min { short: 6, long: 6 };

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Min {
    short: usize,
    long: usize,
}

/// Longest average of text and tag, in bytes, that pays with AVX2 as a batch of short packets.
#[cfg(target_arch = "x86_64")]
const MAX_AVERAGE: usize = 128 + crate::TAG_LEN;

/// Shortest average of text and tag, in bytes, for which AVX-512 pays with two packets. With more it always does.
#[cfg(target_arch = "x86_64")]
const MIN_AVERAGE_OF_TWO: usize = 128 + crate::TAG_LEN;

/// Says for the log what batches are worked on with, and why.
pub fn in_use() -> &'static str {
    native::in_use()
}

#[cfg(target_arch = "x86_64")]
pub(crate) use native::{to_open, to_seal};

#[cfg(target_arch = "x86_64")]
mod native {
    use std::sync::OnceLock;

    use super::{Min, MAX_AVERAGE, MIN_AVERAGE_OF_TWO, MIN_TO_OPEN, MIN_TO_SEAL};
    use crate::avx512::Avx512;
    use crate::engine::{Context, Engine};
    use crate::key::{self, Packet};
    use crate::lanes::avx2::{pairs, Avx2};

    /// Lanes of our own that this processor has.
    #[derive(Clone, Copy)]
    pub(crate) enum Own {
        Avx512(Avx512),
        Avx2(Avx2),
    }

    impl Own {
        /// Whether a buffer is not too large to count its bytes.
        fn takes(&self, buf: &[u8]) -> bool {
            match self {
                Self::Avx512(_) => buf.len() <= Avx512::LARGEST_BUFFER,
                Self::Avx2(_) => true,
            }
        }
    }

    impl Engine for Own {
        fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
            match self {
                Self::Avx512(lanes) => lanes.seal(context, buf, packets),
                Self::Avx2(lanes) => lanes.seal(context, buf, packets),
            }
        }

        fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
            match self {
                Self::Avx512(lanes) => lanes.open(context, buf, packets),
                Self::Avx2(lanes) => lanes.open(context, buf, packets),
            }
        }
    }

    struct Choice {
        own: Option<Own>,
        /// For all batches, not only for those that pay.
        always: bool,
        /// For the log.
        says: &'static str,
    }

    fn choice() -> &'static Choice {
        static CHOICE: OnceLock<Choice> = OnceLock::new();
        CHOICE.get_or_init(|| {
            let wish = std::env::var_os("MESHD_AEAD").unwrap_or_default();
            choose(wish.to_str().unwrap_or_default())
        })
    }

    fn choose(wish: &str) -> Choice {
        let ring = |says| Choice {
            own: None,
            always: false,
            says,
        };
        if wish == "ring" {
            return ring("ring (MESHD_AEAD)");
        }
        if let Some(lanes) = Avx512::detect().filter(|_| wish != "avx2") {
            if !key::agrees_with_ring(lanes) {
                return ring("ring (AVX-512 failed its start-up test)");
            }
            let always = wish == "avx512";
            return Choice {
                own: Some(Own::Avx512(lanes)),
                always,
                says: if always {
                    "AVX-512 for all batches (MESHD_AEAD)"
                } else {
                    "AVX-512 for batches, ring for single packets"
                },
            };
        }
        let Some(lanes) = Avx2::detect() else {
            return ring("ring (no AVX2)");
        };
        if !key::agrees_with_ring(lanes) {
            return ring("ring (AVX2 failed its start-up test)");
        }
        let always = wish == "avx2";
        Choice {
            own: Some(Own::Avx2(lanes)),
            always,
            says: if always {
                "AVX2 for all batches (MESHD_AEAD)"
            } else {
                "AVX2 for batches of short packets and runs of long ones, else ring"
            },
        }
    }

    /// Who should seal the first of these packets, ring if no lanes, and how many of them: at least one. They lie
    /// within `buf`.
    pub(crate) fn to_seal(buf: &[u8], packets: &[Packet]) -> (Option<Own>, usize) {
        next(buf, packets, MIN_TO_SEAL)
    }

    /// The same for opening.
    pub(crate) fn to_open(buf: &[u8], packets: &[Packet]) -> (Option<Own>, usize) {
        next(buf, packets, MIN_TO_OPEN)
    }

    fn next(buf: &[u8], packets: &[Packet], min: Min) -> (Option<Own>, usize) {
        let Choice { own, always, .. } = choice();
        let Some(own) = own.filter(|own| own.takes(buf)) else {
            return (None, packets.len());
        };
        let (count, bytes) = (packets.len(), packets.iter().map(|packet| packet.len));
        let bytes = bytes.fold(0, usize::saturating_add);
        let all_pay = match own {
            _ if *always => true,
            Own::Avx512(_) => count > 2 || count == 2 && bytes >= 2 * MIN_AVERAGE_OF_TWO,
            Own::Avx2(_) => count >= min.short && bytes <= count * MAX_AVERAGE,
        };
        match own {
            _ if all_pay => (Some(own), count),
            Own::Avx512(_) => (None, count),
            Own::Avx2(_) => match pairs::pairs(packets) {
                long if long >= min.long => (Some(own), long),
                // Up to where there may be pairs again.
                long => {
                    let from = long.max(1);
                    let is_run = |run: &[Packet]| pairs::pairs(run) == min.long;
                    let more = packets[from..].windows(min.long).position(is_run);
                    (None, more.map_or(count, |more| from + more))
                }
            },
        }
    }

    pub(super) fn in_use() -> &'static str {
        choice().says
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod native {
    pub(super) fn in_use() -> &'static str {
        "ring"
    }
}
