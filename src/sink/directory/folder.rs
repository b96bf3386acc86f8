//! Open folders. A name below a folder is resolved part by part, without following symbolic links. So a run never leaves its target, even
//! if others create links in it during the run.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::DirectoryError;
use crate::sink::{ReadError, lock_file};

/// A folder that is open.
#[derive(Debug, Clone)]
pub(super) struct OpenFolder {
    handle: Arc<OwnedFd>,
    /// The folder's path, for messages.
    path: PathBuf,
}

/// A folder below the target that is kept open, with its name relative to the target.
#[derive(Debug)]
pub(super) struct NamedFolder {
    pub(super) name: String,
    pub(super) folder: OpenFolder,
}

/// Why a name below a folder could not be reached.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// A symbolic link stands where a folder must be.
    Link(PathBuf),
    /// Something else stands where a folder must be.
    NoFolder(PathBuf),
    /// The system refused.
    Io(PathBuf, io::Error),
}

impl Unreachable {
    /// True if nothing has this name.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Unreachable::Io(_, error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Converts this to the error of a writer.
    pub(super) fn into_error(self, action: &'static str) -> DirectoryError {
        match self {
            Unreachable::Link(path) => DirectoryError::LinkInTheWay { path },
            Unreachable::NoFolder(path) => DirectoryError::FileInTheWay { path },
            Unreachable::Io(path, source) => DirectoryError::io(action, &path, source),
        }
    }

    /// Converts this to the error of a reader; `place` is the path of the target.
    pub(super) fn into_read_error(self, place: String) -> ReadError {
        let what = match self {
            Unreachable::Link(path) => format!("{} is a symbolic link, which is not followed", path.display()),
            Unreachable::NoFolder(path) => format!("{} is no folder", path.display()),
            Unreachable::Io(path, error) if error.kind() == io::ErrorKind::InvalidInput => {
                format!("{}: {error}", path.display())
            }
            Unreachable::Io(path, source) => return ReadError::Io { path, source },
        };
        ReadError::Damaged { place, what }
    }
}

/// True if `part` can be the name of an entry of a folder.
fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
}

/// Splits a name into the name of its folder and its last part.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

impl OpenFolder {
    /// Opens a folder by a path that the user named: links in it are followed.
    pub(super) fn open(path: &Path) -> io::Result<OpenFolder> {
        let handle = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(OpenFolder { handle: Arc::new(handle), path: path.to_owned() })
    }

    /// The folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    fn error(&self, part: &str, error: impl Into<io::Error>) -> Unreachable {
        Unreachable::Io(self.path.join(part), error.into())
    }

    /// Opens a folder in this one.
    fn below(&self, part: &str) -> Result<OpenFolder, Unreachable> {
        if !is_plain(part) {
            return Err(self.error(part, io::Error::from(io::ErrorKind::NotFound)));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.handle, part, flags, Mode::empty()) {
            Ok(handle) => Ok(OpenFolder { handle: Arc::new(handle), path: self.path.join(part) }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(match self.kind(part) {
                Ok(Some(FileType::Symlink)) => Unreachable::Link(self.path.join(part)),
                Ok(Some(_)) => Unreachable::NoFolder(self.path.join(part)),
                Ok(None) => self.error(part, io::Error::from(io::ErrorKind::NotFound)),
                Err(error) => self.error(part, error),
            }),
            Err(error) => Err(self.error(part, error)),
        }
    }

    /// Opens a folder at any depth below; `""` is this folder.
    pub(super) fn find(&self, name: &str) -> Result<OpenFolder, Unreachable> {
        let mut parts = name.split('/').filter(|_| !name.is_empty());
        parts.try_fold(self.clone(), |folder, part| folder.below(part))
    }

    /// Opens a folder at any depth below, and creates what is missing.
    pub(super) fn make(&self, name: &str) -> Result<OpenFolder, Unreachable> {
        let mut parts = name.split('/').filter(|_| !name.is_empty());
        parts.try_fold(self.clone(), |folder, part| {
            match folder.below(part) {
                Err(missing) if missing.is_missing() && is_plain(part) => {}
                found => return found,
            }
            match mkdirat(&folder.handle, part, Mode::from_raw_mode(0o777)) {
                // Another writer may have created it.
                Ok(()) | Err(Errno::EXIST) => folder.below(part),
                Err(error) => Err(folder.error(part, error)),
            }
        })
    }

    /// The kind of an entry of this folder; `None` if there is none. A link is not followed.
    pub(super) fn kind(&self, part: &str) -> io::Result<Option<FileType>> {
        match statat(&self.handle, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a file in this folder; fails if the name exists.
    pub(super) fn create(&self, part: &str) -> io::Result<File> {
        lock_file::create(self.as_fd(), Path::new(part))
    }

    /// Creates a folder in this folder; fails if the name exists.
    pub(super) fn create_folder(&self, part: &str) -> Result<OpenFolder, Unreachable> {
        mkdirat(&self.handle, part, Mode::from_raw_mode(0o777)).map_err(|error| self.error(part, error))?;
        self.below(part)
    }

    /// Renames an entry of this folder to `new` in the folder `to`.
    pub(super) fn rename(&self, part: &str, to: &OpenFolder, new: &str) -> io::Result<()> {
        Ok(renameat(&self.handle, part, &to.handle, new)?)
    }

    /// Removes an entry of this folder that is not a folder itself; a link is removed, not followed. Returns true if the entry existed.
    pub(super) fn remove(&self, part: &str) -> io::Result<bool> {
        match unlinkat(&self.handle, part, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder from this one.
    pub(super) fn remove_folder(&self, part: &str) -> io::Result<()> {
        Ok(unlinkat(&self.handle, part, AtFlags::REMOVEDIR)?)
    }

    /// Removes a folder of this folder with the files in it, if it exists.
    pub(super) fn remove_filled(&self, part: &str) -> Result<(), Unreachable> {
        let folder = match self.below(part) {
            Ok(folder) => folder,
            Err(missing) if missing.is_missing() => return Ok(()),
            // An entry that is not a folder is removed itself.
            Err(Unreachable::Link(_) | Unreachable::NoFolder(_)) => {
                return self.remove(part).map(drop).map_err(|error| self.error(part, error));
            }
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        folder.each(|name, _| names.push(name.to_owned()))?;
        for name in names {
            folder.remove(&name).map_err(|error| folder.error(&name, error))?;
        }
        self.remove_folder(part).map_err(|error| self.error(part, error))
    }

    /// The bytes of a regular file at any depth below; `None` if there is none.
    ///
    /// # Errors
    /// If it has more than `most` bytes, or the system refuses.
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, Unreachable> {
        let (folder, leaf) = split(name);
        match self.find(folder).and_then(|folder| folder.read_leaf(leaf, most)) {
            Err(missing) if missing.is_missing() => Ok(None),
            Err(Unreachable::NoFolder(_)) => Ok(None),
            read => read,
        }
    }

    /// The bytes of a regular file in this folder, like [`OpenFolder::read`].
    pub(super) fn read_leaf(&self, part: &str, most: usize) -> Result<Option<Vec<u8>>, Unreachable> {
        if !is_plain(part) {
            return Ok(None);
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => Ok(None),
            _ => Err(self.error(part, error)),
        };
        let file = match lock_file::open_regular(self.as_fd(), Path::new(part), OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) => return failed(error),
        };
        let length = file.metadata().map_err(|error| self.error(part, error))?.len();
        let too_large = || {
            let what = format!("it is larger than the {} MB that are read", most >> 20);
            self.error(part, io::Error::new(io::ErrorKind::InvalidInput, what))
        };
        let mut bytes = Vec::new();
        match usize::try_from(length) {
            Ok(length) if length <= most => bytes.reserve_exact(length + 1),
            _ => return Err(too_large()),
        }
        // The file may grow while it is read.
        let read = file.take(most as u64 + 1).read_to_end(&mut bytes);
        match read {
            Ok(length) if length <= most => Ok(Some(bytes)),
            Ok(_) => Err(too_large()),
            Err(error) => failed(error),
        }
    }

    /// Calls `take` with the name and kind of each entry of this folder whose name is UTF-8. Links are not followed.
    pub(super) fn each(&self, mut take: impl FnMut(&str, FileType)) -> Result<(), Unreachable> {
        let failed = |error: Errno| Unreachable::Io(self.path.clone(), error.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = openat(&self.handle, ".", flags, Mode::empty()).map_err(failed)?;
        for entry in Dir::new(handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !is_plain(name) {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report the kind of an entry.
                FileType::Unknown => self.kind(name).map_err(|error| self.error(name, error))?,
                kind => Some(kind),
            };
            if let Some(kind) = kind {
                take(name, kind);
            }
        }
        Ok(())
    }

    /// Syncs the folder itself, which holds the names of its entries.
    pub(super) fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(openat(&self.handle, ".", flags, Mode::empty())?)?)
    }

    /// Syncs the whole file system that the folder is on.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::syncfs(openat(&self.handle, ".", flags, Mode::empty())?)?)
    }

    /// Syncs a file of this folder, if it is still there.
    pub(super) fn sync_file(&self, part: &str) -> io::Result<()> {
        match lock_file::open_regular(self.as_fd(), Path::new(part), OFlags::RDONLY) {
            Ok(file) => file.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
