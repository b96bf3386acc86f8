//! The MBTiles 1.3 archive: an `SQLite` file with the tables `metadata` and `tiles`, written and read.
//!
//! | file | what is in it |
//! |---|---|
//! | `write` | a new archive next to the target, which replaces it |
//! | `edit` | an archive edited in place; the edits that wait for its one transaction |
//! | `patch` | what differs between two archives, for another program to apply |
//! | `tiles_hash` | `agg_tiles_hash` |
//! | `read` | archives of any program, in one read transaction |
//! | `check` | all tiles of an archive in order; the rules of MBTiles 1.3 and `SQLite` for an archive |
//! | `companions`, `view` | limits for archives from unknown sources: steps, memory, which views are read; which archives this process has open, so that it does not lose SQLite's locks; journals and logs that `SQLite` keeps next to an archive |

mod check;
mod companions;
mod edit;
mod patch;
mod read;
mod tiles_hash;
mod view;
mod write;

use std::path::{Path, PathBuf};

use edit::EditedArchive;
use write::NewArchive;

use super::disk_list::ScratchError;
use super::staging::{FileKind, StagingError};
use super::{
    BeforeManifestError, Described, Finished, Metadata, Needs, OpenMode, ReadError, Sink, TileEdit, Tileset, Written,
};
use crate::error::ErrorKind;
use crate::stop::Stop;
use crate::tile::Order;

pub use patch::MbtilesPatch;
pub use read::MbtilesReader;

/// "MPBX" in the header of the file: SQLite's list of application ids (magic.txt) and MBTiles 1.3, section "Database".
pub const MBTILES_APPLICATION_ID: i32 = 0x4d50_4258;

/// The order of rows in the table and its index.
const ORDER: Order = Order::ZoomColumnTmsRow;

/// The kind of file that a new archive may replace.
const KIND: FileKind = FileKind {
    name: "MBTiles file",
    one: "an MBTiles file",
    magic: b"SQLite format 3\0",
    otherwise: "it is not an SQLite file",
};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum MbtilesError {
    /// The staged file, or the file that it is to replace.
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error(
        "{} lies beside the output {target} and would be applied to the new file: end the program that has the old one open and run sqlite3 '{target}' .tables, which clears it away; or remove it, with the changes that it holds",
        companion.display(),
        target = target.display()
    )]
    Companion { companion: PathBuf, target: PathBuf },
    #[error("there is no archive {} whose tiles could be brought up to date: seed it first", path.display())]
    Missing { path: PathBuf },
    #[error("{} keeps its tiles in a view over other tables, which is not changed in place: seed it anew", path.display())]
    View { path: PathBuf },
    /// The archive to edit could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    ScratchList(#[from] ScratchError),
    /// What has to be written before the archive changes.
    #[error(transparent)]
    BeforeManifest(#[from] BeforeManifestError),
    #[error("{} may be read and not written: give yourself the right to write it, or choose another --output", path.display())]
    ReadOnly { path: PathBuf },
    #[error(
        "other programs read or wrote {} for {seconds} s without a break, so nothing was changed in it: have them end their transactions, then run the command again",
        path.display()
    )]
    Held { path: PathBuf, seconds: u64, source: SqliteCause },
    #[error(
        "{} was changed, replaced or removed by somebody else during the run: it is left alone. See that only one program writes it, then run the command again",
        path.display()
    )]
    Changed { path: PathBuf },
    #[error("{what}: please report this; {} is unchanged", target.display())]
    Contract { what: &'static str, target: PathBuf },
    #[error("cannot write {}; {} is unchanged", path.display(), target.display())]
    Sqlite { path: PathBuf, target: PathBuf, source: SqliteCause },
}

impl MbtilesError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            MbtilesError::Staging(error) => error.kind(),
            MbtilesError::Read(error) => error.kind(),
            MbtilesError::Missing { .. } | MbtilesError::View { .. } => ErrorKind::NeedsSeed,
            MbtilesError::Companion { .. }
            | MbtilesError::ScratchList(_)
            | MbtilesError::BeforeManifest(_)
            | MbtilesError::ReadOnly { .. }
            | MbtilesError::Held { .. }
            | MbtilesError::Changed { .. }
            | MbtilesError::Contract { .. }
            | MbtilesError::Sqlite { .. } => ErrorKind::Failed,
        }
    }
}

/// SQLite's error without the source that repeats its text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SqliteCause(rusqlite::Error);

/// The sink of an MBTiles file.
#[derive(Debug)]
pub struct Mbtiles(OpenedArchive);

#[derive(Debug)]
enum OpenedArchive {
    New(NewArchive),
    Edited(EditedArchive),
}

impl Mbtiles {
    /// Opens the archive `target`. Until [`Sink::finish`] it stays as it is. `stop` ends long steps early.
    ///
    /// - [`OpenMode::Replace`]: a new archive is written next to `target` and replaces it. An existing target must be
    ///   an MBTiles file.
    /// - [`OpenMode::Edit`]: the archive exists, its tiles are a table, and it is changed in one transaction.
    ///
    /// Both take the same lock.
    /// Fails if the target is something else or `SQLite` has left changes next to it, its folder is missing or not
    /// writable, or another run writes it. When editing, also if there is no archive, its tiles are a view, or the user
    /// may not write it.
    pub fn open(target: &Path, mode: OpenMode, stop: &Stop) -> Result<Mbtiles, MbtilesError> {
        Ok(Mbtiles(match mode {
            OpenMode::Replace => OpenedArchive::New(NewArchive::create(target, stop)?),
            OpenMode::Edit => OpenedArchive::Edited(EditedArchive::open(target, stop)?),
        }))
    }
}

impl Sink for Mbtiles {
    type Error = MbtilesError;

    fn needs(&self) -> Needs {
        Needs { order: ORDER, layers_apart: false }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, MbtilesError> {
        match &mut self.0 {
            OpenedArchive::New(archive) => archive.begin(tileset).map(|()| None),
            OpenedArchive::Edited(archive) => archive.begin(tileset).map(Some),
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, MbtilesError> {
        match &mut self.0 {
            OpenedArchive::New(archive) => archive.write(edits),
            OpenedArchive::Edited(archive) => archive.write(&edits),
        }
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, MbtilesError> {
        match self.0 {
            OpenedArchive::New(archive) => archive.finish(metadata),
            OpenedArchive::Edited(archive) => archive.finish(metadata),
        }
    }
}
