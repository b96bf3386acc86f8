//! How targets of each kind are opened and written.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::sink::AnySink;
use super::{Target, TargetUrl};
use crate::config::TilesetSettings;
use crate::manifest::Publication;
use crate::purge::{Outbox, OutboxWriter, queue_name};
use crate::run::CommandError;
use crate::shards::{ShardsError, WorkFolder};
use crate::sink::{
    BeforeManifest, Directory, DirectoryReader, FolderNotes, Latest, LocationError, Mbtiles, MbtilesReader, NoteStore,
    OpenMode, Pmtiles, PmtilesReader, Publishing, ReadError, RewrittenHeaders, S3, S3Notes, S3Object, S3Options,
    S3Pmtiles, S3Reader, S3WorkObjects, TargetError, TileReader, TreeOptions, WorkFiles, s3_versions,
};
use crate::stop::Stop;

/// How targets are opened and written.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub(super) tree: TreeOptions,
    pub(super) s3: S3Options,
    /// The queues of the CDNs that are notified of what a run changes.
    purge_queues: Arc<[String]>,
    pub(super) runtime: Handle,
    pub(super) stop: Stop,
    /// Notified of what a run changed before its manifest becomes visible, in addition to the outbox that is kept with the target.
    pub(super) listeners: Vec<Arc<dyn BeforeManifest>>,
}

impl Targets {
    /// The options from a tileset's settings. With `force`, a run may overwrite whatever is there. Must be called on a runtime, which then runs
    /// requests to servers.
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

    /// A reader of a target. May wait for a server, so it must not be called on a thread of the runtime.
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

    /// A reader of a target that is about to be written; `None` if there is nothing that can be read. May wait for a server, so it must not be
    /// called on a thread of the runtime.
    pub(crate) fn reader_of_what_is_there(&self, url: &TargetUrl) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        let reader = match url {
            // Opened in a way that creates no files next to it.
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
            // For a first seed there is nothing to report.
            Err(CommandError::Read(ReadError::Missing { .. })) => Ok(None),
            Err(CommandError::Read(unreadable)) => {
                tracing::info!("{unreadable}");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Opens a target for writing. May wait for a server, so it must not be called on a thread of the runtime.
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

    /// The versions of a prefix in S3. If `switch`, the map is switched to another version first.
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
    pub(super) fn rewrite_headers(&self, url: &TargetUrl, layers: &[String]) -> Result<RewrittenHeaders, CommandError> {
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

    /// What writes a run's changes to the outbox; `None` if there are no CDNs.
    pub(super) fn outbox_writer(
        &self,
        notes: Arc<dyn NoteStore>,
        publication: &Publication,
    ) -> Option<Arc<dyn BeforeManifest>> {
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
    pub(super) fn work_folder(&self, text: &str, output: &TargetUrl) -> Result<WorkFolder, CommandError> {
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

    /// True if a target stores tiles as gzip, as archives always do.
    pub(crate) fn packed(&self, url: &TargetUrl) -> bool {
        match url {
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. } => true,
            TargetUrl::Directory(_) | TargetUrl::S3Prefix { .. } => self.tree.packed,
        }
    }
}

/// A target's address in S3.
pub(super) fn location<L: std::str::FromStr<Err = LocationError>>(url: &TargetUrl) -> Result<L, CommandError> {
    Ok(url.to_string().parse()?)
}
