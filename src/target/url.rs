//! The kind of target that a text names, and what follows from it for the rest of the program: nobody else tells the
//! kinds apart, except for `run/target/targets.rs`, which opens them.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Scheme;

/// The forms of a target's text, for help texts and messages.
pub const TARGET_FORMS: &str =
    "a file.mbtiles, a file.pmtiles, a directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles";

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetUrlError {
    /// It may be meant as a path or as an address in a bucket, and names no kind.
    #[error("{text:?} names no target: write {TARGET_FORMS}")]
    NoKind { text: String },
    /// It is neither a path nor an address in a bucket.
    #[error(
        "{text:?} is no target that oar-tiles knows: write {TARGET_FORMS}. ~ and $NAME are not expanded; for a folder of this very name write ./ before it"
    )]
    Unknown { text: String },
}

/// How a target is stored, and where if it is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage<'u> {
    /// An archive: one file.
    File(&'u Path),
    /// A directory with files for each tile.
    Folder(&'u Path),
    /// A prefix of a bucket, with objects for each tile.
    Prefix,
    /// An archive in a bucket: one object.
    Object,
}

/// Where a target is: a file, a directory, a prefix or an object in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUrl {
    Mbtiles(PathBuf),
    Pmtiles(PathBuf),
    Directory(PathBuf),
    /// Tiles beneath a prefix of a bucket; the prefix is empty or ends with a slash.
    BucketPrefix {
        scheme: Scheme,
        bucket: String,
        prefix: String,
    },
    /// A PMTiles object in a bucket.
    BucketPmtiles {
        scheme: Scheme,
        bucket: String,
        key: String,
    },
}

impl TargetUrl {
    pub fn parse(text: &str) -> Result<TargetUrl, TargetUrlError> {
        let wrong = || TargetUrlError::NoKind { text: text.to_owned() };
        if let Some((scheme, rest)) = Scheme::split(text) {
            let (bucket, key) = rest.split_once('/').ok_or_else(wrong)?;
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            return match ending(Path::new(&key)).as_deref() {
                _ if bucket.is_empty() => Err(wrong()),
                _ if key.is_empty() || key.ends_with('/') => {
                    Ok(TargetUrl::BucketPrefix { scheme, bucket, prefix: key })
                }
                Some("pmtiles") => Ok(TargetUrl::BucketPmtiles { scheme, bucket, key }),
                _ => Err(wrong()),
            };
        }
        if is_no_path(text) {
            return Err(TargetUrlError::Unknown { text: text.to_owned() });
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

    pub(crate) fn storage(&self) -> Storage<'_> {
        match self {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => Storage::File(path),
            TargetUrl::Directory(path) => Storage::Folder(path),
            TargetUrl::BucketPrefix { .. } => Storage::Prefix,
            TargetUrl::BucketPmtiles { .. } => Storage::Object,
        }
    }

    /// True if the target is one file or object.
    pub(crate) fn is_archive(&self) -> bool {
        matches!(self.storage(), Storage::File(_) | Storage::Object)
    }

    pub(crate) fn is_in_bucket(&self) -> bool {
        matches!(self.storage(), Storage::Prefix | Storage::Object)
    }

    /// True if each tile is an object in a bucket, with headers of its own.
    pub(crate) fn stores_objects(&self) -> bool {
        matches!(self.storage(), Storage::Prefix)
    }

    /// True if edits replace it as a whole, so that many small changes are slow.
    pub(crate) const fn is_replaced_by_edits(&self) -> bool {
        matches!(self, TargetUrl::Pmtiles(_) | TargetUrl::BucketPmtiles { .. })
    }

    pub(crate) fn mbtiles_file(&self) -> Option<&Path> {
        match self {
            TargetUrl::Mbtiles(path) => Some(path),
            _ => None,
        }
    }

    /// True if both are the same target.
    pub(crate) fn is(&self, other: &TargetUrl) -> bool {
        let real = |url: &TargetUrl| match url.storage() {
            Storage::File(path) | Storage::Folder(path) => path.canonicalize().ok(),
            Storage::Prefix | Storage::Object => None,
        };
        self == other || matches!((real(self), real(other)), (Some(one), Some(two)) if one == two)
    }

    /// The name for a tileset that has none.
    pub(crate) fn stem(&self) -> String {
        let path = match self {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) | TargetUrl::Directory(path) => path.as_path(),
            TargetUrl::BucketPrefix { prefix, .. } => Path::new(prefix),
            TargetUrl::BucketPmtiles { key, .. } => Path::new(key),
        };
        path.file_stem().map_or_else(|| "tiles".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) | TargetUrl::Directory(path) => path.display().fmt(f),
            TargetUrl::BucketPrefix { scheme, bucket, prefix: key }
            | TargetUrl::BucketPmtiles { scheme, bucket, key } => {
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

pub(crate) fn is_archive_name(name: &str) -> bool {
    matches!(ending(Path::new(name)).as_deref(), Some("mbtiles" | "pmtiles"))
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
            ("s3://b/", TargetUrl::BucketPrefix { scheme: Scheme::S3, bucket: bucket(), prefix: String::new() }),
            (
                "az://b/p/x.pmtiles",
                TargetUrl::BucketPmtiles { scheme: Scheme::Azure, bucket: bucket(), key: "p/x.pmtiles".to_owned() },
            ),
            (
                "s3://b/p/q/",
                TargetUrl::BucketPrefix { scheme: Scheme::S3, bucket: bucket(), prefix: "p/q/".to_owned() },
            ),
            (
                "s3://b/p/x.pmtiles",
                TargetUrl::BucketPmtiles { scheme: Scheme::S3, bucket: bucket(), key: "p/x.pmtiles".to_owned() },
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
    fn what_names_no_target_is_refused_with_the_forms_of_targets() {
        for text in
            ["", "tiles.zip", "Cargo.toml", "LICENSE", "s3://", "s3://b", "s3:///p/", "s3://b/p", "s3://b/x.mbtiles"]
        {
            let error = TargetUrl::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} names no target: write {TARGET_FORMS}"));
        }
    }
}
