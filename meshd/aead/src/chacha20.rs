//! ChaCha20's block function (RFC 8439, section 2.3) on eight blocks at once, each with its own counter and nonce.

use crate::lanes::{Blocks, Lanes, Row, LANES};

/// "expand 32-byte k".
pub(crate) const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// What differs between the blocks: block counter and the nonce's three words.
#[derive(Clone, Copy, Default)]
pub(crate) struct Inputs {
    pub(crate) counter: [u32; LANES],
    pub(crate) nonce: [[u32; LANES]; 3],
}

/// Eight blocks at work: [`DOUBLE_ROUNDS`] double rounds, then the sum with what they started from.
pub(crate) struct Rounds<L: Lanes> {
    a: Row<L>,
    b: Row<L>,
    d: Row<L>,
}

/// How many times [`Rounds::double_round`] is to be called.
pub(crate) const DOUBLE_ROUNDS: usize = 10;

impl<L: Lanes> Rounds<L> {
    /// Row c is kept apart: it may have to live in memory, where the others should not.
    #[inline(always)]
    pub(crate) fn new(lanes: L, key: &[u32; 8], inputs: &Inputs) -> (Self, Row<L>) {
        let [a, b, c, d] = initial(lanes, key, inputs);
        (Self { a, b, d }, c)
    }

    #[inline(always)]
    pub(crate) fn double_round(&mut self, lanes: L, c: &mut Row<L>) {
        lanes.double_round(&mut self.a, &mut self.b, c, &mut self.d);
    }

    #[inline(always)]
    pub(crate) fn finish(
        self,
        lanes: L,
        c: Row<L>,
        key: &[u32; 8],
        inputs: &Inputs,
        out: &mut Blocks,
    ) {
        let mut state = [self.a, self.b, c, self.d];
        for (row, start) in state.iter_mut().zip(initial(lanes, key, inputs)) {
            for (word, start) in row.iter_mut().zip(start) {
                *word = lanes.add(*word, start);
            }
        }
        lanes.store(&state, out);
    }
}

/// The state before the rounds.
#[inline(always)]
pub(crate) fn initial<L: Lanes>(lanes: L, key: &[u32; 8], inputs: &Inputs) -> [Row<L>; 4] {
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let splat = |[a, b, c, d]: [u32; 4]| {
        [
            lanes.splat(a),
            lanes.splat(b),
            lanes.splat(c),
            lanes.splat(d),
        ]
    };
    let [n0, n1, n2] = &inputs.nonce;
    [
        splat(CONSTANTS),
        splat([k0, k1, k2, k3]),
        splat([k4, k5, k6, k7]),
        [
            lanes.load(&inputs.counter),
            lanes.load(n0),
            lanes.load(n1),
            lanes.load(n2),
        ],
    ]
}
