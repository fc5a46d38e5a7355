//! The primitives under the paper's names (section 5.4): DH, HASH, MAC, HMAC, KDF, AEAD, XAEAD.
//!
//! Strategy: thin functions over the crates x25519-dalek, blake2 and chacha20poly1305; nothing is implemented here
//! but HMAC's two passes (RFC 2104) and HKDF's chain of them (RFC 5869). Used for handshakes only: packets are
//! sealed by the crate meshd-aead.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{PrivateKey, PublicKey};

/// Where unpredictable bytes come from: the operating system's generator, or a seeded one in tests.
pub trait Random {
    /// Fills `out` with unpredictable bytes. Must not fail: without randomness there is no protocol.
    fn fill(&mut self, out: &mut [u8]);
}

/// 32 secret bytes, erased when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Length of an AEAD tag in bytes.
pub(crate) const TAG: usize = 16;

/// The text was not sealed with this key, nonce and additional data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// A number below `bound` (which is not 0). Its bias is below 2^-32 for the small bounds used here.
pub(crate) fn random_below(random: &mut dyn Random, bound: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound
}

/// A random number, for session indices.
pub(crate) fn random_u32(random: &mut dyn Random) -> u32 {
    let mut bytes = [0; 4];
    random.fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// DH-GENERATE: a fresh key.
pub(crate) fn generate(random: &mut dyn Random) -> PrivateKey {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    let key = PrivateKey::new(bytes);
    bytes.zeroize();
    key
}

/// The public half of a key.
pub(crate) fn public_key(private: &PrivateKey) -> PublicKey {
    let secret = StaticSecret::from(*private.expose());
    PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

/// DH. `None` if the other key is a point of small order, which would make the result known to everybody.
pub(crate) fn dh(private: &PrivateKey, public: &PublicKey) -> Option<Secret> {
    let secret = StaticSecret::from(*private.expose());
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public.0));
    shared
        .was_contributory()
        .then(|| Zeroizing::new(shared.to_bytes()))
}

/// HASH of the parts one after the other: BLAKE2s-256.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// MAC: keyed BLAKE2s-128. Keys are 16 or 32 bytes here; a longer one than 32 gives `None`.
fn mac_state(key: &[u8]) -> Option<Blake2sMac<U16>> {
    <Blake2sMac<U16> as KeyInit>::new_from_slice(key).ok()
}

/// MAC with a 32 byte key.
pub(crate) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    mac_of(key, parts)
}

/// MAC with a cookie, which is 16 bytes.
pub(crate) fn mac_cookie(cookie: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    mac_of(cookie, parts)
}

fn mac_of(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let Some(mut state) = mac_state(key) else {
        unreachable!("BLAKE2s takes every key of at most 32 bytes")
    };
    for part in parts {
        Mac::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// Compares in constant time.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// HMAC-BLAKE2s (RFC 2104) with a 32 byte key.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    const BLOCK: usize = 64;
    let mut inner_key = Zeroizing::new([0x36; BLOCK]);
    let mut outer_key = Zeroizing::new([0x5c; BLOCK]);
    for ((inner, outer), byte) in inner_key.iter_mut().zip(outer_key.iter_mut()).zip(key) {
        *inner ^= byte;
        *outer ^= byte;
    }
    let mut inner = Blake2s256::new_with_prefix(*inner_key);
    for part in parts {
        Digest::update(&mut inner, part);
    }
    let inner: Secret = Zeroizing::new(inner.finalize().into());
    let outer = Blake2s256::new_with_prefix(*outer_key).chain(*inner);
    Zeroizing::new(outer.finalize().into())
}

/// KDF_1 (HKDF with one output).
pub(crate) fn kdf1(key: &[u8; 32], input: &[u8]) -> Secret {
    let secret = hmac(key, &[input]);
    hmac(&secret, &[&[1]])
}

/// KDF_2.
pub(crate) fn kdf2(key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let secret = hmac(key, &[input]);
    let first = hmac(&secret, &[&[1]]);
    let second = hmac(&secret, &[&*first, &[2]]);
    (first, second)
}

/// KDF_3.
pub(crate) fn kdf3(key: &[u8; 32], input: &[u8]) -> (Secret, Secret, Secret) {
    let secret = hmac(key, &[input]);
    let first = hmac(&secret, &[&[1]]);
    let second = hmac(&secret, &[&*first, &[2]]);
    let third = hmac(&secret, &[&*second, &[3]]);
    (first, second, third)
}

/// AEAD with counter 0, as every handshake key is used once: writes ciphertext and tag of `plain` into `out`.
///
/// # Panics
/// If `out` is not [`TAG`] bytes longer than `plain`: a mistake in this crate.
pub(crate) fn seal(key: &[u8; 32], plain: &[u8], additional: &[u8], out: &mut [u8]) {
    let (text, tag) = out.split_at_mut(plain.len());
    text.copy_from_slice(plain);
    let cipher = ChaCha20Poly1305::new(key.into());
    match cipher.encrypt_in_place_detached(&[0; 12].into(), additional, text) {
        Ok(sealed) => tag.copy_from_slice(&sealed),
        Err(_) => unreachable!("handshake texts are far below 256 GiB"),
    }
}

/// Undoes [`seal`]. `out` must be [`TAG`] bytes shorter than `sealed`; it holds zeros when this fails.
pub(crate) fn open(
    key: &[u8; 32],
    sealed: &[u8],
    additional: &[u8],
    out: &mut [u8],
) -> Result<(), NotAuthentic> {
    let (text, tag) = sealed.split_at_checked(out.len()).ok_or(NotAuthentic)?;
    let tag: &[u8; TAG] = tag.try_into().map_err(|_| NotAuthentic)?;
    out.copy_from_slice(text);
    let cipher = ChaCha20Poly1305::new(key.into());
    cipher
        .decrypt_in_place_detached(&[0; 12].into(), additional, out, tag.into())
        .map_err(|_| {
            out.fill(0);
            NotAuthentic
        })
}

/// XAEAD: seals a cookie under a random nonce.
pub(crate) fn seal_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    cookie: &[u8; 16],
    additional: &[u8],
) -> [u8; 32] {
    let mut out = [0; 32];
    let (text, tag) = out.split_at_mut(16);
    text.copy_from_slice(cookie);
    let cipher = XChaCha20Poly1305::new(key.into());
    match cipher.encrypt_in_place_detached(nonce.into(), additional, text) {
        Ok(sealed) => tag.copy_from_slice(&sealed),
        Err(_) => unreachable!("a cookie is far below 256 GiB"),
    }
    out
}

/// Undoes [`seal_cookie`].
pub(crate) fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    sealed: &[u8; 32],
    additional: &[u8],
) -> Result<[u8; 16], NotAuthentic> {
    let (mut text, mut tag) = ([0; 16], [0; TAG]);
    text.copy_from_slice(&sealed[..16]);
    tag.copy_from_slice(&sealed[16..]);
    XChaCha20Poly1305::new(key.into())
        .decrypt_in_place_detached(nonce.into(), additional, &mut text, (&tag).into())
        .map_err(|_| NotAuthentic)?;
    Ok(text)
}

#[cfg(test)]
#[path = "crypto_tests.rs"]
mod tests;
