//! Cached rows: the rows of a layer of points, read once. Tiles of all zooms are drawn from them.
//!
//! The properties of a point are the same at every zoom, and `ST_AsMVT` spends most of its time on properties. So the database encodes each
//! row once and gives its position. The program computes which tiles the row touches, and at which grid unit, with the arithmetic of the plan
//! and of `ST_AsMVTGeom`. The database draws the tiles of points that are ambiguous: so close to the boundary of two grid units that rounding
//! decides.
//!
//! - `read`: from the statement's rows to cached rows, in memory or in a scratch file.
//! - `row_file`: the scratch file of a layer whose rows take more memory than they may; `memory_limit`: what its batches take together.

mod memory_limit;
mod read;
mod row_file;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::Tiles;
use super::areas::is_searched;
use super::family_tiles::FamilyTiles;
use crate::mvt::{Drawer, Features, TileInPieces};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql::ExpectedRows;
use crate::scratch::temporary_folder;
use crate::source::{RenderedLayer, RenderedTile};
use crate::tile::{
    Area, Candidate, GridBoxes, LayerCount, Order, Positions, SearchBox, TileCoord, TileRect, Unit, WorldRect, Zoom,
};

use row_file::RowFile;

pub(in crate::postgis) use read::RowReaders;

/// The encoded rows of a layer with their positions: all rows, or those near changes.
#[derive(Debug)]
pub(in crate::postgis) struct CachedRows {
    rows: RowStore,
    /// How many sessions read them, side by side.
    pub(in crate::postgis) sessions: usize,
    /// The zoom from which on the rows serve areas near changes; `None` if all rows of the layer are here.
    pub(in crate::postgis) near: Option<Zoom>,
}

/// Where cached rows are kept.
#[derive(Debug)]
enum RowStore {
    Memory(EncodedRows),
    File(RowFile),
}

/// Encoded rows, numbered in the order that they have in a tile.
#[derive(Debug)]
struct EncodedRows {
    positions: Positions,
    features: Arc<Features>,
    /// The numbers of the rows among the features; `None` if each row has the number of its feature.
    numbers: Option<Vec<u32>>,
}

/// The result of drawing areas from cached rows.
#[derive(Default)]
pub(in crate::postgis) struct DrawnAreas {
    pub(in crate::postgis) tiles: Tiles,
    pub(in crate::postgis) count: LayerCount,
    /// Areas that are left to the database.
    pub(in crate::postgis) left: Vec<Area>,
}

impl DrawnAreas {
    /// With the result of other areas.
    fn and(mut self, other: DrawnAreas) -> DrawnAreas {
        self.tiles.extend(other.tiles);
        self.count.tiles += other.count.tiles;
        self.count.features += other.count.features;
        self.left.extend(other.left);
        self
    }
}

/// If more than one tile in this many holds an ambiguous point, the database renders the whole batch, else those tiles one by one.
const MAX_AMBIGUOUS_SHARE: u64 = 8;

/// The expected number of rows, and the most memory that they may take when cached.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// The number of rows.
    pub rows: ExpectedRows,
    /// The most memory, in bytes. Rows that take more are kept in a scratch file, and half as much memory serves to read them back.
    pub memory: usize,
}

/// The least memory that a cached row takes, in bytes.
pub(in crate::postgis) const MIN_ROW_BYTES: u64 = Positions::SIZE as u64 + 8;

/// The result of reading rows; `None` if the statement failed, which does not end the run.
pub(in crate::postgis) async fn none_if_failed(
    snapshot: &Snapshot,
    layer: &Layer,
    read: Result<Option<CachedRows>, Error>,
) -> Result<Option<CachedRows>, Error> {
    match read {
        Err(error @ (Error::Query { .. } | Error::Timeout { .. })) => {
            // The failing row may be one that no tile needs, or the one statement takes too long. Each batch queries the rows that it needs.
            tracing::info!("layer \"{}\": its rows are not cached: {error}", layer.name);
            snapshot.keeper.return_to_savepoint().await?;
            Ok(None)
        }
        read => read,
    }
}

impl CachedRows {
    /// The memory that the rows take, in bytes.
    pub(in crate::postgis) fn bytes(&self) -> usize {
        match &self.rows {
            RowStore::Memory(rows) => rows.bytes(),
            RowStore::File(rows) => rows.bytes(),
        }
    }

    /// True if they are in memory, and not in a scratch file.
    pub(super) fn are_in_memory(&self) -> bool {
        matches!(self.rows, RowStore::Memory(_))
    }

    /// The number of rows; 0 if they are in a scratch file.
    pub(super) fn count(&self) -> usize {
        match &self.rows {
            RowStore::Memory(rows) => rows.positions.len(),
            RowStore::File(_) => 0,
        }
    }

    /// Some of the rows, by their numbers in ascending order. They share what the rows are encoded in. Only of rows in memory.
    pub(super) fn some(&self, numbers: &[u32]) -> CachedRows {
        let rows = match &self.rows {
            RowStore::Memory(rows) => EncodedRows {
                positions: rows.positions.some(numbers),
                features: Arc::clone(&rows.features),
                numbers: Some(numbers.to_vec()),
            },
            RowStore::File(_) => {
                EncodedRows { positions: Positions::default(), features: Arc::default(), numbers: None }
            }
        };
        CachedRows { rows: RowStore::Memory(rows), sessions: self.sessions, near: None }
    }

    /// Where the rows lie, in world units: x in the upper half, y in the lower half. Only of rows in memory.
    pub(super) fn worlds(&self) -> Vec<u64> {
        match &self.rows {
            RowStore::Memory(rows) => rows.positions.worlds().collect(),
            RowStore::File(_) => Vec::new(),
        }
    }

    /// The tile of a zoom in which a row lies, by its number. Only of rows in memory.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves of a position have 32 bits, of which a tile has the upper ones"
    )]
    pub(super) fn tile_around(&self, number: usize, zoom: Zoom) -> Option<TileRect> {
        let RowStore::Memory(rows) = &self.rows else { return None };
        let world = rows.positions.worlds().nth(number)?;
        let [x, y] = [world >> 32, world & u64::from(u32::MAX)].map(|unit| (unit >> (32 - zoom.get())) as u32);
        Some(TileRect { zoom, x0: x, y0: y, x1: x, y1: y })
    }

    /// The rows as those near changes, which serve areas from a zoom on.
    pub(super) fn for_changes(self, from: Zoom) -> CachedRows {
        CachedRows { near: Some(from), ..self }
    }

    /// True if all rows that are searched in an area are cached.
    fn holds(&self, area: &Area, index: usize) -> bool {
        let is_near = |zoom| area.rect.zoom >= zoom && matches!(area.search.get(index), Some(SearchBox::Near(_)));
        self.near.is_none_or(is_near)
    }

    /// Draws the layer's part of some areas, as far as the rows serve them. Tiles that are packed already are taken from `shared`, which is for
    /// tilesets of one layer.
    pub(in crate::postgis) fn draw(
        &self,
        layer: &Layer,
        index: usize,
        areas: &[Area],
        shared: Option<&FamilyTiles>,
    ) -> DrawnAreas {
        let searched = areas.iter().filter(|area| is_searched(area, index)).cloned();
        let (areas, others): (Vec<Area>, Vec<Area>) = searched.partition(|area| self.holds(area, index));
        let mut drawn = match &self.rows {
            RowStore::Memory(rows) => rows.draw(layer, index, areas, shared),
            RowStore::File(rows) => drawn_from_file(rows, layer, index, &areas),
        };
        drawn.left.extend(others);
        drawn
    }
}

/// Draws areas from the rows in a scratch file: together if their rows do not take too much memory, else in halves, and a tile with too many rows
/// in pieces. All are left to the database if the file cannot be read.
fn drawn_from_file(rows: &RowFile, layer: &Layer, index: usize, areas: &[Area]) -> DrawnAreas {
    let parts: Vec<WorldRect> = areas.iter().map(|area| part_of(layer, area)).collect();
    let drawn = match (rows.within(&parts, |rows| rows.draw(layer, index, areas.to_vec(), None)), areas) {
        (Ok(None), [area]) => match area.rect.halves() {
            Some((one, other)) => {
                let [one, other] = [one, other].map(|rect| drawn_from_file(rows, layer, index, &[area.within(rect)]));
                return one.and(other);
            }
            None => drawn_in_pieces(rows, layer, index, area),
        },
        (Ok(None), _) => {
            let (some, others) = areas.split_at(areas.len() / 2);
            return drawn_from_file(rows, layer, index, some).and(drawn_from_file(rows, layer, index, others));
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

/// The part of the world whose rows an area shows.
fn part_of(layer: &Layer, area: &Area) -> WorldRect {
    area.rect.world(layer.margin.units(area.rect.zoom))
}

/// Draws an area of one tile, whose rows together take more memory than they may.
fn drawn_in_pieces(rows: &RowFile, layer: &Layer, index: usize, area: &Area) -> io::Result<DrawnAreas> {
    let none = || DrawnAreas { left: vec![area.clone()], ..DrawnAreas::default() };
    let Some(coord) = area.rect.first() else { return Ok(none()) };
    let part = part_of(layer, area);
    let mut tile = TileInPieces::new(rows.bytes_within(&part));
    let (mut pieces, mut is_sure) = (0, true);
    rows.in_pieces(&part, |rows| {
        let candidates = rows.candidates(layer, index, std::slice::from_ref(area));
        let drawn = candidates.iter().filter_map(|candidate| rows.drawn_at(candidate));
        is_sure = candidates.iter().all(|one| one.at != Unit::Unsure) && tile.add(&rows.features, drawn).is_some();
        pieces += 1;
        is_sure
    })?;
    let name = &layer.name;
    if !is_sure {
        tracing::debug!("layer \"{name}\": areas left to the database, for ambiguous points: 1");
        return Ok(none());
    }
    let features = tile.features();
    tracing::debug!("layer \"{name}\": tile {coord} with {features} features is drawn in {pieces} pieces");
    if features == 0 {
        return Ok(DrawnAreas::default());
    }
    let mvt = tile.finish(rows.layer());
    let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
    let rendered = RenderedTile { tile: coord, mvt, layers, features, notes: Vec::new(), shared: None };
    let tiles = Tiles::from([(Order::ZoomColumnTmsRow.place(coord).cast_signed(), rendered)]);
    Ok(DrawnAreas { tiles, count: LayerCount { tiles: 1, features }, left: Vec::new() })
}

impl EncodedRows {
    /// The memory that they take, in bytes.
    fn bytes(&self) -> usize {
        self.features.size() + self.positions.len() * Positions::SIZE
    }

    /// Where rows are drawn in some areas, sorted by tile and row.
    fn candidates(&self, layer: &Layer, index: usize, areas: &[Area]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for area in areas {
            let before = candidates.len();
            self.positions.candidates(&area.rect, layer.margin, &mut candidates);
            if let Some(SearchBox::Near(boxes)) = area.search.get(index) {
                let boxes = GridBoxes::new(boxes);
                let is_near_change = |one: &Candidate| match one.at {
                    Unit::At(at) => boxes.hold(at.map(i64::from)),
                    Unit::Beyond => false,
                    Unit::Unsure => true,
                };
                let near_changes: Vec<Candidate> = candidates.drain(before..).filter(is_near_change).collect();
                candidates.extend(near_changes);
            }
        }
        candidates.sort_unstable();
        candidates
    }

    fn draw(&self, layer: &Layer, index: usize, areas: Vec<Area>, shared: Option<&FamilyTiles>) -> DrawnAreas {
        let candidates = self.candidates(layer, index, &areas);
        let (mut drawer, mut ambiguous) = (Drawer::new(&self.features), BTreeSet::new());
        let (mut tiles, mut count, mut numbers) = (Vec::new(), LayerCount::default(), Vec::new());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = of_tile.first().and_then(|one| Order::ZoomColumnTmsRow.tile(one.tile)) else { continue };
            let is_sure = of_tile.iter().all(|one| one.at != Unit::Unsure);
            let place = of_tile[0].tile;
            let features_at = of_tile.iter().filter_map(|candidate| self.drawn_at(candidate));
            let shared = shared.filter(|_| is_sure).and_then(|shared| {
                numbers.clear();
                numbers.extend(features_at.clone().map(|(number, _)| number));
                shared.tile(place, &numbers)
            });
            let mvt = match &shared {
                Some(shared) if shared.packed().is_some() => Some(Vec::new()),
                _ => is_sure.then(|| drawer.tile(features_at.clone())).flatten(),
            };
            let Some(mvt) = mvt else {
                ambiguous.insert(place);
                continue;
            };
            let features = features_at.count() as u64;
            count.tiles += 1;
            count.features += features;
            let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
            let rendered = RenderedTile { tile, mvt, layers, features, notes: Vec::new(), shared };
            tiles.push((place.cast_signed(), rendered));
        }
        let ambiguous: Vec<TileCoord> =
            ambiguous.into_iter().filter_map(|place| Order::ZoomColumnTmsRow.tile(place)).collect();
        let left = if ambiguous.len() as u64 * MAX_AMBIGUOUS_SHARE > count.tiles {
            (tiles, count) = (Vec::new(), LayerCount::default());
            areas
        } else {
            let area_of = |tile: TileCoord| {
                let rect = TileRect::from(tile);
                areas.iter().find(|area| area.rect.common(&rect).is_some()).map(|area| area.within(rect))
            };
            ambiguous.into_iter().filter_map(area_of).collect()
        };
        if !left.is_empty() {
            let (layer, areas) = (&layer.name, left.len());
            tracing::debug!("layer \"{layer}\": areas left to the database, for ambiguous points: {areas}");
        }
        DrawnAreas { tiles: tiles.into_iter().collect(), count, left }
    }
}

impl EncodedRows {
    /// The number of the feature, and where it is drawn.
    fn drawn_at(&self, candidate: &Candidate) -> Option<(u32, [i32; 2])> {
        let number = match &self.numbers {
            None => candidate.number,
            Some(numbers) => *numbers.get(candidate.number as usize)?,
        };
        match candidate.at {
            Unit::At(at) => Some((number, at)),
            Unit::Beyond | Unit::Unsure => None,
        }
    }
}
