//! The writer inside the server, which keeps a target or the variants of a tileset up to date, and how it reports to
//! the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use serde_json::json;

use super::jobs::JobStore;
use super::queue::WorkQueue;
use super::redis::RedisCache;
use super::tiles::served::ServedTiles;
use super::write_back::WriteBackQueue;
use crate::clock::seconds;
use crate::stop::Stop;
use crate::tile::TileRectList;

/// Keeps the target that is served up to date.
pub trait TargetWriter: Send + Sync {
    /// Writes until `stop` is asked for, and reports to `handle` what it does. Returns once the work in progress is done
    /// or given up.
    fn run(self: Arc<Self>, handle: WriterHandle, stop: Stop) -> BoxFuture<'static, ()>;
}

/// The role of the writer of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum WriterRole {
    /// It has not begun.
    #[default]
    Starting,
    /// Another process writes; this is its name.
    Standby(String),
    Writing,
}

#[derive(Debug, Default)]
pub(crate) struct WriterStatus {
    role: WriterRole,
    /// How many publications the writer has made.
    published: u64,
    last_published: Option<SystemTime>,
    /// Why the last look or publication failed; `None` if it succeeded.
    failure: Option<String>,
}

/// The interface through which the writer reports to the server what it does. Clones share it.
#[derive(Clone)]
pub struct WriterHandle {
    pub(crate) tiles: ServedTiles,
    pub(crate) queue: WorkQueue,
    pub(crate) jobs: JobStore,
    /// Announces publications to other servers.
    pub(crate) shared: Option<RedisCache>,
    pub(crate) status: Arc<Mutex<WriterStatus>>,
}

impl WriterHandle {
    /// The queue in which batches wait for the server's workers, behind live requests.
    #[must_use]
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    /// The live tiles that wait to be stored.
    #[must_use]
    pub fn write_back(&self) -> &WriteBackQueue {
        self.tiles.write_back()
    }

    /// The jobs that wait for the writer.
    #[must_use]
    pub const fn jobs(&self) -> &JobStore {
        &self.jobs
    }

    fn status(&self) -> MutexGuard<'_, WriterStatus> {
        locked(&self.status)
    }

    /// Reports that another process writes the target; `holder` names it.
    pub fn report_standby(&self, holder: String) {
        self.status().role = WriterRole::Standby(holder);
        self.tiles.known().clear_writer_dirty();
        self.jobs.stands_by();
        self.write_back().turn(None);
    }

    /// Reports that this process writes the target from now on.
    pub fn report_writing(&self) {
        self.status().role = WriterRole::Writing;
    }

    /// Reports that these tiles are dirty and about to be rendered (`None`: every tile may be). Stored and cached ones
    /// are stale until the next [`WriterHandle::report_published`].
    pub fn report_dirty(&self, tiles: Option<&TileRectList>) {
        self.tiles.known().add_writer_dirty(tiles);
    }

    /// Reports that the dirty tiles are published, and that the manifest names the publication. When this returns, no
    /// request is answered with tiles that were cached before.
    pub async fn report_published(&self) {
        self.tiles.refresh().await;
        self.tiles.known().clear_writer_dirty();
        let state = self.tiles.last();
        if let (Some(shared), Some(manifest), Some(publication)) = (&self.shared, &state.manifest, state.publication())
        {
            shared.announce(&manifest.fingerprint, publication).await;
        }
        self.status().has_published();
    }

    /// Reports that a look found nothing to do.
    pub fn report_up_to_date(&self) {
        self.tiles.known().clear_writer_dirty();
        self.status().failure = None;
    }

    /// Reports that the writer failed, and will try again.
    pub fn report_failed(&self, why: String) {
        self.status().failure = Some(why);
    }

    /// Seconds since the first of the unpublished tiles became dirty; 0 if there are none.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.tiles.known().writers_lag().map_or(0.0, |lag| lag.as_secs_f64())
    }

    /// The state of the writer, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let lag = self.lag_seconds();
        let mut described = self.status().describe();
        described["lag_seconds"] = lag.into();
        described
    }
}

impl WriterStatus {
    /// The state of the writer, for `/status.json`.
    fn describe(&self) -> serde_json::Value {
        let (role, holder) = match &self.role {
            WriterRole::Starting => ("starting", None),
            WriterRole::Standby(holder) => ("standby", Some(holder)),
            WriterRole::Writing => ("writing", None),
        };
        json!({
            "role": role,
            "held_by": holder,
            "published": self.published,
            "last_published": self.last_published.map(seconds),
            "failure": self.failure,
        })
    }

    /// Notes a new publication.
    fn has_published(&mut self) {
        self.published += 1;
        (self.last_published, self.failure) = (Some(SystemTime::now()), None);
    }
}

/// Keeps all variants of a tileset up to date.
pub trait FamilyWriter: Send + Sync {
    /// Writes until `stop` is asked for, and reports to `handle` what it does. Returns once the work in progress is done
    /// or given up.
    fn run(self: Arc<Self>, handle: FamilyWriterHandle, stop: Stop) -> BoxFuture<'static, ()>;
}

/// The variants of a tileset that a server has, as their writer reaches them.
pub(crate) trait WrittenVariants: Send + Sync {
    /// Makes the server notice a publication at once.
    fn refresh(&self) -> BoxFuture<'_, ()>;

    /// The state of the writer.
    fn status(&self) -> &Mutex<WriterStatus>;
}

/// The interface through which the writer of a family reports to the server what it does. Clones share it.
#[derive(Clone)]
pub struct FamilyWriterHandle {
    pub(crate) family: Arc<dyn WrittenVariants>,
    pub(crate) queue: WorkQueue,
}

impl FamilyWriterHandle {
    /// The queue in which batches wait for the server's workers, behind live requests.
    #[must_use]
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    fn status(&self) -> MutexGuard<'_, WriterStatus> {
        locked(self.family.status())
    }

    /// Reports that another process writes the variants; `holder` names it.
    pub fn report_standby(&self, holder: String) {
        self.status().role = WriterRole::Standby(holder);
    }

    /// Reports that this process writes the variants from now on.
    pub fn report_writing(&self) {
        self.status().role = WriterRole::Writing;
    }

    /// Reports that variants and the family's manifest are published. When this returns, no request is answered with
    /// tiles of them that were cached before.
    pub async fn report_published(&self) {
        self.family.refresh().await;
        self.status().has_published();
    }

    /// Reports that a look found nothing to do.
    pub fn report_up_to_date(&self) {
        self.status().failure = None;
    }

    /// Reports that the writer failed, and will try again.
    pub fn report_failed(&self, why: String) {
        self.status().failure = Some(why);
    }
}

/// The state of a family's writer, for `/status.json`.
pub(crate) fn described(status: &Mutex<WriterStatus>) -> serde_json::Value {
    locked(status).describe()
}

fn locked(status: &Mutex<WriterStatus>) -> MutexGuard<'_, WriterStatus> {
    // Each update leaves consistent values.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
