//! A file written beside its target, then synced and renamed over it; and what it may replace.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, renameat, unlinkat};

use super::lock_file::{self, LeftOver, Taken};
use crate::error::ErrorKind;

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
    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            StagingError::NoFolder(_) | StagingError::IsDirectory { .. } | StagingError::Foreign { .. } => {
                ErrorKind::Usage
            }
            StagingError::Interrupted { .. } => ErrorKind::Interrupted,
            StagingError::Unreadable { .. }
            | StagingError::Busy { .. }
            | StagingError::DiskFull { .. }
            | StagingError::Io { .. }
            | StagingError::Unsynced { .. } => ErrorKind::Failed,
        }
    }

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

/// The rights that a new file takes over from the one it replaces: all but those to run as its owner or group.
const RIGHTS: u32 = 0o777;

/// A file in the making. Dropped before it is published, it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    path: PathBuf,
    /// The folder of both, by which they are named: whoever swaps a folder above for a link does not have us write elsewhere.
    folder: OwnedFd,
    /// Holds the lock.
    lock: Option<File>,
}

impl Staging {
    /// Takes the place beside a target: `.NAME.partial`. A symbolic link that is the target is followed, so that its goal is
    /// replaced; one that has the name of the staged file is refused. What a killed run left there is removed; what a running
    /// one holds is not touched.
    pub(super) fn beside(target: &Path) -> Result<Staging, StagingError> {
        let target = fs::canonicalize(target).unwrap_or_else(|_missing| followed(target));
        if target.is_dir() {
            return Err(StagingError::IsDirectory { target });
        }
        let folder = folder_of(&target);
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
        let refused = |(action, source): (&'static str, io::Error)| {
            let next = match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "give yourself the right to write there, or choose another --output"
                }
                io::ErrorKind::StorageFull => "make room on the disk, or choose another --output",
                io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => {
                    "the new file is filled under this name, so remove what has it, or choose another --output"
                }
                _ => "look into the cause, or choose another --output",
            };
            StagingError::Io { action, path: path.clone(), next, source }
        };
        let handle = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let handle = handle.map_err(|error| refused(("write", error.into())))?;
        match lock_file::take(handle.as_fd(), last_name(&path), LeftOver::Removed).map_err(refused)? {
            Taken::Ours(file) => Ok(Staging { target, path, folder: handle, lock: Some(file) }),
            Taken::Theirs(_) => Err(StagingError::Busy { target }),
        }
    }

    /// The file to fill, by its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file to fill, empty and open for writing.
    pub(super) fn file(&self) -> io::Result<File> {
        self.lock.as_ref().map_or_else(|| Err(io::Error::from(io::ErrorKind::NotFound)), File::try_clone)
    }

    /// Whether the path still stands for the file that was locked.
    pub(super) fn is_in_place(&self) -> bool {
        self.lock.as_ref().is_some_and(|file| lock_file::is_named(file, self.folder.as_fd(), last_name(&self.path)))
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
        match lock_file::open_named(&self.target)
            .and_then(|file| file.take(kind.magic.len() as u64).read_to_end(&mut begin))
        {
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
                file.set_permissions(fs::Permissions::from_mode(old.permissions().mode() & RIGHTS))
                    .map_err(|source| failed("set the rights of", &self.path, source))?;
            }
            file.sync_all().map_err(|source| failed("sync", &self.path, source))?;
        }
        if !self.is_in_place() {
            let source = io::Error::other("somebody else removed or replaced the new file");
            return Err(failed("publish", &self.path, source));
        }
        renameat(&self.folder, last_name(&self.path), &self.folder, last_name(&self.target))
            .map_err(|source| failed("replace", &self.target, source.into()))?;
        self.lock = None;
        let folder = folder_of(&self.target);
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
            && let Err(error) = unlinkat(&self.folder, last_name(&self.path), AtFlags::empty())
        {
            tracing::warn!("cannot remove {}: {error}; it is safe to delete", self.path.display());
        }
    }
}

/// The folder of a file.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The last name of a path.
fn last_name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
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
