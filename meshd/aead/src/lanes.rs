//! Eight ChaCha20 blocks side by side: what a processor must be able to do for `batch`.
//!
//! [`Lanes`] is a value that proves that its instructions may be used, and the only way to its vectors. The
//! portable one runs everywhere and is the model that the others are tested against; it is slower than ring
//! and never chosen.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(test)]
pub(crate) mod portable;

use crate::engine::Engine;

/// How many blocks one vector operation works on.
pub(crate) const LANES: usize = 8;

/// One block of key stream per lane.
pub(crate) type Blocks = [[u8; 64]; LANES];

/// Four words of the state's sixteen.
pub(crate) type Row<L> = [<L as Lanes>::Words; 4];

/// Vectors of [`LANES`] 32-bit words. Implementations mark every method `#[inline(always)]`, so that `batch::seal`
/// and `batch::open`, which their [`Engine`] calls, are compiled for the processor in question.
pub(crate) trait Lanes: Engine {
    /// One 32-bit word in each lane.
    type Words: Copy;

    fn splat(self, word: u32) -> Self::Words;
    fn load(self, words: &[u32; LANES]) -> Self::Words;
    /// Sums modulo 2^32.
    fn add(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// A round on the columns and one on the diagonals (RFC 8439, section 2.3) of the state with rows a, b, c and d.
    fn double_round(
        self,
        a: &mut Row<Self>,
        b: &mut Row<Self>,
        c: &mut Row<Self>,
        d: &mut Row<Self>,
    );
    /// Writes lane `i` of the 16 state words, row by row and little endian, to block `i`.
    fn store(self, state: &[Row<Self>; 4], blocks: &mut Blocks);
    /// text ^= stream. Not left to a compiler's vectors, which it has none of where the program is to be small.
    fn mix(self, text: &mut [u8; 64], stream: &[u8; 64]);
}
