//! Lets a commit wait for a database that is behind those of the shards, such as a replica that has not yet seen what a shard has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::repair::cursor;
use crate::changes::Cursor;
use crate::postgis::{Database, Snapshot};
use crate::run::{CommandError, Job};
use crate::shards::ShardsError;

/// The pause before the database is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The database state that a shard has seen.
pub(super) struct SeenByShard {
    shard: u32,
    seen: Cursor,
}

impl SeenByShard {
    /// The state from a shard's note: `seen` is a `pg_current_snapshot()`.
    pub(super) fn of(shard: u32, seen: &str) -> Result<SeenByShard, CommandError> {
        Ok(SeenByShard { shard, seen: cursor(seen)? })
    }
}

/// The job's snapshot, once it has seen everything that the shards have seen. Waits for that up to `wait`.
///
/// # Errors
/// If the database is still behind after that time, or cannot be asked.
pub(super) async fn caught_up(
    job: &Job,
    database: &Database,
    shards: &[SeenByShard],
    wait: Duration,
) -> Result<Arc<Snapshot>, CommandError> {
    let since = Instant::now();
    loop {
        let snapshot = job.take_snapshot(database, false).await?;
        let now = cursor(snapshot.cursor())?;
        let Some(ahead) = shards.iter().find(|shard| !now.sees_all_of(&shard.seen)) else { return Ok(snapshot) };
        if since.elapsed() >= wait {
            let (shard, behind, ahead) = (ahead.shard, now.to_string(), ahead.seen.to_string());
            return Err(ShardsError::Behind { shard, behind, ahead }.into());
        }
        // A replica does not replay further while a session holds its old snapshot.
        job.release_snapshot();
        drop(snapshot);
        tokio::select! {
            () = tokio::time::sleep(PAUSE.min(wait)) => {}
            signal = job.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
    }
}
