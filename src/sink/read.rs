//! Reading a target back: what it says about itself, which tiles it holds, their bytes.

use std::path::PathBuf;

use super::VectorLayer;
use crate::tile::TileId;

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
    pub bounds: Option<[f64; 4]>,
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The manifest as JSON, if oar-tiles wrote the target.
    pub manifest: Option<String>,
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

/// A target that is read.
///
/// The contract, which `tests/it/sink_contract.rs` checks for every reader:
/// - [`TileReader::list`] names each tile once, in any order, without reading the tiles themselves.
/// - [`TileReader::read`] gives the bytes as they are stored (packed), one for each tile asked for, in the order asked; `None`
///   for a tile that is not there.
/// - Whatever bytes a target holds, reading it ends, takes memory in proportion to the target, and gives a tile or a
///   [`ReadError`].
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

    /// The stored bytes of some tiles.
    ///
    /// # Errors
    /// If one of them cannot be read.
    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError>;
}
