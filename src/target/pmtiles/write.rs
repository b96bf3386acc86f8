//! Writes the bytes of an archive from front to back, in bounded memory.
//!
//! ```text
//! 0        127              16,384
//! │ header │ root │ zeros … │ contents, each once │ leaf directories │ metadata │
//!   last     last             1. as tiles come      2. after all tiles  3.
//! ```

use std::fs::File;
use std::io;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use super::contents::KnownContents;
use super::layout::{
    Entry, HEADER_LENGTH, Header, MAX_ROOT_BYTES, PmtilesCompression, ROOT_END, Section, TileType, directory_to_bytes,
};
use crate::encode::{EncodeError, Gzip, Level};
use crate::stop::Stop;
use crate::target::scratch::{Record, Records, ScratchError};
use crate::target::{Metadata, ReadError};
use crate::tile::{LonLatBox, MapCenter, TileCoord, Zoom};

/// The offset of the tile data.
const TILES: u64 = ROOT_END as u64;

/// The most entries with which a root without leaf directories is tried: 16 KiB hold about 8,000 entries of different
/// tiles.
const MAX_ENTRIES_OF_A_ROOT: u64 = 65_536;

/// The fewest entries of a leaf directory, except the last: about 10 KB packed, which a client fetches in one request.
const MIN_ENTRIES_OF_A_LEAF: u64 = 4_096;

/// The approximate number of leaf directories that fit into a root.
const MAX_LEAVES_OF_A_ROOT: u64 = 3_500;

/// Why a part of an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Pack(#[from] EncodeError),
    #[error(transparent)]
    Old(#[from] ReadError),
    #[error("a stop was asked for")]
    Stopped,
    #[error("the tile has {0} bytes")]
    Size(usize),
}

impl Record for Entry {
    type Bytes = [u8; 24];

    fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&self.run.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; 24]) -> Entry {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Entry { id: long(0), offset: long(8), length: short(16), run: short(20) }
    }
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Body {
    file: BufWriter<File>,
    /// Bytes of tile data so far.
    length: u64,
    contents: KnownContents,
    /// Different contents stored.
    stored: u64,
    addressed: u64,
    /// The last entry, which the next tile may extend.
    last: Option<Entry>,
    /// The zoom of the last entry, and the first id of the next zoom.
    zoom: (Zoom, u64),
    entries: Records<Entry>,
    /// The shallowest and the deepest zoom of the tiles.
    zooms: Option<(u8, u8)>,
}

impl Body {
    /// Starts an archive in an empty file.
    pub(crate) fn begin(file: File) -> io::Result<Body> {
        let mut file = BufWriter::with_capacity(1 << 18, file);
        file.write_all(&[0; ROOT_END])?;
        Ok(Body {
            file,
            length: 0,
            contents: KnownContents::new(),
            stored: 0,
            addressed: 0,
            last: None,
            zoom: (Zoom::MAX, 0),
            entries: Records::new("the directory of tiles"),
            zooms: None,
        })
    }

    /// The length of the tile data so far, which is the offset of the next content.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Appends a tile. Tiles must come in the order of their ids.
    pub(crate) fn put(&mut self, tile: TileCoord, bytes: &[u8]) -> Result<(), WriteFault> {
        let length = match u32::try_from(bytes.len()) {
            Ok(length) if length > 0 => length,
            _ => return Err(WriteFault::Size(bytes.len())),
        };
        let (file, end) = (&self.file, self.length);
        let known = self.contents.place(bytes, end, |offset, length| stored(file, end, offset, length))?;
        let offset = if let Some(offset) = known {
            offset
        } else {
            let offset = self.length;
            self.append(bytes)?;
            self.count_content();
            offset
        };
        self.enter(Entry { id: tile.pmtiles_id(), offset, length, run: 1 })
    }

    /// Appends tile data whose entries are added separately.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), WriteFault> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub(crate) const fn count_content(&mut self) {
        self.stored += 1;
    }

    /// Appends the entry of tiles whose content was appended. Entries must come in the order of their ids.
    pub(crate) fn enter(&mut self, mut entry: Entry) -> Result<(), WriteFault> {
        loop {
            if entry.id >= self.zoom.1 {
                self.zoom = Zoom::of_pmtiles_id(entry.id);
                // A run must end with its zoom: readers take the zooms of an archive from the first ids of its entries.
                self.end_run()?;
            }
            let (zoom, end) = (self.zoom.0.get(), self.zoom.1);
            let run = u32::try_from(end - entry.id).unwrap_or(u32::MAX).min(entry.run);
            self.zooms = Some((self.zooms.map_or(zoom, |(least, _)| least), zoom));
            self.addressed += u64::from(run);
            self.enter_run(Entry { run, ..entry })?;
            if run == entry.run {
                return Ok(());
            }
            entry = Entry { id: end, run: entry.run - run, ..entry };
        }
    }

    fn enter_run(&mut self, entry: Entry) -> Result<(), WriteFault> {
        if let Some(last) = &mut self.last
            && last.id + u64::from(last.run) == entry.id
            && (last.offset, last.length) == (entry.offset, entry.length)
            && let Some(run) = last.run.checked_add(entry.run)
        {
            last.run = run;
            return Ok(());
        }
        self.end_run()?;
        self.last = Some(entry);
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), WriteFault> {
        match self.last.take() {
            Some(last) => Ok(self.entries.push(last)?),
            None => Ok(()),
        }
    }

    /// Writes leaf directories and metadata, then header and root.
    pub(crate) fn finish(mut self, metadata: &Metadata, stop: &Stop) -> Result<(), WriteFault> {
        self.end_run()?;
        let mut gzip = Gzip::new(Level::ONCE);
        let leaves = TILES + self.length;
        let (root, leaves_length) = self.directories(leaves, &mut gzip, stop)?;
        let described = gzip.pack(metadata.pmtiles().to_string().as_bytes())?;
        self.file.write_all(&described)?;
        let header = Header {
            root: Section { offset: HEADER_LENGTH as u64, length: root.len() as u64 },
            metadata: Section { offset: leaves + leaves_length, length: described.len() as u64 },
            // Without leaves the section is empty, but has an offset all the same: readers refuse an offset of 0.
            leaves: Section { offset: leaves, length: leaves_length },
            tiles: Section { offset: TILES, length: self.length },
            ..self.header(metadata)
        };
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.to_bytes())?;
        self.file.write_all(&root)?;
        // An earlier attempt with smaller leaf directories may have written more bytes.
        let end = leaves + leaves_length + described.len() as u64;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.set_len(end)?;
        if stop.asked().is_some() { Err(WriteFault::Stopped) } else { Ok(()) }
    }

    /// Writes the leaf directories, if any are needed; returns the packed root and the length of all leaves in bytes.
    fn directories(&mut self, begin: u64, gzip: &mut Gzip, stop: &Stop) -> Result<(Box<[u8]>, u64), WriteFault> {
        let count = self.entries.len();
        if count <= MAX_ENTRIES_OF_A_ROOT {
            let mut all = Vec::new();
            self.entries.chunks(1 << 16, |chunk| {
                all.extend_from_slice(chunk);
                Ok::<(), WriteFault>(())
            })?;
            let root = gzip.pack(&directory_to_bytes(&all))?;
            if root.len() <= MAX_ROOT_BYTES {
                return Ok((root, 0));
            }
        }
        let mut size = MIN_ENTRIES_OF_A_LEAF.max(count / MAX_LEAVES_OF_A_ROOT);
        loop {
            let (mut root, mut length) = (Vec::new(), 0);
            self.file.seek(SeekFrom::Start(begin))?;
            self.entries.chunks(size as usize, |leaf| {
                if stop.asked().is_some() {
                    return Err(WriteFault::Stopped);
                }
                let packed = gzip.pack(&directory_to_bytes(leaf))?;
                self.file.write_all(&packed)?;
                let packed = u32::try_from(packed.len()).map_err(|_too_large| WriteFault::Size(packed.len()))?;
                root.extend(leaf.first().map(|first| Entry { id: first.id, offset: length, length: packed, run: 0 }));
                length += u64::from(packed);
                Ok(())
            })?;
            let root = gzip.pack(&directory_to_bytes(&root))?;
            if root.len() <= MAX_ROOT_BYTES {
                return Ok((root, length));
            }
            size += size / 2;
        }
    }

    /// The header without its sections.
    fn header(&self, metadata: &Metadata) -> Header {
        let asked = (metadata.zooms.min().get(), metadata.zooms.max().get());
        // The zooms of the tiles, which may be fewer than those of the tileset: checks compare them with the entries.
        let (min_zoom, max_zoom) = self.zooms.unwrap_or(asked);
        let MapCenter { longitude, latitude, zoom } = metadata.center();
        let LonLatBox { west, south, east, north } = metadata.bounds;
        let ((west, east), (south, north)) = (wide(west, east, 180.0), wide(south, north, 90.0));
        Header {
            root: Section::default(),
            metadata: Section::default(),
            leaves: Section::default(),
            tiles: Section::default(),
            addressed: self.addressed,
            entries: self.entries.len(),
            contents: self.stored,
            clustered: true,
            internal: PmtilesCompression::Gzip,
            packing: PmtilesCompression::Gzip,
            tile_type: TileType::of_format(metadata.format),
            min_zoom,
            max_zoom,
            bounds: [west, south, east, north],
            center_zoom: zoom.clamp(min_zoom, max_zoom),
            center: [e7(longitude, 180.0), e7(latitude, 90.0)],
        }
    }
}

/// Reads back the content at `offset`, `length` bytes long. `end` is the length of the tile data that was written so
/// far.
fn stored(file: &BufWriter<File>, end: u64, offset: u64, length: u32) -> io::Result<Vec<u8>> {
    let (place, waiting) = (TILES + offset, file.buffer());
    let mut bytes = vec![0; length as usize];
    // A content is in the writer's buffer as a whole, or not at all.
    let waits = place.checked_sub(TILES + end - waiting.len() as u64).map(|from| &waiting[from as usize..]);
    match waits.and_then(|waits| waits.get(..bytes.len())) {
        Some(found) => bytes.copy_from_slice(found),
        None => file.get_ref().read_exact_at(&mut bytes, place)?,
    }
    Ok(bytes)
}

/// Ten-millionths of a degree (section 3.4).
fn e7(degrees: f64, most: f64) -> i32 {
    (degrees.clamp(-most, most) * 1e7).round() as i32
}

/// Two bounds, the second larger than the first: clients show nothing if the bounds have no area.
fn wide(low: f64, high: f64, most: f64) -> (i32, i32) {
    let (low, high, most) = (e7(low, most), e7(high, most), e7(most, most));
    match (low < high, high < most) {
        (true, _) => (low, high),
        (false, true) => (low, low + 1),
        (false, false) => (high - 1, high),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_from_its_bytes() {
        let entry = Entry { id: 7 << 40, offset: u64::MAX - 1, length: u32::MAX, run: 3 };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), entry);
    }

    #[test]
    fn bounds_always_have_an_area() {
        for (low, high, expected) in [
            (-8.5, 8.25, (-85_000_000, 82_500_000)),
            (7.0, 7.0, (70_000_000, 70_000_001)),
            (180.0, 180.0, (1_799_999_999, 1_800_000_000)),
            (-180.0, -180.0, (-1_800_000_000, -1_799_999_999)),
            (-181.0, 400.0, (-1_800_000_000, 1_800_000_000)),
        ] {
            assert_eq!(wide(low, high, 180.0), expected);
        }
    }
}
