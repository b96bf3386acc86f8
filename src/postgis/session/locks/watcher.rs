//! The watcher: a connection apart from the run's sessions, which looks who waits for them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::super::Database;
use super::queue::{LockQueue, LockWait, held_by};
use super::{GaveWayReason, Locks};

/// The pause between two looks: an eighth of the lock limit, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// After so long without a look the user is told.
const BLIND_LIMIT: Duration = Duration::from_secs(10);

/// Looks who waits for a run, as long as this value lives.
pub(in crate::postgis) struct Watcher(AbortHandle);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watcher {
    /// Begins to look after a pause: a run that ends before holds nobody up, and needs no further connection.
    pub(in crate::postgis) fn start(database: &Database) -> Watcher {
        let database = database.clone();
        Watcher(tokio::spawn(async move { watch(&database).await }).abort_handle())
    }
}

async fn watch(database: &Database) {
    let limit = database.options.lock_limit();
    let pause = (limit / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
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
                    waits.iter().filter(|wait| wait.is_ours).map(|wait| (wait.pid, held_by(wait))).collect(),
                );
                // One pause may have gone by before the wait was seen first.
                if let Some(wait) = waiting.longer_than(limit.saturating_sub(pause), waits) {
                    let reason = GaveWayReason { waiting: format!("{} waited for {}", wait.other, wait.name), limit };
                    return database.locks.give_way(reason).await;
                }
            }
            Err(error) => {
                tracing::debug!("nobody could look who waits for this run: {error}");
                if !is_told && seen_at.elapsed() > BLIND_LIMIT {
                    is_told = true;
                    tracing::warn!(
                        "nobody can look who waits for the locks of this run, so it may hold others up: {error}. It takes one connection beside workers + 1"
                    );
                }
            }
        }
    }
}

/// Since when each process waits for each relation.
#[derive(Debug, Default)]
struct Waiting(HashMap<(i32, u32), Instant>);

impl Waiting {
    /// Takes what was seen now; gives a wait of others for the run that lasts at least so long, if there is one.
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
