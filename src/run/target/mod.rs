//! Targets: the kind of target that a text names, how it is opened, and whether a run may replace what is there.
//!
//! | file | what |
//! |---|---|
//! | `url` | which target a text names |
//! | `sink` | a sink of any kind |
//! | `other_tileset` | whether a target belongs to the tileset of a run |
//! | `shrink` | whether a run would leave too few of a target's tiles |
//! | `unfinished` | what to do about interrupted runs |

mod other_tileset;
mod shrink;
mod sink;
mod unfinished;
mod url;

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::CommandError;
use crate::config::TilesetSettings;

use crate::manifest::Publication;
use crate::purge::{Outbox, OutboxWriter, queue_name};
use crate::shards::{ShardsError, WorkFolder};
use crate::sink::{
    BeforeManifest, ChangeListWriter, Directory, DirectoryReader, FolderNotes, Latest, LocationError, Mbtiles,
    MbtilesReader, NoteStore, OpenMode, PartialScope, Pmtiles, PmtilesReader, Publishing, ReadError, RewrittenHeaders,
    S3, S3Notes, S3Object, S3Options, S3Pmtiles, S3Reader, S3WorkObjects, SharedVersion, TargetError, TileReader,
    TreeOptions, VersionTiles, WorkFiles, give_up_shared, remove_archive, remove_prefix, s3_versions,
};
use crate::stop::Stop;

pub(crate) use other_tileset::{TilesetNames, refuse_other};
pub(crate) use shrink::{TilesBefore, refuse_shrink};
pub(crate) use sink::AnySink;
pub(crate) use unfinished::{regions_to_seed, unmendable};
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

    /// A reader. May wait for a server, so not to be called on a thread of the runtime.
    pub(crate) fn reader(&self) -> Result<Box<dyn TileReader>, CommandError> {
        self.targets.reader(&self.url)
    }

    /// A reader of a target that is about to be written; `None` if nothing is there that can be read. May wait for a server.
    pub(crate) fn reader_of_what_is_there(&self) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        self.targets.reader_of_what_is_there(&self.url)
    }

    /// The partial regions that a run of all tiles gives up; none of an archive, which is replaced as a whole. May wait for a server.
    pub(crate) fn partial(&self) -> Result<PartialScope, CommandError> {
        if self.is_archive() {
            return Ok(PartialScope::default());
        }
        let reader = match self.reader_of_what_is_there() {
            // What is there is refused, or replaced, when the sink is begun.
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

    /// The versions of a prefix in S3, after the map was switched if that is wanted.
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

    /// Who is told what a run changes before its manifest becomes visible, for a run with this publication.
    pub(crate) fn before_manifest(
        &self,
        before: Option<&Publication>,
        publication: &Publication,
    ) -> Result<Vec<Arc<dyn BeforeManifest>>, CommandError> {
        let notes = self.notes()?;
        let outbox = self.targets.outbox_writer(Arc::clone(&notes), publication);
        let (before, publication) = (before.cloned(), publication.clone());
        let mut told: Vec<Arc<dyn BeforeManifest>> = self.targets.listeners.clone();
        told.push(Arc::new(ChangeListWriter { notes, before, publication }));
        told.extend(outbox);
        Ok(told)
    }

    /// The same target, whose runs also tell `listener`.
    pub(crate) fn with_listener(mut self, listener: Arc<dyn BeforeManifest>) -> Target {
        self.targets.listeners.push(listener);
        self
    }

    /// The same target, whose runs also tell the listeners of another one.
    pub(crate) fn telling_like(mut self, other: &Target) -> Target {
        self.targets.listeners.extend(other.targets.listeners.iter().cloned());
        self
    }

    /// The work folder that a text names, which shards of a seed share.
    pub(crate) fn work_folder(&self, text: &str) -> Result<WorkFolder, CommandError> {
        self.targets.work_folder(text, &self.url)
    }

    /// True if the target is a directory or a prefix that is published as versions.
    pub(crate) fn publishes_versions(&self) -> bool {
        !self.is_archive() && self.targets.writes_versions()
    }

    /// True if shards can write a new version of the target themselves: each only adds tiles, under conditions.
    pub(crate) fn can_share_version(&self) -> bool {
        matches!(self.url, TargetUrl::S3Prefix { .. })
            && self.targets.writes_versions()
            && self.targets.tree.template.is_versioned()
            && self.targets.s3.conditional_writes
    }

    /// Notes a version that shards are going to write. May wait for a server.
    pub(crate) fn begin_shared(&self, version: &SharedVersion) -> Result<(), CommandError> {
        match self.sink(OpenMode::Replace)? {
            AnySink::S3(sink) => Ok(sink.begin_shared(version).map_err(TargetError::from)?),
            _ => Ok(()),
        }
    }

    /// Gives up a version that shards have written. May wait for a server.
    pub(crate) fn give_up_shared(&self, version: &SharedVersion) -> Result<(), CommandError> {
        let (s3, runtime) = (self.targets.s3.clone(), &self.targets.runtime);
        Ok(give_up_shared(location(&self.url)?, s3, version, runtime).map_err(TargetError::from)?)
    }

    /// Adds tiles to a version, whose layers have these names by their ids. May wait for a server.
    pub(crate) fn version_tiles(&self, version: &str, layers: &[String]) -> Result<VersionTiles, CommandError> {
        let Targets { tree, s3, runtime, stop, .. } = &self.targets;
        let template = tree.template.clone().with_layers(layers.iter().map(String::as_str)).with_version(version);
        let tiles = VersionTiles::open(location(&self.url)?, s3.clone(), template, tree.packed, runtime, stop);
        Ok(tiles.map_err(TargetError::from)?)
    }

    /// True if tiles are stored as gzip; archives always do.
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

/// How targets are opened and written.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    tree: TreeOptions,
    s3: S3Options,
    /// The queues of the CDNs that are told what a run changes.
    purge_queues: Arc<[String]>,
    runtime: Handle,
    stop: Stop,
    /// Told what a run changed before its manifest becomes visible, beside the list that is kept with the target.
    listeners: Vec<Arc<dyn BeforeManifest>>,
}

impl Targets {
    /// The options from a tileset's settings; with `force`, a run may overwrite whatever is there. Must be called on a runtime, which then
    /// runs requests to servers.
    pub(crate) fn new(settings: &TilesetSettings, force: bool, stop: &Stop) -> Targets {
        let tree = TreeOptions { force, ..settings.tree.clone() };
        let purge_queues = settings.purges.iter().map(queue_name).collect();
        let listeners = Vec::new();
        Targets {
            tree,
            s3: settings.s3.clone(),
            purge_queues,
            runtime: Handle::current(),
            stop: stop.clone(),
            listeners,
        }
    }

    /// The same options with another stop.
    pub(crate) fn under(&self, stop: &Stop) -> Targets {
        Targets { stop: stop.clone(), ..self.clone() }
    }

    /// The target that a text names.
    pub(crate) fn target(&self, text: &str) -> Result<Target, CommandError> {
        Ok(Target { url: TargetUrl::parse(text)?, targets: self.clone() })
    }

    /// A reader of a target. May wait for a server, so not to be called on a thread of the runtime.
    pub(crate) fn reader(&self, url: &TargetUrl) -> Result<Box<dyn TileReader>, CommandError> {
        Ok(match url {
            TargetUrl::Mbtiles(path) => Box::new(MbtilesReader::open(path)?),
            TargetUrl::Pmtiles(path) => Box::new(PmtilesReader::open(path)?),
            TargetUrl::Directory(path) => Box::new(DirectoryReader::open(path, &self.tree.template)?),
            TargetUrl::S3Prefix { .. } => {
                let template = &self.tree.template;
                Box::new(S3Reader::open(location(url)?, self.s3.clone(), template, self.runtime.clone())?)
            }
            TargetUrl::S3Pmtiles { .. } => {
                Box::new(S3Object::open(&location(url)?, self.s3.clone(), self.runtime.clone())?.pmtiles()?)
            }
        })
    }

    /// A reader of a target that is about to be written; `None` if nothing is there that can be read. May wait for a server, so not to be
    /// called on a thread of the runtime.
    pub(crate) fn reader_of_what_is_there(&self, url: &TargetUrl) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        let reader = match url {
            // Opened in a way that creates no files beside it.
            TargetUrl::Mbtiles(path) => {
                MbtilesReader::as_it_lies(path).map(|reader| Box::new(reader) as Box<dyn TileReader>)
            }
            other => match self.reader(other) {
                Err(CommandError::Read(error)) => Err(error),
                Err(other) => return Err(other),
                Ok(reader) => Ok(reader),
            },
        };
        match reader.map_err(CommandError::Read) {
            Ok(reader) => Ok(Some(reader)),
            Err(CommandError::Read(error @ (ReadError::Remote { .. } | ReadError::Foreign { .. }))) => {
                Err(error.into())
            }
            // A first seed: nothing to say.
            Err(CommandError::Read(ReadError::Missing { .. })) => Ok(None),
            Err(CommandError::Read(unreadable)) => {
                tracing::info!("{unreadable}");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Opens a target for writing. May wait for a server, so not to be called on a thread of the runtime.
    pub(crate) fn sink(&self, url: &TargetUrl, mode: OpenMode) -> Result<AnySink, CommandError> {
        let sink = match url {
            TargetUrl::Mbtiles(path) => {
                AnySink::Mbtiles(Mbtiles::open(path, mode, &self.stop).map_err(TargetError::from)?)
            }
            TargetUrl::Pmtiles(path) => AnySink::Pmtiles(Pmtiles::create(path, &self.stop).map_err(TargetError::from)?),
            TargetUrl::Directory(path) => {
                AnySink::Directory(Directory::create(path, self.tree.clone(), &self.stop).map_err(TargetError::from)?)
            }
            TargetUrl::S3Prefix { .. } => AnySink::S3(
                S3::create(location(url)?, self.s3.clone(), self.tree.clone(), self.runtime.clone(), &self.stop)
                    .map_err(TargetError::from)?,
            ),
            TargetUrl::S3Pmtiles { .. } => AnySink::S3Pmtiles(
                S3Pmtiles::create(&location(url)?, self.s3.clone(), self.runtime.clone(), &self.stop)
                    .map_err(TargetError::from)?,
            ),
        };
        Ok(sink)
    }

    /// The versions of a prefix in S3, after the map was switched if that is wanted.
    pub(crate) fn s3_versions(&self, url: &TargetUrl, switch: bool, to: Option<&str>) -> Result<Latest, CommandError> {
        if switch {
            let tree = self.tree.clone();
            let s3 = S3::create(location(url)?, self.s3.clone(), tree, self.runtime.clone(), &self.stop);
            return Ok(s3.and_then(|s3| s3.rollback(to)).map_err(TargetError::from)?);
        }
        s3_versions(location(url)?, self.s3.clone(), &self.runtime)?
            .ok_or_else(|| CommandError::Unversioned { target: url.to_string() })
    }

    /// Gives every tile of a prefix in S3 the headers of the settings.
    fn rewrite_headers(&self, url: &TargetUrl, layers: &[String]) -> Result<RewrittenHeaders, CommandError> {
        let no = |why| CommandError::NoRewrite { target: url.to_string(), why };
        if !matches!(url, TargetUrl::S3Prefix { .. }) {
            return Err(no(
                "only tiles in an s3://bucket/prefix/ have headers of their own: leave --rewrite-headers out",
            ));
        }
        if self.writes_versions() {
            return Err(no("the tiles of a version never change: seed, and the next version has the headers"));
        }
        let s3 = S3::create(location(url)?, self.s3.clone(), self.tree.clone(), self.runtime.clone(), &self.stop);
        Ok(s3.and_then(|s3| s3.rewrite_headers(layers)).map_err(TargetError::from)?)
    }

    /// Who puts into the outbox what a run changes; nobody if there are no CDNs.
    fn outbox_writer(&self, notes: Arc<dyn NoteStore>, publication: &Publication) -> Option<Arc<dyn BeforeManifest>> {
        if self.purge_queues.is_empty() {
            return None;
        }
        Some(Arc::new(OutboxWriter {
            notes,
            queues: self.purge_queues.to_vec(),
            number: publication.number,
            id: publication.id.clone(),
            is_versioned: self.tree.template.is_versioned(),
            documents: Outbox::DOCUMENTS.map(str::to_owned).to_vec(),
        }))
    }

    /// The small documents that are kept with a target.
    pub(crate) fn notes(&self, url: &TargetUrl) -> Result<Arc<dyn NoteStore>, CommandError> {
        Ok(match url {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => Arc::new(FolderNotes::beside(path)),
            TargetUrl::Directory(path) => Arc::new(FolderNotes::of_directory(path)),
            TargetUrl::S3Prefix { .. } => {
                Arc::new(S3Notes::of_prefix(location(url)?, self.s3.clone(), self.runtime.clone()))
            }
            TargetUrl::S3Pmtiles { .. } => {
                Arc::new(S3Notes::beside(&location(url)?, self.s3.clone(), self.runtime.clone()))
            }
        })
    }

    /// The work folder that a text names, for the shards of the target `output`.
    fn work_folder(&self, text: &str, output: &TargetUrl) -> Result<WorkFolder, CommandError> {
        let wrong = || ShardsError::NoWorkFolder { text: text.to_owned() };
        let whole =
            if text.starts_with("s3://") && !text.ends_with('/') { format!("{text}/") } else { text.to_owned() };
        let url = TargetUrl::parse(&whole).map_err(|_no_target| wrong())?;
        if url.is(output) {
            return Err(ShardsError::WorkIsTarget { text: text.to_owned() }.into());
        }
        let files = match &url {
            TargetUrl::Directory(path) => WorkFiles::Folder(path.clone()),
            TargetUrl::S3Prefix { .. } => {
                let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
                WorkFiles::S3(Box::new(S3WorkObjects::new(location(&url)?, self.s3.clone(), runtime, stop)))
            }
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. } => return Err(wrong().into()),
        };
        Ok(WorkFolder { name: whole, notes: self.notes(&url)?, files })
    }

    /// True if the run may overwrite whatever is there.
    pub(crate) fn forces(&self) -> bool {
        self.tree.force
    }

    /// True if a directory or a prefix is written as a new version.
    pub(crate) fn writes_versions(&self) -> bool {
        self.tree.publish != Publishing::InPlace
    }

    /// True if a target stores tiles as gzip; archives always do.
    pub(crate) fn packed(&self, url: &TargetUrl) -> bool {
        match url {
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. } => true,
            TargetUrl::Directory(_) | TargetUrl::S3Prefix { .. } => self.tree.packed,
        }
    }
}

/// A target's address in S3.
fn location<L: std::str::FromStr<Err = LocationError>>(url: &TargetUrl) -> Result<L, CommandError> {
    Ok(url.to_string().parse()?)
}
