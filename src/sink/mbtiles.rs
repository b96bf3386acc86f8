//! The MBTiles 1.3 archive: an SQLite file with the tables `metadata` and `tiles`.
//!
//! Schema: one flat table with a unique index, which every reader knows. Rows come in the order of that index, so both
//! grow at their ends, nothing is sorted at the end, and the archive's hash is computed on the way.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use rusqlite::{Connection, OpenFlags, params};

use super::mbtiles_guard::beside;
use super::pending::PendingError;
use super::staging::{FileKind, Staging, StagingError};
use super::{Described, Finished, Metadata, Needs, ReadError, Rest, Sink, TileEdit, Tileset, Written, lock_file};
use crate::stop::Stop;
use crate::tile::Order;

/// "MPBX" in the header of the file: SQLite's list of application ids (magic.txt) and MBTiles 1.3, section "Database".
pub const MBTILES_APPLICATION_ID: i32 = 0x4d50_4258;

/// What may be replaced, as far as its first bytes tell.
pub(super) const KIND: FileKind = FileKind {
    name: "MBTiles file",
    one: "an MBTiles file",
    magic: b"SQLite format 3\0",
    otherwise: "it is not an SQLite file",
};

/// Where SQLite keeps the old pages of what it writes, and where, in another mode, the new ones.
const JOURNAL: &str = "-journal";
const COMPANIONS: [&str; 2] = ["-wal", JOURNAL];

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum MbtilesError {
    /// The file beside the target, and what it may replace.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// A companion of the old target that SQLite would take for the new one's.
    #[error(
        "{} lies beside the output {target} and would be applied to the new file: end the program that has the old one open and run sqlite3 '{target}' .tables, which clears it away; or remove it, with the changes that it holds",
        companion.display(),
        target = target.display()
    )]
    Companion {
        /// The target's write-ahead log or rollback journal.
        companion: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// There is nothing to be edited.
    #[error("there is no archive {} whose tiles could be brought up to date: seed it first", path.display())]
    Missing {
        /// The target.
        path: PathBuf,
    },
    /// The tiles of an archive to be edited are no table.
    #[error("{} keeps its tiles in a view over other tables, which is not changed in place: seed it anew", path.display())]
    View {
        /// The target.
        path: PathBuf,
    },
    /// An archive to be edited could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is to be changed in an archive could not be kept until the end.
    #[error(transparent)]
    Pending(#[from] PendingError),
    /// An archive to be edited may not be written.
    #[error("{} may be read and not written: give yourself the right to write it, or choose another --output", path.display())]
    ReadOnly {
        /// The target.
        path: PathBuf,
    },
    /// Others did not let an archive be edited.
    #[error(
        "other programs read or wrote {} for {seconds} s without a break, so nothing was changed in it: have them end their transactions, then run the command again",
        path.display()
    )]
    Held {
        /// The target.
        path: PathBuf,
        /// How long they were waited for.
        seconds: u64,
        /// What SQLite said.
        source: SqliteCause,
    },
    /// Somebody else changed the archive that was edited.
    #[error(
        "{} was changed, replaced or removed by somebody else during the run: it is left alone. See that only one program writes it, then run the command again",
        path.display()
    )]
    Changed {
        /// The target.
        path: PathBuf,
    },
    /// The run asked for something that the sink is not made for.
    #[error("{what}: please report this; {} is unchanged", target.display())]
    Contract {
        /// What was asked for.
        what: &'static str,
        /// The target.
        target: PathBuf,
    },
    /// SQLite refused.
    #[error("cannot write {}; {} is unchanged", path.display(), target.display())]
    Sqlite {
        /// The staged file.
        path: PathBuf,
        /// The target.
        target: PathBuf,
        /// The cause.
        source: SqliteCause,
    },
}

/// What SQLite said, once: its own errors carry a second text beneath the first.
#[derive(Debug)]
pub struct SqliteCause(pub(super) rusqlite::Error);

impl std::fmt::Display for SqliteCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SqliteCause {}

/// An archive in the making.
#[derive(Debug)]
pub struct Mbtiles {
    // Dropped in this order: the connection before the file it has open.
    connection: Connection,
    staging: Staging,
    /// `agg_tiles_hash` as the `mbtiles` tool computes it: MD5 over zoom, column, TMS row and bytes of every tile.
    hash: Md5,
    digits: String,
}

const SCHEMA: &str = "
    CREATE TABLE metadata (name text NOT NULL PRIMARY KEY, value text);
    CREATE TABLE tiles (
        zoom_level integer NOT NULL, tile_column integer NOT NULL, tile_row integer NOT NULL, tile_data blob NOT NULL
    );
    CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);";

const INSERT: &str = "INSERT INTO tiles (zoom_level, tile_column, tile_row, tile_data) VALUES (?1, ?2, ?3, ?4)";

impl Mbtiles {
    /// Begins an archive beside `target`. An existing target must be an MBTiles file; it stays as it is until
    /// [`Sink::finish`]. `stop` ends long steps early.
    ///
    /// # Errors
    /// If the target is something else or SQLite has left changes beside it, its folder is missing or not writable, or
    /// another run writes it.
    pub fn create(target: &Path, stop: &Stop) -> Result<Mbtiles, MbtilesError> {
        let staging = Staging::beside(target)?;
        refuse_irregular_companions(staging.target())?;
        if staging.replaces(&KIND)? && COMPANIONS.iter().any(|end| beside(staging.target(), end).exists()) {
            clear_away(staging.target());
        }
        refuse_companions(staging.target())?;
        refuse_foreign(&staging)?;
        let connection = open(&staging, stop).map_err(|source| failed(&staging, source))?;
        Ok(Mbtiles { connection, staging, hash: Md5::new(), digits: String::new() })
    }

    fn insert(&mut self, edits: Vec<TileEdit>) -> rusqlite::Result<Written> {
        let mut written = Written::default();
        let transaction = self.connection.unchecked_transaction()?;
        let mut insert = transaction.prepare_cached(INSERT)?;
        for edit in edits {
            match edit {
                TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) => {
                    let tile = id.coord;
                    insert.execute(params![tile.zoom().get(), tile.x(), tile.tms_row(), &*bytes])?;
                    self.digits.clear();
                    // Writing to a string does not fail.
                    if write!(self.digits, "{}{}{}", tile.zoom(), tile.x(), tile.tms_row()).is_ok() {
                        self.hash.update(&self.digits);
                    }
                    self.hash.update(&bytes);
                    written.stored += 1;
                }
                // The archive is new: a tile that was not put is not there.
                TileEdit::Remove(_) => written.removed += 1,
                TileEdit::Keep(_, None) => written.missing += 1,
            }
        }
        drop(insert);
        transaction.commit()?;
        written.added = written.stored;
        Ok(written)
    }
}

impl Sink for Mbtiles {
    type Error = MbtilesError;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: false }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, MbtilesError> {
        match tileset.rest {
            Rest::Vanishes => Ok(None),
            Rest::Stays => Err(MbtilesError::Contract {
                what: "a new archive was to keep tiles of the old one",
                target: self.staging.target().to_owned(),
            }),
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, MbtilesError> {
        self.insert(edits).map_err(|source| failed(&self.staging, source))
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, MbtilesError> {
        let Mbtiles { connection, staging, hash, .. } = self;
        let hash = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            hex.push_str(&format!("{byte:02X}"));
            hex
        });
        describe(&connection, metadata, &hash).map_err(|source| failed(&staging, source))?;
        connection.close().map_err(|(_, source)| failed(&staging, source))?;
        // A program may have begun to write the old file meanwhile.
        refuse_companions(staging.target())?;
        Ok(Finished { place: staging.publish()?.display().to_string(), deleted: 0, in_flight: None })
    }
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
    // SQLite then refuses a link in any part of the path, and those above the file are the user's own.
    let path = without_links(staging.path());
    let mut connection = Connection::open_with_flags(path, flags)?;
    // SQLite opens the file by its name, and has written nothing yet.
    if !staging.is_in_place() {
        return Err(rusqlite::Error::InvalidPath(staging.path().to_owned()));
    }
    // Nobody reads the staged file and a failed one is thrown away, so it needs neither journal nor locks nor syncs of its
    // own. The journal mode "off" is not kept in the file: readers find an ordinary one, never WAL.
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

/// The path of a file whose folder is named without links.
fn without_links(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            folder.canonicalize().map_or_else(|_unreadable| path.to_owned(), |folder| folder.join(name))
        }
        _ => path.to_owned(),
    }
}

/// Fills the metadata table (MBTiles 1.3, section "Metadata").
fn describe(connection: &Connection, metadata: &Metadata, hash: &str) -> rusqlite::Result<()> {
    let mut rows = metadata.rows();
    rows.push(("scheme", "tms".to_owned()));
    rows.push(("agg_tiles_hash", hash.to_owned()));
    let transaction = connection.unchecked_transaction()?;
    for (name, value) in rows {
        transaction.execute("INSERT INTO metadata (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    transaction.commit()
}

/// Has SQLite undo what a killed program left half written in a file, or finish what it left in a log, and clear that away: any
/// reader would. What a running program holds stays, and what stays is refused.
pub(super) fn clear_away(target: &Path) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let cleared = Connection::open_with_flags(target, flags).and_then(|connection| {
        // The writer's lock: nobody else is writing.
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

/// Whether it is a journal whose writer was killed before it changed anything: SQLite writes its first bytes last, and
/// leaves it to the next writer.
fn is_unused(journal: &Path) -> io::Result<bool> {
    let mut first = [0xff];
    match lock_file::open_named(journal).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) => Ok(first == [0]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a companion that is a link, a pipe or a device, before SQLite opens it by its name: a pipe would never let go of it.
pub(super) fn refuse_irregular_companions(target: &Path) -> Result<(), MbtilesError> {
    for companion in COMPANIONS.map(|end| beside(target, end)) {
        if std::fs::symlink_metadata(&companion).is_ok_and(|found| !found.is_file()) {
            return Err(MbtilesError::Companion { companion, target: target.to_owned() });
        }
    }
    Ok(())
}

/// Refuses to put a file beside changes to another. SQLite finds a log or journal by its name alone ("Write-Ahead Logging"
/// and "Atomic Commit In SQLite", hot journals): the first reader would apply the old file's to the new one.
fn refuse_companions(target: &Path) -> Result<(), MbtilesError> {
    for end in COMPANIONS {
        let companion = beside(target, end);
        match std::fs::symlink_metadata(&companion) {
            // An empty one holds no changes.
            Ok(found) if found.len() == 0 && found.is_file() => {}
            Ok(_) => return Err(MbtilesError::Companion { companion, target: target.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StagingError::Unreadable { path: companion, kind: KIND.one, source }.into()),
        }
    }
    Ok(())
}

/// Refuses to replace a file that is not an MBTiles archive. An empty file may be replaced.
fn refuse_foreign(staging: &Staging) -> Result<(), StagingError> {
    if !staging.replaces(&KIND)? {
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

/// A file as an SQLite URI ("Uniform Resource Identifiers", immutable) that takes it as it lies: a look at a file in WAL
/// mode would leave a log and its index beside it, also read-only.
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
