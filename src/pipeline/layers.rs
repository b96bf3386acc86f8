//! What a run has to say of its layers, gathered on the way in bounded memory.

use std::collections::BTreeMap;

use super::Said;
use super::stats::LargestTile;
use crate::source::{Note, Noted};
use crate::tile::TileCoord;

/// So many tiles may fail before the run ends: more are no accident, and a target without them is none.
pub const MOST_FAILED: u64 = 300;

/// A layer's budget, as it was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Tiles in which features were left out.
    pub thinned: u64,
    /// Features left out, each counted in each tile.
    pub left_out: u64,
    /// Tiles that have more bytes than they may.
    pub large: u64,
    /// The heaviest of those, by the bytes of the layer's part alone, and how many it may have.
    pub heaviest: Option<(LargestTile, u64)>,
}

/// A tile in which a layer could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedTile {
    /// Which tile.
    pub tile: TileCoord,
    /// The layer's number.
    pub layer: u16,
    /// Why, in one line.
    pub cause: String,
}

/// The figures of all layers in the making.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) stats: BTreeMap<u16, LayerStats>,
    pub(super) failed: Vec<FailedTile>,
}

impl Layers {
    /// Takes in a note, with the bytes of its layer's part where that is heavy.
    pub(super) fn add(&mut self, Said { tile, note: Note { layer, what }, bytes }: Said) {
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
