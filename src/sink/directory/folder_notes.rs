//! Notes in a folder: those of a directory target, or those next to an archive.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags};
use sha2::{Digest as _, Sha256};

use super::folder::{OpenFolder, Unreachable};
use crate::sink::lock_file;
use crate::sink::note_store::{KeptNote, MAX_KEPT_NOTE, NoteCondition, NoteError, NoteStore, folder_beside, parts};
use crate::sink::tree::OWN_FOLDER;

/// The file that is locked while a note is written. It is empty and is never removed.
const LOCK: &str = ".lock";

/// The prefix of the name under which a note is written before it is renamed. The process id and a number for each write follow.
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
    /// The notes of a directory target.
    #[must_use]
    pub fn of_directory(root: &Path) -> FolderNotes {
        FolderNotes { parent: root.to_owned(), folder: format!("{OWN_FOLDER}/notes") }
    }

    /// The notes next to an archive. If the archive is a link, the notes lie next to the file that the link leads to.
    #[must_use]
    pub fn beside(archive: &Path) -> FolderNotes {
        let archive = archive.canonicalize().unwrap_or_else(|_missing| archive.to_owned());
        let parent = archive.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = archive.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        FolderNotes { parent: parent.to_owned(), folder: folder_beside(&name) }
    }

    fn place(&self, name: &str) -> String {
        self.parent.join(&self.folder).join(name).display().to_string()
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
    fn check(&self, root: &OpenFolder, name: &str, condition: &NoteCondition) -> Result<(), NoteError> {
        if *condition == NoteCondition::Always {
            return Ok(());
        }
        let found = self.read_in(root, name)?.map(|note| note.tag);
        let holds = match condition {
            NoteCondition::Always => true,
            NoteCondition::Absent => found.is_none(),
            NoteCondition::Unchanged(tag) => found.as_ref() == Some(tag),
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

fn tag(body: &[u8]) -> String {
    Sha256::digest(body).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl NoteStore for FolderNotes {
    fn read(&self, name: &str) -> Result<Option<KeptNote>, NoteError> {
        parts(name)?;
        match self.found()? {
            Some(folder) => self.read_in(&folder, name),
            None => Ok(None),
        }
    }

    fn write(&self, name: &str, body: &[u8], condition: &NoteCondition) -> Result<String, NoteError> {
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
