//! The limits on the database sessions of all tilesets' live tiles together.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::follow::LOG_SESSIONS;
use crate::config::DatabaseSettings;
use crate::postgis::{Database, Error, SessionOptions};
use crate::serve::WorkerShares;
use crate::stop::Stop;

/// Sessions of one tileset that hold snapshots: the present one, and the one before while tiles of it are being
/// rendered.
const SNAPSHOTS: usize = 2;

/// Sessions of all tilesets that hold a snapshot on which live rows are read. One tileset after the other reads them.
const ROW_READERS: usize = 1;

/// Sessions of all tilesets that ask which rows match a filter, besides those that draw.
const SET_READERS: usize = 2;

/// The most snapshots of all tilesets. If more tilesets are in use at once, some wait until a snapshot of another one
/// has ended, which takes a second or a little more.
const MAX_SNAPSHOTS: usize = 16;

/// Sessions that watch whether others wait for the locks of a snapshot.
const LOCK_WATCHERS: usize = 1;

/// The limits, and the pool of connections that the tilesets share. The pool keeps the connections open that it has
/// opened.
pub(crate) struct LiveBounds {
    pool: OnceLock<Database>,
    tilesets: usize,
    workers: usize,
    snapshots: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    idle: Arc<Semaphore>,
    /// The plans of statements that take longer are logged.
    pub(crate) explain_after: Option<Duration>,
}

impl LiveBounds {
    pub(crate) fn new(tilesets: usize, shares: WorkerShares, explain_after: Option<Duration>) -> LiveBounds {
        let workers = shares.workers().get();
        // A single tileset never has more than these anyway.
        let idle = if tilesets > 1 { workers } else { workers * SNAPSHOTS };
        LiveBounds {
            pool: OnceLock::new(),
            tilesets,
            workers,
            snapshots: Arc::new(Semaphore::new(LiveBounds::most_snapshots(tilesets))),
            reading: Arc::new(Semaphore::new(ROW_READERS)),
            asking: Arc::new(Semaphore::new(SET_READERS)),
            idle: Arc::new(Semaphore::new(idle)),
            explain_after,
        }
    }

    /// The memory for live rows of each tileset, if all may take `all` together.
    pub(crate) fn rows_memory(&self, all: usize) -> usize {
        all / self.tilesets.max(1)
    }

    fn most_snapshots(tilesets: usize) -> usize {
        (tilesets * SNAPSHOTS).min(MAX_SNAPSHOTS)
    }

    /// The database. Its pool has room for the sessions that render and the sessions that hold snapshots.
    pub(crate) fn database(&self, settings: &DatabaseSettings, stop: &Stop) -> Result<Database, Error> {
        if let Some(database) = self.pool.get() {
            return Ok(database.clone());
        }
        let rendering = if self.tilesets == 1 { self.workers } else { 2 * self.workers };
        let connections = rendering + LiveBounds::most_snapshots(self.tilesets) + ROW_READERS + SET_READERS;
        let session = SessionOptions { connections, ..settings.session.clone() };
        let database = Database::new(&settings.connect, session, stop)?;
        Ok(self.pool.get_or_init(|| database).clone())
    }

    /// Waits for the right to hold a snapshot. Never returns `None`, because the semaphore is never closed.
    pub(crate) async fn snapshot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.snapshots).acquire_owned().await.ok()
    }

    /// Waits for the right to read live rows. Never returns `None`, because the semaphore is never closed.
    pub(crate) async fn reading(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.reading).acquire_owned().await.ok()
    }

    /// Waits for the right to ask for a matching set. Never returns `None`, because the semaphore is never closed.
    pub(crate) async fn asking(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.asking).acquire_owned().await.ok()
    }

    /// The right of a session to wait idle for its next tile; `None` if other sessions have all of these rights, so
    /// that the session has to be closed.
    pub(crate) fn idle(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.idle).try_acquire_owned().ok()
    }

    /// The most sessions that all tilesets have at once.
    pub(crate) fn sessions(&self) -> usize {
        let (followers, readers) = (self.tilesets * LOG_SESSIONS, ROW_READERS * (1 + LOCK_WATCHERS) + SET_READERS);
        if self.tilesets == 1 {
            return self.workers + SNAPSHOTS + LOCK_WATCHERS + readers + followers;
        }
        // Sessions that render, and as many that wait for their next tile.
        2 * self.workers + LiveBounds::most_snapshots(self.tilesets) * (1 + LOCK_WATCHERS) + readers + followers
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
        assert_eq!((sessions(1), sessions(2), sessions(50)), (13, 24, 144));
        let bounds = LiveBounds::new(50, shares, None);
        let held: Vec<_> = std::iter::from_fn(|| Arc::clone(&bounds.snapshots).try_acquire_owned().ok()).collect();
        let idle: Vec<_> = std::iter::from_fn(|| bounds.idle()).collect();
        assert_eq!((held.len(), idle.len()), (16, 4));
        drop(idle);
        assert!(bounds.idle().is_some());
    }
}
