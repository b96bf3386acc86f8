//! Writes the run of a shard.

use std::io::{BufWriter, Write as _};

use tempfile::NamedTempFile;

use super::super::ShardsError;
use super::{ADDED, AddedTile, END, KEEP, KEEP_NOTHING, MAGIC, PUT, RECORD, REMOVE, WHOLE, crc32};
use crate::sink::{Described, Finished, Metadata, Needs, Sink, TileEdit, Tileset, Written};
use crate::tile::{LayerId, Slice, TileId};

/// A sink that writes a run.
#[derive(Debug)]
pub struct RunSink {
    needs: Needs,
    place: String,
    file: BufWriter<NamedTempFile>,
    checksum: u32,
    bytes: u64,
    edits: u64,
}

/// A run that was written.
#[derive(Debug)]
pub struct FinishedRun {
    /// The file.
    pub file: NamedTempFile,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its CRC-32, of the same kind as in gzip.
    pub crc32: u32,
    /// The number of its edits.
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
    pub fn end(mut self) -> Result<FinishedRun, ShardsError> {
        self.record(END, None, self.edits)?;
        let RunSink { place, file, checksum, bytes, edits, .. } = self;
        let file = file.into_inner().map_err(|error| ShardsError::Write { place, source: error.into_error() })?;
        Ok(FinishedRun { file, bytes, crc32: checksum, edits })
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
        self.end().map(|_run| Finished { place, deleted: 0, in_flight: None, changed: None })
    }
}
