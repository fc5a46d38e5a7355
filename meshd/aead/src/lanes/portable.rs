//! The lanes as plain arrays: the model for the tests.

use super::{Blocks, Lanes, Row, LANES};
use crate::batch;
use crate::engine::{Context, Engine};
use crate::key::Packet;

/// Needs nothing of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type Words = [u32; LANES];

    fn splat(self, word: u32) -> Self::Words {
        [word; LANES]
    }

    fn load(self, words: &[u32; LANES]) -> Self::Words {
        *words
    }

    fn add(self, a: Self::Words, b: Self::Words) -> Self::Words {
        core::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    fn double_round(
        self,
        a: &mut Row<Self>,
        b: &mut Row<Self>,
        c: &mut Row<Self>,
        d: &mut Row<Self>,
    ) {
        for turn in [0, 1] {
            for lane in 0..LANES {
                for (i, a) in a.iter_mut().enumerate() {
                    // Row r is met r places further on in the diagonal round.
                    let at = |row: usize| (i + turn * row) % 4;
                    quarter_round([
                        &mut a[lane],
                        &mut b[at(1)][lane],
                        &mut c[at(2)][lane],
                        &mut d[at(3)][lane],
                    ]);
                }
            }
        }
    }

    fn store(self, state: &[Row<Self>; 4], blocks: &mut Blocks) {
        for (lane, block) in blocks.iter_mut().enumerate() {
            for (word, bytes) in state.as_flattened().iter().zip(block.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&word[lane].to_le_bytes());
            }
        }
    }

    fn mix(self, text: &mut [u8; 64], stream: &[u8; 64]) {
        for (text, stream) in text.iter_mut().zip(stream) {
            *text ^= stream;
        }
    }
}

impl Engine for Portable {
    fn seal(self, context: &Context<'_>, buf: &mut [u8], packets: &[Packet]) {
        batch::seal(self, context, buf, packets);
    }

    fn open(self, context: &Context<'_>, buf: &mut [u8], packets: &mut [Packet]) {
        batch::open(self, context, buf, packets);
    }
}

/// RFC 8439, section 2.1.
fn quarter_round([a, b, c, d]: [&mut u32; 4]) {
    for (shuffle, shift) in [(16, 12), (8, 7)] {
        *a = a.wrapping_add(*b);
        *d = (*d ^ *a).rotate_left(shuffle);
        *c = c.wrapping_add(*d);
        *b = (*b ^ *c).rotate_left(shift);
    }
}
