//! `oar-tiles seed`: render every occupied tile of the pyramid into the output.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::budgets;
use super::describe::{database, fingerprint, manifest, metadata, names};
use super::identity::IdentityKey;
use super::owner::refuse_other;
use super::reseed::touched;
use super::shrink::Before;
use super::survey::{prepare, with_cached_rows};
use super::target::{Place, Reach};
use super::vanishing::vanishing;
use super::{CommandError, interrupted};
use crate::config::Settings;
use crate::encode::Packing;
use crate::error::{ErrorKind, Obstacle};
use crate::manifest::Manifest;
use crate::pipeline::{self, PipelineError, PipelineOutcome, StoredBatch};
use crate::postgis::{Reads, Renderer, RunLayers, Snapshot, checked};
use crate::report::{Event, Report, Requests, RunReport, RunZoom, print, render_run};
use crate::sink::{OpenMode, RunKind, Scope, Sink, TargetError, Tileset, Unwritten};
use crate::stop::Stop;
use crate::tile::{Batch, Coverage};

/// What `seed` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct SeedOptions {
    /// Print the plan and write nothing.
    pub dry_run: bool,
    /// Write over another tileset, or what other programs made.
    pub force: bool,
    /// Where to write the tiles that changed.
    pub changed_out: Option<PathBuf>,
    /// Where to write the closing table as JSON.
    pub report: Option<PathBuf>,
    /// Print the closing table.
    pub table: bool,
}

/// Runs `seed`.
///
/// # Errors
/// If anything at all is missing from the result; the target is unchanged then.
pub async fn seed(
    settings: &Settings,
    options: &SeedOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    if let Some(path) = &options.report {
        writable(path, &settings.tileset.output)?;
    }
    touched::can_write_changed(options.changed_out.as_deref(), &settings.tileset.output)?;
    if options.dry_run {
        let plan = async |_restarts| Box::pin(super::dry_run::dry_run(settings, report, stop)).await;
        let plan = restarting(settings, report, stop, plan).await?;
        return close(options, &crate::report::render_plan(&plan), serde_json::to_vec_pretty(&plan));
    }
    let mut settings = settings.clone();
    let place = Place::parse(&settings.tileset.output.to_string_lossy())?;
    let reach = Reach::new(&settings, options.force, stop);
    if !reach.packed(&place) {
        settings.limits.packing = Packing::Plain;
    }
    let done = seeded(&settings, (&place, &reach), options.changed_out.as_deref(), report, stop).await?;
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    close(options, &render_run(&done), serde_json::to_vec_pretty(&done))?;
    budgets::complete(&done.output, &done.failed)
}

/// Seeds a target, whose packing the settings name.
pub(super) async fn seeded(
    settings: &Settings,
    (place, reach): (&Place, &Reach),
    changed_out: Option<&Path>,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<RunReport, CommandError> {
    let target = || (place.clone(), reach.clone());
    let whole = async |restarts| Box::pin(attempt(settings, restarts, target(), changed_out, report, stop)).await;
    restarting(settings, report, stop, whole).await.map_err(|error| in_line(error, place))
}

/// What an interrupted run leaves in a target that is brought in line.
pub(super) fn in_line(error: CommandError, place: &Place) -> CommandError {
    match (error, place) {
        (CommandError::Interrupted(signal), Place::Directory(_) | Place::S3Prefix { .. }) => {
            CommandError::InterruptedInLine { place: place.to_string(), signal }
        }
        (error, _) => error,
    }
}

/// Runs `attempt` until it is done; starts over on a new snapshot when the database goes away or others hold the run up. `attempt` is
/// given the number of earlier attempts.
pub(super) async fn restarting<T>(
    settings: &Settings,
    report: &Arc<dyn Report>,
    stop: &Stop,
    attempt: impl AsyncFn(u32) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (mut restarts, mut last) = (0, None);
    loop {
        let (error, obstacle) = match attempt(restarts).await.map_err(|error| interrupted(error, stop)) {
            Err(CommandError::Database(error)) => match obstacle(error.kind(), last) {
                Some(obstacle) => (error, obstacle),
                None => return Err(error.into()),
            },
            ended => return ended,
        };
        let attempts = restarts + 1;
        if restarts == settings.restarts {
            return Err(match obstacle {
                Obstacle::Lost | Obstacle::Unreachable => CommandError::Restarts { attempts, source: error },
                Obstacle::HeldUp | Obstacle::GaveWay => CommandError::HeldUp { attempts, source: error },
            });
        }
        (restarts, last) = (attempts, Some(obstacle));
        report.event(&Event::Restarting { attempt: restarts, of: settings.restarts, cause: error.to_string() });
        tokio::select! {
            () = tokio::time::sleep(pause(settings, restarts, obstacle)) => {}
            signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
    }
}

/// The obstacle for which a run starts over after an error of this kind, if it does. `last` is that of the attempt before: a server that
/// has answered may be away for a while, and a table that was held up may be gone for a moment while others replace it.
fn obstacle(kind: ErrorKind, last: Option<Obstacle>) -> Option<Obstacle> {
    match (kind, last) {
        (ErrorKind::Transient(Obstacle::Unreachable), None) => None,
        (ErrorKind::Transient(obstacle), _) => Some(obstacle),
        (ErrorKind::Usage, Some(Obstacle::HeldUp | Obstacle::GaveWay)) => Some(Obstacle::HeldUp),
        _ => None,
    }
}

/// How long to wait before a run starts over.
fn pause(settings: &Settings, restarts: u32, obstacle: Obstacle) -> Duration {
    let doubling = Duration::from_secs(1 << restarts.min(5));
    match obstacle {
        // Whoever waited is served by now, or is waited for with the first lock.
        Obstacle::GaveWay => Duration::ZERO,
        Obstacle::Lost | Obstacle::Unreachable => doubling,
        Obstacle::HeldUp => doubling.min(settings.session.lock_limit()),
    }
}

/// One whole run on one snapshot.
async fn attempt(
    settings: &Settings,
    restarts: u32,
    (place, reach): (Place, Reach),
    changed_out: Option<&Path>,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<RunReport, CommandError> {
    let (begun, started) = (Instant::now(), SystemTime::now());
    // The target first: an hour of work must not end at a folder that is not there.
    let name = settings.tileset.name.clone();
    let layers: Vec<String> = settings.layers.iter().map(|layer| layer.options.name.clone()).collect();
    let (at, reading) = (place.clone(), reach.clone());
    let target = place.clone();
    let sink = aside(move || {
        let mut sink = reach.sink(&target, OpenMode::Replace)?;
        sink.claim()?;
        refuse_other((&target, &reach), &name, &layers).map(|()| sink)
    });
    let mut sink = sink.await??;
    let mut prepared = prepare(settings, sink.needs().order, settings.workers.get(), report, stop).await?;
    prepared.warn(vanishing(settings), report);
    let key = IdentityKey::of_log(&prepared.snapshot, &settings.changes.schema).await?;
    let mark = key.as_ref().map(|key| key.mark(&prepared.server.identity));
    let tileset = Tileset {
        fingerprint: fingerprint(settings, &prepared.layers),
        layers: names(&prepared.layers),
        scope: Scope { zooms: settings.tileset.zooms.clone(), coverage: Coverage::new(&settings.tileset.bbox) },
        unwritten: Unwritten::Delete,
        list_changes: changed_out.is_some(),
        run: RunKind::Seed { database: database(mark.as_ref(), Some(&prepared.reads.digest)) },
    };
    let (scope, max) = (tileset.scope.clone(), settings.tileset.max_shrink);
    let parts = if sink.needs().layers_apart { tileset.layers.len() as u64 } else { 1 };
    let planned: u64 = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();
    let told = Arc::clone(report);
    let (sink, before, mut held) = aside(move || {
        let before = sink.begin(&tileset)?;
        let mut held = Before::of((&at, &reading), scope, max, sink.held())?;
        // The plan knows where features are, so no more tiles than it names can come of it.
        held.judge(planned.saturating_mul(parts), &told)?;
        Ok::<_, CommandError>((sink, before, held))
    })
    .await??;
    prepared.warn(relative(&sink, &place).into_iter().collect(), report);
    let batches: Vec<Batch> = prepared.zooms.iter_mut().flat_map(|zoom| std::mem::take(&mut zoom.batches)).collect();
    let features = prepared.zooms.iter().map(|zoom| zoom.features).sum();
    let mut workers = std::mem::take(&mut prepared.workers);
    workers.truncate(batches.len());
    let (reading, all): (_, Vec<&Batch>) = (Instant::now(), batches.iter().collect());
    let mut layers = with_cached_rows(&prepared, &all, settings, report).await?;
    if let Some(first) = workers.first() {
        layers = checked(first, layers, &batches).await?;
    }
    let layers = RunLayers::new(&layers);
    let renderers: Vec<Renderer> = workers.into_iter().map(|worker| Renderer::new(worker, &layers)).collect();
    let read = reading.elapsed();
    report.event(&Event::Planned { tiles: planned, features, batches: batches.len() as u64 });

    let rendering = Instant::now();
    let stored = stored_events(report);
    let ran = pipeline::run(batches, renderers, sink, settings.limits, stored).await.map_err(pipeline_error);
    let (sink, outcome) = on_what_stood_still(ran, &prepared.snapshot, &prepared.reads).await?;
    // The last batch may have been rendered before the stop was asked for.
    if let Some(signal) = stop.asked() {
        return Err(CommandError::Interrupted(signal));
    }
    let render_seconds = rendering.elapsed().as_secs_f64();
    let (left, told) = (outcome.written.stored + outcome.written.unchanged, Arc::clone(report));
    aside(move || held.judge(left, &told)).await??;

    report.event(&Event::Finishing);
    let finishing = Instant::now();
    let names = names(&prepared.layers);
    let budgets = budgets::budgets(&outcome, &names);
    prepared.warnings.append(&mut budgets::warn(&budgets, report));
    let manifest = manifest(settings, (&prepared, key.as_ref()), &outcome, started, before.as_ref());
    let stays = before.as_ref().filter(|_| !manifest.kept.is_empty());
    let metadata = metadata(settings, &prepared.layers, prepared.bounds, &manifest, stays)?;
    let finished = aside(move || sink.finish(&metadata)).await??;
    touched::write_changed(changed_out, finished.changed.as_ref(), &settings.tileset)?;
    Ok(RunReport {
        output: finished.place,
        written: outcome.written.stored,
        unchanged: outcome.written.unchanged,
        deleted: finished.deleted,
        requests: finished.in_flight.map(|seen| Requests {
            mean_in_flight: seen.mean,
            most_in_flight: seen.peak,
            requests: seen.requests,
        }),
        manifest: Manifest { seconds: begun.elapsed().as_secs_f64(), ..manifest },
        features: outcome.zooms.iter().map(|zoom| zoom.features).sum(),
        bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
        plan_seconds: (prepared.took + read).as_secs_f64(),
        render_seconds,
        finish_seconds: finishing.elapsed().as_secs_f64(),
        restarts,
        zooms: zooms(&outcome, &names),
        skipped: prepared.skipped,
        budgets,
        failed: budgets::failed(&outcome, &names),
        layers: names,
        warnings: prepared.warnings,
    })
}

/// What a run gave, if the tables that it has read are still those of its beginning. If not, that is why it went wrong.
pub(super) async fn on_what_stood_still<T>(
    ran: Result<T, CommandError>,
    snapshot: &Snapshot,
    reads: &Reads,
) -> Result<T, CommandError> {
    match &ran {
        Err(CommandError::Database(error)) if error.is_miscounted() => {}
        Err(_) => return ran,
        Ok(_) => {}
    }
    snapshot.stood_still(reads).await?;
    ran
}

pub(super) fn stored_events(report: &Arc<dyn Report>) -> impl Fn(&StoredBatch) + Send + 'static {
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

/// The warning that no map finds the tiles by the target's TileJSON, if that is so.
pub(super) fn relative(sink: &impl Sink, place: &Place) -> Option<String> {
    let address = sink.relative_address()?;
    Some(format!(
        "the TileJSON of {place} gives the address of its tiles as {address}, and MapLibre shows an empty map then: TileJSON wants whole addresses. Say where clients find {place} with --public-url https://… (public_url in [target]; once is enough), or set public_url = \"relative\" if no map reads the TileJSON"
    ))
}

/// Does what may take long on a thread of its own.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CommandError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CommandError::Died(error.to_string()))
}

/// Reads what may take long on a thread of its own, until a stop is asked for: nothing has to be undone then.
pub(super) async fn reading<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    tokio::select! {
        read = aside(work) => read.flatten(),
        signal = stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}

/// Errors of the parts keep their kind, so that a lost database can be told from a defect.
pub(super) fn pipeline_error(error: PipelineError<crate::postgis::Error, TargetError>) -> CommandError {
    match error {
        PipelineError::Source(error) => error.into(),
        PipelineError::Sink(error) => error.into(),
        other => CommandError::Pipeline(other.to_string()),
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
        largest_layer: budgets::largest_layer(zoom, names),
        worker_seconds: zoom.busy.as_secs_f64(),
    };
    outcome.zooms.iter().map(zoom).collect()
}

/// Finds out before the work whether the report can be written after it. Leaves nothing behind: the run may yet fail.
pub(super) fn writable(path: &Path, output: &Path) -> Result<(), CommandError> {
    let refused = |source| CommandError::NoReport { path: path.to_owned(), source };
    let same = matches!((path.canonicalize(), output.canonicalize()), (Ok(path), Ok(output)) if path == output);
    if same || path == output {
        return Err(refused(std::io::Error::other("it would replace the output")));
    }
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(_) => std::fs::remove_file(path).map_err(refused),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Prints the table and writes the report.
pub(super) fn close(options: &SeedOptions, table: &str, json: serde_json::Result<Vec<u8>>) -> Result<(), CommandError> {
    if options.table {
        print(table)?;
    }
    if let Some(path) = &options.report {
        json.map_err(std::io::Error::from)
            .and_then(|json| std::fs::write(path, json))
            .map_err(|source| CommandError::NoReport { path: path.clone(), source })?;
    }
    Ok(())
}
