//! Gathering rows in cells, zoom by zoom.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use super::fold::{CodeHasher, Fold, Folded, Folding, MAX_FOLDED_VALUES};
use super::{Cell, CellGeometry, CellGrid, CellShape, code_step};
use crate::threads;
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

    /// The zooms whose cells are counted.
    pub fn zooms(&self) -> impl Iterator<Item = Zoom> {
        self.0.keys().copied()
    }

    /// All cells of a zoom in the order of their codes, each with its folded values.
    #[must_use]
    pub fn all(&self, zoom: Zoom) -> impl ExactSizeIterator<Item = (&CountedCell, &[Folded])> {
        let (cells, folded) = self.0.get(&zoom).map_or((&[][..], &[][..]), |zoom| (&zoom.cells, &zoom.folded));
        let folds = folded.len().checked_div(cells.len()).unwrap_or(0);
        cells.iter().enumerate().map(move |(place, cell)| (cell, &folded[place * folds..(place + 1) * folds]))
    }

    /// The cells that may be drawn in the tiles of `rect`, each with its folded values. `margin` is the distance by
    /// which the tiles are expanded, and `spread` the greatest distance between the place where a cell is drawn and the
    /// place where it was counted, both in world units.
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
        let column = |x: i64| grid.cell(rect.zoom, [x as f64, 0.0]).a;
        // Codes are sorted by column first. The columns of hexagons may differ by half a step from row to row.
        let first = cells.partition_point(|cell| Cell::of(cell.code).a < column(west) - 1);
        let end = cells.partition_point(|cell| Cell::of(cell.code).a <= column(east) + 1);
        // Cells that are not drawn are left out, because their expressions might fail. The arithmetic is the same as in
        // the statement that draws them.
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
pub(crate) struct ZoomGathering {
    all: HashMap<i64, GatheredCell, BuildHasherDefault<CodeHasher>>,
    /// The folded values of their members, if they are wanted and fit into memory.
    folding: Option<Folding>,
}

impl ZoomGathering {
    pub(crate) fn add(&mut self, members: &Members, grid: &CellGrid, zoom: Zoom) {
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
    /// How many rows are read and gathered in the time in which one lone row is looked up later; 0 if none is.
    pub lone_cost: u64,
}

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

    /// The footprints of the cells at each zoom, and their counts. If values are folded, there are counts only for
    /// zooms with folded values.
    #[must_use]
    pub fn finish(mut self) -> (LayerFootprints, CellCounts) {
        let shallow = std::mem::take(&mut self.shallow);
        let mut done: Vec<_> = shallow.into_iter().map(|(zoom, cells)| self.at_zoom(zoom, cells)).collect();
        // The deepest zooms take longest, so they come first.
        let deep = self.deep.iter().rev().copied().collect();
        done.extend(threads::map(deep, threads::available(), |zoom| {
            let wanted = self.wanted.as_ref().filter(|_| self.folds_deep());
            let folding = wanted.map(|wanted| Folding::new(&wanted.folds));
            let mut cells = ZoomGathering { folding, ..ZoomGathering::default() };
            cells.add(&self.members, &self.grid, zoom);
            self.at_zoom(zoom, cells)
        }));
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
        let wanted = self.wanted.as_ref();
        let OrderedCells { cells, counted, folded } =
            cells.finish(grid, zoom, Limits { wanted, is_deep, count: self.count });
        let worlds = counted.iter().map(|cell| cell.world);
        let footprints = if cells.iter().any(|(_, cell)| cell.around.min_x.is_finite()) {
            // The members of a cell are searched by the cell's box, because a search by its mean would not find all of
            // them.
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
        (zoom, footprints, folded.map(|folded| ZoomCells { cells: counted, folded }))
    }
}

/// The cells of a zoom in the order of their codes.
struct OrderedCells {
    cells: Vec<(i64, GatheredCell)>,
    counted: Vec<CountedCell>,
    /// Their folded values; `None` if they are not to be used.
    folded: Option<Vec<Folded>>,
}

/// What decides whether the values of a zoom's cells are folded.
#[derive(Clone, Copy)]
struct Limits<'a> {
    wanted: Option<&'a WantedFolds>,
    is_deep: bool,
    /// The number of rows.
    count: u64,
}

impl ZoomGathering {
    /// The cells in the order of their codes, merged if the grid says so.
    fn finish(self, grid: &CellGrid, zoom: Zoom, limits: Limits<'_>) -> OrderedCells {
        let cells = if grid.merges { self.merged(grid) } else { self };
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
        let lone = cells.iter().filter(|(_, cell)| cell.members == 1).count() as u64;
        let folded = match (limits.wanted, folding) {
            (None, _) => Some(Vec::new()),
            (Some(wanted), _) if lone * wanted.lone_cost > limits.count => None,
            (Some(wanted), _) if limits.is_deep && cells.len() * (1 + wanted.folds.len()) > MAX_DEEP_CELLS => None,
            (_, None) => None,
            (_, Some(folding)) => Some(cells.iter().flat_map(|(_, cell)| folding.of(cell.number)).copied().collect()),
        };
        OrderedCells { cells, counted, folded }
    }

    /// The counted cells of some gathered cells of a zoom; none if their values are not to be used.
    pub(crate) fn counts(self, grid: &CellGrid, zoom: Zoom, wanted: Option<&WantedFolds>) -> CellCounts {
        let count = self.all.values().map(|cell| cell.members).sum();
        let is_deep = !grid.has_few_cells(zoom);
        let OrderedCells { counted: cells, folded, .. } = self.finish(grid, zoom, Limits { wanted, is_deep, count });
        CellCounts(folded.map(|folded| (zoom, ZoomCells { cells, folded })).into_iter().collect())
    }

    /// Cells that were counted elsewhere, each with its code, the number of its members, the sum of their positions and
    /// their folded values.
    pub(crate) fn of_counted<'c>(
        cells: impl Iterator<Item = (i64, u64, [u64; 2], &'c [Folded])>,
        folds: Option<&[Fold]>,
    ) -> ZoomGathering {
        let mut all = HashMap::default();
        let mut folding = folds.map(Folding::new);
        for (number, (code, members, sum, folded)) in cells.enumerate() {
            all.insert(code, GatheredCell { number, members, sum, around: SourceBox::<f32>::NOTHING });
            if let Some(folding) = &mut folding {
                folding.push(folded);
            }
        }
        ZoomGathering { all, folding }
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

// Merging cells into clusters around the cells with the most members ([`CellGrid::merges`](super::CellGrid::merges)).

/// The number of members of each cell, by its code.
pub(crate) type MembersByCode = HashMap<i64, u64, BuildHasherDefault<CodeHasher>>;

/// The code of the peak next to each cell; without cells that are peaks themselves, and cells without a peak next to
/// them.
pub(crate) fn peaks(members: &MembersByCode, shape: CellShape) -> HashMap<i64, i64, BuildHasherDefault<CodeHasher>> {
    let near = |code: i64| {
        let codes = shape.steps().iter().map(move |step| code + code_step(*step));
        codes.filter_map(|code| Some((code, *members.get(&code)?)))
    };
    // More members first, then the smaller code.
    let is_before =
        |(code, count): (i64, u64), (other, others): (i64, u64)| count > others || count == others && code < other;
    let is_peak = |code: i64, count: u64| near(code).all(|other| !is_before(other, (code, count)));
    let peak_beside = |code: i64| {
        let peaks = near(code).filter(|(other, count)| is_peak(*other, *count));
        peaks.reduce(|best, other| if is_before(other, best) { other } else { best })
    };
    let cells = members.iter().filter(|(code, count)| !is_peak(**code, **count));
    cells.filter_map(|(code, _)| Some((*code, peak_beside(*code)?.0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{Cell, CellEdges, CellShape};

    #[test]
    fn cells_belong_to_the_largest_peak_beside_them() {
        let code = |a, b| Cell { a, b }.code();
        // A row of squares: 5 and 9 are peaks, and 3 between them belongs to 9. 2 and 1 belong to the peaks next to
        // them.
        let members: MembersByCode =
            [5, 3, 9, 2, 1, 4, 4].into_iter().zip(0..).map(|(count, a)| (code(a, 0), count)).collect();
        let mut found: Vec<_> = peaks(&members, CellShape::Square).into_iter().collect();
        found.sort_unstable();
        // Of the two equal cells, the first is the peak.
        assert_eq!(
            found,
            [(code(1, 0), code(2, 0)), (code(3, 0), code(2, 0)), (code(4, 0), code(5, 0)), (code(6, 0), code(5, 0))]
        );
        let hexagons: MembersByCode =
            [(code(0, 0), 2), (code(2, 0), 3), (code(1, 1), 1), (code(4, 2), 1)].into_iter().collect();
        let mut found: Vec<_> = peaks(&hexagons, CellShape::Hexagon).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, [(code(0, 0), code(2, 0)), (code(1, 1), code(2, 0))]);
    }

    #[test]
    fn a_change_alters_clusters_up_to_three_steps_away() {
        // The distance in steps: the number of steps of the shortest walk from the middle.
        let far = |shape: CellShape, code: i64| {
            let Cell { a, b } = Cell::of(code);
            match shape {
                CellShape::Square => a.abs().max(b.abs()),
                CellShape::Hexagon => b.abs() + (a.abs() - b.abs()).max(0) / 2,
            }
        };
        let mut random = 7_u64;
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        for shape in [CellShape::Square, CellShape::Hexagon] {
            let mut farthest = 0;
            for _ in 0..2_000 {
                let around = (-6..=6).flat_map(|a| (-6..=6).map(move |b| Cell { a, b }));
                let cells = around.filter(|cell| shape == CellShape::Square || (cell.a ^ cell.b) & 1 == 0);
                let before: MembersByCode =
                    cells.map(|cell| (cell.code(), below(4))).filter(|(_, count)| *count > 0).collect();
                let middle = Cell { a: 0, b: 0 }.code();
                let mut after = before.clone();
                *after.entry(middle).or_default() += 1;
                let of = |members: &MembersByCode| {
                    let peaks = peaks(members, shape);
                    let cluster = |code: i64| peaks.get(&code).copied().unwrap_or(code);
                    let mut clusters: std::collections::BTreeMap<i64, std::collections::BTreeMap<i64, u64>> =
                        std::collections::BTreeMap::new();
                    for (code, count) in members {
                        clusters.entry(cluster(*code)).or_default().insert(*code, *count);
                    }
                    clusters
                };
                let (before, after) = (of(&before), of(&after));
                let differ = |code: &&i64| before.get(*code) != after.get(*code);
                let altered = before.keys().chain(after.keys()).filter(differ);
                farthest = altered.map(|code| far(shape, *code)).fold(farthest, i64::max);
            }
            // A cluster is drawn up to one step from its peak (`CHANGE_STEPS`).
            assert_eq!(farthest, 3, "{shape:?}");
        }
    }

    #[test]
    fn members_of_a_cell_are_shown_once() {
        let zooms: Vec<Zoom> = [0, 1, 9].map(|level| Zoom::new(level).unwrap()).into();
        let at = vec![[10.0, 10.5], [30.9, 20.0], [4_000_000_000.0, 7.0]];
        let members = Members { at, ..Members::default() };
        let grid = |geometry| CellGrid {
            shape: CellShape::Square,
            size: 0.5,
            geometry,
            merges: false,
            edges: CellEdges::Mercator,
        };
        let gathered = |members: &Members, geometry| {
            let mut gathering = Gathering::new(grid(geometry), &zooms, None);
            // One by one, the last one first: the order does not matter.
            for number in [2, 0, 1] {
                let source = members.source.get(number).copied().into_iter().collect();
                gathering.add(Members { at: vec![members.at[number]], source, ..Members::default() });
            }
            assert_eq!(gathering.count(), 3);
            gathering.finish()
        };
        let (places, counts) = gathered(&members, CellGeometry::Centroid);
        let whole = TileRect { zoom: zooms[0], x0: 0, y0: 0, x1: 0, y1: 0 };
        let near: Vec<u64> =
            counts.near(&grid(CellGeometry::Centroid), &whole, 0, 0).map(|(cell, _)| cell.members).collect();
        assert_eq!(near, [2, 1]);
        let counts: Vec<usize> = zooms.iter().map(|zoom| places.at(*zoom).len()).collect();
        assert_eq!((counts, places.at(Zoom::MAX).len()), (vec![2, 2, 2], 0));
        assert_eq!(places.at(zooms[0]).world(0), WorldBox::of_unit(20, 15));
        let (places, _) = gathered(&members, CellGeometry::Center);
        assert_eq!(places.at(zooms[0]).world(0), WorldBox::of_unit(1 << 30, 1 << 30));
        let (places, _) = gathered(&members, CellGeometry::Polygon);
        assert_eq!(places.at(zooms[0]).world(1), WorldBox::new(1 << 31, 0, u32::MAX, 1 << 31));
        let at = SourceBox::<f32>::of_position;
        let members = Members { source: vec![at(1.0, 1.0), at(2.0, 3.0), at(9.0, 9.0)], ..members };
        let (places, _) = gathered(&members, CellGeometry::Center);
        assert_eq!(places.at(zooms[2]).sources(0, true).collect::<Vec<_>>(), [at(1.0, 1.0), at(2.0, 3.0)]);
    }

    #[test]
    fn values_are_folded_where_cells_and_lone_members_are_few() {
        let zooms: Vec<Zoom> = [0, 2, 12].map(|level| Zoom::new(level).unwrap()).into();
        let grid = CellGrid::squares(0.5);
        // Some members in the middle of the first tile of zoom 2, and one in its corner.
        let gathered = |middle: usize, values: usize, lone_cost: u64| {
            let mut at = vec![[8e8, 8e8]; middle];
            at.push([1.0, 1.0]);
            let wanted = WantedFolds { folds: vec![Fold::Values, Fold::Greatest], lone_cost };
            let mut gathering = Gathering::new(grid, &zooms, Some(wanted));
            let values = (1..).flat_map(|value| [(value > 2).then_some(1), Some(value)]).take(values).collect();
            gathering.add(Members { at, values, ..Members::default() });
            gathering.finish().1
        };
        let folded = |counts: &CellCounts, level| -> Vec<Vec<Folded>> {
            let rect = TileRect { zoom: Zoom::new(level).unwrap(), x0: 0, y0: 0, x1: 0, y1: 0 };
            counts.near(&grid, &rect, 0, 0).map(|(_, folded)| folded.to_vec()).collect()
        };
        let known = |counts: &CellCounts| zooms.iter().map(|zoom| counts.has(*zoom)).collect::<Vec<_>>();
        let counts = gathered(10, 22, 0);
        assert_eq!(known(&counts), [true, true, true]);
        assert_eq!(folded(&counts, 12), [[Some(1), Some(11)]], "the others are far away");
        assert_eq!(folded(&counts, 0), [[Some(9), Some(11)]]);
        assert_eq!(folded(&counts, 2), [[Some(1), Some(11)], [Some(8), Some(10)]]);
        assert_eq!(known(&gathered(10, 22, 8)), [true, true, true], "one of eleven is alone");
        assert_eq!(known(&gathered(5, 12, 8)), [true, false, false], "one of six is too many");
        assert_eq!(known(&gathered(10, 20, 0)), [false, false, false], "a member came without values");
    }

    #[test]
    fn the_cells_of_a_deep_zoom_are_kept_if_they_are_few() {
        let zooms: Vec<Zoom> = [0, 14].map(|level| Zoom::new(level).unwrap()).into();
        let grid = CellGrid::squares(0.5);
        let known = |cells: u32, folds: &[Fold]| {
            let wanted = WantedFolds { folds: folds.to_vec(), lone_cost: 0 };
            let mut gathering = Gathering::new(grid, &zooms, Some(wanted));
            let mut all = 0..cells;
            while !all.is_empty() {
                let part: Vec<u32> = all.by_ref().take(10_000).collect();
                let at: Vec<[f64; 2]> = part.iter().map(|cell| [f64::from(*cell) * 131_072.0, 0.0]).collect();
                let values = vec![Some(1); part.len() * folds.len()];
                gathering.add(Members { at, values, ..Members::default() });
            }
            let counts = gathering.finish().1;
            zooms.iter().map(|zoom| counts.has(*zoom)).collect::<Vec<_>>()
        };
        assert_eq!(known(32_768, &[]), [true, true]);
        assert_eq!(known(32_768, &[Fold::Sum; 15]), [true, true]);
        assert_eq!(known(32_768, &[Fold::Sum; 16]), [true, false], "their values are too many");
    }
}
