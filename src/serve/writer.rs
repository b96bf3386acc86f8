//! The writers inside the server, which keep targets and the variants of tilesets up to date, and how they report to
//! the server.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;

use super::jobs::JobStore;
use super::queue::WorkQueue;
use super::redis::RedisCache;
use super::tiles::served::ServedTiles;
use super::write_back::WriteBackQueue;
use crate::clock::seconds;
use crate::stop::Stop;
use crate::tile::TileRectList;

/// Keeps up to date what is served: a target ([`WrittenTarget`]), or the variants of a tileset
/// ([`WrittenVariants`](super::WrittenVariants)).
pub trait Writer<W>: Send + Sync {
    /// Writes until `stop` is asked for, and reports to `handle` what it does. Returns once the work in progress is
    /// done or given up.
    fn run(self: Arc<Self>, handle: WriterHandle<W>, stop: Stop) -> BoxFuture<'static, ()>;
}

/// What a writer keeps up to date, as the server has it.
pub trait WriterObserver: Send + Sync {
    /// Makes the server notice a publication. When this returns, no request is answered with tiles that were cached
    /// before.
    fn notice_publication(&self) -> impl Future<Output = ()> + Send;

    /// Nothing is known to be dirty: the dirty tiles are published, or another process writes.
    fn clear_dirty(&self);

    /// Another process writes.
    fn stand_by(&self);
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum WriterRole {
    #[default]
    Starting,
    /// Another process writes; this is its name.
    Standby(String),
    Writing,
}

#[derive(Debug, Default)]
struct WriterState {
    role: WriterRole,
    /// How many publications the writer has made.
    published: u64,
    last_published: Option<SystemTime>,
    /// Why the last look or publication failed; `None` if it succeeded.
    failure: Option<String>,
}

/// The state of a writer. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriterStatus(Arc<Mutex<WriterState>>);

impl WriterStatus {
    /// The state of the writer, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let state = self.0.lock();
        let (role, holder) = match &state.role {
            WriterRole::Starting => ("starting", None),
            WriterRole::Standby(holder) => ("standby", Some(holder)),
            WriterRole::Writing => ("writing", None),
        };
        json!({
            "role": role,
            "held_by": holder,
            "published": state.published,
            "last_published": state.last_published.map(seconds),
            "failure": state.failure,
        })
    }

    /// What is wrong with what it writes; `None` if nothing is, or another process writes.
    pub(crate) fn note(&self) -> Option<String> {
        let state = self.0.lock();
        let failure = state.failure.clone().filter(|_| !matches!(state.role, WriterRole::Standby(_)))?;
        Some(format!("the writer could not bring its target up to date, and tries again: {failure}"))
    }

    /// Notes that the writer failed, and will try again.
    pub(crate) fn note_failure(&self, why: String) {
        self.0.lock().failure = Some(why);
    }
}

/// The interface through which a writer reports to the server what it does. Clones share it.
#[derive(Clone)]
pub struct WriterHandle<W> {
    pub(crate) written: W,
    pub(crate) queue: WorkQueue,
    pub(crate) status: WriterStatus,
}

impl<W: WriterObserver> WriterHandle<W> {
    /// The queue in which batches wait for the server's workers, behind live requests.
    pub const fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    /// Reports that another process writes; `holder` names it.
    pub fn report_standby(&self, holder: String) {
        let mut state = self.status.0.lock();
        (state.role, state.failure) = (WriterRole::Standby(holder), None);
        drop(state);
        self.written.stand_by();
    }

    /// Reports that this process writes from now on.
    pub fn report_writing(&self) {
        self.status.0.lock().role = WriterRole::Writing;
    }

    /// Reports that the dirty tiles are published, and that the manifest names the publication. When this returns, no
    /// request is answered with tiles that were cached before.
    pub async fn report_published(&self) {
        self.written.notice_publication().await;
        let mut state = self.status.0.lock();
        state.published += 1;
        (state.last_published, state.failure) = (Some(SystemTime::now()), None);
    }

    /// Reports that a look found nothing to do.
    pub fn report_up_to_date(&self) {
        self.written.clear_dirty();
        self.status.0.lock().failure = None;
    }

    /// Reports that the writer failed, and will try again.
    pub fn report_failed(&self, why: String) {
        self.status.note_failure(why);
    }
}

/// A target that a writer keeps up to date.
#[derive(Clone)]
pub struct WrittenTarget {
    pub(crate) tiles: ServedTiles,
    pub(crate) jobs: JobStore,
    /// Announces publications to other servers.
    pub(crate) shared: Option<RedisCache>,
}

impl WriterObserver for WrittenTarget {
    async fn notice_publication(&self) {
        self.tiles.refresh().await;
        self.clear_dirty();
        let state = self.tiles.last();
        if let (Some(shared), Some(manifest), Some(publication)) = (&self.shared, &state.manifest, state.publication())
        {
            shared.announce(&manifest.fingerprint, publication).await;
        }
    }

    fn clear_dirty(&self) {
        self.tiles.known().clear_writer_dirty();
    }

    fn stand_by(&self) {
        self.clear_dirty();
        self.jobs.stands_by();
        self.tiles.write_back.turn(None);
    }
}

impl WriterHandle<WrittenTarget> {
    /// The live tiles that wait to be stored.
    pub fn write_back(&self) -> &WriteBackQueue {
        &self.written.tiles.write_back
    }

    pub const fn jobs(&self) -> &JobStore {
        &self.written.jobs
    }

    /// Reports that these tiles are dirty and about to be rendered (`None`: every tile may be). Stored and cached ones
    /// are stale until the next [`WriterHandle::report_published`].
    pub fn report_dirty(&self, tiles: Option<&TileRectList>) {
        self.written.tiles.known().add_writer_dirty(tiles);
    }

    /// Seconds since the first of the unpublished tiles became dirty; 0 if there are none.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.written.tiles.known().writers_lag().map_or(0.0, |lag| lag.as_secs_f64())
    }

    /// The state of the writer, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let lag = self.lag_seconds();
        let mut described = self.status.describe();
        described["lag_seconds"] = lag.into();
        described
    }
}
