//! Staged files: written next to the target, synced, then renamed over it. Also decides which files may be replaced.

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, Mode, OFlags, renameat, unlinkat};

use super::lock_file::{LeftOver, Rights, Taken};
use crate::error::ErrorKind;
use crate::target::lock_file;

/// How a folder is opened to name what is in it: on Linux without a right to read it.
#[cfg(target_os = "linux")]
pub(crate) const FOLDER_HANDLE: OFlags = OFlags::PATH;
/// How a folder is opened to name what is in it.
#[cfg(not(target_os = "linux"))]
pub(crate) const FOLDER_HANDLE: OFlags = OFlags::RDONLY;

/// The folder in which an output, file or directory, would be created does not exist.
#[derive(Debug, thiserror::Error)]
#[error("the folder {} of the output {} does not exist: make it, or choose another --output", folder.display(), target.display())]
pub struct NoFolder {
    pub folder: PathBuf,
    pub target: PathBuf,
}

/// Why a file could not be staged or published.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The folder of the output does not exist.
    #[error(transparent)]
    NoFolder(#[from] NoFolder),
    #[error("the output {} is a directory: name a file, such as {}", target.display(), target.join("facilities.mbtiles").display())]
    IsDirectory { target: PathBuf },
    #[error("{} is no {kind} ({what}): it is left alone. Choose another --output, or remove it first", path.display())]
    Foreign { path: PathBuf, kind: &'static str, what: &'static str },
    #[error("cannot read {} to see whether it is {kind} that may be replaced", path.display())]
    Unreadable {
        /// The output, or a file next to it.
        path: PathBuf,
        /// What it should be, with its article.
        kind: &'static str,
        source: io::Error,
    },
    #[error("another run is writing {}: wait until it is done, or choose another --output", target.display())]
    Busy { target: PathBuf },
    #[error("no room to write {}: make room on its disk, or choose another --output; {} is unchanged", path.display(), target.display())]
    DiskFull {
        path: PathBuf,
        target: PathBuf,
        /// The cause, from the writer of the file.
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{} was changed by somebody else during the run: it is left alone. See that only one program writes this target, then run the command again", target.display())]
    Changed { target: PathBuf },
    #[error("interrupted while writing {}", path.display())]
    Interrupted { path: PathBuf },
    #[error("cannot {action} {}: {next}", path.display())]
    Io { action: &'static str, path: PathBuf, next: &'static str, source: io::Error },
    #[error("the new {} is in place, but its folder {} could not be synced, so a power cut may bring the old one back: run sync before you rely on it", target.display(), folder.display())]
    Unsynced { target: PathBuf, folder: PathBuf, source: io::Error },
}

impl StagingError {
    /// True if another run is writing the target.
    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self, StagingError::Busy { .. })
    }

    pub const fn kind(&self) -> ErrorKind {
        match self {
            StagingError::NoFolder(_) | StagingError::IsDirectory { .. } | StagingError::Foreign { .. } => {
                ErrorKind::Usage
            }
            StagingError::Interrupted { .. } => ErrorKind::Interrupted,
            StagingError::Unreadable { .. }
            | StagingError::Busy { .. }
            | StagingError::DiskFull { .. }
            | StagingError::Changed { .. }
            | StagingError::Io { .. }
            | StagingError::Unsynced { .. } => ErrorKind::Failed,
        }
    }

    /// The error if the disk is full while a file is changed in place.
    pub(crate) fn no_room(path: PathBuf, source: impl Error + Send + Sync + 'static) -> StagingError {
        StagingError::DiskFull { target: path.clone(), path, source: Box::new(source) }
    }
}

/// The kind of file that an old target must be to be replaced.
#[derive(Debug)]
pub(crate) struct FileKind {
    /// Its name, such as "MBTiles file".
    pub(crate) name: &'static str,
    /// Its name with an article.
    pub(crate) one: &'static str,
    /// The bytes that such a file begins with.
    pub(crate) magic: &'static [u8],
    /// The text for a file that begins with other bytes.
    pub(crate) otherwise: &'static str,
}

/// The permission bits that a new file takes over from the one it replaces: all but setuid, setgid and sticky.
const KEPT_PERMISSIONS: u32 = 0o777;

/// A staged file. It is removed when it is dropped unpublished.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    path: PathBuf,
    /// The open folder of both files. Names are resolved in it, so a folder above that is swapped for a link has no
    /// effect.
    folder: OwnedFd,
    lock: Option<File>,
    /// The state of the target that a new file was made of.
    read: Option<FileState>,
}

/// What changes if a file is written or replaced by another one, whatever its length and times are then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    length: u64,
    /// In seconds and nanoseconds, as are the times of the last change of anything, names and rights too.
    written: [i64; 2],
    changed: [i64; 2],
}

impl FileState {
    fn of(path: &Path) -> Option<FileState> {
        let found = fs::metadata(path).ok()?;
        Some(FileState {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            written: [found.mtime(), found.mtime_nsec()],
            changed: [found.ctime(), found.ctime_nsec()],
        })
    }
}

impl Staging {
    /// Creates and locks `.NAME.partial` next to a target. If the target is a symbolic link, the file it leads to is
    /// replaced; a symbolic link with the name of the staged file is refused. The staged file of a killed run is
    /// removed; that of a running one is not touched.
    pub(crate) fn beside(target: &Path) -> Result<Staging, StagingError> {
        // A path that is not a link stays as the user wrote it, also in messages.
        let target = if target.is_symlink() {
            fs::canonicalize(target).unwrap_or_else(|_missing| followed(target))
        } else {
            target.to_owned()
        };
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
        let handle = rustix::fs::open(folder, FOLDER_HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let handle = handle.map_err(|error| refused(("write", error.into())))?;
        match lock_file::take(handle.as_fd(), last_name(&path), LeftOver::Removed, Rights::Usual).map_err(refused)? {
            Taken::Ours(file) => Ok(Staging { target, path, folder: handle, lock: Some(file), read: None }),
            Taken::Theirs(_) => Err(StagingError::Busy { target }),
        }
    }

    /// The file to fill, by its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file to fill, empty and open for writing.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.lock.as_ref().map_or_else(|| Err(io::Error::from(io::ErrorKind::NotFound)), File::try_clone)
    }

    /// True if the path still names the file that was locked.
    pub(crate) fn is_in_place(&self) -> bool {
        self.lock.as_ref().is_some_and(|file| lock_file::is_named(file, self.folder.as_fd(), last_name(&self.path)))
    }

    /// The file that it will replace.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// True if there is a file to replace; an empty one does not count. Refuses a file that does not begin like `kind`.
    pub(crate) fn replaces(&self, kind: &FileKind) -> Result<bool, StagingError> {
        // Renaming would replace a device such as /dev/null by a file, and opening a pipe waits for a writer.
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

    /// Notes the state of the target. Must be called before a file is read that the new one is made of.
    pub(crate) fn note_target(&mut self) {
        self.read = FileState::of(&self.target);
    }

    /// Fails if somebody else has written or replaced the target since its state was noted.
    pub(crate) fn check_target(&self) -> Result<(), StagingError> {
        if self.read.is_some() && FileState::of(&self.target) != self.read {
            return Err(StagingError::Changed { target: self.target.clone() });
        }
        Ok(())
    }

    /// The error for a target of another kind.
    pub(crate) fn foreign(&self, kind: &FileKind, what: &'static str) -> StagingError {
        StagingError::Foreign { path: self.target.clone(), kind: kind.name, what }
    }

    pub(crate) fn disk_full(&self, source: impl Error + Send + Sync + 'static) -> StagingError {
        StagingError::DiskFull { path: self.path.clone(), target: self.target.clone(), source: Box::new(source) }
    }

    /// The error for a stop while the file was filled.
    pub(crate) fn interrupted(&self) -> StagingError {
        StagingError::Interrupted { path: self.path.clone() }
    }

    /// Makes the file durable under the target's name: syncs the file, renames it, syncs the folder.
    pub(crate) fn publish(mut self) -> Result<PathBuf, StagingError> {
        let failed = |action, path: &Path, source| StagingError::Io {
            action,
            path: path.to_owned(),
            next: "the old file is unchanged; look into the cause and run the command again",
            source,
        };
        // While `lock` is held, dropping removes the staged file if a step fails.
        if let Some(file) = &self.lock {
            if let Ok(old) = fs::metadata(&self.target) {
                // The new file is as readable as the one it replaces.
                file.set_permissions(fs::Permissions::from_mode(old.permissions().mode() & KEPT_PERMISSIONS))
                    .map_err(|source| failed("set the rights of", &self.path, source))?;
            }
            file.sync_all().map_err(|source| failed("sync", &self.path, source))?;
        }
        if !self.is_in_place() {
            let source = io::Error::other("somebody else removed or replaced the new file");
            return Err(failed("publish", &self.path, source));
        }
        self.check_target()?;
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

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn last_name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// Where a dangling symbolic link leads.
fn followed(target: &Path) -> PathBuf {
    let mut target = target.to_owned();
    // Linux follows at most 40 links (path_resolution(7)).
    for _ in 0..40 {
        let Ok(goal) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(goal);
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The permissions of a file in `/proc` cannot be set, not even by root.
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
