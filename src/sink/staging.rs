//! A file written beside its target, then synced and renamed over it; and what it may replace.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The folder that an output is to lie in is not there, be the output a file or a directory.
#[derive(Debug, thiserror::Error)]
#[error("the folder {} of the output {} does not exist: make it, or choose another --output", folder.display(), target.display())]
pub struct NoFolder {
    /// The folder.
    pub folder: PathBuf,
    /// The output.
    pub target: PathBuf,
}

/// Why a file could not be staged or published.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The folder is not there.
    #[error(transparent)]
    NoFolder(#[from] NoFolder),
    /// The output is a folder.
    #[error("the output {} is a directory: name a file, such as {}", target.display(), target.join("facilities.mbtiles").display())]
    IsDirectory {
        /// The output.
        target: PathBuf,
    },
    /// The output is something else, and not to be replaced.
    #[error("{} is no {kind} ({what}): it is left alone. Choose another --output, or remove it first", path.display())]
    Foreign {
        /// The output.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What it is instead.
        what: &'static str,
    },
    /// It cannot be told what the output is.
    #[error("cannot read {} to see whether it is {kind} that may be replaced", path.display())]
    Unreadable {
        /// The output, or what lies beside it.
        path: PathBuf,
        /// What it should be, with its article.
        kind: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Somebody else writes the same target.
    #[error("another run is writing {}: wait until it is done, or choose another --output", target.display())]
    Busy {
        /// The output.
        target: PathBuf,
    },
    /// No room.
    #[error("no room to write {}: make room on its disk, or choose another --output; {} is unchanged", path.display(), target.display())]
    DiskFull {
        /// The staged file.
        path: PathBuf,
        /// The output.
        target: PathBuf,
        /// The cause, as whoever filled the file was told it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A stop was asked for.
    #[error("interrupted while writing {}", path.display())]
    Interrupted {
        /// The staged file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {next}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What to do.
        next: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The new file has its name, but the folder that says so may not be on the disk yet.
    #[error("the new {} is in place, but its folder {} could not be synced, so a power cut may bring the old one back: run sync before you rely on it", target.display(), folder.display())]
    Unsynced {
        /// The new file.
        target: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl StagingError {
    /// There is no room for a file that is changed in place.
    pub(super) fn no_room(path: PathBuf, source: impl Error + Send + Sync + 'static) -> StagingError {
        StagingError::DiskFull { target: path.clone(), path, source: Box::new(source) }
    }
}

/// What an old target must be, so that it may be replaced.
#[derive(Debug)]
pub(super) struct FileKind {
    /// "… file".
    pub(super) name: &'static str,
    /// The same, with its article.
    pub(super) one: &'static str,
    /// What such a file begins with.
    pub(super) magic: &'static [u8],
    /// What is to be said of a file that begins otherwise.
    pub(super) otherwise: &'static str,
}

/// A file in the making. Dropped before it is published, it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    path: PathBuf,
    /// Holds the lock; the file is emptied and filled by others through its path.
    lock: Option<File>,
}

impl Staging {
    /// Takes the place beside a target: `.NAME.partial`. A symbolic link is followed, so that its goal is replaced. What a
    /// killed run left there is emptied; what a running one holds is not touched.
    pub(super) fn beside(target: &Path) -> Result<Staging, StagingError> {
        let target = fs::canonicalize(target).unwrap_or_else(|_missing| followed(target));
        if target.is_dir() {
            return Err(StagingError::IsDirectory { target });
        }
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(NoFolder { folder: folder.to_owned(), target }.into());
        }
        let Some(name) = target.file_name() else {
            return Err(StagingError::IsDirectory { target });
        };
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(".partial");
        let path = folder.join(staged);
        let lock = Staging::lock(&path, &target)?;
        Ok(Staging { target, path, lock: Some(lock) })
    }

    fn lock(path: &Path, target: &Path) -> Result<File, StagingError> {
        let refused = |action, source: io::Error| {
            let next = match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "give yourself the right to write there, or choose another --output"
                }
                io::ErrorKind::StorageFull => "make room on the disk, or choose another --output",
                _ => "look into the cause, or choose another --output",
            };
            StagingError::Io { action, path: path.to_owned(), next, source }
        };
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .map_err(|source| refused("write", source))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(StagingError::Busy { target: target.to_owned() }),
                Err(fs::TryLockError::Error(source)) => return Err(refused("lock", source)),
            }
            // The run that held the lock may have renamed or removed the file meanwhile: then this handle is of no use.
            if same_file(&file, path) {
                file.set_len(0).map_err(|source| refused("empty", source))?;
                return Ok(file);
            }
        }
    }

    /// The file to fill.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that it becomes.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Whether there is a file to replace; an empty one is none. Refuses one that is not of the kind, by how it begins.
    pub(super) fn replaces(&self, kind: &FileKind) -> Result<bool, StagingError> {
        // A device such as /dev/null would give way to a file, and opening a pipe waits for a writer.
        match fs::metadata(&self.target) {
            Ok(found) if !found.is_file() => return Err(self.foreign(kind, "it is no regular file")),
            _ => {}
        }
        let mut begin = Vec::new();
        match File::open(&self.target).and_then(|file| file.take(kind.magic.len() as u64).read_to_end(&mut begin)) {
            Ok(0) => Ok(false),
            Ok(_) if begin == kind.magic => Ok(true),
            Ok(_) => Err(self.foreign(kind, kind.otherwise)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StagingError::Unreadable { path: self.target.clone(), kind: kind.one, source }),
        }
    }

    /// The target is something else.
    pub(super) fn foreign(&self, kind: &FileKind, what: &'static str) -> StagingError {
        StagingError::Foreign { path: self.target.clone(), kind: kind.name, what }
    }

    /// There is no room for the file.
    pub(super) fn disk_full(&self, source: impl Error + Send + Sync + 'static) -> StagingError {
        StagingError::DiskFull { path: self.path.clone(), target: self.target.clone(), source: Box::new(source) }
    }

    /// A stop came while it was filled.
    pub(super) fn interrupted(&self) -> StagingError {
        StagingError::Interrupted { path: self.path.clone() }
    }

    /// Makes the file durable and gives it the target's name: file, rename, folder.
    pub(super) fn publish(mut self) -> Result<PathBuf, StagingError> {
        let failed = |action, path: &Path, source| StagingError::Io {
            action,
            path: path.to_owned(),
            next: "the old file is unchanged; look into the cause and run the command again",
            source,
        };
        // As long as the lock is here, the staged file is removed if a step fails.
        if let Some(file) = &self.lock {
            if let Ok(old) = fs::metadata(&self.target) {
                // The new file is as readable as the one it replaces.
                file.set_permissions(old.permissions())
                    .map_err(|source| failed("set the rights of", &self.path, source))?;
            }
            file.sync_all().map_err(|source| failed("sync", &self.path, source))?;
        }
        fs::rename(&self.path, &self.target).map_err(|source| failed("replace", &self.target, source))?;
        self.lock = None;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| StagingError::Unsynced {
            target: self.target.clone(),
            folder: folder.to_owned(),
            source,
        })?;
        Ok(self.target.clone())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}; it is safe to delete", self.path.display());
        }
    }
}

/// The goal of a symbolic link that is yet to come.
fn followed(target: &Path) -> PathBuf {
    let mut target = target.to_owned();
    // Linux follows as many; links in a circle end somewhere.
    for _ in 0..40 {
        let Ok(goal) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(goal);
    }
    target
}

/// Whether an open file is the one that a path names now.
#[cfg(unix)]
pub(super) fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
pub(super) fn same_file(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rights of a file of the kernel's cannot be set, not even by root.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_staged_file_whose_rights_cannot_be_set_is_removed_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("t.mbtiles");
        fs::write(&target, "old").unwrap();
        let mut staging = Staging::beside(&target).unwrap();
        let path = staging.path().to_owned();
        staging.lock = Some(File::open("/proc/self/status").unwrap());
        let error = staging.publish().unwrap_err().to_string();
        assert!(
            error.starts_with("cannot set the rights of ") && error.contains("the old file is unchanged"),
            "{error}"
        );
        assert!(!path.exists());
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }
}
