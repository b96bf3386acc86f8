//! `oar-tiles seed --dry-run`: the plan, with sizes and times estimated from one batch of each zoom.

use std::time::Instant;

use crate::encode::Packer;
use crate::plan::ZoomPlan;
use crate::postgis::{PreparedLayer, RunLayers, Worker};
use crate::report::{PlanReport, PlanZoom};
use crate::run::describe::vanishing;
use crate::run::prepare::{prepare, with_cached_rows};
use crate::run::{CommandError, Job};
use crate::tile::{Batch, Order};

/// Plans and samples; writes nothing.
pub(super) async fn dry_run(job: &Job) -> Result<PlanReport, CommandError> {
    let Job { settings, report, .. } = job;
    let mut prepared = prepare(job, Order::ZoomColumnTmsRow, 1).await?;
    prepared.warn(vanishing(settings), report);
    let thinned = std::mem::take(&mut prepared.thinned);
    prepared.warn(thinned, report);
    let reading = Instant::now();
    let batches: Vec<&Batch> = prepared.zooms.iter().flat_map(|zoom| &zoom.batches).collect();
    let layers = with_cached_rows(&prepared, &batches, job).await?;
    let has_cached_rows = layers.iter().any(PreparedLayer::has_cached_rows);
    let layers = RunLayers::new(&layers);
    let mut workers = std::mem::take(&mut prepared.workers);
    let reading_seconds = if has_cached_rows { reading.elapsed().as_secs_f64() } else { 0.0 };
    let mut packer = Packer::new(settings.run.limits.packing);
    let mut zooms = Vec::new();
    for plan in &prepared.zooms {
        let (bytes, seconds) = match sample(plan).zip(workers.first_mut()) {
            Some((batch, worker)) => measure(batch, plan, worker, &layers, &mut packer).await?,
            None => (0.0, 0.0),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an estimate, and never negative"
        )]
        zooms.push(PlanZoom {
            zoom: plan.zoom.get(),
            tiles: plan.tiles,
            features: plan.features,
            batches: plan.batches.len() as u64,
            heaviest: plan.heaviest.clone(),
            estimated_bytes: bytes as u64,
            // A zoom with fewer batches than workers keeps only that many workers busy.
            estimated_seconds: seconds / settings.run.workers.get().min(plan.batches.len().max(1)) as f64,
        });
    }
    prepared.snapshot.check_partitions(&prepared.reads).await?;
    let workers = settings.run.workers.get();
    Ok(PlanReport { zooms, reading_seconds, workers, skipped: prepared.skipped, warnings: prepared.warnings })
}

/// The batch of median size, which is neither the one with a huge tile nor the remainder.
fn sample(plan: &ZoomPlan) -> Option<&Batch> {
    let mut batches: Vec<&Batch> = plan.batches.iter().collect();
    batches.sort_by_key(|batch| batch.features());
    batches.get(batches.len() / 2).copied()
}

/// Stored bytes and worker seconds of a zoom, extrapolated from one of its batches.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
async fn measure(
    batch: &Batch,
    plan: &ZoomPlan,
    worker: &mut Worker,
    layers: &RunLayers,
    packer: &mut Packer,
) -> Result<(f64, f64), CommandError> {
    let begun = Instant::now();
    let mut bytes = 0;
    for tile in worker.render(layers, batch).await?.iter().filter(|tile| !tile.mvt.is_empty()) {
        bytes += packer.pack(&tile.mvt).map_err(|error| CommandError::Pipeline(error.to_string()))?.len();
    }
    let scale = plan.features as f64 / batch.features().max(1) as f64;
    Ok((bytes as f64 * scale, begun.elapsed().as_secs_f64() * scale))
}
