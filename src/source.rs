//! What renders batches: the promise that every source keeps, and what is prepared for which source (`draw::choice`).

#![warn(missing_docs, reason = "users of the library begin here")]

use std::future::Future;
use std::sync::{Arc, OnceLock};

use crate::tile::{Batch, LayerId, TileCoord};

/// A rendered tile, not compressed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedTile {
    /// Which tile.
    pub tile: TileCoord,
    /// The MVT bytes (MVT 2.1), layer after layer. Empty if no feature is drawn in the tile, or if it is packed already
    /// (`shared`).
    pub mvt: Vec<u8>,
    /// Each layer that was planned for the tile, in the order of its bytes in `mvt`.
    pub layers: Vec<RenderedLayer>,
    /// Features drawn, all layers together.
    pub features: u64,
    /// What happened to single layers; usually nothing.
    pub issues: Vec<LayerIssue>,
    /// Where the packed tile is kept for other targets of the run, if they may have the same tile.
    pub shared: Option<Arc<PackedOnce>>,
}

impl RenderedTile {
    /// A tile in which no feature is drawn.
    pub const fn empty(tile: TileCoord) -> RenderedTile {
        RenderedTile { tile, mvt: Vec::new(), layers: Vec::new(), features: 0, issues: Vec::new(), shared: None }
    }

    /// True if a layer of the tile could not be rendered, so that the tile's correct content is unknown.
    pub fn is_failed(&self) -> bool {
        self.issues.iter().any(|issue| matches!(issue.kind, LayerIssueKind::Failed { .. }))
    }
}

/// A layer of a rendered tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderedLayer {
    /// Which layer.
    pub layer: LayerId,
    /// How many of the tile's MVT bytes are its own; 0 if it renders to nothing.
    pub bytes: usize,
}

/// Splits the MVT bytes of a tile by its layers (see [`RenderedTile::layers`]).
pub fn split_layers<'m>(mvt: &'m [u8], layers: &[RenderedLayer]) -> impl Iterator<Item = (LayerId, &'m [u8])> {
    let mut rest = mvt;
    layers.iter().map(move |RenderedLayer { layer, bytes }| {
        let (own, others) = rest.split_at_checked(*bytes).unwrap_or((rest, &[]));
        rest = others;
        (*layer, own)
    })
}

/// The MVT bytes of one layer of a tile; none if the tile does not have the layer.
pub fn bytes_of<'m>(mvt: &'m [u8], layers: &[RenderedLayer], layer: LayerId) -> &'m [u8] {
    split_layers(mvt, layers).find(|(id, _)| *id == layer).map_or(&[], |(_, bytes)| bytes)
}

/// What happened to one layer of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIssue {
    /// Which layer.
    pub layer: LayerId,
    /// What happened to it.
    pub kind: LayerIssueKind,
}

/// What happened to a layer in a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerIssueKind {
    /// Features were left out to keep within the layer's budget.
    Thinned {
        /// How many.
        left_out: u64,
    },
    /// Compressed by itself, the layer may have more bytes than its budget allows; known once it is compressed.
    Heavy {
        /// The budget, in compressed bytes.
        limit: u64,
    },
    /// It could not be rendered, and is missing from the tile.
    Failed {
        /// Why, in one line.
        cause: String,
    },
}

/// Renders batches, one at a time. A run has several sources, each with its own connection, all on one snapshot.
pub trait Source: Send {
    /// The error of a failed batch. It names the tile or the layer.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Renders every planned tile of a batch: exactly [`Batch::tiles`] tiles, including those that render to nothing,
    /// ordered by zoom, column and TMS row.
    ///
    /// Dropping the future leaves the source unusable.
    fn render(&mut self, batch: &Batch) -> impl Future<Output = Result<Vec<RenderedTile>, Self::Error>> + Send;
}

// A tile that several targets of one run have alike.

/// The bytes of a tile as targets store them, once one of them has packed it.
#[derive(Debug, PartialEq, Eq)]
pub struct PackedOnce {
    packed: OnceLock<Box<[u8]>>,
    most: usize,
}

impl PackedOnce {
    /// A tile that nobody has packed. One with more than `most` bytes is not kept: they are all the memory that there
    /// is for it.
    pub const fn new(most: usize) -> PackedOnce {
        PackedOnce { packed: OnceLock::new(), most }
    }

    /// The packed bytes; `None` as long as nobody has packed them.
    pub fn packed(&self) -> Option<&[u8]> {
        self.packed.get().map(|bytes| &bytes[..])
    }

    /// Keeps the packed bytes for others, if they are not too many. Whoever comes later has packed the same.
    pub fn keep(&self, packed: &[u8]) {
        if packed.len() <= self.most {
            self.packed.get_or_init(|| packed.into());
        }
    }
}
