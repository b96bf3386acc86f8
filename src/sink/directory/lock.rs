//! One writer a directory: a locked file that says who holds it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::DirectoryError;
use crate::sink::staging::same_file;

/// The lock, held as long as this value lives. The file stays once the target is ours; only the lock on it counts, which
/// ends with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
    /// Folders that were made for it, the innermost first: they go with it as long as nothing was begun in them.
    made: Vec<PathBuf>,
}

impl Lock {
    /// Takes the lock of a target.
    pub(super) fn take(target: &Path, own: &Path) -> Result<Lock, DirectoryError> {
        let path: PathBuf = own.join("lock");
        let failed = |source| DirectoryError::io("lock", &path, source);
        let made: Vec<PathBuf> =
            [own, target].into_iter().filter(|folder| !folder.exists()).map(Path::to_owned).collect();
        loop {
            fs::create_dir_all(own).map_err(|source| DirectoryError::io("make the folder", own, source))?;
            let mut file = match OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path) {
                Ok(file) => file,
                // The run that held it was the first one, failed, and took the folder with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // A holder that cannot be read is still a holder.
                    if file.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                        "it does not say who it is".clone_into(&mut holder);
                    }
                    return Err(DirectoryError::Busy { path: target.to_owned(), holder: holder.trim().to_owned() });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // The run that held it may have removed the file meanwhile: then this handle is of no use.
            if !same_file(&file, &path) {
                continue;
            }
            let since = humantime::format_rfc3339_seconds(SystemTime::now());
            file.set_len(0).map_err(failed)?;
            writeln!(file, "process {} since {since}", std::process::id()).map_err(failed)?;
            return Ok(Lock { _file: file, path, made });
        }
    }

    /// From now on there is something to be kept in the target.
    pub(super) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Lock {
    /// A run that began nothing leaves nothing behind.
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let removed = fs::remove_file(&self.path).and_then(|()| self.made.iter().try_for_each(fs::remove_dir));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                tracing::warn!("cannot remove {}: {error}; it is safe to delete", self.path.display());
            }
            _ => {}
        }
    }
}
