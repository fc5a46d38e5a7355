//! Wycheproof's vectors: 316 messages, the wrong tags among them. None of them fits WireGuard's use (all have
//! nonces without leading zeros or additional data), so they test the lanes below the public API.

use super::{hex, Vector};

#[test]
fn all_vectors() {
    let mut counts = [0, 0];
    for line in include_str!("wycheproof.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, result, key, nonce, aad, plain, text, tag] = fields[..] else {
            panic!("{line}")
        };
        let sealed = [hex(text), hex(tag)].concat();
        let vector = Vector {
            key: hex(key),
            nonce: hex(nonce),
            aad: hex(aad),
            plain: hex(plain),
            sealed,
        };
        let valid = result == "valid";
        if valid {
            vector.assert_seals(id);
        }
        vector.assert_opens(valid, id);
        counts[usize::from(valid)] += 1;
    }
    assert_eq!(counts, [60, 256]);
}
