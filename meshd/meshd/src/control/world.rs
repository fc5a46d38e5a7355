//! The world as the protocol core wants it handed in: clocks, randomness, and a basket for what it wants done.

use meshd_os::clock;
use meshd_proto::{Context, Outputs, Random, Time, WallTime};

use crate::conf::UtcTime;

/// The kernel's random numbers.
struct Kernel;

impl Random for Kernel {
    fn fill(&mut self, out: &mut [u8]) {
        if let Err(error) = meshd_os::random::fill(out) {
            // Without randomness there is no protocol, and going on with predictable keys would be worse than ending.
            eprintln!("meshd: {error}");
            std::process::abort();
        }
    }
}

/// Clocks, randomness, outputs.
pub struct World {
    random: Kernel,
    /// What the core wants sent and known.
    pub out: Outputs,
}

impl World {
    /// An empty basket.
    pub fn new() -> Self {
        Self {
            random: Kernel,
            out: Outputs::default(),
        }
    }

    /// This moment, for one call into the core.
    pub fn context(&mut self) -> Context<'_> {
        Context {
            now: now(),
            wall: wall(),
            random: &mut self.random,
            out: &mut self.out,
        }
    }

    /// Unpredictable bytes.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }
}

/// CLOCK_BOOTTIME.
pub fn now() -> Time {
    Time(clock::boottime_ns())
}

/// CLOCK_REALTIME.
pub fn wall() -> WallTime {
    let time = clock::realtime();
    WallTime {
        secs: time.as_secs(),
        nanos: time.subsec_nanos(),
    }
}

/// CLOCK_REALTIME to the second.
pub fn utc() -> UtcTime {
    UtcTime(clock::realtime().as_secs())
}
