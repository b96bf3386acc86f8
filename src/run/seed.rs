//! A seed from top to bottom: claim the target, plan, render, store, write the manifest last.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::describe::{database, fingerprint, leaves_parts, names, seeded_manifest};
use super::finish::{FinishedRun, Provenance, StoredRun, StoredTiles};
use super::identity::LogIdentity;
use super::prepare::{layers_that_end_early, prepare};
use super::render::{Rendered, render, render_from_cache};
use super::row_loss::KnownRows;
use super::target::{
    AnySink, Claimed, Target, TilesBefore, claim, judge_rows, narrower_archive_warning, relative_address_warning,
};
use super::{CommandError, RowSource, TilesetRun, interrupted, restarting, with_what_remains};
use crate::manifest::{Manifest, Publication};
use crate::pipeline;
use crate::pipeline::PipelineOutcome;
use crate::postgis::Layer;
use crate::report::{Event, PlanReport, RunReport, RunStages, RunZoom};
use crate::run::describe;
use crate::target::{Described, RunKind, Sink, Tileset, Unwritten};
use crate::tile::Scope;

/// Seeds the run's target; starts over on a new snapshot after failures for which that helps.
pub(crate) async fn seed_target(tileset_run: &TilesetRun) -> Result<RunReport, CommandError> {
    let attempt = async |restarts| {
        Box::pin(attempt(tileset_run, restarts)).await.inspect_err(|_error| tileset_run.release_snapshot())
    };
    let TilesetRun { settings, report, stop, .. } = tileset_run;
    restarting(&settings.database, report, stop, attempt)
        .await
        .map_err(|error| with_what_remains(error, &tileset_run.target))
}

/// Seeds the run's target once, on the snapshot of its family.
pub(crate) async fn seed_once(tileset_run: &TilesetRun) -> Result<RunReport, CommandError> {
    Box::pin(attempt(tileset_run, 0))
        .await
        .map_err(|error| with_what_remains(interrupted(error, &tileset_run.stop), &tileset_run.target))
}

/// One whole seed on one snapshot.
async fn attempt(tileset_run: &TilesetRun, restarts: u32) -> Result<RunReport, CommandError> {
    let started = SystemTime::now();
    // The target is opened first: an hour of work must not end because a folder is missing.
    let claimed = claim(tileset_run).await?;
    let order = claimed.sink.needs().order;
    let schema = &tileset_run.settings.database.changes.schema;
    let (mut prepared, log, cache) = match &tileset_run.rows {
        RowSource::FamilyCache(cache) => (cache.prepared(tileset_run, order).await?, cache.log(), Some(cache)),
        RowSource::FamilySession(session) => (session.prepared(tileset_run, order).await?, session.log(), None),
        RowSource::OwnSnapshot | RowSource::SharedSnapshot(_) => {
            let prepared = prepare(tileset_run, order, tileset_run.settings.run.workers.get(), true).await?;
            let log = LogIdentity::read(&prepared.snapshot, schema, []).await?;
            (prepared, log, None)
        }
    };
    // One of thousands of variants reports the warnings for all.
    let warns = cache.is_none_or(|cache| cache.variant.unwrap_or_default() == 0);
    if warns {
        let narrower = narrower_archive_warning(tileset_run, claimed.described.as_ref());
        let early = layers_that_end_early(&tileset_run.settings);
        prepared.warn(narrower.into_iter().chain(early).collect(), &tileset_run.report);
    }
    let cursor = prepared.snapshot.cursor().to_owned();
    let known: Vec<KnownRows> = prepared.rows.iter().map(|rows| KnownRows::of_survey(*rows)).collect();
    // The survey has counted what there is.
    let rows =
        judge_rows(tileset_run, &prepared.layers, claimed.described.as_ref(), &known, async |_layer| Ok(None)).await?;
    let planned = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();
    let seed = PlannedSeed {
        tileset_run,
        fingerprint: fingerprint(&tileset_run.settings, &prepared.layers),
        layers: prepared.layers.clone(),
        provenance: Provenance {
            database: log.as_ref().map(|log| log.mark(&prepared.server.identity)),
            witness: log.as_ref().map(LogIdentity::own).cloned(),
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
        prepared.warn(relative_address_warning(&sink, &tileset_run.target).into_iter().collect(), &tileset_run.report);
    }
    let rendered = match cache {
        Some(cache) => render_from_cache(tileset_run, cache, &mut prepared, sink).await?,
        None => Box::pin(render(tileset_run, &mut prepared, sink, planned)).await?,
    };
    let Rendered { sink, outcome, reading, reading_sessions, rendering, workers, from_rows } = rendered;
    let names = names(&prepared.layers);
    let tiles = StoredTiles {
        written: outcome.written,
        record: describe::record(&outcome, &names),
        bounds: prepared.bounds,
        warnings: prepared.warnings,
    };
    let finished = begun_seed.finish(sink, planned, tiles).await?;
    Ok(finished.seed_report(RunReport {
        bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
        plan_seconds: (prepared.took + prepared.reading + reading).as_secs_f64(),
        reading_seconds: (prepared.reading + reading).as_secs_f64(),
        reading_sessions,
        render_seconds: rendering.as_secs_f64(),
        stages: RunStages::new(&outcome.stages, from_rows.time, rendering, workers),
        shapes: from_rows.shapes,
        asked_shapes: from_rows.asked_shapes,
        restarts,
        zooms: zooms(&outcome, &names),
        slowest: outcome.slowest,
        skipped: prepared.skipped,
        ..RunReport::default()
    }))
}

pub(crate) struct PlannedSeed<'a> {
    pub(crate) tileset_run: &'a TilesetRun,
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
        let PlannedSeed { tileset_run, planned, provenance, .. } = &self;
        let (tileset, planned) = (&tileset_run.settings.tileset, *planned);
        let (target, max_shrink) = (tileset_run.target.clone(), tileset.max_shrink);
        let partial = spawn_blocking(move || target.partial()).await??;
        let tileset = Tileset {
            fingerprint: self.fingerprint.clone(),
            layers: names(&self.layers),
            scope: tileset.scope(),
            partial,
            unwritten: Unwritten::Delete,
            list_changes: tileset_run.changed_out.is_wanted() || !tileset.purges.is_empty(),
            dirty: None,
            before_manifest: tileset_run.target.before_manifest(
                claimed.before.as_ref(),
                &provenance.publication,
                None,
            )?,
            run: RunKind::Seed {
                database: database(provenance.database.as_ref(), Some(&provenance.reads)),
                snapshot: self.cursor.clone(),
            },
        };
        let sink = claimed.sink;
        let slices = if sink.needs().layers_apart { tileset.layers.len() as u64 } else { 1 };
        let (target, report, settings) =
            (tileset_run.target.clone(), Arc::clone(&tileset_run.report), tileset_run.settings.clone());
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
        let PlannedSeed { tileset_run, layers, fingerprint, cursor, provenance, .. } = seed;
        let (left, report) = (tiles.written.stored + tiles.written.unchanged, Arc::clone(&tileset_run.report));
        spawn_blocking(move || tiles_before.judge(left, &report)).await??;
        let base = Manifest {
            fingerprint,
            planned,
            stored: left + outside,
            empty: tiles.written.removed,
            ..seeded_manifest(&tileset_run.settings, &cursor, before.as_ref())
        };
        let kept = before.as_ref().filter(|_| !base.kept.is_empty());
        StoredRun { tileset_run, layers: &layers, provenance, tiles }.finish(sink, base, kept).await
    }
}

/// The number of tiles that a target holds outside of a scope. May wait for a server.
fn tiles_outside(target: &Target, scope: &Scope) -> Result<u64, CommandError> {
    let tiles = target.reader()?.list()?;
    Ok(tiles.into_iter().filter(|id| !scope.holds(*id)).count() as u64)
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

/// Seeds the run's target.
///
/// # Errors
/// If anything is missing from the result. The target is then unchanged, unless the error says otherwise.
pub async fn seed(tileset_run: &TilesetRun) -> Result<RunReport, CommandError> {
    let done = seed_target(tileset_run).await?;
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    tileset_run.report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    Ok(done)
}

pub(crate) fn check_complete(done: &RunReport) -> Result<(), CommandError> {
    describe::check_complete(&done.output, &done.failed)
}

/// The plan of a seed, with estimated sizes and times. Writes nothing.
pub(crate) async fn plan_seed(tileset_run: &TilesetRun) -> Result<PlanReport, CommandError> {
    let plan = async |_restarts| {
        Box::pin(crate::run::dry_run::dry_run(tileset_run)).await.inspect_err(|_error| tileset_run.release_snapshot())
    };
    restarting(&tileset_run.settings.database, &tileset_run.report, &tileset_run.stop, plan).await
}
