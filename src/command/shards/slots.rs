//! Limits how many shards are connected at once, however many the scheduler starts. The plan's connections are divided into slots, and a shard
//! renders only while it holds the lease of a slot.

use std::time::Duration;

use crate::run::attempts::aside;
use crate::run::writer_lease::{LeaseWait, WriterLease};
use crate::run::{CommandError, Job};
use crate::shards::{ShardsError, WorkFolder};

/// How long a slot is kept for a shard that does not renew its lease.
const LEASE: Duration = Duration::from_secs(30);

/// The most slots in addition to one for each shard. A shard that was killed and is run again need not wait until the lease of the previous
/// attempt has ended.
const SPARE_PLACES: u32 = 8;

/// The pause between two rounds through the slots.
const PAUSE: Duration = Duration::from_secs(1);

/// The sessions of a shard in addition to its workers: the one that holds its snapshot, and the lock watcher.
const SESSIONS_BESIDE_WORKERS: u32 = 2;

/// The slots that the shards of a run share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// The run's id.
    pub(super) run: &'a str,
    /// The most sessions that all shards together may have.
    pub(super) connections: u32,
    /// The number of shards.
    pub(super) shards: u32,
}

impl Places<'_> {
    /// The number of shards that may run at once if each has `workers` workers.
    fn count(&self, workers: usize) -> u32 {
        let each = u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(SESSIONS_BESIDE_WORKERS);
        (self.connections / each).clamp(1, self.shards.max(1).saturating_add(SPARE_PLACES))
    }
}

/// Waits for a slot.
pub(super) async fn slot(job: &Job, work: &WorkFolder, places: Places<'_>) -> Result<WriterLease, CommandError> {
    let count = places.count(job.settings.run.workers.get());
    let first = fastrand::u32(0..count);
    let name = |slot: u32| format!("{}/slot-{slot}.json", places.run);
    let mut waits: Vec<LeaseWait> =
        (0..count).map(|at| LeaseWait::of(work.notes.clone(), name((first + at) % count), LEASE)).collect();
    let mut is_reported = false;
    loop {
        let looked = aside(move || {
            let taken = waits.iter_mut().find_map(|wait| wait.look_once().transpose());
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
            signal = job.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
        let (folder, run) = (work.clone(), places.run.to_owned());
        if aside(move || folder.end_of(&run)).await??.is_some() {
            return Err(ShardsError::Aborted { work: work.name.clone(), run: places.run.to_owned() }.into());
        }
    }
}
