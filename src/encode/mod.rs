//! MVT bytes to stored bytes and back. Everything before the packer and behind the unpacker knows tiles as MVT; another
//! encoding is a [`TileFormat`] with its two conversions. Gzip (RFC 1952) has no name or time, so that equal tiles give
//! equal bytes.
//!
//! | file | what |
//! |---|---|
//! | `small` | Deflate for the smallest tiles (RFC 1951) |

#![warn(missing_docs, reason = "users of the library begin here")]

mod small;

use std::borrow::Cow;

use libdeflater::{CompressionError, CompressionLvl, Compressor, Crc, DecompressionError, Decompressor};
use small::{MAX_SMALL_TILE, SmallDeflate};

/// From a tile in some encoding to its MVT bytes.
pub type ToMvt = fn(Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, DecodeError>;

/// How tiles are encoded: the names by which targets, servers and clients know it, and the conversions from and to MVT.
#[derive(Debug, Clone, Copy)]
pub struct TileFormat {
    /// The media type of a tile.
    pub media_type: &'static str,
    /// Other media types under which clients accept the same tiles.
    pub other_media_types: &'static [&'static str],
    /// Its name in the metadata of `MBTiles`, and the extension of tiles' names.
    pub extension: &'static str,
    /// Another extension that clients use for tiles.
    pub other_extension: &'static str,
    /// Its number in `PMTiles` (v3, section 3.2, "Tile Type").
    pub pmtiles_type: u8,
    /// A tile in this encoding, from its MVT bytes: the same bytes for the same tile, which do not begin like gzip, and
    /// hardly more of them than of MVT.
    pub of_mvt: fn(&[u8]) -> Cow<'_, [u8]>,
    /// The MVT bytes of a tile in this encoding. Fails if the bytes are no such tile.
    pub to_mvt: ToMvt,
    /// True if `to_mvt` gives the very bytes that `of_mvt` was given. Tiles in other encodings are rendered in full where
    /// these would be patched.
    pub keeps_mvt: bool,
}

impl PartialEq for TileFormat {
    fn eq(&self, other: &TileFormat) -> bool {
        self.extension == other.extension
    }
}

impl Eq for TileFormat {}

/// The encoding of what a target holds if it does not say.
impl Default for TileFormat {
    fn default() -> TileFormat {
        TileFormat::MVT
    }
}

impl TileFormat {
    /// Mapbox Vector Tiles (MVT 2.1, section 3; registered with IANA).
    pub const MVT: TileFormat = TileFormat {
        media_type: "application/vnd.mapbox-vector-tile",
        other_media_types: &["application/x-protobuf"],
        extension: "pbf",
        other_extension: "mvt",
        pmtiles_type: 1,
        of_mvt: |mvt| Cow::Borrowed(mvt),
        to_mvt: |encoded| Ok(encoded),
        keeps_mvt: true,
    };

    /// All encodings that are written and read.
    pub const ALL: [TileFormat; 1] = [TileFormat::MVT];

    /// The encoding with a name in the metadata of `MBTiles`.
    pub fn named(name: &str) -> Option<TileFormat> {
        TileFormat::ALL.into_iter().find(|format| format.extension == name)
    }

    /// The encoding with a number in `PMTiles`.
    pub fn of_pmtiles(code: u8) -> Option<TileFormat> {
        TileFormat::ALL.into_iter().find(|format| format.pmtiles_type == code)
    }

    /// The encoding of tiles with a media type, in lower case; its parameters, such as `charset`, mean nothing.
    pub fn of_media_type(media_type: &str) -> Option<TileFormat> {
        let media_type = media_type.split(';').next().unwrap_or_default().trim_end();
        let has =
            |format: &TileFormat| format.media_type == media_type || format.other_media_types.contains(&media_type);
        TileFormat::ALL.into_iter().find(has)
    }

    /// The `encoding` of TileJSON, by which map clients choose how they read tiles; `None` for MVT, their default.
    pub fn tilejson_encoding(self) -> Option<&'static str> {
        (self != TileFormat::MVT).then_some(self.extension)
    }

    /// A tile in this encoding, drawn anew by what draws MVT.
    pub fn redrawn<E: From<DecodeError>>(
        self,
        encoded: &[u8],
        draw: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let drawn = draw(&(self.to_mvt)(Cow::Borrowed(encoded))?)?;
        Ok(if drawn.is_empty() { drawn } else { (self.of_mvt)(&drawn).into_owned() })
    }

    /// The name of a tile with the usual extension, if it ends in the other one.
    pub fn usual_name(name: &str) -> Option<(String, TileFormat)> {
        TileFormat::ALL.into_iter().find_map(|format| {
            let stem = name.strip_suffix(format.other_extension)?.strip_suffix('.')?;
            Some((format!("{stem}.{}", format.extension), format))
        })
    }
}

/// The name of gzip as a content coding (RFC 9110, section 8.4.1.3).
pub const GZIP: &str = "gzip";

/// True if a media type or a part of one, as a function's comment names it, stands for such tiles.
pub fn is_tile_type(kind: &str) -> bool {
    kind.contains(TileFormat::MVT.other_extension) || kind.contains("protobuf")
}

/// The version of how tiles are packed; it is part of the fingerprint of every target. Raise it with every change that
/// makes some tile pack to other bytes at some level, such as an update of libdeflate. Older targets then need a full
/// seed. Without a new version, they would be reported as up to date, or hold both kinds of bytes. A test compares the
/// bytes with those of this number.
pub const PACKING_VERSION: u32 = 2;

/// The compression level of gzip: 1 (fast) to 12 (small).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// The level for what is compressed once in a run, such as the directories of an archive.
    pub const ONCE: Level = Level(9);

    const FASTEST: Level = Level(1);

    /// A level, if it lies in 1..=12.
    pub fn new(level: u32) -> Option<Level> {
        i32::try_from(level).ok().filter(|level| (1..=12).contains(level)).map(Level)
    }
}

/// How tiles are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// How they are encoded.
    pub format: TileFormat,
    /// How the encoded bytes are compressed.
    pub compression: TileCompression,
}

/// How the bytes of tiles are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileCompression {
    /// As gzip.
    Gzip(Level),
    /// Not at all.
    None,
}

impl Packing {
    /// MVT, compressed in one way.
    pub fn mvt(compression: TileCompression) -> Packing {
        Packing { format: TileFormat::MVT, compression }
    }

    /// Its part of the text that the fingerprint is a hash of, in the form of the first version, which knew MVT only:
    /// renaming a type must not change it.
    pub fn definition(self) -> String {
        let format = if self.format == TileFormat::MVT { "" } else { self.format.extension };
        match self.compression {
            TileCompression::Gzip(Level(level)) => format!("{format}Gzip(Level({level}))"),
            TileCompression::None => format!("{format}Plain"),
        }
    }
}

/// Packs tiles, one after the other, all in the same way.
pub struct Packer {
    format: TileFormat,
    /// `None` if the encoded bytes are not compressed.
    gzip: Option<Gzip>,
}

impl Packer {
    /// A packer.
    pub fn new(packing: Packing) -> Packer {
        let gzip = match packing.compression {
            TileCompression::Gzip(level) => Some(Gzip::new(level)),
            TileCompression::None => None,
        };
        Packer { format: packing.format, gzip }
    }

    /// Packs one tile, given as MVT.
    /// Fails if the tile has more bytes than readers accept: [`MAX_UNPACKED_TILE`] before packing, [`MAX_STORED_TILE`]
    /// after.
    pub fn pack(&mut self, mvt: &[u8]) -> Result<Box<[u8]>, EncodeError> {
        if mvt.len() > MAX_UNPACKED_TILE {
            return Err(EncodeError::TooLarge { bytes: mvt.len(), limit: MAX_UNPACKED_TILE });
        }
        let encoded = (self.format.of_mvt)(mvt);
        let packed = match &mut self.gzip {
            Some(gzip) => gzip.pack(&encoded)?,
            None => encoded.into(),
        };
        if packed.len() > MAX_STORED_TILE {
            return Err(EncodeError::TooLarge { bytes: packed.len(), limit: MAX_STORED_TILE });
        }
        Ok(packed)
    }
}

/// Why a tile could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The tile is too large: no client could show it, and our own readers refuse it.
    #[error(
        "it has {bytes} bytes, and tiles have {limit} at most: draw the layer from a deeper zoom, or set on_large_tile = \"thin\""
    )]
    TooLarge {
        /// Its bytes, packed or not.
        bytes: usize,
        /// The limit that it breaks.
        limit: usize,
    },
    /// The compressor failed, which no input should cause.
    #[error("gzip gave up on a tile of {bytes} bytes: please report this")]
    Broken {
        /// Its bytes.
        bytes: usize,
        /// What the library said.
        source: CompressionError,
    },
}

/// A compressor that is reused for tile after tile: creating one costs more than packing a small tile.
///
/// It uses libdeflate, because a tile is packed as a whole. At the fastest level, this program's own encoder packs the
/// smallest tiles. The output of both does not depend on the processor. benches/RESULTS.md compares them with zlib-ng,
/// zlib-rs and ISA-L.
pub struct Gzip {
    compressor: Compressor,
    packed: Vec<u8>,
    small: Option<SmallGzip>,
}

/// Tiles of this many bytes or more begin with a buffer of half their size, not with the bound for bytes that cannot be
/// packed: MVT usually packs to less than half, and each worker keeps its buffer allocated.
const MIN_BYTES_FOR_HALF_BUFFER: usize = 1 << 20;

impl Gzip {
    /// A compressor of the given level.
    pub fn new(level: Level) -> Gzip {
        // Every `Level` is valid for the library, so its default is never used.
        let compression = CompressionLvl::new(level.0).unwrap_or_default();
        let small = (level == Level::FASTEST).then(SmallGzip::new);
        Gzip { compressor: Compressor::new(compression), packed: Vec::new(), small }
    }

    /// Packs one tile.
    /// Fails only if the compression library breaks its contract.
    pub fn pack(&mut self, raw: &[u8]) -> Result<Box<[u8]>, EncodeError> {
        if let Some(small) = self.small.as_mut().filter(|_| raw.len() <= MAX_SMALL_TILE) {
            return Ok(small.pack(raw).into());
        }
        let bound = self.compressor.gzip_compress_bound(raw.len());
        let room = if raw.len() < MIN_BYTES_FOR_HALF_BUFFER { bound } else { raw.len() / 2 };
        if self.packed.len() < room {
            self.packed.resize(room, 0);
        }
        let mut packed = self.compressor.gzip_compress(raw, &mut self.packed);
        if matches!(packed, Err(CompressionError::InsufficientSpace)) && self.packed.len() < bound {
            self.packed.resize(bound, 0);
            packed = self.compressor.gzip_compress(raw, &mut self.packed);
        }
        let packed = packed.map_err(|source| EncodeError::Broken { bytes: raw.len(), source })?;
        Ok(self.packed[..packed].into())
    }
}

/// Packs the smallest tiles.
struct SmallGzip {
    deflate: SmallDeflate,
    packed: Vec<u8>,
}

impl SmallGzip {
    /// The header that libdeflate writes at its fastest level: the magic number, deflate, no name and no time, fastest,
    /// of an unknown system (RFC 1952, section 2.3.1).
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

    fn new() -> SmallGzip {
        SmallGzip { deflate: SmallDeflate::new(), packed: Vec::new() }
    }

    fn pack(&mut self, raw: &[u8]) -> &[u8] {
        self.packed.clear();
        self.packed.extend(SmallGzip::HEADER);
        self.deflate.pack(raw, &mut self.packed);
        let mut crc = Crc::new();
        crc.update(raw);
        self.packed.extend(crc.sum().to_le_bytes());
        self.packed.extend(u32::try_from(raw.len()).unwrap_or_default().to_le_bytes());
        &self.packed
    }
}

/// The most bytes that `bytes` bytes become as gzip: bytes that cannot be compressed are stored in blocks, each with a
/// header.
pub const fn most_packed(bytes: u64) -> u64 {
    bytes + bytes / 500 + 64
}

/// Why stored bytes could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not gzip, are cut off, or were changed.
    #[error("its gzip is broken: {0}")]
    Broken(DecompressionError),
    /// The tile unpacks to more bytes than are accepted.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(usize),
}

/// The largest tile that is stored or read, in bytes as stored: far more than any client can show. It bounds the memory
/// that an archive from an unknown source can take.
pub const MAX_STORED_TILE: usize = 64 << 20;

/// The largest tile, in bytes when unpacked: a million points with five properties each have 100 MB.
pub const MAX_UNPACKED_TILE: usize = 256 << 20;

/// True if stored bytes start with the magic number of gzip (RFC 1952, section 2.3.1).
pub fn is_gzip(stored: &[u8]) -> bool {
    stored.starts_with(&[0x1f, 0x8b])
}

/// The size that a stored tile claims to have when unpacked, in bytes. Its gzip may be broken, or have other bytes
/// behind it: then it unpacks to another size, or not at all.
pub fn claimed_size(stored: &[u8]) -> usize {
    if !is_gzip(stored) {
        return stored.len();
    }
    // The last four bytes are the size (RFC 1952, section 2.3.1). Deflate packs at most 1032 to one.
    let claimed = stored.last_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    claimed.min(stored.len().saturating_mul(1_032))
}

/// Unpacks tiles, one after the other.
pub struct Gunzip(Decompressor);

impl Gunzip {
    /// An unpacker.
    pub fn new() -> Gunzip {
        Gunzip(Decompressor::new())
    }

    /// The bytes of a stored tile in its encoding. It may be compressed or not.
    /// Fails if its gzip is broken.
    pub fn unpack(&mut self, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.unpack_at_most(stored, MAX_UNPACKED_TILE)
    }

    /// The bytes of a stored tile in its encoding, if they are no more than `most`.
    /// Fails if its gzip is broken, or it unpacks to more.
    pub fn unpack_at_most(&mut self, stored: &[u8], most: usize) -> Result<Vec<u8>, DecodeError> {
        if !is_gzip(stored) {
            return Ok(stored.to_vec());
        }
        let mut raw = vec![0; claimed_size(stored).min(most)];
        loop {
            match self.0.gzip_decompress(stored, &mut raw) {
                Ok(size) => {
                    raw.truncate(size);
                    return Ok(raw);
                }
                Err(DecompressionError::InsufficientSpace) if raw.len() < most => {
                    raw.resize((raw.len() * 2).max(1 << 16).min(most), 0);
                }
                Err(DecompressionError::InsufficientSpace) => return Err(DecodeError::TooLarge(most)),
                Err(error) => return Err(DecodeError::Broken(error)),
            }
        }
    }
}

/// Unpacks tiles of one encoding into MVT, one after the other.
pub struct Unpacker {
    format: TileFormat,
    gunzip: Gunzip,
}

impl Unpacker {
    /// An unpacker of tiles in an encoding.
    pub fn new(format: TileFormat) -> Unpacker {
        Unpacker { format, gunzip: Gunzip::new() }
    }

    /// The MVT bytes of a stored tile, which may be compressed or not.
    /// Fails if its gzip is broken, or what it holds is no tile of the encoding.
    pub fn mvt(&mut self, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.mvt_of_at_most(stored, MAX_UNPACKED_TILE)
    }

    /// True if a stored tile is what is packed of `mvt`, whatever the compression. Without reading it back into MVT, which
    /// may give other bytes ([`TileFormat::keeps_mvt`]).
    pub fn holds(&mut self, stored: &[u8], mvt: &[u8]) -> bool {
        self.gunzip.unpack(stored).is_ok_and(|encoded| encoded == *(self.format.of_mvt)(mvt))
    }

    /// The MVT bytes of a stored tile that decompresses to no more than `most` bytes.
    /// Fails if it decompresses to more, too.
    pub fn mvt_of_at_most(&mut self, stored: &[u8], most: usize) -> Result<Vec<u8>, DecodeError> {
        let encoded = self.gunzip.unpack_at_most(stored, most)?;
        Ok((self.format.to_mvt)(Cow::Owned(encoded))?.into_owned())
    }
}

impl Default for Gunzip {
    fn default() -> Gunzip {
        Gunzip::new()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// The text as version 1 wrote it: every target contains the hash of this text.
    #[test]
    fn the_definition_of_a_packing_stays_as_it_was() {
        assert_eq!(Packing::mvt(TileCompression::Gzip(Level(6))).definition(), "Gzip(Level(6))");
        assert_eq!(Packing::mvt(TileCompression::None).definition(), "Plain");
    }

    /// What another encoding needs: a format with two conversions. The packer and the unpacker use them, under gzip and
    /// without, and the fingerprint tells it from MVT.
    #[test]
    fn another_encoding_is_a_format_with_two_conversions() {
        fn reversed(mvt: &[u8]) -> Cow<'_, [u8]> {
            mvt.iter().rev().copied().collect()
        }
        let format = TileFormat {
            extension: "rev",
            of_mvt: reversed,
            to_mvt: |encoded| Ok(Cow::Owned(reversed(&encoded).into_owned())),
            ..TileFormat::MVT
        };
        assert_eq!((format.tilejson_encoding(), TileFormat::MVT.tilejson_encoding()), (Some("rev"), None));
        let doubled = |mvt: &[u8]| Ok::<_, DecodeError>(mvt.repeat(2));
        assert_eq!(format.redrawn(b"elit", doubled).unwrap(), b"elitelit");
        for compression in [TileCompression::Gzip(Level(1)), TileCompression::None] {
            let packing = Packing { format, compression };
            let stored = Packer::new(packing).pack(b"a tile").unwrap();
            assert_eq!(Gunzip::new().unpack(&stored).unwrap(), b"elit a");
            assert_eq!(Unpacker::new(format).mvt(&stored).unwrap(), b"a tile");
            assert!(
                Unpacker::new(format).holds(&stored, b"a tile") && !Unpacker::new(format).holds(&stored, b"a tiles")
            );
            assert_ne!(packing.definition(), Packing::mvt(compression).definition());
        }
    }

    #[test]
    fn packed_tiles_unpack_to_themselves_and_are_reproducible() {
        let mut gzip = Gzip::new(Level::new(6).unwrap());
        let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for raw in [&b""[..], b"a", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaa", &noise] {
            let packed = gzip.pack(raw).unwrap();
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, raw);
            assert_eq!(Gunzip::new().unpack(&packed).unwrap(), raw);
            for end in 2..packed.len().min(200) {
                assert!(Gunzip::new().unpack(&packed[..end]).is_err(), "cut off at {end}");
            }
            assert_eq!(packed[4..8], [0; 4], "no time");
            assert_eq!(gzip.pack(raw).unwrap(), packed, "the same bytes again");
            assert_eq!(
                Gzip::new(Level::new(6).unwrap()).pack(raw).unwrap(),
                packed,
                "the same from a fresh compressor"
            );
        }
    }

    /// Each packing version, and the MD5 of the bytes that [`packed_by_all_levels`] returns with it.
    const PACKED: [(u32, &str); 2] = [(1, "f873d317a0a1a3bea12f14876e469116"), (2, "4f46a30e33e1acdeba701939e1c0da23")];

    /// Texts, repetitions and noise from 0 to 1.5 million bytes, packed at every level.
    fn packed_by_all_levels() -> Vec<u8> {
        let mut chance = 7_u64;
        let mut random = || {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chance >> 33
        };
        let names: String =
            (0..40_000).map(|_| format!("facility {} of {};", random() % 5_000, random() % 90)).collect();
        let noise: Vec<u8> = (0..70_000).map(|_| random().to_le_bytes()[0]).collect();
        let raw = [names.as_bytes(), &noise, &vec![7; 300_000], names.as_bytes()].concat();
        let mut packed = Vec::new();
        for level in 1..=12 {
            let mut gzip = Gzip::new(Level::new(level).unwrap());
            for bytes in [0, 1, 10, 300, 640, 641, 5_000, 70_000, raw.len()] {
                packed.extend(gzip.pack(&raw[..bytes]).unwrap());
            }
        }
        packed
    }

    #[test]
    fn packed_bytes_change_only_with_a_new_packing_version() {
        use md5::{Digest as _, Md5};
        let found = crate::hex::hex(Md5::digest(packed_by_all_levels()));
        assert!(PACKED.is_sorted_by(|one, next| one.0 < next.0), "each version has one line");
        assert_eq!(
            PACKED.last(),
            Some(&(PACKING_VERSION, found.as_str())),
            "tiles pack to other bytes than before: raise PACKING_VERSION, and add a line with the new number and hash"
        );
    }

    #[test]
    fn levels_are_1_to_12() {
        assert_eq!((Level::new(0), Level::new(13)), (None, None));
    }

    #[test]
    fn packing_never_makes_more_bytes_than_are_looked_at() {
        let mut chance = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chance.to_be_bytes()[0]
        })
        .take(300_000)
        .collect();
        for level in [1, 6, 12] {
            let mut packer = Packer::new(Packing::mvt(TileCompression::Gzip(Level::new(level).unwrap())));
            for bytes in [0, 1, 100, 9_999, 70_000, 300_000] {
                let found = packer.pack(&noise[..bytes]).unwrap().len() as u64;
                assert!(found <= most_packed(bytes as u64), "{bytes} bytes become {found}");
            }
        }
    }
}
