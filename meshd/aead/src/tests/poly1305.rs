//! RFC 8439, A.3, vectors 5 to 11: sums at the edges of the modulus and of the limbs. The vectors before them are
//! zeros, or end in a part of a block, which the AEAD pads before Poly1305 sees it.

use super::hex;
use crate::poly1305::Poly1305;

fn tag(r: &str, s: &str, text: &str) -> Vec<u8> {
    let key = [hex(r), hex(s)].concat().try_into().expect("32 bytes");
    let mut mac = Poly1305::new(&key);
    mac.padded(&hex(text));
    mac.tag().to_vec()
}

const ZERO: &str = "00000000000000000000000000000000";
const ONES: &str = "ffffffffffffffffffffffffffffffff";
const ONE: &str = "01000000000000000000000000000000";
const TWO: &str = "02000000000000000000000000000000";

#[test]
fn a_result_between_the_modulus_and_2_to_the_130_is_reduced() {
    assert_eq!(
        tag(TWO, ZERO, ONES),
        hex("03000000000000000000000000000000")
    );
}

#[test]
fn adding_the_pad_wraps_at_2_to_the_128() {
    assert_eq!(tag(TWO, ONES, TWO), hex("03000000000000000000000000000000"));
}

#[test]
fn a_carry_passes_limbs_of_all_ones() {
    let text = format!("{ONES}f0ffffffffffffffffffffffffffffff11000000000000000000000000000000");
    assert_eq!(
        tag(ONE, ZERO, &text),
        hex("05000000000000000000000000000000")
    );
}

#[test]
fn exactly_the_modulus_is_zero() {
    let text = format!("{ONES}fbfefefefefefefefefefefefefefefe01010101010101010101010101010101");
    assert_eq!(tag(ONE, ZERO, &text), hex(ZERO));
}

#[test]
fn one_less_than_the_modulus_stays() {
    assert_eq!(
        tag(TWO, ZERO, "fdffffffffffffffffffffffffffffff"),
        hex("faffffffffffffffffffffffffffffff")
    );
}

#[test]
fn products_above_131_bits_are_folded() {
    let r = "01000000000000000400000000000000";
    let text = "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001000000\
        000000000000000000000000";
    assert_eq!(tag(r, ZERO, text), hex("14000000000000005500000000000000"));
    assert_eq!(
        tag(r, ZERO, &text[..96]),
        hex("13000000000000000000000000000000")
    );
}
