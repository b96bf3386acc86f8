//! The lock of a directory, which allows one writer at a time: a lock file that names its holder.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use super::folder::OpenFolder;
use super::{DirectoryError, OWN_FOLDER};
use crate::target::lock_file;
use crate::target::lock_file::{LeftOver, Taken};

/// The name of the lock in the program's own folder.
const LOCK: &str = "lock";

/// The most bytes of the holder's description that a message shows.
const MAX_HOLDER_BYTES: u64 = 200;

/// The lock of a target, held while this value lives. The file itself may stay: only the lock on it counts, and that
/// ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    pub(crate) root: OpenFolder,
    /// The program's own folder in the target.
    pub(crate) own: OpenFolder,
    /// Folders that were created for the lock, the innermost first. They are removed with it unless [`Lock::keep`] is
    /// called.
    made: Vec<PathBuf>,
}

impl Lock {
    /// Takes the lock of a target. The target itself may be a link to a folder.
    /// Fails if another run holds the lock, or the folder cannot be created or written.
    pub(crate) fn take(target: &Path) -> Result<Lock, DirectoryError> {
        let own_path = target.join(OWN_FOLDER);
        let path = own_path.join(LOCK);
        let failed = |source| DirectoryError::io("lock", &path, source);
        let is_missing = |folder: &&Path| fs::symlink_metadata(folder).is_err();
        let made: Vec<PathBuf> = [&*own_path, target].into_iter().filter(is_missing).map(Path::to_owned).collect();
        loop {
            match fs::create_dir(target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(DirectoryError::io("make the folder", target, error));
                }
                _ => {}
            }
            let root = match OpenFolder::open(target) {
                // The first run in this target failed in the meantime, and removed the folder that it had created.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !target.is_symlink() => continue,
                opened => opened.map_err(|source| DirectoryError::io("open", target, source))?,
            };
            let own = match root.make(OWN_FOLDER) {
                Err(error) if error.is_missing() => continue,
                made => made.map_err(|error| error.into_error("make the folder"))?,
            };
            match lock_file::take(own.as_fd(), Path::new(LOCK), LeftOver::Reused) {
                Ok(Taken::Ours(mut file)) => {
                    let since = humantime::format_rfc3339_seconds(SystemTime::now());
                    file.set_len(0).map_err(failed)?;
                    writeln!(file, "process {} since {since}", std::process::id()).map_err(failed)?;
                    return Ok(Lock { _file: file, root, own, made });
                }
                Ok(Taken::Theirs(file)) => {
                    let mut holder = String::new();
                    // If the holder's description cannot be read, the lock is held nevertheless.
                    if file.take(MAX_HOLDER_BYTES).read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                        "it does not say who it is".clone_into(&mut holder);
                    }
                    return Err(DirectoryError::Busy { path: target.to_owned(), holder: holder.trim().to_owned() });
                }
                Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err((_, error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(DirectoryError::Io {
                        action: "lock",
                        path,
                        next: "remove it, or choose another --output",
                        source: error,
                    });
                }
                Err((_, error)) => return Err(failed(error)),
            }
        }
    }

    /// True if the program's own folder was created with the lock. Then no run of oar-tiles was there before.
    pub(crate) fn is_of_a_new_target(&self) -> bool {
        !self.made.is_empty()
    }

    /// Keeps the folders that were created, because from now on the target holds something.
    pub(crate) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Lock {
    /// Removes the folders that were created for the lock, if the run has begun nothing.
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let removed = self.own.remove(LOCK).and_then(|_| self.made.iter().try_for_each(fs::remove_dir));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                let path = self.own.path().join(LOCK);
                tracing::warn!("cannot remove {}: {error}; it is safe to delete", path.display());
            }
            _ => {}
        }
    }
}
