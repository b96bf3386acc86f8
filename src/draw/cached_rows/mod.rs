//! Cached rows: the rows of a layer of points, read once. Tiles of all zooms are drawn from them.
//!
//! The properties of a point are the same at every zoom, and `ST_AsMVT` spends most of its time on properties. So the
//! database encodes each row once and returns its position. The program computes which tiles the row touches, and at
//! which grid unit, with the arithmetic of the plan and of `ST_AsMVTGeom`. Two kinds of tiles are left to the database:
//! tiles with ambiguous points, which lie so close to the boundary of two grid units that rounding decides; and tiles
//! from which features are left out, because only the database knows the features' rank.
//!
//! | file | what |
//! |---|---|
//! | `cell_values` | such cells put together from values that are known |
//! | `cells` | the cells that the survey counted, as rows of their zoom |
//! | `changed` | rows that are kept from snapshot to snapshot: what came and went since they were read |
//! | `facets` | for each value of some columns, the kept rows that have it |
//! | `matching_set` | some of these: those that fulfil a request's conditions |
//! | `shapes` | lines and polygons |
//! | `shape_wkb` | their geometries as the database sends them |
//! | `shape_rules` | how the server at hand draws these |
//! | `spilled_rows` | the scratch file of a layer whose rows take more memory than allowed |

mod cell_values;
mod cells;
mod changed;
mod facets;
mod matching_set;
mod shape_rules;
mod shape_wkb;
mod shapes;
mod spilled_rows;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

pub(crate) use cell_values::CellValues;
pub(crate) use cells::{KeptCellFeatures, has_cacheable_cells};
pub(crate) use changed::{KeptFeatures, RowChanges};
pub(crate) use facets::FacetIndex;
use futures_util::future::join_all;
pub(crate) use matching_set::{DrawnRows, MatchingSet, MatchingSetBuilder};
use parking_lot::{Condvar, Mutex};
use shape_rules::rules_of_server;
use shapes::{Geometries, Scene, ShapeRows};
use spilled_rows::{SpilledRows, SpilledRowsWriter};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::BatchTiles;
use super::areas::is_searched;
use super::family_tiles::FamilyTiles;
use crate::mvt::{Drawer, DrawingRules, Features, TileInPieces};
use crate::postgis::layer::{Layer, QueryValues, search_boxes};
use crate::postgis::session::{Error, Param, Session, Snapshot};
use crate::postgis::split::RowScan;
use crate::postgis::sql::{CachedRowsParameters, ExpectedRows, KeyRange, RowChoice};
use crate::postgis::survey::Outlines;
use crate::postgis::{split, sql};
use crate::scratch::temporary_folder;
use crate::source::{RenderedLayer, RenderedTile};
use crate::threads::blocking;
use crate::tile::{
    Area, Candidate, Coverage, Footprints, Frame, GridBoxes, LayerCount, Order, PlaceInTile, Positions, SearchBox,
    TileCoord, TileRect, WorldRect, Zoom,
};

/// The encoded rows of a layer with their positions: all rows, or those near changes.
#[derive(Debug)]
pub(crate) struct CachedRows {
    rows: RowStore,
    /// The number of sessions that read the rows in parallel.
    pub(crate) sessions: usize,
    /// The zoom from which on the rows serve areas near changes; `None` if all rows of the layer are here.
    pub(crate) near: Option<Zoom>,
}

/// Where cached rows are kept.
#[derive(Debug)]
enum RowStore {
    Memory(EncodedRows),
    File(SpilledRows),
    /// The counted cells of some zooms, each drawn at its own zoom only.
    Cells(BTreeMap<Zoom, EncodedRows>),
    Shapes(ShapeRows),
}

/// Encoded rows, numbered in their order in a tile.
#[derive(Debug, Default)]
pub(crate) struct EncodedRows {
    pub(crate) positions: Arc<Positions>,
    pub(crate) features: Arc<Features>,
    /// The numbers of the rows among the features, or [`NOT_DRAWN`]; `None` if each row has the number of its feature.
    pub(crate) numbers: Option<Vec<u32>>,
    /// What came and went since the rows were read. `None` if they are of one snapshot.
    pub(crate) changes: Option<Arc<RowChanges>>,
    /// The rows that are drawn; `None` if all are.
    pub(crate) matching: Option<Arc<MatchingSet>>,
}

/// The number of a row that has no feature.
const NOT_DRAWN: u32 = u32::MAX;

/// The most features of a tile, by zoom; the features beyond are left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct MostFeatures(Vec<Option<i64>>);

impl MostFeatures {
    /// The limits of a layer that is thinned to `limits` (zoom 0 first); no limits if the layer is not thinned.
    pub(crate) fn of(layer: &Layer, limits: &[Option<i64>]) -> MostFeatures {
        if layer.budget.thins() { MostFeatures(limits.to_vec()) } else { MostFeatures::default() }
    }

    /// True if features may be left out of a tile at `zoom` with `rows` rows.
    fn is_exceeded(&self, zoom: Zoom, rows: usize) -> bool {
        let most = self.0.get(usize::from(zoom.get())).copied().flatten();
        most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| rows > most))
    }
}

/// The result of drawing areas from cached rows.
#[derive(Default)]
pub(crate) struct DrawnAreas {
    pub(crate) tiles: BatchTiles,
    pub(crate) count: LayerCount,
    pub(crate) left: Vec<Area>,
}

impl DrawnAreas {
    /// Adds the result of other areas.
    fn and(mut self, other: DrawnAreas) -> DrawnAreas {
        self.tiles.extend(other.tiles);
        self.count.tiles += other.count.tiles;
        self.count.features += other.count.features;
        self.left.extend(other.left);
        self
    }
}

/// The database renders the whole batch if more than one tile in this many is left to it. Otherwise it renders these
/// tiles one by one.
const MAX_LEFT_SHARE: u64 = 8;

/// The least memory that a cached line or polygon takes beside its geometry, in bytes.
const MIN_SHAPE_BYTES: usize = 100;

/// The expected number of rows, and the most memory that they may take when cached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheLimits {
    pub rows: ExpectedRows,
    /// The most memory, in bytes. Rows that take more are kept in a scratch file, and half of this memory is used to
    /// read them back.
    pub memory: usize,
    /// False if rows that take more are not cached at all.
    pub(crate) may_spill: bool,
}

/// The least memory that a cached row takes, in bytes.
pub(crate) const MIN_ROW_BYTES: u64 = Positions::SIZE as u64 + 8;

/// The result of reading rows; `None` if the statement failed, which does not end the run.
pub(crate) async fn none_if_failed(
    snapshot: &Snapshot,
    layer: &Layer,
    read: Result<Option<CachedRows>, Error>,
) -> Result<Option<CachedRows>, Error> {
    // Perhaps no tile needs the failing row, or only the statement over all rows takes too long. So each batch then
    // queries the rows that it needs.
    Ok(snapshot.keeper.or_without(read, &layer.name, "its rows are not cached").await?.flatten())
}

impl CachedRows {
    /// Rows in memory: for each its position in metres, and its feature.
    pub(crate) fn of_rows(at: Vec<[f64; 2]>, features: Features) -> CachedRows {
        let (positions, features) = (Arc::new(Positions::new(at, Frame::Metres)), Arc::new(features));
        let rows = EncodedRows { positions, features, ..EncodedRows::default() };
        CachedRows { rows: RowStore::Memory(rows), sessions: 1, near: None }
    }

    /// The memory that the rows take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match &self.rows {
            RowStore::Memory(rows) => rows.bytes(),
            RowStore::File(rows) => rows.bytes(),
            RowStore::Cells(zooms) => zooms.values().map(EncodedRows::bytes).sum(),
            RowStore::Shapes(rows) => rows.bytes(),
        }
    }

    /// True if the rows are in memory, and not in a scratch file.
    pub(crate) fn are_in_memory(&self) -> bool {
        matches!(self.rows, RowStore::Memory(_))
    }

    /// The number of rows; 0 if they are in a scratch file, or are cells.
    pub(crate) fn count(&self) -> usize {
        match &self.rows {
            RowStore::Memory(rows) => rows.positions.len(),
            RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => 0,
        }
    }

    /// Some of the rows, by their numbers in ascending order. They share the encoded bytes of all rows. Empty if the
    /// rows are in a scratch file.
    pub(crate) fn some(&self, numbers: &[u32]) -> CachedRows {
        let rows = match &self.rows {
            RowStore::Memory(rows) => EncodedRows {
                positions: Arc::new(rows.positions.some(numbers)),
                features: Arc::clone(&rows.features),
                numbers: Some(numbers.to_vec()),
                ..EncodedRows::default()
            },
            RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => EncodedRows::default(),
        };
        CachedRows { rows: RowStore::Memory(rows), sessions: self.sessions, near: None }
    }

    /// The positions of the rows in world units: x in the upper half, y in the lower half. Empty if the rows are in a
    /// scratch file.
    pub(crate) fn worlds(&self) -> Vec<u64> {
        match &self.rows {
            RowStore::Memory(rows) => rows.positions.worlds().collect(),
            RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => Vec::new(),
        }
    }

    /// The tile at `zoom` in which the row with this number lies. `None` if the rows are in a scratch file.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves of a position have 32 bits, of which a tile has the upper ones"
    )]
    pub(crate) fn tile_around(&self, number: usize, zoom: Zoom) -> Option<TileRect> {
        let RowStore::Memory(rows) = &self.rows else { return None };
        let world = rows.positions.worlds().nth(number)?;
        let [x, y] = [world >> 32, world & u64::from(u32::MAX)].map(|unit| (unit >> (32 - zoom.get())) as u32);
        Some(TileRect { zoom, x0: x, y0: y, x1: x, y1: y })
    }

    /// Marks the rows as rows near changes, which serve areas from the zoom `from` on.
    pub(crate) fn for_changes(self, from: Zoom) -> CachedRows {
        CachedRows { near: Some(from), ..self }
    }

    /// True if all rows that are searched in an area are cached.
    fn holds(&self, area: &Area, index: usize) -> bool {
        let is_near = |zoom| area.rect.zoom >= zoom && matches!(area.search.get(index), Some(SearchBox::Near(_)));
        self.near.is_none_or(is_near)
    }

    /// The zoom from which on the rows serve areas near changes; `None` if they serve whole tiles only.
    pub(crate) fn near_changes_from(&self) -> Option<Zoom> {
        match &self.rows {
            RowStore::Memory(EncodedRows { changes: Some(_), .. }) => Some(Zoom::MIN),
            _ => self.near,
        }
    }

    /// Draws the layer's part of some areas, as far as the rows serve them. Tiles that are already packed are taken
    /// from `shared`, which is for tilesets of one layer. Tiles with more rows than `most` allows are left to the
    /// database.
    pub(crate) fn draw(
        &self,
        layer: &Layer,
        index: usize,
        areas: &[Area],
        most: &MostFeatures,
        shared: Option<&FamilyTiles>,
    ) -> DrawnAreas {
        let searched = areas.iter().filter(|area| is_searched(area, index)).cloned();
        let (areas, others): (Vec<Area>, Vec<Area>) = searched.partition(|area| self.holds(area, index));
        let mut drawn = match &self.rows {
            RowStore::Memory(rows) => rows.draw(layer, index, areas, most, shared),
            RowStore::File(rows) => drawn_from_file(rows, layer, index, &areas, most),
            // They may need the database (`shape_scene`).
            RowStore::Shapes(_) => DrawnAreas { left: areas, ..DrawnAreas::default() },
            RowStore::Cells(zooms) => {
                let mut drawn = DrawnAreas::default();
                for of_zoom in areas.chunk_by(|one, next| one.rect.zoom == next.rect.zoom) {
                    match zooms.get(&of_zoom[0].rect.zoom) {
                        Some(cells) => drawn = drawn.and(cells.draw(layer, index, of_zoom.to_vec(), most, None)),
                        None => drawn.left.extend_from_slice(of_zoom),
                    }
                }
                drawn
            }
        };
        drawn.left.extend(others);
        drawn
    }
}

/// Lines and polygons that some areas show.
pub(crate) struct ShapeScene {
    scene: Scene,
    others: Vec<Area>,
}

impl CachedRows {
    /// What some areas show of cached lines and polygons, as far as it is known without the database; `None` if the
    /// rows are points or cells.
    pub(crate) fn shape_scene(&self, layer: &Layer, index: usize, areas: &[Area]) -> Option<ShapeScene> {
        let RowStore::Shapes(rows) = &self.rows else { return None };
        let searched = areas.iter().filter(|area| is_searched(area, index)).cloned();
        let (areas, others): (Vec<Area>, Vec<Area>) = searched.partition(|area| ShapeRows::serve(area, index));
        Some(ShapeScene { scene: rows.scene(layer, index, areas), others })
    }

    /// Lets the database draw what a scene does not know.
    pub(crate) async fn ask_for_shapes(
        &self,
        session: &Session,
        layer: &Layer,
        scene: &mut ShapeScene,
    ) -> Result<usize, Error> {
        match &self.rows {
            RowStore::Shapes(rows) => {
                // The statements of the tiles handle errors, down to the tile that a failing row lies in.
                let asked = session.at_savepoint(rows.ask(session, layer, &mut scene.scene).await).await?;
                if let Err(error) = &asked {
                    tracing::debug!("{error}: the database draws the tiles of these shapes");
                    scene.scene.leave_unknown();
                }
                Ok(asked.unwrap_or_default())
            }
            _ => Ok(0),
        }
    }

    /// The tiles of a scene.
    pub(crate) fn draw_scene(&self, layer: &Layer, scene: &ShapeScene) -> DrawnAreas {
        let mut drawn = match &self.rows {
            RowStore::Shapes(rows) => rows.draw(layer, &scene.scene),
            _ => DrawnAreas::default(),
        };
        drawn.left.extend_from_slice(&scene.others);
        drawn
    }

    /// Where the cached lines and polygons lie ([`ShapeRows::footprints`]); `None` if the rows are points or cells.
    pub(crate) fn shape_footprints(&self, layer: &Layer, deepest: Zoom, outlines: Outlines) -> Option<Footprints> {
        let RowStore::Shapes(rows) = &self.rows else { return None };
        rows.footprints(layer, deepest, outlines)
    }

    /// True if the rows are lines and polygons.
    pub(crate) fn are_shapes(&self) -> bool {
        matches!(self.rows, RowStore::Shapes(_))
    }
}

/// Draws areas from the rows in a scratch file. If their rows together take too much memory, the areas are halved; a
/// single tile with too many rows is drawn in pieces. All areas are left to the database if the file cannot be read.
fn drawn_from_file(rows: &SpilledRows, layer: &Layer, index: usize, areas: &[Area], most: &MostFeatures) -> DrawnAreas {
    let parts: Vec<WorldRect> = areas.iter().map(|area| part_of(layer, area)).collect();
    let drawn = match (rows.within(&parts, |rows| rows.draw(layer, index, areas.to_vec(), most, None)), areas) {
        (Ok(None), [area]) => match area.rect.halves() {
            Some((one, other)) => {
                let [one, other] =
                    [one, other].map(|rect| drawn_from_file(rows, layer, index, &[area.within(rect)], most));
                return one.and(other);
            }
            None => drawn_in_pieces(rows, layer, index, area, most),
        },
        (Ok(None), _) => {
            let (some, others) = areas.split_at(areas.len() / 2);
            return drawn_from_file(rows, layer, index, some, most)
                .and(drawn_from_file(rows, layer, index, others, most));
        }
        (Ok(Some(drawn)), _) => Ok(drawn),
        (Err(error), _) => Err(error),
    };
    drawn.unwrap_or_else(|error| {
        tracing::warn!(
            "layer \"{}\": its cached rows cannot be read back from the temporary folder {} ({error}), so the database draws what they would. Look into its disk, or set TMPDIR to another one",
            layer.name,
            temporary_folder().display()
        );
        DrawnAreas { left: areas.to_vec(), ..DrawnAreas::default() }
    })
}

fn part_of(layer: &Layer, area: &Area) -> WorldRect {
    area.rect.world(layer.margin.units(area.rect.zoom))
}

/// Draws an area of one tile whose rows together take more memory than allowed.
fn drawn_in_pieces(
    rows: &SpilledRows,
    layer: &Layer,
    index: usize,
    area: &Area,
    most: &MostFeatures,
) -> io::Result<DrawnAreas> {
    let none = || DrawnAreas { left: vec![area.clone()], ..DrawnAreas::default() };
    let Some(coord) = area.rect.first() else { return Ok(none()) };
    let part = part_of(layer, area);
    let (mut tile, constants) = (TileInPieces::new(rows.bytes_within(&part)), layer.constants(coord));
    let (mut pieces, mut found, mut is_drawn) = (0, 0, true);
    rows.in_pieces(&part, |rows| {
        let candidates = rows.candidates(layer, index, std::slice::from_ref(area));
        let drawn = candidates.iter().filter_map(|candidate| rows.drawn_at(candidate));
        found += candidates.len();
        is_drawn = !most.is_exceeded(coord.zoom(), found)
            && candidates.iter().all(|one| one.at != PlaceInTile::Ambiguous)
            && tile.add(&rows.features, &constants, drawn).is_some();
        pieces += 1;
        is_drawn
    })?;
    let name = &layer.name;
    if !is_drawn {
        note_left(layer, 1);
        return Ok(none());
    }
    if found == 0 {
        return Ok(DrawnAreas::default());
    }
    let features = tile.features();
    tracing::debug!("layer \"{name}\": tile {coord} with {features} features is drawn in {pieces} pieces");
    // A planned tile is empty if all its rows lie beyond its buffer.
    let mvt = if features == 0 { Vec::new() } else { tile.finish(&rows.layer) };
    let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
    let rendered = RenderedTile { tile: coord, mvt, layers, features, issues: Vec::new(), shared: None };
    let tiles = BatchTiles::from([(Order::ZoomColumnTmsRow.sort_key(coord).cast_signed(), rendered)]);
    Ok(DrawnAreas { tiles, count: LayerCount { tiles: 1, features }, left: Vec::new() })
}

/// Logs that the database draws areas.
fn note_left(layer: &Layer, areas: usize) {
    let why = if layer.budget.thins() { "ambiguous points or large tiles" } else { "ambiguous points" };
    tracing::debug!("layer \"{}\": areas left to the database, for {why}: {areas}", layer.name);
}

impl EncodedRows {
    /// The memory that the rows take, in bytes.
    fn bytes(&self) -> usize {
        let changes = self.changes.as_ref().map_or(0, |changes| changes.bytes());
        self.features.size() + self.positions.bytes() + changes
    }

    /// The places at which rows are drawn in some areas, sorted by tile and row.
    fn candidates(&self, layer: &Layer, index: usize, areas: &[Area]) -> Vec<Candidate> {
        let mut candidates = self.candidates_as_read(layer, index, areas);
        if let Some(changes) = &self.changes {
            let mut added = changes.added.candidates_as_read(layer, index, areas);
            if let Some(set) = &self.matching {
                added.retain(|one| set.has_come(changes.serials[one.number as usize]));
            }
            changes.apply(&mut candidates, &self.positions, added);
        }
        candidates
    }

    /// The same for the rows as they were read, whatever changed since.
    fn candidates_as_read(&self, layer: &Layer, index: usize, areas: &[Area]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for area in areas {
            let Some(SearchBox::Near(boxes)) = area.search.get(index) else {
                match &self.matching {
                    None => self.positions.candidates(&area.rect, layer.margin, &mut candidates),
                    Some(set) => set.candidates(&self.positions, &area.rect, layer.margin, &mut candidates),
                }
                continue;
            };
            let before = candidates.len();
            self.positions.candidates_near(&area.rect, boxes, layer.margin, &mut candidates);
            let boxes = GridBoxes::new(boxes);
            let is_near_change = |one: &Candidate| match one.at {
                PlaceInTile::At(at) => boxes.hold(at.map(i64::from)),
                PlaceInTile::Beyond => false,
                PlaceInTile::Ambiguous => true,
            };
            let has =
                |set: &Arc<MatchingSet>, number| self.positions.place(number).is_some_and(|place| set.has_read(place));
            let is_drawn = |one: &Candidate| self.matching.as_ref().is_none_or(|set| has(set, one.number));
            let near_changes = candidates.drain(before..).filter(|one| is_near_change(one) && is_drawn(one));
            let near_changes: Vec<Candidate> = near_changes.collect();
            candidates.extend(near_changes);
        }
        candidates.sort_unstable();
        candidates
    }

    fn draw(
        &self,
        layer: &Layer,
        index: usize,
        areas: Vec<Area>,
        most: &MostFeatures,
        shared: Option<&FamilyTiles>,
    ) -> DrawnAreas {
        let candidates = self.candidates(layer, index, &areas);
        let added = self.changes.as_ref().map(|changes| &*changes.added.features);
        let (mut drawer, mut left) = (Drawer::with_more(&self.features, added), BTreeSet::new());
        let (mut tiles, mut count, mut numbers) = (Vec::new(), LayerCount::default(), Vec::new());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = of_tile.first().and_then(|one| Order::ZoomColumnTmsRow.tile(one.tile)) else { continue };
            let is_sure = !most.is_exceeded(tile.zoom(), of_tile.len())
                && of_tile.iter().all(|one| one.at != PlaceInTile::Ambiguous);
            let place = of_tile[0].tile;
            let features_at = of_tile.iter().filter_map(|candidate| self.drawn_at(candidate));
            let shared = shared.filter(|_| is_sure).and_then(|shared| {
                numbers.clear();
                numbers.extend(features_at.clone().map(|(number, _)| number));
                shared.tile(place, &numbers)
            });
            let mvt = match &shared {
                Some(shared) if shared.packed().is_some() => Some(Vec::new()),
                _ => is_sure.then(|| drawer.tile(&layer.constants(tile), features_at.clone())).flatten(),
            };
            let Some(mvt) = mvt else {
                left.insert(place);
                continue;
            };
            let features = features_at.count() as u64;
            count.tiles += 1;
            count.features += features;
            let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
            let rendered = RenderedTile { tile, mvt, layers, features, issues: Vec::new(), shared };
            tiles.push((place.cast_signed(), rendered));
        }
        let left: Vec<TileCoord> = left.into_iter().filter_map(|place| Order::ZoomColumnTmsRow.tile(place)).collect();
        let left: Vec<Area> = if left.len() as u64 * MAX_LEFT_SHARE > count.tiles {
            (tiles, count) = (Vec::new(), LayerCount::default());
            areas
        } else {
            let area_of = |tile: TileCoord| {
                let rect = TileRect::from(tile);
                areas.iter().find(|area| area.rect.common(&rect).is_some()).map(|area| area.within(rect))
            };
            left.into_iter().filter_map(area_of).collect()
        };
        if !left.is_empty() {
            note_left(layer, left.len());
        }
        DrawnAreas { tiles: tiles.into_iter().collect(), count, left }
    }
}

impl EncodedRows {
    /// The number of the candidate's feature, and its position in the tile; `None` if the feature is not drawn.
    fn drawn_at(&self, candidate: &Candidate) -> Option<(u32, [i32; 2])> {
        let number = match &self.numbers {
            None => candidate.number,
            Some(numbers) => *numbers.get(candidate.number as usize).filter(|number| **number != NOT_DRAWN)?,
        };
        match candidate.at {
            PlaceInTile::At(at) => Some((number, at)),
            PlaceInTile::Beyond | PlaceInTile::Ambiguous => None,
        }
    }
}

// A bound on the total memory of the batches in work.

/// Memory that several threads share.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    pub(crate) limit: usize,
    pub(crate) taken: Mutex<usize>,
    given_back: Condvar,
}

impl MemoryLimit {
    pub(crate) fn new(limit: usize) -> MemoryLimit {
        MemoryLimit { limit, taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Takes `bytes`, and waits until they are free; `None` if `bytes` is more than the limit.
    pub(crate) fn take(&self, bytes: usize) -> Option<TakenMemory<'_>> {
        if bytes > self.limit {
            return None;
        }
        let mut taken = self.taken.lock();
        self.given_back.wait_while(&mut taken, |taken| *taken + bytes > self.limit);
        *taken += bytes;
        Some(TakenMemory { of: self, bytes })
    }
}

/// A part of the memory, in use until this is dropped.
pub(crate) struct TakenMemory<'a> {
    of: &'a MemoryLimit,
    bytes: usize,
}

impl Drop for TakenMemory<'_> {
    fn drop(&mut self) {
        *self.of.taken.lock() -= self.bytes;
        self.of.given_back.notify_all();
    }
}

// Reads rows to be cached, in several sessions in parallel: into memory, and from there into a scratch file if they
// take too much memory.

/// The most bytes of rows in memory. It leaves room for one last group, because offsets into the bytes have 32 bits.
const MAX_BYTES_IN_MEMORY: usize = 3 << 30;

/// Why rows are not cached.
enum RowsRefused {
    /// The tiles of single rows are not plain points, so tiles cannot be put together from them.
    NotPlain,
    /// There are too many rows to cache.
    TooManyDirtyTiles,
    /// The rows take too much memory.
    TooLarge,
    /// The number of rows differs from the number that the survey counted.
    Others,
    /// The scratch file cannot be written.
    NoRoom(io::Error),
    /// The server draws lines and polygons in a way that is not known here.
    OtherRules,
    /// Some geometries are not lines or polygons of two dimensions.
    OtherShapes,
}

impl RowsRefused {
    fn text(&self) -> String {
        match self {
            RowsRefused::NotPlain => "ST_AsMVT does not write them as plain points".to_owned(),
            RowsRefused::TooManyDirtyTiles => "they are too many".to_owned(),
            RowsRefused::TooLarge => "they take more memory than rows_mb allows".to_owned(),
            RowsRefused::OtherShapes => {
                "some are not lines or polygons of two dimensions whose boxes PostGIS has stored".to_owned()
            }
            RowsRefused::OtherRules => {
                "this PostGIS draws lines and polygons otherwise than those that are known".to_owned()
            }
            RowsRefused::Others => "other rows come with each query".to_owned(),
            RowsRefused::NoRoom(error) => format!(
                "they take more memory than rows_mb allows, and the temporary folder {} does not take them ({error}). Make room there, set TMPDIR to another one, or raise rows_mb",
                temporary_folder().display()
            ),
        }
    }
}

/// Rows while they are read, in parts that follow each other in the order of the keys. The parts are read in parallel.
struct Reading {
    parts: Vec<PartRows>,
    /// The bytes that the rows in memory take.
    bytes: usize,
    /// The most bytes that the rows in memory may take.
    limit: usize,
    /// The memory that the layer's cached rows may take.
    memory: usize,
    file: Option<SpilledRowsWriter>,
    /// True if rows beyond that limit go to a file.
    may_spill: bool,
    /// How the server draws lines and polygons; `None` if the rows are points.
    rules: Option<DrawingRules>,
}

struct PartRows {
    /// The rows in memory, which are the last ones of the part.
    features: Features,
    at: Vec<[f64; 2]>,
    /// Those of lines and polygons.
    geometries: Geometries,
    /// The number of all rows read so far.
    rows: u64,
}

impl PartRows {
    fn bytes(&self) -> usize {
        self.features.size() + self.at.len() * Positions::SIZE + self.geometries.bytes()
    }
}

impl Reading {
    /// The state before the first row. If a number of rows is `expected`, all rows of the layer are read.
    fn new(layer: &Layer, expected: Option<ExpectedRows>, room: RowsRoom, parts: usize) -> Reading {
        let RowsRoom { memory, may_spill } = room;
        let memory = memory.min(MAX_BYTES_IN_MEMORY);
        let rows = expected.and_then(|rows| usize::try_from(rows.count()).ok()).unwrap_or_default() / parts;
        let rows = rows.min(memory / parts / Positions::SIZE);
        let properties = || layer.properties.iter().map(|property| property.name.clone()).collect();
        let part = |_| PartRows {
            features: Features::new(properties(), rows, memory / parts).with_objects(layer.objects()),
            at: Vec::with_capacity(if layer.shape.points { rows } else { 0 }),
            geometries: Geometries::default(),
            rows: 0,
        };
        // While the parts are joined, the first one is in memory twice.
        let limit = if parts > 1 { memory / (parts + 1) * parts } else { memory };
        let parts = (0..parts).map(part).collect();
        Reading { parts, bytes: 0, limit, memory, file: None, may_spill: may_spill && layer.shape.points, rules: None }
    }

    /// Adds a group of rows to a part, as the statement returns it: the layer into which `ST_AsMVT` encoded them, and
    /// where they lie.
    fn add(&mut self, part: usize, row: &Row) -> Result<(), RowsRefused> {
        let part = &mut self.parts[part];
        let before = part.bytes();
        let Some(added) = part.features.add(row.get(0)) else { return Err(RowsRefused::NotPlain) };
        part.rows += added as u64;
        if self.rules.is_some() {
            part.geometries.add(row).ok_or(RowsRefused::OtherShapes)?;
        } else {
            let [x, y]: [Vec<f64>; 2] = [row.get(1), row.get(2)];
            part.at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
        }
        if part.at.len() + part.geometries.len() != part.features.len() {
            return Err(RowsRefused::NotPlain);
        }
        self.bytes += part.bytes() - before;
        while self.bytes > self.limit {
            if !self.may_spill {
                return Err(RowsRefused::TooLarge);
            }
            // The other half of the memory is for the rows of further layers, and for the sort of a run.
            self.limit = self.memory / 2;
            self.spill().map_err(RowsRefused::NoRoom)?;
        }
        Ok(())
    }

    /// Moves the rows of the part that takes most memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(SpilledRowsWriter::new(self.memory / 2)?),
        };
        let largest = self.parts.iter_mut().enumerate().max_by_key(|(_, part)| part.bytes());
        let Some((number, part)) = largest else { return Ok(()) };
        self.bytes -= part.bytes();
        file.add(number, part.rows - part.at.len() as u64, &part.at, &part.features)?;
        part.features.clear();
        part.at.clear();
        Ok(())
    }

    /// The number of rows read so far.
    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    async fn finish(self) -> Result<RowStore, RowsRefused> {
        blocking(move || self.stored()).await
    }

    fn stored(mut self) -> Result<RowStore, RowsRefused> {
        if self.file.is_some() {
            while self.bytes > 0 {
                self.spill().map_err(RowsRefused::NoRoom)?;
            }
        }
        let Reading { parts, file, rules, .. } = self;
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        let mut parts = parts.into_iter();
        let Some(PartRows { mut features, mut at, mut geometries, .. }) = parts.next() else {
            return Err(RowsRefused::Others);
        };
        let others: Vec<PartRows> = parts.collect();
        if let Some(file) = file {
            // A part without rows has no layer.
            if let Some(known) = others.iter().find(|part| part.rows > 0).filter(|_| rows[0] == 0) {
                features = known.features.clone();
            }
            return Ok(RowStore::File(file.finish(&rows, &features)));
        }
        features.reserve(others.iter().map(|part| &part.features));
        at.reserve_exact(others.iter().map(|part| part.at.len()).sum());
        geometries.reserve(others.iter().map(|part| &part.geometries));
        for part in others {
            features.append(&part.features).ok_or(RowsRefused::NotPlain)?;
            at.extend(part.at);
            geometries.append(&part.geometries);
        }
        if let Some(rules) = rules {
            return Ok(RowStore::Shapes(ShapeRows::new(features, geometries, rules)));
        }
        let (positions, features) = (Arc::new(Positions::new(at, Frame::Metres)), Arc::new(features));
        Ok(RowStore::Memory(EncodedRows { positions, features, ..EncodedRows::default() }))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct RowsRoom {
    /// In bytes.
    pub(crate) memory: usize,
    /// True if rows beyond that go to a scratch file.
    pub(crate) may_spill: bool,
}

/// The sessions that read rows.
#[derive(Clone, Copy)]
pub(crate) struct RowReaders<'a> {
    /// The session that reads if only one reads.
    pub(crate) keeper: &'a Session,
    /// The sessions that may read in parallel.
    pub(crate) others: &'a [&'a Session],
}

impl CachedRows {
    /// Reads all rows that are visible in the coverage at `zooms`, into a scratch file if they take more memory than
    /// `limits` allows. `None` if the number of rows is not the one that `limits` expects.
    pub(crate) async fn read_all(
        readers: RowReaders<'_>,
        layer: &Layer,
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<Option<CachedRows>, Error> {
        let CacheLimits { rows, memory, may_spill } = limits;
        let room = RowsRoom { memory, may_spill };
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        if !layer.shape.points {
            let context = format!("layer \"{}\", looking at some of its rows", layer.name);
            let some = readers.keeper.one(&context, &sql::some_shapes(layer, boxes), &params).await?;
            let (are_others, bytes): (Option<bool>, Option<f64>) = (some.get(0), some.get(1));
            let all = rows.count() as f64 * (bytes.unwrap_or_default() + MIN_SHAPE_BYTES as f64);
            let refused = if are_others == Some(true) {
                Some(RowsRefused::OtherShapes)
            } else {
                (all > memory as f64).then_some(RowsRefused::TooLarge)
            };
            if let Some(refused) = refused {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, refused.text());
                return Ok(None);
            }
        }
        let scan = RowScan { boxes, params: &params, with_values: true, rows: Some(rows.count()) };
        let ranges = split::key_ranges(readers.keeper, layer, scan, readers.others.len()).await?;
        let whole = [RowChoice::Boxes { boxes, rows, keys: None }];
        let parts: Vec<RowChoice<'_>> =
            ranges.iter().map(|keys| RowChoice::Boxes { boxes, rows, keys: Some(keys) }).collect();
        if parts.len() > 1 {
            return CachedRows::read(readers.others, layer, &parts, params, room).await;
        }
        CachedRows::read(&[readers.keeper], layer, &whole, params, room).await
    }

    /// Reads some rows, each part in its own session. `parts` must be in the order of the keys. `None` if the number of
    /// rows is not as expected, or if they take more memory than there is and may not spill.
    pub(crate) async fn read(
        sessions: &[&Session],
        layer: &Layer,
        parts: &[RowChoice<'_>],
        mut params: Vec<Param<'_>>,
        room: RowsRoom,
    ) -> Result<Option<CachedRows>, Error> {
        if matches!(parts, [RowChoice::Areas { .. }, ..]) && room.memory == 0 {
            // The statement would return no row, as if there were none.
            return Ok(None);
        }
        let (name, extent, max_bytes) = (params.len() + 1, params.len() + 2, params.len() + 3);
        let parameters = CachedRowsParameters { name, extent, max_bytes };
        let layer_extent = layer.margin.extent.cast_signed();
        let (expected, max_rows, max_bytes) = match parts {
            [RowChoice::Areas { limit }, ..] => (None, *limit, i64::try_from(room.memory).unwrap_or(i64::MAX)),
            [RowChoice::Boxes { rows, .. }, ..] => (Some(*rows), u64::MAX, i64::MAX),
            [] => return Ok(None),
        };
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&layer_extent, Type::INT4), (&max_bytes, Type::INT8)];
        params.extend(own);
        let mut reading = Reading::new(layer, expected, room, parts.len());
        if !layer.shape.points && matches!(parts, [RowChoice::Boxes { .. }, ..]) {
            let rules = match sessions.first() {
                Some(session) => rules_of_server(session, &layer.name).await?,
                None => None,
            };
            if rules.is_none() {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, RowsRefused::OtherRules.text());
                return Ok(None);
            }
            reading.rules = rules;
        }
        let reading = Mutex::new((reading, None));
        let context = format!("layer \"{}\", reading its rows", layer.name);
        let statements = sessions.iter().zip(parts).enumerate().map(async |(number, (session, part))| {
            let statement = sql::cached_rows(layer, *part, parameters);
            let keys = match part {
                RowChoice::Boxes { keys, .. } => *keys,
                RowChoice::Areas { .. } => None,
            };
            let params: Vec<Param<'_>> =
                params.iter().cloned().chain(keys.into_iter().flat_map(KeyRange::params)).collect();
            let each = |row: &Row| {
                let mut reading = reading.lock();
                let (reading, refused) = &mut *reading;
                if refused.is_none() {
                    *refused = reading.add(number, row).err();
                }
                Ok(())
            };
            session.each(&context, &statement, &params, each).await
        });
        // All statements are waited for, even if one failed, because the sessions are used again.
        for read in join_all(statements).await {
            read?;
        }
        let (reading, refused) = reading.into_inner();
        let rows = reading.rows();
        let read = match refused {
            Some(refused) => Err(refused),
            None if rows >= max_rows => Err(RowsRefused::TooManyDirtyTiles),
            None if matches!(expected, Some(ExpectedRows::Counted(counted)) if counted != rows) => {
                Err(RowsRefused::Others)
            }
            None => reading.finish().await,
        };
        match read {
            Ok(store) => {
                let cached = CachedRows { rows: store, sessions: parts.len(), near: None };
                let (name, bytes) = (&layer.name, cached.bytes());
                let place = if matches!(cached.rows, RowStore::File(_)) { "in a scratch file, with" } else { "in" };
                tracing::debug!("layer \"{name}\": {rows} rows are cached, {place} {bytes} bytes of memory");
                Ok(Some(cached))
            }
            Err(why @ RowsRefused::NoRoom(_)) => {
                tracing::warn!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
            Err(why) => {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgis::layer::example_layer;

    /// Without room a statement returns no row, which must not be taken for squares that have become empty.
    #[test]
    fn rows_of_squares_are_not_read_into_memory_that_is_used_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = |memory| {
            let (layer, parts) = (example_layer(), [RowChoice::Areas { limit: 9 }]);
            let read = CachedRows::read(&[], &layer, &parts, Vec::new(), RowsRoom { memory, may_spill: false });
            runtime.block_on(read).unwrap().map(|rows| rows.count())
        };
        assert_eq!((found(0), found(1_000)), (None, Some(0)));
    }
}
