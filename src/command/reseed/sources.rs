//! The sources of a reseed: sessions, the rows around changed positions, and readers of the tiles that the target holds.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::counts::{CountingWorker, Counts};
use super::patches::patching;
use super::run::{MAX_BATCHES_OF_ONE_SESSION, ReseedRun};
use crate::patch::{Patches, Patching, PositionsInTiles};
use crate::postgis::{Error, PreparedLayer, RunLayers, Worker, with_neighbourhood};
use crate::run::CommandError;
use crate::run::attempts::aside;
use crate::source::{LayerWork, Preparation, preparation};
use crate::tile::LayerIndex;

impl ReseedRun<'_> {
    /// As many workers as the batches need, with their locks. For one or two batches the session that holds the snapshot suffices.
    pub(super) async fn workers(&self, batches: usize) -> Result<Vec<Worker>, CommandError> {
        if batches <= MAX_BATCHES_OF_ONE_SESSION {
            return Ok(vec![self.keeper().await?]);
        }
        let (workers, packing) =
            (self.look.job.settings.run.workers.get().min(batches), self.look.job.settings.run.limits.packing);
        Ok(Worker::open(&self.look.database, &self.look.snapshot, &self.look.locks, packing, workers).await?)
    }

    /// A worker on the session that holds the snapshot.
    async fn keeper(&self) -> Result<Worker, Error> {
        Worker::alone(
            &self.look.database,
            &self.look.snapshot,
            &self.look.locks,
            self.look.job.settings.run.limits.packing,
        )
        .await
    }

    /// The layers, with the rows near changed positions cached if that pays. Meanwhile the workers' sessions load what they need for rendering.
    pub(super) async fn with_neighbourhoods(
        &self,
        workers: &[Worker],
        spots: &PositionsInTiles,
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
        let (layers, warm) = tokio::join!(Box::pin(self.rows_near_changes(&keeper, spots)), warming);
        warm?;
        Ok(layers?)
    }

    /// The layers. If they are points, the rows near changed positions are cached. All cached rows take about `near_rows_memory` at most.
    async fn rows_near_changes(&self, worker: &Worker, spots: &PositionsInTiles) -> Result<Vec<PreparedLayer>, Error> {
        let (mut near, mut memory) = (Vec::new(), self.look.job.settings.run.near_rows_memory);
        for (number, layer) in self.look.layers.iter().enumerate() {
            let mut prepared = PreparedLayer::new(layer);
            let around = spots.neighbourhood(LayerIndex(number), layer.margin().extent);
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

    /// The sources of the workers. Their layers have no cell counts yet.
    pub(super) async fn sources(
        &self,
        workers: Vec<Worker>,
        layers: &Arc<RunLayers>,
        counts: &watch::Receiver<Counts>,
        patches: Option<&Arc<Patches>>,
    ) -> Result<Vec<Patching<CountingWorker>>, CommandError> {
        let counting = |worker| CountingWorker { worker, layers: Arc::clone(layers), counts: Some(counts.clone()) };
        let counting: Vec<CountingWorker> = workers.into_iter().map(counting).collect();
        // Each source has a reader of the target for the tiles to patch.
        let (target, patches) = (self.look.job.target.clone(), patches.cloned());
        aside(move || {
            let each = counting.into_iter().map(|source| patching(source, patches.as_ref(), &target));
            each.collect()
        })
        .await
    }
}
