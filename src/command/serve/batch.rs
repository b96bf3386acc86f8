//! The area in which the features of a live tile are searched. If a closed formula leads from the tile to the layer's reference system, it is the
//! tile. Otherwise it is the boxes of the features that a survey of all features has found there.

use std::sync::Arc;
use std::time::Instant;

use super::search::PlacesFound;
use super::shared_work::SharedWork;
use super::snapshot::LiveSnapshot;
use crate::plan::{Dirty, FeatureSearch, ScopePart, batches};
use crate::postgis::{Error, survey};
use crate::tile::{Batch, Coverage, LayerCount, LayerIndex, SearchBox, Slice, TileId, TileRect, Zoom, ZoomList};

/// Why no batch could be made for a tile.
pub(super) enum NoBatch {
    /// The survey of the features failed.
    Failed(Arc<Error>),
    /// The task of the survey died.
    Died,
}

impl LiveSnapshot {
    /// The batch of one tile; `None` if no layer is drawn there.
    ///
    /// # Errors
    /// If the features of a layer cannot be found.
    pub(super) async fn batch(self: &Arc<Self>, tile: TileId) -> Result<Option<Batch>, NoBatch> {
        let one = [tile.coord];
        let made = batches(&one, &self.drawn, std::num::NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area);
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
        let look = self.places.look(layer, zoom, || SharedWork::start(found(Arc::clone(self), layer, zoom)));
        let places = look.done().await.ok_or(NoBatch::Died)?.map_err(NoBatch::Failed)?;
        let zooms = ZoomList::of([zoom]);
        let scope = zooms.map(|zooms| ScopePart { zooms, coverage: Coverage::new(&[]) });
        let mut dirty = Dirty::new(&scope.into_iter().collect::<Vec<_>>(), 1);
        // A single tile is never too many.
        if dirty.mark_tile(tile.coord).is_err() {
            return Ok(SearchBox::Nothing);
        }
        Ok(FeatureSearch::new(&dirty, &self.drawn[layer.0], &places).search(&TileRect::from(tile.coord)))
    }
}

/// Surveys where the features of a layer lie.
async fn found(snapshot: Arc<LiveSnapshot>, layer: LayerIndex, zoom: Zoom) -> PlacesFound {
    let begun = Instant::now();
    let Some(zooms) = ZoomList::of([zoom]) else { return Err(Arc::new(Error::Interrupted)) };
    let looked = survey(&snapshot.snapshot, &snapshot.layers[layer.0], None, &Coverage::new(&[]), &zooms).await;
    snapshot.prepared_for(begun.elapsed());
    looked.map(|seen| Arc::new(seen.places)).map_err(Arc::new)
}
