//! A daemon whose memory was damaged between two lives, in any place but those that are taken as they are: it takes up what is
//! sound, breaks no rule (`world.rs` checks them), and finds the others again.

use std::time::Duration;

use super::world::{World, NODES};
use crate::cursor::Cursor;

/// What stands in a word that was damaged, beside anything.
const VALUES: [u64; 6] = [0, 1, u64::MAX, 1 << 63, 1 << 32, u32::MAX as u64];

/// Runs a script: how much was said before, how each of some lives ends, and what is damaged then.
pub(crate) fn script(bytes: &[u8]) {
    let mut input = Cursor::new(bytes);
    let mut world = World::new(input.u16());
    for _ in 0..3 {
        speak(&mut world, input.below(4));
        let damage: Vec<_> = (0..input.below(8)).map(|_| word(&mut input)).collect();
        let (node, killed) = (input.below(NODES), input.one_in(2));
        world.restart_damaged(node, killed, &damage);
        world.assert_sound();
        let waited = input.choose(&[0, 1, 10, 130]);
        world.pass(Duration::from_secs(waited), true);
        if input.is_empty() {
            break;
        }
    }
    world.must_recover();
}

/// Which word, and what is there then.
fn word(input: &mut Cursor<'_>) -> (usize, u64) {
    // Most of the first ones mean something; of the rest few do.
    let at = if input.one_in(2) {
        input.below(256)
    } else {
        usize::from(input.u16())
    };
    let value = if input.one_in(4) {
        input.u64()
    } else {
        input.choose(&VALUES)
    };
    (at, value)
}

fn speak(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
            world.talk(from, from as u8 + 1, to + 1, false);
        }
        world.pass(Duration::from_secs(1), true);
    }
}
