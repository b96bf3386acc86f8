//! Cells that are counted while rows come and go: a row that comes is added to its cell, one that goes is taken away.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use super::fold::{CodeHasher, Fold, Folded};
use super::gather::ZoomGathering;
use super::{CellCounts, CellGrid, WantedFolds};
use crate::threads;
use crate::tile::{WorldBox, Zoom};

/// The most zooms that are counted at once, each in memory of its own.
const ZOOMS_AT_ONCE: usize = 2;

/// Rows with their positions in world units and their values to fold, one for each fold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CellRows<'r> {
    pub(crate) at: &'r [[f64; 2]],
    pub(crate) values: &'r [Option<i64>],
}

impl<'r> CellRows<'r> {
    pub(crate) fn each(self) -> impl Iterator<Item = ([f64; 2], &'r [Option<i64>])> {
        let folds = self.values.len().checked_div(self.at.len()).unwrap_or(0);
        self.at.iter().enumerate().map(move |(number, at)| (*at, &self.values[number * folds..(number + 1) * folds]))
    }
}

/// The cells of some zooms with all of their members.
#[derive(Debug)]
pub(crate) struct KeptCells {
    grid: CellGrid,
    wanted: Option<WantedFolds>,
    zooms: BTreeMap<Zoom, KeptZoom>,
    /// The shallowest zoom whose cells would take more memory than all rows. Deeper zooms have as many cells or more.
    too_many_from: Option<Zoom>,
}

#[derive(Debug, Default)]
struct KeptZoom {
    all: HashMap<i64, KeptMembers, BuildHasherDefault<CodeHasher>>,
    /// The values of the cells, by [`KeptMembers::place`].
    values: Vec<KeptValue>,
    /// The places of cells that have no member any more.
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct KeptMembers {
    members: u32,
    place: u32,
    /// The sum of the members' positions in whole world units.
    sum: [u64; 2],
}

/// The values of a cell's members: how many there are, and their sum.
#[derive(Debug, Clone, Copy, Default)]
struct KeptValue {
    count: u32,
    sum: i128,
}

impl KeptValue {
    fn folded(self, fold: Fold) -> Folded {
        match fold {
            Fold::Values => Some(i128::from(self.count)),
            _ => (self.count > 0).then_some(self.sum),
        }
    }
}

/// Whether a row comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Comes,
    Goes,
}

impl KeptCells {
    /// No zoom is counted yet. `None` if values are folded from which a row that goes cannot be taken away.
    pub(crate) fn new(grid: CellGrid, wanted: Option<&WantedFolds>) -> Option<KeptCells> {
        let may_go = |fold: &Fold| matches!(fold, Fold::Values | Fold::Sum);
        let wanted = match wanted {
            Some(wanted) if !wanted.folds.iter().all(may_go) => return None,
            wanted => wanted.cloned(),
        };
        Some(KeptCells { grid, wanted, zooms: BTreeMap::new(), too_many_from: None })
    }

    /// True if these cells are of this grid and have these values.
    pub(crate) fn are_of(&self, grid: CellGrid, wanted: Option<&WantedFolds>) -> bool {
        self.grid == grid && self.wanted.as_ref() == wanted
    }

    /// Counts all rows in the cells of those of some zooms that are not counted yet, the shallowest first. The cells of
    /// a zoom may take as much memory as `rows`, and all that are added `memory` bytes; once a zoom's take more, deeper
    /// ones are not tried.
    pub(crate) fn count(&mut self, zooms: impl Iterator<Item = Zoom>, rows: CellRows<'_>, memory: usize) {
        let (most, mut left) = (size_of_val(rows.at) + size_of_val(rows.values), memory);
        let mut missing: Vec<Zoom> = zooms.filter(|zoom| !self.zooms.contains_key(zoom)).collect();
        missing.sort_unstable();
        for zooms in missing.chunks(ZOOMS_AT_ONCE) {
            let may_be_few = |zoom: &&Zoom| self.too_many_from.is_none_or(|from| **zoom < from);
            let zooms: Vec<Zoom> = zooms.iter().filter(may_be_few).copied().collect();
            let room = most.min(left / zooms.len().max(1));
            for (zoom, cells) in threads::map(zooms, ZOOMS_AT_ONCE, |zoom| (zoom, self.counted(zoom, rows, room))) {
                match cells {
                    Some(cells) => {
                        left = left.saturating_sub(cells.bytes());
                        self.zooms.insert(zoom, cells);
                    }
                    None => self.too_many_from = Some(self.too_many_from.map_or(zoom, |from| from.min(zoom))),
                }
            }
        }
    }

    /// The cells of a zoom; `None` if they take more than `most` bytes.
    fn counted(&self, zoom: Zoom, rows: CellRows<'_>, most: usize) -> Option<KeptZoom> {
        let (folds, mut cells) = (self.folds(), KeptZoom::default());
        for (number, (at, values)) in rows.each().enumerate() {
            cells.change(self.grid.cell(zoom, at).code(), at, values, folds, Change::Comes);
            if number % 4_096 == 0 && cells.bytes() > most {
                return None;
            }
        }
        (cells.bytes() <= most).then_some(cells)
    }

    /// Adds rows, or takes rows away that were added before.
    pub(crate) fn change(&mut self, rows: CellRows<'_>, change: Change) {
        let folds = self.folds();
        for (at, values) in rows.each() {
            for (zoom, cells) in &mut self.zooms {
                cells.change(self.grid.cell(*zoom, at).code(), at, values, folds, change);
            }
        }
    }

    fn folds(&self) -> usize {
        self.wanted.as_ref().map_or(0, |wanted| wanted.folds.len())
    }

    /// The memory of the cells, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.zooms.values().map(KeptZoom::bytes).sum()
    }

    /// The counted cells of a zoom around the positions for which `is_needed` is true; `None` if the zoom is not
    /// counted.
    pub(crate) fn counts(&self, zoom: Zoom, is_needed: impl Fn([f64; 2]) -> bool) -> Option<CellCounts> {
        let (cells, folds) = (self.zooms.get(&zoom)?, self.wanted.as_ref().map(|wanted| &wanted.folds[..]));
        let many = folds.map_or(0, <[Fold]>::len);
        let mut needed: Vec<(i64, &KeptMembers)> = Vec::new();
        // The mean of a cell's members lies in the cell.
        needed.extend(cells.all.iter().filter(|(_, cell)| is_needed(cell.mean())).map(|(code, cell)| (*code, cell)));
        let mut folded = Vec::new();
        for (_, cell) in &needed {
            let values = &cells.values[cell.place as usize * many..][..many];
            folded.extend(values.iter().zip(folds.unwrap_or_default()).map(|(value, fold)| value.folded(*fold)));
        }
        let with_values = needed.iter().enumerate().map(|(number, (code, cell))| {
            (*code, u64::from(cell.members), cell.sum, &folded[number * many..(number + 1) * many])
        });
        Some(ZoomGathering::of_counted(with_values, folds).counts(&self.grid, zoom, self.wanted.as_ref()))
    }
}

impl KeptZoom {
    fn change(&mut self, code: i64, at: [f64; 2], values: &[Option<i64>], folds: usize, change: Change) {
        let units = at.map(WorldBox::unit).map(u64::from);
        match change {
            Change::Comes => {
                let (free, kept) = (&mut self.free, &mut self.values);
                let cell = self.all.entry(code).or_insert_with(|| {
                    let place = if folds == 0 { 0 } else { free.pop().unwrap_or_else(|| ended(kept, folds)) };
                    KeptMembers { place, ..KeptMembers::default() }
                });
                cell.members += 1;
                cell.sum = [cell.sum[0] + units[0], cell.sum[1] + units[1]];
                for (kept, value) in kept[cell.place as usize * folds..].iter_mut().zip(values) {
                    let Some(value) = value else { continue };
                    (kept.count, kept.sum) = (kept.count + 1, kept.sum + i128::from(*value));
                }
            }
            Change::Goes => {
                let Some(cell) = self.all.get_mut(&code) else { return };
                cell.members -= 1;
                cell.sum = [cell.sum[0] - units[0], cell.sum[1] - units[1]];
                for (kept, value) in self.values[cell.place as usize * folds..].iter_mut().zip(values) {
                    let Some(value) = value else { continue };
                    (kept.count, kept.sum) = (kept.count - 1, kept.sum - i128::from(*value));
                }
                if cell.members == 0 {
                    if folds > 0 {
                        self.free.push(cell.place);
                    }
                    self.all.remove(&code);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        // A byte of the table for each entry, beside key and value.
        self.all.capacity() * (size_of::<(i64, KeptMembers)>() + 1)
            + self.values.capacity() * size_of::<KeptValue>()
            + self.free.capacity() * size_of::<u32>()
    }
}

/// Adds room for the values of one cell. Returns its place.
fn ended(values: &mut Vec<KeptValue>, folds: usize) -> u32 {
    let place = values.len() / folds;
    values.resize(values.len() + folds, KeptValue::default());
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl KeptMembers {
    fn mean(&self) -> [f64; 2] {
        self.sum.map(|sum| (sum / u64::from(self.members).max(1)) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{CellEdges, CellGeometry, CellShape, Gathering, Members};

    /// Rows come and go at random; what is left is counted as by a gathering of those that stay.
    #[test]
    fn cells_are_counted_as_if_the_rows_that_stay_had_been_gathered() {
        let mut random = 11_u64;
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        let zooms: Vec<Zoom> = [0, 1, 2].map(|level| Zoom::new(level).unwrap()).into();
        for (shape, geometry, merges, folds) in [
            (CellShape::Square, CellGeometry::Centroid, false, None),
            (CellShape::Hexagon, CellGeometry::Centroid, true, Some(vec![Fold::Values, Fold::Sum])),
            (CellShape::Hexagon, CellGeometry::Polygon, false, Some(vec![Fold::Sum])),
        ] {
            let grid = CellGrid { shape, size: 0.25, geometry, merges, edges: CellEdges::Mercator };
            let wanted = folds.map(|folds| WantedFolds { folds, lone_cost: 0 });
            let many = wanted.as_ref().map_or(0, |wanted| wanted.folds.len());
            let mut row = || {
                let at = [below(1 << 12), below(1 << 12)].map(|unit| f64::from(u32::try_from(unit << 20).unwrap()));
                (at, (0..many).map(|_| (below(3) > 0).then(|| below(100).cast_signed() - 50)).collect::<Vec<_>>())
            };
            let mut rows: Vec<_> = (0..3_000).map(|_| row()).collect();
            let split = |rows: &[([f64; 2], Vec<Option<i64>>)]| -> (Vec<[f64; 2]>, Vec<Option<i64>>) {
                (rows.iter().map(|(at, _)| *at).collect(), rows.iter().flat_map(|(_, values)| values.clone()).collect())
            };
            let mut cells = KeptCells::new(grid, wanted.as_ref()).unwrap();
            let (at, values) = split(&rows);
            cells.count(zooms.iter().copied(), CellRows { at: &at, values: &values }, usize::MAX);
            for _ in 0..20 {
                let going: Vec<_> = rows.drain(..100).collect();
                let coming: Vec<_> = (0..90).map(|_| row()).collect();
                for (rows, change) in [(&going, Change::Goes), (&coming, Change::Comes)] {
                    let (at, values) = split(rows);
                    cells.change(CellRows { at: &at, values: &values }, change);
                }
                rows.extend(coming);
            }
            let (at, values) = split(&rows);
            let mut gathering = Gathering::new(grid, &zooms, wanted.clone());
            gathering.add(Members { at, values, source: Vec::new() });
            let expected = gathering.finish().1;
            let mut found = CellCounts::default();
            for zoom in &zooms {
                found.join(cells.counts(*zoom, |_| true).unwrap());
            }
            assert_eq!(found, expected, "{shape:?}");
        }
    }

    #[test]
    fn values_that_a_row_cannot_be_taken_from_are_not_kept() {
        let grid = CellGrid::squares(0.25);
        for fold in [Fold::Distinct, Fold::Least, Fold::Greatest] {
            let wanted = WantedFolds { folds: vec![Fold::Sum, fold], lone_cost: 0 };
            assert!(KeptCells::new(grid, Some(&wanted)).is_none(), "{fold:?}");
        }
    }

    #[test]
    fn a_zoom_with_nearly_as_many_cells_as_rows_is_not_kept() {
        let grid = CellGrid::squares(1.0);
        let at: Vec<[f64; 2]> = (0..1_000_u32).map(|row| [f64::from(row) * 4_194_304.0; 2]).collect();
        let zooms = [0, 10].map(|level| Zoom::new(level).unwrap());
        let mut cells = KeptCells::new(grid, None).unwrap();
        let rows = CellRows { at: &at, values: &[] };
        cells.count(zooms.into_iter(), rows, usize::MAX);
        let are_known = zooms.map(|zoom| cells.counts(zoom, |_| true).is_some());
        assert_eq!(are_known, [true, false], "1 cell, and as many as rows");
        let mut none = KeptCells::new(grid, None).unwrap();
        none.count(zooms.into_iter(), rows, 0);
        assert_eq!(none.bytes(), 0);
    }
}
