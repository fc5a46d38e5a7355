//! The keys people hold: public, private, preshared. Secrets print as `..`, compare in constant time and are erased
//! when dropped.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto;

/// A Curve25519 public key: what names a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex(&self.0))
    }
}

/// A Curve25519 private key, clamped as RFC 7748 section 5 says.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Takes 32 bytes and clamps them. The caller erases its own copy.
    pub fn new(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        crypto::public_key(self)
    }

    /// The bytes, for the UAPI's `get` and for key files.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A preshared key (paper section 5.2). All zeros means none.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// Takes 32 bytes. The caller erases its own copy.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the UAPI's `get` and the handshake.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.ct_eq(&[0; 32]).into()
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// Lower-case hex, as the UAPI writes keys.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    // Never grows, so no copy of a secret is left behind by moving.
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(digits[usize::from(byte >> 4)]));
        text.push(char::from(digits[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let text = format!(
            "{:?} {:?}",
            PrivateKey::new([0xab; 32]),
            PresharedKey::new([0xab; 32])
        );
        assert_eq!(text, "PrivateKey(..) PresharedKey(..)");
    }

    #[test]
    fn private_keys_are_clamped() {
        let key = PrivateKey::new([0xff; 32]);
        assert_eq!((key.expose()[0], key.expose()[31]), (0xf8, 0x7f));
        assert_eq!(PrivateKey::new([0; 32]).expose()[31], 0x40);
    }

    #[test]
    fn hex_is_lower_case() {
        assert_eq!(hex(&[0x00, 0xAF, 0x10]), "00af10");
    }
}
