//! How targets of each kind are opened and written.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Target;
use crate::cdn::{OutboxWriter, queue_name};
use crate::config::TilesetSettings;
use crate::encode::{MAX_UNPACKED_TILE, Unpacker};
use crate::manifest::Publication;
use crate::run::CommandError;
use crate::shards::{ShardsError, WorkFolder};
use crate::stop::Stop;
use crate::target::{
    BeforeManifest, BucketNotes, BucketObject, BucketOptions, BucketPmtiles, BucketReader, BucketTiles,
    BucketWorkFiles, Described, Directory, DirectoryReader, Finished, FolderNotes, Latest, LocationError, Mbtiles,
    MbtilesReader, Metadata, Needs, NoteStore, OpenMode, Pmtiles, PmtilesReader, Publishing, ReadError,
    RewrittenHeaders, Scheme, SharedState, SharedVersion, Sink, TargetError, TargetUrl, Template, TileEdit, TileReader,
    Tileset, TreeOptions, VersionTiles, WorkFiles, Written, bucket_versions, directory_versions, documents,
    give_up_shared, read_all, remove_archive, remove_prefix, switch_directory,
};
use crate::tile::{LayerId, Slice, TileCoord, TileId, TileRectList};

/// Whether clients of a target are switched to another of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionSwitch<'a> {
    Stay,
    /// To the version before the current one.
    Back,
    To(&'a str),
}

/// How targets are opened and written.
#[derive(Debug, Clone)]
pub(crate) struct TargetOptions {
    pub(crate) tree: TreeOptions,
    pub(crate) bucket: BucketOptions,
    /// The queues of the CDNs that are notified of what a run changes.
    purge_queues: Arc<[String]>,
    /// True if publications also purge dirty tiles whose bytes stayed equal, because CDNs keep filtered tiles.
    purges_filtered: bool,
    pub(crate) runtime: Handle,
    pub(crate) stop: Stop,
    /// Notified of what a run changed before its manifest becomes visible, in addition to the outbox that is kept with
    /// the target.
    pub(crate) listeners: Vec<Arc<dyn BeforeManifest>>,
}

impl TargetOptions {
    /// The options from a tileset's settings. With `force`, a run may overwrite whatever is there. Must be called on a
    /// runtime, which then runs requests to servers.
    pub(crate) fn new(settings: &TilesetSettings, force: bool, stop: &Stop) -> TargetOptions {
        let tree = TreeOptions { force, ..settings.tree.clone() };
        let purge_queues = settings.purges.iter().map(queue_name).collect();
        TargetOptions {
            tree,
            bucket: settings.bucket.clone(),
            purge_queues,
            purges_filtered: settings.purges_filtered(),
            runtime: Handle::current(),
            stop: stop.clone(),
            listeners: Vec::new(),
        }
    }

    /// The same options with another stop.
    pub(crate) fn under(&self, stop: &Stop) -> TargetOptions {
        TargetOptions { stop: stop.clone(), ..self.clone() }
    }

    pub(crate) fn target(&self, text: &str) -> Result<Target, CommandError> {
        Ok(Target { url: TargetUrl::parse(text)?, options: self.clone(), known: None })
    }

    /// The addresses of tiles below that of their target. The settings' template names the tiles of a directory or a
    /// prefix; a server gives those of an archive the usual addresses.
    pub(crate) fn addresses(&self, url: &TargetUrl) -> Template {
        let own = if url.is_archive() { Template::default() } else { self.tree.template.clone() };
        own.with_layers(self.bucket.names.layers.iter().map(String::as_str))
    }

    /// The names of the documents beside the tiles that lead clients to them.
    pub(crate) fn documents(&self, url: &TargetUrl) -> Vec<String> {
        documents(&self.addresses(url), &self.bucket.names.layers)
    }

    /// Writes the changes of a run to the outbox of the target at `url`. Tiles under filters are purged in the tiles of
    /// `changed`, those in which rows have changed. `None` if there are no CDNs.
    pub(crate) fn outbox_writer(
        &self,
        url: &TargetUrl,
        notes: Arc<dyn NoteStore>,
        publication: &Publication,
        changed: Option<&TileRectList>,
    ) -> Option<Arc<dyn BeforeManifest>> {
        if self.purge_queues.is_empty() {
            return None;
        }
        let filtered = if self.purges_filtered { changed.cloned() } else { Some(TileRectList::default()) };
        Some(Arc::new(OutboxWriter {
            notes,
            queues: self.purge_queues.to_vec(),
            number: publication.number,
            id: publication.id.clone(),
            is_versioned: self.addresses(url).is_versioned(),
            documents: self.documents(url),
            filtered,
        }))
    }

    /// True if the run may overwrite whatever is there.
    pub(crate) fn forces(&self) -> bool {
        self.tree.force
    }

    /// True if a directory or a prefix is written as a new version.
    pub(crate) fn writes_versions(&self) -> bool {
        self.tree.publish != Publishing::InPlace
    }
}

/// The name of the folder, among a target's notes, for the parts of a seed by one process.
const PARTS: &str = "parts";

impl Target {
    /// A reader. May wait for a server, so it must not be called on a thread of the runtime.
    pub(crate) fn reader(&self) -> Result<Box<dyn TileReader>, CommandError> {
        let TargetOptions { tree, bucket, runtime, .. } = &self.options;
        Ok(match &self.url {
            TargetUrl::Mbtiles(path) => Box::new(MbtilesReader::open(path)?),
            TargetUrl::Pmtiles(path) => Box::new(PmtilesReader::open(path)?),
            TargetUrl::Directory(path) => Box::new(DirectoryReader::open(path, &tree.template)?),
            TargetUrl::BucketPrefix { .. } => {
                Box::new(BucketReader::open(location(&self.url)?, bucket.clone(), &tree.template, runtime.clone())?)
            }
            TargetUrl::BucketPmtiles { .. } => {
                Box::new(BucketObject::open(&location(&self.url)?, bucket.clone(), runtime.clone())?.pmtiles()?)
            }
        })
    }

    /// A reader of a target that has to hold a tileset: a directory or a prefix with none is a mistyped name. May wait
    /// for a server, so it must not be called on a thread of the runtime.
    pub(crate) fn tileset_reader(&self) -> Result<Box<dyn TileReader>, CommandError> {
        let mut reader = self.reader()?;
        reader.holds_tileset()?;
        Ok(reader)
    }

    /// A tile's MVT bytes, concatenated if the target stores layers separately; `None` if the target does not hold it.
    pub(crate) fn unpacked_tile(
        &self,
        reader: &mut dyn TileReader,
        tile: TileCoord,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        let described = reader.describe()?;
        let apart = (0..described.vector_layers.len())
            .filter_map(|layer| Some(Slice::Layer(LayerId(u16::try_from(layer).ok()?))));
        let ids: Vec<TileId> =
            [Slice::Whole].into_iter().chain(apart).map(|slice| TileId { coord: tile, slice }).collect();
        let mut unpacker = Unpacker::new(described.format);
        let mut raw: Option<Vec<u8>> = None;
        read_all(reader, &ids, |_, stored| {
            let Some(stored) = stored else { return Ok(()) };
            let raw = raw.get_or_insert_default();
            let room = MAX_UNPACKED_TILE.saturating_sub(raw.len());
            raw.extend(unpacker.mvt_of_at_most(&stored, room).map_err(|source| self.broken_tile(tile, source))?);
            Ok::<(), CommandError>(())
        })?;
        Ok(raw)
    }

    /// The error of a tile that cannot be unpacked or decoded.
    pub(crate) fn broken_tile(
        &self,
        tile: TileCoord,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> CommandError {
        CommandError::BrokenTile { target: self.to_string(), tile, source: Box::new(source) }
    }

    /// A reader of the target if it is about to be written; `None` if there is nothing that can be read. May wait for a
    /// server, so it must not be called on a thread of the runtime.
    pub(crate) fn reader_of_what_is_there(&self) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        let reader = match &self.url {
            // Opened in a way that creates no files next to it.
            TargetUrl::Mbtiles(path) => {
                MbtilesReader::as_it_lies(path).map(|reader| Box::new(reader) as Box<dyn TileReader>)
            }
            _ => match self.reader() {
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
            // For a first seed there is nothing to report.
            Err(CommandError::Read(ReadError::Missing { .. })) => Ok(None),
            Err(CommandError::Read(unreadable)) => {
                tracing::info!("{unreadable}");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Opens the target for writing. May wait for a server, so it must not be called on a thread of the runtime.
    pub(crate) fn sink(&self, mode: OpenMode) -> Result<OpenedSink, CommandError> {
        let TargetOptions { tree, bucket, runtime, stop, .. } = &self.options;
        Ok(OpenedSink(match &self.url {
            TargetUrl::Mbtiles(path) => AnySink::Mbtiles(Mbtiles::open(path, mode, stop).map_err(TargetError::from)?),
            TargetUrl::Pmtiles(path) => AnySink::Pmtiles(Pmtiles::create(path, stop).map_err(TargetError::from)?),
            TargetUrl::Directory(path) => {
                AnySink::Directory(Directory::create(path, tree.clone(), stop).map_err(TargetError::from)?)
            }
            TargetUrl::BucketPrefix { .. } => AnySink::Bucket(self.bucket_prefix()?),
            TargetUrl::BucketPmtiles { .. } => {
                let pmtiles = BucketPmtiles::create(&location(&self.url)?, bucket.clone(), runtime.clone(), stop);
                AnySink::BucketPmtiles(pmtiles.map_err(TargetError::from)?)
            }
        }))
    }

    fn bucket_prefix(&self) -> Result<BucketTiles, CommandError> {
        let TargetOptions { tree, bucket, runtime, stop, .. } = &self.options;
        let prefix = BucketTiles::create(location(&self.url)?, bucket.clone(), tree.clone(), runtime.clone(), stop);
        Ok(prefix.map_err(TargetError::from)?)
    }

    /// The versions, after the switch. May wait for a server.
    pub(crate) fn versions(&self, switch: VersionSwitch<'_>) -> Result<Latest, CommandError> {
        let to = match switch {
            VersionSwitch::Stay => None,
            VersionSwitch::Back => Some(None),
            VersionSwitch::To(version) => Some(Some(version)),
        };
        match (&self.url, to) {
            (TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::BucketPmtiles { .. }, _) => {
                Err(CommandError::NoVersions { target: self.to_string() })
            }
            (TargetUrl::Directory(path), Some(to)) => Ok(switch_directory(path, to).map_err(TargetError::from)??),
            (TargetUrl::Directory(path), None) => Ok(directory_versions(path).map_err(TargetError::from)?),
            (TargetUrl::BucketPrefix { .. }, Some(to)) => {
                Ok(self.bucket_prefix()?.rollback(to).map_err(TargetError::from)?)
            }
            (TargetUrl::BucketPrefix { .. }, None) => {
                bucket_versions(location(&self.url)?, self.options.bucket.clone(), &self.options.runtime)?
                    .ok_or_else(|| CommandError::Unversioned { target: self.to_string() })
            }
        }
    }

    /// Deletes every object of a target in S3. May wait for a server.
    pub(crate) fn remove_objects(&self) -> Result<(), CommandError> {
        let TargetOptions { bucket, runtime, .. } = &self.options;
        match &self.url {
            TargetUrl::BucketPrefix { .. } => remove_prefix(location(&self.url)?, bucket.clone(), runtime),
            TargetUrl::BucketPmtiles { .. } => remove_archive(&location(&self.url)?, bucket.clone(), runtime),
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::Directory(_) => Ok(()),
        }
        .map_err(|error| TargetError::from(error).into())
    }

    /// True if shards can write a new version of the target themselves. Each shard only adds tiles, with conditional
    /// writes.
    pub(crate) fn can_share_version(&self) -> bool {
        self.url.stores_objects()
            && self.options.writes_versions()
            && self.options.tree.template.is_versioned()
            && self.options.bucket.section.conditional_writes
    }

    /// Notes a version that shards are going to write, with the names of its layers by their ids. May wait for a
    /// server.
    pub(crate) fn begin_shared(&self, version: &SharedVersion, layers: &[String]) -> Result<(), CommandError> {
        match self.sink(OpenMode::Replace)?.0 {
            AnySink::Bucket(sink) => Ok(sink.begin_shared(version, layers).map_err(TargetError::from)?),
            _ => Ok(()),
        }
    }

    /// Gives up a version that shards have written. May wait for a server.
    pub(crate) fn give_up_shared(&self, version: &SharedVersion) -> Result<(), CommandError> {
        let (bucket, runtime) = (self.options.bucket.clone(), &self.options.runtime);
        Ok(give_up_shared(location(&self.url)?, bucket, version, runtime).map_err(TargetError::from)?)
    }

    /// Opens a version for adding tiles. `layers` are the names of the layers by their ids. May wait for a server.
    pub(crate) fn version_tiles(&self, version: &str, layers: &[String]) -> Result<VersionTiles, CommandError> {
        let TargetOptions { tree, bucket, runtime, stop, .. } = &self.options;
        let template = tree.template.clone().with_layers(layers.iter().map(String::as_str)).with_version(version);
        let tiles = VersionTiles::open(location(&self.url)?, bucket.clone(), template, tree.packs(), runtime, stop);
        Ok(tiles.map_err(TargetError::from)?)
    }

    /// Gives every tile of a prefix in S3 the headers of the settings. May wait for a server.
    pub(crate) fn rewrite_headers(&self, layers: &[String]) -> Result<RewrittenHeaders, CommandError> {
        let no = |what: &str| CommandError::Unfit { target: self.to_string(), what: what.to_owned() };
        if !self.url.stores_objects() {
            return Err(no(
                "only tiles below a prefix of a bucket have headers of their own: leave --rewrite-headers out",
            ));
        }
        if self.options.writes_versions() {
            return Err(no("the tiles of a version never change: seed, and the next version has the headers"));
        }
        Ok(self.bucket_prefix()?.rewrite_headers(layers).map_err(TargetError::from)?)
    }

    /// The small documents that are kept with the target.
    pub(crate) fn notes(&self) -> Result<Arc<dyn NoteStore>, CommandError> {
        match self.folder_notes() {
            Some(notes) => Ok(Arc::new(notes)),
            None => Ok(Arc::new(self.bucket_notes()?)),
        }
    }

    fn bucket_notes(&self) -> Result<BucketNotes, CommandError> {
        let TargetOptions { bucket, runtime, .. } = &self.options;
        Ok(if self.url.stores_objects() {
            BucketNotes::of_prefix(location(&self.url)?, bucket.clone(), runtime.clone())
        } else {
            BucketNotes::beside(&location(&self.url)?, bucket.clone(), runtime.clone())
        })
    }

    /// The notes of a local target; `None` if it is in a bucket.
    pub(crate) fn folder_notes(&self) -> Option<FolderNotes> {
        match &self.url {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => Some(FolderNotes::beside(path)),
            TargetUrl::Directory(path) => Some(FolderNotes::of_directory(path)),
            TargetUrl::BucketPrefix { .. } | TargetUrl::BucketPmtiles { .. } => None,
        }
    }

    /// The work folder that a text names, which shards of a seed share.
    pub(crate) fn work_folder(&self, text: &str) -> Result<WorkFolder, CommandError> {
        let wrong = || ShardsError::NoWorkFolder { text: text.to_owned() };
        let whole =
            if Scheme::split(text).is_some() && !text.ends_with('/') { format!("{text}/") } else { text.to_owned() };
        let url = TargetUrl::parse(&whole).map_err(|_no_target| wrong())?;
        if url.is(&self.url) {
            return Err(ShardsError::WorkIsTarget { text: text.to_owned() }.into());
        }
        self.work_folder_at(url, whole)?.ok_or_else(|| wrong().into())
    }

    /// The work folder in a directory or a prefix; `None` for an archive.
    fn work_folder_at(&self, url: TargetUrl, name: String) -> Result<Option<WorkFolder>, CommandError> {
        let files = match &url {
            TargetUrl::Directory(path) => WorkFiles::Folder(path.clone()),
            TargetUrl::BucketPrefix { .. } => {
                let TargetOptions { bucket, runtime, stop, .. } = self.options.clone();
                WorkFiles::Bucket(Box::new(BucketWorkFiles::new(location(&url)?, bucket, runtime, stop)))
            }
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::BucketPmtiles { .. } => return Ok(None),
        };
        let folder = Target { url, options: self.options.clone(), known: None };
        Ok(Some(WorkFolder { name, notes: folder.notes()?, files }))
    }

    /// The work folder for the parts of a seed by one process: a folder among the target's notes.
    pub(crate) fn parts_folder(&self) -> Result<WorkFolder, CommandError> {
        let url = match self.folder_notes() {
            Some(notes) => TargetUrl::Directory(notes.path().join(PARTS)),
            None => TargetUrl::parse(&format!("{}{PARTS}/", self.bucket_notes()?.address()))?,
        };
        let name = format!("{}/", url.to_string().trim_end_matches('/'));
        let missing = || ShardsError::NoWorkFolder { text: name.clone() }.into();
        self.work_folder_at(url, name.clone())?.ok_or_else(missing)
    }

    /// True if tiles are stored as gzip, as they always are in archives.
    pub(crate) fn is_packed(&self) -> bool {
        self.url.is_archive() || self.options.tree.packs()
    }
}

/// A target's address in S3.
fn location<L: std::str::FromStr<Err = LocationError>>(url: &TargetUrl) -> Result<L, CommandError> {
    Ok(url.to_string().parse()?)
}

// A sink of any kind of target.

/// A sink of any kind. An enum, and no `Box<dyn Sink>`: the sinks have errors of their own, which the library's users
/// and tests match; `finish` takes a sink by value, so that nobody writes to it afterwards; and shards need the sink of
/// a prefix itself. An object-safe trait beside [`Sink`] would have the same forwarding, with boxes on top.
pub(crate) enum AnySink {
    Mbtiles(Mbtiles),
    Pmtiles(Pmtiles),
    Directory(Directory),
    Bucket(BucketTiles),
    BucketPmtiles(BucketPmtiles),
}

/// A sink of a target that is open and locked, and takes nothing yet: only [`OpenedSink::begin`] gives an [`AnySink`].
pub(crate) struct OpenedSink(AnySink);

impl OpenedSink {
    /// See [`Sink::needs`].
    pub(crate) fn needs(&self) -> Needs {
        self.0.needs()
    }

    /// True if no other run can write the target meanwhile.
    pub(crate) const fn is_locked(&self) -> bool {
        match &self.0 {
            AnySink::BucketPmtiles(sink) => sink.is_locked(),
            AnySink::Mbtiles(_) | AnySink::Pmtiles(_) | AnySink::Directory(_) | AnySink::Bucket(_) => true,
        }
    }

    /// See [`Sink::claim`].
    pub(crate) fn claim(&mut self) -> Result<(), TargetError> {
        self.0.claim()
    }

    /// See [`BucketTiles::shared_state`]; only a prefix has such versions.
    pub(crate) fn shared_state(&self, version: &SharedVersion) -> Result<SharedState, TargetError> {
        match &self.0 {
            AnySink::Bucket(sink) => Ok(sink.shared_state(version)?),
            _ => Ok(SharedState::Gone),
        }
    }

    /// Makes the run write and publish a version that shards have written; only a prefix has such versions.
    pub(crate) fn adopt(&mut self, version: SharedVersion) {
        if let AnySink::Bucket(sink) = &mut self.0 {
            sink.adopt(version);
        }
    }

    /// See [`Sink::begin`].
    pub(crate) fn begin(mut self, tileset: &Tileset) -> Result<(AnySink, Option<Described>), TargetError> {
        let before = self.0.begin(tileset)?;
        Ok((self.0, before))
    }
}

/// Calls the sink of the target's kind.
macro_rules! each {
    ($any:expr, $sink:ident => $call:expr) => {
        match $any {
            AnySink::Mbtiles($sink) => $call,
            AnySink::Pmtiles($sink) => $call,
            AnySink::Directory($sink) => $call,
            AnySink::Bucket($sink) => $call,
            AnySink::BucketPmtiles($sink) => $call,
        }
    };
}

impl Sink for AnySink {
    type Error = TargetError;

    fn needs(&self) -> Needs {
        each!(self, sink => sink.needs())
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, TargetError> {
        each!(self, sink => sink.begin(tileset).map_err(TargetError::from))
    }

    fn relative_address(&self) -> Option<String> {
        each!(self, sink => sink.relative_address())
    }

    fn claim(&mut self) -> Result<(), TargetError> {
        each!(self, sink => sink.claim().map_err(TargetError::from))
    }

    fn held(&self) -> Option<u64> {
        each!(self, sink => sink.held())
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, TargetError> {
        each!(self, sink => sink.write(edits).map_err(TargetError::from))
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, TargetError> {
        each!(self, sink => sink.finish(metadata).map_err(TargetError::from))
    }
}
