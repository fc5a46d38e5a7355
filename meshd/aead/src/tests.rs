//! Tests of the lanes themselves, which the public API only reaches for some batches on some processors: the
//! portable model and the processor's own, against published vectors and against ring.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

mod against_ring;
mod poly1305;
mod rfc8439;
mod wycheproof;

use crate::engine::Context;
use crate::key::Packet;
use crate::lanes::portable::Portable;
use crate::TAG_LEN;

/// One implementation of the lanes.
struct Engine {
    name: &'static str,
    seal: Box<Seal>,
    open: Box<Open>,
}

type Seal = dyn Fn(&Context<'_>, &mut [u8], &[Packet]);
type Open = dyn Fn(&Context<'_>, &mut [u8], &mut [Packet]);

fn engine<L: crate::engine::Engine + 'static>(name: &'static str, lanes: L) -> Engine {
    Engine {
        name,
        seal: Box::new(move |context, buf, packets| lanes.seal(context, buf, packets)),
        open: Box::new(move |context, buf, packets| lanes.open(context, buf, packets)),
    }
}

/// All that this machine can run.
fn engines() -> Vec<Engine> {
    let portable = Some(engine("portable", Portable));
    #[cfg(target_arch = "x86_64")]
    let own = [
        said("avx2", crate::lanes::avx2::Avx2::detect()).map(|lanes| engine("avx2", lanes)),
        said("avx512", crate::avx512::Avx512::detect()).map(|lanes| engine("avx512", lanes)),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let own = [None];
    portable
        .into_iter()
        .chain(own.into_iter().flatten())
        .collect()
}

/// Passes `lanes` on, and says it, once, when there are none: past libtest, which shows nothing of tests that pass.
#[cfg(target_arch = "x86_64")]
pub(crate) fn said<L>(name: &'static str, lanes: Option<L>) -> Option<L> {
    use std::io::Write;
    static SAID: std::sync::Mutex<Vec<&str>> = std::sync::Mutex::new(Vec::new());
    if lanes.is_none() {
        let mut said = SAID.lock().expect("no panic while it is held");
        if !said.contains(&name) {
            said.push(name);
            let line = format!("the {name} lanes are left out: this processor doesn't have them\n");
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr");
        }
    }
    lanes
}

/// A message of some published vector. `nonce` has the RFC's 12 bytes.
struct Vector {
    key: Vec<u8>,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Vector {
    /// Runs `test` with this message's key and, as our packets have them, salt and counter.
    fn with(&self, mut test: impl FnMut(&Context<'_>, u64)) {
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|word| u32::from_le_bytes(*word))
                .collect()
        };
        let key: [u32; 8] = words(&self.key).try_into().expect("32 bytes");
        let [salt, low, high] = words(&self.nonce).try_into().expect("12 bytes");
        test(
            &Context {
                key: &key,
                salt,
                aad: &self.aad,
            },
            u64::from(low) | u64::from(high) << 32,
        );
    }

    /// Lays the message `copies` times into a buffer, with odd distances.
    fn lay(&self, bytes: &[u8], counter: u64, copies: usize) -> (Vec<u8>, Vec<Packet>) {
        let (mut buf, mut packets) = (Vec::new(), Vec::new());
        for i in 0..copies {
            buf.resize(buf.len() + i, 0xee);
            packets.push(Packet::new(buf.len(), self.plain.len() + TAG_LEN, counter));
            buf.extend_from_slice(bytes);
            buf.resize(buf.len() + self.plain.len() + TAG_LEN - bytes.len(), 0xee);
        }
        (buf, packets)
    }

    /// Sealing gives the vector's bytes in every lane, with every engine.
    fn assert_seals(&self, what: &str) {
        self.with(|context, counter| {
            for engine in engines() {
                let (mut buf, packets) = self.lay(&self.plain, counter, 11);
                (engine.seal)(context, &mut buf, &packets);
                for packet in packets {
                    assert_eq!(
                        buf[packet.at..][..packet.len],
                        self.sealed,
                        "{what}, {}",
                        engine.name
                    );
                }
            }
        });
    }

    /// Opening is refused (and the ciphertext left alone), or gives the plaintext, in every lane, with every engine.
    fn assert_opens(&self, valid: bool, what: &str) {
        self.with(|context, counter| {
            for engine in engines() {
                let (mut buf, mut packets) = self.lay(&self.sealed, counter, 11);
                (engine.open)(context, &mut buf, &mut packets);
                let expected = if valid {
                    &self.plain
                } else {
                    &self.sealed[..self.plain.len()]
                };
                for packet in packets {
                    assert_eq!(packet.valid, valid, "{what}, {}", engine.name);
                    assert_eq!(
                        &buf[packet.at..][..packet.len - TAG_LEN],
                        expected,
                        "{what}, {}",
                        engine.name
                    );
                }
            }
        });
    }
}

/// Bytes of hexadecimal digits; white space is skipped, "-" is nothing.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .as_chunks()
        .0
        .iter()
        .map(|[high, low]| high << 4 | low)
        .collect()
}
