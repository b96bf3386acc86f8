//! The limits on the database sessions of all tilesets' live tiles together.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::follow::LOG_SESSIONS;
use crate::config::DatabaseSettings;
use crate::postgis::{Database, Error, SessionOptions};
use crate::serve::WorkerShares;
use crate::stop::Stop;

/// Sessions of one tileset that hold snapshots: the present one, and the one before while tiles of it are being rendered.
pub(super) const SNAPSHOTS: usize = 2;

/// The most snapshots of all tilesets. If more tilesets are in use at once, some wait until a snapshot of another one has ended, which takes a
/// second or a little more.
const MAX_SNAPSHOTS: usize = 16;

/// Sessions that watch whether others wait for the locks of a snapshot.
const LOCK_WATCHERS: usize = 1;

/// The limits, and the pool of connections that the tilesets share. The pool keeps the connections open that it has opened.
pub(super) struct LiveBounds {
    pool: OnceLock<Database>,
    tilesets: usize,
    workers: usize,
    snapshots: Arc<Semaphore>,
    idle: Arc<Semaphore>,
    /// The plans of statements that take longer are logged.
    pub(super) explain_after: Option<Duration>,
}

impl LiveBounds {
    /// The limits for `tilesets` tilesets.
    pub(super) fn new(tilesets: usize, shares: WorkerShares, explain_after: Option<Duration>) -> LiveBounds {
        let workers = shares.workers().get();
        // A single tileset never has more than these anyway.
        let idle = if tilesets > 1 { workers } else { workers * SNAPSHOTS };
        LiveBounds {
            pool: OnceLock::new(),
            tilesets,
            workers,
            snapshots: Arc::new(Semaphore::new(LiveBounds::most_snapshots(tilesets))),
            idle: Arc::new(Semaphore::new(idle)),
            explain_after,
        }
    }

    fn most_snapshots(tilesets: usize) -> usize {
        (tilesets * SNAPSHOTS).min(MAX_SNAPSHOTS)
    }

    /// The database. Its pool has room for the sessions that render and the sessions that hold snapshots.
    ///
    /// # Errors
    /// If the settings of the connection do not fit together.
    pub(super) fn database(&self, settings: &DatabaseSettings, stop: &Stop) -> Result<Database, Error> {
        if let Some(database) = self.pool.get() {
            return Ok(database.clone());
        }
        let rendering = if self.tilesets == 1 { self.workers } else { 2 * self.workers };
        let connections = rendering + LiveBounds::most_snapshots(self.tilesets);
        let session = SessionOptions { connections, ..settings.session.clone() };
        let database = Database::new(&settings.connect, session, stop)?;
        Ok(self.pool.get_or_init(|| database).clone())
    }

    /// Waits for the right to hold a snapshot. Never returns `None`, because the semaphore is never closed.
    pub(super) async fn snapshot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.snapshots).acquire_owned().await.ok()
    }

    /// The right of a session to wait idle for its next tile; `None` if other sessions have all of these rights, so that the session has to be
    /// closed.
    pub(super) fn idle(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.idle).try_acquire_owned().ok()
    }

    /// The most sessions that all tilesets have at once.
    pub(super) fn sessions(&self) -> usize {
        let followers = self.tilesets * LOG_SESSIONS;
        if self.tilesets == 1 {
            return self.workers + SNAPSHOTS + LOCK_WATCHERS + followers;
        }
        // Sessions that render, and as many that wait for their next tile.
        2 * self.workers + LiveBounds::most_snapshots(self.tilesets) * (1 + LOCK_WATCHERS) + followers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tilesets_take_no_more_of_the_database_than_the_bounds_say() {
        let workers = std::num::NonZeroUsize::new(4).unwrap();
        let shares = WorkerShares::new(workers, None, None).unwrap();
        let sessions = |tilesets| LiveBounds::new(tilesets, shares, None).sessions();
        assert_eq!((sessions(1), sessions(2), sessions(50)), (9, 20, 140));
        let bounds = LiveBounds::new(50, shares, None);
        let held: Vec<_> = std::iter::from_fn(|| Arc::clone(&bounds.snapshots).try_acquire_owned().ok()).collect();
        let idle: Vec<_> = std::iter::from_fn(|| bounds.idle()).collect();
        assert_eq!((held.len(), idle.len()), (16, 4));
        drop(idle);
        assert!(bounds.idle().is_some());
    }
}
