//! A PMTiles archive in a bucket: written to a temporary file and then uploaded; read by range requests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::archive_upload::OldObject;
use super::{BucketArchive, BucketError, BucketObject, BucketOptions, Flights, ObjectKey};
use crate::scratch::{scratch_file, temporary_folder};
use crate::stop::Stop;
use crate::target::pmtiles::ReadAt;
use crate::target::{
    Described, Finished, Metadata, Needs, Pmtiles, PmtilesError, PmtilesReader, ReadError, Sink, TileEdit,
    TileReader as _, Tileset, Unwritten, Written, WrittenAnew,
};

/// The name of the new archive in the temporary folder.
const ARCHIVE: &str = "archive.pmtiles";

/// The name of the old archive's copy in the temporary folder: it is downloaded as a whole where most of it is copied
/// to a new one.
const OLD: &str = "old.pmtiles";

/// The sink of a PMTiles archive in a bucket. Writes a file in the temporary folder, which [`Sink::finish`] uploads if
/// the object was not replaced since the beginning. For edits of a large archive the server copies what stays.
#[derive(Debug)]
pub struct BucketPmtiles {
    // Fields are dropped in this order: the staged file before its folder.
    sink: Pmtiles,
    archive: BucketArchive,
    scratch: TempDir,
}

impl BucketPmtiles {
    /// Begins an archive.
    /// Fails if the bucket cannot be read, or the temporary folder cannot be written.
    pub fn create(
        key: &ObjectKey,
        options: BucketOptions,
        runtime: Handle,
        stop: &Stop,
    ) -> Result<BucketPmtiles, BucketError> {
        let archive = BucketArchive::begin(key, options, runtime, stop)?;
        let scratch = tempfile::Builder::new()
            .prefix("oar-tiles.")
            .tempdir()
            .map_err(|source| BucketError::Scratch { path: std::env::temp_dir(), source })?;
        let sink = Pmtiles::create(&scratch.path().join(ARCHIVE), stop)?;
        Ok(BucketPmtiles { sink, archive, scratch })
    }

    /// See [`BucketArchive::is_locked`].
    pub(crate) const fn is_locked(&self) -> bool {
        self.archive.is_locked()
    }

    /// The count of requests in flight; it stays readable after [`Sink::finish`].
    pub fn flights(&self) -> Flights {
        self.archive.flights()
    }

    fn old_path(&self) -> PathBuf {
        self.scratch.path().join(OLD)
    }

    /// Downloads the old archive as a whole; `None` if there is none.
    fn downloaded(&self) -> Result<Option<PmtilesReader>, BucketError> {
        let path = self.old_path();
        let Some(place) = self.archive.download(&path)? else { return Ok(None) };
        Ok(Some(PmtilesReader::open_copy(&path, place).map_err(PmtilesError::from)?))
    }

    /// A reader of the old archive by ranges, and its description, if its tile data may stay where it lies; otherwise
    /// why it may not.
    fn old_in_place(&self) -> Result<Result<OldInPlace, WrittenAnew>, BucketError> {
        let old = &self.archive.old;
        if !old.can_be_copied() {
            return Ok(Err(WrittenAnew::NoCopies));
        }
        if !old.is_long() {
            return Ok(Err(WrittenAnew::Small));
        }
        let failed = |error: ReadError| self.failed(error.into());
        let mut reader = PmtilesReader::over(Box::new(old.clone())).map_err(failed)?;
        let tiles = reader.header.tiles;
        let Some(end) = tiles.end().filter(|end| old.has_part_within(tiles.offset..*end)) else {
            return Ok(Err(WrittenAnew::Small));
        };
        let unwritable = |source| BucketError::Scratch { path: temporary_folder(), source };
        let end_file = scratch_file().map_err(unwritable)?;
        old.download(end..ReadAt::length(old), &end_file, unwritable)?;
        reader.bytes = Box::new(OldArchive { object: old.clone(), tiles_end: end, end: end_file });
        let described = reader.describe().map_err(failed)?;
        if !reader.can_be_edited(&described) {
            return Ok(Err(WrittenAnew::OtherLayout));
        }
        Ok(Ok(OldInPlace { reader, described }))
    }

    /// Makes a new archive of an edit; `why` is left out if the sink knows it.
    fn rebuild(&mut self, why: Option<WrittenAnew>) -> Result<(), BucketError> {
        let Some(old) = self.downloaded()? else {
            return Err(PmtilesError::Missing { place: self.archive.place() }.into());
        };
        Ok(self.sink.rebuild_from(Some(old), why)?)
    }

    /// The error of the sink. A request that ended because of a stop looks like any other that failed.
    fn failed(&self, error: PmtilesError) -> BucketError {
        if self.archive.old.is_stopped() {
            return BucketError::Interrupted { place: self.archive.place() };
        }
        error.into()
    }
}

/// An old archive whose tile data may stay where it lies.
struct OldInPlace {
    reader: PmtilesReader,
    described: Described,
}

/// The bytes of the old archive of an edit. What lies behind its tile data, directories and metadata, was downloaded,
/// for all of it is read.
struct OldArchive {
    object: OldObject,
    tiles_end: u64,
    /// The bytes from `tiles_end` on.
    end: File,
}

impl ReadAt for OldArchive {
    fn place(&self) -> &str {
        self.object.place()
    }

    fn length(&self) -> u64 {
        ReadAt::length(&self.object)
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let Some(offset_in_end) = offset.checked_sub(self.tiles_end) else {
            return self.object.read_at(offset, length);
        };
        let mut bytes = vec![0; length];
        let read = self.end.read_exact_at(&mut bytes, offset_in_end);
        read.map_err(|source: io::Error| ReadError::Io { path: temporary_folder(), source })?;
        Ok(bytes)
    }
}

impl Sink for BucketPmtiles {
    type Error = BucketError;

    fn needs(&self) -> Needs {
        self.sink.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, BucketError> {
        if tileset.unwritten == Unwritten::Delete {
            let (before, path) = (self.sink.begin(tileset)?, self.old_path());
            if tileset.list_changes
                && let Some(place) = self.archive.download(&path)?
            {
                self.sink.compare_with(PmtilesReader::open_copy(&path, place));
            }
            return Ok(before);
        }
        let why = match self.old_in_place()? {
            Ok(OldInPlace { reader, described }) => {
                self.sink.edit(reader, &described, tileset)?;
                return Ok(Some(described));
            }
            Err(why) => why,
        };
        let Some(mut old) = self.downloaded()? else {
            return Err(PmtilesError::Missing { place: self.archive.place() }.into());
        };
        let described = old.describe().map_err(PmtilesError::from)?;
        self.sink.rebuild(old, tileset, why)?;
        Ok(Some(described))
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, BucketError> {
        let written = self.sink.write(edits).map_err(|error| self.failed(error))?;
        if let Some(why) = self.sink.why_large_edit() {
            self.rebuild(Some(why))?;
        }
        Ok(written)
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, BucketError> {
        let flights = self.archive.flights();
        let mut why = None;
        if let Some(edited) = self.sink.lay_out(metadata).map_err(|error| self.failed(error))? {
            self.sink.tell()?;
            if self.archive.upload_edited(&edited)? {
                let finished = self.sink.published(self.archive.place());
                return Ok(Finished { in_flight: Some(flights.seen()), ..finished });
            }
            why = Some(WrittenAnew::NoCopies);
        }
        if self.sink.is_edit() {
            self.rebuild(why)?;
        }
        let BucketPmtiles { sink, archive, scratch, .. } = self;
        let finished = sink.finish(metadata)?;
        let place = archive.upload(&scratch.path().join(ARCHIVE))?;
        Ok(Finished { place, in_flight: Some(flights.seen()), ..finished })
    }
}

impl ReadAt for BucketObject {
    fn place(&self) -> &str {
        &self.place
    }

    fn length(&self) -> u64 {
        BucketObject::length(self)
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        BucketObject::read_at(self, offset, length as u64)
    }
}

impl BucketObject {
    /// Opens the object as a PMTiles archive.
    /// Fails if it is no PMTiles archive of vector tiles, or cannot be read.
    pub fn pmtiles(self) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(self))
    }
}
