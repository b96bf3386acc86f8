//! A new MBTiles archive, written next to its target.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};

use super::companions::{
    beside_holds_changes, clear_away, refuse_companions, refuse_foreign, refuse_irregular_companions, unless_open,
    without_links,
};
use super::tiles_hash::EditsHash;
use super::{KIND, MBTILES_APPLICATION_ID, MbtilesError, MbtilesReader, ORDER, SqliteCause};
use crate::stop::Stop;
use crate::target::compare::{ArchiveComparison, NO_ARCHIVE};
use crate::target::publication::tell;
use crate::target::staging::{Staging, StagingError};
use crate::target::{BeforeManifest, Finished, Metadata, TileEdit, Tileset, Unwritten, Written};

/// A new archive, which replaces the target when it is finished.
#[derive(Debug)]
pub(crate) struct NewArchive {
    // Fields are dropped in this order: the connection is closed before its file is removed.
    connection: Connection,
    staging: Staging,
    /// `agg_tiles_hash` of what is written.
    hash: EditsHash,
    /// True if removed tiles are stored as rows with NULL, as in a patch.
    notes_removals: bool,
    /// The comparison with the archive that is replaced, if the run wants a list of changed tiles.
    comparison: Option<ArchiveComparison>,
    /// Receive the list of changes before the archive is replaced.
    before_manifest: Vec<Arc<dyn BeforeManifest>>,
}

const SCHEMA: &str = "
    CREATE TABLE metadata (name text NOT NULL PRIMARY KEY, value text);
    CREATE TABLE tiles (
        zoom_level integer NOT NULL, tile_column integer NOT NULL, tile_row integer NOT NULL, tile_data blob NOT NULL
    );
    CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);";

/// The tiles of a patch: NULL marks a removed tile.
const TILES_OF_PATCH: &str = "
    DROP TABLE tiles;
    CREATE TABLE tiles (
        zoom_level integer NOT NULL, tile_column integer NOT NULL, tile_row integer NOT NULL, tile_data blob
    );
    CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);";

const INSERT: &str = "INSERT INTO tiles (zoom_level, tile_column, tile_row, tile_data) VALUES (?1, ?2, ?3, ?4)";

impl NewArchive {
    /// Begins an archive next to `target`.
    pub(crate) fn create(target: &Path, stop: &Stop) -> Result<NewArchive, MbtilesError> {
        let staging = Staging::beside(target)?;
        refuse_irregular_companions(staging.target())?;
        if replaces(&staging)? && beside_holds_changes(staging.target()) {
            clear_away(staging.target());
        }
        refuse_companions(staging.target())?;
        refuse_foreign(&staging)?;
        let connection = open(&staging, stop).map_err(|source| failed(&staging, source))?;
        Ok(NewArchive {
            connection,
            staging,
            hash: EditsHash::new(false),
            notes_removals: false,
            comparison: None,
            before_manifest: Vec::new(),
        })
    }

    /// Begins a patch next to `target`.
    pub(crate) fn of_changes(target: &Path, stop: &Stop) -> Result<NewArchive, MbtilesError> {
        let mut archive = NewArchive::create(target, stop)?;
        archive.connection.execute_batch(TILES_OF_PATCH).map_err(|source| failed(&archive.staging, source))?;
        archive.notes_removals = true;
        archive.hash = EditsHash::new(true);
        Ok(archive)
    }

    fn insert(&mut self, edits: Vec<TileEdit>) -> rusqlite::Result<Written> {
        let mut written = Written::default();
        let transaction = self.connection.unchecked_transaction()?;
        let mut insert = transaction.prepare_cached(INSERT)?;
        for edit in &edits {
            match edit {
                TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) => {
                    let tile = id.coord;
                    insert.execute(params![tile.zoom().get(), tile.x(), tile.tms_row(), &**bytes])?;
                    written.stored += 1;
                }
                TileEdit::Remove(id) if self.notes_removals => {
                    let tile = id.coord;
                    insert.execute(params![tile.zoom().get(), tile.x(), tile.tms_row(), None::<&[u8]>])?;
                    written.removed += 1;
                }
                // The archive is new, so there is nothing to delete or to keep.
                TileEdit::Remove(_) => written.removed += 1,
                TileEdit::Keep(_, None) => written.missing += 1,
            }
        }
        drop(insert);
        transaction.commit()?;
        self.hash.add(edits);
        written.added = written.stored;
        Ok(written)
    }

    pub(crate) fn begin(&mut self, tileset: &Tileset) -> Result<(), MbtilesError> {
        match tileset.unwritten {
            Unwritten::Delete => {
                self.before_manifest.clone_from(&tileset.before_manifest);
                if tileset.list_changes {
                    self.comparison = Some(if replaces(&self.staging)? {
                        let old = self.staging.target().to_owned();
                        ArchiveComparison::with(ORDER, move |handover| {
                            MbtilesReader::as_it_lies(&old)?.hand_over(handover)
                        })
                    } else {
                        ArchiveComparison::without(ORDER, NO_ARCHIVE)
                    });
                }
                Ok(())
            }
            Unwritten::Keep => Err(MbtilesError::Contract {
                what: "a new archive was to keep tiles of the old one",
                target: self.staging.target().to_owned(),
            }),
        }
    }

    pub(crate) fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, MbtilesError> {
        if let Some(comparison) = &mut self.comparison {
            for edit in &edits {
                if let TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) = edit {
                    comparison.write(id.coord, bytes)?;
                }
            }
        }
        self.insert(edits).map_err(|source| failed(&self.staging, source))
    }

    pub(crate) fn finish(self, metadata: &Metadata) -> Result<Finished, MbtilesError> {
        self.finish_with(metadata, &[])
    }

    /// Completes the archive with further rows in its metadata.
    pub(crate) fn finish_with(
        self,
        metadata: &Metadata,
        more: &[(&str, Option<String>)],
    ) -> Result<Finished, MbtilesError> {
        let NewArchive { connection, staging, hash, comparison, before_manifest, .. } = self;
        describe(&connection, metadata, hash.finish(), more).map_err(|source| failed(&staging, source))?;
        connection.close().map_err(|(_, source)| failed(&staging, source))?;
        // Another program may have begun to write the old file in the meantime.
        refuse_companions(staging.target())?;
        let changed = comparison.map(ArchiveComparison::finish).transpose()?;
        tell(&before_manifest, changed.as_ref())?;
        Ok(Finished { place: staging.publish()?.display().to_string(), changed, ..Finished::default() })
    }
}

/// True if there is an archive to replace.
fn replaces(staging: &Staging) -> Result<bool, StagingError> {
    unless_open(staging.target(), || staging.replaces(&KIND)).unwrap_or(Ok(true))
}

fn failed(staging: &Staging, source: rusqlite::Error) -> MbtilesError {
    let (code, source) = (source.sqlite_error_code(), SqliteCause(source));
    match code {
        Some(rusqlite::ErrorCode::OperationInterrupted) => staging.interrupted().into(),
        // A file-size limit shows as a failed write rather than as a full disk.
        Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure) => staging.disk_full(source).into(),
        _ => MbtilesError::Sqlite { path: staging.path().to_owned(), target: staging.target().to_owned(), source },
    }
}

fn open(staging: &Staging, stop: &Stop) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    // With NOFOLLOW, SQLite refuses a link in any part of the path. The user may have linked the folders above the
    // file, so those links are resolved first.
    let path = without_links(staging.path());
    let mut connection = Connection::open_with_flags(path, flags)?;
    // SQLite opened the file by its name. This check makes sure that it is the locked file, before anything is written.
    if !staging.is_in_place() {
        return Err(rusqlite::Error::InvalidPath(staging.path().to_owned()));
    }
    // No other process reads the staged file, and a failed one is deleted, so it needs neither journal nor locks nor
    // syncs of its own. The journal mode "off" is not stored in the file: readers find an ordinary journal mode, never
    // WAL.
    connection.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -16000; PRAGMA encoding = 'UTF-8';",
    )?;
    connection.pragma_update(None, "application_id", MBTILES_APPLICATION_ID)?;
    connection.execute_batch(SCHEMA)?;
    let stop = stop.clone();
    connection.progress_handler(100_000, Some(move || stop.asked().is_some()))?;
    Ok(connection)
}

/// Fills the metadata table (MBTiles 1.3, section "Metadata").
fn describe(
    connection: &Connection,
    metadata: &Metadata,
    hash: String,
    more: &[(&str, Option<String>)],
) -> rusqlite::Result<()> {
    let mut rows: Vec<(&str, Option<String>)> =
        metadata.rows().into_iter().map(|(name, value)| (name, Some(value))).collect();
    rows.push(("scheme", Some("tms".to_owned())));
    rows.push(("agg_tiles_hash", Some(hash)));
    rows.extend_from_slice(more);
    let transaction = connection.unchecked_transaction()?;
    for (name, value) in rows {
        transaction.execute("INSERT INTO metadata (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    transaction.commit()
}
