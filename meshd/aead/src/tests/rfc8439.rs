//! RFC 8439's AEAD examples, which have additional data (and 2.8.2 a salt), so they can't pass through the public API.

use super::{hex, Vector};

/// Section 2.8.2.
#[test]
fn the_example_of_the_construction() {
    let sealed = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
        1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
        3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691";
    let vector = Vector {
        key: (0x80..0xa0).collect(),
        nonce: hex("07000000 4041424344454647"),
        aad: hex("50515253c0c1c2c3c4c5c6c7"),
        plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it."
            .to_vec(),
        sealed: hex(sealed),
    };
    vector.assert_seals("2.8.2");
    vector.assert_opens(true, "2.8.2");
}

/// Appendix A.5.
#[test]
fn the_decryption_example() {
    let sealed = "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
        bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
        9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
        9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
        0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
        305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b eead9d67890cbb22392336fea1851f38";
    let vector = Vector {
        key: hex("1c9240a5eb55d38af333888604f6b5f0 473917c1402b80099dca5cbc207075c0"),
        nonce: hex("00000000 0102030405060708"),
        aad: hex("f33388860000000000004e91"),
        plain: "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
            or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference \
            material or to cite them other than as /“work in progress./”"
            .into(),
        sealed: hex(sealed),
    };
    vector.assert_opens(true, "A.5");
    vector.assert_seals("A.5");
}
