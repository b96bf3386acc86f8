//! The files that `SQLite` keeps next to a database and finds by their names alone: the rollback journal, the
//! write-ahead log and the log's index.

use std::collections::BTreeMap;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::{KIND, MbtilesError};
use crate::encode::MAX_STORED_TILE;
use crate::target::lock_file;
use crate::target::staging::{Staging, StagingError};

/// The suffix of the rollback journal, in which SQLite keeps the old content of the pages that it overwrites. In WAL
/// mode, the new content goes to the write-ahead log (`-wal`) instead.
const JOURNAL: &str = "-journal";
/// The suffixes of the companions that may hold changes.
const WITH_CHANGES: [&str; 2] = ["-wal", JOURNAL];

/// The suffixes of all companions of a database.
pub(crate) const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// The path of the companion of `target` that has the suffix `end`.
pub(crate) fn beside(target: &Path, end: &str) -> PathBuf {
    let mut companion = target.as_os_str().to_owned();
    companion.push(end);
    companion.into()
}

/// True if a companion of `target` exists that may hold changes which `SQLite` has not applied yet.
pub(crate) fn beside_holds_changes(target: &Path) -> bool {
    WITH_CHANGES.iter().any(|end| beside(target, end).exists())
}

/// Makes SQLite recover a database after its writer was killed: it rolls back a half-written transaction, or applies
/// what is left in the log, and deletes those files, as it would for any reader. Files that a running program uses
/// stay, and are refused afterwards.
pub(crate) fn clear_away(target: &Path) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let _open = OpenFile::of(target);
    let cleared = Connection::open_with_flags(target, flags).and_then(|connection| {
        // This takes the writer's lock, so no other process is writing.
        connection.execute_batch("BEGIN IMMEDIATE; SELECT count(*) FROM sqlite_schema;")?;
        let journal = beside(target, JOURNAL);
        let unused =
            is_unused(&journal).and_then(|unused| if unused { std::fs::remove_file(&journal) } else { Ok(()) });
        connection.execute_batch("COMMIT")?;
        connection.close().map_err(|(_, error)| error)?;
        Ok(unused)
    });
    match cleared {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("the journal beside {} is not cleared away: {error}", target.display()),
        Err(error) => tracing::debug!("what lies beside {} is not cleared away: {error}", target.display()),
    }
}

/// True if the file is a journal whose writer was killed before it changed the database: SQLite writes the first bytes
/// of a journal last. It leaves such a journal to the next writer.
fn is_unused(journal: &Path) -> io::Result<bool> {
    let mut first = [0xff];
    match lock_file::open_named(journal).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) => Ok(first == [0]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a companion that is a link, a pipe or a device, before SQLite opens it by its name: opening a pipe would
/// block forever.
pub(crate) fn refuse_irregular_companions(target: &Path) -> Result<(), MbtilesError> {
    for companion in WITH_CHANGES.map(|end| beside(target, end)) {
        if std::fs::symlink_metadata(&companion).is_ok_and(|found| !found.is_file()) {
            return Err(MbtilesError::Companion { companion, target: target.to_owned() });
        }
    }
    Ok(())
}

/// Refuses to put a new file next to a companion that holds changes to another file. SQLite finds a log or journal by
/// its name alone ("Write-Ahead Logging" and "Atomic Commit In SQLite", hot journals), so the first reader would apply
/// the old file's changes to the new file.
pub(crate) fn refuse_companions(target: &Path) -> Result<(), MbtilesError> {
    for end in WITH_CHANGES {
        let companion = beside(target, end);
        match std::fs::symlink_metadata(&companion) {
            // An empty companion holds no changes.
            Ok(found) if found.len() == 0 && found.is_file() => {}
            Ok(_) => return Err(MbtilesError::Companion { companion, target: target.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StagingError::Unreadable { path: companion, kind: KIND.one, source }.into()),
        }
    }
    Ok(())
}

/// Refuses to replace an existing file that is not an MBTiles archive; an empty file may be replaced.
pub(crate) fn refuse_foreign(staging: &Staging) -> Result<(), StagingError> {
    if !unless_open(staging.target(), || staging.replaces(&KIND)).unwrap_or(Ok(true))? {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let tables = Connection::open_with_flags(as_it_lies(staging.target()), flags).and_then(|connection| {
        connection.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('metadata', 'tiles') AND type IN ('table', 'view')",
            [],
            |row| row.get::<_, i64>(0),
        )
    });
    match tables {
        Ok(2) => Ok(()),
        Ok(_) => Err(staging.foreign(&KIND, "it is an SQLite file without the tables metadata and tiles")),
        Err(_) => Err(staging.foreign(&KIND, "SQLite cannot read it")),
    }
}

/// The path as an SQLite URI with `immutable=1` ("Uniform Resource Identifiers"), so that SQLite reads the file and
/// creates no other. Without it, opening a file in WAL mode leaves a log and its index next to the file, even if the
/// file is opened read-only.
pub(crate) fn as_it_lies(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// The path with all links in its folder resolved; the file's own name stays, even if it is a link.
pub(crate) fn without_links(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            folder.canonicalize().map_or_else(|_unreadable| path.to_owned(), |folder| folder.join(name))
        }
        _ => path.to_owned(),
    }
}

// Limits for archives from unknown sources: reading one takes time and memory in proportion to its size. Without them,
// a file of 8 KB can hold SQL (views, triggers) that runs for years ("Defense Against The Dark Arts" in SQLite's
// documentation).

/// Steps of SQLite's virtual machine between two checks of the step limit.
const STEPS_PER_CHECK: i32 = 10_000;

/// Steps that a statement may take in an archive of any size: about one second.
const FREE_STEPS: u64 = 50_000_000;

/// Steps that a statement may take, in addition, for each byte of the archive. Reading a row takes 30 steps, and a row
/// has at least nine bytes.
const STEPS_PER_BYTE: u64 = 400;

/// The smallest size of a row with four columns, in bytes: its lengths, its types and its pointer on the page.
const MIN_BYTES_PER_ROW: u64 = 9;

/// Rows that an archive may have in addition to one for each [`MIN_BYTES_PER_ROW`] bytes of its size.
const SPARE_ROWS: u64 = 1_000;

/// Counts the steps that a statement takes on one archive, and compares them with the limit for the archive's size.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    checks: Arc<AtomicU64>,
    /// Size of the file and its write-ahead log together, in bytes.
    pub(crate) size: u64,
}

impl Guard {
    /// The guard of the archive at `path`, with no steps counted.
    pub(crate) fn of(path: &Path) -> Guard {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Guard { checks: Arc::default(), size: length(path) + length(&beside(path, "-wal")) }
    }

    /// Sets the limits that SQLite itself enforces on `connection`.
    pub(crate) fn limit(connection: &Connection) -> rusqlite::Result<()> {
        // The longest value, and the longest row, in bytes.
        let longest = i32::try_from(MAX_STORED_TILE + 1_000).unwrap_or(i32::MAX);
        for (limit, most) in [
            (Limit::SQLITE_LIMIT_LENGTH, longest),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 10),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        ] {
            connection.set_limit(limit, most)?;
        }
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA ignore_check_constraints = ON")
    }

    /// Makes `connection` abort a statement that takes too many steps, and every statement after `is_stopped` has
    /// returned true.
    pub(crate) fn watch(
        &self,
        connection: &mut Connection,
        mut is_stopped: impl FnMut() -> bool + Send + 'static,
    ) -> rusqlite::Result<()> {
        let guard = self.clone();
        let check = move || {
            guard.checks.fetch_add(1, Relaxed);
            guard.is_spent() || is_stopped()
        };
        connection.progress_handler(STEPS_PER_CHECK, Some(check))
    }

    /// Resets the count of steps. Call it before each statement.
    pub(crate) fn begin(&self) {
        self.checks.store(0, Relaxed);
    }

    /// True if the statement has taken more steps than an archive of this size may need.
    pub(crate) fn is_spent(&self) -> bool {
        let most = self.size.saturating_mul(STEPS_PER_BYTE).saturating_add(FREE_STEPS);
        self.checks.load(Relaxed).saturating_mul(u64::from(STEPS_PER_CHECK.unsigned_abs())) > most
    }

    /// The most rows that an archive of this size can hold.
    pub(crate) const fn max_rows(&self) -> u64 {
        self.size / MIN_BYTES_PER_ROW + SPARE_ROWS
    }
}

// Tracks which archives this process has open in SQLite. SQLite locks a file with POSIX locks, and the process loses
// all of them as soon as it closes any handle of the file ("How To Corrupt An SQLite Database File", section 2.2). So a
// file is opened without SQLite only while no connection of this process has it open. Otherwise a server that also
// writes would lose the locks of its commits.

/// Device and inode of a file.
type FileNumber = (u64, u64);

/// How many connections have each file open.
static OPEN: Mutex<BTreeMap<FileNumber, usize>> = Mutex::new(BTreeMap::new());

fn number(path: &Path) -> Option<FileNumber> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Registers a file as open, from before a connection opens it until after that connection is closed.
#[derive(Debug)]
pub(crate) struct OpenFile(Option<FileNumber>);

impl OpenFile {
    /// Registers the file that a connection is about to open.
    pub(crate) fn of(path: &Path) -> OpenFile {
        let mut open = OPEN.lock();
        let number = number(path);
        if let Some(number) = number {
            *open.entry(number).or_default() += 1;
        }
        OpenFile(number)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
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

/// Calls `read` to read a file without SQLite. Returns `None` if a connection of this process has the file open, in
/// which case the file is known to be a database. No connection opens a file during the call.
pub(crate) fn unless_open<T>(path: &Path, read: impl FnOnce() -> T) -> Option<T> {
    let open = OPEN.lock();
    if number(path).is_some_and(|number| open.contains_key(&number)) {
        return None;
    }
    let done = read();
    drop(open);
    Some(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_is_not_read() {
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
