//! The layers of a reseed, prepared for drawing: with the rows that a watch keeps, with the rows near changes, and with
//! counted cells. If reading the rows of a layer once yields all of its aggregates, every zoom uses the result.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::ReseedRun;
use crate::draw::choice::{CacheCost, LayerWork, Preparation, preparation};
use crate::draw::patch::PositionsInTiles;
use crate::draw::{
    AreProven, COMPARED_TILES, CacheLimits, LiveRows, LiveStep, PreparedLayer, RunLayers, Spill, Worker,
    verify_cached_rows, with_neighbourhood,
};
use crate::plan::batches;
use crate::postgis::split::{estimated_rows, is_table};
use crate::postgis::{Error, ExpectedRows, Layer, Session, Snapshot, counts_cells, foldable, survey};
use crate::report::Event;
use crate::run::CommandError;
use crate::run::dirty::{DirtyTiles, Look, drawn};
use crate::source::{RenderedTile, Source};
use crate::tile::{AreaPart, Batch, Coverage, LayerIndex, LonLatBox, SearchBox, TileCoord, TileRect, Zoom, ZoomList};

/// Below this many dirty tiles the rows of lines and polygons are not cached.
const MIN_TILES_FOR_ALL_ROWS: usize = 200;

/// The most tiles of a zoom whose rows the planner estimates.
const ESTIMATED_TILES: usize = 40;

/// The most boxes that are surveyed one by one. For more, the whole world is surveyed.
const MAX_BOXES: usize = 64;

/// The number of tiles among which those are sought in which kept cells are compared with what the database draws.
const MAX_SAMPLED_TILES: usize = 256;

/// The most cells of a tile that is compared.
const MAX_COMPARED_CELLS: usize = 2_000;

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
    /// Marks the batches that may draw cells which the survey counts, or which are counted from live rows.
    pub(crate) async fn mark_counted_cells(&self, batches: &mut [Batch]) {
        let mut kept = Vec::new();
        for layer in &self.look.layers {
            kept.push(match &self.options.live {
                Some(live) => live.kept.keeps_cells(layer).await,
                None => false,
            });
        }
        for batch in batches {
            let may_be_counted = |(layer, is_kept): (&Arc<Layer>, &bool)| {
                let zooms = batch.areas.iter().map(|area| area.rect.zoom);
                zooms.into_iter().any(|zoom| layer.may_be_counted(zoom) || *is_kept && layer.zooms().contains(zoom))
            };
            let layers = self.look.layers.iter().zip(&kept).zip(&batch.layers);
            batch.needs_cell_counts = layers.into_iter().any(|(layer, count)| count.tiles > 0 && may_be_counted(layer));
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
        let (mut near, mut memory) = (Vec::new(), self.look.run.settings.run.near_rows_memory);
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

    /// The layers. If dirty tiles show most lines and polygons of a layer, all of its rows are cached.
    pub(crate) async fn with_all_rows(
        &self,
        workers: &[Worker],
        layers: Vec<PreparedLayer>,
        tiles: &[TileCoord],
        batches: &[Batch],
    ) -> Result<Vec<PreparedLayer>, CommandError> {
        let Look { run, snapshot, .. } = &self.look;
        let mut read = Vec::new();
        let mut memory = run.rows_memory().saturating_sub(self.live_bytes().await);
        for layer in &layers {
            let mut fresh = PreparedLayer::new(layer.layer());
            let cost = CacheCost { memory, ..cost_of_tiles(snapshot, layer.layer(), tiles).await? };
            if preparation(layer.layer().traits(), &LayerWork::DirtyTiles(cost)) == Preparation::CacheRows {
                run.report.event(&Event::Reading { layer: layer.layer().name().to_owned() });
                let zooms = layer.layer().drawn_zooms(&run.settings.tileset.zooms);
                let (rows, spill) = (ExpectedRows::About(cost.rows), Spill::Rows);
                let limits = CacheLimits { rows, memory, spill, by_key: false };
                fresh = fresh.cache_rows(snapshot, run.readers(workers), &run.coverage(), &zooms, limits).await?;
                memory = memory.saturating_sub(fresh.cached_bytes());
            }
            read.push(fresh);
        }
        if read.iter().any(PreparedLayer::has_cached_rows) {
            read = verify_cached_rows(&self.keeper().await?, read, batches).await?;
        }
        let either =
            layers.into_iter().zip(read).map(|(layer, read)| if read.has_cached_rows() { read } else { layer });
        Ok(either.collect())
    }

    /// The layers, with cell counts if reading the rows once yields all aggregates of the cells that `tiles` show. Rows
    /// that would have been of use are then read beside this run and those after it.
    pub(crate) async fn counted(
        &self,
        layers: &[PreparedLayer],
        tiles: &[TileCoord],
        changed: &DirtyTiles,
    ) -> Result<Vec<PreparedLayer>, Error> {
        let (since, keeper) = (self.look.state.cursor.to_string(), self.keeper().await?);
        let look = self.look.live_step(&since);
        let counted = counted(look, &keeper, self.live_rows(changed), layers, tiles, &changed.row_positions).await;
        if let Some(watched) = &self.options.live {
            watched.begin_reading(&self.look).await;
        }
        counted
    }

    /// The memory that the rows take which the watch keeps, in bytes.
    async fn live_bytes(&self) -> usize {
        match self.options.live.as_deref() {
            Some(live) => live.kept.size().await.1,
            None => 0,
        }
    }

    /// The rows that the watch keeps; `None` if the changed positions of its layers are not known.
    fn live_rows(&self, changed: &DirtyTiles) -> Option<&LiveRows> {
        let live = self.options.live.as_deref().filter(|_| changed.row_positions.len() == self.look.layers.len());
        live.map(|live| &live.kept)
    }

    /// The layers of points with their live rows, where the watch keeps them.
    async fn with_live_rows(&self, changed: &DirtyTiles) -> Result<Vec<Option<PreparedLayer>>, CommandError> {
        let Some((watched, live)) = self.options.live.as_deref().zip(self.live_rows(changed)) else {
            return Ok(Vec::new());
        };
        watched.take_over(&self.look).await?;
        let since = self.look.state.cursor.to_string();
        let look = self.look.live_step(&since);
        let mut layers = Vec::new();
        for (layer, positions) in self.look.layers.iter().zip(&changed.row_positions) {
            let points = live.points(look, layer, positions.as_deref()).await?;
            if points.is_none() {
                live.note_changed(look, layer, positions.as_ref().map_or(0, Vec::len)).await;
            }
            layers.push(points.map(|points| PreparedLayer::new(layer).with_live_points(&points)));
        }
        self.look.snapshot.check_partitions(&self.look.reads).await?;
        watched.offer(&self.look).await;
        Ok(layers)
    }
}

/// The number of a layer's rows, and of the features in some tiles of it, as the planner estimates them; both are 0 if
/// its rows are not those of a table, or if there is no estimate. The memory is not set.
async fn cost_of_tiles(snapshot: &Snapshot, layer: &Layer, tiles: &[TileCoord]) -> Result<CacheCost, Error> {
    let nothing = CacheCost { rows: 0, features: 0, memory: 0 };
    let session = &snapshot.keeper;
    let are_suited = layer.traits().has_cacheable_shapes && layer.is_found_by_area();
    if tiles.len() < MIN_TILES_FOR_ALL_ROWS || !are_suited || !is_table(session, layer).await? {
        return Ok(nothing);
    }
    session.set_savepoint().await?;
    let estimated = estimated_cost(session, layer, tiles).await;
    let instead = "its rows are not read once, as their number cannot be estimated";
    Ok(session.or_without(estimated, &layer.name, instead).await?.unwrap_or(nothing))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, and never negative")]
async fn estimated_cost(session: &Session, layer: &Layer, tiles: &[TileCoord]) -> Result<CacheCost, Error> {
    let mut by_zoom: BTreeMap<Zoom, Vec<TileCoord>> = BTreeMap::new();
    for tile in tiles.iter().filter(|tile| layer.zooms().contains(tile.zoom())) {
        by_zoom.entry(tile.zoom()).or_default().push(*tile);
    }
    let mut features = 0.0;
    for of_zoom in by_zoom.values() {
        let step = of_zoom.len().div_ceil(ESTIMATED_TILES);
        let sampled: Vec<TileCoord> = of_zoom.iter().step_by(step).copied().collect();
        let mut found = 0.0;
        for tile in &sampled {
            found += estimated_rows(session, layer, Some(*tile)).await?;
        }
        features += found / sampled.len() as f64 * of_zoom.len() as f64;
    }
    let rows = estimated_rows(session, layer, None).await?;
    Ok(CacheCost { rows: rows as u64, features: features as u64, memory: 0 })
}

/// The layers with cell counts, taken from live rows where these are kept.
async fn counted(
    look: LiveStep<'_>,
    keeper: &Worker,
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
        let shown = |is: &dyn Fn(Zoom) -> bool| -> Vec<TileCoord> {
            tiles.iter().copied().filter(|tile| layer.zooms().contains(tile.zoom()) && is(tile.zoom())).collect()
        };
        let (all, few) = (shown(&|_zoom| layer.grid().is_some()), shown(&|zoom| layer.may_be_counted(zoom)));
        if few.is_empty() && (all.is_empty() || live.is_none()) {
            counted.push(prepared.clone());
            continue;
        }
        let folds = foldable(snapshot, layer).await?;
        if !counts_cells(layer, folds.as_deref()) {
            counted.push(prepared.clone().with_cells(folds, None));
            continue;
        }
        if let Some(live) = live
            && let Some(kept) = live.counts(look, layer, folds.as_deref(), &rects(&all)).await?
        {
            let prepared = prepared.clone().with_cells(folds, Some(kept));
            counted.push(with_live_cells(look, keeper, live, prepared, &all).await?);
            continue;
        }
        let counts = match ZoomList::of(few.iter().map(|tile| tile.zoom())) {
            Some(zooms) => survey(snapshot, layer, folds.as_deref(), &around(&few), &zooms).await?.counted,
            None => None,
        };
        counted.push(prepared.clone().with_cells(folds, counts));
    }
    Ok(counted)
}

/// Tiles that show cells, and rows that are alone in theirs if there are such.
fn sample(prepared: &PreparedLayer, shown: &[TileCoord]) -> Vec<TileCoord> {
    let (Some(grid), Some(counts)) = (prepared.layer().grid(), prepared.counts()) else { return Vec::new() };
    let mut tiles = Vec::new();
    for tile in shown.iter().step_by(shown.len().div_ceil(MAX_SAMPLED_TILES)) {
        let (rect, margin) = (TileRect::from(*tile), prepared.layer().margin().units(tile.zoom()));
        let members: Vec<u64> = counts.near(&grid, &rect, margin, 0).map(|(cell, _)| cell.members).collect();
        let alone = members.iter().filter(|members| **members == 1).count();
        let kinds = usize::from(alone > 0) + usize::from(alone < members.len());
        if (1..=MAX_COMPARED_CELLS).contains(&members.len()) {
            tiles.push((Reverse(kinds), *tile));
        }
    }
    tiles.sort_by_key(|(kinds, _)| *kinds);
    tiles.into_iter().take(COMPARED_TILES).map(|(_, tile)| tile).collect()
}

fn rects(tiles: &[TileCoord]) -> Vec<TileRect> {
    tiles.iter().copied().map(TileRect::from).collect()
}

/// A layer whose cells were counted from live rows, with the cells that it keeps encoded. Before these are used for the
/// first time, some of the tiles that show them are compared with what the database draws.
async fn with_live_cells(
    look: LiveStep<'_>,
    keeper: &Worker,
    live: &LiveRows,
    prepared: PreparedLayer,
    shown: &[TileCoord],
) -> Result<PreparedLayer, Error> {
    let (prepared, are_proven) = live.with_cells(look, prepared, &rects(shown)).await?;
    if are_proven == AreProven::Yes || !prepared.has_cached_rows() {
        return Ok(prepared);
    }
    let layer = Arc::clone(prepared.layer());
    let sample = sample(&prepared, shown);
    let of_tile = |tile: &TileCoord| {
        batches(&[*tile], &[drawn(&layer)], NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area)
    };
    let batches: Vec<Batch> = sample.iter().flat_map(of_tile).collect();
    if batches.is_empty() {
        return Ok(prepared);
    }
    let compared = verify_cached_rows(keeper, vec![prepared], &batches).await?;
    live.note_compared(&layer, compared.iter().all(PreparedLayer::has_cached_rows)).await;
    Ok(compared.into_iter().next().unwrap_or_else(|| PreparedLayer::new(&layer)))
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
