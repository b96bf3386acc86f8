//! Caches the rows near changed positions. Tiles of many zooms are patched from them.

use std::sync::Arc;

use super::areas::Areas;
use super::cached_rows::{CachedRows, DrawnAreas, MIN_ROW_BYTES, RowsRoom, Spill, none_if_failed};
use super::checks::COMPARED_TILES;
use super::drawing::{BatchDrawing, LayerAreas};
use super::statements::RunLayers;
use super::{BatchTiles, PreparedLayer, Worker};
use crate::mvt;
use crate::mvt::PointLayer;
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql::{Candidates, RowChoice};
use crate::tile::{Area, ChangedPart, GridBox, Neighbourhood, Order, SearchBox, TileCoord, TileRect};

/// The most rows near each changed position. With more, the rows are not cached, because one query for each tile would
/// read no more rows.
const MAX_ROWS_PER_POSITION: u64 = 64;

/// Caches the rows of a layer near changed positions. The layer stays without cached rows if they take more than
/// `memory` bytes, cannot be read, or do not give the bytes that the database draws, which `worker` compares.
pub(crate) async fn with_neighbourhood(
    layer: &PreparedLayer,
    worker: &Worker,
    near: &Neighbourhood,
    memory: usize,
) -> Result<PreparedLayer, Error> {
    let (plain, snapshot) = (layer.clone(), &worker.snapshot);
    let layer = layer.layer();
    let Some(points) = layer.as_points() else { return Ok(plain) };
    let read = CachedRows::near(snapshot, layer, near, memory).await;
    let Some(rows) = none_if_failed(snapshot, layer, read).await? else { return Ok(plain) };
    let cached = plain.clone().with_cached_rows(Some(Arc::new(rows)));
    let run_layers = RunLayers::new(std::slice::from_ref(&cached));
    let drawn = BatchDrawing::new(worker, &run_layers).draws_same_bytes_near(&near.samples, &points).await;
    match snapshot.keeper.or_without(drawn, &layer.name, "its rows are not cached").await? {
        Some(Some(true)) => return Ok(cached),
        Some(Some(false)) => tracing::warn!(
            "layer \"{}\": the cached rows near changes do not give what the database draws there, so the database draws all of them. Does a property change from one query to the next? If not, please report this",
            layer.name
        ),
        Some(None) => {
            let name = &layer.name;
            tracing::info!("layer \"{name}\": its rows are not cached: nothing is left where it has changed");
        }
        None => {}
    }
    Ok(plain)
}

impl BatchDrawing<'_> {
    /// True if the database and the cached rows draw the same bytes in parts of some tiles; `None` if they draw nothing
    /// in any of them.
    async fn draws_same_bytes_near(
        self,
        samples: &[(TileCoord, Vec<ChangedPart>)],
        points: &PointLayer,
    ) -> Result<Option<bool>, Error> {
        let area = |tile: TileCoord, search| Area { rect: TileRect::from(tile), search: vec![search] };
        let boxes = |parts: &[ChangedPart]| -> Vec<GridBox> { parts.iter().map(|part| part.grid).collect() };
        let near: Vec<Area> = samples.iter().map(|(tile, parts)| area(*tile, SearchBox::Near(boxes(parts)))).collect();
        let Some(DrawnAreas { tiles: cached, .. }) = self.drawn_from_cached_rows(0, &near, &[]).await? else {
            return Ok(Some(false));
        };
        let shows = |(tile, _): &&(TileCoord, Vec<ChangedPart>)| !layer_of(&cached, *tile).is_empty();
        let samples: Vec<&(TileCoord, Vec<ChangedPart>)> = samples.iter().filter(shows).take(COMPARED_TILES).collect();
        if samples.is_empty() {
            return Ok(None);
        }
        let parts = samples.iter().flat_map(|(tile, parts)| parts.iter().map(|part| (*tile, part.world)));
        let searched: Vec<Area> = parts.map(|(tile, world)| area(tile, SearchBox::World(world))).collect();
        let (mut drawn, max_features) = (BatchTiles::new(), Vec::new());
        let work =
            LayerAreas { index: 0, areas: &searched, max_features: &max_features, candidates: Candidates::Found };
        self.layer(work, &mut drawn).await?;
        let is_alike = |(tile, parts): &&(TileCoord, Vec<ChangedPart>)| {
            let (own, cached) = (layer_of(&drawn, *tile), layer_of(&cached, *tile));
            mvt::replaced(own, cached, &boxes(parts), points).is_some_and(|(together, _)| together == own)
        };
        Ok(Some(samples.iter().all(is_alike)))
    }
}

/// The MVT bytes of the one layer of a tile; empty if there is no such tile.
fn layer_of(tiles: &BatchTiles, tile: TileCoord) -> &[u8] {
    let tile = tiles.get(&Order::ZoomColumnTmsRow.sort_key(tile).cast_signed());
    let layers = tile.and_then(|tile| mvt::split(&tile.mvt)).unwrap_or_default();
    layers.first().map_or(&[], |(_, layer)| layer)
}

impl CachedRows {
    /// Reads the rows near changed positions; `None` if they are too many or take more than `memory` bytes.
    async fn near(
        snapshot: &Snapshot,
        layer: &Layer,
        near: &Neighbourhood,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let squares = Areas::without_margin(layer, &near.cells);
        // A property takes at least two bytes, so more rows would not fit.
        let limit = memory as u64 / (MIN_ROW_BYTES + 2 * layer.properties.len() as u64) + 1;
        let limit = limit.min(MAX_ROWS_PER_POSITION * near.places);
        let (session, areas) = ([&snapshot.keeper], [RowChoice::Areas { limit }]);
        let room = RowsRoom { memory, spill: Spill::Nothing, by_key: false };
        let rows = CachedRows::read(&session, layer, &areas, squares.params(), room).await?;
        Ok(rows.map(|rows| rows.for_changes(near.from)))
    }
}
