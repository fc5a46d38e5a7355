//! Reads the known answers in tests/vectors: lines of `name = hex`.

use std::collections::BTreeMap;

pub(crate) struct Vectors(BTreeMap<String, Vec<u8>>);

impl Vectors {
    /// What noiseprotocol, libsodium and Python's hashlib say.
    pub fn wireguard() -> Self {
        Self::read(include_str!("../tests/vectors/wireguard.txt"))
    }

    /// What cacophony says.
    pub fn cacophony() -> Self {
        Self::read(include_str!("../tests/vectors/cacophony.txt"))
    }

    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let entries = lines.map(|line| {
            let (name, value) = line.split_once(" = ").unwrap();
            (name.to_owned(), unhex(value))
        });
        Self(entries.collect())
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("no vector {name}"))
    }

    pub fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }
}

/// Hexadecimal, blanks ignored.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
    digits
        .chunks(2)
        .map(|pair| value(pair[0]) << 4 | value(pair[1]))
        .collect()
}
