//! Reading a target: its description, its list of tiles, their bytes.

use std::path::PathBuf;

use super::{Intent, TARGET_FORMS, Template, VectorLayer};
use crate::encode::TileFormat;
use crate::error::ErrorKind;
use crate::tile::{LonLatBox, MapCenter, TileId};

/// The longest note that is read from a target, in bytes: metadata, a manifest, a list of versions, a directory of an
/// archive. For comparison: a manifest with a thousand boxes has 60 KB.
pub(crate) const MAX_NOTE: usize = 16 << 20;

/// Bytes of tiles that one call of [`TileReader::read`] returns, unless a single tile has more.
const MAX_BYTES_PER_READ: usize = 16 << 20;

/// The bytes that one call of [`TileReader::read`] may still return.
#[derive(Debug)]
pub(crate) struct ReadAllowance {
    left: usize,
    is_first: bool,
}

impl ReadAllowance {
    pub(crate) const fn new() -> ReadAllowance {
        ReadAllowance { left: MAX_BYTES_PER_READ, is_first: true }
    }

    /// True if another tile may be returned. The first one always may.
    pub(crate) fn take(&mut self, tile: Option<&[u8]>) -> bool {
        self.take_bytes(tile.map_or(0, <[u8]>::len))
    }

    /// [`ReadAllowance::take`] by the tile's length.
    pub(crate) const fn take_bytes(&mut self, length: usize) -> bool {
        let fits = self.is_first || length <= self.left;
        self.is_first = false;
        self.left = self.left.saturating_sub(length);
        fits
    }
}

/// The bytes that the tiles of a small archive may add up to.
const FREE_TOTAL_BYTES: u64 = 1 << 30;

/// The bytes that the tiles of an archive may add up to, for each byte of the archive. Identical tiles are stored once,
/// so a million equal tiles of the sea can add up to some ten times the size of their archive.
const MAX_TOTAL_PER_BYTE: u64 = 100;

/// The bytes of tiles that may still be read from an archive.
#[derive(Debug)]
pub(crate) struct Total {
    left: u64,
}

impl Total {
    /// For an archive of `size` bytes.
    pub(crate) fn of(size: u64) -> Total {
        Total { left: size.saturating_mul(MAX_TOTAL_PER_BYTE).max(FREE_TOTAL_BYTES) }
    }

    /// No limit: for a reader that reads the same tiles repeatedly.
    pub(crate) const fn unlimited() -> Total {
        Total { left: u64::MAX }
    }

    /// True if another tile may be read.
    pub(crate) fn take(&mut self, tile: Option<&[u8]>) -> bool {
        if self.left == u64::MAX {
            return true;
        }
        let left = self.left.checked_sub(tile.map_or(0, <[u8]>::len) as u64);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// The metadata of a target. Every part may be missing in a target that another program wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    pub name: Option<String>,
    /// How its tiles are encoded.
    pub format: TileFormat,
    pub description: Option<String>,
    pub attribution: Option<String>,
    /// The tileset's version.
    pub version: Option<String>,
    /// The shallowest and the deepest zoom.
    pub zooms: Option<(u8, u8)>,
    /// West, south, east, north in degrees.
    pub bounds: Option<LonLatBox>,
    /// Where a map begins.
    pub center: Option<MapCenter>,
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The program that wrote the target.
    pub generator: Option<String>,
    /// The manifest as JSON, if oar-tiles wrote the target.
    pub manifest: Option<String>,
    /// The public URL that an earlier run was given for a directory or a prefix; empty if addresses are relative on
    /// purpose.
    pub public_url: Option<String>,
    /// Runs that began to change the target and did not finish, oldest first. Archives have none.
    pub unfinished: Vec<Intent>,
    /// The bytes of a PMTiles archive that belong to no tile; `None` if they are not known, and for other targets.
    pub dead: Option<DeadBytes>,
}

/// The bytes of the tile data of a PMTiles archive that belong to no tile: those of tiles that edits have replaced or
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadBytes {
    pub bytes: u64,
    /// The length of the tile data, dead bytes included.
    pub total: u64,
}

/// The share of dead bytes, in percent of the tile data, beyond which a run of its own writes an archive anew as a
/// whole.
pub(crate) const MAX_DEAD_PERCENT: u64 = 30;

impl DeadBytes {
    /// True if the dead bytes are more than `percent` of the tile data.
    pub(crate) const fn exceed(self, percent: u64) -> bool {
        self.bytes.saturating_mul(100) > self.total.saturating_mul(percent)
    }
}

/// Why a target could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no {place}: name {TARGET_FORMS} that exists")]
    Missing { place: String },
    #[error("{place} is no {kind} ({what})")]
    Foreign {
        place: String,
        /// What it should be, such as "PMTiles archive".
        kind: &'static str,
        what: String,
    },
    #[error("{place} is damaged: {what}. Seed or copy it again")]
    Damaged {
        place: String,
        /// What is broken, and where.
        what: String,
    },
    /// An MBTiles file without an index: each tile would be found by reading all of them.
    #[error(
        "{path} has no index by which a tile is found, so each tile would be found by reading all of them: run sqlite3 '{path}' 'CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)' (if tiles is a view, on its table with these columns), then this command again",
        path = path.display()
    )]
    Unindexed { path: PathBuf },
    /// A killed program left the file half written, and only a user who may write it can undo that.
    #[error(
        "{} was left half written by a program that was killed, and you may not write it: open it once as a user who may, with sqlite3 or by any command of oar-tiles, which undoes that",
        path.display()
    )]
    HalfWritten { path: PathBuf },
    #[error("a stored tile is gone, and no run has removed it: seed or copy the target again")]
    Vanished,
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A server refused; the message names the action and the next step.
    #[error("{what}")]
    Remote {
        /// What, where and what next.
        what: String,
        /// The cause, if `what` does not contain all of it.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl ReadError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ReadError::Missing { .. } | ReadError::Foreign { .. } => ErrorKind::Usage,
            ReadError::HalfWritten { .. }
            | ReadError::Unindexed { .. }
            | ReadError::Damaged { .. }
            | ReadError::Vanished
            | ReadError::Io { .. }
            | ReadError::Remote { .. } => ErrorKind::Failed,
        }
    }
}

/// A reader of a target.
///
/// The contract, which `tests/it/targets/sink_contract.rs` checks for every reader:
/// - [`TileReader::list`] names each tile once, in any order, without reading the tiles themselves.
/// - [`TileReader::read`] returns the stored bytes (packed) of each tile asked for, in the order asked, and `None` for
///   a tile that is not there. It returns at least one tile, and stops before the bytes add up to more than 16 MB:
///   [`read_all`] asks again for the rest.
/// - Whatever bytes a target holds, reading it ends, takes memory in proportion to the target, and returns a tile or a
///   [`ReadError`]. A tile of more than 64 MB and a note of more than 16 MB are errors.
pub trait TileReader: Send {
    /// Returns the metadata of the target.
    fn describe(&mut self) -> Result<Described, ReadError>;

    /// Returns the violations of the target's format (layout and metadata), each as a text that says what is wrong and
    /// where. `verify` checks the content of tiles.
    fn check(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    /// Lists every tile that the target holds.
    fn list(&mut self) -> Result<Vec<TileId>, ReadError>;

    /// Checks that [`TileReader::list`] is permitted, without listing everything: a bucket may grant reading without
    /// listing.
    fn can_list(&mut self) -> Result<(), ReadError> {
        Ok(())
    }

    /// Checks that there is a tileset at all, without listing everything: a directory without notes and tiles may be
    /// the place of a volume that is not mounted.
    /// Fails with [`ReadError::Foreign`] if there is none.
    fn holds_tileset(&mut self) -> Result<(), ReadError> {
        Ok(())
    }

    /// How the tiles are named below the target; for an archive `{z}/{x}/{y}.pbf`, as TileJSON and web servers name its
    /// tiles.
    fn template(&self) -> Template {
        Template::default()
    }

    /// Prepares the reader to stay open and to read repeatedly, as a server does. It then holds no lock between two
    /// calls, each call sees the target's current state, and the total of bytes read is not limited.
    fn keep_open(&mut self) -> Result<(), ReadError> {
        Ok(())
    }

    /// Returns the stored bytes of the first of `tiles`, as many as one call may return.
    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError>;
}

/// Hands the stored bytes of all `tiles` to `take`, one after the other.
pub fn read_all<E: From<ReadError>>(
    reader: &mut dyn TileReader,
    tiles: &[TileId],
    mut take: impl FnMut(&TileId, Option<Box<[u8]>>) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = tiles;
    while !rest.is_empty() {
        let read = reader.read(rest)?;
        // A reader that returns no tile breaks its contract. One tile is then skipped, so that the loop ends.
        let given = read.len().clamp(1, rest.len());
        for (id, stored) in rest.iter().zip(read.into_iter().chain([None])).take(given) {
            take(id, stored)?;
        }
        rest = &rest[given..];
    }
    Ok(())
}
