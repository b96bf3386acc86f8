//! The writer inside the server: what keeps a target, or the variants of a tileset, up to date, and what it tells the server about that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde_json::json;

use crate::serve::jobs::JobDesk;
use crate::serve::queue::WorkQueue;
use crate::serve::shared::SharedCache;
use crate::serve::tiles::served::ServedTiles;
use crate::serve::write_back::WriteBackDesk;
use crate::stop::Stop;
use crate::tile::TileRectList;

/// Keeps the target that is served up to date.
pub trait TargetWriter: Send + Sync {
    /// Writes until `stop` is asked for, and tells `desk` what it does. Returns once the work in hand is done or given up.
    fn run(self: Arc<Self>, desk: WriterDesk, stop: Stop) -> BoxFuture<'static, ()>;
}

/// What the writer of this process does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum WriterRole {
    /// It has not begun.
    #[default]
    Starting,
    /// Another process writes, whose name this is.
    Standby(String),
    /// It writes.
    Writing,
}

#[derive(Debug, Default)]
pub(crate) struct WriterStatus {
    role: WriterRole,
    /// How many publications it has made.
    published: u64,
    last_published: Option<SystemTime>,
    /// Why the last look or publication failed; `None` if it did not.
    failure: Option<String>,
}

/// Where the writer tells the server what it does. Clones share it.
#[derive(Clone)]
pub struct WriterDesk {
    pub(crate) tiles: ServedTiles,
    pub(crate) queue: WorkQueue,
    pub(crate) jobs: JobDesk,
    /// Announces publications to other servers.
    pub(crate) shared: Option<SharedCache>,
    pub(crate) status: Arc<Mutex<WriterStatus>>,
}

impl WriterDesk {
    /// The queue in which batches wait for the server's workers, behind live requests.
    #[must_use]
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    /// The live tiles that wait to be stored.
    #[must_use]
    pub fn write_back(&self) -> &WriteBackDesk {
        self.tiles.write_back()
    }

    /// The jobs that wait for the writer.
    #[must_use]
    pub const fn jobs(&self) -> &JobDesk {
        &self.jobs
    }

    fn status(&self) -> MutexGuard<'_, WriterStatus> {
        locked(&self.status)
    }

    /// Another process writes the target; `holder` names it.
    pub fn stands_by(&self, holder: String) {
        self.status().role = WriterRole::Standby(holder);
        self.tiles.known().is_clean();
        self.jobs.stands_by();
        self.write_back().turn(false);
    }

    /// From now on this process writes the target.
    pub fn begins(&self) {
        self.status().role = WriterRole::Writing;
    }

    /// These tiles are dirty and about to be rendered: stored and cached ones are stale until the next [`WriterDesk::published`]. `None` if
    /// every tile may be.
    pub fn dirty(&self, tiles: Option<&TileRectList>) {
        self.tiles.known().found_dirty(tiles);
    }

    /// The dirty tiles are published, and the manifest names it. When this returns, no request is answered with what was cached before.
    pub async fn published(&self) {
        self.tiles.refresh().await;
        self.tiles.known().is_clean();
        let state = self.tiles.last();
        if let (Some(shared), Some(manifest), Some(publication)) = (&self.shared, &state.manifest, state.publication())
        {
            shared.announce(&manifest.fingerprint, publication).await;
        }
        self.status().has_published();
    }

    /// A look found nothing to do.
    pub fn is_up_to_date(&self) {
        self.tiles.known().is_clean();
        self.status().failure = None;
    }

    /// The writer failed, and will try again.
    pub fn failed(&self, why: String) {
        self.status().failure = Some(why);
    }

    /// Seconds since the first of the tiles became dirty that are not published yet; 0 if there are none.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.tiles.known().writers_lag().map_or(0.0, |lag| lag.as_secs_f64())
    }

    /// What `/status.json` says.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let lag = self.lag_seconds();
        let mut described = self.status().describe();
        described["lag_seconds"] = lag.into();
        described
    }
}

impl WriterStatus {
    /// What `/status.json` says.
    fn describe(&self) -> serde_json::Value {
        let (role, holder) = match &self.role {
            WriterRole::Starting => ("starting", None),
            WriterRole::Standby(holder) => ("standby", Some(holder)),
            WriterRole::Writing => ("writing", None),
        };
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({
            "role": role,
            "held_by": holder,
            "published": self.published,
            "last_published": self.last_published.map(seconds),
            "failure": self.failure,
        })
    }

    /// A publication is there.
    fn has_published(&mut self) {
        self.published += 1;
        (self.last_published, self.failure) = (Some(SystemTime::now()), None);
    }
}

/// Keeps all variants of a tileset up to date.
pub trait FamilyWriter: Send + Sync {
    /// Writes until `stop` is asked for, and tells `desk` what it does. Returns once the work in hand is done or given up.
    fn run(self: Arc<Self>, desk: FamilyDesk, stop: Stop) -> BoxFuture<'static, ()>;
}

/// The variants of a tileset that a server has, as their writer reaches them.
pub(crate) trait WrittenVariants: Send + Sync {
    /// Notices at once what was published.
    fn refresh(&self) -> BoxFuture<'_, ()>;

    /// What the writer does.
    fn status(&self) -> &Mutex<WriterStatus>;
}

/// Where the writer of a family tells the server what it does. Clones share it.
#[derive(Clone)]
pub struct FamilyDesk {
    pub(crate) family: Arc<dyn WrittenVariants>,
    pub(crate) queue: WorkQueue,
}

impl FamilyDesk {
    /// The queue in which batches wait for the server's workers, behind live requests.
    #[must_use]
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    fn status(&self) -> MutexGuard<'_, WriterStatus> {
        locked(self.family.status())
    }

    /// Another process writes the variants; `holder` names it.
    pub fn stands_by(&self, holder: String) {
        self.status().role = WriterRole::Standby(holder);
    }

    /// From now on this process writes the variants.
    pub fn begins(&self) {
        self.status().role = WriterRole::Writing;
    }

    /// Variants are published, and the family's manifest. When this returns, no request is answered with what was cached of them before.
    pub async fn published(&self) {
        self.family.refresh().await;
        self.status().has_published();
    }

    /// A look found nothing to do.
    pub fn is_up_to_date(&self) {
        self.status().failure = None;
    }

    /// The writer failed, and will try again.
    pub fn failed(&self, why: String) {
        self.status().failure = Some(why);
    }
}

/// What `/status.json` says of the writer of a family.
pub(crate) fn described(status: &Mutex<WriterStatus>) -> serde_json::Value {
    locked(status).describe()
}

fn locked(status: &Mutex<WriterStatus>) -> MutexGuard<'_, WriterStatus> {
    // Each update leaves consistent values.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
