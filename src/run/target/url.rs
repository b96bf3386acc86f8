//! The kind of target that a text names.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::run::CommandError;

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

impl TargetUrl {
    /// Reads the text of a target.
    ///
    /// # Errors
    /// If the text names no kind of target.
    pub fn parse(text: &str) -> Result<TargetUrl, CommandError> {
        let wrong = || CommandError::NoTarget { text: text.to_owned() };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').ok_or_else(wrong)?;
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            return match ending(Path::new(&key)).as_deref() {
                _ if bucket.is_empty() => Err(wrong()),
                _ if key.is_empty() || key.ends_with('/') => Ok(TargetUrl::S3Prefix { bucket, prefix: key }),
                Some("pmtiles") => Ok(TargetUrl::S3Pmtiles { bucket, key }),
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
            TargetUrl::S3Prefix { bucket, prefix: key } | TargetUrl::S3Pmtiles { bucket, key } => {
                write!(f, "s3://{bucket}/{key}")
            }
        }
    }
}

/// True if a text is certainly not meant as a path: the URL of another service, standard output (`-`), or something that a shell should have
/// expanded. As a path, it would create a local folder of that name.
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
            ("s3://b/", TargetUrl::S3Prefix { bucket: bucket(), prefix: String::new() }),
            ("s3://b/p/q/", TargetUrl::S3Prefix { bucket: bucket(), prefix: "p/q/".to_owned() }),
            ("s3://b/p/x.pmtiles", TargetUrl::S3Pmtiles { bucket: bucket(), key: "p/x.pmtiles".to_owned() }),
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
