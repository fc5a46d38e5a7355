//! Keys: 32 bytes, base64 in files, raw everywhere else. Secret ones are wiped when dropped and print as `(hidden)`.
//!
//! What it does not do: curve arithmetic beyond deriving a public key, and the handshake; that is `meshd-proto`.

use std::fmt;

use meshd_proto::{PrivateKey, PublicKey};

use base64ct::{Base64, Encoding};
use blake2::digest::{consts::U16, Mac};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::value::Fault;

/// Length of every key, bytes.
pub const KEY_LEN: usize = 32;

const HINT: &str = "a key is 32 bytes in base64: 43 characters and `=`";

/// Reads a public key from base64.
pub fn public_key(text: &str) -> Result<PublicKey, Fault> {
    decode(text)
        .map(PublicKey)
        .ok_or_else(|| Fault::new(format!("`{text}` is not a key"), HINT))
}

/// A key as people see it.
pub trait ToBase64 {
    /// Base64, 44 characters.
    fn to_base64(&self) -> String;
}

impl ToBase64 for PublicKey {
    fn to_base64(&self) -> String {
        Base64::encode_string(&self.0)
    }
}

/// A private or preshared key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; KEY_LEN]);

impl Secret {
    /// From raw bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// From base64. The fault never quotes the text.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        decode(text)
            .map(Self)
            .ok_or_else(|| Fault::new("the text is not a key", HINT))
    }

    /// The raw bytes; the caller is a last door (the device, a derivation).
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Base64, for the file or the pipe the user asked for.
    pub fn expose_base64(&self) -> String {
        Base64::encode_string(&self.0)
    }

    /// All bytes zero: how WireGuard's tools write "no key".
    pub fn is_zero(&self) -> bool {
        self.0 == [0; KEY_LEN]
    }

    /// The public key of this private key: X25519 with the base point (RFC 7748 §6.1).
    pub fn public(&self) -> PublicKey {
        PrivateKey::new(self.0).public()
    }

    /// How a preshared key shows in canonical text: a keyed digest that tells equal from unequal and nothing else.
    pub fn fingerprint(&self) -> String {
        let mut text = String::from("blake2s:");
        // The key length is a constant within BLAKE2s's bounds, so the error can't happen; an empty digest would show.
        if let Ok(mac) =
            <blake2::Blake2sMac<U16> as Mac>::new_from_slice(b"meshd psk fingerprint v1")
        {
            text.push_str(&crate::digest::hex(
                &mac.chain_update(self.0).finalize().into_bytes(),
            ));
        }
        text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

fn decode(text: &str) -> Option<[u8; KEY_LEN]> {
    let mut bytes = [0; KEY_LEN];
    let len = Base64::decode(text, &mut bytes).ok()?.len();
    (len == KEY_LEN).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_of_rfc_7748() {
        // RFC 7748 §6.1, Alice.
        let private = Secret::parse("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        assert_eq!(
            private.public().to_base64(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
    }

    #[test]
    fn keys_that_are_none_are_refused_and_secrets_not_quoted() {
        for text in [
            "",
            "AAAA",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmoA",
            "!SDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ] {
            assert!(public_key(text).is_err(), "{text}");
            assert!(text.is_empty() || !Secret::parse(text).unwrap_err().what.contains(text));
        }
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "(hidden)");
    }
}
