//! Renders the planned tiles of a run and hands them to a sink.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::family::FamilyCachePart;
use super::prepare::{Prepared, cache_rows_where_it_pays};
use super::{CommandError, TilesetRun};
use crate::draw::{PreparedLayer, Renderer, RunLayers, WorkOnRows, verify_cached_rows};
use crate::pipeline;
use crate::pipeline::{BatchKind, BatchTurns, Limits, PipelineError, PipelineOutcome, StoredBatch};
use crate::postgis;
use crate::postgis::{Reads, Snapshot};
use crate::report::{Event, Report};
use crate::source::Source;
use crate::target::Sink;
use crate::tile::Batch;

/// A target that holds every tile of a seed, but not its manifest yet.
pub(crate) struct Rendered<S> {
    pub(crate) sink: S,
    pub(crate) outcome: PipelineOutcome,
    /// How long reading rows into memory took.
    pub(crate) reading: Duration,
    /// The most sessions that read the rows of one layer in parallel; 0 if no rows were read.
    pub(crate) reading_sessions: usize,
    /// How long rendering and storing took.
    pub(crate) rendering: Duration,
    pub(crate) workers: usize,
    pub(crate) from_rows: WorkOnRows,
}

/// The memory of a feature that is rendered and not stored yet, in bytes: what drawing it takes, its bytes in an
/// uncompressed tile, and those in a compressed one.
const FEATURE_IN_FLIGHT: u64 = 400;

/// Renders every planned tile and hands it to the sink. Memory that cached rows do not need is used for heavy tiles.
pub(crate) async fn render<S>(
    run: &TilesetRun,
    prepared: &mut Prepared,
    sink: S,
    planned: u64,
) -> Result<Rendered<S>, CommandError>
where
    S: Sink + 'static,
    CommandError: From<S::Error>,
{
    let batches = prepared.take_batches();
    let features = prepared.zooms.iter().map(|zoom| zoom.features).sum();
    let mut workers = std::mem::take(&mut prepared.workers);
    workers.truncate(batches.len());
    let begun = Instant::now();
    let mut layers = cache_rows_where_it_pays(prepared, &batches.iter().collect::<Vec<_>>(), run, &workers).await?;
    if let Some(first) = workers.first() {
        layers = verify_cached_rows(first, layers, &batches).await?;
    }
    let cached: usize = layers.iter().map(PreparedLayer::cached_bytes).sum();
    let reading_sessions = layers.iter().map(PreparedLayer::reading_sessions).max().unwrap_or_default();
    let spare = run.rows_memory().saturating_sub(cached) as u64 / FEATURE_IN_FLIGHT;
    let limits = run.settings.run.limits;
    let limits = Limits { features: limits.features.max(NonZeroU64::new(spare).unwrap_or(NonZeroU64::MIN)), ..limits };
    let layers = RunLayers::new(&layers);
    let renderers: Vec<Renderer> = workers.into_iter().map(|worker| Renderer::new(worker, &layers)).collect();
    let (reading, workers) = (begun.elapsed(), renderers.len());
    run.report.event(&Event::Planned { tiles: planned, features, batches: batches.len() as u64 });

    let begun = Instant::now();
    let ran = render_batches(run, batches, renderers, sink, limits, run.turns(BatchKind::Seed)).await;
    let (sink, outcome) = unless_outdated(run, ran, &prepared.snapshot, &prepared.reads).await?;
    let (rendering, from_rows) = (begun.elapsed(), layers.work_on_rows());
    Ok(Rendered { sink, outcome, reading, reading_sessions, rendering, workers, from_rows })
}

/// The most features, in all tiles together, of a variant that a single thread draws.
const MAX_FEATURES_HERE: u64 = 500_000;

/// Does what [`render`] does, but from the rows of a family, which were all read before.
pub(crate) async fn render_from_cache<S>(
    run: &TilesetRun,
    cache: &FamilyCachePart,
    prepared: &mut Prepared,
    sink: S,
) -> Result<Rendered<S>, CommandError>
where
    S: Sink + 'static,
    CommandError: From<S::Error>,
{
    let (begun, batches) = (Instant::now(), prepared.take_batches());
    let mut sources = cache.sources(run, &prepared.surveyed, sink.needs());
    sources.truncate(batches.len());
    let features: u64 = batches.iter().map(Batch::features).sum();
    let limits = run.settings.run.limits;
    let (workers, ran) = match sources.pop() {
        // Other variants are seeded in parallel.
        Some(source) if features <= MAX_FEATURES_HERE => {
            let render = move |batch: &Batch| source.render_here(batch);
            let stored = stored_events(&run.report);
            let work = move || pipeline::run_here(&batches, render, sink, limits.packing, stored);
            (1, spawn_blocking(work).await?.map_err(pipeline_error))
        }
        last => {
            sources.extend(last);
            (sources.len(), render_batches(run, batches, sources, sink, limits, None).await)
        }
    };
    let (sink, outcome) = ran?;
    run.stop.check()?;
    let rendering = begun.elapsed();
    let (reading, from_rows) = (Duration::ZERO, WorkOnRows::default());
    Ok(Rendered { sink, outcome, reading, reading_sessions: 0, rendering, workers, from_rows })
}

/// Renders the batches and hands the tiles to the sink.
pub(crate) async fn render_batches<R, S>(
    run: &TilesetRun,
    batches: Vec<Batch>,
    sources: Vec<R>,
    sink: S,
    limits: Limits,
    turns: Option<BatchTurns>,
) -> Result<(S, PipelineOutcome), CommandError>
where
    R: Source<Error = postgis::Error> + 'static,
    S: Sink + 'static,
    CommandError: From<S::Error>,
{
    pipeline::run(batches, sources, sink, limits, turns, stored_events(&run.report)).await.map_err(pipeline_error)
}

/// Returns `ran`, unless the tables that the run has read have changed, or a stop was asked for after the last batch.
pub(crate) async fn unless_outdated<T>(
    run: &TilesetRun,
    ran: Result<T, CommandError>,
    snapshot: &Snapshot,
    reads: &Reads,
) -> Result<T, CommandError> {
    let ran = check_tables_unchanged(ran, snapshot, reads).await?;
    run.stop.check()?;
    Ok(ran)
}

/// Returns `ran` if the tables that the run has read are still the same as at its beginning. Otherwise their change is
/// the cause of a failure.
pub(crate) async fn check_tables_unchanged<T>(
    ran: Result<T, CommandError>,
    snapshot: &Snapshot,
    reads: &Reads,
) -> Result<T, CommandError> {
    match &ran {
        Err(CommandError::Database(error)) if error.is_miscounted() => {}
        Err(_) => return ran,
        Ok(_) => {}
    }
    snapshot.check_partitions(reads).await?;
    ran
}

fn stored_events(report: &Arc<dyn Report>) -> impl Fn(&StoredBatch) + Send + 'static {
    let report = Arc::clone(report);
    move |stored| {
        report.event(&Event::Stored {
            zoom: stored.zoom,
            tiles: stored.written.total(),
            features: stored.planned_features,
            bytes: stored.bytes,
        });
    }
}

/// Errors keep their kind, so that a lost database can be told from a defect.
fn pipeline_error<E>(error: PipelineError<postgis::Error, E>) -> CommandError
where
    E: std::error::Error,
    CommandError: From<E>,
{
    match error {
        PipelineError::Source(error) => error.into(),
        PipelineError::Sink(error) => error.into(),
        other => CommandError::Incomplete(other.to_string()),
    }
}
