//! The entries of a new archive: put together from runs, kept in a scratch file, and written as directories.

use std::fs::File;
use std::io;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};

use super::layout::{Entry, Header, MAX_ROOT_BYTES, PmtilesCompression, Section, TileType, directory_to_bytes};
use crate::encode::{EncodeError, Gzip};
use crate::stop::Stop;
use crate::target::disk_list::{Record, Records, ScratchError};
use crate::target::{Metadata, ReadError};
use crate::tile::{LonLatBox, MapCenter, Zoom};

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
    /// The scratch file with the changed tiles of an edit.
    #[error(transparent)]
    Kept(io::Error),
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

impl WriteFault {
    /// The fault, if it is one of the scratch file with the changed tiles.
    pub(crate) fn of_kept(self) -> WriteFault {
        match self {
            WriteFault::Io(source) => WriteFault::Kept(source),
            other => other,
        }
    }
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

/// The directories of an archive that is being written.
#[derive(Debug)]
pub(crate) struct Directories {
    addressed: u64,
    /// The last entry, which the next tile may extend.
    last: Option<Entry>,
    /// The zoom of the last entry, and the first id of the next zoom.
    zoom: (Zoom, u64),
    entries: Records<Entry>,
    /// The shallowest and the deepest zoom of the tiles.
    zooms: Option<(u8, u8)>,
}

/// Directories that were written.
pub(crate) struct WrittenDirectories {
    /// The root directory, packed.
    pub(crate) root: Box<[u8]>,
    /// The length of all leaf directories in bytes.
    pub(crate) leaves: u64,
}

impl Directories {
    pub(crate) const fn new() -> Directories {
        let entries = Records::new("the directory of tiles");
        Directories { addressed: 0, last: None, zoom: (Zoom::MAX, 0), entries, zooms: None }
    }

    /// Adds the entry of tiles. Entries must come in the order of their ids.
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

    /// Calls `visit` with each entry. No entry can be added to the last one afterwards.
    pub(crate) fn visit(&mut self, mut visit: impl FnMut(&Entry)) -> Result<(), WriteFault> {
        self.end_run()?;
        self.entries.chunks(1 << 12, |entries| {
            entries.iter().for_each(&mut visit);
            Ok(())
        })
    }

    /// Writes the leaf directories, if any are needed, from the byte `begin` of a file on. Bytes of an attempt that
    /// took more room may lie behind them.
    pub(crate) fn write(
        &mut self,
        file: &mut BufWriter<File>,
        begin: u64,
        gzip: &mut Gzip,
        stop: &Stop,
    ) -> Result<WrittenDirectories, WriteFault> {
        self.end_run()?;
        file.seek(SeekFrom::Start(begin))?;
        let count = self.entries.len();
        if count <= MAX_ENTRIES_OF_A_ROOT {
            let mut all = Vec::new();
            self.entries.chunks(1 << 16, |chunk| {
                all.extend_from_slice(chunk);
                Ok::<(), WriteFault>(())
            })?;
            let root = gzip.pack(&directory_to_bytes(&all))?;
            if root.len() <= MAX_ROOT_BYTES {
                return Ok(WrittenDirectories { root, leaves: 0 });
            }
        }
        let mut size = MIN_ENTRIES_OF_A_LEAF.max(count / MAX_LEAVES_OF_A_ROOT);
        loop {
            let (mut root, mut length) = (Vec::new(), 0);
            file.seek(SeekFrom::Start(begin))?;
            self.entries.chunks(size as usize, |leaf| {
                if stop.asked().is_some() {
                    return Err(WriteFault::Stopped);
                }
                let packed = gzip.pack(&directory_to_bytes(leaf))?;
                file.write_all(&packed)?;
                let packed = u32::try_from(packed.len()).map_err(|_too_large| WriteFault::Size(packed.len()))?;
                root.extend(leaf.first().map(|first| Entry { id: first.id, offset: length, length: packed, run: 0 }));
                length += u64::from(packed);
                Ok(())
            })?;
            let root = gzip.pack(&directory_to_bytes(&root))?;
            if root.len() <= MAX_ROOT_BYTES {
                return Ok(WrittenDirectories { root, leaves: length });
            }
            size += size / 2;
        }
    }

    /// The header, without the places of its sections. `contents` is the number of different tile contents.
    pub(crate) fn header(&self, contents: u64, metadata: &Metadata) -> Header {
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
            contents,
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
