//! Where a target's text becomes a concrete reader or sink: the one place that knows all kinds.

use std::fmt;
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::config::Settings;
use tokio::runtime::Handle;

use crate::sink::{
    Described, Directory, DirectoryReader, Finished, Latest, LocationError, Mbtiles, MbtilesReader, Metadata, Needs,
    OpenMode, Pmtiles, PmtilesReader, Publish, ReadError, S3, S3Object, S3Options, S3Pmtiles, S3Reader, Sink,
    TargetError, TileEdit, TileReader, Tileset, TreeOptions, Written, s3_versions,
};
use crate::stop::Stop;

/// Where tiles are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// An MBTiles file.
    Mbtiles(PathBuf),
    /// A PMTiles file.
    Pmtiles(PathBuf),
    /// A directory of tiles.
    Directory(PathBuf),
    /// Tiles beneath a prefix of a bucket; the prefix is empty or ends with a slash.
    S3Prefix {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// A PMTiles object in a bucket.
    S3Pmtiles {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
    },
}

impl Place {
    /// What a target's text names.
    pub(crate) fn parse(text: &str) -> Result<Place, CommandError> {
        let wrong = || CommandError::NoTarget { text: text.to_owned() };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').ok_or_else(wrong)?;
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            return match ending(Path::new(&key)).as_deref() {
                _ if bucket.is_empty() => Err(wrong()),
                _ if key.is_empty() || key.ends_with('/') => Ok(Place::S3Prefix { bucket, prefix: key }),
                Some("pmtiles") => Ok(Place::S3Pmtiles { bucket, key }),
                _ => Err(wrong()),
            };
        }
        if is_no_path(text) {
            return Err(CommandError::UnknownTarget { text: text.to_owned() });
        }
        let path = PathBuf::from(text);
        let folder = text.ends_with(['/', std::path::MAIN_SEPARATOR]);
        match ending(&path).as_deref() {
            _ if folder => Ok(Place::Directory(path)),
            Some("mbtiles") => Ok(Place::Mbtiles(path)),
            Some("pmtiles") => Ok(Place::Pmtiles(path)),
            _ if path.is_dir() => Ok(Place::Directory(path)),
            None if !text.is_empty() && !path.exists() => Ok(Place::Directory(path)),
            _ => Err(wrong()),
        }
    }

    /// Whether both are the same target.
    pub(crate) fn is(&self, other: &Place) -> bool {
        let real = |place: &Place| match place {
            Place::Mbtiles(path) | Place::Pmtiles(path) | Place::Directory(path) => path.canonicalize().ok(),
            Place::S3Prefix { .. } | Place::S3Pmtiles { .. } => None,
        };
        self == other || matches!((real(self), real(other)), (Some(one), Some(two)) if one == two)
    }

    /// What a tileset without a name is called.
    pub(crate) fn stem(&self) -> String {
        let path = match self {
            Place::Mbtiles(path) | Place::Pmtiles(path) | Place::Directory(path) => path.as_path(),
            Place::S3Prefix { prefix, .. } => Path::new(prefix),
            Place::S3Pmtiles { key, .. } => Path::new(key),
        };
        path.file_stem().map_or_else(|| "tiles".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Mbtiles(path) | Place::Pmtiles(path) | Place::Directory(path) => path.display().fmt(f),
            Place::S3Prefix { bucket, prefix: key } | Place::S3Pmtiles { bucket, key } => {
                write!(f, "s3://{bucket}/{key}")
            }
        }
    }
}

/// Whether a text is certainly not meant as a path: an address of some other service, standard output, or what a shell would have
/// replaced. It would make a local folder of that name.
fn is_no_path(text: &str) -> bool {
    let is_scheme = |front: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
        // One letter is a drive of another system.
        front.len() > 1 && front.starts_with(|c: char| c.is_ascii_alphabetic()) && front.chars().all(is_letter)
    };
    text == "-" || text.starts_with(['~', '$']) || text.split_once(":/").is_some_and(|(front, _)| is_scheme(front))
}

fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}

/// How targets are reached and written.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    tree: TreeOptions,
    s3: S3Options,
    runtime: Handle,
    stop: Stop,
}

impl Reach {
    /// As the settings say. To be called on a runtime, on which requests to servers run.
    pub(crate) fn new(settings: &Settings, force: bool, stop: &Stop) -> Reach {
        let tree = TreeOptions { force, ..settings.tree.clone() };
        Reach { tree, s3: settings.s3.clone(), runtime: Handle::current(), stop: stop.clone() }
    }

    /// A reader of a target. May wait for a server: not to be called where nothing may.
    pub(crate) fn reader(&self, place: &Place) -> Result<Box<dyn TileReader>, CommandError> {
        Ok(match place {
            Place::Mbtiles(path) => Box::new(MbtilesReader::open(path)?),
            Place::Pmtiles(path) => Box::new(PmtilesReader::open(path)?),
            Place::Directory(path) => Box::new(DirectoryReader::open(path, &self.tree.template)?),
            Place::S3Prefix { .. } => {
                let template = &self.tree.template;
                Box::new(S3Reader::open(location(place)?, self.s3.clone(), template, self.runtime.clone())?)
            }
            Place::S3Pmtiles { .. } => {
                Box::new(S3Object::open(&location(place)?, self.s3.clone(), self.runtime.clone())?.pmtiles()?)
            }
        })
    }

    /// A reader of a target that is about to be written; `None` if nothing is there that can be read. May wait for a server: not to be
    /// called where nothing may.
    pub(crate) fn reader_of_what_is_there(&self, place: &Place) -> Result<Option<Box<dyn TileReader>>, CommandError> {
        let reader = match place {
            // A look at it as other readers take it may leave files beside it.
            Place::Mbtiles(path) => {
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
            Err(CommandError::Read(unreadable)) => {
                tracing::info!("{unreadable}");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Opens a target for writing. May wait for a server: not to be called where nothing may.
    pub(crate) fn sink(&self, place: &Place, mode: OpenMode) -> Result<AnySink, CommandError> {
        let sink = match place {
            Place::Mbtiles(path) => AnySink::Mbtiles(Mbtiles::open(path, mode, &self.stop).map_err(TargetError::from)?),
            Place::Pmtiles(path) => AnySink::Pmtiles(Pmtiles::create(path, &self.stop).map_err(TargetError::from)?),
            Place::Directory(path) => {
                AnySink::Directory(Directory::create(path, self.tree.clone(), &self.stop).map_err(TargetError::from)?)
            }
            Place::S3Prefix { .. } => AnySink::S3(
                S3::create(location(place)?, self.s3.clone(), self.tree.clone(), self.runtime.clone(), &self.stop)
                    .map_err(TargetError::from)?,
            ),
            Place::S3Pmtiles { .. } => AnySink::S3Pmtiles(
                S3Pmtiles::create(&location(place)?, self.s3.clone(), self.runtime.clone(), &self.stop)
                    .map_err(TargetError::from)?,
            ),
        };
        Ok(sink)
    }

    /// The versions of a prefix in S3, after the map was switched if that is wanted.
    pub(crate) fn s3_versions(&self, place: &Place, switch: bool, to: Option<&str>) -> Result<Latest, CommandError> {
        if switch {
            let tree = self.tree.clone();
            let s3 = S3::create(location(place)?, self.s3.clone(), tree, self.runtime.clone(), &self.stop);
            return Ok(s3.and_then(|s3| s3.rollback(to)).map_err(TargetError::from)?);
        }
        s3_versions(location(place)?, self.s3.clone(), &self.runtime)?
            .ok_or_else(|| CommandError::Unversioned { place: place.to_string() })
    }

    /// Whether whatever is there may be written over.
    pub(crate) fn forces(&self) -> bool {
        self.tree.force
    }

    /// Whether a directory or a prefix is written as a new version.
    pub(crate) fn writes_versions(&self) -> bool {
        self.tree.publish != Publish::InPlace
    }

    /// Whether a target stores tiles as gzip; archives always do.
    pub(crate) fn packed(&self, place: &Place) -> bool {
        match place {
            Place::Mbtiles(_) | Place::Pmtiles(_) | Place::S3Pmtiles { .. } => true,
            Place::Directory(_) | Place::S3Prefix { .. } => self.tree.packed,
        }
    }
}

/// Where in S3 a target lies.
fn location<L: std::str::FromStr<Err = LocationError>>(place: &Place) -> Result<L, CommandError> {
    Ok(place.to_string().parse()?)
}

/// A sink of any kind.
pub(crate) enum AnySink {
    Mbtiles(Mbtiles),
    Pmtiles(Pmtiles),
    Directory(Directory),
    S3(S3),
    S3Pmtiles(S3Pmtiles),
}

/// Calls the sink that there is.
macro_rules! each {
    ($any:expr, $sink:ident => $call:expr) => {
        match $any {
            AnySink::Mbtiles($sink) => $call.map_err(TargetError::from),
            AnySink::Pmtiles($sink) => $call.map_err(TargetError::from),
            AnySink::Directory($sink) => $call.map_err(TargetError::from),
            AnySink::S3($sink) => $call.map_err(TargetError::from),
            AnySink::S3Pmtiles($sink) => $call.map_err(TargetError::from),
        }
    };
}

impl Sink for AnySink {
    type Error = TargetError;

    fn needs(&self) -> Needs {
        match self {
            AnySink::Mbtiles(sink) => sink.needs(),
            AnySink::Pmtiles(sink) => sink.needs(),
            AnySink::Directory(sink) => sink.needs(),
            AnySink::S3(sink) => sink.needs(),
            AnySink::S3Pmtiles(sink) => sink.needs(),
        }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, TargetError> {
        each!(self, sink => sink.begin(tileset))
    }

    fn relative_address(&self) -> Option<String> {
        match self {
            AnySink::Directory(sink) => sink.relative_address(),
            AnySink::S3(sink) => sink.relative_address(),
            AnySink::Mbtiles(_) | AnySink::Pmtiles(_) | AnySink::S3Pmtiles(_) => None,
        }
    }

    fn claim(&mut self) -> Result<(), TargetError> {
        each!(self, sink => sink.claim())
    }

    fn held(&self) -> Option<u64> {
        match self {
            AnySink::Mbtiles(sink) => sink.held(),
            AnySink::Pmtiles(sink) => sink.held(),
            AnySink::Directory(sink) => sink.held(),
            AnySink::S3(sink) => sink.held(),
            AnySink::S3Pmtiles(sink) => sink.held(),
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, TargetError> {
        each!(self, sink => sink.write(edits))
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, TargetError> {
        each!(self, sink => sink.finish(metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_text_says_what_it_is() {
        let bucket = || "b".to_owned();
        for (text, place) in [
            ("a/b.mbtiles", Place::Mbtiles("a/b.mbtiles".into())),
            ("A.MBTILES", Place::Mbtiles("A.MBTILES".into())),
            ("b.pmtiles", Place::Pmtiles("b.pmtiles".into())),
            ("tiles/", Place::Directory("tiles/".into())),
            ("tiles.v2/", Place::Directory("tiles.v2/".into())),
            ("nowhere/tiles", Place::Directory("nowhere/tiles".into())),
            ("src", Place::Directory("src".into())),
            (".", Place::Directory(".".into())),
            ("s3://b/", Place::S3Prefix { bucket: bucket(), prefix: String::new() }),
            ("s3://b/p/q/", Place::S3Prefix { bucket: bucket(), prefix: "p/q/".to_owned() }),
            ("s3://b/p/x.pmtiles", Place::S3Pmtiles { bucket: bucket(), key: "p/x.pmtiles".to_owned() }),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place, "{text}");
            assert_eq!(place.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_path_makes_no_folder() {
        for text in [
            "-",
            "~",
            "~/tiles",
            "~maps/tiles/",
            "~/t.mbtiles",
            "$HOME/tiles",
            "gs://bucket/prefix/",
            "gs://bucket/x.pmtiles",
            "https://example.org/tiles/",
            "http://example.org/t.mbtiles",
            "file:///srv/tiles/",
            "az://container/x",
            "S3://bucket/prefix/",
            "s3:/bucket/prefix/",
            "postgresql://host/db",
        ] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is no target that oar-tiles knows: write a file.mbtiles")),
                "{error}"
            );
        }
        for text in ["./-", "./~", "a~/", "tiles~", "a:b/", "C:/tiles/", "x/s3:/y/", "./https:/x/"] {
            assert_eq!(Place::parse(text).unwrap(), Place::Directory(text.into()), "{text}");
        }
    }

    #[test]
    fn what_names_no_target_is_refused_with_the_four_kinds() {
        for text in
            ["", "tiles.zip", "Cargo.toml", "LICENSE", "s3://", "s3://b", "s3:///p/", "s3://b/p", "s3://b/x.mbtiles"]
        {
            let error = Place::parse(text).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "{text:?} names no target: write a file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/ (or s3://bucket/file.pmtiles)"
                )
            );
        }
    }
}
