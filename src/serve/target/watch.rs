//! How the server notices that the target has changed.

use std::fs::Metadata as FileMetadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How the server notices that the target has changed.
#[derive(Debug, Clone)]
pub enum ChangeDetection {
    /// By the metadata of an archive and SQLite's files beside it, checked at each request. Files may appear and
    /// disappear.
    Archive(Vec<PathBuf>),
    /// By the metadata of the notes of a directory, checked at each request. They hold no tiles.
    Notes(Vec<PathBuf>),
    /// By reading the target's description once every [`POLL`]: for a target in a bucket.
    Description,
}

impl ChangeDetection {
    /// The files whose metadata are checked.
    pub(crate) fn files(&self) -> &[PathBuf] {
        match self {
            ChangeDetection::Archive(paths) | ChangeDetection::Notes(paths) => paths,
            ChangeDetection::Description => &[],
        }
    }
}

/// The interval at which the description of a target in a bucket is read.
pub const POLL: Duration = Duration::from_secs(1);

/// A file system records times in steps of some milliseconds. If a file was written more recently than this, another
/// write may leave its time unchanged, so what was read from it is not cached.
const SETTLED: Duration = Duration::from_millis(50);

/// The metadata of the watched files: device, inode, length and time of the last write of each file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(u64, u64, u64, SystemTime)>>);

impl Stamp {
    /// The metadata of these files.
    pub(crate) fn of(paths: &[PathBuf]) -> Stamp {
        Stamp(paths.iter().map(|path| std::fs::metadata(path).ok().map(|file| facts(&file))).collect())
    }

    /// True if the last write was long enough ago that another write will have another time.
    pub(crate) fn is_settled(&self) -> bool {
        let now = SystemTime::now();
        // A time in the future comes from another clock, so its age is unknown.
        self.0.iter().flatten().all(|(.., written)| now.duration_since(*written).map_or(true, |age| age > SETTLED))
    }
}

fn facts(file: &FileMetadata) -> (u64, u64, u64, SystemTime) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino(), file.len(), file.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// The files by which a change of an archive is noticed: the archive itself, and the file that SQLite writes first (in
/// WAL mode the write-ahead log).
pub fn files_of_archive(path: &Path) -> ChangeDetection {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    ChangeDetection::Archive(vec![path.to_owned(), beside("-wal")])
}

/// The files by which a change of a directory is noticed. Every publish writes one of the first two as its last step; a
/// run that replaces tiles one by one writes the third as its first step.
pub fn files_of_directory(path: &Path) -> ChangeDetection {
    ChangeDetection::Notes(["metadata.json", "latest.json", ".oar-tiles/begun.json"].map(|name| path.join(name)).into())
}
