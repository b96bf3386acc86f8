//! The layout of PMTiles v3, written and parsed: the header (section 3) and directories (section 4). No other file
//! depends on its details.

use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::encode::TileFormat;
use crate::target::{ReadError, lock_file};

/// The length of the header (section 3).
pub(crate) const HEADER_LENGTH: usize = 127;

/// Header and root directory lie in the first 16 KiB, which readers fetch at once (section 2).
pub(crate) const ROOT_END: usize = 16_384;

/// The longest root directory, packed (section 4).
pub(crate) const MAX_ROOT_BYTES: usize = ROOT_END - HEADER_LENGTH;

/// The first bytes of every archive (section 3.2); the version follows.
pub(crate) const MAGIC: &[u8; 7] = b"PMTiles";

const VERSION: u8 = 3;

/// A range of the archive's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Section {
    /// The offset after its last byte; `None` if that is more than a `u64` holds.
    pub(crate) const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// A compression (section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PmtilesCompression {
    None,
    Gzip,
    Other(u8),
}

impl PmtilesCompression {
    const fn of(code: u8) -> PmtilesCompression {
        match code {
            1 => PmtilesCompression::None,
            2 => PmtilesCompression::Gzip,
            other => PmtilesCompression::Other(other),
        }
    }

    const fn code(self) -> u8 {
        match self {
            PmtilesCompression::None => 1,
            PmtilesCompression::Gzip => 2,
            PmtilesCompression::Other(code) => code,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            PmtilesCompression::None => "none",
            PmtilesCompression::Gzip => "gzip",
            PmtilesCompression::Other(3) => "brotli",
            PmtilesCompression::Other(4) => "zstd",
            PmtilesCompression::Other(_) => "an unknown compression",
        }
    }
}

/// The format of the tiles (section 3.2, "Tile Type").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileType(u8);

impl TileType {
    pub(crate) const fn of(code: u8) -> TileType {
        TileType(code)
    }

    pub(crate) const UNKNOWN: TileType = TileType(0);

    pub(crate) const fn of_format(format: TileFormat) -> TileType {
        TileType(format.pmtiles_type)
    }

    /// The encoding; `None` if it is unknown, or tiles of this kind are not read.
    pub(crate) fn format(self) -> Option<TileFormat> {
        TileFormat::of_pmtiles(self.0)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self.0 {
            0 => "unknown",
            1 => "MVT",
            2 => "PNG",
            3 => "JPEG",
            4 => "WebP",
            5 => "AVIF",
            _ => "of a later kind",
        }
    }
}

/// The header (section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) root: Section,
    pub(crate) metadata: Section,
    pub(crate) leaves: Section,
    pub(crate) tiles: Section,
    /// The number of tiles; 0 if it is unknown, as in the next two.
    pub(crate) addressed: u64,
    /// The number of entries of tiles in all directories.
    pub(crate) entries: u64,
    /// The number of different contents in the tile data.
    pub(crate) contents: u64,
    pub(crate) clustered: bool,
    /// The compression of directories and metadata.
    pub(crate) internal: PmtilesCompression,
    /// The compression of tiles.
    pub(crate) packing: PmtilesCompression,
    pub(crate) tile_type: TileType,
    pub(crate) min_zoom: u8,
    pub(crate) max_zoom: u8,
    /// West, south, east, north in ten-millionths of a degree. Section 3.4 of one edition of the specification puts the
    /// latitude first; all writers and readers put the longitude first, as the first edition does.
    pub(crate) bounds: [i32; 4],
    pub(crate) center_zoom: u8,
    /// Longitude and latitude in ten-millionths of a degree.
    pub(crate) center: [i32; 2],
}

/// Why bytes are not a header, or not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("it does not begin with \"PMTiles\"")]
    Magic,
    #[error("it is PMTiles version {0}; only version 3 is read")]
    Version(u8),
    #[error("its header is cut off: {0} of {HEADER_LENGTH} bytes are there")]
    ShortHeader(usize),
    #[error("it is cut off, or one of its numbers is too large")]
    Number,
    #[error("it counts {0} entries, more than its bytes can hold")]
    Count(u64),
    #[error("the tile ids of its entries do not ascend")]
    Order,
    #[error("the run of its entry for tile id {0} reaches into the next entry")]
    Overlap(u64),
    #[error("its entry for tile id {0} has no bytes")]
    Nothing(u64),
    #[error("its entry for tile id {0} lies nowhere")]
    Nowhere(u64),
}

impl Header {
    pub(crate) fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        for section in [self.root, self.metadata, self.leaves, self.tiles] {
            bytes.extend(section.offset.to_le_bytes());
            bytes.extend(section.length.to_le_bytes());
        }
        for count in [self.addressed, self.entries, self.contents] {
            bytes.extend(count.to_le_bytes());
        }
        let (internal, packing) = (self.internal.code(), self.packing.code());
        bytes.extend([u8::from(self.clustered), internal, packing, self.tile_type.0, self.min_zoom, self.max_zoom]);
        bytes.extend(self.bounds.iter().flat_map(|degrees| degrees.to_le_bytes()));
        bytes.push(self.center_zoom);
        bytes.extend(self.center.iter().flat_map(|degrees| degrees.to_le_bytes()));
        let mut header = [0; HEADER_LENGTH];
        header.copy_from_slice(&bytes);
        header
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Header, LayoutError> {
        if !bytes.starts_with(MAGIC) {
            return Err(LayoutError::Magic);
        }
        let header: &[u8; HEADER_LENGTH] = bytes.first_chunk().ok_or(LayoutError::ShortHeader(bytes.len()))?;
        if header[7] != VERSION {
            return Err(LayoutError::Version(header[7]));
        }
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
        let section = |at: usize| Section { offset: long(at), length: long(at + 8) };
        let degrees = |at: usize| i32::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
        Ok(Header {
            root: section(8),
            metadata: section(24),
            leaves: section(40),
            tiles: section(56),
            addressed: long(72),
            entries: long(80),
            contents: long(88),
            clustered: header[96] == 1,
            internal: PmtilesCompression::of(header[97]),
            packing: PmtilesCompression::of(header[98]),
            tile_type: TileType::of(header[99]),
            min_zoom: header[100],
            max_zoom: header[101],
            bounds: [degrees(102), degrees(106), degrees(110), degrees(114)],
            center_zoom: header[118],
            center: [degrees(119), degrees(123)],
        })
    }
}

/// One entry of a directory (section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The (first) tile id.
    pub(crate) id: u64,
    /// The offset from the beginning of the tile data, or of the leaf directories.
    pub(crate) offset: u64,
    /// The length in bytes.
    pub(crate) length: u32,
    /// The number of tile ids that have this content; 0 for a leaf directory.
    pub(crate) run: u32,
}

/// Serializes a directory; it is not packed yet (section 4.2).
pub(crate) fn directory_to_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10 + 6 * entries.len());
    put(&mut bytes, entries.len() as u64);
    let mut last = 0;
    for entry in entries {
        put(&mut bytes, entry.id.wrapping_sub(last));
        last = entry.id;
    }
    for entry in entries {
        put(&mut bytes, entry.run.into());
    }
    for entry in entries {
        put(&mut bytes, entry.length.into());
    }
    let mut contiguous = None;
    for entry in entries {
        put(&mut bytes, if contiguous == Some(entry.offset) { 0 } else { entry.offset + 1 });
        contiguous = Some(entry.offset + u64::from(entry.length));
    }
    bytes
}

/// Parses an unpacked directory (section 4.3). Makes sure that the ids of its entries ascend, runs do not overlap, and
/// no sum overflows.
pub(crate) fn directory_from_bytes(bytes: &[u8]) -> Result<Vec<Entry>, LayoutError> {
    let mut numbers = VarintReader(bytes);
    let count = numbers.next()?;
    // An entry has four numbers of a byte or more: a larger count would allocate memory for entries that do not exist.
    if count > numbers.0.len() as u64 / 4 {
        return Err(LayoutError::Count(count));
    }
    let mut entries = vec![Entry { id: 0, offset: 0, length: 0, run: 0 }; count as usize];
    let mut last: Option<u64> = None;
    for entry in &mut entries {
        let step = numbers.next()?;
        entry.id = last.map_or(Some(step), |last| last.checked_add(step)).ok_or(LayoutError::Number)?;
        if last == Some(entry.id) {
            return Err(LayoutError::Order);
        }
        last = Some(entry.id);
    }
    for entry in &mut entries {
        entry.run = numbers.short()?;
    }
    for entry in &mut entries {
        entry.length = numbers.short()?;
        if entry.length == 0 {
            return Err(LayoutError::Nothing(entry.id));
        }
    }
    let mut contiguous = None;
    for entry in &mut entries {
        let nowhere = LayoutError::Nowhere(entry.id);
        entry.offset = match numbers.next()? {
            0 => contiguous.ok_or(nowhere)?,
            offset => offset - 1,
        };
        contiguous = Some(entry.offset.checked_add(entry.length.into()).ok_or(nowhere)?);
    }
    let ends = entries.iter().skip(1).map(|next| next.id).chain([u64::MAX]);
    for (entry, end) in entries.iter().zip(ends) {
        if entry.id.checked_add(entry.run.into()).is_none_or(|id| id > end) {
            return Err(LayoutError::Overlap(entry.id));
        }
    }
    Ok(entries)
}

/// Appends a varint: seven bits a byte, the lowest first; all bytes except the last have the highest bit set.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

struct VarintReader<'a>(&'a [u8]);

impl VarintReader<'_> {
    fn next(&mut self) -> Result<u64, LayoutError> {
        let mut number = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if at == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(LayoutError::Number)
    }

    fn short(&mut self) -> Result<u32, LayoutError> {
        u32::try_from(self.next()?).map_err(|_beyond_the_specification| LayoutError::Number)
    }
}

// Random access to the bytes of an archive, in a file or elsewhere.

/// Random read access to bytes: those of a file, or of an object that is read by range requests.
pub(crate) trait ReadAt: Send {
    /// The path or URL, for messages.
    fn place(&self) -> &str;

    fn length(&self) -> u64;

    /// Reads `length` bytes from `offset` on. The caller has checked that they end within [`ReadAt::length`].
    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError>;

    /// The open file itself; `None` if the bytes are not those of a file.
    fn file(&self) -> Option<io::Result<File>> {
        None
    }
}

pub(crate) struct LocalFile {
    path: PathBuf,
    place: String,
    length: u64,
    file: Mutex<File>,
}

impl LocalFile {
    pub(crate) fn open(path: &Path) -> Result<LocalFile, ReadError> {
        let place = path.display().to_string();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::Missing { place: place.clone() },
            _ => ReadError::Io { path: path.to_owned(), source },
        };
        let file = match lock_file::open_named(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(ReadError::Foreign { place, kind: super::ARCHIVE_KIND, what: error.to_string() });
            }
            opened => opened.map_err(failed)?,
        };
        let length = file.metadata().map_err(failed)?.len();
        Ok(LocalFile { path: path.to_owned(), length, place, file: Mutex::new(file) })
    }

    /// Sets the path or URL that messages show: this file is a local copy of the archive there.
    pub(crate) fn called(self, place: String) -> LocalFile {
        LocalFile { place, ..self }
    }
}

impl ReadAt for LocalFile {
    fn place(&self) -> &str {
        &self.place
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        // A thread that panicked while it held the lock changed nothing except the file position, which is set again
        // here.
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| ReadError::Io { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    fn file(&self) -> Option<io::Result<File>> {
        Some(self.file.lock().try_clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(id: u64, offset: u64, length: u32, run: u32) -> Entry {
        Entry { id, offset, length, run }
    }

    #[test]
    fn numbers_are_those_of_protocol_buffers() {
        // 300 is the example of the encoding guide that section 4.2 refers to.
        for (number, bytes) in [
            (0, &[0][..]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut put_there = Vec::new();
            put(&mut put_there, number);
            assert_eq!((&*put_there, VarintReader(bytes).next()), (bytes, Ok(number)));
        }
        for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(VarintReader(bytes).next(), Err(LayoutError::Number), "{bytes:?}");
        }
        assert_eq!(VarintReader(&[0x80, 0x80, 0x80, 0x80, 0x10]).short(), Err(LayoutError::Number), "2^32");
    }

    #[test]
    fn a_directory_is_laid_out_as_the_specification_says() {
        // The tile ids are the example of section 4.2: 5, 42, 69 are stored as the differences 5, 37, 27.
        let entries = [entry(5, 1337, 42, 3), entry(42, 1379, 200, 1), entry(69, 0, 7, 0)];
        let bytes = [3, 5, 37, 27, 3, 1, 0, 42, 0xc8, 1, 7, 0xba, 0x0a, 0, 1];
        assert_eq!(directory_to_bytes(&entries), bytes);
        assert_eq!(directory_from_bytes(&bytes).unwrap(), entries);
        assert_eq!((directory_to_bytes(&[]), directory_from_bytes(&[0]).unwrap()), (vec![0], vec![]));
        for end in 0..bytes.len() {
            assert!(directory_from_bytes(&bytes[..end]).is_err(), "cut off at {end}");
        }
        let extremes = [entry(0, u64::MAX - 1 - u64::from(u32::MAX), u32::MAX, u32::MAX), entry(u64::MAX - 1, 9, 1, 1)];
        assert_eq!(directory_from_bytes(&directory_to_bytes(&extremes)).unwrap(), extremes);
    }

    #[test]
    fn a_directory_that_contradicts_itself_is_refused() {
        for (bytes, error) in [
            (&[0xff, 0xff, 0x7f, 1, 1, 1, 1][..], LayoutError::Count(0x1f_ffff)),
            (&[2, 5, 0, 1, 1, 1, 1, 1, 0], LayoutError::Order),
            (&[2, 5, 1, 2, 1, 1, 1, 1, 0], LayoutError::Overlap(5)),
            (&[1, 5, 1, 0, 1], LayoutError::Nothing(5)),
            (&[1, 5, 1, 1, 0], LayoutError::Nowhere(5)),
        ] {
            assert_eq!(directory_from_bytes(bytes), Err(error), "{bytes:?}");
        }
        let beyond = [1, 5, 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(directory_from_bytes(&beyond), Err(LayoutError::Nowhere(5)));
        let last = [entry(u64::MAX, 0, 1, 1)];
        assert_eq!(directory_from_bytes(&directory_to_bytes(&last)), Err(LayoutError::Overlap(u64::MAX)));
    }

    #[test]
    fn a_header_has_each_field_where_the_specification_puts_it() {
        let header = Header {
            root: Section { offset: 127, length: 0x0102 },
            metadata: Section { offset: 3, length: 4 },
            leaves: Section { offset: 5, length: 6 },
            tiles: Section { offset: 7, length: 0x0807_0605_0403_0201 },
            addressed: 9,
            entries: 10,
            contents: 11,
            clustered: true,
            internal: PmtilesCompression::Gzip,
            packing: PmtilesCompression::None,
            tile_type: TileType::of_format(TileFormat::MVT),
            min_zoom: 2,
            max_zoom: 14,
            bounds: [-1_800_000_000, -850_511_287, 1_800_000_000, 1],
            center_zoom: 3,
            center: [-2, 3],
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes).unwrap(), header);
        assert_eq!(&bytes[..18], b"PMTiles\x03\x7f\0\0\0\0\0\0\0\x02\x01");
        for (at, expected) in [(24, 3), (32, 4), (40, 5), (48, 6), (56, 7), (72, 9), (80, 10), (88, 11)] {
            assert_eq!(bytes[at..at + 8], [expected, 0, 0, 0, 0, 0, 0, 0], "{at}");
        }
        assert_eq!(bytes[64..72], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[96..102], [1, 2, 1, 1, 2, 14]);
        assert_eq!(bytes[102..106], (-1_800_000_000_i32).to_le_bytes(), "the longitude first");
        assert_eq!(bytes[118..], [3, 0xfe, 0xff, 0xff, 0xff, 3, 0, 0, 0]);
        assert_eq!(Header::from_bytes(&bytes[..126]), Err(LayoutError::ShortHeader(126)));
        assert_eq!(Header::from_bytes(b"SQLite format 3"), Err(LayoutError::Magic));
        let mut later = bytes;
        later[7] = 4;
        assert_eq!(Header::from_bytes(&later), Err(LayoutError::Version(4)));
    }
}
