//! The sorted run of a shard: its edits in the order of the target, each with its bytes. The last record contains the
//! number of records.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`], once |
//! | 1 | kind: 0 put, 1 remove, 2 keep without bytes, 3 keep with bytes, 4 added to the target by the shard, 255 the end |
//! | 1, 4, 4 | zoom, column, row; at the end 9 bytes of zeros |
//! | 2 | layer, or 65,535 for the whole tile; at the end zeros |
//! | 8 | length of the bytes that follow; at the end the number of records |
//!
//! The bytes of kind 4 are the MD5 of the tile's bytes (16) and their length (8).

use std::io::{BufWriter, Write as _};

use libdeflater::Crc;
use tempfile::NamedTempFile;

use super::ShardsError;
use crate::target::{
    Described, Finished, Metadata, Needs, Sink, TargetError, TileEdit, Tileset, VersionTiles, WorkFile, Written,
};
use crate::tile::{LayerId, Slice, TileCoord, TileId, Zoom};

/// The first bytes of a run.
const MAGIC: &[u8; 8] = b"oartrun1";

/// The length of a record without the bytes of the tile.
const RECORD: usize = 20;

const PUT: u8 = 0;
const REMOVE: u8 = 1;
const KEEP_NOTHING: u8 = 2;
const KEEP: u8 = 3;
const ADDED: u8 = 4;
const END: u8 = 255;

/// The layer number that stands for the whole tile.
const WHOLE: u16 = u16::MAX;

/// The most bytes of a tile in a run. No target stores so large a tile.
const MAX_TILE: u64 = 1 << 32;

/// The CRC-32 of a byte sequence that continues with `bytes`; `before` is the CRC-32 of the part before.
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    let mut checksum = Crc::with_initial(before);
    checksum.update(bytes);
    checksum.sum()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunRecord {
    /// An edit that the commit has to make.
    Edit(TileEdit),
    /// A tile that the shard has added to the target itself.
    Added(AddedTile),
}

/// A tile that a shard has added to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedTile {
    pub id: TileId,
    /// The MD5 of its bytes.
    pub(crate) digest: [u8; 16],
    /// The number of its bytes.
    pub(crate) length: u64,
}

impl RunRecord {
    #[must_use]
    pub const fn id(&self) -> TileId {
        match self {
            RunRecord::Edit(edit) => edit.id(),
            RunRecord::Added(added) => added.id,
        }
    }
}

#[derive(Debug)]
pub struct RunSink {
    needs: Needs,
    place: String,
    file: BufWriter<NamedTempFile>,
    checksum: u32,
    bytes: u64,
    edits: u64,
}

#[derive(Debug)]
pub struct FinishedRunFile {
    pub file: NamedTempFile,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its CRC-32, of the same kind as in gzip.
    pub(crate) crc32: u32,
    pub edits: u64,
}

impl RunSink {
    /// A run of edits in the order and form of `needs`. `place` names the run in messages.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn begin(file: NamedTempFile, needs: Needs, place: String) -> Result<RunSink, ShardsError> {
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut sink = RunSink { needs, place, file, checksum: 0, bytes: 0, edits: 0 };
        sink.append(MAGIC)?;
        Ok(sink)
    }

    /// The run's name, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ShardsError> {
        self.checksum = crc32(self.checksum, bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| ShardsError::Write { place: self.place.clone(), source })
    }

    fn record(&mut self, kind: u8, id: Option<TileId>, length: u64) -> Result<(), ShardsError> {
        let mut record = [0; RECORD];
        record[0] = kind;
        if let Some(TileId { coord, slice }) = id {
            record[1] = coord.zoom().get();
            record[2..6].copy_from_slice(&coord.x().to_le_bytes());
            record[6..10].copy_from_slice(&coord.y().to_le_bytes());
            let layer = match slice {
                Slice::Whole => WHOLE,
                Slice::Layer(LayerId(layer)) => layer,
            };
            record[10..12].copy_from_slice(&layer.to_le_bytes());
        }
        record[12..].copy_from_slice(&length.to_le_bytes());
        self.append(&record)
    }

    /// Records a tile that the shard has added to the target itself.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn added(&mut self, added: &AddedTile) -> Result<(), ShardsError> {
        self.record(ADDED, Some(added.id), 24)?;
        self.append(&added.digest)?;
        self.append(&added.length.to_le_bytes())?;
        self.edits += 1;
        Ok(())
    }

    /// Ends the run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end(mut self) -> Result<FinishedRunFile, ShardsError> {
        self.record(END, None, self.edits)?;
        let RunSink { place, file, checksum, bytes, edits, .. } = self;
        let file = file.into_inner().map_err(|error| ShardsError::Write { place, source: error.into_error() })?;
        Ok(FinishedRunFile { file, bytes, crc32: checksum, edits })
    }
}

impl Sink for RunSink {
    type Error = ShardsError;

    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&mut self, _tileset: &Tileset) -> Result<Option<Described>, ShardsError> {
        Ok(None)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, ShardsError> {
        let mut written = Written::default();
        for edit in edits {
            let (id, kind, bytes) = match &edit {
                TileEdit::Put(id, bytes) => (*id, PUT, &**bytes),
                TileEdit::Remove(id) => (*id, REMOVE, &[][..]),
                TileEdit::Keep(id, None) => (*id, KEEP_NOTHING, &[][..]),
                TileEdit::Keep(id, Some(bytes)) => (*id, KEEP, &**bytes),
            };
            self.record(kind, Some(id), bytes.len() as u64)?;
            self.append(bytes)?;
            self.edits += 1;
            match kind {
                REMOVE => written.removed += 1,
                KEEP_NOTHING => written.missing += 1,
                _ => (written.stored, written.added) = (written.stored + 1, written.added + 1),
            }
        }
        Ok(written)
    }

    fn finish(self, _metadata: &Metadata) -> Result<Finished, ShardsError> {
        let place = self.place.clone();
        self.end().map(|_run| Finished { place, ..Finished::default() })
    }
}

/// Reads a run from its beginning to its end.
#[derive(Debug)]
pub struct RunReader {
    file: WorkFile,
    place: String,
    /// The offset in the file of the bytes after `buffer`.
    offset: u64,
    buffer: Vec<u8>,
    /// How many bytes of `buffer` were already returned.
    given: usize,
    /// The number of bytes that are read at once.
    chunk: usize,
    checksum: u32,
    crc32: u32,
    read: u64,
    is_ended: bool,
}

impl RunReader {
    /// A reader of a run with this length and CRC-32. It reads `chunk` bytes at once.
    ///
    /// # Errors
    /// If the file is not such a run.
    pub fn begin(
        file: WorkFile,
        place: String,
        bytes: u64,
        crc32: u32,
        chunk: usize,
    ) -> Result<RunReader, ShardsError> {
        let found = file.length();
        let mut reader = RunReader {
            file,
            place,
            offset: 0,
            buffer: Vec::new(),
            given: 0,
            chunk,
            checksum: 0,
            crc32,
            read: 0,
            is_ended: false,
        };
        if found != bytes {
            return Err(reader.damaged(format!("it has {found} bytes, and {bytes} were written")));
        }
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(reader.damaged("it does not begin as a run does".to_owned()));
        }
        Ok(reader)
    }

    /// A reader of a run that this process has written.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_own(run: &FinishedRunFile, place: String) -> Result<RunReader, ShardsError> {
        let file = run.file.reopen();
        let file = file.map_err(|source| ShardsError::Write { place: place.clone(), source })?;
        let file = WorkFile::File { file, path: run.file.path().to_owned(), length: run.bytes };
        RunReader::begin(file, place, run.bytes, run.crc32, 1 << 18)
    }

    fn damaged(&self, what: String) -> ShardsError {
        ShardsError::Damaged { place: self.place.clone(), what }
    }

    /// The next bytes of the file.
    fn take(&mut self, length: usize) -> Result<&[u8], ShardsError> {
        if self.buffer.len() - self.given < length {
            self.buffer.drain(..self.given);
            self.given = 0;
            let wanted = (length - self.buffer.len()).max(self.chunk);
            let more = self.file.read_at(self.offset, wanted)?;
            self.checksum = crc32(self.checksum, &more);
            self.offset += more.len() as u64;
            self.buffer.extend_from_slice(&more);
            if self.buffer.len() < length {
                return Err(self.damaged("it breaks off".to_owned()));
            }
        }
        let from = self.given;
        self.given += length;
        Ok(&self.buffer[from..from + length])
    }

    /// The next record; `None` at the end, once the whole run was checked.
    ///
    /// # Errors
    /// If the run cannot be read, or is damaged.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results would go on after an error")]
    pub fn next(&mut self) -> Result<Option<RunRecord>, ShardsError> {
        if self.is_ended {
            return Ok(None);
        }
        let mut record = [0; RECORD];
        record.copy_from_slice(self.take(RECORD)?);
        let number =
            |from: usize| u32::from_le_bytes([record[from], record[from + 1], record[from + 2], record[from + 3]]);
        let length = u64::from(number(12)) | u64::from(number(16)) << 32;
        if record[0] == END {
            return self.ended(length).map(|()| None);
        }
        let coord = Zoom::new(record[1]).and_then(|zoom| TileCoord::new(zoom, number(2), number(6)));
        let coord = coord.ok_or_else(|| self.damaged("it names a tile that cannot be".to_owned()))?;
        let slice = match u16::from_le_bytes([record[10], record[11]]) {
            WHOLE => Slice::Whole,
            layer => Slice::Layer(LayerId(layer)),
        };
        let id = TileId { coord, slice };
        let length = usize::try_from(length.min(MAX_TILE)).unwrap_or(usize::MAX);
        let bytes: Box<[u8]> = self.take(length)?.into();
        self.read += 1;
        let edit = match record[0] {
            PUT => TileEdit::Put(id, bytes),
            REMOVE => TileEdit::Remove(id),
            KEEP_NOTHING => TileEdit::Keep(id, None),
            KEEP => TileEdit::Keep(id, Some(bytes)),
            ADDED => {
                let parts = bytes.split_first_chunk().map(|(digest, length)| (*digest, <[u8; 8]>::try_from(length)));
                let Some((digest, Ok(length))) = parts else {
                    return Err(self.damaged(format!("it has a record of kind {ADDED} of {} bytes", bytes.len())));
                };
                return Ok(Some(RunRecord::Added(AddedTile { id, digest, length: u64::from_le_bytes(length) })));
            }
            kind => return Err(self.damaged(format!("it has a record of kind {kind}"))),
        };
        Ok(Some(RunRecord::Edit(edit)))
    }

    /// Checks the whole run at its end.
    fn ended(&mut self, edits: u64) -> Result<(), ShardsError> {
        self.is_ended = true;
        if edits != self.read {
            return Err(self.damaged(format!("it has {} edits, and {edits} were written", self.read)));
        }
        if self.given != self.buffer.len() || self.offset != self.file.length() {
            return Err(self.damaged("bytes follow its end".to_owned()));
        }
        let found = self.checksum;
        if found != self.crc32 {
            return Err(self.damaged(format!("its CRC-32 is {found:08x}, and {:08x} was written", self.crc32)));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::target::{Needs, WorkFiles};
    use crate::tile::{LayerId, Order, Slice, TileCoord, Zoom};

    pub(crate) fn tile(zoom: u8, x: u32, y: u32) -> TileId {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap().into()
    }

    /// A reader of a run with `edits`, which it writes into `folder`.
    pub(crate) fn run(folder: &std::path::Path, name: &str, edits: Vec<TileEdit>) -> RunReader {
        let files = WorkFiles::Folder(folder.to_owned());
        let needs = Needs { order: Order::ZoomColumnTmsRow, layers_apart: false };
        let mut sink = RunSink::begin(files.begin("run").unwrap(), needs, name.to_owned()).unwrap();
        let count = edits.len() as u64;
        assert_eq!(sink.write(edits).unwrap().total(), count);
        let run = sink.end().unwrap();
        files.store(&format!("run/{name}"), run.file).unwrap();
        let file = files.open(&format!("run/{name}")).unwrap();
        RunReader::begin(file, name.to_owned(), run.bytes, run.crc32, 16).unwrap()
    }

    fn edits() -> Vec<TileEdit> {
        let layer = TileId { slice: Slice::Layer(LayerId(3)), ..tile(14, 9_000, 5_000) };
        vec![
            TileEdit::Put(tile(0, 0, 0), vec![1; 100].into()),
            TileEdit::Remove(tile(1, 0, 1)),
            TileEdit::Keep(tile(1, 1, 1), None),
            TileEdit::Keep(layer, Some([7, 8].into())),
            TileEdit::Put(tile(14, 16_383, 0), Box::default()),
        ]
    }

    #[test]
    fn a_run_gives_back_the_edits_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for edits in [Vec::new(), edits()] {
            let mut reader = run(folder.path(), "a", edits.clone());
            let read: Vec<RunRecord> = std::iter::from_fn(|| reader.next().unwrap()).collect();
            assert_eq!(read, edits.into_iter().map(RunRecord::Edit).collect::<Vec<_>>());
            assert_eq!(reader.next().unwrap(), None);
        }
    }

    #[test]
    fn a_tile_that_the_shard_has_added_comes_back_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = WorkFiles::Folder(folder.path().to_owned());
        let needs = Needs { order: Order::ZoomColumnTmsRow, layers_apart: false };
        let mut sink = RunSink::begin(files.begin("run").unwrap(), needs, "a".to_owned()).unwrap();
        let added = AddedTile { id: tile(3, 1, 2), digest: [7; 16], length: 1 << 33 };
        sink.added(&added).unwrap();
        let mut reader = RunReader::of_own(&sink.end().unwrap(), "a".to_owned()).unwrap();
        assert_eq!(reader.next().unwrap(), Some(RunRecord::Added(added)));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_run_of_which_a_byte_is_wrong_or_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/a");
        drop(run(folder.path(), "a", edits()));
        let whole = std::fs::read(&path).unwrap();
        let checksum = crc32(0, &whole);
        let read = |bytes: &[u8], length: u64| -> Result<usize, ShardsError> {
            std::fs::write(&path, bytes).unwrap();
            let file = WorkFiles::Folder(folder.path().to_owned()).open("run/a").unwrap();
            let mut reader = RunReader::begin(file, "a".to_owned(), length, checksum, 64)?;
            let mut count = 0;
            while reader.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(read(&whole, whole.len() as u64).unwrap(), 5);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            assert!(read(&damaged, whole.len() as u64).is_err(), "byte {place}");
            assert!(read(&whole[..place], whole.len() as u64).is_err(), "{place} bytes");
            assert!(read(&whole[..place], place as u64).is_err(), "{place} bytes, as noted");
        }
    }
}

// The output of a shard: its sorted run, and, for a new version of an S3 prefix, the tiles in that version.

#[derive(Debug)]
pub(crate) struct ShardSink {
    run: RunSink,
    /// The version to which the shard adds its tiles. Without one, the bytes of the tiles are in the run.
    tiles: Option<VersionTiles>,
}

#[derive(Debug)]
pub(crate) struct FinishedShard {
    pub run: FinishedRunFile,
    /// True if the target holds, for each tile that was added, the bytes that the run names. Otherwise an earlier
    /// attempt may have added some of these tiles, at its own snapshot.
    pub(crate) is_exact: bool,
}

impl ShardSink {
    pub(crate) const fn new(run: RunSink, tiles: Option<VersionTiles>) -> ShardSink {
        ShardSink { run, tiles }
    }

    /// Waits until every tile is stored, and ends the run. Fails if a tile could not be added, or the run cannot be
    /// written.
    pub(crate) fn end(self) -> Result<FinishedShard, ShardsError> {
        let found = match self.tiles {
            Some(mut tiles) => tiles.settle().map_err(TargetError::from)?,
            None => 0,
        };
        Ok(FinishedShard { run: self.run.end()?, is_exact: found == 0 })
    }
}

impl Sink for ShardSink {
    type Error = ShardsError;

    fn needs(&self) -> Needs {
        self.run.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, ShardsError> {
        Sink::begin(&mut self.run, tileset)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, ShardsError> {
        let Some(tiles) = &mut self.tiles else { return self.run.write(edits) };
        let mut written = Written::default();
        for edit in edits {
            // A tile in which a layer could not be rendered is left to the commit, because a later attempt may be able
            // to render all of it.
            let TileEdit::Put(id, bytes) = edit else {
                written += self.run.write(vec![edit])?;
                continue;
            };
            let length = bytes.len() as u64;
            let digest = tiles.add(id, bytes).map_err(TargetError::from)?;
            self.run.added(&AddedTile { id, digest, length })?;
            (written.stored, written.added) = (written.stored + 1, written.added + 1);
        }
        Ok(written)
    }

    fn finish(self, _metadata: &Metadata) -> Result<Finished, ShardsError> {
        let place = self.run.place().to_owned();
        self.end().map(|_shard| Finished { place, ..Finished::default() })
    }
}
