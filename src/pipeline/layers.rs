//! Figures for each layer: budgets that were exceeded, tiles that failed.

use std::collections::BTreeMap;

use super::TileNote;
use super::stats::LargestTile;
use crate::source::{Note, Noted};
use crate::tile::{LayerId, TileCoord};

/// The most tiles that `on_tile_error = "skip"` skips in a run. More are a systematic error, and a target without them would be of no use.
pub const MAX_FAILED_TILES: u64 = 300;

/// How far a layer exceeded its budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Tiles in which features were left out.
    pub thinned: u64,
    /// Features left out, counted in each tile.
    pub left_out: u64,
    /// Tiles with more bytes than the budget.
    pub large: u64,
    /// The heaviest of them, by the compressed bytes of this layer alone, and the budget.
    pub heaviest: Option<(LargestTile, u64)>,
}

/// A tile in which a layer could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedTile {
    /// Which tile.
    pub tile: TileCoord,
    /// Which layer.
    pub layer: LayerId,
    /// The cause, in one line.
    pub cause: String,
}

/// Collects the figures of all layers.
#[derive(Debug, Default)]
pub(super) struct LayerFigures {
    pub(super) stats: BTreeMap<LayerId, LayerStats>,
    pub(super) failed: Vec<FailedTile>,
}

impl LayerFigures {
    /// Counts a note.
    pub(super) fn add(&mut self, TileNote { tile, note: Note { layer, what }, bytes }: TileNote) {
        let limit = match what {
            Noted::Failed { cause } => return self.failed.push(FailedTile { tile, layer, cause }),
            Noted::Thinned { left_out } => {
                let stats = self.stats.entry(layer).or_default();
                stats.thinned += 1;
                stats.left_out += left_out;
                return;
            }
            Noted::Heavy { limit } => limit,
        };
        if bytes <= limit {
            return;
        }
        let stats = self.stats.entry(layer).or_default();
        stats.large += 1;
        if stats.heaviest.is_none_or(|(heaviest, _)| bytes > heaviest.bytes) {
            stats.heaviest = Some((LargestTile { tile, bytes }, limit));
        }
    }
}
