//! Reads the run of a shard, and checks it.

use super::super::ShardsError;
use super::{
    ADDED, AddedTile, END, FinishedRun, KEEP, KEEP_NOTHING, MAGIC, MAX_TILE, PUT, RECORD, REMOVE, RunRecord, WHOLE,
    crc32,
};
use crate::sink::{TileEdit, WorkFile};
use crate::tile::{LayerId, Slice, TileCoord, TileId, Zoom};

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
        let found = file.len();
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
    pub fn of_own(run: &FinishedRun, place: String) -> Result<RunReader, ShardsError> {
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
        if self.given != self.buffer.len() || self.offset != self.file.len() {
            return Err(self.damaged("bytes follow its end".to_owned()));
        }
        let found = self.checksum;
        if found != self.crc32 {
            return Err(self.damaged(format!("its CRC-32 is {found:08x}, and {:08x} was written", self.crc32)));
        }
        Ok(())
    }
}
