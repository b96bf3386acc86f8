//! Locks: a run takes them early, waits only briefly for each, and releases all of them when others have waited too long.
//!
//! A reading session holds `ACCESS SHARE` on tables and indexes until its transaction ends. `ALTER TABLE`, `TRUNCATE` and the like wait for
//! it, and every later session queues behind them: other readers, and the run's own sessions. PostgreSQL does not see this as a deadlock,
//! because the session that holds the lock waits in the client, not in the server. Three rules keep such waits short:
//!
//! - Before the sessions render, every session locks everything that the layers read (`probe::LayerLocks`). A seed takes these locks between the
//!   probe of names and the probe of rows, so before any session reads a row. A reseed takes them once it knows the number of sessions, which is
//!   after the session that holds the snapshot has looked for the dirty tiles (with `--area`, by a survey).
//! - No session waits longer than `lock_timeout` for a lock. After a longer wait the run starts over. While a session takes the locks of the layers,
//!   it waits at most 200 ms at a time and releases its locks in between (`attempts`), so that it cannot take part in a deadlock.
//! - A separate connection watches which processes wait for the run (`watcher`, `queue`). After `lock_timeout` the run gives way: it ends all of
//!   its transactions, and starts over on a new snapshot if it still needs the database.
//!
//! Some relations are read by one session only: the session that holds the snapshot reads the change log, runs the queries of `[[layer.track]]`, and
//! (in a reseed) reads rows for the probe. That session locks them at their first statement. Because only this session uses them, any deadlock over
//! them is visible to PostgreSQL: if another process holds one of them and waits for a layer's table, the session that holds that table is the one
//! that waits in the server, so PostgreSQL sees the circle and ends it.

mod attempts;
mod queue;
mod room;
mod watcher;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::Database;
use super::error::Error;
use super::transaction::Transaction;

pub(in crate::postgis) use attempts::LockAttempts;
pub(super) use watcher::LockWatcher;

/// The longest wait for the run's transactions to end once it gives way.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// The locks of a run: the transactions that hold them, and what the watcher found.
#[derive(Debug)]
pub(in crate::postgis) struct Locks {
    /// The transactions that have not ended.
    transactions: Mutex<Vec<Weak<Transaction>>>,
    /// For each waiting process of the run, by its id: the lock and its holder in words, as the watcher saw them last.
    waits: Mutex<HashMap<i32, String>>,
    /// Set once, when the run gives way.
    gave_way: watch::Sender<Option<GaveWayReason>>,
}

/// Why a run gave way.
#[derive(Debug, Clone)]
struct GaveWayReason {
    /// The process and the relation that it waited for, in words.
    waiting: String,
    limit: Duration,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks { transactions: Mutex::default(), waits: Mutex::default(), gave_way: watch::Sender::new(None) }
    }
}

impl Locks {
    /// Registers a transaction that is about to begin.
    pub(in crate::postgis) fn register(&self, transaction: &Arc<Transaction>) {
        let mut all = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(transaction));
    }

    fn transactions(&self) -> Vec<Arc<Transaction>> {
        let all = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// The error of every statement after the run gave way; `None` if the run did not give way.
    pub(in crate::postgis) fn gave_way_error(&self) -> Option<Error> {
        let reason = self.gave_way.borrow();
        let GaveWayReason { waiting, limit } = reason.as_ref()?;
        Some(Error::GaveWay { waiting: waiting.clone(), limit: humantime::format_duration(*limit).to_string() })
    }

    /// Waits until the run gives way.
    pub(in crate::postgis) async fn giving_way(&self) {
        let mut reason = self.gave_way.subscribe();
        if reason.wait_for(Option::is_some).await.is_err() {
            // The sender lives in `self`.
            std::future::pending::<()>().await;
        }
    }

    /// Ends all transactions of the run. Sessions that run a statement cancel it.
    async fn give_way(&self, reason: GaveWayReason) {
        self.gave_way.send_replace(Some(reason));
        let transactions = self.transactions();
        let ended = join_all(transactions.iter().map(|transaction| transaction.roll_back()));
        match tokio::time::timeout(RELEASE_LIMIT, ended).await {
            Ok(ended) => {
                // A transaction whose connection broke has ended, too.
                ended
                    .into_iter()
                    .filter_map(Result::err)
                    .for_each(|error| tracing::debug!("a transaction ended: {error}"));
            }
            Err(_elapsed) => tracing::warn!("not every transaction of the run has ended: some locks are still held"),
        }
    }

    fn set_waits(&self, waits: HashMap<i32, String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    fn holder_of_wait(&self, pid: i32) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).cloned()
    }
}

impl Database {
    /// Adds the lock, and the process that holds it, as far as known, to the error of a statement that waited too long for a lock.
    pub(in crate::postgis) async fn with_holder(&self, pid: Option<i32>, error: Error) -> Error {
        let Error::Locked { context, wait, source, .. } = error else { return error };
        let seen = pid.and_then(|pid| self.locks.holder_of_wait(pid));
        let holder = match seen {
            Some(seen) => seen,
            None => queue::exclusive_locks(self).await.unwrap_or_default(),
        };
        Error::Locked { context, wait, holder, source }
    }
}
