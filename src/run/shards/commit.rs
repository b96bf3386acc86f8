//! `shards commit`: counts the shards, brings them to one state, merges their runs into the target, writes the manifest
//! last, and clears the work folder.
//!
//! Nothing is removed from the work folder until the sink finishes, so that a commit that was killed can be run again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use super::ShardRun;
use super::status::none_missing;
use super::stream::{SharedTiles, Stored, StreamOptions, ZoomFigures, stream};
use crate::change_log::Cursor;
use crate::draw::{PreparedLayer, Renderer, RunLayers, Worker};
use crate::manifest::{Publication, RowCounts, Witness};
use crate::pipeline::{PipelineOutcome, StageTimes};
use crate::plan::{Dirty, DrawnLayer, batches};
use crate::postgis::{Database, Layer, Snapshot, count_rows, probe};
use crate::report::{Event, FailedLayer, LayerBudget, RunReport, RunStages, RunZoom};
use crate::run::describe::names;
use crate::run::dirty::{Look, Work, drawn};
use crate::run::finish::{Provenance, StoredTiles};
use crate::run::identity::LogIdentity;
use crate::run::render::{render_batches, unless_outdated};
use crate::run::row_loss::KnownRows;
use crate::run::seed::PlannedSeed;
use crate::run::target::{Claimed, TargetState, claim, judge_rows, relative_address_warning};
use crate::run::{CommandError, DirtyFilter, TilesetRun, describe, restarting, with_what_remains};
use crate::shards::{DoneNote, LayerRecord, RunEnd, RunReader, RunSink, ShardPlan, ShardsError, StateKind, WorkFolder};
use crate::target::{Described, SharedState};
use crate::tile::{LonLatBox, SearchBox, TileCoord, Zoom};

/// The number of threads that read the notes of shards. Each may wait for a server.
const READERS: usize = 16;

/// Commits the run of a work folder. Waits up to `wait` for a database that is behind those of the shards. `None` if an
/// earlier commit was killed after it had published the version of the shards. Fails if a shard is missing, the
/// settings are not those of the plan, or the target cannot be written. The target is then unchanged, unless the error
/// says otherwise.
pub(crate) async fn commit(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    plan: &ShardPlan,
    wait: Duration,
) -> Result<Option<RunReport>, CommandError> {
    commit_claimed(ShardRun { tileset_run, work, plan }, None, wait).await
}

/// The same into a target that is claimed; `None` if the commit has to claim it.
pub(crate) async fn commit_claimed(
    of: ShardRun<'_>,
    claimed: Option<Claimed>,
    wait: Duration,
) -> Result<Option<RunReport>, CommandError> {
    let ShardRun { tileset_run, work, plan } = of;
    of.check_settings()?;
    let (folder, planned) = (work.clone(), plan.clone());
    let shards = spawn_blocking(move || all_done(&folder, &planned)).await??;
    let claimed = Mutex::new(claimed);
    let attempt = async |restarts| {
        let held = claimed.lock().take();
        Box::pin(attempt(of, &shards, held, wait, restarts)).await
    };
    let ended = restarting(&tileset_run.settings.database, &tileset_run.report, &tileset_run.stop, attempt).await;
    let done = ended.map_err(|error| with_what_remains(error, &tileset_run.target))?;
    let (folder, run) = (work.clone(), plan.run.clone());
    spawn_blocking(move || folder.end(&run, RunEnd::Committed)).await??;
    let Some(done) = done else { return Ok(None) };
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    tileset_run.report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    Ok(Some(done))
}

/// The notes of all shards, in their order.
fn all_done(work: &WorkFolder, plan: &ShardPlan) -> Result<Vec<DoneNote>, ShardsError> {
    let run = plan.run.as_str();
    let numbers = none_missing(work, run, plan.count())?;
    let read = |numbers: &[u32]| -> Result<Vec<DoneNote>, ShardsError> {
        let mut all = Vec::new();
        for number in numbers {
            all.extend(work.done(run, *number)?);
        }
        Ok(all)
    };
    let parts: Vec<&[u32]> = numbers.chunks(numbers.len().div_ceil(READERS).max(1)).collect();
    let mut shards = Vec::new();
    std::thread::scope(|scope| {
        let readers: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| read(part))).collect();
        for reader in readers {
            shards.extend(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, ShardsError>(())
    })?;
    shards.retain(|shard| (1..=plan.count()).contains(&shard.shard));
    shards.sort_by_key(|shard| shard.shard);
    Ok(shards)
}

/// Reads the identity of the log, and refuses a database that is not the continuation of the one from which the plan
/// and the shards were drawn.
pub(crate) async fn history(
    of: ShardRun<'_>,
    shards: &[DoneNote],
    shared: Option<&SharedTiles>,
    snapshot: &Snapshot,
) -> Result<Option<LogIdentity>, CommandError> {
    let others = shared.iter().flat_map(|shared| &shared.others).flat_map(|other| &other.witness);
    let witnesses: Vec<&Witness> =
        of.plan.witness.iter().chain(shards.iter().flat_map(|shard| &shard.witness)).chain(others).collect();
    let asked = witnesses.iter().map(|witness| witness.snapshot.as_str());
    let log = LogIdentity::read(snapshot, &of.tileset_run.settings.database.changes.schema, asked).await?;
    of.check_history(log.as_ref(), witnesses)?;
    Ok(log)
}

async fn attempt(
    of: ShardRun<'_>,
    shards: &[DoneNote],
    held: Option<Claimed>,
    wait: Duration,
    restarts: u32,
) -> Result<Option<RunReport>, CommandError> {
    let begun = Instant::now();
    let ShardRun { tileset_run, work, plan } = of;
    let claimed = match held {
        Some(claimed) => claimed,
        None => claim(tileset_run).await?,
    };
    let (mut claimed, state) = shared_state(plan, claimed).await?;
    if state == Some(SharedState::Published) {
        return Ok(None);
    }
    // The version that the shards have written is published instead of a new one.
    plan.shared().into_iter().for_each(|version| claimed.sink.adopt(version));
    let database = tileset_run.database()?;
    let snapshot = caught_up(tileset_run, &database, &seen(plan, shards)?, wait).await?;
    let probed = probe(&snapshot, &tileset_run.settings.tileset.layers).await?;
    of.check_database(&probed.layers, &probed.reads, &probed.server.identity)?;
    let (folder, planned, dones) = (work.clone(), plan.clone(), shards.to_vec());
    let shared = spawn_blocking(move || SharedTiles::of(&folder, &planned, &dones)).await??;
    let cursor = if plan.state == StateKind::Tracked { snapshot.cursor().to_owned() } else { plan.cursor.clone() };
    let log = history(of, shards, shared.as_ref(), &snapshot).await?;
    // Without a change log that brings them to one state, the tiles show the state of the plan.
    let own = if plan.state == StateKind::Tracked { log.as_ref().map(LogIdentity::own) } else { plan.witness.as_ref() };
    let (layers, layer_names, identity) =
        (probed.layers.clone(), names(&probed.layers), probed.server.identity.clone());
    let mut repaired = None;
    if plan.state == StateKind::Tracked {
        let state = unpublished(tileset_run, shards, shared.as_ref())?;
        let filter = DirtyFilter::default();
        let look = Look::at_unpublished(tileset_run, &filter, state, database, Arc::clone(&snapshot), probed);
        repaired = Box::pin(repairs(of, &look)).await?;
    }
    let order = plan.needs().order;
    let record = records(plan, shards, repaired.as_ref(), &layer_names);
    let of_repairs = repaired.as_ref().and_then(|repaired| repaired.bounds);
    // The rows may have come after the plan, and before the snapshot of the shard that shows them.
    let of_shards = shards.iter().filter_map(|shard| shard.bounds);
    let bounds = of_shards.chain(of_repairs).fold(plan.bounds, LonLatBox::joined);
    let seed = PlannedSeed {
        tileset_run,
        fingerprint: plan.fingerprint.clone(),
        provenance: Provenance {
            database: log.as_ref().map(|log| log.mark(&identity)),
            witness: own.cloned(),
            reads: plan.reads.clone(),
            rows: rows(tileset_run, plan, claimed.described.as_ref(), &layers, &snapshot).await?,
            started: UNIX_EPOCH + Duration::from_secs(plan.started),
            publication: Publication::after(claimed.before.as_ref()),
        },
        planned: expected(shards, repaired.as_ref()),
        layers,
        cursor,
    };
    let (sink, seed) = seed.begin(claimed).await?;
    let mut warnings = plan.warnings.clone();
    if let Some(message) = relative_address_warning(&sink, &tileset_run.target) {
        tileset_run.report.warn_and_keep(message, &mut warnings);
    }
    let merging = Instant::now();
    let (folder, dones, report) = (work.clone(), shards.to_vec(), Arc::clone(&tileset_run.report));
    let repairs = repaired.map(|repaired| repaired.run);
    let options = StreamOptions { order, packing: tileset_run.settings.run.limits.packing, shared };
    let stored = spawn_blocking(move || stream(&folder, &dones, repairs, &options, sink, &report)).await??;
    let Stored { sink, written, tiles, zooms, bytes } = stored;
    check_count(plan, tiles)?;
    let merged = merging.elapsed();
    let finished = seed.finish(sink, tiles, StoredTiles { written, record, bounds, warnings }).await?;
    let writing = StageTimes { writing: merged, ..StageTimes::default() };
    let stages = RunStages::new(&writing, Duration::ZERO, begun.elapsed(), shards.len());
    let sum = |of: fn(&DoneNote) -> f64| shards.iter().map(of).sum::<f64>();
    Ok(Some(finished.seed_report(RunReport {
        bytes,
        plan_seconds: plan.plan_seconds + sum(|shard| shard.plan_seconds),
        reading_seconds: sum(|shard| shard.reading_seconds),
        reading_sessions: shards.iter().map(|shard| shard.reading_sessions).max().unwrap_or_default(),
        render_seconds: sum(|shard| shard.render_seconds),
        stages,
        restarts,
        zooms: run_zooms(zooms, shards),
        skipped: plan.skipped.clone(),
        ..RunReport::default()
    })))
}

/// What has become of the version that the shards of a plan write; `None` if they write none.
pub(crate) async fn shared_state(
    plan: &ShardPlan,
    claimed: Claimed,
) -> Result<(Claimed, Option<SharedState>), CommandError> {
    let Some(version) = plan.shared() else { return Ok((claimed, None)) };
    let asked = spawn_blocking(move || {
        let state = claimed.sink.shared_state(&version)?;
        Ok::<_, CommandError>((claimed, Some(state)))
    });
    asked.await?
}

/// The state of the shards' tiles: the database state that all of them have seen, and the tiles that they could not
/// render.
fn unpublished(
    tileset_run: &TilesetRun,
    shards: &[DoneNote],
    shared: Option<&SharedTiles>,
) -> Result<TargetState, CommandError> {
    let failed = shards.iter().flat_map(|shard| &shard.layers.failed);
    let tiles: HashSet<TileCoord> = failed.map(|failed| failed.tile).collect();
    let since = seen_by_all(shards, shared)?.unwrap_or_default();
    Ok(TargetState::unpublished(since, &tileset_run.settings.tileset, tiles.into_iter().collect()))
}

/// The numbers of rows for the manifest. Unless all shards show the snapshot of the plan, they may show rows that the
/// plan has not counted: these are counted at this snapshot.
pub(crate) async fn rows(
    tileset_run: &TilesetRun,
    plan: &ShardPlan,
    before: Option<&Described>,
    layers: &[Arc<Layer>],
    snapshot: &Snapshot,
) -> Result<Option<RowCounts>, CommandError> {
    let of_layer = |rows: &Option<u64>| match rows {
        Some(_) if plan.state == StateKind::Tracked => KnownRows::Outdated,
        rows => KnownRows::of_survey(*rows),
    };
    let known: Vec<KnownRows> = plan.rows.iter().map(of_layer).collect();
    let (coverage, zooms) = (tileset_run.coverage(), &tileset_run.settings.tileset.zooms);
    judge_rows(tileset_run, layers, before, &known, async |layer: usize| {
        Ok(count_rows(snapshot, &layers[layer], &coverage, zooms).await?)
    })
    .await
}

/// Refuses another number of tiles than was planned, if all shards show the state of the plan.
fn check_count(plan: &ShardPlan, rendered: u64) -> Result<(), ShardsError> {
    if plan.state == StateKind::Tracked || rendered == plan.tiles {
        return Ok(());
    }
    Err(ShardsError::Miscounted { run: plan.run.clone(), planned: plan.tiles, rendered })
}

/// An upper bound of the tiles that the shards and their repairs give.
fn expected(shards: &[DoneNote], repaired: Option<&Repairs>) -> u64 {
    shards.iter().map(|shard| shard.tiles).sum::<u64>() + repaired.map_or(0, |repaired| repaired.dirty.len() as u64)
}

/// The budgets and failures of layers in all shards and in the repairs. A repair replaces the failures of the tiles
/// that it renders again.
fn records(plan: &ShardPlan, shards: &[DoneNote], repaired: Option<&Repairs>, names: &[String]) -> LayerRecord {
    let mut failed: Vec<FailedLayer> = shards.iter().flat_map(|shard| shard.layers.failed.clone()).collect();
    let mut reported: Vec<LayerBudget> = shards.iter().flat_map(|shard| shard.layers.budgets.clone()).collect();
    if let Some(Repairs { outcome, dirty, .. }) = repaired {
        failed.retain(|failed| !dirty.is_marked(failed.tile));
        let own = describe::record(outcome, names);
        failed.extend(own.failed);
        reported.extend(own.budgets);
    }
    let order = plan.needs().order;
    failed.sort_by_key(|failed| order.sort_key(failed.tile));
    LayerRecord { budgets: joined(reported), failed }
}

/// The states that the commit's snapshot has to have seen; none if all shards show the snapshot of the plan.
pub(crate) fn seen(plan: &ShardPlan, shards: &[DoneNote]) -> Result<Vec<SeenByShard>, CommandError> {
    if plan.state != StateKind::Tracked {
        return Ok(Vec::new());
    }
    shards.iter().map(|shard| SeenByShard::of(shard.shard, &shard.seen)).collect()
}

fn run_zooms(figures: BTreeMap<Zoom, ZoomFigures>, shards: &[DoneNote]) -> Vec<RunZoom> {
    let one = |(zoom, figures): (Zoom, ZoomFigures)| {
        let of_shards = || shards.iter().flat_map(|shard| &shard.zooms).filter(|of_zoom| of_zoom.zoom == zoom.get());
        RunZoom {
            zoom: zoom.get(),
            tiles: figures.tiles,
            features: of_shards().map(|zoom| zoom.features).sum(),
            bytes: figures.bytes,
            median: figures.sizes.quantile(0.5),
            p95: figures.sizes.quantile(0.95),
            largest: figures.largest,
            largest_layer: None,
            worker_seconds: of_shards().map(|zoom| zoom.worker_seconds).sum(),
        }
    };
    figures.into_iter().map(one).collect()
}

fn joined(budgets: Vec<LayerBudget>) -> Vec<LayerBudget> {
    let mut joined: Vec<LayerBudget> = Vec::new();
    for budget in budgets {
        let Some(own) = joined.iter_mut().find(|own| own.layer == budget.layer) else {
            joined.push(budget);
            continue;
        };
        own.thinned_tiles += budget.thinned_tiles;
        own.features_left_out += budget.features_left_out;
        own.large_tiles += budget.large_tiles;
        if budget.heaviest.map(|tile| tile.bytes) > own.heaviest.map(|tile| tile.bytes) {
            own.heaviest = budget.heaviest;
        }
    }
    joined
}

// Lets a commit wait for a database that is behind those of the shards, such as a replica that has not yet seen what a
// shard has.

/// The pause before the database is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The database state that a shard has seen.
pub(crate) struct SeenByShard {
    shard: u32,
    seen: Cursor,
}

impl SeenByShard {
    /// The state from a shard's note: `seen` is a `pg_current_snapshot()`.
    pub(crate) fn of(shard: u32, seen: &str) -> Result<SeenByShard, CommandError> {
        Ok(SeenByShard { shard, seen: seen.parse()? })
    }
}

/// The run's snapshot, once it has seen everything that the shards have seen. Waits for that up to `wait`. Fails if the
/// database is still behind after that time, or cannot be asked.
pub(crate) async fn caught_up(
    tileset_run: &TilesetRun,
    database: &Database,
    shards: &[SeenByShard],
    wait: Duration,
) -> Result<Arc<Snapshot>, CommandError> {
    let since = Instant::now();
    loop {
        let snapshot = tileset_run.take_snapshot(database, false).await?;
        let now: Cursor = snapshot.cursor().parse()?;
        let Some(ahead) = shards.iter().find(|shard| !now.sees_all_of(&shard.seen)) else { return Ok(snapshot) };
        if since.elapsed() >= wait {
            let (shard, behind, ahead) = (ahead.shard, now.to_string(), ahead.seen.to_string());
            return Err(ShardsError::Behind { shard, behind, ahead }.into());
        }
        // A replica does not replay further while a session holds its old snapshot.
        tileset_run.release_snapshot();
        drop(snapshot);
        tokio::select! {
            () = tokio::time::sleep(PAUSE.min(wait)) => {}
            signal = tileset_run.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
    }
}

// Renders again, at the snapshot of the commit, what changed since the snapshots of the shards.

/// The tiles that were rendered again.
pub(crate) struct Repairs {
    /// The edits of these tiles.
    pub(crate) run: RunReader,
    pub(crate) outcome: PipelineOutcome,
    pub(crate) dirty: Dirty,
    /// The box around all changes.
    pub(crate) bounds: Option<LonLatBox>,
}

/// The oldest state that a tile of a shard may show: what all shards, and all attempts that have added tiles to the
/// target, have seen.
pub(crate) fn seen_by_all(shards: &[DoneNote], shared: Option<&SharedTiles>) -> Result<Option<Cursor>, CommandError> {
    let others = shared.iter().flat_map(|shared| &shared.others).map(|other| &other.cursor);
    let mut all: Option<Cursor> = None;
    for text in shards.iter().map(|shard| &shard.cursor).chain(others) {
        let own: Cursor = text.parse()?;
        all = Some(all.map_or_else(|| own.clone(), |all| all.meet(&own)));
    }
    Ok(all)
}

/// Renders what changed since the cursor of `look`; `None` if nothing has.
pub(crate) async fn repairs(of: ShardRun<'_>, look: &Look<'_>) -> Result<Option<Repairs>, CommandError> {
    let ShardRun { tileset_run, work, plan } = of;
    let changed = match look.work(None).await? {
        Work::Nothing => return Ok(None),
        Work::Some(changed) => changed,
        Work::All(_) => return Err(CommandError::Incomplete("a commit has to tell changes apart".to_owned())),
    };
    let tiles = changed.dirty.in_order(plan.needs().order);
    let drawn: Vec<DrawnLayer> = look.layers.iter().map(|layer| drawn(layer)).collect();
    let run = &tileset_run.settings.run;
    let mut batches = batches(&tiles, &drawn, run.workers, None, |_layer, _rect| SearchBox::Area);
    let count = run.workers.get().min(batches.len());
    let workers = Worker::open(&look.database, &look.snapshot, &look.locks, run.limits.packing, count).await?;
    look.search(&mut batches, &tiles, &drawn, &changed.dirty).await?;
    tileset_run.report.event(&Event::Planned {
        tiles: tiles.len() as u64,
        features: batches.iter().map(crate::tile::Batch::features).sum(),
        batches: batches.len() as u64,
    });
    let layers: Vec<PreparedLayer> = look.layers.iter().map(PreparedLayer::new).collect();
    let layers = RunLayers::new(&layers);
    let renderers: Vec<Renderer> = workers.into_iter().map(|worker| Renderer::new(worker, &layers)).collect();
    let (files, needs, folder) = (work.files.clone(), plan.needs(), plan.run.clone());
    let place = format!("the repairs of run {}", plan.run);
    let sink = spawn_blocking(move || RunSink::begin(files.begin(&folder)?, needs, place)).await??;
    let ran = render_batches(tileset_run, batches, renderers, sink, run.limits, None).await;
    let (sink, outcome) = unless_outdated(tileset_run, ran, &look.snapshot, &look.reads).await?;
    let place = format!("the repairs of run {}", plan.run);
    let run = spawn_blocking(move || RunReader::of_own(&sink.end()?, place)).await??;
    let bounds = changed.bounds();
    Ok(Some(Repairs { run, outcome, dirty: changed.dirty, bounds }))
}
