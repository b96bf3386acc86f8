//! Compares tiles drawn from cached rows with the same tiles drawn by the database, before a run relies on cached rows.

use std::sync::Arc;
use std::time::Instant;

use super::cached_rows::{CachedRows, DrawnAreas, MostFeatures};
use super::drawing::{BatchDrawing, LayerAreas};
use super::statements::RunLayers;
use super::{BatchTiles, PreparedLayer, Worker};
use crate::postgis::layer::Layer;
use crate::postgis::session::Error;
use crate::postgis::sql::Candidates;
use crate::threads::blocking;
use crate::tile::{Area, Batch, SearchBox, TileRect};

/// The number of tiles that are drawn both ways before a run relies on cached rows.
pub(crate) const COMPARED_TILES: usize = 3;

/// The most further batches in which such tiles are sought, if there is none with a feature in those at equal
/// distances.
const TRIED_BATCHES: usize = 8;

/// The most features of a tile that is drawn both ways. For a larger one, the database would take longer than for
/// reading all rows.
const MAX_COMPARED_FEATURES: u64 = 2_000;

/// The number of rows around which a smaller tile is searched, if the tile to draw both ways has more features than
/// that.
const TRIED_ROWS: usize = 16;

/// Returns the layers. A layer loses its cached rows if the database draws one of the compared tiles of `batches` with
/// other bytes, because a later PostGIS may encode differently.
pub(crate) async fn verify_cached_rows(
    worker: &Worker,
    layers: Vec<PreparedLayer>,
    batches: &[Batch],
) -> Result<Vec<PreparedLayer>, Error> {
    let run_layers = RunLayers::new(&layers);
    let drawing = BatchDrawing::new(worker, &run_layers);
    let mut checked = Vec::new();
    for (index, layer) in layers.into_iter().enumerate() {
        if !layer.has_cached_rows() || drawing.draws_same_bytes(index, batches).await? {
            checked.push(layer);
            continue;
        }
        tracing::warn!(
            "layer \"{}\": its cached rows do not give the tiles that the database draws, so the database draws all of them. Does a property change from one query to the next? If not, please report this",
            layer.layer().name
        );
        checked.push(layer.with_cached_rows(None));
    }
    Ok(checked)
}

impl BatchDrawing<'_> {
    /// A layer's part of some areas, as far as cached rows can draw it, with at most `max_features` features in each
    /// tile; `None` if its rows are not cached.
    pub(crate) async fn drawn_from_cached_rows(
        self,
        index: usize,
        areas: &[Area],
        max_features: &[Option<i64>],
    ) -> Result<Option<DrawnAreas>, Error> {
        let prepared = self.prepared(index);
        let Some(rows) = prepared.cached_rows() else { return Ok(None) };
        let (layer, rows, areas) = (Arc::clone(prepared.layer()), Arc::clone(rows), areas.to_vec());
        if rows.are_shapes() {
            return self.with_cached_shapes(&layer, &rows, index, areas).await;
        }
        let most = MostFeatures::of(&layer, max_features);
        let draw = || {
            let (layer, rows, areas, most) = (Arc::clone(&layer), Arc::clone(&rows), areas.clone(), most.clone());
            self.off_thread(move || rows.draw(&layer, index, &areas, &most, None))
        };
        let drawn = draw().await?;
        let asked = rows.ask_for_places(self.session(), &layer, &drawn.unasked).await;
        match self.session().at_savepoint(asked).await? {
            Ok(true) => draw().await.map(Some),
            Ok(false) => Ok(Some(drawn)),
            Err(error) => {
                // The statements of the tiles handle errors, down to the tile that a failing row lies in.
                tracing::debug!("{error}: the database draws the tiles of these points");
                Ok(Some(drawn))
            }
        }
    }

    /// Computes something on a thread of its own.
    async fn off_thread<T: Send + 'static>(self, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let begun = Instant::now();
        let computed = tokio::select! {
            biased;
            _ = self.worker.database.stop.wait() => return Err(Error::Interrupted),
            done = blocking(compute) => done,
        };
        self.layers.note_drawing(begun.elapsed());
        Ok(computed)
    }

    /// A layer's part of some areas from cached lines and polygons. The database draws those of which it is not known
    /// how they come out.
    async fn with_cached_shapes(
        self,
        layer: &Arc<Layer>,
        rows: &Arc<CachedRows>,
        index: usize,
        areas: Vec<Area>,
    ) -> Result<Option<DrawnAreas>, Error> {
        let (own_layer, own_rows) = (Arc::clone(layer), Arc::clone(rows));
        let scene = self.off_thread(move || own_rows.shape_scene(&own_layer, index, &areas)).await?;
        let Some(mut scene) = scene else { return Ok(None) };
        let asked = rows.ask_for_shapes(self.session(), layer, &mut scene).await?;
        let (layer, rows) = (Arc::clone(layer), Arc::clone(rows));
        let drawn = self.off_thread(move || rows.draw_scene(&layer, &scene)).await?;
        self.layers.note_shapes(drawn.count.features, asked);
        Ok(Some(drawn))
    }

    /// A tile of the layer's deepest zoom around one of its cached rows, within a batch whose tiles have very many
    /// features. `None` if no row in memory is found there.
    fn light_area(self, index: usize, number: usize, batch: &Batch) -> Option<Area> {
        let prepared = self.prepared(index);
        let rows = prepared.cached_rows()?;
        let deepest = prepared.layer().zooms.max();
        // Rows in the margin of the batch are not suitable, because some of their neighbours may be missing from the
        // cached rows.
        let is_within = |rect: &TileRect| {
            let of_zoom = |area: &Area| {
                let shift = deepest.get().saturating_sub(area.rect.zoom.get());
                TileRect {
                    zoom: area.rect.zoom,
                    x0: rect.x0 >> shift,
                    y0: rect.y0 >> shift,
                    x1: rect.x1 >> shift,
                    y1: rect.y1 >> shift,
                }
            };
            batch.areas.iter().any(|area| area.rect.zoom <= deepest && area.rect.common(&of_zoom(area)).is_some())
        };
        let steps = COMPARED_TILES * TRIED_ROWS;
        let tried = (0..TRIED_ROWS).map(|step| rows.count() * (number * TRIED_ROWS + step) / steps);
        let rect = tried.filter_map(|row| rows.tile_around(row, deepest)).find(is_within)?;
        let search = (0..=index).map(|layer| if layer == index { SearchBox::Area } else { SearchBox::Nothing });
        Some(Area { rect, search: search.collect() })
    }

    /// True if the cached rows and the database give the same bytes for [`COMPARED_TILES`] tiles of the batches.
    async fn draws_same_bytes(self, index: usize, batches: &[Batch]) -> Result<bool, Error> {
        let of_layer: Vec<&Batch> = batches.iter().filter(|batch| batch.layers[index].tiles > 0).collect();
        let step = (of_layer.len() / COMPARED_TILES).max(1);
        let mut compared_tiles = 0;
        for (number, batch) in
            of_layer.iter().rev().step_by(step).chain(of_layer.iter().take(TRIED_BATCHES)).enumerate()
        {
            if compared_tiles == COMPARED_TILES {
                break;
            }
            let own = &batch.layers[index];
            let light = if own.features > MAX_COMPARED_FEATURES * own.tiles {
                self.light_area(index, number, batch)
            } else {
                None
            };
            let compared: &[Area] = light.as_slice();
            let compared = if compared.is_empty() { &batch.areas[..] } else { compared };
            let no_limits = Vec::new();
            let Some(DrawnAreas { tiles, .. }) = self.drawn_from_cached_rows(index, compared, &no_limits).await? else {
                return Ok(false);
            };
            // The tile with the fewest features is enough, because only encodings are compared.
            let drawn = tiles.into_values().filter(|tile| tile.features > 0);
            let Some(tile) = drawn.min_by_key(|tile| tile.features) else { continue };
            compared_tiles += 1;
            let rect = TileRect::from(tile.tile);
            let areas: Vec<Area> = compared
                .iter()
                .filter(|area| area.rect.common(&rect).is_some())
                .map(|area| area.within(rect))
                .collect();
            let mut rendered = BatchTiles::new();
            let candidates =
                if self.prepared(index).is_counted(tile.tile.zoom()) { Candidates::Counted } else { Candidates::Found };
            let work = LayerAreas { index, areas: &areas, max_features: &no_limits, candidates };
            let done = self.layer(work, &mut rendered).await;
            if self.session().at_savepoint(done).await?.is_err() || !rendered.values().eq([&tile]) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
