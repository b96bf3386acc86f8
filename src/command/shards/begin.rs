//! `shards begin`: claims the target, surveys, plans, cuts the plan into shards of about equal weight, and writes the plan.

use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use super::weigh::{LayerCost, WeighedLayer, weigh};
use crate::changes::{self, TrackedLayer, tracked};
use crate::postgis::{Database, Layer, Reads, Snapshot};
use crate::run::attempts::{aside, restarting};
use crate::run::describe::vanishing::layers_that_end_early;
use crate::run::describe::{LogIdentity, fingerprint, names};
use crate::run::prepare::{Prepared, prepare_on};
use crate::run::seed::claim;
use crate::run::{CommandError, Job};
use crate::shards::{PLAN_VERSION, PlannedShard, ShardPlan, ShardsError, StateKind, WorkFolder, cut, random_id};
use crate::sink::{GENERATOR, Needs, Sink as _, new_version};
use crate::tile::{AreaPart, Order, Zoom};

/// The options of `shards begin`, in addition to the settings.
#[derive(Debug, Clone, Copy)]
pub struct BeginOptions {
    /// The number of shards.
    pub shards: u32,
    /// One snapshot is held for all shards.
    pub hold: bool,
    /// Nothing writes the database during the run.
    pub frozen: bool,
    /// The most sessions of all shards together; by default half of what the server allows.
    pub connections: Option<u32>,
}

/// A run that was begun. With `--hold`, its snapshot lives as long as this value.
pub struct BegunRun {
    /// The plan.
    pub plan: ShardPlan,
    pub(super) snapshot: Arc<Snapshot>,
}

/// Begins a run.
///
/// # Errors
/// If another run was begun in the work folder, the target holds another tileset, or the database cannot be read.
pub async fn begin(job: &Job, work: &WorkFolder, options: BeginOptions) -> Result<BegunRun, CommandError> {
    check_folder(work).await?;
    let needs = {
        let sink = claim(job).await?.sink;
        let needs = sink.needs();
        // The commit needs the sink's lock.
        aside(move || drop(sink)).await?;
        needs
    };
    let attempt = async |_restarts| Box::pin(attempt(job, work, options, needs)).await;
    restarting(&job.settings.database, &job.report, &job.stop, attempt).await
}

/// Refuses a work folder that holds a run or other files.
async fn check_folder(work: &WorkFolder) -> Result<(), CommandError> {
    let folder = work.clone();
    if let Some(run) = aside(move || folder.run()).await?? {
        return Err(ShardsError::Begun { work: work.name.clone(), run }.into());
    }
    let folder = work.clone();
    if let Some(example) = aside(move || folder.files.stranger()).await?.map_err(ShardsError::from)? {
        return Err(ShardsError::Stranger { work: work.name.clone(), example }.into());
    }
    Ok(())
}

async fn attempt(job: &Job, work: &WorkFolder, options: BeginOptions, needs: Needs) -> Result<BegunRun, CommandError> {
    let (begun, started) = (Instant::now(), std::time::SystemTime::now());
    if !options.hold
        && let Some(layer) = job.settings.tileset.layers.iter().find(|layer| layer.options.refresh)
    {
        return Err(ShardsError::Refreshes { layer: layer.options.name.clone() }.into());
    }
    let database = job.database()?;
    let snapshot = job.take_snapshot(&database, options.hold).await?;
    // Weights are gathered by columns, so the order of the target does not matter.
    let mut prepared = prepare_on(job, &database, Arc::clone(&snapshot), Order::ZoomColumnTmsRow, 0, begun).await?;
    prepared.warn(layers_that_end_early(&job.settings), &job.report);
    let state = match (options.hold, options.frozen) {
        (true, _) => StateKind::Held,
        (_, true) => StateKind::Frozen,
        _ => {
            check_tracked(job, &database, &snapshot, &prepared.layers, &prepared.reads).await?;
            StateKind::Tracked
        }
    };
    let connections = match options.connections {
        Some(connections) => connections,
        None => u32::try_from(snapshot.check_session_room(0, "").await?.most / 2).unwrap_or(u32::MAX),
    };
    let log = LogIdentity::read(&snapshot, &job.settings.database.changes.schema, [snapshot.cursor()]).await?;
    let tileset = &job.settings.tileset;
    let run = random_id();
    let shared_version = job.target.can_share_version().then(|| {
        // Two runs that begin in the same second must not share a version.
        format!("{}-{}", new_version(started, None), &run[..8])
    });
    let plan = ShardPlan {
        version: PLAN_VERSION,
        run,
        generator: GENERATOR.to_owned(),
        fingerprint: fingerprint(&job.settings, &prepared.layers),
        reads: prepared.reads.digest.clone(),
        output: job.target.to_string(),
        zooms: tileset.zooms.to_string(),
        bbox: tileset.bbox.iter().map(AreaPart::to_string).collect(),
        hilbert: needs.order == Order::Hilbert,
        layers_apart: needs.layers_apart,
        shared_version,
        state,
        database: prepared.server.identity.clone(),
        cursor: snapshot.cursor().to_owned(),
        witness: log.and_then(|log| log.witness(snapshot.cursor()).cloned()),
        seen: snapshot.exported().seen().to_owned(),
        connections,
        started: started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        plan_seconds: begun.elapsed().as_secs_f64(),
        tiles: prepared.zooms.iter().map(|zoom| zoom.tiles).sum(),
        features: prepared.zooms.iter().map(|zoom| zoom.features).sum(),
        rows: prepared.rows.clone(),
        bounds: prepared.bounds,
        skipped: prepared.skipped.clone(),
        warnings: prepared.warnings.clone(),
        shards: shards_of(&prepared, options.shards, job.settings.run.rows_memory),
    };
    let (folder, written) = (work.clone(), plan.clone());
    let (target, layers) = (job.target.clone(), names(&prepared.layers));
    let exported = (state == StateKind::Held).then(|| snapshot.exported().clone());
    aside(move || {
        folder.files.make().map_err(ShardsError::from)?;
        // The snapshot is written first, because a shard that sees the plan looks for it.
        if let Some(exported) = &exported {
            folder.add_snapshot(&written.run, &written.run, exported)?;
        }
        if let Some(version) = written.shared() {
            target.begin_shared(&version, &layers)?;
        }
        let shared = written.shared();
        match (folder.begin(&written), shared) {
            (Err(error), Some(version)) => {
                target.give_up_shared(&version)?;
                Err(error.into())
            }
            (begun, _) => begun.map_err(CommandError::from),
        }
    })
    .await??;
    Ok(BegunRun { plan, snapshot })
}

/// The plan cut into shards.
fn shards_of(prepared: &Prepared, count: u32, rows_memory: usize) -> Vec<PlannedShard> {
    let weighed =
        |(layer, rows): (&Arc<Layer>, &u64)| WeighedLayer { cost: LayerCost::of(layer, rows_memory), rows: *rows };
    let layers: Vec<WeighedLayer> = prepared.layers.iter().zip(&prepared.features).map(weighed).collect();
    let zooms: Vec<Zoom> = prepared.zooms.iter().map(|zoom| zoom.zoom).collect();
    cut(&weigh(&prepared.zooms, &layers), &zooms, count)
}

/// Refuses a database whose change log could not tell the commit what changed since the shards' snapshots.
async fn check_tracked(
    job: &Job,
    database: &Database,
    snapshot: &Arc<Snapshot>,
    layers: &[Arc<Layer>],
    reads: &Reads,
) -> Result<(), CommandError> {
    if let Some(table) = &reads.row_security {
        let why = format!("{table} has row level security, so rows may appear without being changed");
        return Err(ShardsError::NoState { why }.into());
    }
    let reading: Vec<TrackedLayer<'_>> = (layers.iter().zip(&job.settings.tileset.layers))
        .map(|(layer, settings)| TrackedLayer { layer, track: &settings.track, refreshes: false })
        .collect();
    let cursor = snapshot.cursor().parse().unwrap_or_default();
    let schema = &job.settings.database.changes.schema;
    match tracked(database, snapshot, schema, &reading, &cursor).await {
        Ok(_) => Ok(()),
        Err(changes::ChangeLogError::Untracked(why)) => Err(ShardsError::NoState { why: why.to_string() }.into()),
        Err(other) => Err(other.into()),
    }
}
