//! Known answers for the primitives, as this build has them: RFC 7748, RFC 7693, RFC 8439, the XChaCha draft, Python.

use super::*;
use crate::vectors::{unhex, Vectors};

fn array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().unwrap()
}

fn shared(private: &str, public: &str) -> Option<Vec<u8>> {
    dh(&PrivateKey::new(array(private)), &PublicKey(array(public))).map(|secret| secret.to_vec())
}

#[test]
fn x25519_of_rfc_7748_section_5_2() {
    for (scalar, point, result) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        assert_eq!(shared(scalar, point), Some(unhex(result)));
    }
}

#[test]
fn x25519_iterated_of_rfc_7748_section_5_2() {
    let mut scalar: [u8; 32] =
        array("0900000000000000000000000000000000000000000000000000000000000000");
    let mut point = scalar;
    for round in 1..=1000 {
        let result = dh(&PrivateKey::new(scalar), &PublicKey(point)).unwrap();
        (point, scalar) = (scalar, *result);
        if round == 1 {
            assert_eq!(
                scalar,
                array("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
            );
        }
    }
    assert_eq!(
        scalar,
        array("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")
    );
}

#[test]
fn a_public_key_is_the_product_with_the_base_point() {
    let vectors = Vectors::wireguard();
    for name in ["alice", "bob"] {
        let private = PrivateKey::new(vectors.array(&format!("{name}_private")));
        assert_eq!(private.public().0, vectors.array(&format!("{name}_public")));
        let mut base = [0; 32];
        base[0] = 9;
        assert_eq!(
            dh(&private, &PublicKey(base)).map(|secret| *secret),
            Some(private.public().0)
        );
    }
}

#[test]
fn points_of_small_order_are_refused() {
    // All u-coordinates of small order on Curve25519 (RFC 7748 section 6.1 asks for the check; the list is that of
    // cr.yp.to/ecdh.html).
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert_eq!(shared(&"42".repeat(32), point), None, "{point}");
    }
}

#[test]
fn blake2s_of_rfc_7693_appendix_b() {
    let expected = unhex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    assert_eq!(hash(&[b"abc"]).to_vec(), expected);
    assert_eq!(hash(&[b"a", b"", b"bc"]).to_vec(), expected);
}

#[test]
fn macs_and_kdfs_are_pythons() {
    let vectors = Vectors::wireguard();
    let key: [u8; 32] = vectors.array("mac_key");
    let data: &[u8] = b"some data";
    assert_eq!(mac(&key, &[data]), vectors.array("mac"));
    assert_eq!(*hmac(&key, &[data]), vectors.array("hmac"));
    assert_eq!(*kdf1(&key, data), vectors.array("kdf_1"));
    let (first, second) = kdf2(&key, data);
    assert_eq!(
        (*first, *second),
        (vectors.array("kdf_1"), vectors.array("kdf_2"))
    );
    let (first, second, third) = kdf3(&key, data);
    assert_eq!(
        (*first, *second, *third),
        (
            vectors.array("kdf_1"),
            vectors.array("kdf_2"),
            vectors.array("kdf_3")
        )
    );
}

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";

#[test]
fn chacha20poly1305_of_rfc_8439_section_2_8_2() {
    let key: [u8; 32] = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 12] = array("070000004041424344454647");
    let mut text = SUNSCREEN.to_vec();
    let tag = ChaCha20Poly1305::new(&key.into())
        .encrypt_in_place_detached(&nonce.into(), &unhex("50515253c0c1c2c3c4c5c6c7"), &mut text)
        .unwrap();
    assert_eq!(text[..16], unhex("d31a8d34648e60db7b86afbc53ef7ec2"));
    assert_eq!(tag.to_vec(), unhex("1ae10b594f09e26a7e902ecbd0600691"));
}

#[test]
fn xchacha20poly1305_of_the_draft_appendix_a_3_1() {
    // draft-irtf-cfrg-xchacha-03.
    let key: [u8; 32] = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 24] = array("404142434445464748494a4b4c4d4e4f5051525354555657");
    let mut text = SUNSCREEN.to_vec();
    let tag = XChaCha20Poly1305::new(&key.into())
        .encrypt_in_place_detached(&nonce.into(), &unhex("50515253c0c1c2c3c4c5c6c7"), &mut text)
        .unwrap();
    assert_eq!(text[..16], unhex("bd6d179d3e83d43b9576579493c0e939"));
    assert_eq!(tag.to_vec(), unhex("c0875924c1c7987947deafd8780acf49"));
}

#[test]
fn what_is_not_authentic_is_not_opened() {
    let (key, mut sealed, mut plain) = ([1; 32], [0; 20], [0; 4]);
    seal(&key, b"text", b"more", &mut sealed);
    assert_eq!(open(&key, &sealed, b"more", &mut plain), Ok(()));
    assert_eq!(&plain, b"text");
    for bit in 0..8 * sealed.len() {
        let mut changed = sealed;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key, &changed, b"more", &mut plain), Err(NotAuthentic));
        assert_eq!(plain, [0; 4], "nothing unauthentic is handed out");
    }
    assert_eq!(open(&key, &sealed, b"else", &mut plain), Err(NotAuthentic));
    assert_eq!(
        open(&[2; 32], &sealed, b"more", &mut plain),
        Err(NotAuthentic)
    );
    assert_eq!(
        open(&key, &sealed[..3], b"more", &mut plain),
        Err(NotAuthentic)
    );
}
