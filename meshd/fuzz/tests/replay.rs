//! The committed corpora, and deterministic mutations of them, through every target: fast, for `make check`.
//!
//! `FUZZ_SECONDS=N` spends N seconds on mutations of each target instead of a few hundred of them; `FUZZ_TARGET=name`
//! runs one alone.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshd_fuzz::{Target, TARGETS};

/// Mutations of a target when no time is given: the slow ones get fewer.
const MUTATIONS: usize = 300;
/// A target that is slow stops here.
const PATIENCE: Duration = Duration::from_millis(400);

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ z >> 31) * end as u128) >> 64) as usize
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let entries = std::fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// One input from two: a piece of one put into the other, and some bytes changed.
fn mutate(dice: &mut Dice, one: &[u8], other: &[u8], max_len: usize) -> Vec<u8> {
    let mut input = one.to_vec();
    if !other.is_empty() && dice.below(2) == 0 {
        let start = dice.below(other.len());
        let piece = &other[start..start + dice.below(other.len() - start) + 1];
        let at = dice.below(input.len() + 1);
        let end = if dice.below(2) == 0 {
            at
        } else {
            (at + piece.len()).min(input.len())
        };
        input.splice(at..end, piece.iter().copied());
    }
    for _ in 0..dice.below(4) {
        if input.is_empty() {
            break;
        }
        let at = dice.below(input.len());
        match dice.below(4) {
            0 => input[at] ^= 1 << dice.below(8),
            1 => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            2 => input[at] = dice.below(256) as u8,
            _ => drop(input.remove(at)),
        }
    }
    input.truncate(max_len);
    input
}

fn replay(target: &Target) {
    let inputs = corpus(target);
    let run = |input: &[u8], whence: &dyn Fn() -> String| {
        let outcome = std::panic::catch_unwind(|| (target.run)(input));
        if outcome.is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!(
                "{}: {} breaks it; the input is {hex}",
                target.name,
                whence()
            );
        }
    };
    for (path, input) in &inputs {
        run(input, &|| path.display().to_string());
    }
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let (most, patience) = match seconds {
        Some(seconds) => (usize::MAX, Duration::from_secs(seconds)),
        None => (MUTATIONS, PATIENCE),
    };
    let start = Instant::now();
    let mut dice = Dice(1);
    let mut tried = 0;
    while tried < most && start.elapsed() < patience {
        let one = &inputs[dice.below(inputs.len())].1;
        let other = &inputs[dice.below(inputs.len())].1;
        let input = mutate(&mut dice, one, other, target.max_len);
        run(&input, &|| format!("mutation {tried}"));
        tried += 1;
    }
    println!(
        "{}: {} inputs, {tried} mutations",
        target.name,
        inputs.len()
    );
}

#[test]
fn the_corpora_break_nothing() {
    let wanted = std::env::var("FUZZ_TARGET").ok();
    let chosen = |target: &&Target| wanted.as_deref().is_none_or(|name| name == target.name);
    let mut targets = 0;
    for target in TARGETS.iter().filter(chosen) {
        replay(target);
        targets += 1;
    }
    assert!(targets > 0, "there is no such target");
}

#[test]
fn every_corpus_has_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        let known = TARGETS
            .iter()
            .any(|target| target.name == name.to_str().unwrap());
        assert!(known, "nothing reads corpus {}", name.display());
    }
}
