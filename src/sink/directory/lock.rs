//! One writer a directory: a locked file that says who holds it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::DirectoryError;

/// The lock, held as long as this value lives. The file stays; only the lock on it counts, which ends with the process.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Lock {
    /// Takes the lock of a target.
    pub(super) fn take(target: &Path, own: &Path) -> Result<Lock, DirectoryError> {
        let path: PathBuf = own.join("lock");
        let failed = |source| DirectoryError::io("lock", &path, source);
        fs::create_dir_all(own).map_err(|source| DirectoryError::io("make the folder", own, source))?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
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
        let since = humantime::format_rfc3339_seconds(SystemTime::now());
        file.set_len(0).map_err(failed)?;
        writeln!(file, "process {} since {since}", std::process::id()).map_err(failed)?;
        Ok(Lock(file))
    }
}
