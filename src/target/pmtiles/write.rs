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
use super::directories::{Directories, WriteFault, WrittenDirectories};
use super::layout::{Entry, HEADER_LENGTH, Header, ROOT_END, Section};
use crate::encode::{Gzip, Level};
use crate::stop::Stop;
use crate::target::Metadata;

/// The offset of the tile data.
pub(crate) const TILES: u64 = ROOT_END as u64;

/// Tile data that is being written, each content once.
#[derive(Debug)]
pub(crate) struct TileData {
    file: BufWriter<File>,
    /// Where it begins in the file.
    begin: u64,
    /// Its bytes so far.
    length: u64,
    contents: KnownContents,
    /// Different contents stored.
    stored: u64,
}

impl TileData {
    /// Begins at the byte `begin` of an empty file.
    pub(crate) fn begin(file: File, begin: u64) -> io::Result<TileData> {
        let mut file = BufWriter::with_capacity(1 << 18, file);
        file.write_all(&vec![0; begin as usize])?;
        Ok(TileData { file, begin, length: 0, contents: KnownContents::new(), stored: 0 })
    }

    /// The bytes so far, which is the offset of the next content.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// The number of different contents.
    pub(crate) const fn stored(&self) -> u64 {
        self.stored
    }

    /// Appends the content of the tile `id`, unless it was appended before; returns the tile's entry.
    pub(crate) fn put(&mut self, id: u64, bytes: &[u8]) -> Result<Entry, WriteFault> {
        let length = match u32::try_from(bytes.len()) {
            Ok(length) if length > 0 => length,
            _ => return Err(WriteFault::Size(bytes.len())),
        };
        let TileData { file, begin, length: end, contents, .. } = self;
        let known = contents.place(bytes, *end, |offset, length| stored(file, *begin, *end, offset, length))?;
        let offset = if let Some(offset) = known {
            offset
        } else {
            let offset = self.length;
            self.append(bytes)?;
            self.count_content();
            offset
        };
        Ok(Entry { id, offset, length, run: 1 })
    }

    /// Appends contents whose entries are added separately.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), WriteFault> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub(crate) const fn count_content(&mut self) {
        self.stored += 1;
    }

    /// Frees the memory in which contents are remembered: none is going to be put any more.
    pub(crate) fn end_puts(&mut self) {
        self.contents = KnownContents::new();
    }

    /// Reads back a content.
    pub(crate) fn read(&self, entry: &Entry) -> io::Result<Vec<u8>> {
        stored(&self.file, self.begin, self.length, entry.offset, entry.length)
    }

    /// Writes directories and metadata behind the contents, and ends the file there.
    pub(crate) fn end(
        &mut self,
        directories: &mut Directories,
        metadata: &serde_json::Value,
        stop: &Stop,
    ) -> Result<WrittenEnd, WriteFault> {
        // Directories are packed alike by seeds and edits, whatever the level of tiles. An edit writes all of them
        // anew: at level 12 they would be 3 to 4 % smaller, and take about 2 s instead of 0.4 for 1,500,000 entries
        // (libdeflate).
        let mut gzip = Gzip::new(Level::ONCE);
        let begin = self.begin + self.length;
        let WrittenDirectories { root, leaves } = directories.write(&mut self.file, begin, &mut gzip, stop)?;
        let metadata = gzip.pack(metadata.to_string().as_bytes())?;
        self.file.write_all(&metadata)?;
        self.file.flush()?;
        let end = begin + leaves + metadata.len() as u64;
        // An earlier attempt with smaller leaf directories may have written more bytes.
        self.file.get_ref().set_len(end)?;
        Ok(WrittenEnd { root, leaves, metadata: metadata.len() as u64 })
    }

    /// The file, for reading.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.get_ref().try_clone()
    }
}

/// What lies behind the tile data, and the root directory, which does not.
pub(crate) struct WrittenEnd {
    /// The root directory, packed.
    root: Box<[u8]>,
    /// The length of the leaf directories, which lie behind the tile data, in bytes.
    leaves: u64,
    /// The length of the metadata, which lies behind them.
    metadata: u64,
}

impl WrittenEnd {
    /// How many bytes lie behind the tile data.
    pub(crate) const fn length(&self) -> u64 {
        self.leaves + self.metadata
    }

    /// Header and root directory of an archive whose tile data has `tiles` bytes. `header` has no sections yet.
    pub(crate) fn front(&self, header: &Header, tiles: u64) -> Vec<u8> {
        let leaves = TILES + tiles;
        let header = Header {
            root: Section { offset: HEADER_LENGTH as u64, length: self.root.len() as u64 },
            metadata: Section { offset: leaves + self.leaves, length: self.metadata },
            // Without leaves the section is empty, but has an offset all the same: readers refuse an offset of 0.
            leaves: Section { offset: leaves, length: self.leaves },
            tiles: Section { offset: TILES, length: tiles },
            ..header.clone()
        };
        [&header.to_bytes(), &*self.root].concat()
    }
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) data: TileData,
    pub(crate) directories: Directories,
}

impl Body {
    /// Starts an archive in an empty file.
    pub(crate) fn begin(file: File) -> io::Result<Body> {
        Ok(Body { data: TileData::begin(file, TILES)?, directories: Directories::new() })
    }

    /// Appends a tile. Tiles must come in the order of their ids.
    pub(crate) fn put(&mut self, id: u64, bytes: &[u8]) -> Result<(), WriteFault> {
        let entry = self.data.put(id, bytes)?;
        self.directories.enter(entry)
    }

    /// Writes leaf directories and metadata, then header and root.
    pub(crate) fn finish(mut self, metadata: &Metadata, stop: &Stop) -> Result<(), WriteFault> {
        let end = self.data.end(&mut self.directories, &metadata.pmtiles(None), stop)?;
        let header = self.directories.header(self.data.stored, metadata);
        let mut file = self.data.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&end.front(&header, self.data.length))?;
        file.flush()?;
        if stop.asked().is_some() { Err(WriteFault::Stopped) } else { Ok(()) }
    }

    /// The file, without what was not written to it yet: it is going to be written in another way.
    pub(crate) fn give_up(self) -> File {
        self.data.file.into_parts().0
    }
}

/// Reads back the content at `offset`, `length` bytes long. `begin` is the offset of the tile data in the file, `end`
/// the length of the tile data that was written so far.
fn stored(file: &BufWriter<File>, begin: u64, end: u64, offset: u64, length: u32) -> io::Result<Vec<u8>> {
    let (place, waiting) = (begin + offset, file.buffer());
    let mut bytes = vec![0; length as usize];
    // A content is in the writer's buffer as a whole, or not at all.
    let waits = place.checked_sub(begin + end - waiting.len() as u64).map(|from| &waiting[from as usize..]);
    match waits.and_then(|waits| waits.get(..bytes.len())) {
        Some(found) => bytes.copy_from_slice(found),
        None => file.get_ref().read_exact_at(&mut bytes, place)?,
    }
    Ok(bytes)
}
