//! Hexadecimal digits: of hashes, and of random ids.

use sha2::{Digest as _, Sha256};

/// The bytes in hexadecimal digits, two lower-case digits a byte.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 hexadecimal digits of a hash of texts.
pub(crate) fn hash_of_texts(texts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text);
        hash.update([0]);
    }
    hex(&hash.finalize()[..16])
}

/// Random hexadecimal digits, 16 for each of `words`.
pub(crate) fn random_hex(words: usize) -> String {
    // The standard library seeds each state at random, from the system's source of randomness.
    let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    (0..words).map(|_| format!("{:016x}", random())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_two_digits_and_a_random_word_sixteen() {
        assert_eq!(hex([0, 1, 0xab, 0xff]), "0001abff");
        let ids = [random_hex(2), random_hex(2)];
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())));
        assert_ne!(ids[0], ids[1]);
    }
}
