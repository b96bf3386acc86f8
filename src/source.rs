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
    /// What there is to say of single layers; mostly nothing.
    pub notes: Vec<Note>,
}

impl RenderedTile {
    /// A tile in which nothing is drawn.
    #[must_use]
    pub const fn empty(tile: TileCoord) -> RenderedTile {
        RenderedTile { tile, mvt: Vec::new(), layers: Vec::new(), features: 0, notes: Vec::new() }
    }

    /// Whether a layer of it could not be rendered: what the tile should hold is not known.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.notes.iter().any(|note| matches!(note.what, Noted::Failed { .. }))
    }
}

/// The bytes of one layer of a tile, of the bytes of all (see [`RenderedTile::layers`]).
#[must_use]
pub fn part_of<'m>(mvt: &'m [u8], layers: &[(u16, usize)], layer: u16) -> &'m [u8] {
    let mut rest = mvt;
    for (number, bytes) in layers {
        let (own, others) = rest.split_at_checked(*bytes).unwrap_or((rest, &[]));
        if *number == layer {
            return own;
        }
        rest = others;
    }
    &[]
}

/// Something to say of a layer in a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The layer's number.
    pub layer: u16,
    /// What.
    pub what: Noted,
}

/// What there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// Features were left out to keep to the layer's budget.
    Thinned {
        /// How many.
        left_out: u64,
    },
    /// Packed by itself, the layer's part may have more bytes than it should: to be seen once it is packed.
    Heavy {
        /// How many it should have at most.
        limit: u64,
    },
    /// It could not be rendered, and is missing from the tile.
    Failed {
        /// Why, in one line.
        cause: String,
    },
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
