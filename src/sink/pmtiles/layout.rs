//! The layout of PMTiles v3, written and parsed: the header (section 3) and directories (section 4). No other file depends on its details.

/// The length of the header (section 3).
pub(super) const HEADER_LENGTH: usize = 127;

/// Header and root directory lie in the first 16 KiB, which readers fetch at once (section 2).
pub(super) const ROOT_END: usize = 16_384;

/// The longest root directory, packed (section 4).
pub(super) const MAX_ROOT_BYTES: usize = ROOT_END - HEADER_LENGTH;

/// The first bytes of every archive (section 3.2); the version follows.
pub(super) const MAGIC: &[u8; 7] = b"PMTiles";

const VERSION: u8 = 3;

/// A range of the archive's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Section {
    /// The offset after its last byte; `None` if that is more than a `u64` holds.
    pub(super) const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// A compression (section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PmtilesCompression {
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

    pub(super) const fn name(self) -> &'static str {
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
pub(super) struct TileType(u8);

impl TileType {
    pub(super) const fn of(code: u8) -> TileType {
        TileType(code)
    }

    pub(super) const UNKNOWN: TileType = TileType(0);
    pub(super) const MVT: TileType = TileType(1);

    pub(super) const fn name(self) -> &'static str {
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
pub(super) struct Header {
    pub(super) root: Section,
    pub(super) metadata: Section,
    pub(super) leaves: Section,
    pub(super) tiles: Section,
    /// The number of tiles; 0 if it is unknown, as in the next two.
    pub(super) addressed: u64,
    /// The number of entries of tiles in all directories.
    pub(super) entries: u64,
    /// The number of different contents in the tile data.
    pub(super) contents: u64,
    pub(super) clustered: bool,
    /// The compression of directories and metadata.
    pub(super) internal: PmtilesCompression,
    /// The compression of tiles.
    pub(super) packing: PmtilesCompression,
    pub(super) tile_type: TileType,
    pub(super) min_zoom: u8,
    pub(super) max_zoom: u8,
    /// West, south, east, north in ten-millionths of a degree. Section 3.4 of one edition of the specification puts the latitude first; all
    /// writers and readers put the longitude first, as the first edition does.
    pub(super) bounds: [i32; 4],
    pub(super) center_zoom: u8,
    /// Longitude and latitude in ten-millionths of a degree.
    pub(super) center: [i32; 2],
}

/// Why bytes are not a header, or not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayoutError {
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
    pub(super) fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
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

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Header, LayoutError> {
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
pub(super) struct Entry {
    /// The (first) tile id.
    pub(super) id: u64,
    /// The offset from the beginning of the tile data, or of the leaf directories.
    pub(super) offset: u64,
    /// The length in bytes.
    pub(super) length: u32,
    /// The number of tile ids that have this content; 0 for a leaf directory.
    pub(super) run: u32,
}

/// Serializes a directory; it is not packed yet (section 4.2).
pub(super) fn directory_to_bytes(entries: &[Entry]) -> Vec<u8> {
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

/// Parses an unpacked directory (section 4.3). Makes sure that the ids of its entries ascend, runs do not overlap, and no sum overflows.
pub(super) fn directory_from_bytes(bytes: &[u8]) -> Result<Vec<Entry>, LayoutError> {
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

/// Reads bytes as varints.
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

#[cfg(test)]
mod tests;
