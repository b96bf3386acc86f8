//! Cached rows: the rows of a layer of points, read once. Tiles of all zooms are drawn from them.
//!
//! The properties of a point are the same at every zoom, and `ST_AsMVT` spends most of its time on properties. So the database encodes each
//! row once and gives its position. The program computes which tiles the row touches, and at which grid unit, with the arithmetic of the plan
//! and of `ST_AsMVTGeom`. The database draws the tiles of points that are ambiguous: so close to the boundary of two grid units that rounding
//! decides.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::Tiles;
use super::areas::is_searched;
use crate::mvt::{Drawer, Features};
use crate::postgis::layer::{Layer, QueryValues, search_boxes};
use crate::postgis::session::{Error, Param, Snapshot};
use crate::postgis::sql::{self, CachedRowsParameters, RowChoice};
use crate::source::{CacheCost, RenderedLayer, RenderedTile};
use crate::tile::{
    Area, Candidate, Coverage, GridBoxes, LayerCount, Order, Positions, SearchBox, TileCoord, TileRect, Unit, Zoom,
};

/// The encoded rows of a layer with their positions: all rows, or those near changes.
#[derive(Debug, PartialEq)]
pub(in crate::postgis) struct CachedRows {
    positions: Positions,
    features: Features,
    /// The zoom from which on the rows serve areas near changes; `None` if all rows of the layer are here.
    pub(in crate::postgis) near: Option<Zoom>,
}

/// The result of drawing areas from cached rows.
pub(in crate::postgis) struct DrawnAreas {
    pub(in crate::postgis) tiles: Tiles,
    pub(in crate::postgis) count: LayerCount,
    /// Areas that are left to the database.
    pub(in crate::postgis) left: Vec<Area>,
}

/// If more than one tile in this many holds an ambiguous point, the database renders the whole batch, else those tiles one by one.
const MAX_AMBIGUOUS_SHARE: u64 = 8;

/// The expected number of rows, and the most memory that they may take when cached.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// The number of rows that the survey found.
    pub rows: u64,
    /// The most memory, in bytes.
    pub memory: usize,
}

/// The least memory that a cached row takes, in bytes.
pub(in crate::postgis) const MIN_ROW_BYTES: u64 = Positions::SIZE as u64 + 8;

impl Layer {
    /// The cost of caching all rows of the layer: `rows` rows that `workers` workers draw `features` times, in at most `memory` bytes.
    #[must_use]
    pub fn cache_cost(rows: u64, features: u64, workers: usize, memory: usize) -> CacheCost {
        CacheCost { rows, features, workers, min_row_bytes: MIN_ROW_BYTES, memory }
    }
}

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
        self.features.size() + self.positions.len() * Positions::SIZE
    }

    /// The rows as those near changes, which serve areas from a zoom on.
    pub(super) fn for_changes(self, from: Zoom) -> CachedRows {
        CachedRows { near: Some(from), ..self }
    }

    /// Reads all rows that the coverage shows at some zooms; `None` if there are not as many rows as the limits expect, or they take more
    /// memory.
    pub(in crate::postgis) async fn read_all(
        snapshot: &Snapshot,
        layer: &Layer,
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<Option<CachedRows>, Error> {
        let CacheLimits { rows, memory } = limits;
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        CachedRows::read(snapshot, layer, RowChoice::Boxes { boxes, rows }, params, memory).await
    }

    /// Reads some rows; `None` if their number is not as expected, or they take more than `memory` bytes.
    pub(in crate::postgis) async fn read(
        snapshot: &Snapshot,
        layer: &Layer,
        which: RowChoice,
        mut params: Vec<Param<'_>>,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let (name, extent, max_bytes) = (params.len() + 1, params.len() + 2, params.len() + 3);
        let statement = sql::cached_rows(layer, which, CachedRowsParameters { name, extent, max_bytes });
        let (extent, max_bytes) = (layer.margin.extent.cast_signed(), i64::try_from(memory).unwrap_or(i64::MAX));
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&max_bytes, Type::INT8)];
        params.extend(own);
        let properties: Vec<String> = layer.properties.iter().map(|property| property.name.clone()).collect();
        let (expected, max_rows) = match which {
            RowChoice::Boxes { rows, .. } => (usize::try_from(rows).unwrap_or_default(), usize::MAX),
            RowChoice::Areas { limit } => (0, usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        let (mut at, mut features) = (Vec::with_capacity(expected), Some(Features::new(properties, expected, memory)));
        let mut fits = true;
        let each = |row: &Row| {
            let (x, y, mvt): (Vec<f64>, Vec<f64>, &[u8]) = (row.get(0), row.get(1), row.get(2));
            let Some(own) = features.as_mut().filter(|_| fits) else { return Ok(()) };
            let is_whole = own.add(mvt) == Some(x.len());
            at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
            fits = own.size() + at.len() * Positions::SIZE <= memory;
            if !is_whole {
                features = None;
            }
            Ok(())
        };
        let context = format!("layer \"{}\", reading its rows", layer.name);
        snapshot.keeper.each(&context, &statement, &params, each).await?;
        let features = match features {
            None => Err("ST_AsMVT does not write them as plain points"),
            Some(features) if features.len() >= max_rows => Err("they are too many"),
            // The statement stops where the memory ends, so a row less than expected means too little memory.
            Some(features) if fits && (expected == features.len() || max_rows < usize::MAX) => Ok(features),
            Some(_) => Err("they take more memory than rows_mb allows, or are others with each query"),
        };
        let features = match features {
            Ok(features) => features,
            Err(why) => {
                tracing::info!("layer \"{}\": its rows are not cached: {why}", layer.name);
                return Ok(None);
            }
        };
        let size = features.size() + at.len() * Positions::SIZE;
        tracing::debug!("layer \"{}\": {} rows are cached, in {size} bytes", layer.name, at.len());
        let sorting = tokio::task::spawn_blocking(move || Positions::new(at));
        let positions = sorting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        Ok(Some(CachedRows { positions, features, near: None }))
    }

    /// True if all rows that are searched in an area are cached.
    fn holds(&self, area: &Area, index: usize) -> bool {
        let is_near = |zoom| area.rect.zoom >= zoom && matches!(area.search.get(index), Some(SearchBox::Near(_)));
        self.near.is_none_or(is_near)
    }

    /// Draws the layer's part of some areas, as far as the rows serve them.
    pub(in crate::postgis) fn draw(&self, layer: &Layer, index: usize, areas: &[Area]) -> DrawnAreas {
        let searched = areas.iter().filter(|area| is_searched(area, index)).cloned();
        let (areas, others): (Vec<Area>, Vec<Area>) = searched.partition(|area| self.holds(area, index));
        let mut drawn = self.draw_all(layer, index, areas);
        drawn.left.extend(others);
        drawn
    }

    fn draw_all(&self, layer: &Layer, index: usize, areas: Vec<Area>) -> DrawnAreas {
        let mut candidates = Vec::new();
        for area in &areas {
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
        let (mut drawer, mut ambiguous) = (Drawer::new(&self.features), BTreeSet::new());
        let (mut tiles, mut count) = (Vec::new(), LayerCount::default());
        for of_tile in candidates.chunk_by(|one, next| one.tile == next.tile) {
            let Some(tile) = of_tile.first().and_then(|one| Order::ZoomColumnTmsRow.tile(one.tile)) else { continue };
            let is_sure = of_tile.iter().all(|one| one.at != Unit::Unsure);
            let Some(mvt) = is_sure.then(|| drawer.tile(of_tile.iter().filter_map(drawn_at))).flatten() else {
                ambiguous.insert(of_tile[0].tile);
                continue;
            };
            let features = of_tile.iter().filter_map(drawn_at).count() as u64;
            count.tiles += 1;
            count.features += features;
            let layers = vec![RenderedLayer { layer: layer.id, bytes: mvt.len() }];
            tiles
                .push((of_tile[0].tile.cast_signed(), RenderedTile { tile, mvt, layers, features, notes: Vec::new() }));
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

fn drawn_at(candidate: &Candidate) -> Option<(u32, [i32; 2])> {
    match candidate.at {
        Unit::At(at) => Some((candidate.number, at)),
        Unit::Beyond | Unit::Unsure => None,
    }
}
