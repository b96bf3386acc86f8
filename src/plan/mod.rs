//! Planning: which tiles a run renders, in which batches. Planning does not query the database.
//!
//! ```text
//!  seed:    footprints ──► sweep (occupied tiles, features per tile) ──► cut (batches in the target's order)   [`plan`]
//!  reseed:  changes ──► Dirty::mark (dirty tiles) ──► batches                                               [`batches`]
//! ```
//!
//! - `sweep`: walks the tiles of a zoom column by column and knows at each tile how many features of each layer touch it.
//! - `cut`: closes a batch as soon as it holds enough pairs of a feature and a tile.
//! - `points`: the points of a layer, in memory or, if they are many, in a scratch file.
//! - `outlines`: the tiles that lines and polygons touch; `contents`: those that lie wholly inside of the same polygons; `touched`: those of a box.
//! - `quad`: for targets along the Hilbert curve, quarters the square until a block holds few enough features, and sweeps each block.
//! - `dirty`: the tiles in which a change can be seen ([`Dirty`]), and their batches.

mod contents;
mod cut;
mod dirty;
mod outlines;
mod points;
mod quad;
mod sweep;
mod touched;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::Serialize;

use crate::scratch::PointFile;
use crate::tile::{Batch, Coverage, LayerFootprints, LayerIndex, Margin, Order, TileCoord, Zoom, ZoomLimits, ZoomList};

pub use dirty::{Dirty, DrawnLayer, FeatureSearch, ScopePart, TooMany, batches};
pub use sweep::Touched;
pub use touched::touched_tiles;

/// What planning needs of a layer.
#[derive(Debug)]
pub struct PlanLayer {
    /// The zooms at which the layer is drawn.
    pub zooms: ZoomList,
    /// How far beyond its tiles it is drawn.
    pub margin: Margin,
    /// A tile with more features than this is listed in the plan.
    pub max_tile_features: ZoomLimits,
    /// True if the layer's query runs once for each tile. Then batches list its tiles.
    pub asks_each_tile: bool,
    /// True if the layer's statement is given a list of its tiles, because the boxes of its features touch other tiles, too.
    pub lists_tiles: bool,
    /// The cost of drawing a feature, relative to a feature that is a row of a table: at least 1.
    pub feature_cost: u64,
    /// The footprints of its features, unless they are in `point_file`.
    pub places: LayerFootprints,
    /// All its features, if they are more points than should be in memory.
    pub point_file: Option<PointFile>,
    /// For zooms where features are cells that the survey did not count: the number of rows to gather.
    pub rows: BTreeMap<Zoom, u64>,
}

/// Gathering this many rows in cells costs as much as drawing one feature.
const GATHERED_ROWS_PER_FEATURE: u64 = 4;

impl PlanLayer {
    /// The number of features at a zoom.
    fn features(&self, zoom: Zoom) -> u64 {
        self.point_file.as_ref().map_or_else(|| self.places.at(zoom).len() as u64, PointFile::len)
    }

    /// The cost of a feature at a zoom; a feature that is a row costs 1.
    fn weight(&self, zoom: Zoom) -> u64 {
        let cells = self.features(zoom).max(1);
        self.rows.get(&zoom).map_or(1, |rows| rows / (GATHERED_ROWS_PER_FEATURE * cells)).max(self.feature_cost)
    }
}

/// A tile and how many features touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HeavyTile {
    /// The tile.
    pub tile: TileCoord,
    /// Features that touch it, those in its buffer counted in.
    pub features: u64,
}

/// Tiles of one layer that hold more features than the layer allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverLimit {
    /// Which of the planned layers.
    pub layer: LayerIndex,
    /// How many tiles are over the limit.
    pub tiles: u64,
    /// The heaviest of them.
    pub heaviest: HeavyTile,
}

/// The plan of one zoom.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoomPlan {
    /// The zoom level.
    pub zoom: Zoom,
    /// Occupied tiles: at least one feature falls into them or their buffer.
    pub tiles: u64,
    /// Pairs of a feature and a tile that it touches.
    pub features: u64,
    /// The heaviest tiles, heaviest first.
    pub heaviest: Vec<HeavyTile>,
    /// Layers with tiles over their limit.
    pub over_limit: Vec<OverLimit>,
    /// The batches, in the archive's order.
    pub batches: Vec<Batch>,
}

impl ZoomPlan {
    /// A plan without tiles.
    const fn empty(zoom: Zoom) -> ZoomPlan {
        ZoomPlan { zoom, tiles: 0, features: 0, heaviest: Vec::new(), over_limit: Vec::new(), batches: Vec::new() }
    }
}

/// The most tiles that a plan lists as the heaviest of a zoom.
const MAX_HEAVIEST_TILES: usize = 5;

/// Up to this many features are planned on one thread: that takes a few milliseconds.
const MAX_FEATURES_OF_ONE_THREAD: u64 = 2_000;

/// Plans every zoom, shallowest first.
///
/// A batch should hold `batch_features` pairs of a feature and a tile; a tile with more is its own batch.
///
/// # Errors
/// If a scratch file with points cannot be read.
pub fn plan(
    zooms: &ZoomList,
    layers: &[PlanLayer],
    coverage: &Coverage,
    batch_features: NonZeroU64,
    order: Order,
) -> io::Result<Vec<ZoomPlan>> {
    let zooms: Vec<Zoom> = zooms.iter().collect();
    let features = |layer: &PlanLayer| zooms.iter().map(|zoom| layer.features(*zoom)).max().unwrap_or_default();
    // A few features are planned faster than threads start, and usually other plans run at the same time.
    let is_small = layers.iter().map(features).sum::<u64>() <= MAX_FEATURES_OF_ONE_THREAD;
    let most = if is_small { 1 } else { zooms.len().max(1) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(most);
    if threads == 1 {
        return zooms.into_iter().map(|zoom| plan_zoom(zoom, layers, coverage, batch_features, order)).collect();
    }
    let next = AtomicUsize::new(zooms.len());
    let plans: io::Result<Vec<ZoomPlan>> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            // The deepest zooms take longest, so they come first.
            while let Ok(left) = next.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
                done.push(plan_zoom(zooms[left - 1], layers, coverage, batch_features, order));
            }
            done
        };
        // If the system gives fewer threads, these do all of the work.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..threads).map_while(start).collect();
        let mut done = work();
        for worker in workers {
            done.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done.into_iter().collect()
    });
    let mut plans = plans?;
    plans.sort_by_key(|plan| plan.zoom);
    Ok(plans)
}

fn plan_zoom(
    zoom: Zoom,
    layers: &[PlanLayer],
    coverage: &Coverage,
    batch_features: NonZeroU64,
    order: Order,
) -> io::Result<ZoomPlan> {
    let parts = sweep::distinct_columns(&coverage.rects(zoom));
    let outlines = outlines::OutlineRuns::new(zoom, layers);
    let contents = contents::SharedContents::new(zoom, layers, &outlines, &parts)?;
    match order {
        Order::ZoomColumnTmsRow => {
            let mut cutter = cut::Cutter::new(zoom, layers, &contents, &parts, batch_features.get());
            sweep::in_slabs(zoom, layers, &outlines, &parts, |touches| {
                sweep::sweep(touches, layers.len(), |touched| cutter.add(touched));
            })?;
            Ok(cutter.finish())
        }
        Order::Hilbert => {
            let tiles = quad::ZoomTiles { zoom, layers, outlines: &outlines, contents: &contents, parts: &parts };
            quad::Quarterer::plan(tiles, batch_features.get())
        }
    }
}

#[cfg(test)]
mod tests;
