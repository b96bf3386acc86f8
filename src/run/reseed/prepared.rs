//! The layers of a reseed, prepared for drawing: with the rows that a watch keeps, with the rows near changes, and with
//! counted cells. If reading the rows of a layer once yields all of its aggregates, every zoom uses the result.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::ReseedRun;
use super::watched_rows::WatchedRows;
use crate::draw::choice::{LayerWork, Preparation, preparation};
use crate::draw::patch::PositionsInTiles;
use crate::draw::{LiveLook, LiveRows, PreparedLayer, RunLayers, Worker, with_neighbourhood};
use crate::postgis::{Error, Layer, counts_cells, foldable, survey};
use crate::run::CommandError;
use crate::run::dirty::DirtyTiles;
use crate::source::{RenderedTile, Source};
use crate::tile::{AreaPart, Batch, Coverage, LayerCount, LayerIndex, LonLatBox, TileCoord, TileRect, ZoomList};

/// The most boxes that are surveyed one by one. For more, the whole world is surveyed.
const MAX_BOXES: usize = 64;

#[derive(Clone)]
pub(crate) enum Counts {
    /// The cells are being counted.
    Waiting,
    Known(Arc<RunLayers>),
    /// Counting has failed. The task that counts returns the error.
    Failed,
}

/// A worker that waits for the cell counts, but only for batches that need them.
pub(crate) struct CountingWorker {
    pub(crate) worker: Worker,
    /// The layers: without cell counts at first, with them once a batch has needed them.
    pub(crate) layers: Arc<RunLayers>,
    /// `None` once `layers` have the counts.
    pub(crate) counts: Option<watch::Receiver<Counts>>,
}

impl Source for CountingWorker {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        if let Some(counts) = self.counts.as_mut().filter(|_| batch.needs_cell_counts) {
            let known = counts.wait_for(|counts| !matches!(counts, Counts::Waiting)).await;
            match known.as_deref() {
                Ok(Counts::Known(layers)) => self.layers = Arc::clone(layers),
                _ => return Err(Error::Interrupted),
            }
            drop(known);
            self.counts = None;
        }
        self.worker.render(&self.layers, batch).await
    }
}

impl ReseedRun<'_> {
    /// Marks the batches that may draw cells which the survey counts.
    pub(crate) fn mark_counted_cells(&self, batches: &mut [Batch]) {
        for batch in batches {
            let (layers, counts) = (self.look.layers.iter(), batch.layers.iter());
            let may_be_counted = |layer: &Layer| batch.areas.iter().any(|area| layer.may_be_counted(area.rect.zoom));
            let waits = |(layer, count): (&Arc<Layer>, &LayerCount)| count.tiles > 0 && may_be_counted(layer);
            batch.needs_cell_counts = layers.zip(counts).any(waits);
        }
    }

    /// The layers, with the rows near changed positions cached if that pays. Meanwhile the workers' sessions load what
    /// they need for rendering.
    pub(crate) async fn with_neighbourhoods(
        &self,
        workers: &[Worker],
        spots: &PositionsInTiles,
        changed: &DirtyTiles,
    ) -> Result<Vec<PreparedLayer>, CommandError> {
        let keeper = self.keeper().await?;
        let warming = async {
            match self.look.layers.first() {
                Some(layer) if workers.len() > 1 => {
                    try_join_all(workers.iter().map(|worker| worker.warm(layer))).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        if self.live_rows(changed).is_none() {
            let (layers, warm) = tokio::join!(Box::pin(self.rows_near_changes(&keeper, spots, Vec::new())), warming);
            warm?;
            return Ok(layers?);
        }
        let live = Box::pin(self.with_live_rows(changed));
        let (live, warm) = tokio::join!(live, warming);
        warm?;
        Ok(Box::pin(self.rows_near_changes(&keeper, spots, live?)).await?)
    }

    /// The layers. If they are points, the rows near changed positions are cached. All cached rows take about
    /// `near_rows_memory` at most.
    async fn rows_near_changes(
        &self,
        worker: &Worker,
        spots: &PositionsInTiles,
        live: Vec<Option<PreparedLayer>>,
    ) -> Result<Vec<PreparedLayer>, Error> {
        let (mut near, mut memory) = (Vec::new(), self.look.job.settings.run.near_rows_memory);
        let mut live = live.into_iter();
        for (number, layer) in self.look.layers.iter().enumerate() {
            if let Some(live) = live.next().flatten() {
                near.push(live);
                continue;
            }
            let mut prepared = PreparedLayer::new(layer);
            let around = spots.neighbourhood(LayerIndex(number), layer.margin());
            let work = LayerWork::Reseed { knows_positions: around.is_some(), memory };
            if preparation(layer.traits(), &work) == Preparation::CacheNeighbourhood
                && let Some(around) = around
            {
                prepared = with_neighbourhood(&prepared, worker, &around, memory).await?;
                memory = memory.saturating_sub(prepared.cached_bytes());
            }
            near.push(prepared);
        }
        Ok(near)
    }

    /// The layers, with cell counts if reading the rows once yields all aggregates of the cells that `tiles` show.
    pub(crate) async fn counted(
        &self,
        layers: &[PreparedLayer],
        tiles: &[TileCoord],
        changed: &DirtyTiles,
    ) -> Result<Vec<PreparedLayer>, Error> {
        let since = self.look.state.cursor.to_string();
        counted(self.live_look(&since), self.live_rows(changed), layers, tiles, &changed.row_positions).await
    }

    /// Where this run stands for live rows. The target shows the state `since`.
    fn live_look<'s>(&'s self, since: &'s str) -> LiveLook<'s> {
        let (snapshot, memory) = (&*self.look.snapshot, self.look.job.rows_memory());
        LiveLook { snapshot, since, now: snapshot.cursor(), memory }
    }

    /// The rows that the watch keeps; `None` if the changed positions of its layers are not known.
    fn live_rows(&self, changed: &DirtyTiles) -> Option<&LiveRows> {
        let live = self.options.live.as_deref().filter(|_| changed.row_positions.len() == self.look.layers.len());
        live.map(WatchedRows::kept)
    }

    /// The layers of points with their live rows, where the watch keeps them. Rows that would be of use are read beside
    /// this run and those after it.
    async fn with_live_rows(&self, changed: &DirtyTiles) -> Result<Vec<Option<PreparedLayer>>, CommandError> {
        let Some((watched, live)) = self.options.live.as_deref().zip(self.live_rows(changed)) else {
            return Ok(Vec::new());
        };
        watched.take_over(&self.look).await?;
        let since = self.look.state.cursor.to_string();
        let look = self.live_look(&since);
        let mut layers = Vec::new();
        for (layer, positions) in self.look.layers.iter().zip(&changed.row_positions) {
            let points = live.points(look, layer, positions.as_deref()).await?;
            if points.is_none() {
                live.note_changed(look, layer, positions.as_ref().map_or(0, Vec::len)).await;
            }
            layers.push(points.map(|points| PreparedLayer::new(layer).with_live_points(&points)));
        }
        watched.begin_reading(&self.look).await;
        Ok(layers)
    }
}

/// The layers with cell counts, taken from live rows where these are kept.
async fn counted(
    look: LiveLook<'_>,
    live: Option<&LiveRows>,
    layers: &[PreparedLayer],
    tiles: &[TileCoord],
    positions: &[Option<Vec<[f64; 2]>>],
) -> Result<Vec<PreparedLayer>, Error> {
    let (mut counted, snapshot) = (Vec::new(), look.snapshot);
    for (number, prepared) in layers.iter().enumerate() {
        let layer = prepared.layer();
        if let Some(live) = live {
            live.bring(look, layer, positions[number].as_deref()).await?;
        }
        let shown: Vec<TileCoord> = tiles.iter().copied().filter(|tile| layer.may_be_counted(tile.zoom())).collect();
        let Some(zooms) = ZoomList::of(shown.iter().map(|tile| tile.zoom())) else {
            counted.push(prepared.clone());
            continue;
        };
        let folds = foldable(snapshot, layer).await?;
        let kept = match live {
            Some(live) if counts_cells(layer, folds.as_deref()) => {
                live.counts(look, layer, folds.as_deref(), &shown).await?
            }
            _ => None,
        };
        let counts = match kept {
            Some(kept) => Some(kept),
            None if counts_cells(layer, folds.as_deref()) => {
                survey(snapshot, layer, folds.as_deref(), &around(&shown), &zooms).await?.counted
            }
            None => None,
        };
        counted.push(prepared.clone().with_cells(folds, counts));
    }
    Ok(counted)
}

/// The part of the world that the tiles cover.
fn around(tiles: &[TileCoord]) -> Coverage {
    let mut outer: Vec<TileRect> = Vec::new();
    let mut sorted = tiles.to_vec();
    sorted.sort_unstable_by_key(|tile| tile.zoom());
    for tile in sorted {
        let corner = TileRect::from(tile).world(0);
        let holds = |rect: &TileRect| {
            let sides = rect.world(0);
            (sides.west..sides.east).contains(&corner.west) && (sides.north..sides.south).contains(&corner.north)
        };
        if !outer.iter().any(holds) {
            outer.push(TileRect::from(tile));
        }
        if outer.len() > MAX_BOXES {
            return Coverage::new(&[]);
        }
    }
    let boxes: Vec<AreaPart> = outer.into_iter().map(|rect| LonLatBox::from(rect).into()).collect();
    Coverage::new(&boxes)
}
