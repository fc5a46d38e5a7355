//! The vectors of RFC 8439 that our API can express.
//!
//! Its AEAD examples (2.8.2 and A.5) carry additional data and a nonce that doesn't start with zeros, so they
//! can't pass through [`Key`]; what fits is A.1's key stream (all-zero key, counters 0 and 1): a sealed text of
//! zeros is the key stream from block 1 on, and the Poly1305 key is block 0.

#![allow(clippy::expect_used)] // a test may stop at the first surprise

use meshd_aead::{Key, TAG_LEN};

/// RFC 8439, A.1, test vector 2: zero key, zero nonce, block 1.
const ZERO_KEY_BLOCK_1: &str = "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
     29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f";

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hex") as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

#[test]
fn sealed_zeros_are_the_key_stream_of_block_1() {
    let mut buf = vec![0; 64 + TAG_LEN];
    Key::new(&[0; 32]).seal_in_place(0, &mut buf);
    assert_eq!(buf[..64], hex(ZERO_KEY_BLOCK_1));
}
