//! Editing an MBTiles archive in place: differing tiles are collected in a scratch file, then applied in one
//! transaction.
//!
//! ```text
//!  open: lock ─► begin: metadata ─► write: compare bytes, ─► finish: one transaction, synced
//!                                   collect differences               tiles, hash, metadata with the manifest
//! ```
//!
//! Until `finish` the archive is only read. Then SQLite guarantees that readers see the old state or the new one, and
//! that the next program that opens the archive undoes what a killed one left half written ("Atomic Commit In SQLite",
//! hot journals).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, ffi, params};

use super::companions::{Guard, OpenFile, refuse_irregular_companions, unless_open};
use super::read::MbtilesReader;
use super::{KIND, MbtilesError, ORDER, SqliteCause};
use crate::stop::Stop;
use crate::target::disk_list::{Scratch, ScratchError};
use crate::target::publication::tell;
use crate::target::staging::{Staging, StagingError};
use crate::target::{
    BeforeManifest, ChangedTiles, Described, Finished, Metadata, ReadError, TileChange, TileEdit, TileReader as _,
    Tileset, Unwritten, Written,
};
use crate::tile::{Order, TileCoord};

/// How long the transaction waits for other programs that read or write the archive: a server's reads take
/// milliseconds, a copy seconds.
const BUSY_LIMIT: Duration = Duration::from_secs(30);

/// The pause between two attempts to lock the archive.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The most changes that are applied in memory while other programs go on reading, until the pages are written. A
/// change touches two or three pages of 4 KiB, so this takes less than 100 MB. With more changes, readers are locked
/// out from the first one on: SQLite then writes pages to the file as they change.
const MAX_CHANGES_IN_MEMORY: u64 = 8_192;

/// The most bytes of tiles in changes that are applied in memory.
const MAX_BYTES_IN_MEMORY: u64 = 32 << 20;

#[derive(Debug)]
pub(crate) struct EditedArchive {
    // Fields are dropped in this order: the connection is closed before the lock is released.
    archive: MbtilesReader,
    pending: PendingEdits,
    staging: Staging,
    stop: Stop,
    /// How long to wait for other programs' locks.
    patience: Duration,
    /// `PRAGMA data_version` when the archive was first read. It has another value once another program has written.
    state: Option<i64>,
    deleted: u64,
    /// The list of changed tiles, if the run wants one.
    changed: Option<ChangedTiles>,
    /// Receive the list of changes before the transaction.
    before_manifest: Vec<Arc<dyn BeforeManifest>>,
}

impl EditedArchive {
    /// Takes the lock of an archive. Changes nothing until `finish`.
    pub(crate) fn open(target: &Path, stop: &Stop) -> Result<EditedArchive, MbtilesError> {
        EditedArchive::open_with(target, stop, BUSY_LIMIT)
    }

    fn open_with(target: &Path, stop: &Stop, patience: Duration) -> Result<EditedArchive, MbtilesError> {
        let staging = Staging::beside(target)?;
        let path = staging.target().to_owned();
        if !unless_open(&path, || staging.replaces(&KIND)).unwrap_or(Ok(true))? {
            return Err(MbtilesError::Missing { path });
        }
        refuse_irregular_companions(&path)?;
        let failed = |error| failed(&path, stop, patience, error);
        let guard = Guard::of(&path);
        let open = OpenFile::of(&path);
        let connection = connect(&path, &guard, stop, patience).map_err(failed)?;
        if connection.is_readonly("main").map_err(failed)? {
            return Err(MbtilesError::ReadOnly { path });
        }
        // The first statement makes SQLite undo what a killed program left half written.
        let tiles = "SELECT type FROM sqlite_schema WHERE name = 'tiles' COLLATE NOCASE";
        let tiles = connection.query_row(tiles, [], |row| row.get::<_, String>(0)).optional().map_err(failed)?;
        if tiles.as_deref() == Some("view") {
            return Err(MbtilesError::View { path });
        }
        let archive = MbtilesReader::over(connection, path, guard, open)?;
        archive.refuse_unindexed()?;
        let (stop, pending) = (stop.clone(), PendingEdits::new()?);
        Ok(EditedArchive {
            archive,
            pending,
            staging,
            stop,
            patience,
            state: None,
            deleted: 0,
            changed: None,
            before_manifest: Vec::new(),
        })
    }

    fn path(&self) -> PathBuf {
        self.staging.target().to_owned()
    }

    fn failed(&self, error: rusqlite::Error) -> MbtilesError {
        failed(self.staging.target(), &self.stop, self.patience, error)
    }

    /// Compares edits with what the archive holds, and collects those that change something.
    fn compare(&mut self, edits: &[TileEdit]) -> Result<Written, MbtilesError> {
        let failed = |error| failed(self.staging.target(), &self.stop, self.patience, error);
        // One transaction for all queries: without it each query would take and release a lock.
        let transaction = self.archive.connection.unchecked_transaction().map_err(failed)?;
        let mut held = transaction
            .prepare_cached("SELECT tile_data FROM tiles WHERE zoom_level = ?1 AND tile_column = ?2 AND tile_row = ?3")
            .map_err(failed)?;
        let mut written = Written::default();
        for edit in edits {
            self.archive.guard.begin();
            let tile = edit.id().coord;
            let mut rows = held.query(params![tile.zoom().get(), tile.x(), tile.tms_row()]).map_err(failed)?;
            let row = rows.next().map_err(failed)?;
            let found = row.map(|row| row.get_ref(0)).transpose().map_err(failed)?;
            match (edit, found) {
                (TileEdit::Put(_, bytes), Some(ValueRef::Blob(held))) if **bytes == *held => written.unchanged += 1,
                (TileEdit::Keep(..), Some(_)) => written.unchanged += 1,
                (TileEdit::Keep(_, None), None) => written.missing += 1,
                (TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes)), found) => {
                    let change = if found.is_some() { PendingChange::Replace } else { PendingChange::Add };
                    self.pending.push(tile, change, bytes)?;
                    self.changed.as_mut().map_or(Ok(()), |list| list.add(edit.id(), TileChange::Written))?;
                    written.added += u64::from(found.is_none());
                    written.stored += 1;
                }
                (TileEdit::Remove(_), found) => {
                    if found.is_some() {
                        self.pending.push(tile, PendingChange::Delete, &[])?;
                        self.changed.as_mut().map_or(Ok(()), |list| list.add(edit.id(), TileChange::Deleted))?;
                        written.deleted += 1;
                    }
                    written.removed += 1;
                }
            }
        }
        drop(held);
        transaction.commit().map_err(failed)?;
        Ok(written)
    }

    fn apply(&self, metadata: &Metadata) -> Result<(), MbtilesError> {
        let connection = &self.archive.connection;
        self.archive.guard.begin();
        let fits_in_memory = self.pending.count <= MAX_CHANGES_IN_MEMORY && self.pending.bytes <= MAX_BYTES_IN_MEMORY;
        let begin = if fits_in_memory {
            "PRAGMA cache_spill = OFF; BEGIN IMMEDIATE"
        } else {
            "PRAGMA cache_spill = ON; BEGIN EXCLUSIVE"
        };
        connection.execute_batch(begin).map_err(|error| self.failed(error))?;
        if state(connection).map_err(|error| self.failed(error))? != self.state {
            return Err(MbtilesError::Changed { path: self.path() });
        }
        self.apply_tiles()?;
        self.archive.guard.begin();
        let described = || -> rusqlite::Result<()> {
            if self.pending.count > 0 {
                connection.execute("DELETE FROM metadata WHERE name = 'agg_tiles_hash'", [])?;
            }
            for (name, value) in metadata.every_row() {
                connection.execute("DELETE FROM metadata WHERE name = ?1", [name])?;
                if let Some(value) = value {
                    connection.execute("INSERT INTO metadata (name, value) VALUES (?1, ?2)", params![name, value])?;
                }
            }
            connection.execute_batch("COMMIT")
        };
        described().map_err(|error| self.failed(error))
    }

    fn apply_tiles(&self) -> Result<(), MbtilesError> {
        let prepare = |sql| self.archive.connection.prepare(sql).map_err(|error| self.failed(error));
        let mut add =
            prepare("INSERT INTO tiles (zoom_level, tile_column, tile_row, tile_data) VALUES (?1, ?2, ?3, ?4)")?;
        let mut replace =
            prepare("UPDATE tiles SET tile_data = ?4 WHERE zoom_level = ?1 AND tile_column = ?2 AND tile_row = ?3")?;
        let mut delete = prepare("DELETE FROM tiles WHERE zoom_level = ?1 AND tile_column = ?2 AND tile_row = ?3")?;
        self.pending.each(|tile, change, bytes| {
            self.archive.guard.begin();
            let (zoom, column, row) = (tile.zoom().get(), tile.x(), tile.tms_row());
            let changed = match change {
                PendingChange::Add => add.execute(params![zoom, column, row, bytes]),
                PendingChange::Replace => replace.execute(params![zoom, column, row, bytes]),
                PendingChange::Delete => delete.execute(params![zoom, column, row]),
            };
            changed.map(drop).map_err(|error| self.failed(error))
        })
    }

    pub(crate) fn begin(&mut self, tileset: &Tileset) -> Result<Described, MbtilesError> {
        if tileset.unwritten == Unwritten::Delete {
            let what = "an archive was to be edited, and not to keep the tiles that are not handed over";
            return Err(MbtilesError::Contract { what, target: self.path() });
        }
        self.changed = tileset.lists_edits().then(|| ChangedTiles::new(ORDER));
        self.before_manifest.clone_from(&tileset.before_manifest);
        let begun = self.archive.connection.execute_batch("BEGIN");
        self.state = begun.and_then(|()| state(&self.archive.connection)).map_err(|error| self.failed(error))?;
        let described = self.archive.describe()?;
        self.archive.connection.execute_batch("COMMIT").map_err(|error| self.failed(error))?;
        Ok(described)
    }

    pub(crate) fn write(&mut self, edits: &[TileEdit]) -> Result<Written, MbtilesError> {
        let written = self.compare(edits)?;
        self.deleted += written.deleted;
        Ok(written)
    }

    pub(crate) fn finish(self, metadata: &Metadata) -> Result<Finished, MbtilesError> {
        tell(&self.before_manifest, self.changed.as_ref())?;
        self.apply(metadata)?;
        let place = self.path().display().to_string();
        Ok(Finished { place, deleted: self.deleted, changed: self.changed, ..Finished::default() })
    }
}

fn connect(path: &Path, guard: &Guard, stop: &Stop, patience: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let (asked, mut since) = (stop.clone(), Instant::now());
    connection.busy_handler(Some(move |times| {
        if times == 0 {
            since = Instant::now();
        }
        std::thread::sleep(BUSY_PAUSE);
        asked.asked().is_none() && since.elapsed() < patience
    }))?;
    // EXTRA also syncs the folder after the journal was deleted. The archive's journal mode is not changed.
    connection.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA cell_size_check = ON; PRAGMA cache_size = -16000")?;
    Guard::limit(&connection)?;
    let asked = stop.clone();
    guard.watch(&mut connection, move || asked.asked().is_some())?;
    Ok(connection)
}

fn state(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0)).map(Some)
}

/// Converts SQLite's error to the error of a sink.
fn failed(path: &Path, stop: &Stop, patience: Duration, error: rusqlite::Error) -> MbtilesError {
    let path = path.to_owned();
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    match code {
        Some(ErrorCode::OperationInterrupted) if stop.asked().is_none() => {
            let what = "editing it takes more steps than its size explains".to_owned();
            ReadError::Damaged { place: path.display().to_string(), what }.into()
        }
        Some(ErrorCode::OperationInterrupted) => StagingError::Interrupted { path }.into(),
        Some(ErrorCode::DatabaseBusy) if stop.asked().is_some() => StagingError::Interrupted { path }.into(),
        Some(ErrorCode::DatabaseBusy) => {
            MbtilesError::Held { path, seconds: patience.as_secs(), source: SqliteCause(error) }
        }
        Some(ErrorCode::ReadOnly) if extended == ffi::SQLITE_READONLY_DBMOVED => MbtilesError::Changed { path },
        Some(ErrorCode::ReadOnly) => MbtilesError::ReadOnly { path },
        // A file-size limit shows as a failed write rather than as a full disk.
        Some(ErrorCode::DiskFull) => StagingError::no_room(path, SqliteCause(error)).into(),
        Some(_) if extended == ffi::SQLITE_IOERR_WRITE => StagingError::no_room(path, SqliteCause(error)).into(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::TooBig) => {
            super::read::failed(&path, error).into()
        }
        _ => MbtilesError::Sqlite { target: path.clone(), path, source: SqliteCause(error) },
    }
}

// Edits of an archive, kept in a scratch file until the archive's single transaction writes them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingChange {
    /// Adds a tile that the archive does not hold yet.
    Add,
    /// Replaces the bytes of a tile that the archive holds.
    Replace,
    /// Deletes a tile that the archive holds.
    Delete,
}

/// The pending edits, in the order in which they were pushed.
#[derive(Debug)]
pub(crate) struct PendingEdits {
    changes: Scratch,
    count: u64,
    /// The size of their tiles.
    bytes: u64,
}

impl PendingEdits {
    pub(crate) fn new() -> Result<PendingEdits, ScratchError> {
        let changes = Scratch::new(
            "the changed tiles",
            "CREATE TABLE change (number integer PRIMARY KEY, sort_key integer, kind integer, bytes blob)",
        )?;
        Ok(PendingEdits { changes, count: 0, bytes: 0 })
    }

    pub(crate) fn push(&mut self, tile: TileCoord, change: PendingChange, bytes: &[u8]) -> Result<(), ScratchError> {
        let sort_key = Order::ZoomColumnTmsRow.sort_key(tile).cast_signed();
        let kind = match change {
            PendingChange::Add => 0,
            PendingChange::Replace => 1,
            PendingChange::Delete => 2,
        };
        self.changes.run(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT INTO change (sort_key, kind, bytes) VALUES (?1, ?2, ?3)")?;
            insert.execute(params![sort_key, kind, bytes])
        })?;
        self.count += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Passes each edit to `take`, in the order in which they were pushed; ends at the first error.
    pub(crate) fn each<E: From<ScratchError>>(
        &self,
        mut take: impl FnMut(TileCoord, PendingChange, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| self.changes.failed(error);
        let all = "SELECT sort_key, kind, bytes FROM change ORDER BY number";
        let mut changes = self.changes.connection.prepare(all).map_err(failed)?;
        let mut rows = changes.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || -> rusqlite::Result<_> {
                let change = match row.get::<_, i64>(1)? {
                    0 => PendingChange::Add,
                    1 => PendingChange::Replace,
                    _ => PendingChange::Delete,
                };
                Ok((row.get::<_, i64>(0)?, change, row.get_ref(2)?.as_blob()?))
            };
            let (sort_key, change, bytes) = read().map_err(failed)?;
            if let Some(tile) = Order::ZoomColumnTmsRow.tile(sort_key.cast_unsigned()) {
                take(tile, change, bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::TileFormat;
    use crate::target::{Mbtiles, OpenMode, Sink as _};
    use crate::tile::{Coverage, LonLatBox, Scope};

    use crate::stop::Signal;

    fn tileset(unwritten: Unwritten) -> Tileset {
        Tileset::of_test(Scope { zooms: "0".parse().unwrap(), coverage: Coverage::new(&[]) }, unwritten)
    }

    fn metadata(name: &str) -> Metadata {
        Metadata {
            name: name.to_owned(),
            format: TileFormat::MVT,
            description: None,
            attribution: None,
            version: None,
            zooms: "0".parse().unwrap(),
            bounds: LonLatBox::from_sides([-1.0, -1.0, 1.0, 1.0]),
            center: None,
            vector_layers: Vec::new(),
            manifest: String::new(),
        }
    }

    /// Edits an archive called "old" while another connection reads it; returns the error, and the name that can be
    /// read afterwards.
    fn edited_while_read(patience: Duration, stop: Option<Signal>) -> (PathBuf, MbtilesError) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.mbtiles");
        let mut sink = Mbtiles::open(&path, OpenMode::Replace, &Stop::new()).unwrap();
        sink.begin(&tileset(Unwritten::Delete)).unwrap();
        sink.finish(&metadata("old")).unwrap();

        let reader = Connection::open(&path).unwrap();
        let name = "SELECT value FROM metadata WHERE name = 'name'";
        let read = || reader.query_row(name, [], |row| row.get::<_, String>(0)).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(read(), "old");
        let asked = Stop::new();
        let mut sink = EditedArchive::open_with(&path, &asked, patience).unwrap();
        sink.begin(&tileset(Unwritten::Keep)).unwrap();
        let refused = std::thread::scope(|scope| {
            let edited = scope.spawn(|| sink.finish(&metadata("new")).unwrap_err());
            let journal = path.with_file_name("t.mbtiles-journal");
            while !journal.exists() && !edited.is_finished() {
                std::thread::sleep(BUSY_PAUSE);
            }
            stop.inspect(|signal| asked.ask(*signal));
            edited.join().unwrap()
        });
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(read(), "old");
        assert!(!path.with_file_name("t.mbtiles-journal").exists());
        (path, refused)
    }

    #[test]
    fn a_reader_that_never_ends_is_named_and_nothing_has_changed() {
        let (path, refused) = edited_while_read(Duration::from_millis(100), None);
        let text = format!(
            "other programs read or wrote {} for 0 s without a break, so nothing was changed in it: have them end their transactions, then run the command again",
            path.display()
        );
        assert_eq!(refused.to_string(), text);
        assert_eq!(std::error::Error::source(&refused).unwrap().to_string(), "database is locked");
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_reader_and_nothing_has_changed() {
        let (path, refused) = edited_while_read(Duration::MAX, Some(Signal::Terminate));
        assert_eq!(refused.to_string(), format!("interrupted while writing {}", path.display()));
    }
}

#[cfg(test)]
mod pending_tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn changes_come_back_as_they_were_kept() {
        let mut pending = PendingEdits::new().unwrap();
        let tile = |x: u32| TileCoord::new(Zoom::new(14).unwrap(), x, 7 * x % 16_384).unwrap();
        let change = |x: u32| [PendingChange::Add, PendingChange::Replace, PendingChange::Delete][x as usize % 3];
        let bytes = |x: u32| x.to_le_bytes().repeat(x as usize % 200);
        for x in (0..16_384).rev() {
            pending.push(tile(x), change(x), &bytes(x)).unwrap();
        }
        let mut next = (0..16_384).rev();
        pending
            .each(|found, found_change, found_bytes| {
                let x = next.next().unwrap();
                assert_eq!((found, found_change, found_bytes), (tile(x), change(x), &bytes(x)[..]));
                Ok::<(), ScratchError>(())
            })
            .unwrap();
        assert_eq!((next.next(), pending.count), (None, 16_384));
    }
}
