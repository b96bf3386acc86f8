//! The files that `SQLite` keeps next to a database and finds by their names alone: the rollback journal, the write-ahead log and the log's index.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::open_files::{OpenFile, unless_open};
use super::{KIND, MbtilesError};
use crate::sink::lock_file;
use crate::sink::staging::{Staging, StagingError};

/// The suffix of the rollback journal, in which SQLite keeps the old content of the pages that it overwrites. In WAL mode, the new content
/// goes to the write-ahead log (`-wal`) instead.
const JOURNAL: &str = "-journal";
/// The suffixes of the companions that may hold changes.
const WITH_CHANGES: [&str; 2] = ["-wal", JOURNAL];

/// The suffixes of all companions of a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// The path of the companion of `target` that has the suffix `end`.
pub(super) fn beside(target: &Path, end: &str) -> PathBuf {
    let mut companion = target.as_os_str().to_owned();
    companion.push(end);
    companion.into()
}

/// True if a companion of `target` exists that may hold changes which `SQLite` has not applied yet.
pub(super) fn beside_holds_changes(target: &Path) -> bool {
    WITH_CHANGES.iter().any(|end| beside(target, end).exists())
}

/// Makes SQLite recover a database after its writer was killed: it rolls back a half-written transaction, or applies what is left in the
/// log, and deletes those files, as it would for any reader. Files that a running program uses stay, and are refused afterwards.
pub(super) fn clear_away(target: &Path) {
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

/// True if the file is a journal whose writer was killed before it changed the database: SQLite writes the first bytes of a journal last.
/// It leaves such a journal to the next writer.
fn is_unused(journal: &Path) -> io::Result<bool> {
    let mut first = [0xff];
    match lock_file::open_named(journal).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) => Ok(first == [0]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a companion that is a link, a pipe or a device, before SQLite opens it by its name: opening a pipe would block forever.
pub(super) fn refuse_irregular_companions(target: &Path) -> Result<(), MbtilesError> {
    for companion in WITH_CHANGES.map(|end| beside(target, end)) {
        if std::fs::symlink_metadata(&companion).is_ok_and(|found| !found.is_file()) {
            return Err(MbtilesError::Companion { companion, target: target.to_owned() });
        }
    }
    Ok(())
}

/// Refuses to put a new file next to a companion that holds changes to another file. SQLite finds a log or journal by its name alone
/// ("Write-Ahead Logging" and "Atomic Commit In SQLite", hot journals), so the first reader would apply the old file's changes to the new file.
pub(super) fn refuse_companions(target: &Path) -> Result<(), MbtilesError> {
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
pub(super) fn refuse_foreign(staging: &Staging) -> Result<(), StagingError> {
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

/// The path as an SQLite URI with `immutable=1` ("Uniform Resource Identifiers"), so that SQLite reads the file and creates no other.
/// Without it, opening a file in WAL mode leaves a log and its index next to the file, even if the file is opened read-only.
pub(super) fn as_it_lies(path: &Path) -> String {
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
pub(super) fn without_links(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            folder.canonicalize().map_or_else(|_unreadable| path.to_owned(), |folder| folder.join(name))
        }
        _ => path.to_owned(),
    }
}
