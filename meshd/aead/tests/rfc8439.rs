//! The vectors of RFC 8439 that the public API can express: those without additional data whose nonce starts with
//! zeros. The others, and Wycheproof's, are run below the API, in src/tests.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

use meshd_aead::{Key, TAG_LEN};

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hex") as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// The ciphertext as single packet, and as each of a batch that the counter is first of.
fn assert_seals(key: [u8; 32], counter: u64, plain: &[u8], ciphertext: &str) {
    let key = Key::new(&key);
    let mut buf = [plain, &[0; TAG_LEN]].concat();
    key.seal_in_place(counter, &mut buf);
    assert_eq!(buf[..plain.len()], hex(ciphertext));

    let mut run = [plain, &[0; TAG_LEN]].concat().repeat(16);
    key.seal_stride(counter, &mut run, buf.len(), 0);
    assert_eq!(run[..buf.len()], buf);
}

/// Appendix A.1, vector 2: block 1 of key and nonce zero. Sealed zeros are the key stream from block 1 on.
#[test]
fn sealed_zeros_are_the_key_stream() {
    let block = "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
        29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f";
    assert_seals([0; 32], 0, &[0; 64], block);
}

/// Section 2.4.2: nonce 00000000 0000004a00000000.
#[test]
fn the_cipher_example() {
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let ciphertext = "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357\
        1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
        5af90bbf74a35be6b40b8eedf2785e42874d";
    assert_seals(
        core::array::from_fn(|i| i as u8),
        0x4a00_0000,
        plain,
        ciphertext,
    );
}
