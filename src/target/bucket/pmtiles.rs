//! A PMTiles archive in S3: written to a temporary file and then uploaded; read by range requests.

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{Flights, S3Archive, S3Error, S3Key, S3Object, S3Options};
use crate::stop::Stop;
use crate::target::pmtiles::ReadAt;
use crate::target::{
    Described, Finished, Metadata, Needs, Pmtiles, PmtilesError, PmtilesReader, ReadError, Sink, TileEdit, Tileset,
    Unwritten, Written,
};

/// The name of the new archive in the temporary folder.
const ARCHIVE: &str = "archive.pmtiles";

/// The name of the old archive's copy in the temporary folder. An edit downloads the whole archive, because most of it
/// is copied to the new one.
const OLD: &str = "old.pmtiles";

/// The sink of a PMTiles archive in S3. Writes a file in the temporary folder, which [`Sink::finish`] uploads if the
/// object was not replaced since the beginning.
#[derive(Debug)]
pub struct S3Pmtiles {
    // Fields are dropped in this order: the staged file before its folder.
    sink: Pmtiles,
    archive: S3Archive,
    scratch: TempDir,
}

impl S3Pmtiles {
    /// Begins an archive.
    ///
    /// # Errors
    /// If the bucket cannot be read, or the temporary folder cannot be written.
    pub fn create(key: &S3Key, options: S3Options, runtime: Handle, stop: &Stop) -> Result<S3Pmtiles, S3Error> {
        let archive = S3Archive::begin(key, options, runtime, stop)?;
        let scratch = tempfile::Builder::new()
            .prefix("oar-tiles.")
            .tempdir()
            .map_err(|source| S3Error::Scratch { path: std::env::temp_dir(), source })?;
        let sink = Pmtiles::create(&scratch.path().join(ARCHIVE), stop)?;
        Ok(S3Pmtiles { sink, archive, scratch })
    }

    /// The count of requests in flight; it stays readable after [`Sink::finish`].
    #[must_use]
    pub fn flights(&self) -> Flights {
        self.archive.flights()
    }
}

impl Sink for S3Pmtiles {
    type Error = S3Error;

    fn needs(&self) -> Needs {
        self.sink.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, S3Error> {
        let old = self.scratch.path().join(OLD);
        if tileset.unwritten == Unwritten::Delete {
            let before = self.sink.begin(tileset)?;
            if tileset.list_changes
                && let Some(place) = self.archive.download(&old)?
            {
                self.sink.compare_with(PmtilesReader::open_copy(&old, place));
            }
            return Ok(before);
        }
        let Some(place) = self.archive.download(&old)? else {
            return Err(PmtilesError::Missing { place: self.archive.place() }.into());
        };
        let old = PmtilesReader::open_copy(&old, place).map_err(PmtilesError::from)?;
        Ok(Some(self.sink.edit(old, tileset)?))
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, S3Error> {
        Ok(self.sink.write(edits)?)
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, S3Error> {
        let S3Pmtiles { sink, archive, scratch } = self;
        let finished = sink.finish(metadata)?;
        let flights = archive.flights();
        let place = archive.upload(&scratch.path().join(ARCHIVE))?;
        Ok(Finished { place, in_flight: Some(flights.seen()), ..finished })
    }
}

impl ReadAt for S3Object {
    fn place(&self) -> &str {
        S3Object::place(self)
    }

    fn length(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        S3Object::read_at(self, offset, length as u64)
    }
}

impl S3Object {
    /// Opens the object as a PMTiles archive.
    ///
    /// # Errors
    /// If it is no PMTiles archive of vector tiles, or cannot be read.
    pub fn pmtiles(self) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(self))
    }
}
