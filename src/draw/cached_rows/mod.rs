//! Cached rows: the rows of a layer of points, read once. Tiles of all zooms are drawn from them.
//!
//! The properties of a point are the same at every zoom, and `ST_AsMVT` spends most of its time on properties. So the
//! database encodes each row once and returns its position. The program computes which tiles the row touches, and at
//! which grid unit, with the arithmetic of the plan and of `ST_AsMVTGeom`. The database is asked for ambiguous points,
//! which lie so close to the boundary of two grid units that rounding decides. It draws tiles from which features are
//! left out by a rank whose values cannot be compared here.
//!
//! | file | what |
//! |---|---|
//! | `ambiguous` | where the database draws points that lie at the boundary of two grid units |
//! | `cell_values` | such cells put together from values that are known |
//! | `cells` | the cells that the survey counted, as rows of their zoom |
//! | `changed` | rows that are kept from snapshot to snapshot: what came and went since they were read |
//! | `facets` | for each value of some columns, the kept rows that have it |
//! | `matching_set` | some of these: those that fulfil a request's conditions |
//! | `memory_limit` | a bound on the memory of all batches in work |
//! | `most_features` | which features stay in a tile with too many |
//! | `reading` | rows read from the database, in parallel |
//! | `rows_in_file` | the features of rows that are kept from snapshot to snapshot, in a scratch file |
//! | `shapes` | lines and polygons |
//! | `shape_wkb` | their geometries as the database sends them |
//! | `shape_rules` | how the server at hand draws these |
//! | `spilled_rows` | the scratch file of a layer whose rows take more memory than allowed |

mod ambiguous;
mod cell_values;
mod cells;
mod changed;
mod facets;
mod matching_set;
mod memory_limit;
mod most_features;
mod reading;
mod rows_in_file;
mod shape_rules;
mod shape_wkb;
mod shapes;
mod spilled_rows;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

pub(crate) use ambiguous::AmbiguousPoint;
use ambiguous::KnownPlaces;
pub(crate) use cell_values::CellValues;
pub(crate) use cells::{KeptCellFeatures, has_cacheable_cells};
pub(crate) use changed::{JoinedRows, KeptFeatures, OfferedFeatures, RowChanges};
pub(crate) use facets::FacetIndex;
pub(crate) use matching_set::{DrawnRows, FoundKey, MatchingSet, MatchingSetBuilder};
pub(crate) use memory_limit::{MAX_BYTES_IN_MEMORY, MemoryLimit};
pub(crate) use most_features::MostFeatures;
use most_features::Ranks;
pub(crate) use reading::{RowReaders, RowsRoom, Spill};
use rows_in_file::warn_unreadable;
pub(crate) use rows_in_file::{FeaturesInFile, RowFeatures, bytes_in_file, may_be_in_file, no_room};
use shapes::{Scene, ShapeRows};
use spilled_rows::SpilledRows;

use super::BatchTiles;
use super::areas::is_searched;
use super::family_tiles::FamilyTiles;
use crate::mvt::{Drawer, Features, TileInPieces};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Session, Snapshot};
use crate::postgis::sql::ExpectedRows;
use crate::postgis::survey::Outlines;
use crate::source::{LayerIssue, LayerIssueKind, RenderedLayer, RenderedTile};
use crate::tile::{
    Area, Candidate, Footprints, GridBoxes, LayerCount, Order, PlaceInTile, Positions, SearchBox, TileCoord, TileRect,
    WorldRect, Zoom,
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
    /// In memory; the features of rows that are kept from snapshot to snapshot perhaps in a scratch file.
    Memory(EncodedRows),
    File(SpilledRows),
    /// The counted cells of some zooms, each drawn at its own zoom only.
    Cells(BTreeMap<Zoom, EncodedRows>),
    Shapes(ShapeRows),
}

/// Encoded rows, numbered in their order in a tile.
#[derive(Debug, Clone, Default)]
pub(crate) struct EncodedRows {
    pub(crate) positions: Arc<Positions>,
    pub(crate) features: RowFeatures,
    /// The numbers of the rows among the features, or [`NOT_DRAWN`]; `None` if each row has the number of its feature.
    pub(crate) numbers: Option<Vec<u32>>,
    /// What came and went since the rows were read. `None` if they are of one snapshot.
    pub(crate) changes: Option<Arc<RowChanges>>,
    /// The rows that are drawn; `None` if all are.
    pub(crate) matching: Option<Arc<MatchingSet>>,
    /// Where ambiguous points are drawn.
    pub(crate) known: Arc<KnownPlaces>,
}

/// The number of a row that has no feature.
const NOT_DRAWN: u32 = u32::MAX;

/// The result of drawing areas from cached rows.
#[derive(Default)]
pub(crate) struct DrawnAreas {
    pub(crate) tiles: BatchTiles,
    pub(crate) count: LayerCount,
    pub(crate) left: Vec<Area>,
    /// The ambiguous points for whose sake tiles were left.
    pub(crate) unasked: Vec<AmbiguousPoint>,
}

impl DrawnAreas {
    /// Adds the result of other areas.
    fn and(mut self, other: DrawnAreas) -> DrawnAreas {
        self.tiles.extend(other.tiles);
        self.count.tiles += other.count.tiles;
        self.count.features += other.count.features;
        self.left.extend(other.left);
        self.unasked.extend(other.unasked);
        self
    }
}

/// The database renders the whole batch if more than one tile in this many is left to it. Otherwise it renders these
/// tiles one by one.
const MAX_LEFT_SHARE: u64 = 8;

/// The least memory that a cached line or polygon takes beside its geometry, in bytes.
const MIN_SHAPE_BYTES: usize = 100;

/// The expected number of rows, and the most memory that they may take when cached.
#[derive(Debug, Clone)]
pub(crate) struct CacheLimits {
    pub rows: ExpectedRows,
    /// The most memory, in bytes.
    pub memory: usize,
    /// What happens to rows that take more.
    pub(crate) spill: Spill,
    /// True if the rows are kept from snapshot to snapshot, by their keys.
    pub(crate) by_key: bool,
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
    #[cfg(test)]
    pub(crate) fn of_rows(at: Vec<[f64; 2]>, features: Features) -> CachedRows {
        CachedRows::of_encoded(Positions::new(at, crate::tile::Frame::Metres), features.into())
    }

    /// Rows whose features are in memory, or in a scratch file.
    pub(crate) fn of_encoded(positions: Positions, features: RowFeatures) -> CachedRows {
        let rows = EncodedRows { positions: Arc::new(positions), features, ..EncodedRows::default() };
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

    /// The bytes of features in a scratch file, of rows that are kept from snapshot to snapshot.
    pub(crate) fn file_bytes(&self) -> u64 {
        match &self.rows {
            RowStore::Memory(rows) => rows.file_bytes(),
            RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => 0,
        }
    }

    /// True if the rows are in memory, and not in a scratch file.
    pub(crate) fn are_in_memory(&self) -> bool {
        matches!(&self.rows, RowStore::Memory(rows) if rows.features.in_memory().is_some())
    }

    /// The number of rows; 0 if they are in a scratch file, or are cells.
    pub(crate) fn count(&self) -> usize {
        match &self.rows {
            RowStore::Memory(rows) => rows.positions.len(),
            RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => 0,
        }
    }

    /// About the number of rows that are drawn in a tile of a layer, and of the bytes of their features; `None` if the
    /// rows are no points in memory.
    pub(crate) fn size_in(&self, layer: &Layer, tile: TileCoord) -> Option<(usize, usize)> {
        let RowStore::Memory(rows) = &self.rows else { return None };
        let (features, reach) = (rows.features.in_memory()?, layer.margin.units(tile.zoom()));
        let part = TileRect::from(tile).world(reach);
        let near = |positions: &Positions| positions.near(&[part]).into_iter().map(<[u32]>::len).sum::<usize>();
        let count = near(&rows.positions) + rows.changes.as_ref().map_or(0, |changes| near(&changes.added.positions));
        Some((count, count * (features.size() / features.len().max(1))))
    }

    /// Some of the rows, by their numbers in ascending order. They share the encoded bytes of all rows. Empty if the
    /// rows are in a scratch file.
    pub(crate) fn some(&self, numbers: &[u32]) -> CachedRows {
        let rows = match &self.rows {
            RowStore::Memory(rows) if rows.features.in_memory().is_some() => EncodedRows {
                positions: Arc::new(rows.positions.some(numbers)),
                features: rows.features.clone(),
                numbers: Some(numbers.to_vec()),
                ..EncodedRows::default()
            },
            RowStore::Memory(_) | RowStore::File(_) | RowStore::Cells(_) | RowStore::Shapes(_) => {
                EncodedRows::default()
            }
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
    /// from `shared`, which is for tilesets of one layer. Tiles hold no more features than `most` allows.
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
        warn_unreadable(&layer.name, &error);
        DrawnAreas { left: areas.to_vec(), ..DrawnAreas::default() }
    })
}

fn part_of(layer: &Layer, area: &Area) -> WorldRect {
    area.rect.world(layer.margin.units(area.rect.zoom))
}

/// Draws an area of one tile whose rows together take more memory than allowed. It is left to the database if features
/// may have to be left out, though the rows in the file have ranks: which features stay is known after the last piece.
fn drawn_in_pieces(
    rows: &SpilledRows,
    layer: &Layer,
    index: usize,
    area: &Area,
    most: &MostFeatures,
) -> io::Result<DrawnAreas> {
    let none = |unasked| DrawnAreas { left: vec![area.clone()], unasked, ..DrawnAreas::default() };
    let Some(coord) = area.rect.first() else { return Ok(none(Vec::new())) };
    let part = part_of(layer, area);
    let (mut tile, constants) = (TileInPieces::new(rows.bytes_within(&part)), layer.constants(coord));
    let (mut pieces, mut found, mut is_drawn, mut unasked) = (0, 0, true, Vec::new());
    rows.in_pieces(&part, |rows| {
        let candidates = rows.candidates(layer, index, std::slice::from_ref(area));
        let drawn = candidates.iter().filter_map(|candidate| rows.drawn_at(candidate));
        found += candidates.len();
        unasked.extend(rows.unasked(&candidates));
        is_drawn = is_drawn
            && most.at(coord.zoom()).is_none_or(|most| found <= most)
            && candidates.iter().all(|one| one.at != PlaceInTile::Ambiguous)
            && rows.features.in_memory().and_then(|features| tile.add(features, &constants, drawn)).is_some();
        pieces += 1;
        // The other pieces may have such points, too.
        is_drawn || !unasked.is_empty()
    })?;
    let name = &layer.name;
    if !is_drawn {
        if unasked.is_empty() {
            note_left(layer, 1);
        }
        return Ok(none(unasked));
    }
    if found == 0 {
        return Ok(DrawnAreas::default());
    }
    let features = tile.features();
    tracing::debug!("layer \"{name}\": tile {coord} with {features} features is drawn in {pieces} pieces");
    // A planned tile is empty if all its rows lie beyond its buffer.
    let mvt = if features == 0 { Vec::new() } else { tile.finish(&rows.layer) };
    let rendered = rendered_tile(layer, coord, mvt, features, 0);
    let tiles = BatchTiles::from([(Order::ZoomColumnTmsRow.sort_key(coord).cast_signed(), rendered)]);
    Ok(DrawnAreas { tiles, count: LayerCount { tiles: 1, features }, ..DrawnAreas::default() })
}

/// A layer's part of a tile with some features, from which others were left out.
fn rendered_tile(layer: &Layer, tile: TileCoord, mvt: Vec<u8>, features: u64, left_out: u64) -> RenderedTile {
    let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
    let issue = || LayerIssue { layer: layer.id, kind: LayerIssueKind::Thinned { left_out } };
    let issues = (left_out > 0).then(issue).into_iter().collect();
    RenderedTile { tile, mvt, layers, features, issues, shared: None }
}

/// Logs that the database draws areas.
fn note_left(layer: &Layer, areas: usize) {
    let why = if layer.budget.thins() { "ambiguous points or large tiles" } else { "ambiguous points" };
    tracing::debug!("layer \"{}\": areas left to the database, for {why}: {areas}", layer.name);
}

impl EncodedRows {
    fn of(positions: Positions, features: RowFeatures) -> EncodedRows {
        EncodedRows { positions: Arc::new(positions), features, ..EncodedRows::default() }
    }

    /// The memory that the rows take, in bytes.
    fn bytes(&self) -> usize {
        let changes = self.changes.as_ref().map_or(0, |changes| changes.bytes());
        self.features.bytes() + self.positions.bytes() + changes
    }

    /// The bytes of features in a scratch file.
    fn file_bytes(&self) -> u64 {
        if let RowFeatures::File(file) = &self.features { file.size() } else { 0 }
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
            let before = candidates.len();
            let Some(SearchBox::Near(boxes)) = area.search.get(index) else {
                match &self.matching {
                    None => self.positions.candidates(&area.rect, layer.margin, &mut candidates),
                    Some(set) => set.candidates(&self.positions, &area.rect, layer.margin, &mut candidates),
                }
                self.place_known(&mut candidates[before..]);
                continue;
            };
            self.positions.candidates_near(&area.rect, boxes, layer.margin, &mut candidates);
            self.place_known(&mut candidates[before..]);
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
        let mut drawing = TileDrawing::new(self, layer, most, shared);
        match &self.features {
            RowFeatures::Memory(features) => drawing.draw(&candidates, features, |number| number),
            RowFeatures::File(file) => {
                if drawing.draw_from_file(&candidates, file).is_err() {
                    return DrawnAreas { left: areas, ..DrawnAreas::default() };
                }
            }
        }
        let TileDrawing { mut tiles, mut count, left, unasked, .. } = drawing;
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
        if !left.is_empty() && unasked.is_empty() {
            note_left(layer, left.len());
        }
        DrawnAreas { tiles: tiles.into_iter().collect(), count, left, unasked }
    }
}

/// Draws tiles of some rows.
struct TileDrawing<'a> {
    rows: &'a EncodedRows,
    /// The features of rows that came.
    added: Option<&'a Features>,
    layer: &'a Layer,
    most: &'a MostFeatures,
    shared: Option<&'a FamilyTiles>,
    tiles: Vec<(i64, RenderedTile)>,
    count: LayerCount,
    /// The tiles that are left to the database, by their sort keys.
    left: BTreeSet<u64>,
    unasked: Vec<AmbiguousPoint>,
}

impl<'a> TileDrawing<'a> {
    fn new(
        rows: &'a EncodedRows,
        layer: &'a Layer,
        most: &'a MostFeatures,
        shared: Option<&'a FamilyTiles>,
    ) -> TileDrawing<'a> {
        TileDrawing {
            rows,
            added: rows.changes.as_ref().and_then(|changes| changes.added.features.in_memory()),
            layer,
            most,
            shared,
            tiles: Vec::new(),
            count: LayerCount::default(),
            left: BTreeSet::new(),
            unasked: Vec::new(),
        }
    }

    /// Draws the tiles of some candidates, which are sorted by tile and row. `number` returns the number of a row's
    /// feature among `features` and, behind these, those of the rows that came.
    fn draw(&mut self, candidates: &[Candidate], features: &Features, number: impl Fn(u32) -> u32 + Copy) {
        let TileDrawing { rows, layer, most, added, .. } = *self;
        let ranks = Ranks { features, added };
        let (mut drawer, mut drawn, mut numbers) = (Drawer::with_more(features, added), Vec::new(), Vec::new());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = of_tile.first().and_then(|one| Order::ZoomColumnTmsRow.tile(one.tile)) else { continue };
            let place = of_tile[0].tile;
            drawn.clear();
            drawn.extend(of_tile.iter().filter_map(|candidate| rows.drawn_at(candidate)));
            let found = drawn.len() as u64;
            let is_sure = of_tile.iter().all(|one| one.at != PlaceInTile::Ambiguous)
                && ranks.thin(layer, most.at(tile.zoom()), &mut drawn, number);
            let shared = self.shared.filter(|_| is_sure).and_then(|shared| {
                numbers.clear();
                numbers.extend(drawn.iter().map(|(number, _)| *number));
                shared.tile(place, &numbers)
            });
            let mvt = match &shared {
                Some(shared) if shared.packed().is_some() => Some(Vec::new()),
                _ => {
                    let drawn = drawn.iter().map(|(row, at)| (number(*row), *at));
                    is_sure.then(|| drawer.tile(&layer.constants(tile), drawn)).flatten()
                }
            };
            let Some(mvt) = mvt else {
                self.left.insert(place);
                self.unasked.extend(rows.unasked(of_tile));
                continue;
            };
            self.count.tiles += 1;
            // The plan counts those that are left out, too.
            self.count.features += found;
            let features = drawn.len() as u64;
            let rendered = rendered_tile(layer, tile, mvt, features, found - features);
            self.tiles.push((place.cast_signed(), RenderedTile { shared, ..rendered }));
        }
    }

    /// The same for rows whose features are in a scratch file. Tiles whose features take more memory than allowed are
    /// left to the database. Fails if the file cannot be read.
    fn draw_from_file(&mut self, candidates: &[Candidate], file: &FeaturesInFile) -> io::Result<()> {
        // Those of a tile that has too many by their keys alone are not read.
        let most = |of_tile: &[Candidate]| {
            let zoom = Order::ZoomColumnTmsRow.tile(of_tile[0].tile).map(TileCoord::zoom);
            let most = zoom.filter(|_| self.layer.rank.is_none()).and_then(|zoom| self.most.at(zoom));
            most.unwrap_or(usize::MAX)
        };
        let (rows, read) = (self.rows, u32::try_from(self.rows.positions.len()).unwrap_or(u32::MAX));
        let numbers_of = |of_tile: &[Candidate]| -> Vec<u32> {
            if of_tile.iter().any(|one| one.at == PlaceInTile::Ambiguous) {
                return Vec::new();
            }
            let drawn = of_tile.iter().filter_map(|one| rows.drawn_at(one)).map(|(number, _)| number);
            drawn.take(most(of_tile)).filter(|number| *number < read).collect()
        };
        let tiles: Vec<(&[Candidate], Vec<u32>)> =
            candidates.chunk_by(|one, next| one.tile == next.tile).map(|one| (one, numbers_of(one))).collect();
        let bytes = |(_, numbers): &(_, Vec<u32>)| numbers.iter().map(|number| file.loaded_bytes(*number)).sum();
        let mut begin = 0;
        for part in file.parts(&tiles, bytes) {
            let end = begin + part.iter().map(|(of_tile, _)| of_tile.len()).sum::<usize>();
            let mut numbers: Vec<u32> = part.iter().flat_map(|(_, numbers)| numbers).copied().collect();
            numbers.sort_unstable();
            numbers.dedup();
            let loaded = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let place = |number: u32| match number.checked_sub(read) {
                Some(came) => loaded.saturating_add(came),
                None => numbers.binary_search(&number).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or(NOT_DRAWN),
            };
            let drawn = file.with(&numbers, |features| self.draw(&candidates[begin..end], features, place))?;
            if drawn.is_none() {
                self.left.extend(part.iter().map(|(of_tile, _)| of_tile[0].tile));
            }
            begin = end;
        }
        Ok(())
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
