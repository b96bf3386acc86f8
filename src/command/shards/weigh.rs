//! The cost of a plan's tiles and of the rows that they need, so that shards can be cut with about equal costs.

use crate::plan::ZoomPlan;
use crate::postgis::Layer;
use crate::run::surveys::CALL_COST;
use crate::shards::ColumnWeights;

/// The cost of a layer, in processor time of database and program together, measured with 100,000 facilities at zooms 0 to 14 (`scripts/bench
/// --shards`). The unit is a feature that is drawn into a tile from cached rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerCost {
    /// The cost of a row that is read or surveyed.
    row: f64,
    /// The cost of a feature in a tile.
    feature: f64,
}

/// The seconds of one cost unit.
#[cfg(test)]
pub(super) const UNIT: f64 = 0.4e-6;

/// The cost of a tile in addition to its features, in the same unit: compressing and storing it.
const TILE_COST: f64 = 8.0;

impl LayerCost {
    /// Rows are read once, and drawn into tiles of all zooms.
    pub(super) const READ_ONCE: LayerCost = LayerCost { row: 12.0, feature: 1.0 };

    /// Rows are surveyed, and the database draws each tile.
    pub(super) const DRAWN: LayerCost = LayerCost { row: 4.0, feature: 16.0 };

    /// The cost of a row.
    #[cfg(test)]
    pub(super) const fn row(self) -> f64 {
        self.row
    }

    /// The cost of a layer in which each row stands for `times` rows.
    #[cfg(test)]
    pub(super) const fn times(self, times: f64) -> LayerCost {
        LayerCost { row: self.row * times, feature: self.feature * times }
    }

    /// The cost of a layer. `rows_memory` is the memory for cached rows, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    pub(super) fn of(layer: &Layer, rows_memory: usize) -> LayerCost {
        if layer.function().is_some() {
            return LayerCost { feature: LayerCost::DRAWN.feature * CALL_COST as f64, ..LayerCost::DRAWN };
        }
        let reads_once = rows_memory > 0 && layer.traits().has_uniform_points && layer.is_found_by_area();
        if reads_once { LayerCost::READ_ONCE } else { LayerCost::DRAWN }
    }
}

/// A layer of a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeighedLayer {
    /// Its cost.
    pub(super) cost: LayerCost,
    /// The number of its rows; 0 if the number differs by zoom.
    pub(super) rows: u64,
}

/// The cost of each column of a plan.
#[expect(clippy::cast_precision_loss, reason = "weights are estimates")]
pub(super) fn weigh(zooms: &[ZoomPlan], layers: &[WeighedLayer]) -> ColumnWeights {
    let mut weights = ColumnWeights::default();
    for batch in zooms.iter().flat_map(|zoom| &zoom.batches) {
        let own = batch.layers.iter().zip(layers);
        let features: f64 = own.map(|(own, layer)| own.features as f64 * layer.cost.feature).sum();
        weights.add(batch, features + batch.tiles as f64 * TILE_COST);
    }
    for (number, layer) in layers.iter().enumerate() {
        // At the deepest zoom a feature lies in about one tile.
        let features = |zoom: &ZoomPlan| zoom.batches.iter().map(|batch| batch.layers[number].features).sum::<u64>();
        let Some(deepest) = zooms.iter().rev().find(|zoom| features(zoom) > 0) else { continue };
        let all = features(deepest);
        let rows = if layer.rows == 0 { all } else { layer.rows.min(all) };
        for batch in &deepest.batches {
            let rows = batch.layers[number].features as f64 * rows as f64 / all as f64;
            weights.add_rows(batch, rows, rows * layer.cost.row);
        }
    }
    weights
}
