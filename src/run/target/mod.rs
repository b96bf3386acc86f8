//! Targets: the kind of target that a text names, how it is opened, and whether a run may replace what is there.
//!
//! | file | what |
//! |---|---|
//! | `url` | which target a text names |
//! | `targets` | how targets of each kind are opened and written |
//! | `sink` | a sink of any kind |
//! | `other_tileset` | whether a target belongs to the tileset of a run |
//! | `shrink` | whether a run would leave too few of a target's tiles |
//! | `unfinished` | whether interrupted runs can be repaired, and what to seed if not |

mod other_tileset;
mod shrink;
mod sink;
mod targets;
mod unfinished;
mod url;

use std::fmt;
use std::sync::Arc;

use super::CommandError;
use crate::manifest::Publication;
use crate::shards::WorkFolder;
use crate::sink::{
    BeforeManifest, ChangeListWriter, Latest, NoteStore, OpenMode, PartialScope, ReadError, RewrittenHeaders,
    SharedVersion, TargetError, TileReader, VersionTiles, give_up_shared, remove_archive, remove_prefix,
};
use targets::location;

pub(crate) use other_tileset::{TilesetNames, refuse_other};
pub(crate) use shrink::{TilesBefore, refuse_shrink};
pub(crate) use sink::AnySink;
pub(crate) use targets::Targets;
pub(crate) use unfinished::{regions_to_seed, why_not_repairable};
pub use url::TargetUrl;

/// A target: where it is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its kind, and its path or address.
    pub url: TargetUrl,
    /// How it is reached.
    pub(crate) targets: Targets,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Target {
    /// Another target with the same options.
    pub(crate) fn beside(&self, text: &str) -> Result<Target, CommandError> {
        self.targets.target(text)
    }

    /// A reader. May wait for a server, so it must not be called on a thread of the runtime.
    pub(crate) fn reader(&self) -> Result<Box<dyn TileReader>, CommandError> {
        self.targets.reader(&self.url)
    }

    /// A reader of a target that is about to be written; `None` if there is nothing that can be read. May wait for a server.
    pub(crate) fn reader_of_what_is_there(&self) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        self.targets.reader_of_what_is_there(&self.url)
    }

    /// The partial regions that a run of all tiles gives up; an archive has none, because it is replaced as a whole. May wait for a server.
    pub(crate) fn partial(&self) -> Result<PartialScope, CommandError> {
        if self.is_archive() {
            return Ok(PartialScope::default());
        }
        let reader = match self.reader_of_what_is_there() {
            // A foreign target is refused, or replaced, when the sink is begun.
            Err(CommandError::Read(ReadError::Foreign { .. })) => None,
            reader => reader?,
        };
        let described = reader.and_then(|mut reader| reader.describe().ok());
        let manifest = described.and_then(|described| serde_json::from_str(&described.manifest?).ok());
        Ok(manifest.map_or_else(PartialScope::default, |manifest| PartialScope::of(&manifest)))
    }

    /// Opens the target for writing. May wait for a server.
    pub(crate) fn sink(&self, mode: OpenMode) -> Result<AnySink, CommandError> {
        self.targets.sink(&self.url, mode)
    }

    /// The versions of a prefix in S3. If `switch`, the map is switched to another version first.
    pub(crate) fn s3_versions(&self, switch: bool, to: Option<&str>) -> Result<Latest, CommandError> {
        self.targets.s3_versions(&self.url, switch, to)
    }

    /// Gives every tile of a prefix in S3 the headers of the settings. May wait for a server.
    pub(crate) fn rewrite_headers(&self, layers: &[String]) -> Result<RewrittenHeaders, CommandError> {
        self.targets.rewrite_headers(&self.url, layers)
    }

    /// Deletes every object of a target in S3. May wait for a server.
    pub(crate) fn remove_objects(&self) -> Result<(), CommandError> {
        let Targets { s3, runtime, .. } = &self.targets;
        match &self.url {
            TargetUrl::S3Prefix { .. } => remove_prefix(location(&self.url)?, s3.clone(), runtime),
            TargetUrl::S3Pmtiles { .. } => remove_archive(&location(&self.url)?, s3.clone(), runtime),
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::Directory(_) => Ok(()),
        }
        .map_err(|error| TargetError::from(error).into())
    }

    /// The small documents that are kept with the target.
    pub(crate) fn notes(&self) -> Result<Arc<dyn NoteStore>, CommandError> {
        self.targets.notes(&self.url)
    }

    /// Everything that is notified of what a run with this publication changes, before its manifest becomes visible.
    pub(crate) fn before_manifest(
        &self,
        before: Option<&Publication>,
        publication: &Publication,
    ) -> Result<Vec<Arc<dyn BeforeManifest>>, CommandError> {
        let notes = self.notes()?;
        let outbox = self.targets.outbox_writer(Arc::clone(&notes), publication);
        let (before, publication) = (before.cloned(), publication.clone());
        let mut listeners: Vec<Arc<dyn BeforeManifest>> = self.targets.listeners.clone();
        listeners.push(Arc::new(ChangeListWriter { notes, before, publication }));
        listeners.extend(outbox);
        Ok(listeners)
    }

    /// The same target, with runs that also notify `listener`.
    pub(crate) fn with_listener(mut self, listener: Arc<dyn BeforeManifest>) -> Target {
        self.targets.listeners.push(listener);
        self
    }

    /// The same target, with runs that also notify the listeners of `other`.
    pub(crate) fn telling_like(mut self, other: &Target) -> Target {
        self.targets.listeners.extend(other.targets.listeners.iter().cloned());
        self
    }

    /// True if the target is a directory or a prefix that is published as versions.
    pub(crate) fn publishes_versions(&self) -> bool {
        !self.is_archive() && self.targets.writes_versions()
    }

    /// The work folder that a text names, which shards of a seed share.
    pub(crate) fn work_folder(&self, text: &str) -> Result<WorkFolder, CommandError> {
        self.targets.work_folder(text, &self.url)
    }

    /// True if shards can write a new version of the target themselves. Each shard only adds tiles, with conditional writes.
    pub(crate) fn can_share_version(&self) -> bool {
        matches!(self.url, TargetUrl::S3Prefix { .. })
            && self.targets.writes_versions()
            && self.targets.tree.template.is_versioned()
            && self.targets.s3.conditional_writes
    }

    /// Notes a version that shards are going to write, with the names of its layers by their ids. May wait for a
    /// server.
    pub(crate) fn begin_shared(&self, version: &SharedVersion, layers: &[String]) -> Result<(), CommandError> {
        match self.sink(OpenMode::Replace)? {
            AnySink::S3(sink) => Ok(sink.begin_shared(version, layers).map_err(TargetError::from)?),
            _ => Ok(()),
        }
    }

    /// Gives up a version that shards have written. May wait for a server.
    pub(crate) fn give_up_shared(&self, version: &SharedVersion) -> Result<(), CommandError> {
        let (s3, runtime) = (self.targets.s3.clone(), &self.targets.runtime);
        Ok(give_up_shared(location(&self.url)?, s3, version, runtime).map_err(TargetError::from)?)
    }

    /// Opens a version for adding tiles. `layers` are the names of the layers by their ids. May wait for a server.
    pub(crate) fn version_tiles(&self, version: &str, layers: &[String]) -> Result<VersionTiles, CommandError> {
        let Targets { tree, s3, runtime, stop, .. } = &self.targets;
        let template = tree.template.clone().with_layers(layers.iter().map(String::as_str)).with_version(version);
        let tiles = VersionTiles::open(location(&self.url)?, s3.clone(), template, tree.packed, runtime, stop);
        Ok(tiles.map_err(TargetError::from)?)
    }

    /// True if tiles are stored as gzip, as they always are in archives.
    pub(crate) fn is_packed(&self) -> bool {
        self.targets.packed(&self.url)
    }

    /// True if the target is a PMTiles archive.
    pub(crate) const fn is_pmtiles(&self) -> bool {
        matches!(self.url, TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. })
    }

    /// True if the target is one file or object.
    pub(crate) const fn is_archive(&self) -> bool {
        match self.url {
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. } => true,
            TargetUrl::Directory(_) | TargetUrl::S3Prefix { .. } => false,
        }
    }
}
