//! Targets: the kind of target that a text names, how it is opened, and whether a run may replace what is there.
//!
//! | file | what |
//! |---|---|
//! | `targets` | how targets of each kind are opened and written; a sink of any kind; whether a target belongs to the tileset of a run; whether a run would leave too few of a target's tiles |

mod targets;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use targets::location;

use super::describe::database_of;
use super::{CommandError, KnownState};
use crate::manifest::{Manifest, Publication, Region, configuration_of};
use crate::stop::Stop;
use crate::target::{
    BeforeManifest, ChangeListWriter, Intent, IntentKind, OpenMode, PartialScope, ReadError, Scheme, Scope,
    SharedVersion, TargetError, VersionTiles, give_up_shared, remove_archive, remove_prefix,
};
use crate::tile::ZoomList;

pub(crate) use targets::{AnySink, TargetOptions, TilesBefore, TilesetNames, refuse_other, refuse_shrink};

/// A target: where it is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its kind, and its path or address.
    pub url: TargetUrl,
    /// How it is reached.
    pub(crate) options: TargetOptions,
    /// What the manifest of its family says that it shows, if it is a variant whose family was seeded.
    pub(crate) known: Option<KnownState>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Target {
    /// The same target with another stop.
    pub(crate) fn under(&self, stop: &Stop) -> Target {
        Target { options: self.options.under(stop), ..self.clone() }
    }

    /// Another target with the same options.
    pub(crate) fn beside(&self, text: &str) -> Result<Target, CommandError> {
        self.options.target(text)
    }

    /// The partial regions that a run of all tiles gives up; an archive has none, because it is replaced as a whole.
    /// May wait for a server.
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

    /// Deletes every object of a target in S3. May wait for a server.
    pub(crate) fn remove_objects(&self) -> Result<(), CommandError> {
        let TargetOptions { s3, runtime, .. } = &self.options;
        match &self.url {
            TargetUrl::S3Prefix { .. } => remove_prefix(location(&self.url)?, s3.clone(), runtime),
            TargetUrl::S3Pmtiles { .. } => remove_archive(&location(&self.url)?, s3.clone(), runtime),
            TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::Directory(_) => Ok(()),
        }
        .map_err(|error| TargetError::from(error).into())
    }

    /// Everything that is notified of what a run with this publication changes, before its manifest becomes visible.
    pub(crate) fn before_manifest(
        &self,
        before: Option<&Publication>,
        publication: &Publication,
    ) -> Result<Vec<Arc<dyn BeforeManifest>>, CommandError> {
        let notes = self.notes()?;
        let outbox = self.options.outbox_writer(Arc::clone(&notes), publication);
        let (before, publication) = (before.cloned(), publication.clone());
        let mut listeners: Vec<Arc<dyn BeforeManifest>> = self.options.listeners.clone();
        listeners.push(Arc::new(ChangeListWriter { notes, before, publication }));
        listeners.extend(outbox);
        Ok(listeners)
    }

    /// The same target, with runs that also notify `listener`.
    pub(crate) fn with_listener(mut self, listener: Arc<dyn BeforeManifest>) -> Target {
        self.options.listeners.push(listener);
        self
    }

    /// The same target, with runs that also notify the listeners of `other`.
    pub(crate) fn telling_listeners_of(mut self, other: &Target) -> Target {
        self.options.listeners.extend(other.options.listeners.iter().cloned());
        self
    }

    /// True if the target is a directory or a prefix that is published as versions.
    pub(crate) fn publishes_versions(&self) -> bool {
        !self.is_archive() && self.options.writes_versions()
    }

    /// True if shards can write a new version of the target themselves. Each shard only adds tiles, with conditional
    /// writes.
    pub(crate) fn can_share_version(&self) -> bool {
        matches!(self.url, TargetUrl::S3Prefix { .. })
            && self.options.writes_versions()
            && self.options.tree.template.is_versioned()
            && self.options.s3.section.conditional_writes
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
        let (s3, runtime) = (self.options.s3.clone(), &self.options.runtime);
        Ok(give_up_shared(location(&self.url)?, s3, version, runtime).map_err(TargetError::from)?)
    }

    /// Opens a version for adding tiles. `layers` are the names of the layers by their ids. May wait for a server.
    pub(crate) fn version_tiles(&self, version: &str, layers: &[String]) -> Result<VersionTiles, CommandError> {
        let TargetOptions { tree, s3, runtime, stop, .. } = &self.options;
        let template = tree.template.clone().with_layers(layers.iter().map(String::as_str)).with_version(version);
        let tiles = VersionTiles::open(location(&self.url)?, s3.clone(), template, tree.packs(), runtime, stop);
        Ok(tiles.map_err(TargetError::from)?)
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

// Unfinished runs of a target: whether a reseed repairs what they left, and which regions a seed has to cover if not.

/// Why a reseed cannot repair what an unfinished run left, and what to do; `None` if it can. It can if the unfinished
/// run may have changed only tiles for which the manifest speaks, and rendered them from the same tables with the same
/// configuration. Such a tile shows a later state than the manifest, or than the snapshot that the intent names, and
/// the reseed renders what changed since both anyway.
pub(crate) fn why_not_repairable(intent: &Intent, manifest: &Manifest) -> Option<String> {
    let left = match intent.run {
        IntentKind::Copy => return Some(format!("{intent} has not finished: copy the tiles again")),
        IntentKind::Replaced => format!("tiles of {intent} are still there"),
        IntentKind::Seed | IntentKind::Reseed | IntentKind::Unknown => format!("{intent} has not finished"),
    };
    let (theirs, ours) = (&intent.fingerprint, &manifest.fingerprint);
    if configuration_of(theirs) != configuration_of(ours) {
        return Some(format!(
            "{left}, and its tiles are of another configuration (their fingerprint is {theirs}, that of the manifest {ours}): seed with --force, and with its zooms and boxes, to replace them"
        ));
    }
    if theirs != ours {
        return Some(format!("{left}, and another version of oar-tiles drew its tiles ({theirs}, and not {ours})"));
    }
    if intent.database.as_deref() != Some(&database_of(manifest)) {
        return Some(format!("{left}, and its tiles show another database or other tables"));
    }
    let parts: Vec<Scope> = manifest.regions().filter_map(|part| Scope::read(&part.zooms, &part.bbox)).collect();
    if !intent.scope().is_within(&parts) {
        let held: Vec<String> = manifest.regions().map(|part| part.zooms).collect();
        return Some(format!(
            "{left}, and reaches beyond what the manifest speaks for (zooms {}): seed with its zooms and boxes",
            held.join(" and ")
        ));
    }
    None
}

/// The regions to seed so that nothing is left of an unfinished run: first the regions where its tiles lie, then those
/// for which the manifest speaks. The region of the last seed comes last. May wait for a server.
pub(crate) fn regions_to_seed(
    target: &Target,
    manifest: &Manifest,
    unfinished: &[Intent],
) -> Result<Vec<Region>, CommandError> {
    let mut regions = Vec::new();
    if unfinished.iter().any(|intent| why_not_repairable(intent, manifest).is_some()) {
        let tiles = target.reader()?.list()?;
        for intent in unfinished {
            let scope = intent.scope();
            let zooms = tiles.iter().filter(|id| scope.holds(**id)).map(|id| id.coord.zoom());
            if let Some(zooms) = ZoomList::of(zooms) {
                regions.push(Region {
                    zooms: zooms.to_string(),
                    bbox: intent.bbox.clone(),
                    snapshot: None,
                    witness: None,
                });
            }
        }
    }
    let parts: Vec<Region> = manifest.regions().collect();
    regions.extend(parts.into_iter().rev());
    let is_within = |inner: &Region, outer: &Region| {
        let scopes = Scope::read(&inner.zooms, &inner.bbox).zip(Scope::read(&outer.zooms, &outer.bbox));
        scopes.is_some_and(|(inner, outer)| inner.is_within(&[outer]))
    };
    let mut needed: Vec<Region> = Vec::new();
    for region in regions {
        if !needed.iter().any(|other| is_within(&region, other)) {
            needed.retain(|other| !is_within(other, &region));
            needed.push(region);
        }
    }
    Ok(needed)
}

// The kind of target that a text names.

/// Where a target is: a file, a directory, a prefix or an object in S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUrl {
    /// An MBTiles file.
    Mbtiles(PathBuf),
    /// A PMTiles file.
    Pmtiles(PathBuf),
    /// A directory of tiles.
    Directory(PathBuf),
    /// Tiles beneath a prefix of a bucket; the prefix is empty or ends with a slash.
    S3Prefix { scheme: Scheme, bucket: String, prefix: String },
    /// A PMTiles object in a bucket.
    S3Pmtiles {
        scheme: Scheme,
        bucket: String,
        /// The object's key.
        key: String,
    },
}

impl TargetUrl {
    /// Reads the text of a target.
    ///
    /// # Errors
    /// If the text names no kind of target.
    pub fn parse(text: &str) -> Result<TargetUrl, CommandError> {
        let wrong = || CommandError::NoTarget { text: text.to_owned() };
        if let Some((scheme, rest)) = Scheme::split(text) {
            let (bucket, key) = rest.split_once('/').ok_or_else(wrong)?;
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            return match ending(Path::new(&key)).as_deref() {
                _ if bucket.is_empty() => Err(wrong()),
                _ if key.is_empty() || key.ends_with('/') => Ok(TargetUrl::S3Prefix { scheme, bucket, prefix: key }),
                Some("pmtiles") => Ok(TargetUrl::S3Pmtiles { scheme, bucket, key }),
                _ => Err(wrong()),
            };
        }
        if is_no_path(text) {
            return Err(CommandError::UnknownTarget { text: text.to_owned() });
        }
        let path = PathBuf::from(text);
        let folder = text.ends_with(['/', std::path::MAIN_SEPARATOR]);
        match ending(&path).as_deref() {
            _ if folder => Ok(TargetUrl::Directory(path)),
            Some("mbtiles") => Ok(TargetUrl::Mbtiles(path)),
            Some("pmtiles") => Ok(TargetUrl::Pmtiles(path)),
            _ if path.is_dir() => Ok(TargetUrl::Directory(path)),
            None if !text.is_empty() && !path.exists() => Ok(TargetUrl::Directory(path)),
            _ => Err(wrong()),
        }
    }

    /// True if both are the same target.
    pub(crate) fn is(&self, other: &TargetUrl) -> bool {
        let real = |url: &TargetUrl| match url {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) | TargetUrl::Directory(path) => {
                path.canonicalize().ok()
            }
            TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => None,
        };
        self == other || matches!((real(self), real(other)), (Some(one), Some(two)) if one == two)
    }

    /// The name for a tileset that has none.
    pub(crate) fn stem(&self) -> String {
        let path = match self {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) | TargetUrl::Directory(path) => path.as_path(),
            TargetUrl::S3Prefix { prefix, .. } => Path::new(prefix),
            TargetUrl::S3Pmtiles { key, .. } => Path::new(key),
        };
        path.file_stem().map_or_else(|| "tiles".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) | TargetUrl::Directory(path) => path.display().fmt(f),
            TargetUrl::S3Prefix { scheme, bucket, prefix: key } | TargetUrl::S3Pmtiles { scheme, bucket, key } => {
                write!(f, "{}://{bucket}/{key}", scheme.name())
            }
        }
    }
}

/// True if a text is certainly not meant as a path: the URL of another service, standard output (`-`), or something
/// that a shell should have expanded. As a path, it would create a local folder of that name.
fn is_no_path(text: &str) -> bool {
    let is_scheme = |front: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
        // A single letter is a drive of another system.
        front.len() > 1 && front.starts_with(|c: char| c.is_ascii_alphabetic()) && front.chars().all(is_letter)
    };
    text == "-" || text.starts_with(['~', '$']) || text.split_once(":/").is_some_and(|(front, _)| is_scheme(front))
}

fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_text_says_what_it_is() {
        let bucket = || "b".to_owned();
        for (text, url) in [
            ("a/b.mbtiles", TargetUrl::Mbtiles("a/b.mbtiles".into())),
            ("A.MBTILES", TargetUrl::Mbtiles("A.MBTILES".into())),
            ("b.pmtiles", TargetUrl::Pmtiles("b.pmtiles".into())),
            ("tiles/", TargetUrl::Directory("tiles/".into())),
            ("tiles.v2/", TargetUrl::Directory("tiles.v2/".into())),
            ("nowhere/tiles", TargetUrl::Directory("nowhere/tiles".into())),
            ("src", TargetUrl::Directory("src".into())),
            (".", TargetUrl::Directory(".".into())),
            ("s3://b/", TargetUrl::S3Prefix { scheme: Scheme::S3, bucket: bucket(), prefix: String::new() }),
            (
                "az://b/p/x.pmtiles",
                TargetUrl::S3Pmtiles { scheme: Scheme::Azure, bucket: bucket(), key: "p/x.pmtiles".to_owned() },
            ),
            ("s3://b/p/q/", TargetUrl::S3Prefix { scheme: Scheme::S3, bucket: bucket(), prefix: "p/q/".to_owned() }),
            (
                "s3://b/p/x.pmtiles",
                TargetUrl::S3Pmtiles { scheme: Scheme::S3, bucket: bucket(), key: "p/x.pmtiles".to_owned() },
            ),
        ] {
            assert_eq!(TargetUrl::parse(text).unwrap(), url, "{text}");
            assert_eq!(url.to_string(), text);
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
            "abfs://bucket/prefix/",
            "abfs://bucket/x.pmtiles",
            "https://example.org/tiles/",
            "http://example.org/t.mbtiles",
            "file:///srv/tiles/",
            "wasb://container/x",
            "S3://bucket/prefix/",
            "s3:/bucket/prefix/",
            "postgresql://host/db",
        ] {
            let error = TargetUrl::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is no target that oar-tiles knows: write a file.mbtiles")),
                "{error}"
            );
        }
        for text in ["./-", "./~", "a~/", "tiles~", "a:b/", "C:/tiles/", "x/s3:/y/", "./https:/x/"] {
            assert_eq!(TargetUrl::parse(text).unwrap(), TargetUrl::Directory(text.into()), "{text}");
        }
    }

    #[test]
    fn what_names_no_target_is_refused_with_the_four_kinds() {
        for text in
            ["", "tiles.zip", "Cargo.toml", "LICENSE", "s3://", "s3://b", "s3:///p/", "s3://b/p", "s3://b/x.mbtiles"]
        {
            let error = TargetUrl::parse(text).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "{text:?} names no target: write a file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/ (or s3://bucket/file.pmtiles)"
                )
            );
        }
    }
}
