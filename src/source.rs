//! What renders batches.

use std::future::Future;

use crate::tile::{Batch, TileCoord};

/// A rendered tile, not packed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedTile {
    /// Which tile.
    pub tile: TileCoord,
    /// The MVT bytes (MVT 2.1): the layers one after the other. Empty if nothing is drawn in the tile.
    pub mvt: Vec<u8>,
    /// Each layer that was planned for the tile, by its number, and how many of the bytes are its own: none if it renders to
    /// nothing.
    pub layers: Vec<(u16, usize)>,
    /// Features drawn, all layers together.
    pub features: u64,
}

/// Renders batches, one at a time. A run has several, each with its own connection, all on one database state.
pub trait Source: Send {
    /// What an error looks like. It names the tile or the layer.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Renders every planned tile of a batch: exactly [`Batch::tiles`] tiles, those that render to nothing among them,
    /// ordered by zoom, column and TMS row.
    ///
    /// Dropping the future leaves the source unusable.
    fn render(&mut self, batch: &Batch) -> impl Future<Output = Result<Vec<RenderedTile>, Self::Error>> + Send;
}
