//! Where tiles go.

mod mbtiles;
mod staging;

use crate::tile::TileCoord;

pub use mbtiles::{MBTILES_APPLICATION_ID, Mbtiles, MbtilesError, Metadata, VectorLayer};
pub use staging::StagingError;

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
}
