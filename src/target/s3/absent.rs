//! Replaces targets in S3 in a program that was built without the feature `s3`. No target can be opened, so no value of
//! these types exists.

use std::convert::Infallible;

use tokio::runtime::Handle;

use super::{RewrittenHeaders, S3Error, S3Key, S3Location, S3Options};
use crate::stop::Stop;
use crate::target::note_store::{KeptNote, NoteCondition, NoteError, NoteStore};
use crate::target::tree::{Latest, Template, TreeOptions};
use crate::target::{
    Described, Finished, Metadata, Needs, PmtilesReader, ReadError, Sink, TileEdit, TileReader, Tileset, Written,
};
use crate::tile::{ColumnRanges, TileId};

fn not_built(place: &dyn std::fmt::Display) -> S3Error {
    S3Error::NotBuilt { place: place.to_string() }
}

/// What clients of a bucket share: nothing.
#[derive(Debug, Clone, Default)]
pub struct S3Shared;

impl S3Shared {
    /// Does nothing.
    pub fn reset(&self) {}
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn remove_prefix(location: S3Location, _: S3Options, _: &Handle) -> Result<(), S3Error> {
    Err(not_built(&location))
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn remove_archive(archive: &S3Key, _: S3Options, _: &Handle) -> Result<(), S3Error> {
    Err(not_built(archive))
}

/// The sink of a prefix.
#[derive(Debug)]
pub struct S3(Infallible);

impl S3 {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn create(
        location: S3Location,
        options: S3Options,
        _: TreeOptions,
        _: Handle,
        _: &Stop,
    ) -> Result<S3, S3Error> {
        options.check()?;
        Err(not_built(&location))
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn rollback(self, _: Option<&str>) -> Result<Latest, S3Error> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn begin_shared(self, _: &SharedVersion, _: &[String]) -> Result<(), S3Error> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn adopt(&mut self, _: SharedVersion) {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn rewrite_headers(self, _: &[String]) -> Result<RewrittenHeaders, S3Error> {
        match self.0 {}
    }
}

impl Sink for S3 {
    type Error = S3Error;

    fn needs(&self) -> Needs {
        match self.0 {}
    }

    fn begin(&mut self, _: &Tileset) -> Result<Option<Described>, S3Error> {
        match self.0 {}
    }

    fn write(&mut self, _: Vec<TileEdit>) -> Result<Written, S3Error> {
        match self.0 {}
    }

    fn finish(self, _: &Metadata) -> Result<Finished, S3Error> {
        match self.0 {}
    }
}

/// A version, and the run of shards that writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVersion {
    /// The version's name.
    pub version: String,
    /// The run.
    pub run: String,
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn give_up_shared(location: S3Location, _: S3Options, _: &SharedVersion, _: &Handle) -> Result<(), S3Error> {
    Err(not_built(&location))
}

/// Adds tiles to a version that several processes write.
#[derive(Debug)]
pub struct VersionTiles(Infallible);

impl VersionTiles {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(
        location: S3Location,
        _: S3Options,
        _: Template,
        _: bool,
        _: &Handle,
        _: &Stop,
    ) -> Result<VersionTiles, S3Error> {
        Err(not_built(&location))
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn look(&mut self, _: &ColumnRanges) -> Result<(), S3Error> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn add(&mut self, _: TileId, _: Box<[u8]>) -> Result<[u8; 16], S3Error> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn settle(&mut self) -> Result<u64, S3Error> {
        match self.0 {}
    }
}

/// The large objects of a work folder.
#[derive(Debug, Clone)]
pub struct S3WorkObjects(S3Location);

impl S3WorkObjects {
    /// Work objects that cannot be reached.
    #[must_use]
    pub fn new(location: S3Location, _: S3Options, _: Handle, _: Stop) -> S3WorkObjects {
        S3WorkObjects(location)
    }

    /// The object's URL.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn store(&self, _: &str, _: &std::path::Path) -> Result<(), S3Error> {
        Err(not_built(&self.0))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(&self, _: &str) -> Result<S3Object, ReadError> {
        Err(not_built(&self.0).into())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn first_names(&self) -> Result<Vec<String>, S3Error> {
        Err(not_built(&self.0))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn remove_all(&self, _: &str) -> Result<(), S3Error> {
        Err(not_built(&self.0))
    }
}

/// The sink of an archive.
#[derive(Debug)]
pub struct S3Pmtiles(Infallible);

impl S3Pmtiles {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn create(key: &S3Key, options: S3Options, _: Handle, _: &Stop) -> Result<S3Pmtiles, S3Error> {
        options.check()?;
        Err(not_built(key))
    }
}

impl Sink for S3Pmtiles {
    type Error = S3Error;

    fn needs(&self) -> Needs {
        match self.0 {}
    }

    fn begin(&mut self, _: &Tileset) -> Result<Option<Described>, S3Error> {
        match self.0 {}
    }

    fn write(&mut self, _: Vec<TileEdit>) -> Result<Written, S3Error> {
        match self.0 {}
    }

    fn finish(self, _: &Metadata) -> Result<Finished, S3Error> {
        match self.0 {}
    }
}

/// A reader of a prefix.
#[derive(Debug)]
pub struct S3Reader(Infallible);

impl S3Reader {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(location: S3Location, _: S3Options, _: &Template, _: Handle) -> Result<S3Reader, ReadError> {
        Err(not_built(&location).into())
    }
}

impl TileReader for S3Reader {
    fn describe(&mut self) -> Result<Described, ReadError> {
        match self.0 {}
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        match self.0 {}
    }

    fn read(&mut self, _: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        match self.0 {}
    }
}

/// A reader of an object.
#[derive(Debug)]
pub struct S3Object(Infallible);

impl S3Object {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(key: &S3Key, _: S3Options, _: Handle) -> Result<S3Object, ReadError> {
        Err(not_built(key).into())
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn pmtiles(self) -> Result<PmtilesReader, ReadError> {
        match self.0 {}
    }

    /// Cannot be called.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match self.0 {}
    }

    /// Cannot be called.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn read_at(&self, _: u64, _: u64) -> Result<Vec<u8>, ReadError> {
        match self.0 {}
    }
}

/// The published versions of a target.
///
/// # Errors
/// Always.
pub fn s3_versions(location: S3Location, _: S3Options, _: &Handle) -> Result<Option<Latest>, ReadError> {
    Err(not_built(&location).into())
}

/// The notes of a target.
#[derive(Debug)]
pub struct S3Notes {
    place: String,
}

impl S3Notes {
    /// The notes of a prefix, which cannot be read.
    #[must_use]
    pub fn of_prefix(location: S3Location, _: S3Options, _: Handle) -> S3Notes {
        S3Notes { place: location.to_string() }
    }

    /// The notes next to an archive, which cannot be read.
    #[must_use]
    pub fn beside(archive: &S3Key, _: S3Options, _: Handle) -> S3Notes {
        S3Notes { place: archive.to_string() }
    }

    fn refused(&self, action: &'static str) -> NoteError {
        NoteError::Refused { action, place: self.place.clone(), source: not_built(&self.place).into() }
    }
}

impl NoteStore for S3Notes {
    fn read(&self, _: &str) -> Result<Option<KeptNote>, NoteError> {
        Err(self.refused("read"))
    }

    fn write(&self, _: &str, _: &[u8], _: &NoteCondition) -> Result<String, NoteError> {
        Err(self.refused("write"))
    }

    fn list(&self, _: &str) -> Result<Vec<String>, NoteError> {
        Err(self.refused("list"))
    }

    fn remove(&self, _: &str) -> Result<(), NoteError> {
        Err(self.refused("remove"))
    }
}
