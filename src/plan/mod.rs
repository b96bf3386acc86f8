//! Planning: which tiles a run renders, in which batches. Planning does not query the database.
//!
//! ```text
//!  seed:    footprints ──► sweep (occupied tiles, features per tile) ──► cut (batches in the target's order)   [`plan`]
//!  reseed:  changes ──► Dirty::mark (dirty tiles) ──► batches                                               `batches`
//! ```
//!
//! | file | what |
//! |---|---|
//! | `sweep` | walks the tiles of a zoom column by column: how many features of each layer touch each tile, and which tiles lie wholly inside of the same polygons |
//! | `cut` | closes a batch as soon as it holds enough pairs of a feature and a tile |
//! | `quad` | for targets along the Hilbert curve, quarters the square until a block holds few enough features, and sweeps each block |
//! | `dirty` | the tiles in which a change can be seen (`Dirty`) |
//! | `batches` | cuts dirty tiles into batches |

mod batches;
mod cut;
mod dirty;
mod quad;
mod sweep;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;

use cut::OutlineRuns;
use schemars::JsonSchema;
use serde::Serialize;
use sweep::{in_slabs, sweep};

use crate::scratch::PointFile;
use crate::threads;
use crate::tile::{
    Area, Batch, Coverage, Footprints, LayerFootprints, LayerIndex, Margin, Order, SortedPoints, TileCoord, TileRect,
    WorldBox, WorldRect, Zoom, ZoomLimits, ZoomList,
};

pub(crate) use batches::batches;
pub(crate) use dirty::{Dirty, DrawnLayer, FeatureSearch};
pub(crate) use sweep::SweptRun;

/// What planning needs of a layer.
#[derive(Debug)]
pub struct PlanLayer {
    pub zooms: ZoomList,
    /// How far beyond its tiles it is drawn.
    pub margin: Margin,
    /// A tile with more features than this is listed in the plan.
    pub max_tile_features: ZoomLimits,
    /// True if the layer's query runs once for each tile. Then batches list its tiles.
    pub asks_each_tile: bool,
    /// True if the layer's statement is given a list of its tiles, because the boxes of its features touch other tiles,
    /// too.
    pub lists_tiles: bool,
    /// The cost of drawing a feature, relative to a feature that is a row of a table: at least 1.
    pub feature_cost: u64,
    /// The footprints of its features, unless they are in `point_file`.
    pub footprints: LayerFootprints,
    /// All its features, if they are more points than should be in memory.
    pub point_file: Option<PointFile>,
    /// For zooms where features are cells that the survey did not count: the number of rows to gather.
    pub rows: BTreeMap<Zoom, u64>,
}

/// Gathering this many rows in cells costs as much as drawing one feature.
const GATHERED_ROWS_PER_FEATURE: u64 = 4;

impl PlanLayer {
    fn features(&self, zoom: Zoom) -> u64 {
        self.point_file.as_ref().map_or_else(|| self.footprints.at(zoom).len() as u64, PointFile::len)
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
pub(crate) struct OverLimit {
    pub layer: LayerIndex,
    pub tiles: u64,
    pub heaviest: HeavyTile,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ZoomPlan {
    pub zoom: Zoom,
    /// Occupied tiles: at least one feature falls into them or their buffer.
    pub tiles: u64,
    /// Pairs of a feature and a tile that it touches.
    pub features: u64,
    /// The heaviest tiles, heaviest first.
    pub heaviest: Vec<HeavyTile>,
    /// Layers with tiles over their limit.
    pub(crate) over_limit: Vec<OverLimit>,
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
    let threads = threads::available().min(most);
    // The deepest zooms take longest, so they come first.
    let deepest_first: Vec<Zoom> = zooms.into_iter().rev().collect();
    let plans = threads::map(deepest_first, threads, |zoom| plan_zoom(zoom, layers, coverage, batch_features, order));
    plans.into_iter().rev().collect()
}

fn plan_zoom(
    zoom: Zoom,
    layers: &[PlanLayer],
    coverage: &Coverage,
    batch_features: NonZeroU64,
    order: Order,
) -> io::Result<ZoomPlan> {
    let parts = sweep::distinct_columns(&coverage.rects(zoom));
    let outlines = cut::OutlineRuns::new(zoom, layers);
    let contents = SharedContents::new(zoom, layers, &outlines, &parts)?;
    match order {
        Order::ZoomColumnTmsRow => {
            let mut cutter = cut::Cutter::new(zoom, layers, &contents, &parts, batch_features.get());
            sweep::in_slabs(zoom, layers, &outlines, &parts, |touches| {
                sweep::sweep(touches, layers.len(), |swept| cutter.add(swept));
            })?;
            Ok(cutter.finish())
        }
        Order::Hilbert => {
            let tiles = quad::ZoomTiles { zoom, layers, outlines: &outlines, contents: &contents, parts: &parts };
            quad::Quarterer::plan(tiles, batch_features.get())
        }
    }
}

// Tiles with the same content: those that lie wholly inside of the same polygons.

/// The fewest tiles with the same content for which one tile is rendered for all.
const MIN_REPEATS: u64 = 8;

/// The number of a content, which is a set of features that tiles lie wholly inside of, and the directions of their
/// rings.
pub(crate) type ContentNumber = u32;

/// The contents that enough tiles of a zoom share.
#[derive(Debug, Default)]
pub(crate) struct SharedContents {
    numbers: HashMap<Box<[(usize, u32)]>, ContentNumber>,
    /// The tile that is rendered for each content, once there is one.
    rendered: RefCell<HashMap<ContentNumber, Arc<Area>>>,
}

impl SharedContents {
    /// Finds the shared contents of a zoom's tiles.
    pub(crate) fn new(
        zoom: Zoom,
        layers: &[PlanLayer],
        outlines: &OutlineRuns,
        parts: &[TileRect],
    ) -> io::Result<SharedContents> {
        let mut tiles: HashMap<Box<[(usize, u32)]>, u64> = HashMap::new();
        if outlines.runs.iter().any(|run| run.run.interior.is_some()) {
            let mut members = Vec::new();
            in_slabs(zoom, layers, outlines, parts, |touches| {
                sweep(touches, layers.len(), |swept| {
                    if !swept.is_interior {
                        return;
                    }
                    collect(swept, &mut members);
                    match tiles.get_mut(members.as_slice()) {
                        Some(known) => *known += swept.tiles,
                        None => drop(tiles.insert(members.as_slice().into(), swept.tiles)),
                    }
                });
            })?;
        }
        let shared = tiles.into_iter().filter(|(_, tiles)| *tiles >= MIN_REPEATS).map(|(members, _)| members);
        let numbers = shared.zip(0..).collect();
        Ok(SharedContents { numbers, rendered: RefCell::default() })
    }

    /// The tile that is rendered for a content: `first`, if no tile was chosen before.
    pub(crate) fn rendered(&self, content: ContentNumber, first: impl FnOnce() -> Area) -> Arc<Area> {
        Arc::clone(self.rendered.borrow_mut().entry(content).or_insert_with(|| Arc::new(first())))
    }

    /// The content of some tiles, if it is shared. `members` is a reusable buffer for the features.
    pub(crate) fn of(&self, swept: &SweptRun<'_>, members: &mut Vec<(usize, u32)>) -> Option<ContentNumber> {
        if !swept.is_interior || self.numbers.is_empty() {
            return None;
        }
        collect(swept, members);
        self.numbers.get(members.as_slice()).copied()
    }
}

fn collect(swept: &SweptRun<'_>, members: &mut Vec<(usize, u32)>) {
    members.clear();
    members.extend(swept.contents());
    members.sort_unstable();
}

// The points of a layer.

/// The points of a layer, in memory or in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LayerPoints<'a> {
    Memory(&'a SortedPoints),
    File(&'a PointFile),
}

impl PlanLayer {
    /// The layer's points at a zoom; `None` for a layer of other features.
    pub(crate) fn points(&self, zoom: Zoom) -> Option<LayerPoints<'_>> {
        match (&self.point_file, self.footprints.at(zoom)) {
            (Some(file), _) => Some(LayerPoints::File(file)),
            (None, Footprints::Points(points)) => Some(LayerPoints::Memory(points)),
            (None, _) => None,
        }
    }
}

impl LayerPoints<'_> {
    /// The approximate number of points in a rectangle. For points in memory, all points between its west and its east
    /// are counted.
    pub(crate) fn about_within(self, rect: &WorldRect) -> u64 {
        match self {
            LayerPoints::Memory(points) => points.between(rect.west, rect.east).len() as u64,
            LayerPoints::File(file) => file.about_within(rect),
        }
    }

    /// Calls `each` with the points (x, y) in a rectangle, its ends included, until it breaks.
    pub(crate) fn within(self, rect: &WorldRect, mut each: impl FnMut([u32; 2]) -> ControlFlow<()>) -> io::Result<()> {
        let points = match self {
            LayerPoints::Memory(points) => points,
            LayerPoints::File(file) => return file.within(rect, each),
        };
        let rows = rect.north..=rect.south;
        for [x, y] in points.units(points.between(rect.west, rect.east)) {
            if rows.contains(&y.into()) && each([x, y]).is_break() {
                break;
            }
        }
        Ok(())
    }
}

// The tiles that a box touches.

/// The tiles that a box, grown by a margin in world units, touches at a zoom. A box that crosses ±180° touches the
/// tiles up to the world's eastern edge, and those from its western edge on as a second rectangle. If both rectangles
/// meet, they become one.
pub(crate) fn touched_tiles(zoom: Zoom, margin: i64, world: WorldBox) -> (TileRect, Option<TileRect>) {
    let (shift, last) = (32 - zoom.get(), i64::from(zoom.last()));
    let WorldRect { west, north, east, south } = WorldRect::from(world);
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "clamped into the zoom")]
    let tile = |units: i64| (units >> shift).clamp(0, last) as u32;
    let (x0, x1) = (tile(west - margin), tile(east + margin));
    let rect = TileRect { zoom, x0, y0: tile(north - margin), x1, y1: tile(south + margin) };
    if west <= east {
        return (rect, None);
    }
    if x0 <= x1 + 1 {
        return (TileRect { x0: 0, x1: zoom.last(), ..rect }, None);
    }
    (TileRect { x1: zoom.last(), ..rect }, Some(TileRect { x0: 0, ..rect }))
}

#[cfg(test)]
mod tests;
