//! A seed from top to bottom: claim the target, plan, render, store, write the manifest last.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;

use super::describe::{LogIdentity, database, fingerprint, leaves_parts, names, seeded_scope};
use super::family::FamilyCachePart;
use super::finish::{FinishedRun, Provenance, SeedFigures, StoredRun, StoredTiles};
use super::layer_ends::layers_that_end_early;
use super::prepare::{Prepared, prepare_refreshed, with_cached_rows};
use super::rows::{KnownRows, RowsJudge};
use super::target::{AnySink, OpenedSink, Target, TilesBefore, TilesetNames, refuse_other};
use super::{CommandError, Job, RowSource, interrupted, restarting, with_what_remains};
use crate::draw::{PreparedLayer, Renderer, RunLayers, verify_cached_rows};
use crate::manifest::{Manifest, Publication, RowCounts, publication_of, row_counts_of};
use crate::pipeline;
use crate::pipeline::{BatchKind, BatchTurns, Limits, PipelineError, PipelineOutcome, StoredBatch};
use crate::postgis;
use crate::postgis::{Layer, LayerKind, Reads, Snapshot};
use crate::report::{Event, PlanReport, Report, RunReport, RunStages, RunZoom};
use crate::run::describe;
use crate::source::Source;
use crate::target::{Described, OpenMode, RunKind, Sink, Tileset, Unwritten};
use crate::tile::{Batch, Scope, area_texts};

/// Seeds the job's target; starts over on a new snapshot after failures for which that helps.
pub(crate) async fn seed_target(job: &Job) -> Result<RunReport, CommandError> {
    let attempt = async |restarts| Box::pin(attempt(job, restarts)).await.inspect_err(|_error| job.release_snapshot());
    let Job { settings, report, stop, .. } = job;
    restarting(&settings.database, report, stop, attempt).await.map_err(|error| with_what_remains(error, &job.target))
}

/// Seeds the job's target once, on the snapshot of its family.
pub(crate) async fn seed_once(job: &Job) -> Result<RunReport, CommandError> {
    Box::pin(attempt(job, 0)).await.map_err(|error| with_what_remains(interrupted(error, &job.stop), &job.target))
}

/// One whole seed on one snapshot.
async fn attempt(job: &Job, restarts: u32) -> Result<RunReport, CommandError> {
    let started = SystemTime::now();
    // The target is opened first: an hour of work must not end because a folder is missing.
    let claimed = claim(job).await?;
    let order = claimed.sink.needs().order;
    let schema = &job.settings.database.changes.schema;
    let (mut prepared, log, cache) = match &job.rows {
        RowSource::FamilyCache(cache) => (cache.prepared(job, order).await?, cache.log(), Some(cache)),
        RowSource::FamilySession(session) => (session.prepared(job, order).await?, session.log(), None),
        RowSource::OwnSnapshot | RowSource::SharedSnapshot(_) => {
            let prepared = prepare_refreshed(job, order, job.settings.run.workers.get()).await?;
            let log = LogIdentity::read(&prepared.snapshot, schema, [prepared.snapshot.cursor()]).await?;
            (prepared, log, None)
        }
    };
    // One of thousands of variants reports the warnings for all.
    let warns = cache.is_none_or(|cache| cache.variant.unwrap_or_default() == 0);
    if warns {
        prepared.warn(layers_that_end_early(&job.settings), &job.report);
    }
    let cursor = prepared.snapshot.cursor().to_owned();
    let known: Vec<KnownRows> = prepared.rows.iter().map(|rows| KnownRows::of_survey(*rows)).collect();
    // The survey has counted what there is.
    let rows = judge_rows(job, &prepared.layers, claimed.described.as_ref(), &known, async |_layer| Ok(None)).await?;
    let planned = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();
    let seed = PlannedSeed {
        job,
        fingerprint: fingerprint(&job.settings, &prepared.layers),
        layers: prepared.layers.clone(),
        provenance: Provenance {
            database: log.as_ref().map(|log| log.mark(&prepared.server.identity)),
            witness: log.as_ref().and_then(|log| log.witness(&cursor)).cloned(),
            reads: prepared.reads.digest.clone(),
            rows,
            started,
            publication: Publication::after(claimed.before.as_ref()),
        },
        cursor,
        planned,
    };
    let (sink, begun_seed) = seed.begin(claimed).await?;
    if warns {
        prepared.warn(relative(&sink, &job.target).into_iter().collect(), &job.report);
    }
    let rendered = match cache {
        Some(cache) => render_from_cache(job, cache, &mut prepared, sink).await?,
        None => Box::pin(render(job, &mut prepared, sink, planned)).await?,
    };
    let Rendered { sink, outcome, reading, reading_sessions, rendering, workers, drawing } = rendered;
    let names = names(&prepared.layers);
    let tiles = StoredTiles {
        written: outcome.written,
        record: describe::record(&outcome, &names),
        bounds: prepared.bounds,
        warnings: prepared.warnings,
    };
    let finished = begun_seed.finish(sink, planned, tiles).await?;
    Ok(finished.seed_report(SeedFigures {
        bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
        plan_seconds: (prepared.took + reading).as_secs_f64(),
        reading_seconds: reading.as_secs_f64(),
        reading_sessions,
        render_seconds: rendering.as_secs_f64(),
        stages: RunStages::new(&outcome.stages, drawing, rendering, workers),
        restarts,
        zooms: zooms(&outcome, &names),
        slowest: outcome.slowest,
        skipped: prepared.skipped,
    }))
}

/// Refuses a seed that would lose too many rows of a layer; otherwise returns the numbers for its manifest. `described`
/// is what the target says about itself. See [`RowsJudge::judge`] for `known` and `count`.
pub(crate) async fn judge_rows(
    job: &Job,
    layers: &[Arc<Layer>],
    described: Option<&Described>,
    known: &[KnownRows],
    count: impl AsyncFnMut(usize) -> Result<Option<u64>, CommandError>,
) -> Result<Option<RowCounts>, CommandError> {
    let before = described.and_then(|before| row_counts_of(before.manifest.as_deref()?));
    let tileset = &job.settings.tileset;
    let bbox = area_texts(&tileset.bbox);
    if let (Some(described), Some(rows)) = (described, &before)
        && rows.bbox != bbox
        && leaves_parts(&job.settings, described)
    {
        // The rows in these boxes cannot be compared with those of the target's other parts, which stay.
        return Ok(before);
    }
    let (target, max, zooms) = (&job.target, tileset.max_shrink, &tileset.zooms);
    RowsJudge { target, max, layers, zooms, bbox, before: before.as_ref() }.judge(known, count).await.map(Some)
}

/// A target that was found to be this tileset's.
pub(crate) struct Claimed {
    pub(crate) sink: OpenedSink,
    pub(crate) before: Option<Publication>,
    /// What it says about itself, if this program wrote it.
    pub(crate) described: Option<Described>,
}

/// Opens the target for this run; refuses a target of another tileset.
pub(crate) async fn claim(job: &Job) -> Result<Claimed, CommandError> {
    let (target, tileset) = (job.target.clone(), &job.settings.tileset);
    let names = TilesetNames {
        name: tileset.name.clone(),
        layers: tileset.layers.iter().map(|layer| layer.name.clone()).collect(),
        may_have_more: tileset.layers.iter().any(|layer| matches!(layer.kind, LayerKind::Function(_))),
    };
    spawn_blocking(move || {
        let mut sink = target.sink(OpenMode::Replace)?;
        sink.claim()?;
        let described = refuse_other(&target, &names)?;
        let before = described.as_ref().and_then(|before| publication_of(before.manifest.as_deref()?));
        Ok(Claimed { sink, before, described })
    })
    .await?
}

pub(crate) struct PlannedSeed<'a> {
    pub(crate) job: &'a Job,
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) fingerprint: String,
    /// The snapshot that its tiles show.
    pub(crate) cursor: String,
    pub(crate) provenance: Provenance,
    /// The number of tiles, or an upper bound of it.
    pub(crate) planned: u64,
}

/// A seed that has begun to write its target.
pub(crate) struct BegunSeed<'a> {
    seed: PlannedSeed<'a>,
    /// The target's description of itself before the run.
    before: Option<Described>,
    tiles_before: TilesBefore,
    /// The number of tiles that the target holds outside of the run's scope.
    outside: u64,
}

impl<'a> PlannedSeed<'a> {
    /// Begins to write the target. Refuses to if the plan alone shows that too few of the target's tiles would be left.
    pub(crate) async fn begin(self, claimed: Claimed) -> Result<(AnySink, BegunSeed<'a>), CommandError> {
        let PlannedSeed { job, planned, provenance, .. } = &self;
        let (tileset, planned) = (&job.settings.tileset, *planned);
        let (target, max_shrink) = (job.target.clone(), tileset.max_shrink);
        let partial = spawn_blocking(move || target.partial()).await??;
        let tileset = Tileset {
            fingerprint: self.fingerprint.clone(),
            layers: names(&self.layers),
            scope: tileset.scope(),
            partial,
            unwritten: Unwritten::Delete,
            list_changes: job.changed_out.is_wanted() || !tileset.purges.is_empty(),
            dirty: None,
            before_manifest: job.target.before_manifest(claimed.before.as_ref(), &provenance.publication)?,
            run: RunKind::Seed {
                database: database(provenance.database.as_ref(), Some(&provenance.reads)),
                snapshot: self.cursor.clone(),
            },
        };
        let sink = claimed.sink;
        let slices = if sink.needs().layers_apart { tileset.layers.len() as u64 } else { 1 };
        let (target, report, settings) = (job.target.clone(), Arc::clone(&job.report), job.settings.clone());
        let begun = spawn_blocking(move || {
            let (sink, before) = sink.begin(&tileset)?;
            let scope = tileset.scope.clone();
            let mut tiles_before = TilesBefore::of(&target, tileset.scope, max_shrink, sink.held())?;
            // The plan is an upper bound: the seed cannot leave more tiles than it names.
            tiles_before.judge(planned.saturating_mul(slices), &report)?;
            let is_left = before.as_ref().is_some_and(|before| leaves_parts(&settings, before));
            let outside = if is_left { tiles_outside(&target, &scope)? } else { 0 };
            Ok::<_, CommandError>((sink, before, tiles_before, outside))
        });
        let (sink, before, tiles_before, outside) = begun.await??;
        Ok((sink, BegunSeed { seed: self, before, tiles_before, outside }))
    }
}

impl BegunSeed<'_> {
    /// Makes the tiles visible. Refuses to if too few of the target's tiles would be left.
    pub(crate) async fn finish(
        self,
        sink: AnySink,
        planned: u64,
        tiles: StoredTiles,
    ) -> Result<FinishedRun, CommandError> {
        let BegunSeed { seed, before, mut tiles_before, outside } = self;
        let PlannedSeed { job, layers, fingerprint, cursor, provenance, .. } = seed;
        let (left, report) = (tiles.written.stored + tiles.written.unchanged, Arc::clone(&job.report));
        spawn_blocking(move || tiles_before.judge(left, &report)).await??;
        let scope = Manifest {
            fingerprint,
            planned,
            stored: left + outside,
            empty: tiles.written.removed,
            ..seeded_scope(&job.settings, &cursor, before.as_ref())
        };
        let kept = before.as_ref().filter(|_| !scope.kept.is_empty());
        StoredRun { job, layers: &layers, provenance, tiles }.finish(sink, scope, kept).await
    }
}

/// The number of tiles that a target holds outside of a scope. May wait for a server.
fn tiles_outside(target: &Target, scope: &Scope) -> Result<u64, CommandError> {
    let tiles = target.reader()?.list()?;
    Ok(tiles.into_iter().filter(|id| !scope.holds(*id)).count() as u64)
}

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
    /// How much of the workers' time was spent drawing from cached rows.
    pub(crate) drawing: Duration,
}

/// The memory of a feature that is rendered and not stored yet, in bytes: what drawing it takes, its bytes in an
/// uncompressed tile, and those in a compressed one.
const FEATURE_IN_FLIGHT: u64 = 400;

/// Renders every planned tile and hands it to the sink. Memory that cached rows do not need is used for heavy tiles.
pub(crate) async fn render<S>(
    job: &Job,
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
    let mut layers = with_cached_rows(prepared, &batches.iter().collect::<Vec<_>>(), job, &workers).await?;
    if let Some(first) = workers.first() {
        layers = verify_cached_rows(first, layers, &batches).await?;
    }
    let cached: usize = layers.iter().map(PreparedLayer::cached_bytes).sum();
    let reading_sessions = layers.iter().map(PreparedLayer::reading_sessions).max().unwrap_or_default();
    let spare = job.rows_memory().saturating_sub(cached) as u64 / FEATURE_IN_FLIGHT;
    let limits = job.settings.run.limits;
    let limits = Limits { features: limits.features.max(NonZeroU64::new(spare).unwrap_or(NonZeroU64::MIN)), ..limits };
    let layers = RunLayers::new(&layers);
    let renderers: Vec<Renderer> = workers.into_iter().map(|worker| Renderer::new(worker, &layers)).collect();
    let (reading, workers) = (begun.elapsed(), renderers.len());
    job.report.event(&Event::Planned { tiles: planned, features, batches: batches.len() as u64 });

    let begun = Instant::now();
    let ran = render_batches(job, batches, renderers, sink, limits, job.turns(BatchKind::Seed)).await;
    let (sink, outcome) = unless_outdated(job, ran, &prepared.snapshot, &prepared.reads).await?;
    let (rendering, drawing) = (begun.elapsed(), layers.drawing_time());
    Ok(Rendered { sink, outcome, reading, reading_sessions, rendering, workers, drawing })
}

/// The most features, in all tiles together, of a variant that a single thread draws.
const MAX_FEATURES_HERE: u64 = 500_000;

/// Does what [`render`] does, but from the rows of a family, which were all read before.
async fn render_from_cache<S>(
    job: &Job,
    cache: &FamilyCachePart,
    prepared: &mut Prepared,
    sink: S,
) -> Result<Rendered<S>, CommandError>
where
    S: Sink + 'static,
    CommandError: From<S::Error>,
{
    let (begun, batches) = (Instant::now(), prepared.take_batches());
    let mut sources = cache.sources(job, &prepared.surveyed, sink.needs());
    sources.truncate(batches.len());
    let features: u64 = batches.iter().map(Batch::features).sum();
    let limits = job.settings.run.limits;
    let (workers, ran) = match sources.pop() {
        // Other variants are seeded in parallel.
        Some(source) if features <= MAX_FEATURES_HERE => {
            let render = move |batch: &Batch| source.render_here(batch);
            let stored = stored_events(&job.report);
            let run = move || pipeline::run_here(&batches, render, sink, limits.packing, stored);
            (1, spawn_blocking(run).await?.map_err(pipeline_error))
        }
        last => {
            sources.extend(last);
            (sources.len(), render_batches(job, batches, sources, sink, limits, None).await)
        }
    };
    let (sink, outcome) = ran?;
    job.stop.check()?;
    let rendering = begun.elapsed();
    let (reading, drawing) = (Duration::ZERO, Duration::ZERO);
    Ok(Rendered { sink, outcome, reading, reading_sessions: 0, rendering, workers, drawing })
}

/// Renders the batches and hands the tiles to the sink.
pub(crate) async fn render_batches<R, S>(
    job: &Job,
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
    pipeline::run(batches, sources, sink, limits, turns, stored_events(&job.report)).await.map_err(pipeline_error)
}

/// Returns `ran`, unless the tables that the run has read have changed, or a stop was asked for after the last batch.
pub(crate) async fn unless_outdated<T>(
    job: &Job,
    ran: Result<T, CommandError>,
    snapshot: &Snapshot,
    reads: &Reads,
) -> Result<T, CommandError> {
    let ran = check_tables_unchanged(ran, snapshot, reads).await?;
    job.stop.check()?;
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

/// The warning that maps cannot find the tiles by the target's TileJSON; `None` if they can.
pub(crate) fn relative(sink: &impl Sink, target: &Target) -> Option<String> {
    let address = sink.relative_address()?;
    Some(format!(
        "the TileJSON of {target} gives the address of its tiles as {address}, and MapLibre shows an empty map then: TileJSON wants whole addresses. Say where clients find {target} with --public-url https://… (public_url in [target]; once is enough), or set public_url = \"relative\" if no map reads the TileJSON"
    ))
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

fn zooms(outcome: &PipelineOutcome, names: &[String]) -> Vec<RunZoom> {
    let zoom = |zoom: &pipeline::ZoomStats| RunZoom {
        zoom: zoom.zoom.get(),
        tiles: zoom.tiles,
        features: zoom.features,
        bytes: zoom.bytes,
        median: zoom.sizes.quantile(0.5),
        p95: zoom.sizes.quantile(0.95),
        largest: zoom.largest,
        largest_layer: describe::largest_layer(zoom, names),
        worker_seconds: zoom.busy.as_secs_f64(),
    };
    outcome.zooms.iter().map(zoom).collect()
}

/// Seeds the job's target.
///
/// # Errors
/// If anything is missing from the result. The target is then unchanged, unless the error says otherwise.
pub async fn seed(job: &Job) -> Result<RunReport, CommandError> {
    let done = seed_target(job).await?;
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    job.report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    Ok(done)
}

pub(crate) fn complete(done: &RunReport) -> Result<(), CommandError> {
    describe::complete(&done.output, &done.failed)
}

/// The plan of a seed, with estimated sizes and times. Writes nothing.
pub(crate) async fn plan_seed(job: &Job) -> Result<PlanReport, CommandError> {
    let plan = async |_restarts| {
        Box::pin(crate::run::dry_run::dry_run(job)).await.inspect_err(|_error| job.release_snapshot())
    };
    restarting(&job.settings.database, &job.report, &job.stop, plan).await
}
