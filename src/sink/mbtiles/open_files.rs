//! Tracks which archives this process has open in SQLite. SQLite locks a file with POSIX locks, and the process loses all of them as soon
//! as it closes any handle of the file ("How To Corrupt An SQLite Database File", section 2.2). So a file is opened without SQLite only
//! while no connection of this process has it open. Otherwise a server that also writes would lose the locks of its commits.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Device and inode of a file.
type FileNumber = (u64, u64);

/// How many connections have each file open.
static OPEN: Mutex<BTreeMap<FileNumber, usize>> = Mutex::new(BTreeMap::new());

fn open() -> MutexGuard<'static, BTreeMap<FileNumber, usize>> {
    // The map is consistent after each update, even if a thread panicked.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(path: &Path) -> Option<FileNumber> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Registers a file as open, from before a connection opens it until after that connection is closed.
#[derive(Debug)]
pub(super) struct OpenFile(Option<FileNumber>);

impl OpenFile {
    /// Registers the file that a connection is about to open.
    pub(super) fn of(path: &Path) -> OpenFile {
        let mut open = open();
        let number = number(path);
        if let Some(number) = number {
            *open.entry(number).or_default() += 1;
        }
        OpenFile(number)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut open = open();
        if let Some(number) = self.0
            && let Some(count) = open.get_mut(&number)
        {
            *count -= 1;
            if *count == 0 {
                open.remove(&number);
            }
        }
    }
}

/// Calls `look` to read a file without SQLite. Returns `None` if a connection of this process has the file open, in which case the file is
/// known to be a database. No connection opens a file during the call.
pub(super) fn unless_open<T>(path: &Path, look: impl FnOnce() -> T) -> Option<T> {
    let open = open();
    if number(path).is_some_and(|number| open.contains_key(&number)) {
        return None;
    }
    let looked = look();
    drop(open);
    Some(looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.mbtiles");
        assert_eq!(unless_open(&path, || 1), Some(1));
        std::fs::write(&path, "x").unwrap();
        let (one, other) = (OpenFile::of(&path), OpenFile::of(&path));
        assert_eq!(unless_open(&path, || 1), None);
        drop(one);
        assert_eq!(unless_open(&path, || 1), None);
        drop(other);
        assert_eq!(unless_open(&path, || 1), Some(1));
    }
}
