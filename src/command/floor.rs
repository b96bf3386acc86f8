//! The database's share of a seed, for the benchmark: runs the statements with which the database renders every planned tile, on as many sessions
//! as a seed has, and discards the results. The rest of a seed's time is spent by the program itself. A seed may also be faster, because it reads
//! points once.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::postgis::RunLayers;
use crate::run::prepare::prepare;
use crate::run::{CommandError, Job};
use crate::tile::{Batch, Order};

/// What was measured.
#[derive(Debug, serde::Serialize)]
pub struct Floor {
    /// Seconds for the snapshot, the survey and the plan.
    pub plan_seconds: f64,
    /// Seconds for the statements of all batches.
    pub render_seconds: f64,
    /// Tiles planned.
    pub tiles: u64,
    /// Pairs of a feature and a tile.
    pub features: u64,
}

/// Runs every statement of a seed and discards the results.
///
/// # Errors
/// The errors of a seed.
pub async fn floor(job: &Job) -> Result<Floor, CommandError> {
    let mut prepared = prepare(job, Order::ZoomColumnTmsRow, job.settings.run.workers.get()).await?;
    let batches: Vec<Batch> = prepared.zooms.iter_mut().flat_map(|zoom| std::mem::take(&mut zoom.batches)).collect();
    let tiles = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();
    let features = prepared.zooms.iter().map(|zoom| zoom.features).sum();
    let begun = Instant::now();
    let queue = Arc::new(Mutex::new(batches.into_iter()));
    let mut tasks = tokio::task::JoinSet::new();
    let layers = RunLayers::new(&prepared.surveyed);
    for worker in std::mem::take(&mut prepared.workers) {
        let (queue, layers) = (Arc::clone(&queue), Arc::clone(&layers));
        tasks.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some(batch) = next else { return Ok(()) };
                worker.discard(&layers, &batch).await?;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap_or_else(|error| Err(CommandError::Died(error.to_string())))?;
    }
    Ok(Floor {
        plan_seconds: prepared.took.as_secs_f64(),
        render_seconds: begun.elapsed().as_secs_f64(),
        tiles,
        features,
    })
}
