//! `shards begin --hold`: keeps the snapshot until the run has ended.

use std::time::{Duration, Instant};

use super::begin::BegunRun;
use crate::run::attempts::aside;
use crate::run::{CommandError, Job};
use crate::shards::{ShardsError, WorkFolder};

/// The pause between two looks at the work folder.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// The interval at which the server is queried: network address translation and load balancers drop connections that are idle for some 350 s.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Waits until the run is committed or given up, or `limit` has passed.
///
/// # Errors
/// If the session is lost, or the limit has passed before the run has ended. Shards that have imported the snapshot continue.
pub async fn hold(job: &Job, work: &WorkFolder, begun: &BegunRun, limit: Duration) -> Result<(), CommandError> {
    let ended = Box::pin(until_ended(job, work, begun, limit)).await;
    if ended.is_err() {
        // Shards need not try to import it any more.
        let (folder, run) = (work.clone(), begun.plan.run.clone());
        aside(move || folder.forget_snapshot(&run, &run)).await??;
    }
    ended
}

async fn until_ended(job: &Job, work: &WorkFolder, begun: &BegunRun, limit: Duration) -> Result<(), CommandError> {
    let (since, mut asked) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE.min(limit)) => {}
            signal = job.stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
        let (folder, run) = (work.clone(), begun.plan.run.clone());
        match aside(move || folder.end_of(&run)).await? {
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
