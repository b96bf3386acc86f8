//! A PMTiles archive in S3: written to a temporary file, then sent as a whole, so that readers see the old one or the new one.

use std::path::Path;

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{S3Archive, S3Error, S3Key, S3Object, S3Options};
use crate::sink::pmtiles::ReadAt;
use crate::sink::{
    Described, Finished, Metadata, Needs, Pmtiles, PmtilesReader, ReadError, Sink, TargetError, TileEdit, Tileset,
    Written,
};
use crate::stop::Stop;

/// An archive in the making.
#[derive(Debug)]
pub struct S3Pmtiles {
    // Dropped in this order: the file before its folder.
    file: Pmtiles,
    archive: S3Archive,
    _folder: TempDir,
}

impl S3Pmtiles {
    /// Begins an archive in the temporary folder (`TMPDIR`), and looks at what is there now.
    ///
    /// # Errors
    /// If the bucket cannot be read, or there is no temporary folder.
    pub fn create(key: &S3Key, options: S3Options, runtime: Handle, stop: &Stop) -> Result<S3Pmtiles, TargetError> {
        let archive = S3Archive::begin(key, options, runtime, stop)?;
        let folder = tempfile::Builder::new().prefix("oar-tiles.").tempdir().map_err(|source| S3Error::File {
            path: std::env::temp_dir(),
            place: format!("s3://{}/{}", key.bucket, key.key),
            source,
        })?;
        let file = Pmtiles::create(&folder.path().join("archive.pmtiles"), stop)?;
        Ok(S3Pmtiles { file, archive, _folder: folder })
    }
}

impl Sink for S3Pmtiles {
    type Error = TargetError;

    fn needs(&self) -> Needs {
        self.file.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, TargetError> {
        Ok(self.file.begin(tileset)?)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, TargetError> {
        Ok(self.file.write(edits)?)
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, TargetError> {
        let finished = self.file.finish(metadata)?;
        let flights = self.archive.flights();
        let place = self.archive.upload(Path::new(&finished.place))?;
        Ok(Finished { place, in_flight: Some(flights.seen()), ..finished })
    }
}

/// An archive in S3 as bytes that can be read anywhere.
struct Ranged {
    object: S3Object,
    place: String,
}

impl ReadAt for Ranged {
    fn place(&self) -> &str {
        &self.place
    }

    fn length(&self) -> u64 {
        self.object.len()
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        self.object.read_at(offset, length as u64)
    }
}

/// A reader of an archive in S3.
///
/// # Errors
/// If it is not there, cannot be read, or is no PMTiles archive.
pub fn s3_pmtiles_reader(key: &S3Key, options: S3Options, runtime: Handle) -> Result<PmtilesReader, ReadError> {
    let object = S3Object::open(key, options, runtime)?;
    let place = object.place();
    PmtilesReader::over(Box::new(Ranged { object, place }))
}
