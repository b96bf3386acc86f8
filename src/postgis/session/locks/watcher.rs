//! The lock watcher: a separate connection that finds processes waiting for the run's sessions.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::super::Database;
use super::queue::{LockQueue, LockWait, holder_text};
use super::{GaveWayReason, Locks};

/// The shortest pause between two reads of the lock queue. Between the limits, the pause is an eighth of `lock_timeout`.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two reads of the lock queue.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The time without a successful read after which the user is warned.
const WARNING_DELAY: Duration = Duration::from_secs(10);

/// Watches for processes that wait for a run, until it is dropped.
pub(in crate::postgis) struct LockWatcher(AbortHandle);

impl Drop for LockWatcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LockWatcher {
    /// Starts watching after one pause. A run that ends before then delays nobody, and needs no connection for the watcher.
    pub(in crate::postgis) fn start(database: &Database) -> LockWatcher {
        let database = database.clone();
        LockWatcher(tokio::spawn(async move { watch(&database).await }).abort_handle())
    }
}

async fn watch(database: &Database) {
    let limit = database.options.lock_limit();
    let pause = (limit / 8).clamp(MIN_PAUSE, MAX_PAUSE);
    let (mut look, mut seen_at, mut is_told) = (None, Instant::now(), false);
    let mut waiting = Waiting::default();
    loop {
        tokio::time::sleep(pause).await;
        let looked = match look.take() {
            Some(look) => Ok(look),
            None => LockQueue::open(database).await,
        };
        let looked = match looked {
            Ok(opened) => opened.queue(&database.locks.ids()).await.map(|waits| (opened, waits)),
            Err(error) => Err(error),
        };
        match looked {
            Ok((opened, waits)) => {
                (look, seen_at) = (Some(opened), Instant::now());
                database.locks.set_waits(
                    waits.iter().filter(|wait| wait.is_ours).map(|wait| (wait.pid, holder_text(wait))).collect(),
                );
                // A wait may have begun up to one pause before the watcher first saw it.
                if let Some(wait) = waiting.longer_than(limit.saturating_sub(pause), waits) {
                    let reason = GaveWayReason { waiting: format!("{} waited for {}", wait.other, wait.name), limit };
                    return database.locks.give_way(reason).await;
                }
            }
            Err(error) => {
                tracing::debug!("the lock queue cannot be read: {error}");
                if !is_told && seen_at.elapsed() > WARNING_DELAY {
                    is_told = true;
                    tracing::warn!(
                        "this run cannot see which processes wait for its locks, so it may delay them: {error}. Seeing them takes one connection beside workers + 1"
                    );
                }
            }
        }
    }
}

/// When the wait of a process for a relation was first seen, by process and relation.
#[derive(Debug, Default)]
struct Waiting(HashMap<(i32, u32), Instant>);

impl Waiting {
    /// Records the waits seen now. Returns a wait of another process for the run that has lasted at least `limit`, if there is one.
    fn longer_than(&mut self, limit: Duration, waits: Vec<LockWait>) -> Option<LockWait> {
        let waits: Vec<LockWait> = waits.into_iter().filter(|wait| !wait.is_ours).collect();
        let seen: HashSet<(i32, u32)> = waits.iter().map(|wait| (wait.pid, wait.relation)).collect();
        self.0.retain(|wait, _| seen.contains(wait));
        let now = Instant::now();
        for wait in seen {
            self.0.entry(wait).or_insert(now);
        }
        waits.into_iter().find(|wait| {
            let since = self.0.get(&(wait.pid, wait.relation));
            since.is_some_and(|since| now.duration_since(*since) >= limit)
        })
    }
}

impl Locks {
    /// The virtual ids of the run's transactions.
    pub(in crate::postgis) fn ids(&self) -> Vec<String> {
        let transactions = self.transactions();
        transactions.iter().filter_map(|one| one.backend()).map(|backend| backend.transaction.clone()).collect()
    }
}
