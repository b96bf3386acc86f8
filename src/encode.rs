//! MVT bytes to stored bytes: gzip (RFC 1952) without name or time, so that equal tiles give equal bytes.

use flate2::{Compress, Compression, FlushCompress, Status};

/// How hard gzip tries: 1 (fast) to 9 (small).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(u32);

impl Level {
    /// A level, if it lies in 1..=9.
    #[must_use]
    pub const fn new(level: u32) -> Option<Level> {
        if level >= 1 && level <= 9 { Some(Level(level)) } else { None }
    }
}

/// The compressor failed. It does not on any input; this guards against a broken library.
#[derive(Debug, thiserror::Error)]
#[error("gzip gave up on a tile of {bytes} bytes: please report this")]
pub struct EncodeError {
    bytes: usize,
    #[source]
    source: Option<flate2::CompressError>,
}

/// A compressor that is used again for tile after tile: making one costs more than packing a small tile.
#[derive(Debug)]
pub struct Gzip {
    compress: Compress,
    packed: Vec<u8>,
}

/// Header bytes (RFC 1952, section 2.3): magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

impl Gzip {
    /// A compressor of the given level.
    #[must_use]
    pub fn new(level: Level) -> Gzip {
        Gzip { compress: Compress::new(Compression::new(level.0), false), packed: Vec::new() }
    }

    /// Packs one tile.
    ///
    /// # Errors
    /// Only if the compression library breaks its contract.
    pub fn pack(&mut self, raw: &[u8]) -> Result<Box<[u8]>, EncodeError> {
        self.compress.reset();
        self.packed.clear();
        self.packed.extend_from_slice(&HEADER);
        // Deflate's worst case is five bytes for each stored block of 16 kB, and a few for the ends.
        self.packed.reserve(raw.len() + raw.len() / 1_000 + 64);
        let status = self
            .compress
            .compress_vec(raw, &mut self.packed, FlushCompress::Finish)
            .map_err(|source| EncodeError { bytes: raw.len(), source: Some(source) })?;
        if status != Status::StreamEnd {
            return Err(EncodeError { bytes: raw.len(), source: None });
        }
        self.packed.extend_from_slice(&crc32fast::hash(raw).to_le_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "RFC 1952 stores the length modulo 2^32")]
        self.packed.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        Ok(self.packed.as_slice().into())
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
            assert_eq!(gzip.pack(raw).unwrap(), packed, "the same bytes again");
            assert_eq!(
                Gzip::new(Level::new(6).unwrap()).pack(raw).unwrap(),
                packed,
                "the same from a fresh compressor"
            );
        }
    }

    #[test]
    fn levels_are_1_to_9() {
        assert_eq!((Level::new(0), Level::new(10)), (None, None));
    }
}
