//! Compares tiles drawn from cached rows with those that the database draws, before a run relies on cached rows.

use std::sync::Arc;
use std::time::Instant;

use super::cached_rows::DrawnAreas;
use super::drawing::{BatchDrawing, LayerAreas};
use super::prepared::PreparedLayer;
use super::statements::RunLayers;
use super::{Tiles, Worker};
use crate::postgis::session::Error;
use crate::postgis::sql::Candidates;
use crate::tile::{Area, Batch, TileRect};

/// The number of tiles that are drawn both ways before a run relies on cached rows.
pub(in crate::postgis) const COMPARED_TILES: usize = 3;

/// The layers, each without its cached rows if the database draws some tile of `batches` with other bytes: a later PostGIS may encode
/// differently.
///
/// # Errors
/// If the session is lost, or a stop was asked for.
pub async fn verify_cached_rows(
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
    /// A layer's part of some areas, as far as cached rows can draw it; `None` if its rows are not cached.
    pub(in crate::postgis) async fn with_cached_rows(
        self,
        index: usize,
        areas: &[Area],
    ) -> Result<Option<DrawnAreas>, Error> {
        let prepared = self.prepared(index);
        let Some(rows) = prepared.cached_rows() else { return Ok(None) };
        let (layer, rows, areas) = (Arc::clone(prepared.layer()), Arc::clone(rows), areas.to_vec());
        let begun = Instant::now();
        let drawing = tokio::task::spawn_blocking(move || rows.draw(&layer, index, &areas, None));
        let drawn = tokio::select! {
            biased;
            _ = self.worker.database.stop.wait() => return Err(Error::Interrupted),
            drawn = drawing => drawn.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        };
        self.layers.note_drawing(begun.elapsed());
        Ok(Some(drawn))
    }

    /// True if the cached rows and the database give the same bytes in [`COMPARED_TILES`] tiles of the batches.
    async fn draws_same_bytes(self, index: usize, batches: &[Batch]) -> Result<bool, Error> {
        let of_layer: Vec<&Batch> = batches.iter().filter(|batch| batch.layers[index].tiles > 0).collect();
        let step = (of_layer.len() / COMPARED_TILES).max(1);
        for batch in of_layer.iter().rev().step_by(step).take(COMPARED_TILES) {
            let Some(DrawnAreas { tiles, .. }) = self.with_cached_rows(index, &batch.areas).await? else {
                return Ok(false);
            };
            // The lightest tile will do: this compares encodings.
            let Some(tile) = tiles.into_values().min_by_key(|tile| tile.features) else { continue };
            let rect = TileRect::from(tile.tile);
            let areas: Vec<Area> = batch
                .areas
                .iter()
                .filter(|area| area.rect.common(&rect).is_some())
                .map(|area| area.within(rect))
                .collect();
            let mut rendered = Tiles::new();
            let work = LayerAreas { index, areas: &areas, max_features: &Vec::new(), candidates: Candidates::Found };
            match self.layer(work, &mut rendered).await {
                Ok(_) if rendered.values().eq([&tile]) => {}
                Ok(_) => return Ok(false),
                Err(Error::Query { .. } | Error::Timeout { .. }) => {
                    self.session().return_to_savepoint().await?;
                    return Ok(false);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(true)
    }
}
