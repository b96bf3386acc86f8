//! The rows of a layer of cells as points whose only properties are the key and the values from which the cells'
//! aggregates are folded. So they are read, kept and narrowed as other points are. The cells of a tile are counted from
//! the rows near it; the database draws those that are not drawn at a point, and what is not known yet of the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::points::{LivePoints, key, may_have_live_points};
use crate::cells::{
    CellCounts, CellGeometry, CellGrid, CountedCell, Fold, Folded, Gathering, Members, RowCells, WantedFolds,
};
use crate::draw::cached_rows::{CachedRows, CellValues, DrawnRows};
use crate::draw::drawing::BatchDrawing;
use crate::draw::{BatchTiles, PreparedLayer, RunLayers, Worker};
use crate::postgis::counts_cells;
use crate::postgis::layer::{
    BoundProperty, Budget, ComputedFrom, Layer, LayerKind, LayerSection, OnLargeTile, PropertyNames,
};
use crate::postgis::session::Error;
use crate::postgis::sql::{FoldedValue, FoldedValues, ValueKind};
use crate::threads::blocking;
use crate::tile::{Batch, Margin, Positions, TileBounds, TileRect, WORLD_UNITS, WorldRect, Zoom, ZoomLimits};

/// How the rows of a layer of cells are kept.
#[derive(Debug)]
pub(crate) struct CellMembers {
    /// The rows as a layer of points.
    pub(crate) rows: Arc<Layer>,
    folds: Option<Arc<FoldedValues>>,
    /// The encoded values of its cells; `None` if the database draws each.
    values: Option<CellValues>,
    /// The cells of whole zooms, the last ones first.
    worlds: Mutex<VecDeque<Arc<CountedWorld>>>,
    known: Arc<Mutex<KnownCells>>,
    /// The most memory that all of these may take, in bytes.
    room: AtomicUsize,
}

/// All cells of a zoom.
#[derive(Debug)]
struct CountedWorld {
    drawn: DrawnRows,
    zoom: Zoom,
    /// Empty until they are counted; `None` if they cannot be counted.
    counts: OnceLock<Option<Arc<CellCounts>>>,
}

/// The cells of the rows as read, at zooms with few of them.
#[derive(Debug, Default)]
struct KnownCells {
    /// Of which rows.
    read: u64,
    /// `None` for a zoom with too many cells or without room for them, and for one whose cells are being computed.
    zooms: BTreeMap<Zoom, Option<Arc<RowCells>>>,
}

impl KnownCells {
    /// The memory in use, in bytes.
    fn bytes(&self) -> usize {
        self.zooms.values().flatten().map(|cells| cells.bytes()).sum()
    }

    /// Forgets the cells of the deepest zooms for good, as far as all take more than `room` bytes.
    fn bound(&mut self, room: usize) {
        let mut bytes = self.bytes();
        for cells in self.zooms.values_mut().rev().filter(|cells| cells.is_some()) {
            if bytes <= room {
                break;
            }
            bytes -= cells.take().map_or(0, |cells| cells.bytes());
        }
    }
}

/// The most cells next to each other around the world of a zoom whose cells are all counted at once.
const MAX_CELLS_ACROSS_WORLD: f64 = 64.0;

/// The most memory of the counted zooms that a layer keeps, in bytes.
const MAX_WORLD_BYTES: usize = 16 << 20;

/// The most counted zooms that a layer keeps.
const MAX_WORLDS: usize = 512;

/// The number of rows that are gathered at a time.
const ROWS_AT_A_TIME: usize = 16_384;

impl CellMembers {
    /// How the rows of a layer of cells are kept whose aggregates are folded from `folds`. `None` if its cells cannot
    /// be counted from rows that are kept.
    pub(crate) fn of(layer: &Layer, folds: Option<Arc<FoldedValues>>) -> Option<CellMembers> {
        if !CellMembers::may_be_of(layer) || !counts_cells(layer, folds.as_deref()) {
            return None;
        }
        let values = folds.iter().flat_map(|folds| &folds.0).map(whole_number).collect::<Option<Vec<String>>>()?;
        Some(CellMembers {
            rows: Arc::new(rows_of(layer, values)),
            folds,
            values: CellValues::of(layer),
            worlds: Mutex::default(),
            known: Arc::default(),
            room: AtomicUsize::default(),
        })
    }

    /// True if the rows of a layer of cells may be kept, as far as its definition says.
    pub(crate) fn may_be_of(layer: &Layer) -> bool {
        layer.grid().is_some() && key(&rows_of(layer, Vec::new())).is_some()
    }

    /// True if the kept rows of a layer of points are those of the cells, too, in the same order, and the cells need no
    /// values of them.
    pub(crate) fn are_rows_of(&self, points: &Layer) -> bool {
        let rows = &*self.rows;
        self.value_count() == 0
            && may_have_live_points(points)
            && points.has_rows_of(rows)
            && (&points.key, points.shape) == (&rows.key, rows.shape)
    }

    /// The number of values of a row from which aggregates are folded.
    fn value_count(&self) -> usize {
        self.folds.as_ref().map_or(0, |folds| folds.0.len())
    }

    /// The encoded values of its cells; `None` if the database draws each.
    pub(crate) fn values(&self) -> Option<&CellValues> {
        self.values.as_ref()
    }

    /// A layer of cells, perhaps narrowed, with the cells that a tile may show, counted from rows near it. `None` if
    /// they cannot be counted.
    pub(crate) fn counted(&self, layer: &Arc<Layer>, tile: &TileRect, rows: &CachedRows) -> Option<PreparedLayer> {
        let (grid, zoom) = (layer.grid()?, tile.zoom);
        // Cells that a tile shows may have members as far beyond it as its own cells reach.
        let counts = if grid.width(zoom) * MAX_CELLS_ACROSS_WORLD < WORLD_UNITS as f64 {
            Arc::new(self.counted_within(layer, zoom, tile.world(2 * layer.reach(zoom)), rows)?)
        } else {
            self.counted_in_world(layer, zoom, rows)?
        };
        Some(PreparedLayer::new(layer).with_cells(self.folds.clone(), Some(counts)))
    }

    /// True if the database draws the first tile of a batch of this layer with the cells that are counted from its rows
    /// as with those that it counts itself. Cells that cannot be counted are the database's.
    pub(crate) async fn draw_alike(
        self: &Arc<Self>,
        worker: &Worker,
        layer: &Arc<Layer>,
        points: &LivePoints,
        batch: &Batch,
    ) -> Result<bool, Error> {
        let Some(rect) = batch.areas.first().map(|area| area.rect) else { return Ok(true) };
        let (members, own, rows) = (Arc::clone(self), Arc::clone(layer), Arc::clone(&points.rows));
        let counted = blocking(move || members.counted(&own, &rect, &rows)).await;
        let Some(counted) = counted.map(|counted| RunLayers::new(&[counted])) else { return Ok(true) };
        let plain = RunLayers::new(&[PreparedLayer::new(layer)]);
        let mut drawn = [BatchTiles::new(), BatchTiles::new()];
        for (layers, tiles) in [&plain, &counted].into_iter().zip(&mut drawn) {
            let drawing = BatchDrawing::new(worker, layers);
            let done = drawing.layer_or_parts(0, &batch.areas, &Vec::new(), tiles).await;
            if worker.session().at_savepoint(done).await?.is_err() {
                // Of a tile that the database cannot draw either, nothing is known.
                return Ok(std::ptr::eq(layers, &raw const plain));
            }
        }
        let [plain, counted] = drawn;
        Ok(plain == counted)
    }

    /// All cells of a zoom with few of them. Each tile shows many of the rows then, so the cells are kept for the next
    /// tile.
    fn counted_in_world(&self, layer: &Layer, zoom: Zoom, rows: &CachedRows) -> Option<Arc<CellCounts>> {
        let drawn = rows.drawn()?;
        let world = {
            let mut worlds = self.worlds.lock();
            let known = worlds.iter().find(|world| (world.drawn, world.zoom) == (drawn, zoom)).cloned();
            known.unwrap_or_else(|| {
                worlds.push_front(Arc::new(CountedWorld { drawn, zoom, counts: OnceLock::new() }));
                Arc::clone(&worlds[0])
            })
        };
        // The tiles of a view come together: one of them counts for all.
        let mut is_new = false;
        let counts = world.counts.get_or_init(|| {
            is_new = true;
            let everything = WorldRect { west: 0, north: 0, east: WORLD_UNITS, south: WORLD_UNITS };
            self.counted_within(layer, zoom, everything, rows).map(Arc::new)
        });
        if is_new {
            self.forget_worlds();
        }
        counts.clone()
    }

    /// The memory of what is kept besides the rows, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes_of_cells() + self.values.as_ref().map_or(0, CellValues::bytes)
    }

    /// From now on, what is kept besides the rows may take `room` bytes. Tiles are drawn without it, too.
    pub(crate) fn bound(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
        self.known.lock().bound(room);
        self.forget_worlds();
        if let Some(values) = &self.values {
            values.bound(room.saturating_sub(self.bytes_of_cells()));
        }
    }

    /// The memory of the cells that are known or counted, in bytes.
    fn bytes_of_cells(&self) -> usize {
        let known = self.known.lock().bytes();
        known + self.worlds.lock().iter().map(|world| self.bytes_of(world)).sum::<usize>()
    }

    fn bytes_of(&self, world: &CountedWorld) -> usize {
        let cells = world.counts.get().and_then(Option::as_ref).map_or(0, |counts| counts.all(world.zoom).len());
        cells * (size_of::<CountedCell>() + self.value_count() * size_of::<Folded>())
    }

    /// Forgets the zooms that were counted first, as far as all take too much memory.
    fn forget_worlds(&self) {
        let most = MAX_WORLD_BYTES.min(self.room.load(Ordering::Relaxed).saturating_sub(self.known.lock().bytes()));
        let (mut worlds, mut all) = (self.worlds.lock(), 0);
        let stay = worlds.iter().take(MAX_WORLDS).take_while(|world| {
            all += self.bytes_of(world);
            all <= most
        });
        let stay = stay.count();
        worlds.truncate(stay);
    }

    /// The cells at a zoom of the rows as read. `None` if there are too many, if they are not known yet, or if there
    /// is more to a cell than the number of its members.
    fn known_cells(&self, grid: CellGrid, zoom: Zoom, rows: &CachedRows) -> Option<Arc<RowCells>> {
        if self.value_count() > 0 || grid.geometry == CellGeometry::Centroid || !grid.has_few_cells(zoom) {
            return None;
        }
        let (read, positions) = rows.as_read()?;
        let mut known = self.known.lock();
        if known.read < read {
            *known = KnownCells { read, zooms: BTreeMap::new() };
        }
        if known.read > read {
            return None;
        }
        if let Some(cells) = known.zooms.get(&zoom) {
            return cells.clone();
        }
        known.zooms.insert(zoom, None);
        let (all, positions) = (Arc::clone(&self.known), Arc::clone(positions));
        let room = self.room.load(Ordering::Relaxed);
        let compute = move || {
            let cells = RowCells::new(grid, zoom, in_z_order(&positions)).map(Arc::new);
            let mut all = all.lock();
            if all.read == read {
                all.zooms.insert(zoom, cells);
                all.bound(room);
            }
        };
        // The tile does not wait for them.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(compute)),
            Err(_outside) => {
                drop(known);
                compute();
            }
        }
        None
    }

    fn counted_within(&self, layer: &Layer, zoom: Zoom, part: WorldRect, rows: &CachedRows) -> Option<CellCounts> {
        // The rows are in memory, so that lone rows are looked up rather than all rows near the tile.
        let wanted = self.folds.as_ref().map(|folds| WantedFolds { lone_cost: 0, ..folds.wanted_folds(layer) });
        let (mut members, values) = (Members::default(), self.value_count());
        let first = usize::from(holds_key(layer));
        if let Some(cells) = self.known_cells(layer.grid()?, zoom, rows) {
            rows.each_that_came_within(part, |at, _, _| members.at.push(at));
            let mut counting = cells.counting();
            rows.each_as_read_near(part, |row| counting.add(row));
            return Some(counting.finish(&members));
        }
        let mut gathering = Gathering::new(layer.grid()?, &[zoom], wanted);
        let mut add = |at, own: &mut dyn Iterator<Item = Option<i64>>| {
            members.at.push(at);
            members.values.extend(own);
            if members.len() == ROWS_AT_A_TIME {
                gathering.add(std::mem::take(&mut members));
            }
        };
        // Rows that are shared with a layer of points have other properties there.
        if values == 0 {
            rows.each_position_within(part, |at| add(at, &mut std::iter::empty()));
        } else {
            rows.each_within(part, |at, features, number| add(at, &mut features.numbers(number, first).take(values)))?;
        }
        gathering.add(members);
        Some(gathering.finish().1).filter(|counts| counts.has(zoom))
    }
}

/// Positions in metres as positions in world units, in their Z-order.
fn in_z_order(positions: &Positions) -> impl Iterator<Item = [f64; 2]> {
    let numbers = positions.in_z_order().iter();
    numbers.map(|number| Positions::in_world_units(positions.at(*number).unwrap_or_default()))
}

/// True if the first property of the rows of a layer of cells is their key. Else the key is behind the features.
fn holds_key(layer: &Layer) -> bool {
    layer.suits_patches && layer.key.len() == 1 && layer.key_types().is_some()
}

/// The rows of a layer of cells as points. Their properties are the key, if that is enough to identify them, and
/// `values`.
fn rows_of(layer: &Layer, values: Vec<String>) -> Layer {
    let key = layer.key.first().map(|key| key.quoted.clone()).filter(|_| holds_key(layer));
    let property = |(number, sql): (usize, String)| BoundProperty {
        name: format!("p{number}"),
        of: ComputedFrom::Row,
        sql,
        kind: "String",
    };
    Layer {
        section: Arc::new(LayerSection { feature_id: None, ..(*layer.section).clone() }),
        properties: key.into_iter().chain(values).enumerate().map(property).collect(),
        margin: Margin { bounds: TileBounds::Mercator, ..layer.margin },
        kind: LayerKind::Rows,
        budget: Budget {
            features: ZoomLimits::everywhere(None),
            bytes: ZoomLimits::everywhere(None),
            on_large_tile: OnLargeTile::Warn,
            rank: None,
        },
        rank: None,
        names: PropertyNames::Own,
        ..layer.clone()
    }
}

/// The SQL of a value to fold as a whole number; `None` if the value is no number or truth value.
fn whole_number(FoldedValue { sql, fold, kind }: &FoldedValue) -> Option<String> {
    match (fold, kind) {
        (Fold::Values, _) => Some(format!("(CASE WHEN ({sql}\n) IS NOT NULL THEN 1 END)")),
        (Fold::Distinct, _)
        | (_, ValueKind::Date | ValueKind::Timestamp | ValueKind::TimestampTz | ValueKind::Bytes) => None,
        (_, ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8) => Some(format!("(({sql}\n)::pg_catalog.int8)")),
        (_, ValueKind::Bool) => Some(format!("(({sql}\n)::pg_catalog.int4)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_the_deepest_zooms_make_room_for_good() {
        let grid = CellGrid::squares(0.5);
        let cells = |zoom| {
            let rows = (0..1_000).map(|row| [f64::from(row) * 4e6, 1.0]);
            RowCells::new(grid, Zoom::new(zoom).unwrap(), rows).map(Arc::new)
        };
        let mut known =
            KnownCells { read: 1, zooms: (1..=3).map(|zoom| (Zoom::new(zoom).unwrap(), cells(zoom))).collect() };
        let (all, last) = (known.bytes(), cells(3).unwrap().bytes());
        known.bound(all);
        assert_eq!(known.bytes(), all);
        known.bound(all - 1);
        assert_eq!((known.bytes(), known.zooms.len()), (all - last, 3));
        known.bound(0);
        assert_eq!((known.bytes(), known.zooms.len()), (0, 3));
    }
}
