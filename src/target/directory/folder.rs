//! Open folders. A name below a folder is resolved part by part, without following symbolic links. So a run never
//! leaves its target, even if others create links in it during the run.

use std::fs::{File, TryLockError};
use std::io;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::DirectoryError;
use crate::hex::hex;
use crate::target::lock_file::{LeftOver, Rights, Taken};
use crate::target::note_store::{KeptNote, MAX_KEPT_NOTE, NoteError, NoteStore, WriteCondition, folder_beside, parts};
use crate::target::staging::FOLDER_HANDLE;
use crate::target::tree::OWN_FOLDER;
use crate::target::{ReadError, lock_file};

#[derive(Debug, Clone)]
pub(crate) struct OpenFolder {
    handle: Arc<OwnedFd>,
    /// The folder's path, for messages.
    path: PathBuf,
}

/// A folder below the target that is kept open, with its name relative to the target.
#[derive(Debug)]
pub(crate) struct NamedFolder {
    pub(crate) name: String,
    pub(crate) folder: OpenFolder,
}

/// Why a name below a folder could not be reached.
#[derive(Debug)]
pub(crate) enum Unreachable {
    /// A symbolic link stands where a folder must be.
    Link(PathBuf),
    /// Something else stands where a folder must be.
    NoFolder(PathBuf),
    /// The system refused.
    Io(PathBuf, io::Error),
}

impl Unreachable {
    /// True if nothing has this name.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Unreachable::Io(_, error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Converts this to the error of a writer.
    pub(crate) fn into_error(self, action: &'static str) -> DirectoryError {
        match self {
            Unreachable::Link(path) => DirectoryError::LinkInTheWay { path },
            Unreachable::NoFolder(path) => DirectoryError::FileInTheWay { path },
            Unreachable::Io(path, source) => DirectoryError::io(action, &path, source),
        }
    }

    /// Converts this to the error of a reader; `place` is the path of the target.
    pub(crate) fn into_read_error(self, place: String) -> ReadError {
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
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

impl OpenFolder {
    /// Opens a folder by a path that the user named: links in it are followed.
    pub(crate) fn open(path: &Path) -> io::Result<OpenFolder> {
        let handle = rustix::fs::open(path, FOLDER_HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(OpenFolder { handle: Arc::new(handle), path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    fn error(&self, part: &str, error: impl Into<io::Error>) -> Unreachable {
        Unreachable::Io(self.path.join(part), error.into())
    }

    fn below(&self, part: &str) -> Result<OpenFolder, Unreachable> {
        if !is_plain(part) {
            return Err(self.error(part, io::Error::from(io::ErrorKind::NotFound)));
        }
        let flags = FOLDER_HANDLE | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
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
    pub(crate) fn find(&self, name: &str) -> Result<OpenFolder, Unreachable> {
        let mut parts = name.split('/').filter(|_| !name.is_empty());
        parts.try_fold(self.clone(), |folder, part| folder.below(part))
    }

    /// Opens a folder at any depth below, and creates what is missing.
    pub(crate) fn make(&self, name: &str) -> Result<OpenFolder, Unreachable> {
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
    pub(crate) fn kind(&self, part: &str) -> io::Result<Option<FileType>> {
        match statat(&self.handle, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a file in this folder; fails if the name exists.
    pub(crate) fn create(&self, part: &str) -> io::Result<File> {
        lock_file::create(self.as_fd(), Path::new(part), Rights::Usual)
    }

    /// Creates a folder in this folder; fails if the name exists.
    pub(crate) fn create_folder(&self, part: &str) -> Result<OpenFolder, Unreachable> {
        mkdirat(&self.handle, part, Mode::from_raw_mode(0o777)).map_err(|error| self.error(part, error))?;
        self.below(part)
    }

    /// Renames an entry of this folder to `new` in the folder `to`.
    pub(crate) fn rename(&self, part: &str, to: &OpenFolder, new: &str) -> io::Result<()> {
        Ok(renameat(&self.handle, part, &to.handle, new)?)
    }

    /// Removes an entry of this folder that is not a folder itself; a link is removed, not followed. Returns true if
    /// the entry existed.
    pub(crate) fn remove(&self, part: &str) -> io::Result<bool> {
        match unlinkat(&self.handle, part, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder from this one.
    pub(crate) fn remove_folder(&self, part: &str) -> io::Result<()> {
        Ok(unlinkat(&self.handle, part, AtFlags::REMOVEDIR)?)
    }

    /// Removes a folder of this folder with the files in it, if it exists.
    pub(crate) fn remove_filled(&self, part: &str) -> Result<(), Unreachable> {
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
    /// Fails if it has more than `most` bytes, or the system refuses.
    pub(crate) fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, Unreachable> {
        let (folder, leaf) = split(name);
        match self.find(folder).and_then(|folder| folder.read_leaf(leaf, most)) {
            Err(missing) if missing.is_missing() => Ok(None),
            Err(Unreachable::NoFolder(_)) => Ok(None),
            read => read,
        }
    }

    /// The bytes of a regular file in this folder, like [`OpenFolder::read`].
    pub(crate) fn read_leaf(&self, part: &str, most: usize) -> Result<Option<Vec<u8>>, Unreachable> {
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
    pub(crate) fn each(&self, mut take: impl FnMut(&str, FileType)) -> Result<(), Unreachable> {
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
    pub(crate) fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(openat(&self.handle, ".", flags, Mode::empty())?)?)
    }

    /// Syncs the whole file system that the folder is on.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.handle, ".", flags, Mode::empty())?;
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(folder)?;
        // All file systems, where one cannot be named.
        #[cfg(not(target_os = "linux"))]
        {
            drop(folder);
            rustix::fs::sync();
        }
        Ok(())
    }

    /// Syncs a file of this folder, if it is still there.
    pub(crate) fn sync_file(&self, part: &str) -> io::Result<()> {
        match lock_file::open_regular(self.as_fd(), Path::new(part), OFlags::RDONLY) {
            Ok(file) => file.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

// Notes in a folder: those of a directory target, or those next to an archive.

/// The file that is locked while a note is written. It is empty and is never removed.
const LOCK: &str = ".lock";

/// The prefix of the name under which a note is written before it is renamed. The process id and a number for each
/// write follow.
const STAGED: &str = ".staged";

/// Counts the writes of this process.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// How long to wait for the lock of another writer. That takes microseconds unless the other writer is paused.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The notes of a local target.
#[derive(Debug, Clone)]
pub struct FolderNotes {
    /// The folder in which the notes' folder lies. Links in its path are followed, because the user gave the path.
    parent: PathBuf,
    /// The name of the notes' folder in `parent`. No link in it is followed.
    folder: String,
}

impl FolderNotes {
    pub fn of_directory(root: &Path) -> FolderNotes {
        FolderNotes { parent: root.to_owned(), folder: format!("{OWN_FOLDER}/notes") }
    }

    /// The notes next to an archive. If the archive is a link, the notes lie next to the file that the link leads to.
    pub fn beside(archive: &Path) -> FolderNotes {
        let archive = archive.canonicalize().unwrap_or_else(|_missing| archive.to_owned());
        let parent = archive.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = archive.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        FolderNotes { parent: parent.to_owned(), folder: folder_beside(&name) }
    }

    /// The folder of the notes, which may not exist yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(&self.folder)
    }

    /// Where a note or file lies, for messages.
    pub(crate) fn place(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    fn refused(&self, action: &'static str, name: &str, source: impl Into<io::Error>) -> NoteError {
        NoteError::Refused { action, place: self.place(name), source: source.into().into() }
    }

    fn unreachable(&self, action: &'static str, name: &str, error: Unreachable) -> NoteError {
        let source = match error {
            Unreachable::Link(path) => io::Error::other(format!("{} is a symbolic link", path.display())),
            Unreachable::NoFolder(path) => io::Error::other(format!("{} is no folder", path.display())),
            Unreachable::Io(_, error) => error,
        };
        self.refused(action, name, source)
    }

    /// The folder of the notes; `None` if it does not exist.
    fn found(&self) -> Result<Option<OpenFolder>, NoteError> {
        let parent = match OpenFolder::open(&self.parent) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused("read", "", error)),
        };
        match parent.find(&self.folder) {
            Ok(folder) => Ok(Some(folder)),
            Err(missing) if missing.is_missing() => Ok(None),
            Err(error) => Err(self.unreachable("read", "", error)),
        }
    }

    fn read_in(&self, folder: &OpenFolder, name: &str) -> Result<Option<KeptNote>, NoteError> {
        match folder.read(name, MAX_KEPT_NOTE) {
            Ok(body) => Ok(body.map(|body| KeptNote { tag: tag(&body), body })),
            Err(Unreachable::Io(_, error)) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(NoteError::TooLong { place: self.place(name) })
            }
            Err(error) => Err(self.unreachable("read", name, error)),
        }
    }

    /// Checks the condition of a write, under the lock.
    fn check(&self, root: &OpenFolder, name: &str, condition: &WriteCondition) -> Result<(), NoteError> {
        if *condition == WriteCondition::Always {
            return Ok(());
        }
        let found = self.read_in(root, name)?.map(|note| note.tag);
        let holds = match condition {
            WriteCondition::Always => true,
            WriteCondition::Absent => found.is_none(),
            WriteCondition::Unchanged(tag) => found.as_ref() == Some(tag),
        };
        if holds { Ok(()) } else { Err(NoteError::Changed { place: self.place(name) }) }
    }

    /// Locks the notes for writing; waits for another writer, which takes milliseconds.
    fn locked(root: &OpenFolder) -> io::Result<File> {
        let lock = match root.create(LOCK) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                lock_file::open_regular(root.as_fd(), Path::new(LOCK), OFlags::RDWR)?
            }
            created => created?,
        };
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_LIMIT => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process holds the lock on it")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

// Files among the notes that are larger than a note, that only their owner may read, and that may be lost.

/// The name under which such a file is written before it is renamed.
fn partial(name: &str) -> String {
    format!(".{name}.partial")
}

impl FolderNotes {
    /// Opens a file; `None` if there is none.
    /// Fails if something else has the name, or it cannot be read.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, NoteError> {
        let Some(root) = self.found()? else { return Ok(None) };
        match lock_file::open_regular(root.as_fd(), Path::new(name), OFlags::RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused("read", name, error)),
        }
    }

    /// Writes a file anew with what `fill` writes. Readers see the old file or the new one, which is durable when this
    /// returns. False if another process is writing it at this moment.
    /// Fails if it cannot be written; the old file is then unchanged.
    pub(crate) fn write_file(&self, name: &str, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<bool, NoteError> {
        let failed = |source: io::Error| self.refused("write", name, source);
        let parent = OpenFolder::open(&self.parent).map_err(failed)?;
        let root = parent.make(&self.folder).map_err(|error| self.unreachable("write", name, error))?;
        let partial = partial(name);
        let taken = lock_file::take(root.as_fd(), Path::new(&partial), LeftOver::Removed, Rights::OwnerOnly);
        let new = match taken {
            Ok(Taken::Ours(new)) => new,
            Ok(Taken::Theirs(_)) => return Ok(false),
            Err((_, error)) => return Err(failed(error)),
        };
        let put = fill(&new).and_then(|()| new.sync_all()).and_then(|()| {
            if !lock_file::is_named(&new, root.as_fd(), Path::new(&partial)) {
                return Err(io::Error::other("somebody else removed or replaced the new file"));
            }
            root.rename(&partial, &root, name)
        });
        if let Err(source) = put {
            if let Err(error) = root.remove(&partial) {
                tracing::debug!("cannot remove {}: {error}", self.place(&partial));
            }
            return Err(failed(source));
        }
        root.sync().map_err(failed)?;
        Ok(true)
    }

    /// Removes what a killed process has left of a file that it was writing.
    pub(crate) fn remove_partial(&self, name: &str) -> Result<(), NoteError> {
        let Some(root) = self.found()? else { return Ok(()) };
        let partial = partial(name);
        let left = match lock_file::open_regular(root.as_fd(), Path::new(&partial), OFlags::RDONLY) {
            Ok(left) => left,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.refused("read", &partial, error)),
        };
        // Whoever has the lock is writing it.
        if left.try_lock().is_ok() && lock_file::is_named(&left, root.as_fd(), Path::new(&partial)) {
            root.remove(&partial).map_err(|error| self.refused("remove", &partial, error))?;
        }
        Ok(())
    }
}

fn tag(body: &[u8]) -> String {
    hex(&Sha256::digest(body)[..16])
}

impl NoteStore for FolderNotes {
    fn read(&self, name: &str) -> Result<Option<KeptNote>, NoteError> {
        parts(name)?;
        match self.found()? {
            Some(folder) => self.read_in(&folder, name),
            None => Ok(None),
        }
    }

    fn write(&self, name: &str, body: &[u8], condition: &WriteCondition) -> Result<String, NoteError> {
        let (above, leaf) = parts(name)?;
        let failed = |source: io::Error| self.refused("write", name, source);
        let parent = OpenFolder::open(&self.parent).map_err(failed)?;
        let unmade = |error| self.unreachable("write", name, error);
        let root = parent.make(&self.folder).map_err(unmade)?;
        let folder = root.make(above).map_err(unmade)?;
        // Filled before the lock is taken: a process that is paused while it holds the lock blocks all other writers.
        let staged = format!("{STAGED}-{}-{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
        // A killed process with the same process id may have left it.
        root.remove(&staged).map_err(failed)?;
        let filled = root.create(&staged).and_then(|mut file| {
            file.write_all(body)?;
            file.sync_all()
        });
        let put = filled.map_err(failed).and_then(|()| {
            let _lock = FolderNotes::locked(&root).map_err(failed)?;
            self.check(&root, name, condition)?;
            root.rename(&staged, &folder, leaf).map_err(failed)
        });
        if put.is_err()
            && let Err(error) = root.remove(&staged)
        {
            tracing::debug!("cannot remove {}: {error}", self.place(&staged));
        }
        put?;
        folder.sync().map_err(failed)?;
        Ok(tag(body))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, NoteError> {
        parts(folder)?;
        let Some(root) = self.found()? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        let listed = root.find(folder).and_then(|inner| {
            inner.each(|name, kind| {
                let name = format!("{folder}/{name}");
                if kind == FileType::RegularFile && parts(&name).is_ok() {
                    names.push(name);
                }
            })
        });
        match listed {
            Ok(()) => {}
            Err(missing) if missing.is_missing() => {}
            Err(error) => return Err(self.unreachable("list", folder, error)),
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), NoteError> {
        let (above, leaf) = parts(name)?;
        let Some(root) = self.found()? else { return Ok(()) };
        match root.find(above) {
            Ok(folder) => folder.remove(leaf).map(drop).map_err(|error| self.refused("remove", name, error)),
            Err(missing) if missing.is_missing() => Ok(()),
            Err(error) => Err(self.unreachable("remove", name, error)),
        }
    }
}
