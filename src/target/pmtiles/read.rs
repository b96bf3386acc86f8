//! The reader of PMTiles archives. For any content of an archive, each step ends and takes bounded memory.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ARCHIVE_KIND;
use super::layout::{
    Entry, Header, LayoutError, LocalFile, PmtilesCompression, ROOT_END, ReadAt, Section, TileType,
    directory_from_bytes,
};
use crate::encode::{Gunzip, MAX_STORED_TILE, is_gzip};
use crate::target::metadata::{DEAD_BYTES_KEY, MANIFEST_KEY};
use crate::target::read::{ReadAllowance, Total};
use crate::target::{DeadBytes, Described, ReadError, TileReader};
use crate::tile::{LonLatBox, MapCenter, Slice, TileCoord, TileId, Zoom};

/// The most bytes of a directory or of metadata, packed or unpacked. For comparison: a leaf of 4096 entries has 20 KB.
const MAX_SECTION_BYTES: usize = 16 << 20;

/// The most directories between header and tile, including the root; other readers stop at the same depth.
const MAX_DIRECTORY_DEPTH: usize = 4;

/// The most entries of leaf directories in the cache: 24 MB.
const MAX_CACHED_ENTRIES: usize = 1 << 20;

/// The most tiles that are listed: their ids take 1 GiB. A single entry can claim four thousand million tiles.
const MAX_LISTED_TILES: u64 = 1 << 26;

/// The number of tiles that an archive of any size may have. Each further tile needs [`MIN_BYTES_PER_TILE`] of the
/// archive. So an archive of 300 bytes that claims the whole world is refused; a real archive of the world, including
/// the seas, has 300 bytes for each tile.
const ALWAYS_LISTED_TILES: u64 = 1 << 20;
const MIN_BYTES_PER_TILE: u64 = 8;

/// Tiles that lie near each other are read together: requests have at most this many bytes and bridge gaps of at most
/// [`MAX_GAP_BYTES`].
const MAX_BYTES_PER_REQUEST: u64 = 8 << 20;
const MAX_GAP_BYTES: u64 = 4 << 10;

/// A leaf directory: its offset in the archive, and its entries.
type Leaf = (u64, Arc<[Entry]>);

/// The bytes of an archive that is part of the program.
struct InMemory {
    bytes: &'static [u8],
    place: &'static str,
}

impl ReadAt for InMemory {
    fn place(&self) -> &str {
        self.place
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = begin.checked_add(length).and_then(|end| self.bytes.get(begin..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| damaged(self, format!("it ends before byte {offset} + {length}")))
    }
}

/// A reader of a PMTiles v3 archive.
pub struct PmtilesReader {
    pub(crate) bytes: Box<dyn ReadAt>,
    pub(crate) header: Header,
    pub(crate) root: Arc<[Entry]>,
    gunzip: Gunzip,
    /// The cache, most recently used first.
    leaves: VecDeque<Leaf>,
    total: Total,
    /// How often tiles were read from `bytes`.
    pub(crate) reads: u64,
}

impl PmtilesReader {
    /// Opens a file.
    /// Fails if the file does not exist, is not a PMTiles v3 archive of vector tiles packed as gzip or not at all, or
    /// is truncated.
    pub fn open(path: &Path) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(LocalFile::open(path)?))
    }

    /// Opens an archive that is part of the program; `place` is what messages call it.
    /// Fails if the bytes are no PMTiles v3 archive of vector tiles packed as gzip or not at all.
    pub(crate) fn of_bytes(bytes: &'static [u8], place: &'static str) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(InMemory { bytes, place }))
    }

    /// Opens a local copy of the archive at `place`, which messages name.
    pub(crate) fn open_copy(path: &Path, place: String) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(LocalFile::open(path)?.called(place)))
    }

    /// Opens an archive behind any [`ReadAt`]; reads header and root at once.
    pub(crate) fn over(bytes: Box<dyn ReadAt>) -> Result<PmtilesReader, ReadError> {
        let front = bytes.read_at(0, bytes.length().min(ROOT_END as u64) as usize)?;
        let header = Header::from_bytes(&front).map_err(|error| match error {
            LayoutError::Magic | LayoutError::Version(_) => foreign(&*bytes, error.to_string()),
            _ => damaged(&*bytes, error.to_string()),
        })?;
        for (what, packing) in [("directories", header.internal), ("tiles", header.packing)] {
            if let PmtilesCompression::Other(_) = packing {
                let what = format!("its {what} are packed with {}; only gzip and none are read", packing.name());
                return Err(foreign(&*bytes, what));
            }
        }
        if header.tile_type != TileType::UNKNOWN && header.tile_type.format().is_none() {
            return Err(foreign(&*bytes, format!("its tiles are {}", header.tile_type.name())));
        }
        for (what, section) in sections(&header) {
            if section.end().is_none_or(|end| end > bytes.length()) {
                let (begin, length, there) = (section.offset, section.length, bytes.length());
                let what = format!("its {what} of {length} bytes begins at byte {begin}, but it ends at byte {there}");
                return Err(damaged(&*bytes, what));
            }
        }
        let (root, mut gunzip) = (header.root, Gunzip::new());
        let packed = match root.end().map(|end| front.get(root.offset as usize..end as usize)) {
            Some(Some(packed)) => packed.to_vec(),
            _ => section(&*bytes, root, "root directory")?,
        };
        let root = directory(&*bytes, &header, &mut gunzip, &packed, "root directory")?;
        let total = Total::of(bytes.length());
        Ok(PmtilesReader { bytes, header, root, gunzip, leaves: VecDeque::new(), total, reads: 0 })
    }

    /// The metadata, a JSON object.
    pub(crate) fn metadata(&mut self) -> Result<Map<String, Value>, ReadError> {
        let packed = section(&*self.bytes, self.header.metadata, "metadata")?;
        let json = unpacked(&*self.bytes, &self.header, &mut self.gunzip, &packed, "metadata")?;
        serde_json::from_slice(&json).map_err(|error| self.damaged(format!("its metadata is no JSON object: {error}")))
    }

    /// The most tiles that an archive of this size may have.
    pub(crate) fn max_tiles(&self) -> u64 {
        (ALWAYS_LISTED_TILES + self.bytes.length() / MIN_BYTES_PER_TILE).min(MAX_LISTED_TILES)
    }

    /// The error for an archive that claims more tiles than [`PmtilesReader::max_tiles`].
    pub(crate) fn too_many(&self) -> ReadError {
        let (most, length) = (self.max_tiles(), self.bytes.length());
        foreign(&*self.bytes, format!("it holds more than {most} tiles, the most that are read of {length} bytes"))
    }

    /// The leaf directory that an entry points to; `depth` is that of the entry's own directory, 1 for the root.
    pub(crate) fn leaf(&mut self, pointer: &Entry, depth: usize) -> Result<Arc<[Entry]>, ReadError> {
        if depth >= MAX_DIRECTORY_DEPTH {
            return Err(self.damaged(format!("its directories are nested more than {MAX_DIRECTORY_DEPTH} deep")));
        }
        let place = self.inside(self.header.leaves, pointer, "leaf directory")?;
        if let Some(at) = self.leaves.iter().position(|(kept, _)| *kept == place.offset)
            && let Some((kept, leaf)) = self.leaves.remove(at)
        {
            self.leaves.push_front((kept, Arc::clone(&leaf)));
            return Ok(leaf);
        }
        let what = format!("leaf directory at byte {}", place.offset);
        let packed = section(&*self.bytes, place, &what)?;
        let leaf = directory(&*self.bytes, &self.header, &mut self.gunzip, &packed, &what)?;
        if leaf.is_empty() {
            return Err(self.damaged(format!("its {what} is empty")));
        }
        self.leaves.push_front((place.offset, Arc::clone(&leaf)));
        while self.leaves.len() > 1
            && self.leaves.iter().map(|(_, leaf)| leaf.len()).sum::<usize>() > MAX_CACHED_ENTRIES
        {
            self.leaves.pop_back();
        }
        Ok(leaf)
    }

    /// The range of an entry's bytes in the archive, if they are within the section `whole`.
    pub(crate) fn inside(&self, whole: Section, entry: &Entry, what: &str) -> Result<Section, ReadError> {
        let length = u64::from(entry.length);
        match entry.offset.checked_add(length) {
            Some(end) if end <= whole.length => Ok(Section { offset: whole.offset + entry.offset, length }),
            _ => {
                let (id, offset, there) = (entry.id, entry.offset, whole.length);
                Err(self.damaged(format!(
                    "the {what} of tile id {id} is said to have {length} bytes at {offset} of a section of {there} bytes"
                )))
            }
        }
    }

    /// Fails if the tiles of an entry lie outside of the tile data, or beyond the zooms that this program supports.
    pub(crate) fn check_tiles(&self, entry: &Entry) -> Result<(), ReadError> {
        self.inside(self.header.tiles, entry, "tile")?;
        if entry.id + u64::from(entry.run) > Zoom::END_OF_PMTILES_IDS {
            return Err(self.too_deep(entry.id));
        }
        Ok(())
    }

    /// The entry of the tile `id`; `None` if the archive lacks it.
    pub(crate) fn entry_of(&mut self, id: u64) -> Result<Option<Entry>, ReadError> {
        let mut entries = Arc::clone(&self.root);
        for depth in 1..=MAX_DIRECTORY_DEPTH {
            let Some(at) = entries.partition_point(|entry| entry.id <= id).checked_sub(1) else { return Ok(None) };
            let entry = entries[at];
            if entry.run > 0 {
                return Ok(Some(entry).filter(|entry| id - entry.id < u64::from(entry.run)));
            }
            entries = self.leaf(&entry, depth)?;
        }
        Ok(None)
    }

    fn find(&mut self, id: u64) -> Result<Option<Section>, ReadError> {
        let Some(entry) = self.entry_of(id)? else { return Ok(None) };
        let tile = self.inside(self.header.tiles, &entry, "tile")?;
        if tile.length > MAX_STORED_TILE as u64 {
            let (id, length, most) = (entry.id, tile.length, MAX_STORED_TILE);
            let what = format!("the tile of tile id {id} has {length} bytes, more than the {most} that are read");
            return Err(self.damaged(what));
        }
        Ok(Some(tile))
    }

    /// The error for a tile id beyond the zooms that this program supports.
    pub(crate) fn too_deep(&self, id: u64) -> ReadError {
        foreign(&*self.bytes, format!("its tile id {id} lies beyond zoom {}", Zoom::MAX))
    }

    pub(crate) fn damaged(&self, what: String) -> ReadError {
        damaged(&*self.bytes, what)
    }
}

impl TileReader for PmtilesReader {
    fn keep_open(&mut self) -> Result<(), ReadError> {
        self.total = Total::unlimited();
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<String>, ReadError> {
        PmtilesReader::check(self)
    }

    fn describe(&mut self) -> Result<Described, ReadError> {
        let mut object = self.metadata()?;
        let mut text = |name: &str| match object.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            // Section 5 wants text, but a version that is written as a number is accepted, too.
            Some(other) => Some(other.to_string()),
        };
        let (name, description) = (text("name"), text("description"));
        let (attribution, version, manifest) = (text("attribution"), text("version"), text(MANIFEST_KEY));
        let generator = text("generator");
        let total = self.header.tiles.length;
        let dead = match object.remove(DEAD_BYTES_KEY).as_ref().map(Value::as_u64) {
            // A program that has put the tiles in order may have kept the count.
            _ if self.header.clustered => Some(0),
            None => None,
            Some(stated) => stated.filter(|stated| *stated <= total),
        };
        let vector_layers = match object.remove("vector_layers") {
            None => Vec::new(),
            Some(layers) => serde_json::from_value(layers)
                .map_err(|error| self.damaged(format!("the vector_layers of its metadata cannot be read: {error}")))?,
        };
        Ok(Described {
            name,
            format: self.header.tile_type.format().unwrap_or_default(),
            description,
            attribution,
            version,
            zooms: Some((self.header.min_zoom, self.header.max_zoom)),
            bounds: Some(LonLatBox::from_sides(self.header.bounds.map(|degrees| f64::from(degrees) / 1e7))),
            center: Some(MapCenter {
                longitude: f64::from(self.header.center[0]) / 1e7,
                latitude: f64::from(self.header.center[1]) / 1e7,
                zoom: self.header.center_zoom,
            }),
            vector_layers,
            generator,
            manifest,
            public_url: None,
            unfinished: Vec::new(),
            dead: dead.map(|bytes| DeadBytes { bytes, total }),
        })
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        let (mut tiles, stated) = (Vec::new(), self.header.addressed);
        self.walk(&mut |archive, entry| {
            let count = tiles.len() as u64 + u64::from(entry.run);
            if stated > 0 && count > stated {
                return Err(archive.damaged(format!("its header counts {stated} tiles, but its directories hold more")));
            }
            if count > MAX_LISTED_TILES {
                return Err(foreign(&*archive.bytes, format!("it holds more than {MAX_LISTED_TILES} tiles")));
            }
            if count > archive.max_tiles() {
                return Err(archive.too_many());
            }
            for id in entry.id..entry.id + u64::from(entry.run) {
                let tile = TileCoord::from_pmtiles_id(id).ok_or_else(|| archive.too_deep(id))?;
                tiles.push(tile.into());
            }
            Ok(())
        })?;
        if (tiles.len() as u64) < stated {
            let held = tiles.len();
            return Err(self.damaged(format!("its header counts {stated} tiles, but its directories hold {held}")));
        }
        Ok(tiles)
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        // In the order of the ids, so that each leaf directory is unpacked once.
        let mut wanted: Vec<(u64, usize)> = (tiles.iter().enumerate())
            .filter(|(_, tile)| tile.slice == Slice::Whole)
            .map(|(at, tile)| (tile.coord.pmtiles_id(), at))
            .collect();
        wanted.sort_unstable();
        let mut places = vec![None; tiles.len()];
        for (id, at) in wanted {
            places[at] = self.find(id)?;
        }
        let mut allowance = ReadAllowance::new();
        let length = |place: &Option<Section>| place.map_or(0, |place| place.length as usize);
        let given = places.iter().take_while(|place| allowance.take_bytes(length(place))).count();
        places.truncate(given);
        let mut found: Vec<(Section, usize)> =
            places.iter().enumerate().filter_map(|(at, place)| Some(((*place)?, at))).collect();
        found.sort_unstable_by_key(|(place, at)| (place.offset, *at));
        let mut read = vec![None; given];
        let mut rest = &found[..];
        while let Some((first, _)) = rest.first() {
            let (begin, mut end, mut count) = (first.offset, first.offset, 0);
            for (place, _) in rest {
                let next = end.max(place.offset + place.length);
                if count > 0 && (place.offset > end + MAX_GAP_BYTES || next - begin > MAX_BYTES_PER_REQUEST) {
                    break;
                }
                (end, count) = (next, count + 1);
            }
            let bytes = self.bytes.read_at(begin, (end - begin) as usize)?;
            self.reads += 1;
            for (place, at) in &rest[..count] {
                let from = (place.offset - begin) as usize;
                let tile = &bytes[from..from + place.length as usize];
                if !self.total.take(Some(tile)) {
                    return Err(self.damaged("its tiles add up to a hundred times its size".to_owned()));
                }
                read[*at] = Some(tile.into());
            }
            rest = &rest[count..];
        }
        Ok(read)
    }
}

/// The sections, with their names in messages.
pub(crate) const fn sections(header: &Header) -> [(&'static str, Section); 4] {
    [
        ("root directory", header.root),
        ("metadata", header.metadata),
        ("section of leaf directories", header.leaves),
        ("tile data", header.tiles),
    ]
}

fn section(bytes: &dyn ReadAt, section: Section, what: &str) -> Result<Vec<u8>, ReadError> {
    if section.length > MAX_SECTION_BYTES as u64 {
        let length = section.length;
        return Err(foreign(
            bytes,
            format!("its {what} has {length} bytes, more than the {MAX_SECTION_BYTES} that are read"),
        ));
    }
    bytes.read_at(section.offset, section.length as usize)
}

fn unpacked(
    bytes: &dyn ReadAt,
    header: &Header,
    gunzip: &mut Gunzip,
    packed: &[u8],
    what: &str,
) -> Result<Vec<u8>, ReadError> {
    match header.internal {
        PmtilesCompression::Gzip if is_gzip(packed) => gunzip
            .unpack_at_most(packed, MAX_SECTION_BYTES)
            .map_err(|error| damaged(bytes, format!("its {what} cannot be unpacked: {error}"))),
        PmtilesCompression::Gzip => Err(damaged(bytes, format!("its {what} is no gzip"))),
        PmtilesCompression::None | PmtilesCompression::Other(_) => Ok(packed.to_vec()),
    }
}

fn directory(
    bytes: &dyn ReadAt,
    header: &Header,
    gunzip: &mut Gunzip,
    packed: &[u8],
    what: &str,
) -> Result<Arc<[Entry]>, ReadError> {
    let raw = unpacked(bytes, header, gunzip, packed, what)?;
    match directory_from_bytes(&raw) {
        Ok(entries) => Ok(entries.into()),
        Err(error) => Err(damaged(bytes, format!("its {what} cannot be read: {error}"))),
    }
}

fn damaged(bytes: &dyn ReadAt, what: String) -> ReadError {
    ReadError::Damaged { place: bytes.place().to_owned(), what }
}

fn foreign(bytes: &dyn ReadAt, what: String) -> ReadError {
    ReadError::Foreign { place: bytes.place().to_owned(), kind: ARCHIVE_KIND, what }
}
