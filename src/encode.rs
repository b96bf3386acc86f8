//! MVT bytes to stored bytes: gzip (RFC 1952) without name or time, so that equal tiles give equal bytes.

use libdeflater::{CompressionError, CompressionLvl, Compressor};

/// How hard gzip tries: 1 (fast) to 12 (small).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// A level, if it lies in 1..=12.
    #[must_use]
    pub fn new(level: u32) -> Option<Level> {
        i32::try_from(level).ok().filter(|level| (1..=12).contains(level)).map(Level)
    }
}

/// The compressor failed. It does not on any input; this guards against a broken library.
#[derive(Debug, thiserror::Error)]
#[error("gzip gave up on a tile of {bytes} bytes: please report this")]
pub struct EncodeError {
    bytes: usize,
    source: CompressionError,
}

/// A compressor that is used again for tile after tile: making one costs more than packing a small tile.
///
/// libdeflate, because a tile is packed whole: on 195,585 tiles of facilities (158 MB) its level 1 took 2.0 s for 76.0 MB,
/// zlib-ng 1.1 s for 84.7 MB at level 1 and 3.6 s for 76.9 MB at level 2. Its output does not depend on the processor.
pub struct Gzip {
    compressor: Compressor,
    packed: Vec<u8>,
}

impl Gzip {
    /// A compressor of the given level.
    #[must_use]
    pub fn new(level: Level) -> Gzip {
        // Every `Level` is one of the library's; its default would stand in for one that is not.
        let level = CompressionLvl::new(level.0).unwrap_or_default();
        Gzip { compressor: Compressor::new(level), packed: Vec::new() }
    }

    /// Packs one tile.
    ///
    /// # Errors
    /// Only if the compression library breaks its contract.
    pub fn pack(&mut self, raw: &[u8]) -> Result<Box<[u8]>, EncodeError> {
        let bound = self.compressor.gzip_compress_bound(raw.len());
        if self.packed.len() < bound {
            self.packed.resize(bound, 0);
        }
        let packed = self
            .compressor
            .gzip_compress(raw, &mut self.packed)
            .map_err(|source| EncodeError { bytes: raw.len(), source })?;
        Ok(self.packed[..packed].into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn packed_tiles_unpack_to_themselves_and_are_reproducible() {
        let mut gzip = Gzip::new(Level::new(6).unwrap());
        let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for raw in [&b""[..], b"a", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaa", &noise] {
            let packed = gzip.pack(raw).unwrap();
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, raw);
            assert_eq!(packed[4..8], [0; 4], "no time");
            assert_eq!(gzip.pack(raw).unwrap(), packed, "the same bytes again");
            assert_eq!(
                Gzip::new(Level::new(6).unwrap()).pack(raw).unwrap(),
                packed,
                "the same from a fresh compressor"
            );
        }
    }

    #[test]
    fn levels_are_1_to_12() {
        assert_eq!((Level::new(0), Level::new(13)), (None, None));
    }
}
