//! Live rows: the positions and folded values of a layer's rows, kept by a watch between its looks, so that cells near
//! a change are counted without reading the table again.
//!
//! ```text
//!  first look at low zooms ─► all rows ─► LiveRows at the snapshot ─► counted cells
//!  later look: changed positions since that snapshot ─► squares ─► their rows are replaced by those read now ─┘
//! ```
//!
//! The change log does not say which row left a position and which one came to it. So the rows of a small square around
//! each changed position are replaced as a group: what was there before by what is there on the new snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_postgres::Row;

use super::areas::Areas;
use crate::cells::{CellCounts, CellGrid, Gathering, Members, WantedFolds};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql::FoldedValues;
use crate::postgis::{FoldReader, sql};
use crate::threads;
use crate::tile::{TileCoord, TileRect, WorldBox, WorldRect, Zoom};

/// The live rows of the layers of a watch.
#[derive(Debug, Default)]
pub struct LiveRows(Mutex<Vec<LiveLayer>>);

/// Where a look of a watch stands in the database's history.
#[derive(Clone, Copy)]
pub struct LiveLook<'a> {
    pub snapshot: &'a Snapshot,
    /// The state of the database that the target shows, from which the look has read the change log.
    pub since: &'a str,
    /// The state that the look's snapshot sees.
    pub now: &'a str,
    /// The memory that live rows may take, in bytes.
    pub memory: usize,
}

/// The rows of a layer on a snapshot.
#[derive(Debug)]
struct LiveLayer {
    /// What the rows depend on besides the database.
    definition: String,
    folds: Option<FoldedValues>,
    /// The state of the database that the rows are of.
    cursor: String,
    read: Instant,
    /// `None` if the rows take too much memory; then they are not read again.
    rows: Option<Arc<KeptRows>>,
}

#[derive(Debug)]
struct KeptRows {
    /// In world units.
    at: Vec<[f64; 2]>,
    /// The values of each row that are folded.
    values: Vec<Option<i64>>,
    reader: Option<FoldReader>,
}

/// The most changed positions between two looks. With more, the rows are read anew.
pub const MAX_CHANGED_POSITIONS: usize = 50_000;

/// How far from a changed position its row may lie, in world units: the log and the survey compute positions alike, but
/// perhaps by another build of PostGIS since the row was read.
const TOLERANCE: f64 = 2.0;

/// The number of rows that are gathered at a time.
const ROWS_AT_A_TIME: usize = 16_384;

/// The rows of a layer are kept once a look wants cells of this zoom or a shallower one: its tiles span so much of the
/// world that counting them reads most rows.
const MAX_KEPT_ZOOM: u8 = 4;

/// The longest time for which rows are kept. A condition may change without a change of the table, as one with `now()`
/// does.
const MAX_AGE: Duration = Duration::from_secs(600);

/// True if live rows of the layer can be brought up to date position by position: an index finds the rows of a square.
fn is_suited(layer: &Layer) -> bool {
    layer.grid().is_some()
        && layer.suits_patches
        && layer.shape.has_closed_form_points()
        && !layer.shape.geography
        && !layer.is_query()
        && !layer.differs_by_zoom()
        && !layer.repairs()
}

impl LiveRows {
    /// Drops all rows.
    pub async fn clear(&self) {
        self.0.lock().await.clear();
    }

    /// Brings the rows of a layer from the state `look.since` to the look's snapshot, if they are kept. They are
    /// dropped if they are of another state, or if the changed positions are not known.
    ///
    /// # Errors
    /// If the session is lost, or a stop was requested.
    pub async fn bring(&self, look: LiveLook<'_>, layer: &Layer, changed: Option<&[[f64; 2]]>) -> Result<(), Error> {
        let mut layers = self.0.lock().await;
        let definition = layer.definition();
        let Some(place) = layers.iter().position(|kept| kept.definition == definition) else { return Ok(()) };
        let kept = &mut layers[place];
        let Some(rows) = &mut kept.rows else { return Ok(()) };
        let changed = changed.filter(|_| kept.cursor == look.since && kept.read.elapsed() < MAX_AGE);
        let brought = match (Arc::get_mut(rows), changed) {
            (Some(rows), Some(changed)) => rows.advance(look, layer, kept.folds.as_ref(), changed).await,
            _ => Ok(false),
        };
        // Whatever fails now, the rows are no longer of the state that they are said to be of.
        if matches!(brought, Ok(true)) {
            look.now.clone_into(&mut kept.cursor);
            return Ok(());
        }
        layers.swap_remove(place);
        match brought {
            Ok(_) => {
                tracing::debug!("layer \"{}\": its live rows are of another state: they are read anew", layer.name);
                Ok(())
            }
            Err(error @ (Error::Query { .. } | Error::Timeout { .. })) => {
                tracing::info!("layer \"{}\": its live rows are dropped: {error}", layer.name);
                look.snapshot.keeper.return_to_savepoint().await
            }
            Err(lost) => Err(lost),
        }
    }

    /// The counted cells of a layer around some tiles. Its rows are read if they are not kept yet and the tiles span
    /// much of the world. `None` if the rows are not kept, so that a survey has to count.
    ///
    /// # Errors
    /// If the session is lost, or a stop was requested.
    pub async fn counts(
        &self,
        look: LiveLook<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        shown: &[TileCoord],
    ) -> Result<Option<Arc<CellCounts>>, Error> {
        let Some(grid) = layer.grid().filter(|_| is_suited(layer) && look.memory > 0) else { return Ok(None) };
        let mut layers = self.0.lock().await;
        let definition = layer.definition();
        let is_current = |kept: &LiveLayer| kept.folds.as_ref() == folds && kept.cursor == look.now;
        layers.retain(|kept| kept.definition != definition || kept.rows.is_none() || is_current(kept));
        let place = match layers.iter().position(|kept| kept.definition == definition) {
            Some(place) => place,
            None if shown.iter().all(|tile| tile.zoom().get() > MAX_KEPT_ZOOM) => return Ok(None),
            None => {
                let taken: usize = layers.iter().filter_map(|kept| kept.rows.as_ref()).map(|rows| rows.bytes()).sum();
                look.snapshot.keeper.set_savepoint().await?;
                let read = KeptRows::read(look, layer, folds, look.memory.saturating_sub(taken)).await;
                let rows = match read {
                    Ok(rows) => rows.map(Arc::new),
                    Err(error @ (Error::Query { .. } | Error::Timeout { .. })) => {
                        tracing::info!("layer \"{}\": its rows are not kept: {error}", layer.name);
                        look.snapshot.keeper.return_to_savepoint().await?;
                        None
                    }
                    Err(lost) => return Err(lost),
                };
                let (folds, cursor) = (folds.cloned(), look.now.to_owned());
                layers.push(LiveLayer { definition, folds, cursor, read: Instant::now(), rows });
                layers.len() - 1
            }
        };
        let Some(rows) = layers[place].rows.as_ref() else { return Ok(None) };
        let wanted = folds.map(|folds| folds.wanted_folds(layer));
        // Cells that a tile shows may have members as far beyond it as its own cells reach.
        let mut around: BTreeMap<Zoom, WorldRect> = BTreeMap::new();
        for tile in shown {
            let rect = TileRect::from(*tile).world(2 * layer.reach(tile.zoom()));
            around.entry(tile.zoom()).and_modify(|all| *all = all.joined(rect)).or_insert(rect);
        }
        let (rows, around) = (Arc::clone(rows), around.into_iter().collect::<Vec<_>>());
        let counting = tokio::task::spawn_blocking(move || rows.counted(grid, wanted.as_ref(), &around));
        let counted = counting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        Ok(Some(Arc::new(counted)))
    }
}

impl KeptRows {
    /// Reads all rows; `None` if they take more than `memory` bytes, or their values are too many to be folded.
    async fn read(
        look: LiveLook<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        memory: usize,
    ) -> Result<Option<KeptRows>, Error> {
        // Of the whole world: a target may show other boxes at other zooms, and tiles outside of its scope.
        let statement = sql::survey(layer, folds, 0, layer.zooms.max(), "");
        let reader = folds.map(|folds| FoldReader::new(folds, 2));
        let mut rows = KeptRows { at: Vec::new(), values: Vec::new(), reader };
        let mut has_room = true;
        let each = |row: &Row| {
            has_room = has_room && rows.add(row) && rows.bytes() <= memory;
            Ok(())
        };
        let context = format!("layer \"{}\", reading its live rows", layer.name);
        look.snapshot.keeper.each(&context, &statement, &[], each).await?;
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

    /// The memory of the rows, in bytes.
    fn bytes(&self) -> usize {
        size_of_val(&self.at[..]) + size_of_val(&self.values[..])
    }

    /// The number of folded values of a row.
    fn folds(&self) -> usize {
        self.values.len().checked_div(self.at.len()).unwrap_or(0)
    }

    /// Replaces the rows around changed positions. False if there are too many, or if the new rows take too much memory
    /// or their values cannot be folded; the rows must not be used after that.
    async fn advance(
        &mut self,
        LiveLook { snapshot, memory, .. }: LiveLook<'_>,
        layer: &Layer,
        folds: Option<&FoldedValues>,
        changed: &[[f64; 2]],
    ) -> Result<bool, Error> {
        if changed.len() > MAX_CHANGED_POSITIONS {
            return Ok(false);
        }
        if changed.is_empty() {
            return Ok(true);
        }
        let squares = squares_around(changed);
        self.remove(&squares);
        let areas: Vec<TileRect> =
            squares.iter().map(|[x, y]| TileRect { zoom: Zoom::MAX, x0: *x, y0: *y, x1: *x, y1: *y }).collect();
        let areas = Areas::without_margin(layer, &areas);
        let statement = sql::rows_in_squares(layer, folds);
        let mut is_whole = true;
        let (before, mut read) = (self.at.len(), 0);
        let each = |row: &Row| {
            is_whole = is_whole && self.add(row) && self.bytes() <= memory;
            read += 1;
            Ok(())
        };
        snapshot.keeper.set_savepoint().await?;
        let context = format!("layer \"{}\", reading its live rows at changed positions", layer.name);
        snapshot.keeper.each(&context, &statement, &areas.params(), each).await?;
        tracing::debug!(
            "layer \"{}\": live rows replaced in {} squares: {before} stayed, {read} came",
            layer.name,
            squares.len()
        );
        Ok(is_whole)
    }

    /// Removes the rows in some squares.
    fn remove(&mut self, squares: &BTreeSet<[u32; 2]>) {
        let folds = self.folds();
        let mut kept = 0;
        for number in 0..self.at.len() {
            if squares.contains(&square(self.at[number])) {
                continue;
            }
            self.at[kept] = self.at[number];
            self.values.copy_within(number * folds..(number + 1) * folds, kept * folds);
            kept += 1;
        }
        self.at.truncate(kept);
        self.values.truncate(kept * folds);
    }

    /// The counted cells of some zooms, each around a part of the world.
    fn counted(&self, grid: CellGrid, wanted: Option<&WantedFolds>, around: &[(Zoom, WorldRect)]) -> CellCounts {
        let folds = self.folds();
        let add_within = |gathering: &mut Gathering, around: WorldRect| {
            for (part, rows) in self.at.chunks(ROWS_AT_A_TIME).enumerate() {
                let mut members = Members::default();
                for (number, at) in (part * ROWS_AT_A_TIME..).zip(rows) {
                    let [x, y] = at.map(|unit| i64::from(WorldBox::unit(unit)));
                    if (around.west..=around.east).contains(&x) && (around.north..=around.south).contains(&y) {
                        members.at.push(*at);
                        members.values.extend_from_slice(&self.values[number * folds..(number + 1) * folds]);
                    }
                }
                gathering.add(members);
            }
        };
        // With values, all zooms share a bound on the memory. The deepest zooms take longest, so they come first.
        let parts: Vec<&[(Zoom, WorldRect)]> =
            if wanted.is_some() { vec![around] } else { around.rchunks(1).collect() };
        let mut counts = CellCounts::default();
        for counted in threads::map(parts, threads::available(), |part| {
            let zooms: Vec<Zoom> = part.iter().map(|(zoom, _)| *zoom).collect();
            let mut gathering = Gathering::new(grid, &zooms, wanted.cloned());
            if let Some(around) = part.iter().map(|(_, rect)| *rect).reduce(WorldRect::joined) {
                add_within(&mut gathering, around);
            }
            gathering.finish().1
        }) {
            counts.join(counted);
        }
        counts
    }
}

/// The square in which a position lies: column and row of a tile of the deepest zoom.
fn square(at: [f64; 2]) -> [u32; 2] {
    at.map(|unit| WorldBox::unit(unit) >> (32 - Zoom::MAX.get()))
}

/// The squares around some positions.
fn squares_around(positions: &[[f64; 2]]) -> BTreeSet<[u32; 2]> {
    let corners = [[-TOLERANCE, -TOLERANCE], [TOLERANCE, -TOLERANCE], [-TOLERANCE, TOLERANCE], [TOLERANCE, TOLERANCE]];
    positions.iter().flat_map(|[x, y]| corners.map(|[dx, dy]| square([x + dx, y + dy]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_near_a_changed_position_are_removed_with_their_values_and_no_others() {
        let side = 1024.0;
        let at = [[10.0, 10.0], [side - 1.0, 5.0], [side + 1.0, 5.0], [5.0 * side, 5.0 * side], [0.0, 0.0]];
        let values = (0..5).flat_map(|row| [Some(row), None]).collect();
        let mut rows = KeptRows { at: at.to_vec(), values, reader: None };
        // So close to the edge of its square that its row may lie in the next one.
        let squares = squares_around(&[[side + 1.5, 700.0]]);
        assert_eq!(squares, BTreeSet::from([[0, 0], [1, 0]]));
        rows.remove(&squares);
        assert_eq!((rows.at, rows.values), (vec![[5.0 * side; 2]], vec![Some(3), None]));
        assert_eq!(squares_around(&[[-0.5, 4_294_967_296.5]]), BTreeSet::from([[0, (1 << 22) - 1]]));
    }
}
