//! A fast hasher for codes of cells.

use std::hash::Hasher;

/// Mixes the codes of cells, which differ in few bits, by one multiplication (Knuth, The Art of Computer Programming, section 6.4). The codes come
/// from positions, so the hasher need not resist maliciously chosen keys.
#[derive(Debug, Default)]
pub(super) struct CodeHasher(u64);

impl Hasher for CodeHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, code: i64) {
        self.write_u64(code.cast_unsigned());
    }

    fn write_u64(&mut self, code: u64) {
        self.0 = (self.0 ^ code).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
