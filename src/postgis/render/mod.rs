//! Rendering: workers, each with a session on the run's snapshot, draw batches of the prepared layers.
//!
//! ```text
//!  Layer (probed) ─► PreparedLayer (+ cell counts, cached rows) ─► RunLayers (+ statements) ─┐
//!  Worker (a session that holds its locks) ──────────────────────────────────────────────────┴─► Renderer: batches ─► tiles
//! ```
//!
//! | file | what |
//! |---|---|
//! | `prepared` | a layer with its counted cells and cached rows |
//! | `statements` | the layers' statements, and the choice of a statement for each area |
//! | `drawing` | one batch, layer by layer |
//! | `family` | the rows of all variants of a tileset, read once |
//! | `membership` | the variants that have rows in some boxes |
//! | `areas`, `cells` | areas and counted cells as parameters |
//! | `cached_rows` | tiles drawn from cached rows |
//! | `checks` | the comparison of such tiles with those that the database draws |
//! | `neighbourhood` | caching the rows near changed positions |
//! | `repeats` | tiles with the same content as another one |
//! | `function` | tiles that a database function returns |
//! | `narrowed` | tiles of some rows only, and the plans of statements |
//! | `fit` | tiles thinned to their budget of bytes |
//! | `miscounted`, `version` | errors for other tiles than planned; the rendering version |

mod areas;
mod cached_rows;
mod cells;
mod checks;
mod drawing;
mod family;
mod family_tiles;
mod fit;
mod function;
mod membership;
mod miscounted;
mod narrowed;
mod neighbourhood;
mod prepared;
mod repeats;
mod statements;
mod version;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::layer::Layer;
use super::probe::LayerLocks;
use super::session::{Database, Error, Session, Snapshot};
use super::sql;
use crate::encode::Packing;
use crate::source::{RenderedTile, Source};
use crate::tile::Batch;

use drawing::BatchDrawing;

pub use cached_rows::CacheLimits;
pub use checks::verify_cached_rows;
pub use drawing::LayerPlan;
pub use family::{CachedRenderer, FamilyCondition, FamilyRows, VariantLayer};
pub use family_tiles::FamilyTiles;
pub use membership::{MAX_PLACES, PlacedRows, members_at};
pub use narrowed::{check_narrowed, session_value};
pub use neighbourhood::with_neighbourhood;
pub use prepared::PreparedLayer;
pub use statements::RunLayers;
pub use version::RENDERING_VERSION;

/// The tiles of a batch, by their position in the order of archives ([`Order::ZoomColumnTmsRow`](crate::tile::Order)).
type BatchTiles = BTreeMap<i64, RenderedTile>;

/// The most times that a batch is tried again on a new connection while the snapshot exists.
const MAX_RECONNECTS: u32 = 2;

/// One of a run's workers: a session on the snapshot.
pub struct Worker {
    database: Database,
    snapshot: Arc<Snapshot>,
    /// The worker's own session; `None` if it uses the session that holds the snapshot.
    session: Option<Session>,
    /// The locks that another session of this worker must take.
    locks: LayerLocks,
    /// How the run packs tiles. It is needed here because budgets count packed bytes.
    packing: Packing,
}

impl Worker {
    /// Opens `count` workers concurrently, because the server takes a moment for each. Each worker holds locks on everything that the layers read.
    /// The session that holds the snapshot has these locks already.
    ///
    /// # Errors
    /// If a session cannot be opened, a lock is not granted within `lock_timeout`, or the server's lock table is too small.
    pub async fn open(
        database: &Database,
        snapshot: &Arc<Snapshot>,
        locks: &LayerLocks,
        packing: Packing,
        count: usize,
    ) -> Result<Vec<Worker>, Error> {
        if count > 0 {
            snapshot.keeper.check_lock_room(count).await?;
        }
        let open = async || {
            let session = locks.session(database, snapshot).await?;
            Ok(Worker { session: Some(session), ..Worker::without_session(database, snapshot, locks, packing) })
        };
        try_join_all((0..count).map(|_| open())).await
    }

    /// A worker that uses the session that holds the snapshot, for work that is too small for another session. Several such workers may exist, but
    /// only one may render at a time.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn alone(
        database: &Database,
        snapshot: &Arc<Snapshot>,
        locks: &LayerLocks,
        packing: Packing,
    ) -> Result<Worker, Error> {
        snapshot.keeper.set_savepoint().await?;
        Ok(Worker::without_session(database, snapshot, locks, packing))
    }

    fn without_session(database: &Database, snapshot: &Arc<Snapshot>, locks: &LayerLocks, packing: Packing) -> Worker {
        Worker {
            database: database.clone(),
            snapshot: Arc::clone(snapshot),
            session: None,
            locks: locks.clone(),
            packing,
        }
    }

    /// Lets the server parse and plan each statement only once. For workers that render many small batches.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn keep_statements(&mut self) -> Result<(), Error> {
        match &mut self.session {
            Some(session) => session.keep_statements().await,
            None => Ok(()),
        }
    }

    /// Lets the server load PostGIS and everything else that rendering `layer` needs. This takes a while in a new session, so call it while the run
    /// waits for something else.
    ///
    /// # Errors
    /// If the session is lost, or a stop was requested.
    pub async fn warm(&self, layer: &Layer) -> Result<(), Error> {
        match self.session().all("opening a session", &sql::warm(layer), &[]).await {
            Ok(_) => Ok(()),
            // The first batch reports the same error.
            Err(Error::Query { .. } | Error::Timeout { .. }) => self.session().return_to_savepoint().await,
            Err(other) => Err(other),
        }
    }

    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().unwrap_or(&self.snapshot.keeper)
    }

    /// Renders every planned tile of a batch (see [`Source::render`]). If the connection is lost, the worker renders the batch again on a new one.
    ///
    /// # Errors
    /// If a statement fails, the database goes away, or the statements return other tiles than planned.
    pub async fn render(&mut self, layers: &RunLayers, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        // Cached rows might still suffice for this batch without the database, but hardly for all that follow.
        if let Some(gave_way) = self.database.locks.gave_way_error() {
            return Err(gave_way);
        }
        let mut tries = 0;
        loop {
            match BatchDrawing::new(self, layers).batch(batch).await {
                Err(error) if error.is_lost() && tries < MAX_RECONNECTS => {
                    tries += 1;
                    tracing::debug!("{error}: opening another connection");
                    // This fails if the snapshot is gone, too; then the first error says more than the second.
                    match self.locks.session(&self.database, &self.snapshot).await {
                        Ok(session) => self.session = Some(session),
                        Err(other) if other.ends_the_run() => return Err(other),
                        Err(_also_lost) => return Err(error),
                    }
                }
                done => return done,
            }
        }
    }
}

/// A worker and the layers that it draws.
pub struct Renderer {
    worker: Worker,
    layers: Arc<RunLayers>,
}

impl Renderer {
    /// A source of all layers of a run.
    #[must_use]
    pub fn new(worker: Worker, layers: &Arc<RunLayers>) -> Renderer {
        Renderer { worker, layers: Arc::clone(layers) }
    }
}

impl Source for Renderer {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        self.worker.render(&self.layers, batch).await
    }
}
