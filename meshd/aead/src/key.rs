//! One direction's session key, and what can be done with it.
//!
//! Single packets go to ring, batches where `choice` says. The key lives in one heap block that is overwritten with
//! zeros when it is dropped, ring's own copy of it included; what ring leaves on the stack while it works is out of
//! our reach.

use core::fmt;
use core::mem::MaybeUninit;

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};
#[cfg(any(target_arch = "x86_64", test))]
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

#[cfg(target_arch = "x86_64")]
use crate::choice;
#[cfg(target_arch = "x86_64")]
use crate::engine::{Context, Engine};
use crate::TAG_LEN;

/// Why a packet was not opened: too short to hold a tag, or the tag is not that of this text, key and counter.
/// Deliberately without detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not sealed with this key and counter")
    }
}

impl std::error::Error for Invalid {}

/// Where one packet's text lies in a shared buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Offset in bytes of the text's first byte (behind the header).
    pub at: usize,
    /// Length in bytes of text and tag together, so at least [`TAG_LEN`].
    pub len: usize,
    /// The packet's counter.
    pub counter: u64,
    /// Set by [`Key::open_batch`]: whether the first `len - TAG_LEN` bytes are now authentic plaintext.
    pub valid: bool,
}

impl Packet {
    /// A packet of `len` bytes (text and tag) at offset `at`, not yet valid.
    pub const fn new(at: usize, len: usize, counter: u64) -> Self {
        Self {
            at,
            len,
            counter,
            valid: false,
        }
    }

    /// Where the text ends and the tag begins.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(crate) fn text_end(&self) -> usize {
        self.at + self.len - TAG_LEN
    }

    /// Blocks of 64 bytes that the text needs.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(crate) fn blocks(&self) -> u32 {
        (self.len - TAG_LEN).div_ceil(64) as u32
    }

    /// Whether this is the tag that the packet carries, in a time that says nothing of where they differ.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(crate) fn has_tag(&self, buf: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        buf[self.text_end()..].first_chunk().is_some_and(|theirs| {
            u128::from_ne_bytes(*tag)
                .ct_eq(&u128::from_ne_bytes(*theirs))
                .into()
        })
    }

    fn is_within(&self, buf: &[u8]) -> bool {
        self.len >= TAG_LEN
            && self
                .at
                .checked_add(self.len)
                .is_some_and(|end| end <= buf.len())
    }

    fn text<'a>(&self, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let end = self.at.checked_add(self.len)?;
        buf.get_mut(self.at..end)
            .filter(|text| text.len() >= TAG_LEN)
    }
}

/// A session key for one direction. Erased when dropped; prints no secret.
pub struct Key {
    /// Boxed, so that moving a `Key` leaves no copy of the secret behind.
    secret: Box<Secret>,
}

impl Key {
    /// Takes the key in. The caller erases its own copy.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            secret: Box::new(Secret::new(key)),
        }
    }

    /// Seals `buf` in place: plaintext followed by [`TAG_LEN`] bytes of room, which receive the tag.
    ///
    /// # Panics
    /// If `buf` is shorter than [`TAG_LEN`].
    pub fn seal_in_place(&self, counter: u64, buf: &mut [u8]) {
        assert!(buf.len() >= TAG_LEN, "no room for the tag");
        let (text, tag) = buf.split_at_mut(buf.len() - TAG_LEN);
        match self
            .secret
            .ring()
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), text)
        {
            Ok(sealed) => tag.copy_from_slice(sealed.as_ref()),
            // Only for texts above 256 GiB. Nothing may leave in clear even then.
            Err(_) => buf.fill(0),
        }
    }

    /// Opens `buf` (ciphertext and tag) in place and returns the length of the plaintext at its start.
    ///
    /// # Errors
    /// [`Invalid`]; what `buf` holds then is unspecified, but never the plaintext.
    pub fn open_in_place(&self, counter: u64, buf: &mut [u8]) -> Result<usize, Invalid> {
        match self
            .secret
            .ring()
            .open_in_place(nonce(counter), Aad::empty(), buf)
        {
            Ok(text) => Ok(text.len()),
            Err(_) => Err(Invalid),
        }
    }

    /// Seals packets of any and mixed length that lie in one buffer. They must not overlap.
    ///
    /// # Panics
    /// If a packet reaches beyond `buf` or is shorter than [`TAG_LEN`].
    pub fn seal_batch(&self, buf: &mut [u8], packets: &[Packet]) {
        assert!(
            packets.iter().all(|packet| packet.is_within(buf)),
            "packet outside of its buffer"
        );
        // Only our lanes take the first of them away.
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut rest = packets;
        #[cfg(target_arch = "x86_64")]
        while !rest.is_empty() {
            let (lanes, count) = choice::to_seal(buf, rest);
            let (now, later) = rest.split_at(count);
            match lanes {
                Some(lanes) => lanes.seal(&self.secret.context(), buf, now),
                None => self.seal_by_ring(buf, now),
            }
            rest = later;
        }
        self.seal_by_ring(buf, rest);
    }

    fn seal_by_ring(&self, buf: &mut [u8], packets: &[Packet]) {
        for packet in packets {
            if let Some(text) = packet.text(buf) {
                self.seal_in_place(packet.counter, text);
            }
        }
    }

    /// Seals a run of packets at equal distance, as UDP_SEGMENT sends them: every `stride` bytes of `buf` are
    /// `head` bytes left alone, plaintext, and room for the tag. The last packet may be shorter. Packet `i`
    /// gets counter `first_counter + i`, modulo 2^64.
    ///
    /// # Panics
    /// If `stride` is 0, or a packet has no room for `head` and tag.
    pub fn seal_stride(&self, first_counter: u64, buf: &mut [u8], stride: usize, head: usize) {
        let mut counter = first_counter;
        for run in buf.chunks_mut(stride.saturating_mul(RUN)) {
            let mut packets = [Packet::default(); RUN];
            let mut count = 0;
            for (packet, bytes) in packets.iter_mut().zip(run.chunks(stride)) {
                let Some(len) = bytes.len().checked_sub(head) else {
                    panic!("no room for the header")
                };
                *packet = Packet::new(count * stride + head, len, counter);
                counter = counter.wrapping_add(1);
                count += 1;
            }
            self.seal_batch(run, &packets[..count]);
        }
    }

    /// Opens packets of any and mixed length that lie in one buffer and sets [`Packet::valid`] of each. A packet
    /// that reaches beyond `buf` or is too short is not valid. They must not overlap. What the text of a packet
    /// that is not valid holds is unspecified, but never the plaintext.
    pub fn open_batch(&self, buf: &mut [u8], packets: &mut [Packet]) {
        // Only our lanes take the first of them away.
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut rest = packets;
        #[cfg(target_arch = "x86_64")]
        if rest.iter().all(|packet| packet.is_within(buf)) {
            while !rest.is_empty() {
                let (lanes, count) = choice::to_open(buf, rest);
                let (now, later) = rest.split_at_mut(count);
                match lanes {
                    Some(lanes) => lanes.open(&self.secret.context(), buf, now),
                    None => self.open_by_ring(buf, now),
                }
                rest = later;
            }
        }
        self.open_by_ring(buf, rest);
    }

    fn open_by_ring(&self, buf: &mut [u8], packets: &mut [Packet]) {
        for packet in packets {
            packet.valid = match packet.text(buf) {
                Some(text) => self.open_in_place(packet.counter, text).is_ok(),
                None => false,
            };
        }
    }
}

/// Packets that [`Key::seal_stride`] hands on at a time: what one UDP_SEGMENT send takes on every kernel.
const RUN: usize = 64;

/// The start-up test: batches with every kind of tail, and with blocks for every way through the lanes (packets of very
/// different and of about the same lengths, more than sixteen of them, and pairs of long ones, more than four), sealed and
/// opened by `lanes` as by ring, one tag wrong.
#[cfg(target_arch = "x86_64")]
pub(crate) fn agrees_with_ring<L: Engine>(lanes: L) -> bool {
    const BATCHES: [&[usize]; 3] = [
        &[0, 1, 15, 16, 63, 64, 65, 448, 577, 97],
        &[
            192, 193, 195, 199, 207, 223, 240, 255, 192, 194, 197, 203, 215, 239, 241, 254, 256,
            130, 64,
        ],
        &[
            321, 330, 340, 352, 448, 447, 384, 383, 380, 365, 337, 359, 50,
        ],
    ];
    const BAD: usize = 5;
    let key = Key::new(&core::array::from_fn(|i| 0x80 ^ i as u8));
    BATCHES.iter().all(|lens| {
        let mut plain = [0; 5120];
        let mut packets = [Packet::default(); 19];
        let packets = &mut packets[..lens.len()];
        let mut at = 7;
        for (i, (packet, len)) in packets.iter_mut().zip(*lens).enumerate() {
            // Both words of the nonce change from one packet to the next.
            *packet = Packet::new(at, len + TAG_LEN, 0xffff_fffc + i as u64 * 0x1_0000_0001);
            at += packet.len + i;
        }
        for (i, byte) in plain.iter_mut().enumerate() {
            *byte = (i * i) as u8;
        }

        let (mut ours, mut rings) = (plain, plain);
        lanes.seal(&key.secret.context(), &mut ours, packets);
        key.seal_by_ring(&mut rings, packets);
        let sealed = ours;
        if ours != rings {
            return false;
        }
        ours[packets[BAD].at + packets[BAD].len - 1] ^= 0x80;
        lanes.open(&key.secret.context(), &mut ours, packets);
        packets.iter().enumerate().all(|(i, packet)| {
            let text = packet.at..packet.at + packet.len - TAG_LEN;
            let expected = if i == BAD { &sealed } else { &plain };
            packet.valid == (i != BAD) && ours[text.clone()] == expected[text]
        })
    })
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// WireGuard's nonce: 32 zero bits, then the counter, little endian.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The key as ring keeps it and as our lanes want it. ring doesn't erase its keys, so the storage is ours to drop.
struct Secret {
    /// Always initialised, from `new` until `drop`.
    ring: MaybeUninit<LessSafeKey>,
    #[cfg(target_arch = "x86_64")]
    words: [u32; 8],
}

impl Secret {
    fn new(key: &[u8; 32]) -> Self {
        match UnboundKey::new(&CHACHA20_POLY1305, key) {
            Ok(unbound) => Self {
                ring: MaybeUninit::new(LessSafeKey::new(unbound)),
                #[cfg(target_arch = "x86_64")]
                words: core::array::from_fn(|i| {
                    u32::from_le_bytes([key[4 * i], key[4 * i + 1], key[4 * i + 2], key[4 * i + 3]])
                }),
            },
            // The length is the only thing ring checks, and the type of `key` fixes it.
            Err(_) => unreachable!("ring takes every key of 32 bytes"),
        }
    }

    fn ring(&self) -> &LessSafeKey {
        // SAFETY: `new` initialises it, and only `drop` ends that.
        unsafe { self.ring.assume_init_ref() }
    }

    #[cfg(target_arch = "x86_64")]
    fn context(&self) -> Context<'_> {
        Context {
            key: &self.words,
            salt: 0,
            aad: &[],
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: initialised since `new`; nobody can look at it after `drop`.
        unsafe { self.ring.assume_init_drop() };
        self.ring.zeroize();
        #[cfg(target_arch = "x86_64")]
        self.words.zeroize();
    }
}
