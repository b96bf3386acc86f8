//! The live rows of a layer of cells: positions and folded values, and the cells in which they are counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_postgres::Row;

use super::{DifferingSquares, LiveCells, LiveKind, LiveLayer, LiveRows, LiveStep, Squares, bytes};
use crate::cells::{CellCounts, CellGrid, CellRows, Change, CountedCell, Gathering, KeptCells, Members, WantedFolds};
use crate::draw::PreparedLayer;
use crate::draw::areas::Areas;
use crate::draw::cached_rows::{KeptCellFeatures, RowReaders, has_cacheable_cells};
use crate::postgis::layer::Layer;
use crate::postgis::session::Error;
use crate::postgis::sql::FoldedValues;
use crate::postgis::{FoldReader, sql};
use crate::threads;
use crate::tile::{TileCoord, TileRect, WORLD_UNITS, WorldBox, WorldRect, Zoom};

/// The rows of a layer of cells on a snapshot.
#[derive(Debug)]
pub(crate) struct LiveCellRows {
    /// In world units.
    at: Vec<[f64; 2]>,
    values: Vec<Option<i64>>,
    reader: Option<FoldReader>,
    /// The cells in which the rows are counted, at zooms with few of them.
    cells: Mutex<Option<KeptCells>>,
}

/// The number of rows that are gathered at a time.
const ROWS_AT_A_TIME: usize = 16_384;

impl LiveCellRows {
    /// Reads all rows; `None` if they take more than `memory` bytes, or their values are too many to be folded.
    pub(crate) async fn read(
        step: LiveStep<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        memory: usize,
    ) -> Result<Option<LiveCellRows>, Error> {
        // Of the whole world: a target may show other boxes at other zooms, and tiles outside of its scope.
        let statement = sql::survey(layer, folds, 0, layer.zooms.max(), "");
        let reader = folds.map(|folds| FoldReader::new(folds, 2));
        let mut rows = LiveCellRows { at: Vec::new(), values: Vec::new(), reader, cells: Mutex::default() };
        let mut has_room = true;
        let each = |row: &Row| {
            has_room = has_room && rows.add(row) && rows.bytes() <= memory;
            Ok(())
        };
        let context = format!("layer \"{}\", reading its live rows", layer.name);
        step.snapshot.keeper.each(&context, &statement, &[], each).await?;
        if !has_room {
            tracing::info!(
                "layer \"{}\": its rows are not kept between looks: they take more memory than rows_mb allows",
                layer.name
            );
            return Ok(None);
        }
        tracing::debug!("layer \"{}\": {} live rows are kept, in {} bytes", layer.name, rows.at.len(), rows.bytes());
        Ok(Some(rows))
    }

    /// Adds a row of a statement, unless it has no position. False if its values cannot be folded.
    fn add(&mut self, row: &Row) -> bool {
        let (Some(x), Some(y)) = (row.get::<_, Option<f64>>(0), row.get::<_, Option<f64>>(1)) else { return true };
        self.at.push([x, y]);
        self.reader.as_mut().is_none_or(|reader| reader.read(row, &mut self.values))
    }

    /// The memory of the rows and their cells, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let cells = self.cells.lock().as_ref().map_or(0, KeptCells::bytes);
        size_of_val(&self.at[..]) + size_of_val(&self.values[..]) + cells
    }

    fn rows_from(&self, first: usize) -> CellRows<'_> {
        CellRows { at: &self.at[first..], values: &self.values[first * self.folds()..] }
    }

    /// The number of folded values of a row.
    fn folds(&self) -> usize {
        self.values.len().checked_div(self.at.len()).unwrap_or(0)
    }

    /// Replaces the rows around changed positions. Returns where they differ from before; `None` if there are too many,
    /// or if the new rows take too much memory or their values cannot be folded; the rows must not be used after that.
    pub(crate) async fn advance(
        &mut self,
        LiveStep { snapshot, memory, .. }: LiveStep<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        squares: &Squares,
        features: &mut LiveCells,
    ) -> Result<Option<DifferingSquares>, Error> {
        let (gone, gone_values) = self.remove(squares);
        let areas = Areas::without_margin(layer, &squares.rects());
        let statement = sql::rows_in_squares(layer, folds);
        let mut is_whole = true;
        let (before, mut read) = (self.at.len(), 0);
        let each = |row: &Row| {
            is_whole = is_whole && self.add(row) && self.bytes() <= memory;
            read += 1;
            Ok(())
        };
        let context = format!("layer \"{}\", reading its live rows at changed positions", layer.name);
        snapshot.keeper.each(&context, &statement, &areas.params(), each).await?;
        if let Some(cells) = &mut *self.cells.lock() {
            cells.change(self.rows_from(before), Change::Comes);
        }
        if let (Some(grid), LiveCells::Unproven(features) | LiveCells::Kept(features)) = (layer.grid(), features) {
            features.forget_lone(grid, gone.iter().chain(&self.at[before..]).copied());
        }
        tracing::debug!(
            "layer \"{}\": live rows replaced in {} squares: {before} stayed, {read} came",
            layer.name,
            squares.all.len()
        );
        let gone = CellRows { at: &gone, values: &gone_values };
        Ok(is_whole.then(|| differing(gone, self.rows_from(before))))
    }

    /// Removes the rows in some squares, and returns their positions and values.
    fn remove(&mut self, squares: &Squares) -> (Vec<[f64; 2]>, Vec<Option<i64>>) {
        let folds = self.folds();
        let (mut kept, mut at, mut values) = (0, Vec::new(), Vec::new());
        for number in 0..self.at.len() {
            if squares.hold(self.at[number]) {
                at.push(self.at[number]);
                values.extend_from_slice(&self.values[number * folds..(number + 1) * folds]);
                continue;
            }
            self.at[kept] = self.at[number];
            self.values.copy_within(number * folds..(number + 1) * folds, kept * folds);
            kept += 1;
        }
        self.at.truncate(kept);
        self.values.truncate(kept * folds);
        if let Some(cells) = self.cells.get_mut() {
            cells.change(CellRows { at: &at, values: &values }, Change::Goes);
        }
        (at, values)
    }

    /// The counted cells of some zooms, complete in the parts of the world that are needed. Cells that are kept may
    /// take `memory` bytes.
    pub(crate) fn counted(
        &self,
        grid: CellGrid,
        wanted: Option<&WantedFolds>,
        needed: &[NeededPart],
        memory: usize,
    ) -> CellCounts {
        let mut cells = self.cells.lock();
        if !cells.as_ref().is_some_and(|cells| cells.are_of(grid, wanted)) {
            *cells = KeptCells::new(grid, wanted);
        }
        if let Some(cells) = &mut *cells {
            cells.count(needed.iter().map(|needed| needed.zoom), self.rows_from(0), memory);
        }
        let kept = cells.as_ref();
        let of_kept = |part: &NeededPart| kept?.counts(part.zoom, |at| part.holds(at));
        let found = threads::map(needed.iter().collect(), threads::available(), of_kept);
        let (mut counts, mut rest) = (CellCounts::default(), Vec::new());
        for (part, found) in needed.iter().zip(found) {
            match found {
                Some(found) => counts.join(found),
                None => rest.push(part),
            }
        }
        counts.join(self.gathered(grid, wanted, &rest));
        counts
    }

    /// The same, from the rows in these parts.
    fn gathered(&self, grid: CellGrid, wanted: Option<&WantedFolds>, needed: &[&NeededPart]) -> CellCounts {
        let folds = self.folds();
        let add_within = |gathering: &mut Gathering, needed: &[&NeededPart]| {
            for (part, rows) in self.at.chunks(ROWS_AT_A_TIME).enumerate() {
                let mut members = Members::default();
                for (number, at) in (part * ROWS_AT_A_TIME..).zip(rows) {
                    if needed.iter().any(|needed| needed.holds(*at)) {
                        members.at.push(*at);
                        members.values.extend_from_slice(&self.values[number * folds..(number + 1) * folds]);
                    }
                }
                gathering.add(members);
            }
        };
        // With values, all zooms share a bound on the memory. The deepest zooms take longest, so they come first.
        let parts: Vec<&[&NeededPart]> =
            if wanted.is_some() && !needed.is_empty() { vec![needed] } else { needed.rchunks(1).collect() };
        let mut counts = CellCounts::default();
        for counted in threads::map(parts, threads::available(), |part| {
            let zooms: Vec<Zoom> = part.iter().map(|needed| needed.zoom).collect();
            let mut gathering = Gathering::new(grid, &zooms, wanted.cloned());
            add_within(&mut gathering, part);
            gathering.finish().1
        }) {
            counts.join(counted);
        }
        counts
    }
}

/// The squares in which the rows that went and those that came differ in positions or values.
fn differing(gone: CellRows<'_>, came: CellRows<'_>) -> DifferingSquares {
    let [gone, came] = [gone, came].map(|rows| {
        let mut by_square: BTreeMap<[u32; 2], Vec<_>> = BTreeMap::new();
        for (at, values) in rows.each() {
            by_square.entry(Squares::square(at)).or_default().push((at.map(f64::to_bits), values));
        }
        for rows in by_square.values_mut() {
            rows.sort_unstable();
        }
        by_square
    });
    let differ = |square: &&[u32; 2]| gone.get(*square) != came.get(*square);
    DifferingSquares(gone.keys().chain(came.keys()).filter(differ).copied().collect())
}

impl LiveRows {
    /// A layer whose cells were [counted](LiveRows::counts) for this step, with those as cached rows that some tiles
    /// may show. Cells that no step before has shown alike are encoded. Without cached rows if that is not possible.
    pub(crate) async fn with_cells(
        &self,
        step: LiveStep<'_>,
        prepared: PreparedLayer,
        shown: &[TileRect],
    ) -> Result<(PreparedLayer, AreProven), Error> {
        let definition = prepared.layer().definition();
        let mut layers = self.0.lock().await;
        let memory = step.memory.saturating_sub(bytes(&layers));
        let found = layers.iter_mut().find(|kept| kept.definition == definition && kept.is_of(step));
        let Some(LiveLayer { rows: LiveKind::Cells { features, .. }, .. }) = found else {
            return Ok((prepared, AreProven::Yes));
        };
        let (cells, are_proven) = match features {
            LiveCells::Unproven(cells) => (cells, AreProven::No),
            LiveCells::Kept(cells) => (cells, AreProven::Yes),
            LiveCells::Refused => return Ok((prepared, AreProven::Yes)),
        };
        let keeper = &step.snapshot.keeper;
        keeper.set_savepoint().await?;
        let memory = memory + cells.bytes();
        let (margin, whole) = (prepared.layer().margin, shown.iter().any(|rect| rect.tiles() > 1));
        let tiles: HashSet<TileCoord> = shown.iter().filter_map(TileRect::first).collect();
        let is_shown = |zoom: Zoom, cell: &CountedCell| {
            let WorldRect { west, north, east, south } = WorldRect::from(cell.world).grown(margin.units(zoom));
            let tile =
                |unit: i64| u32::try_from(unit.clamp(0, WORLD_UNITS - 1) >> (32 - zoom.get())).unwrap_or_default();
            let mut near = (tile(west)..=tile(east)).flat_map(|x| (tile(north)..=tile(south)).map(move |y| (x, y)));
            whole || near.any(|(x, y)| TileCoord::new(zoom, x, y).is_some_and(|tile| tiles.contains(&tile)))
        };
        let read = cells.rows(RowReaders { keeper, others: &[] }, &prepared, is_shown, memory).await;
        let rows = keeper.or_without(read, prepared.layer().name(), "its cells are not kept").await?.flatten();
        if rows.is_none() {
            *features = LiveCells::Refused;
        }
        Ok((prepared.with_cached_rows(rows.map(Arc::new)), are_proven))
    }

    /// Encodes the cells of all zooms from the shallowest on, as long as they take half of the memory, so that looks
    /// have to encode only those that change.
    pub(crate) async fn encode_cells(
        &self,
        step: LiveStep<'_>,
        layer: &Arc<Layer>,
        folds: Option<&Arc<FoldedValues>>,
    ) -> Result<(), Error> {
        for zoom in layer.zooms.iter().filter(|_| has_cacheable_cells(layer)) {
            let world = [TileRect::all(zoom)];
            let counts = self.counts(step, layer, folds.map(|folds| &**folds), &world).await?;
            let Some(counts) = counts.filter(|counts| counts.has(zoom)) else { break };
            let (_, bytes) = self.size().await;
            if bytes + counts.all(zoom).len() * KeptCellFeatures::BYTES_PER_CELL > step.memory / 2 {
                break;
            }
            let prepared = PreparedLayer::new(layer).with_cells(folds.cloned(), Some(counts));
            if !self.with_cells(step, prepared, &world).await?.0.has_cached_rows() {
                break;
            }
        }
        let definition = layer.definition();
        let mut layers = self.0.lock().await;
        let found = layers.iter_mut().find(|kept| kept.definition == definition);
        if let Some(LiveLayer { rows: LiveKind::Cells { are_encoded, .. }, .. }) = found {
            *are_encoded = true;
        }
        Ok(())
    }

    /// True if the rows of a layer of cells are kept.
    pub(crate) async fn keeps_cells(&self, layer: &Layer) -> bool {
        let definition = layer.definition();
        let is_kept = |kept: &LiveLayer| kept.definition == definition && matches!(kept.rows, LiveKind::Cells { .. });
        self.0.lock().await.iter().any(is_kept)
    }

    /// Notes whether the kept cells of a layer are what the database draws. Otherwise they are not used again.
    pub(crate) async fn note_compared(&self, layer: &Layer, are_alike: bool) {
        let definition = layer.definition();
        let mut layers = self.0.lock().await;
        let found = layers.iter_mut().find(|kept| kept.definition == definition);
        if let Some(LiveLayer { rows: LiveKind::Cells { features, .. }, .. }) = found {
            *features = match std::mem::replace(features, LiveCells::Refused) {
                LiveCells::Unproven(cells) | LiveCells::Kept(cells) if are_alike => LiveCells::Kept(cells),
                _ => LiveCells::Refused,
            };
        }
    }
}

/// Whether kept cells have been compared with what the database draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AreProven {
    Yes,
    No,
}

/// The part of the world whose rows are needed to count the cells that some tiles of a zoom show.
#[derive(Debug)]
pub(crate) struct NeededPart {
    zoom: Zoom,
    /// The zoom of the squares.
    level: u8,
    /// A bit for each square of the level, row by row: its rows are needed.
    squares: Vec<u64>,
}

/// The deepest zoom of the squares of which a [`NeededPart`] consists: 2 MB of bits.
const MAX_LEVEL: u8 = 12;

/// How much deeper than a tile the squares are: a part that reaches a little beyond a tile is little more than the
/// tile.
const LEVELS_BELOW_TILE: u8 = 2;

impl NeededPart {
    /// Nothing is needed yet.
    pub(crate) fn new(zoom: Zoom) -> NeededPart {
        let level = (zoom.get() + LEVELS_BELOW_TILE).min(MAX_LEVEL);
        NeededPart { zoom, level, squares: vec![0; (1_usize << (2 * level)).div_ceil(64)] }
    }

    /// The number of a square's bit.
    fn bit(&self, [x, y]: [u32; 2]) -> usize {
        let square = |unit: u32| unit.checked_shr(32 - u32::from(self.level)).unwrap_or_default() as usize;
        square(y) << self.level | square(x)
    }

    /// Adds all squares that a rectangle touches; parts of it beyond the world are left out.
    pub(crate) fn add(&mut self, rect: WorldRect) {
        let inside = |unit: i64| u32::try_from(unit.clamp(0, WORLD_UNITS - 1)).unwrap_or(u32::MAX);
        let [first, last] =
            [[rect.west, rect.north], [rect.east, rect.south]].map(|corner| self.bit(corner.map(inside)));
        let mask = (1 << self.level) - 1;
        for y in first >> self.level..=last >> self.level {
            for bit in y << self.level | first & mask..=y << self.level | last & mask {
                self.squares[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    /// The parts of some zooms around some tiles, as far beyond each as `reach` says for its zoom, in world units.
    pub(crate) fn around(tiles: &[TileRect], reach: impl Fn(Zoom) -> i64) -> Vec<NeededPart> {
        let mut parts: BTreeMap<Zoom, NeededPart> = BTreeMap::new();
        for tiles in tiles {
            let part = parts.entry(tiles.zoom).or_insert_with(|| NeededPart::new(tiles.zoom));
            part.add(tiles.world(reach(tiles.zoom)));
        }
        parts.into_values().collect()
    }

    /// True if a position in world units lies in it.
    fn holds(&self, at: [f64; 2]) -> bool {
        let bit = self.bit(at.map(WorldBox::unit));
        self.squares[bit / 64] & 1 << (bit % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::draw::live_rows::Joining;

    #[test]
    fn rows_near_a_changed_position_are_removed_with_their_values_and_no_others() {
        let side = 1024.0;
        let at = [[10.0, 10.0], [side - 1.0, 5.0], [side + 1.0, 5.0], [5.0 * side, 5.0 * side], [0.0, 0.0]];
        let values = (0..5).flat_map(|row| [Some(row), None]).collect();
        let mut rows = LiveCellRows { at: at.to_vec(), values, reader: None, cells: Mutex::default() };
        // So close to the edge of its square that its row may lie in the next one.
        let squares = Squares::around(&[[side + 1.5, 700.0]]);
        assert_eq!(squares.all, [[0, 0], [1, 0]].into());
        rows.remove(&squares);
        assert_eq!((rows.at, rows.values), (vec![[5.0 * side; 2]], vec![Some(3), None]));
        assert_eq!(Squares::around(&[[-0.5, 4_294_967_296.5]]).all, [[0, (1 << 22) - 1]].into());
    }

    #[test]
    fn squares_differ_if_rows_came_or_went_or_have_other_places_or_values() {
        let rows = |rows: &[([f64; 2], i64)]| -> (Vec<[f64; 2]>, Vec<Option<i64>>) {
            (rows.iter().map(|(at, _)| *at).collect(), rows.iter().map(|(_, value)| Some(*value)).collect())
        };
        let [one, two] = [[10.0, 10.0], [5000.0, 10.0]];
        let gone = rows(&[(one, 1), (one, 2), (two, 3)]);
        let differing = |now: &[([f64; 2], i64)]| {
            let came = rows(now);
            let [gone, came] = [&gone, &came].map(|(at, values)| CellRows { at, values });
            let found = differing(gone, came);
            [one, two].map(|at| found.are_at(at))
        };
        assert_eq!(differing(&[(two, 3), (one, 2), (one, 1)]), [false, false]);
        assert_eq!(differing(&[(one, 1), (one, 3), (two, 3)]), [true, false]);
        assert_eq!(differing(&[(one, 1), (one, 2)]), [false, true]);
        assert_eq!(differing(&[(one, 1), (one, 1), (one, 2), (two, 3)]), [true, false]);
        assert_eq!(differing(&[(one, 1), (one, 2), ([5000.1, 10.0], 3)]), [false, true]);
        // The log's position of a row may lie in the square beside.
        let at_the_edge = DifferingSquares([[1, 0]].into());
        assert_eq!([1022.0, 1023.0].map(|x| at_the_edge.are_at([x, 5.0])), [true, true]);
        assert!(!at_the_edge.are_at([1021.0, 5.0]));
    }

    #[test]
    fn rows_kept_for_half_of_their_time_are_wanted_again_and_stay_until_others_are_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let kept = |definition: &str, cursor: &str, age: u64, at: Option<[f64; 2]>| {
            let all = at.into_iter().collect();
            let rows = LiveCellRows { at: all, values: vec![], reader: None, cells: Mutex::default() };
            LiveLayer {
                definition: definition.to_owned(),
                cursor: cursor.to_owned(),
                snapshot: String::new(),
                is_alone: false,
                read: Instant::now().checked_sub(Duration::from_secs(age)).unwrap(),
                ages: true,
                hold_all: false,
                shown_by: None,
                rows: at.map_or(LiveKind::Refused, |_| LiveKind::Cells {
                    folds: None,
                    rows: Arc::new(rows),
                    features: LiveCells::Refused,
                    are_encoded: false,
                }),
                why_no_facets: None,
                joining: Joining::default(),
            }
        };
        let one = Some([1.0, 1.0]);
        let mut layers = vec![kept("old", "1", 301, one), kept("new", "1", 290, one), kept("never", "1", 900, None)];
        let awaited = |positions| LiveLayer { rows: LiveKind::Awaited(positions), ..kept("few", "1", 0, None) };
        layers.extend([awaited(999), LiveLayer { definition: "many".to_owned(), ..awaited(1_000) }]);
        let live = LiveRows(tokio::sync::Mutex::new(layers));
        assert_eq!(runtime.block_on(live.wanted()), ["old", "many"]);
        let others = vec![kept("old", "2", 0, None), kept("new", "2", 0, one), kept("many", "2", 0, None)];
        runtime.block_on(live.take_over(LiveRows(tokio::sync::Mutex::new(others))));
        assert_eq!(runtime.block_on(live.wanted()), [""; 0], "there is no room for both");
        let states: Vec<(String, String, bool)> =
            live.0.into_inner().into_iter().map(|kept| (kept.definition, kept.cursor, kept.rows.is_kept())).collect();
        let states: Vec<(&str, &str, bool)> =
            states.iter().map(|(definition, cursor, is)| (&**definition, &**cursor, *is)).collect();
        assert_eq!(
            states,
            [("old", "1", true), ("new", "2", true), ("never", "1", false), ("few", "1", false), ("many", "2", false)]
        );
    }

    #[test]
    fn a_needed_part_holds_what_its_rectangles_touch() {
        for level in [0, 1, 7, 12, 20] {
            let zoom = Zoom::new(level).unwrap();
            let side = WORLD_UNITS >> level;
            let mut needed = NeededPart::new(zoom);
            assert!(!needed.holds([0.0, 0.0]));
            // Over the edges of the world, and over the corner of squares in its middle.
            needed.add(WorldRect { west: -5, north: -5, east: side / 4, south: side / 4 });
            needed.add(WorldRect {
                west: (1 << 31) - 3,
                north: (1 << 31) - 3,
                east: (1 << 31) + 3,
                south: (1 << 31) + 3,
            });
            let middle = f64::from(1_u32 << 31);
            for at in [[0.0, 0.0], [middle - 2.0, middle - 2.0], [middle + 2.0, middle - 2.0], [middle + 2.0; 2]] {
                assert!(needed.holds(at), "{level}: {at:?}");
            }
            assert!(!needed.holds([4e9, 10.0]), "{level}");
        }
    }
}
