//! `oar-tiles shards`: one seed in parts, which the machines of an existing scheduler render. `src/shards` describes
//! the parts and their files.
//!
//! | file | what |
//! |---|---|
//! | `begin` | the plan; what tiles and rows cost; whether a process has the settings and the database of the plan |
//! | `run` | an attempt at a shard: its slot, its heartbeat, its end; renders one shard |
//! | `commit` | waits for a database that is behind; counts, merges, publishes; renders again what changed since the snapshots of the shards |
//! | `resume` | `seed --resume`: all shards in one process, beside the target |
//! | `stream` | the edits of all shards, handed to the target |
//! | `status` | finds out which shards are missing; `status` and `abort` |

mod begin;
mod commit;
mod resume;
mod run;
mod status;
mod stream;

use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::writer_lease::{LeaseWait, WriterLease};
use super::{CommandError, TilesetRun};
use crate::config::Settings;
use crate::report::{Style, report};
use crate::shards::{ShardPlan, ShardsError, WorkFolder};
use crate::stop::Stop;

pub(crate) use begin::{BeginOptions, BegunRun, ShardCount, begin, boxes_of, zooms_of};
pub use begin::{COST_UNIT, LayerCost, WeighedLayer, weigh};
pub(crate) use commit::commit;
pub(crate) use resume::resume;
pub(crate) use run::{ShardEnd, run};
pub(crate) use status::{abort, status};

/// A run that was begun: the settings and target of this process, the work folder, and the plan in it.
#[derive(Clone, Copy)]
pub(crate) struct ShardRun<'a> {
    pub(crate) tileset_run: &'a TilesetRun,
    pub(crate) work: &'a WorkFolder,
    pub(crate) plan: &'a ShardPlan,
}

/// A run for commands that need only the settings: how targets and the work folder are reached.
pub(crate) fn quiet_run(settings: &Settings, stop: &Stop) -> Result<TilesetRun, CommandError> {
    TilesetRun::new(settings.clone(), false, &report(Style::Nothing), stop)
}

/// The work folder that `work` names, reached as the settings say.
pub(crate) fn folder(settings: &Settings, work: &str, stop: &Stop) -> Result<WorkFolder, CommandError> {
    quiet_run(settings, stop)?.target.work_folder(work)
}

// `shards begin --hold`: keeps the snapshot until the run has ended.

/// The pause between two looks at the work folder.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// The interval at which the server is queried: network address translation and load balancers drop connections that
/// are idle for some 350 s.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Waits until the run is committed or given up, or `limit` has passed. Fails if the session is lost, or the limit has
/// passed before the run has ended. Shards that have imported the snapshot continue.
pub(crate) async fn hold(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    begun: &BegunRun,
    limit: Duration,
) -> Result<(), CommandError> {
    let ended = Box::pin(until_ended(tileset_run, work, begun, limit)).await;
    if ended.is_err() {
        // Shards need not try to import it any more.
        let (folder, run) = (work.clone(), begun.plan.run.clone());
        spawn_blocking(move || folder.forget_snapshot(&run, &run)).await??;
    }
    ended
}

async fn until_ended(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    begun: &BegunRun,
    limit: Duration,
) -> Result<(), CommandError> {
    let (since, mut asked) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE.min(limit)) => {}
            signal = tileset_run.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
        let (folder, run) = (work.clone(), begun.plan.run.clone());
        match spawn_blocking(move || folder.end_of(&run)).await? {
            Ok(Some(_end)) => return Ok(()),
            Ok(None) => {}
            Err(error) => tracing::warn!("the work folder cannot be read yet: {error}"),
        }
        if since.elapsed() >= limit {
            let run = begun.plan.run.clone();
            return Err(ShardsError::HoldLimit { run, limit: humantime::format_duration(limit).to_string() }.into());
        }
        if asked.elapsed() >= KEEP_ALIVE {
            begun.snapshot.keep_alive().await?;
            asked = Instant::now();
        }
    }
}

// Limits how many shards are connected at once, however many the scheduler starts. The plan's connections are divided
// into slots, and a shard renders only while it holds the lease of a slot.

/// How long a slot is kept for a shard that does not renew its lease.
const LEASE: Duration = Duration::from_secs(30);

/// The most slots in addition to one for each shard. A shard that was killed and is run again need not wait until the
/// lease of the previous attempt has ended.
const SPARE_PLACES: u32 = 8;

/// The pause between two rounds through the slots.
const PAUSE: Duration = Duration::from_secs(1);

/// The sessions of a shard in addition to its workers: the one that holds its snapshot, and the lock watcher.
const SESSIONS_BESIDE_WORKERS: u32 = 2;

/// The slots that the shards of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The run's id.
    pub(crate) run: &'a str,
    /// The most sessions that all shards together may have.
    pub(crate) connections: u32,
    pub(crate) shards: u32,
}

impl Places<'_> {
    /// The number of shards that may run at once if each has `workers` workers.
    fn count(&self, workers: usize) -> u32 {
        let each = u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(SESSIONS_BESIDE_WORKERS);
        (self.connections / each).clamp(1, self.shards.max(1).saturating_add(SPARE_PLACES))
    }
}

pub(crate) async fn slot(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    places: Places<'_>,
) -> Result<WriterLease, CommandError> {
    let count = places.count(tileset_run.settings.run.workers.get());
    let first = fastrand::u32(0..count);
    let name = |slot: u32| format!("{}/slot-{slot}.json", places.run);
    let mut waits: Vec<LeaseWait> =
        (0..count).map(|at| LeaseWait::on_note(work.notes.clone(), name((first + at) % count), LEASE)).collect();
    let mut is_reported = false;
    loop {
        let looked = spawn_blocking(move || {
            let taken = waits.iter_mut().find_map(|wait| wait.take_if_free().transpose());
            (waits, taken)
        });
        let (back, taken) = looked.await?;
        waits = back;
        if let Some(taken) = taken {
            return Ok(taken.map_err(ShardsError::from)?);
        }
        if !is_reported {
            tracing::info!("waiting for one of the {count} places among {} connections", places.connections);
            is_reported = true;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())) => {}
            signal = tileset_run.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
        let (folder, run) = (work.clone(), places.run.to_owned());
        if spawn_blocking(move || folder.end_of(&run)).await??.is_some() {
            return Err(ShardsError::Aborted { work: work.name.clone(), run: places.run.to_owned() }.into());
        }
    }
}
