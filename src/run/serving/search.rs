//! The batch of a live tile, with the area in which its features are searched. If a closed formula leads from the tile
//! to the layer's reference system, it is the tile. Otherwise it is the boxes of the features that a survey of all
//! features has found there.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use super::shared_work::SharedWork;
use super::snapshot::{LiveSnapshot, SurveyedFootprints};
use crate::plan::{Dirty, FeatureSearch, batches};
use crate::postgis::{Error, survey};
use crate::tile::{Batch, Coverage, LayerCount, LayerIndex, Scope, SearchBox, Slice, TileId, TileRect, Zoom, ZoomList};

/// Why no batch could be made for a tile.
pub(crate) enum NoBatch {
    /// The survey of the features failed.
    Failed(Arc<Error>),
    /// The task of the survey died.
    Died,
}

impl LiveSnapshot {
    /// The batch of one tile; `None` if no layer is drawn there.
    pub(crate) async fn batch(self: &Arc<Self>, tile: TileId) -> Result<Option<Batch>, NoBatch> {
        let one = [tile.coord];
        let made = batches(&one, &self.drawn, NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area);
        let Some(mut batch) = made.into_iter().next() else { return Ok(None) };
        for (index, layer) in self.layers.iter().enumerate() {
            let is_wanted = tile.slice == Slice::Whole || tile.slice == Slice::Layer(layer.id());
            let is_drawn = batch.layers[index].tiles > 0;
            if is_wanted && is_drawn && !layer.is_found_by_area() {
                let search = self.searched(LayerIndex(index), tile).await?;
                batch.areas.iter_mut().for_each(|area| area.search[index] = search.clone());
            } else if !is_wanted {
                batch.areas.iter_mut().for_each(|area| area.search[index] = SearchBox::Nothing);
                batch.layers[index] = LayerCount::default();
            }
        }
        Ok(batch.layers.iter().any(|count| count.tiles > 0).then_some(batch))
    }

    /// The boxes of the features that a layer shows in a tile.
    async fn searched(self: &Arc<Self>, layer: LayerIndex, tile: TileId) -> Result<SearchBox, NoBatch> {
        let zoom = tile.coord.zoom();
        let survey = self.surveys.of((layer, zoom), || SharedWork::start(surveyed(Arc::clone(self), layer, zoom)));
        let footprints = survey.done().await.ok_or(NoBatch::Died)?.map_err(NoBatch::Failed)?;
        let zooms = ZoomList::of([zoom]);
        let scope = zooms.map(|zooms| Scope { zooms, coverage: Coverage::new(&[]) });
        let mut dirty = Dirty::new(&scope.into_iter().collect::<Vec<_>>(), 1);
        // A single tile is never too many.
        if dirty.mark_tile(tile.coord).is_err() {
            return Ok(SearchBox::Nothing);
        }
        Ok(FeatureSearch::new(&dirty, &self.drawn[layer.0], &footprints).search(&TileRect::from(tile.coord)))
    }
}

/// Surveys where the features of a layer lie.
async fn surveyed(snapshot: Arc<LiveSnapshot>, layer: LayerIndex, zoom: Zoom) -> SurveyedFootprints {
    let begun = Instant::now();
    let Some(zooms) = ZoomList::of([zoom]) else { return Err(Arc::new(Error::Interrupted)) };
    let seen = survey(&snapshot.snapshot, &snapshot.layers[layer.0], None, &Coverage::new(&[]), &zooms).await;
    snapshot.note_preparation(begun.elapsed());
    seen.map(|seen| Arc::new(seen.footprints)).map_err(Arc::new)
}
