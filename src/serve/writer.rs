//! The writer inside the server: what keeps the target up to date, and what it tells the server about that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde_json::json;

use crate::serve::jobs::JobDesk;
use crate::serve::queue::WorkQueue;
use crate::serve::tiles::served::ServedTiles;
use crate::stop::Stop;
use crate::tile::{TileCoord, TileRectList};

/// Keeps the target that is served up to date.
pub trait TargetWriter: Send + Sync {
    /// Writes until `stop` is asked for, and tells `desk` what it does. Returns once the work in hand is done or given up.
    fn run(self: Arc<Self>, desk: WriterDesk, stop: Stop) -> BoxFuture<'static, ()>;
}

/// What the writer of this process does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WriterRole {
    /// It has not begun.
    Starting,
    /// Another process writes, whose name this is.
    Standby(String),
    /// It writes.
    Writing,
}

/// The tiles that are dirty and not published yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PendingTiles {
    /// These.
    Tiles(HashSet<TileCoord>),
    /// Any tile may be dirty.
    Everything,
}

#[derive(Debug)]
struct WriterStatus {
    role: WriterRole,
    /// How many publications it has made.
    published: u64,
    last_published: Option<SystemTime>,
    /// Why the last look or publication failed; `None` if it did not.
    failure: Option<String>,
    /// The dirty tiles, and since when they are known to be dirty.
    pending: Option<(PendingTiles, Instant)>,
}

/// Where the writer tells the server what it does. Clones share it.
#[derive(Clone)]
pub struct WriterDesk {
    tiles: ServedTiles,
    queue: WorkQueue,
    jobs: JobDesk,
    status: Arc<Mutex<WriterStatus>>,
}

impl WriterDesk {
    /// The desk of a server.
    pub(crate) fn new(tiles: ServedTiles, queue: WorkQueue, jobs: JobDesk) -> WriterDesk {
        let role = WriterRole::Starting;
        let status = WriterStatus { role, published: 0, last_published: None, failure: None, pending: None };
        WriterDesk { tiles, queue, jobs, status: Arc::new(Mutex::new(status)) }
    }

    /// The queue in which batches wait for the server's workers, behind live requests.
    #[must_use]
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    /// The jobs that wait for the writer.
    #[must_use]
    pub const fn jobs(&self) -> &JobDesk {
        &self.jobs
    }

    fn status(&self) -> MutexGuard<'_, WriterStatus> {
        // Each update leaves consistent values.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process writes the target; `holder` names it.
    pub fn stands_by(&self, holder: String) {
        let mut status = self.status();
        (status.role, status.pending) = (WriterRole::Standby(holder), None);
        self.jobs.stands_by();
    }

    /// From now on this process writes the target.
    pub fn begins(&self) {
        self.status().role = WriterRole::Writing;
    }

    /// These tiles are dirty and about to be rendered: stored and cached ones are stale until the next [`WriterDesk::published`]. `None` if
    /// every tile may be.
    pub fn dirty(&self, tiles: Option<&TileRectList>) {
        let mut status = self.status();
        let since = status.pending.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let pending = match (tiles, status.pending.take()) {
            (None, _) | (_, Some((PendingTiles::Everything, _))) => PendingTiles::Everything,
            (Some(tiles), None) => PendingTiles::Tiles(tiles.tiles().collect()),
            (Some(tiles), Some((PendingTiles::Tiles(mut all), _))) => {
                all.extend(tiles.tiles());
                PendingTiles::Tiles(all)
            }
        };
        status.pending = Some((pending, since));
    }

    /// True if a tile is known to be dirty and was not published since.
    #[must_use]
    pub fn is_dirty(&self, tile: TileCoord) -> bool {
        match &self.status().pending {
            None => false,
            Some((PendingTiles::Everything, _)) => true,
            Some((PendingTiles::Tiles(tiles), _)) => tiles.contains(&tile),
        }
    }

    /// The dirty tiles are published, and the manifest names it. When this returns, no request is answered with what was cached before.
    pub async fn published(&self) {
        self.tiles.refresh().await;
        let mut status = self.status();
        status.published += 1;
        (status.last_published, status.failure, status.pending) = (Some(SystemTime::now()), None, None);
    }

    /// A look found nothing to do.
    pub fn is_up_to_date(&self) {
        let mut status = self.status();
        (status.failure, status.pending) = (None, None);
    }

    /// The writer failed, and will try again.
    pub fn failed(&self, why: String) {
        self.status().failure = Some(why);
    }

    /// Seconds since the first of the tiles became dirty that are not published yet; 0 if there are none.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.status().pending.as_ref().map_or(0.0, |(_, since)| since.elapsed().as_secs_f64())
    }

    /// What `/status.json` says.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let lag = self.lag_seconds();
        let status = self.status();
        let (role, holder) = match &status.role {
            WriterRole::Starting => ("starting", None),
            WriterRole::Standby(holder) => ("standby", Some(holder)),
            WriterRole::Writing => ("writing", None),
        };
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({
            "role": role,
            "held_by": holder,
            "published": status.published,
            "last_published": status.last_published.map(seconds),
            "lag_seconds": lag,
            "failure": status.failure,
        })
    }
}
