//! A PMTiles archive in a bucket: written to a temporary file and then uploaded; read by range requests.

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{BucketArchive, BucketError, BucketObject, BucketOptions, Flights, ObjectKey};
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

/// The sink of a PMTiles archive in a bucket. Writes a file in the temporary folder, which [`Sink::finish`] uploads if
/// the object was not replaced since the beginning.
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

    /// The count of requests in flight; it stays readable after [`Sink::finish`].
    pub fn flights(&self) -> Flights {
        self.archive.flights()
    }
}

impl Sink for BucketPmtiles {
    type Error = BucketError;

    fn needs(&self) -> Needs {
        self.sink.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, BucketError> {
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

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, BucketError> {
        Ok(self.sink.write(edits)?)
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, BucketError> {
        let BucketPmtiles { sink, archive, scratch } = self;
        let finished = sink.finish(metadata)?;
        let flights = archive.flights();
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
