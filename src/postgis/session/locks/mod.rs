//! Locks: a run takes them early, waits for none of them long, and lets go of all of them when it holds others up.
//!
//! A session that reads holds `ACCESS SHARE` on tables and indexes until its transaction ends. `ALTER TABLE`, `TRUNCATE` and the like
//! wait for it, and whoever comes later waits for them: other readers, and the run's own sessions. PostgreSQL sees no deadlock in
//! that, because the session that is waited for waits in the client. Three things keep such waits short:
//!
//! - each session takes the locks on all that the layers read before any session of the run reads a row (`probe::LayerLocks`): in a seed
//!   between the probe's names and its rows, in a reseed before the survey, once it is known how many sessions it takes;
//! - no session waits longer than `lock_timeout` for a lock, and a wait that was too long starts the run over;
//! - a session of its own looks who waits for the run (`watcher`, `queue`). After `lock_timeout` the run gives way: all of its
//!   transactions end at once, and it starts over on a new snapshot if it still needs the database.
//!
//! Only the session that holds the snapshot reads the change log, the queries of `[[layer.track]]`, and (in a reseed) the rows that the probe
//! looks at. What they read is locked at their first statement, and that cannot lock out the run: a wait that PostgreSQL does not see takes two
//! sessions of the run that want the same relation. If somebody who holds one of these relations waits for a layer's table, the session
//! that holds that lock is the one that waits for him in the server: PostgreSQL sees that circle and ends it.

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

pub(super) use watcher::Watcher;

/// How long the transactions may take to end once the run gives way.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// The locks of a run: the transactions that hold them, and what the watcher has seen of them.
#[derive(Debug)]
pub(in crate::postgis) struct Locks {
    /// Those that have begun and not ended.
    transactions: Mutex<Vec<Weak<Transaction>>>,
    /// What the run's own processes wait for, in words, when the watcher looked last.
    waits: Mutex<HashMap<i32, String>>,
    /// Set once, when the run gives way.
    gave_way: watch::Sender<Option<GaveWayReason>>,
}

/// Why a run gave way.
#[derive(Debug, Clone)]
struct GaveWayReason {
    /// Who waited for what, in words.
    waiting: String,
    limit: Duration,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks { transactions: Mutex::default(), waits: Mutex::default(), gave_way: watch::Sender::new(None) }
    }
}

impl Locks {
    /// Notes a transaction that is about to begin.
    pub(in crate::postgis) fn note(&self, transaction: &Arc<Transaction>) {
        let mut all = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(transaction));
    }

    fn transactions(&self) -> Vec<Arc<Transaction>> {
        let all = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// The error of every statement after the run gave way.
    pub(in crate::postgis) fn gave_way(&self) -> Option<Error> {
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

    /// Ends all transactions of the run. Whoever runs a statement in one cancels it.
    async fn give_way(&self, reason: GaveWayReason) {
        self.gave_way.send_replace(Some(reason));
        let transactions = self.transactions();
        let ended = join_all(transactions.iter().map(|transaction| transaction.roll_back()));
        match tokio::time::timeout(RELEASE_LIMIT, ended).await {
            Ok(ended) => {
                // One whose connection is gone has ended.
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

    fn wait_of(&self, pid: i32) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).cloned()
    }
}

impl Database {
    /// The error of a statement that waited too long for a lock, with what is known of the lock and of who holds it.
    pub(in crate::postgis) async fn with_holder(&self, pid: Option<i32>, error: Error) -> Error {
        let Error::Locked { place, wait, source, .. } = error else { return error };
        let seen = pid.and_then(|pid| self.locks.wait_of(pid));
        let holder = match seen {
            Some(seen) => seen,
            None => queue::exclusive_locks(self).await.unwrap_or_default(),
        };
        Error::Locked { place, wait, holder, source }
    }
}
