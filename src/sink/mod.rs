//! Where tiles go.

mod mbtiles;
mod staging;

use std::path::PathBuf;

use serde::Serialize;

use crate::tile::{TileCoord, ZoomList};

pub use mbtiles::{MBTILES_APPLICATION_ID, Mbtiles, MbtilesError};
pub use staging::StagingError;

/// What a target says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// The tileset's name.
    pub name: String,
    /// What it shows.
    pub description: Option<String>,
    /// Whom to credit, HTML allowed.
    pub attribution: Option<String>,
    /// The tileset's version.
    pub version: Option<String>,
    /// The zooms that were asked for.
    pub zooms: ZoomList,
    /// West, south, east, north in degrees.
    pub bounds: [f64; 4],
    /// The layers and the types of their properties.
    pub vector_layers: Vec<VectorLayer>,
    /// The manifest as JSON.
    pub manifest: String,
}

/// One layer as TileJSON and MBTiles describe it (TileJSON 3.0.0, section 3.3).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VectorLayer {
    /// The layer's name.
    pub id: String,
    /// What it shows; empty if nothing is said.
    pub description: String,
    /// Its shallowest zoom.
    pub minzoom: u8,
    /// Its deepest zoom.
    pub maxzoom: u8,
    /// The properties: name to "Number", "Boolean" or "String".
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// What is to be done with one tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TileEdit {
    /// The tile is to hold these bytes, packed as the target stores them.
    Put(TileCoord, Box<[u8]>),
    /// The tile renders to nothing: the target is not to hold it.
    Remove(TileCoord),
}

/// The order in which a sink takes tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By zoom, then column, then TMS row, each ascending: the order of the MBTiles index.
    ZoomColumnTmsRow,
}

/// What a sink asks of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The order in which tiles are to be written.
    pub order: Order,
}

/// What has become of the tiles handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Tiles stored.
    pub stored: u64,
    /// Tiles that the target does not hold (any more), because they render to nothing.
    pub removed: u64,
    /// Tiles that the target held already, with the same bytes.
    pub unchanged: u64,
}

impl Written {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.stored + self.removed + self.unchanged
    }
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        self.stored += other.stored;
        self.removed += other.removed;
        self.unchanged += other.unchanged;
    }
}

/// A target that takes tiles.
///
/// The contract:
/// - Edits come in the order that [`Sink::needs`] asks for, each tile at most once.
/// - A tile that was accepted is not durable yet. It is when [`Sink::finish`] returned `Ok`; the sink then has synced
///   what it wrote, and the manifest was the last thing to become visible.
/// - Nobody ever sees half: until `finish` succeeds, readers of the target see it as it was.
/// - Dropping a sink that was not finished leaves the target as it was and removes whatever was staged.
/// - After an error the sink takes nothing more; it is to be dropped.
pub trait Sink: Send {
    /// What an error looks like.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the pipeline has to see to.
    fn needs(&self) -> Needs;

    /// Takes the next edits.
    ///
    /// # Errors
    /// If the target cannot take them; nothing that readers see has changed.
    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, Self::Error>;

    /// Makes everything durable and visible, the metadata with the manifest last; gives the place where it is.
    ///
    /// # Errors
    /// If the target cannot be completed, or a stop was asked for; readers still see it as it was.
    fn finish(self, metadata: &Metadata) -> Result<PathBuf, Self::Error>;
}
