//! Reading a target back: what it says about itself, which tiles it holds, their bytes.

use std::path::PathBuf;

use super::{Intent, VectorLayer};
use crate::error::ErrorKind;
use crate::tile::{LonLatBox, TileId};

/// The longest note of a target that is read, in bytes: metadata, a manifest, a list of versions, a directory of an archive. A
/// manifest of a thousand boxes has 60 KB.
pub(super) const MAX_NOTE: usize = 16 << 20;

/// Bytes of tiles that a reader gives at a time, unless a single tile has more.
const MAX_BYTES_PER_READ: usize = 16 << 20;

/// What one call of [`TileReader::read`] may still give.
#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    is_first: bool,
}

impl Allowance {
    pub(super) const fn new() -> Allowance {
        Allowance { left: MAX_BYTES_PER_READ, is_first: true }
    }

    /// Whether a tile may be given, too. The first one always may.
    pub(super) fn take(&mut self, tile: Option<&[u8]>) -> bool {
        self.take_bytes(tile.map_or(0, <[u8]>::len))
    }

    /// The same, by its length.
    pub(super) const fn take_bytes(&mut self, length: usize) -> bool {
        let fits = self.is_first || length <= self.left;
        self.is_first = false;
        self.left = self.left.saturating_sub(length);
        fits
    }
}

/// Bytes that the tiles of an archive may add up to, whatever its size.
const MIN_TOTAL: u64 = 1 << 30;

/// How many times the size of an archive its tiles may add up to: the same bytes can be a million tiles of the sea, and no more than
/// ten times the list of these.
const MAX_REPEATED: u64 = 100;

/// What all tiles that are read of an archive may add up to.
#[derive(Debug)]
pub(super) struct Total {
    left: u64,
}

impl Total {
    /// For an archive of a size in bytes.
    pub(super) fn of(size: u64) -> Total {
        Total { left: size.saturating_mul(MAX_REPEATED).max(MIN_TOTAL) }
    }

    /// Whether a tile may be read, too.
    pub(super) fn take(&mut self, tile: Option<&[u8]>) -> bool {
        let left = self.left.checked_sub(tile.map_or(0, <[u8]>::len) as u64);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// What a target says about itself. Anything may be missing in a target that other programs wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    /// The tileset's name.
    pub name: Option<String>,
    /// What it shows.
    pub description: Option<String>,
    /// Whom to credit.
    pub attribution: Option<String>,
    /// The tileset's version.
    pub version: Option<String>,
    /// The shallowest and the deepest zoom.
    pub zooms: Option<(u8, u8)>,
    /// West, south, east, north in degrees.
    pub bounds: Option<LonLatBox>,
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The program that wrote the target.
    pub generator: Option<String>,
    /// The manifest as JSON, if oar-tiles wrote the target.
    pub manifest: Option<String>,
    /// Runs that have begun to change the target and have not finished, the oldest first; an archive has none.
    pub unfinished: Vec<Intent>,
}

/// Why a target could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is nothing.
    #[error(
        "there is no {place}: name a file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/ that exists"
    )]
    Missing {
        /// The target.
        place: String,
    },
    /// It is something else.
    #[error("{place} is no {kind} ({what})")]
    Foreign {
        /// The target.
        place: String,
        /// What it should be, such as "PMTiles archive".
        kind: &'static str,
        /// What it is instead.
        what: String,
    },
    /// It began well, but is broken.
    #[error("{place} is damaged: {what}. Seed or copy it again")]
    Damaged {
        /// The target.
        place: String,
        /// What is broken, and where.
        what: String,
    },
    /// Reading each tile would take a look at all of them.
    #[error(
        "{path} has no index by which a tile is found, so each tile would take a look at all of them: run sqlite3 '{path}' 'CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)' (if tiles is a view, on its table with these columns), then this command again",
        path = path.display()
    )]
    Unindexed {
        /// The file.
        path: PathBuf,
    },
    /// A program was killed while it wrote the target, and nobody who may write it has come by since.
    #[error(
        "{} was left half written by a program that was killed, and you may not write it: open it once as a user who may, with sqlite3 or by any command of oar-tiles, which undoes that",
        path.display()
    )]
    HalfWritten {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A server refused; the message names the action and the next step.
    #[error("{what}")]
    Remote {
        /// What, where and what next.
        what: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ReadError {
    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ReadError::Missing { .. } | ReadError::Foreign { .. } => ErrorKind::Usage,
            ReadError::HalfWritten { .. }
            | ReadError::Unindexed { .. }
            | ReadError::Damaged { .. }
            | ReadError::Io { .. }
            | ReadError::Remote { .. } => ErrorKind::Failed,
        }
    }
}

/// A target that is read.
///
/// The contract, which `tests/it/targets/sink_contract.rs` checks for every reader:
/// - [`TileReader::list`] names each tile once, in any order, without reading the tiles themselves.
/// - [`TileReader::read`] gives the bytes as they are stored (packed), one for each tile asked for, in the order asked; `None`
///   for a tile that is not there. It gives one tile at least, and stops where the next would make more than 16 MB:
///   [`read_all`] asks again for the rest.
/// - Whatever bytes a target holds, reading it ends, takes memory in proportion to the target, and gives a tile or a
///   [`ReadError`]. A tile of more than 64 MB and a note of more than 16 MB are errors.
pub trait TileReader: Send {
    /// What the target says about itself.
    ///
    /// # Errors
    /// If it cannot be read.
    fn describe(&mut self) -> Result<Described, ReadError>;

    /// What is wrong with the target as its format sees it, each thing in words that say what and where: its layout and what
    /// it says about itself. The tiles themselves, once unpacked, are looked at by `verify`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn check(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    /// Every tile that the target holds.
    ///
    /// # Errors
    /// If it cannot be read.
    fn list(&mut self) -> Result<Vec<TileId>, ReadError>;

    /// The stored bytes of the first of some tiles, as many as may be given at once.
    ///
    /// # Errors
    /// If one of them cannot be read.
    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError>;
}

/// Hands over the stored bytes of all of some tiles, one after the other.
///
/// # Errors
/// If one of them cannot be read or taken.
pub fn read_all<E: From<ReadError>>(
    reader: &mut dyn TileReader,
    tiles: &[TileId],
    mut take: impl FnMut(&TileId, Option<Box<[u8]>>) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = tiles;
    while !rest.is_empty() {
        let read = reader.read(rest)?;
        // Reading always goes on: without a tile it would not end.
        let given = read.len().clamp(1, rest.len());
        for (id, stored) in rest.iter().zip(read.into_iter().chain([None])).take(given) {
            take(id, stored)?;
        }
        rest = &rest[given..];
    }
    Ok(())
}
