//! Gathering rows in cells, zoom by zoom.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Mutex;

use super::code_hasher::CodeHasher;
use super::fold::{Fold, Folded, Folding, MAX_FOLDED_VALUES};
use super::merge::{MembersByCode, peaks};
use super::{Cell, CellGeometry, CellGrid};
use crate::tile::{
    BoxFootprint, Footprints, LayerFootprints, SortedPoints, SourceBox, TileRect, WorldBox, WorldRect, Zoom,
};

/// Rows that are gathered in cells.
#[derive(Debug, Default)]
pub struct Members {
    /// The position of each row: x, y in world units.
    pub at: Vec<[f64; 2]>,
    /// The box of each row in its reference system, if rows cannot be searched by the tile's area; otherwise empty.
    pub source: Vec<SourceBox<f32>>,
    /// The values of each row to fold, one for each fold. If rows come without values, folding ends.
    pub values: Vec<Option<i64>>,
}

/// A cell, the number of its members, and the place where it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedCell {
    /// [`Cell::code`](super::Cell::code).
    pub code: i64,
    /// The number of its members.
    pub members: u64,
    /// The place where it is drawn: a point, or the box of the cell.
    pub world: WorldBox,
}

/// The counted cells of some zooms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CellCounts(BTreeMap<Zoom, ZoomCells>);

/// The cells of a zoom, in the order of their codes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ZoomCells {
    cells: Vec<CountedCell>,
    /// The folded values of their members, cell by cell.
    folded: Vec<Folded>,
}

impl CellCounts {
    /// Adds the cells of other zooms.
    pub fn join(&mut self, others: CellCounts) {
        self.0.extend(others.0);
    }

    /// True if the cells of a zoom are counted.
    #[must_use]
    pub fn has(&self, zoom: Zoom) -> bool {
        self.0.contains_key(&zoom)
    }

    /// The cells that may be drawn in the tiles of `rect`, each with its folded values. `margin` is the distance by which the tiles are expanded, and
    /// `spread` the greatest distance between the place where a cell is drawn and the place where it was counted, both in world units.
    pub fn near(
        &self,
        grid: &CellGrid,
        rect: &TileRect,
        margin: i64,
        spread: i64,
    ) -> impl Iterator<Item = (&CountedCell, &[Folded])> {
        let (cells, folded) = self.0.get(&rect.zoom).map_or((&[][..], &[][..]), |zoom| (&zoom.cells, &zoom.folded));
        let folds = folded.len().checked_div(cells.len()).unwrap_or(0);
        let WorldRect { west, east, .. } = rect.world(margin + grid.reach(rect.zoom));
        #[expect(clippy::cast_precision_loss, reason = "world units stay below 2^34, doubles are exact to 2^53")]
        let column = |x: i64| grid.cell(rect.zoom, [x as f64, 0.0]).a;
        // Codes are sorted by column first. The columns of hexagons may differ by half a step from row to row.
        let first = cells.partition_point(|cell| Cell::of(cell.code).a < column(west) - 1);
        let end = cells.partition_point(|cell| Cell::of(cell.code).a <= column(east) + 1);
        // Cells that are not drawn are left out, because their expressions might fail. The arithmetic is the same as in the statement that draws
        // them.
        let (TileRect { zoom, x0, y0, x1, y1 }, beyond) = (*rect, margin + spread);
        let tile = move |unit: i64| unit >> (32 - zoom.get());
        let near = move |cell: &CountedCell| {
            let WorldRect { west, north, east, south } = WorldRect::from(cell.world).grown(beyond);
            tile(west) <= x1.into() && tile(east) >= x0.into() && tile(north) <= y1.into() && tile(south) >= y0.into()
        };
        let found = (first..end).filter(move |place| near(&cells[*place]));
        found.map(move |place| (&cells[place], &folded[place * folds..(place + 1) * folds]))
    }
}

impl Members {
    /// The number of rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.at.len()
    }

    /// True if there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The values of a row, by its index.
    fn values(&self, number: usize) -> &[Option<i64>] {
        let folds = self.values.len() / self.len().max(1);
        &self.values[number * folds..(number + 1) * folds]
    }
}

/// The cells of one zoom while rows are gathered.
#[derive(Debug, Default)]
struct ZoomGathering {
    /// The cells by their codes.
    all: HashMap<i64, GatheredCell, BuildHasherDefault<CodeHasher>>,
    /// The folded values of their members, if they are wanted and fit into memory.
    folding: Option<Folding>,
}

impl ZoomGathering {
    fn add(&mut self, members: &Members, grid: &CellGrid, zoom: Zoom) {
        for (number, at) in members.at.iter().enumerate() {
            let next = self.all.len();
            let cell = self.all.entry(grid.cell(zoom, *at).code()).or_insert_with(|| GatheredCell::new(next));
            cell.add(*at, members.source.get(number));
            if let Some(folding) = &mut self.folding {
                folding.add(cell.number, members.values(number));
            }
        }
    }
}

impl ZoomGathering {
    /// The clusters into which the cells are merged.
    fn merged(mut self, grid: &CellGrid) -> ZoomGathering {
        let members: MembersByCode = self.all.iter().map(|(code, cell)| (*code, cell.members)).collect();
        let mut into: Vec<usize> = (0..self.all.len()).collect();
        for (code, peak) in peaks(&members, grid.shape) {
            let Some(cell) = self.all.remove(&code) else { continue };
            let Some(cluster) = self.all.get_mut(&peak) else { continue };
            cluster.join(&cell);
            into[cell.number] = cluster.number;
        }
        if let Some(folding) = &mut self.folding {
            folding.merge(&into);
        }
        self
    }
}

/// Gathers rows in the cells of some zooms. Rows may be added in any order.
#[derive(Debug)]
pub struct Gathering {
    grid: CellGrid,
    /// Zooms that [have few cells](CellGrid::has_few_cells); each row is added to them immediately.
    shallow: Vec<(Zoom, ZoomGathering)>,
    /// The other zooms, which are gathered at the end, one by one: at a deep zoom nearly every row has its own cell.
    deep: Vec<Zoom>,
    /// The rows for the deep zooms; without values once there are too many values.
    members: Members,
    /// What is folded; `None` if rows are only counted.
    wanted: Option<WantedFolds>,
    count: u64,
}

/// What is folded in addition to the number of members, at zooms with few cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFolds {
    /// How values are folded.
    pub folds: Vec<Fold>,
    /// True if there must be few lone rows, because they are read one by one later.
    pub few_lone: bool,
}

/// The number of rows that are gathered in the time in which one row is looked up.
const LONE_LOOKUP_COST: u64 = 8;

/// The most cells of a deep zoom, and values of these, that are kept: about 20 MB.
const MAX_DEEP_CELLS: usize = 1 << 19;

impl Gathering {
    /// A gathering without rows.
    #[must_use]
    pub fn new(grid: CellGrid, zooms: &[Zoom], wanted: Option<WantedFolds>) -> Gathering {
        let (shallow, deep): (Vec<Zoom>, Vec<Zoom>) = zooms.iter().partition(|zoom| grid.has_few_cells(**zoom));
        let folding = || wanted.as_ref().map(|wanted| Folding::new(&wanted.folds));
        let cells = || ZoomGathering { folding: folding(), ..ZoomGathering::default() };
        let shallow = shallow.into_iter().map(|zoom| (zoom, cells())).collect();
        Gathering { grid, shallow, deep, members: Members::default(), wanted, count: 0 }
    }

    /// Adds rows.
    pub fn add(&mut self, members: Members) {
        self.count += members.len() as u64;
        let kept = |(_, cells): &(Zoom, ZoomGathering)| cells.folding.as_ref().map_or(0, Folding::kept);
        let folds = self.wanted.as_ref().map_or(0, |wanted| wanted.folds.len());
        let has_values = members.values.len() == members.len() * folds;
        if !has_values || self.shallow.iter().map(kept).sum::<usize>() > MAX_FOLDED_VALUES {
            self.shallow.iter_mut().for_each(|(_, cells)| cells.folding = None);
        }
        for (zoom, cells) in &mut self.shallow {
            cells.add(&members, &self.grid, *zoom);
        }
        if !self.deep.is_empty() {
            let may_keep = has_values && self.folds_deep() && self.members.values.len() <= MAX_FOLDED_VALUES;
            self.members.at.extend(members.at);
            self.members.source.extend(members.source);
            if may_keep {
                self.members.values.extend(members.values);
            } else {
                self.members.values = Vec::new();
            }
        }
    }

    /// True if all rows added so far have values.
    fn folds_deep(&self) -> bool {
        let folds = self.wanted.as_ref().map(|wanted| wanted.folds.len());
        folds.is_some_and(|folds| self.members.values.len() == self.members.len() * folds)
    }

    /// The number of rows added.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The footprints of the cells at each zoom, and their counts. If values are folded, there are counts only for zooms with folded values.
    #[must_use]
    pub fn finish(mut self) -> (LayerFootprints, CellCounts) {
        let shallow = std::mem::take(&mut self.shallow);
        let mut done: Vec<_> = shallow.into_iter().map(|(zoom, cells)| self.at_zoom(zoom, cells)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.deep.len());
        let waiting = Mutex::new(self.deep.clone());
        let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let work = || {
            let mut done = Vec::new();
            while let Some(zoom) = next() {
                let wanted = self.wanted.as_ref().filter(|_| self.folds_deep());
                let folding = wanted.map(|wanted| Folding::new(&wanted.folds));
                let mut cells = ZoomGathering { folding, ..ZoomGathering::default() };
                cells.add(&self.members, &self.grid, zoom);
                done.push(self.at_zoom(zoom, cells));
            }
            done
        };
        std::thread::scope(|scope| {
            // If the system gives fewer threads, these do all of the work.
            let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let workers: Vec<_> = (1..threads).map_while(start).collect();
            done.extend(work());
            for worker in workers {
                done.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        let (mut places, mut counts) = (BTreeMap::new(), CellCounts::default());
        for (zoom, footprints, counted) in done {
            places.insert(zoom, footprints);
            if let Some(counted) = counted {
                counts.0.insert(zoom, counted);
            }
        }
        (LayerFootprints::ByZoom(places), counts)
    }

    fn at_zoom(&self, zoom: Zoom, cells: ZoomGathering) -> (Zoom, Footprints, Option<ZoomCells>) {
        let (grid, is_deep) = (&self.grid, self.deep.contains(&zoom));
        let cells = if grid.merges { cells.merged(grid) } else { cells };
        let folding = cells.folding;
        let mut cells: Vec<(i64, GatheredCell)> = cells.all.into_iter().collect();
        cells.sort_unstable_by_key(|(code, _)| *code);
        let counted = |(code, cell): &(i64, GatheredCell)| CountedCell {
            code: *code,
            members: cell.members,
            world: if grid.geometry == CellGeometry::Centroid {
                cell.mean()
            } else {
                grid.drawn_box(zoom, Cell::of(*code))
            },
        };
        let counted: Vec<CountedCell> = cells.iter().map(counted).collect();
        let worlds = counted.iter().map(|cell| cell.world);
        let footprints = if cells.iter().any(|(_, cell)| cell.around.min_x.is_finite()) {
            // The members of a cell are searched by the cell's box, because a search by its mean would not find all of them.
            let footprint = |(code, cell): &(i64, GatheredCell)| BoxFootprint {
                world: grid.drawn_box(zoom, Cell::of(*code)),
                source: cell.around,
            };
            Footprints::Gathered(cells.iter().map(footprint).collect())
        } else if grid.geometry == CellGeometry::Polygon {
            Footprints::Cells(worlds.collect())
        } else {
            let points = worlds.map(|at| u64::from(at.west) << 32 | u64::from(at.north));
            Footprints::Points(SortedPoints::new(points.collect()))
        };
        let lone = cells.iter().filter(|(_, cell)| cell.members == 1).count() as u64;
        let folded = match (&self.wanted, folding) {
            (None, _) => Some(Vec::new()),
            (Some(wanted), _) if wanted.few_lone && lone * LONE_LOOKUP_COST > self.count => None,
            (Some(wanted), _) if is_deep && cells.len() * (1 + wanted.folds.len()) > MAX_DEEP_CELLS => None,
            (_, None) => None,
            (_, Some(folding)) => Some(cells.iter().flat_map(|(_, cell)| folding.of(cell.number)).copied().collect()),
        };
        (zoom, footprints, folded.map(|folded| ZoomCells { cells: counted, folded }))
    }
}

/// A cell while rows are gathered. The result does not depend on the order of the rows.
#[derive(Debug)]
struct GatheredCell {
    /// Its number among the cells of its zoom, in the order in which they were found.
    number: usize,
    members: u64,
    /// The sum of the members' positions in whole world units, as in the database.
    sum: [u64; 2],
    /// The box around the members in their own reference system.
    around: SourceBox<f32>,
}

impl GatheredCell {
    fn new(number: usize) -> GatheredCell {
        GatheredCell { number, members: 0, sum: [0; 2], around: SourceBox::<f32>::NOTHING }
    }

    fn add(&mut self, at: [f64; 2], source: Option<&SourceBox<f32>>) {
        let [x, y] = at.map(WorldBox::unit);
        self.members += 1;
        self.sum = [self.sum[0] + u64::from(x), self.sum[1] + u64::from(y)];
        if let Some(source) = source {
            self.around = self.around.joined(*source);
        }
    }

    /// Adds the members of another cell.
    fn join(&mut self, other: &GatheredCell) {
        self.members += other.members;
        self.sum = [self.sum[0] + other.sum[0], self.sum[1] + other.sum[1]];
        self.around = self.around.joined(other.around);
    }

    /// The mean of the members, as a box in world units.
    fn mean(&self) -> WorldBox {
        let [x, y] = self.sum.map(|sum| u32::try_from(sum / self.members).unwrap_or(u32::MAX));
        WorldBox::of_unit(x, y)
    }
}

#[cfg(test)]
mod tests;
