//! Rendering: workers, each with a session on the run's snapshot, draw batches of the prepared layers.
//!
//! ```text
//!  Layer (probed) ─► PreparedLayer (+ cell counts, cached rows) ─► RunLayers (+ statements) ─┐
//!  Worker (a session that holds its locks) ─────────────────────────────────────────────────┴─► Renderer: batches to tiles
//! ```
//!
//! | file | what |
//! |---|---|
//! | `choice` | which source draws what of a layer |
//! | `patch/` | tiles that the target holds, in which few points changed |
//! | `statements` | the layers' statements, and the choice of a statement for each area |
//! | `drawing` | one batch, layer by layer |
//! | `family` | the rows of all variants of a tileset, read once |
//! | `areas`, `cells` | areas and counted cells as parameters |
//! | `cached_rows/` | tiles drawn from cached rows |
//! | `checks` | the comparison of such tiles with those that the database draws |
//! | `live_rows/` | rows that `reseed --watch` keeps between its looks, and a server between its snapshots |
//! | `neighbourhood` | caching the rows near changed positions |
//! | `repeats` | tiles with the same content as another one |
//! | `function` | tiles that a database function returns |
//! | `fit` | tiles thinned to their budget of bytes |
//! | `family_tiles` | tiles that are the same in several targets of a family |

mod areas;
mod cached_rows;
mod cells;
mod checks;
pub(crate) mod choice;
mod drawing;
mod family;
mod family_tiles;
mod fit;
mod function;
mod live_rows;
mod neighbourhood;
pub(crate) mod patch;
mod repeats;
mod statements;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use cached_rows::{CachedRows, CellValues, RowReaders};
use cached_rows::{has_cacheable_cells, none_if_failed};
use drawing::BatchDrawing;
use futures_util::future::try_join_all;

use crate::cells::CellCounts;
use crate::encode::Packing;
use crate::postgis::RepairedShapes;
use crate::postgis::layer::{Layer, LayerOptions, setting};
use crate::postgis::probe::{LayerLocks, probe_names};
use crate::postgis::session::{Database, Error, Session, SessionValue, Snapshot};
use crate::postgis::sql;
use crate::postgis::sql::{FoldedValues, SurveyedRepair};
use crate::postgis::survey::Outlines;
use crate::scratch::MAX_POINTS_IN_MEMORY;
use crate::source::{RenderedTile, Source};
use crate::tile::{Batch, Coverage, Footprints, LayerFootprints, SortedPoints, Zoom};

pub(crate) use cached_rows::{CacheLimits, KeptFeatures, MatchingSet, Spill};
pub(crate) use checks::{COMPARED_TILES, verify_cached_rows};
pub(crate) use drawing::{DrawnFromRows, LayerPlan};
pub(crate) use family::{
    CachedRenderer, FamilyCondition, FamilyRows, MAX_PLACES, PlacedRows, VariantLayer, members_at,
};
pub(crate) use family_tiles::FamilyTiles;
pub(crate) use live_rows::{
    AreProven, CellMembers, DifferingSquares, GivenCount, LivePoints, LiveRows, LiveStep, MAX_AGE,
    MAX_CHANGED_POSITIONS, PooledRows, RowsAge, RowsPool, SavedLayer, SavedRows, may_have_live_points, note_position,
    read_saved_rows, write_saved_rows,
};
pub(crate) use neighbourhood::with_neighbourhood;
pub(crate) use statements::{RunLayers, WorkOnRows};

/// The tiles of a batch, by their position in the order of archives ([`Order::ZoomColumnTmsRow`](crate::tile::Order)).
type BatchTiles = BTreeMap<i64, RenderedTile>;

/// The most times that a batch is tried again on a new connection while the snapshot exists.
const MAX_RECONNECTS: u32 = 2;

/// One of a run's workers: a session on the snapshot.
pub(crate) struct Worker {
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
    /// Opens `count` workers concurrently, because the server takes a moment for each. Each worker holds locks on
    /// everything that the layers read. The session that holds the snapshot has these locks already. Fails if a session
    /// cannot be opened, a lock is not granted within `lock_timeout`, or the server's lock table is too small.
    pub(crate) async fn open(
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

    /// A worker that uses the session that holds the snapshot, for work that is too small for another session. Several
    /// such workers may exist, but only one may render at a time.
    pub(crate) async fn alone(
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
    pub(crate) async fn keep_statements(&mut self) -> Result<(), Error> {
        match &mut self.session {
            Some(session) => session.keep_statements().await,
            None => Ok(()),
        }
    }

    /// Lets the server load PostGIS and everything else that rendering `layer` needs. This takes a while in a new
    /// session, so call it while the run waits for something else.
    pub(crate) async fn warm(&self, layer: &Layer) -> Result<(), Error> {
        let warmed = self.session().all("opening a session", &sql::warm(layer), &[]).await;
        // The first batch reports the same error.
        self.session().at_savepoint(warmed).await.map(drop)
    }

    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().unwrap_or(&self.snapshot.keeper)
    }

    /// Renders every planned tile of a batch (see [`Source::render`]). If the connection is lost, the worker renders
    /// the batch again on a new one. Fails if a statement fails, the database goes away, or the statements return other
    /// tiles than planned.
    pub(crate) async fn render(&mut self, layers: &RunLayers, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
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
pub(crate) struct Renderer {
    worker: Worker,
    layers: Arc<RunLayers>,
}

impl Renderer {
    pub(crate) fn new(worker: Worker, layers: &Arc<RunLayers>) -> Renderer {
        Renderer { worker, layers: Arc::clone(layers) }
    }
}

impl Source for Renderer {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        self.worker.render(&self.layers, batch).await
    }
}

// Tiles restricted to some rows: the values that their conditions read, and the plans of their statements.

/// The values of a parameter, as an array of texts in text form.
pub(crate) fn session_value(name: &str, array: String) -> SessionValue {
    SessionValue { setting: setting(name), array }
}

impl Worker {
    /// Sets the values that the conditions of narrowed layers read.
    pub(crate) async fn set_values(&self, values: &[SessionValue]) -> Result<(), Error> {
        if values.is_empty() { Ok(()) } else { self.session().set_values(values).await }
    }

    /// The plans of the statements of a batch, which are not run. Functions have no plans.
    pub(crate) async fn explain(&self, layers: &RunLayers, batch: &Batch) -> Result<Vec<LayerPlan>, Error> {
        BatchDrawing::new(self, layers).explain(batch).await
    }
}

/// Checks layers whose conditions read the values of requests, with `values` as examples.
pub(crate) async fn check_narrowed(
    snapshot: &Snapshot,
    layers: &[LayerOptions],
    values: &[SessionValue],
) -> Result<(), Error> {
    snapshot.keeper.set_savepoint().await?;
    snapshot.keeper.set_values(values).await?;
    probe_names(snapshot, layers).await.map(|_named| ())
}

// A layer as it is prepared for a run.

/// A probed layer with the data that a run prepared before drawing it: counted cells, cached rows. Clones share
/// everything.
#[derive(Debug, Clone)]
pub(crate) struct PreparedLayer {
    layer: Arc<Layer>,
    folds: Option<Arc<FoldedValues>>,
    counts: Option<Arc<CellCounts>>,
    cached_rows: Option<Arc<CachedRows>>,
    /// True if its rows were read and could not be cached.
    are_rows_refused: bool,
    repaired: Option<Arc<RepairedShapes>>,
}

impl PreparedLayer {
    /// A layer without counted cells, cached rows and repaired shapes: the database draws all of it.
    pub(crate) fn new(layer: &Arc<Layer>) -> PreparedLayer {
        PreparedLayer {
            layer: Arc::clone(layer),
            folds: None,
            counts: None,
            cached_rows: None,
            are_rows_refused: false,
            repaired: None,
        }
    }

    /// The layer with the shapes that the survey repaired, if it repaired all that need it.
    pub(crate) fn with_repaired(self, repaired: Option<Arc<RepairedShapes>>) -> PreparedLayer {
        PreparedLayer { repaired, ..self }
    }

    /// What the survey knows of the rows that need repair.
    pub(crate) fn surveyed_repair(&self) -> SurveyedRepair {
        match &self.repaired {
            None => SurveyedRepair::Unknown,
            Some(shapes) if shapes.is_empty() => SurveyedRepair::None,
            Some(_) => SurveyedRepair::Listed,
        }
    }

    /// The shapes that the survey repaired; `None` if there are none, or if each statement repairs its rows.
    pub(crate) fn repaired(&self) -> Option<&RepairedShapes> {
        self.repaired.as_deref().filter(|shapes| !shapes.is_empty())
    }

    /// The layer with the values that the survey folded and the cells that it counted, if any.
    pub(crate) fn with_cells(self, folds: Option<Arc<FoldedValues>>, counts: Option<Arc<CellCounts>>) -> PreparedLayer {
        PreparedLayer { folds, counts, ..self }
    }

    /// The layer with other cached rows, or without any.
    pub(crate) fn with_cached_rows(self, cached_rows: Option<Arc<CachedRows>>) -> PreparedLayer {
        PreparedLayer { cached_rows, ..self }
    }

    /// The layer with the cached rows of `other`, which must have the same rows at the same positions.
    pub(crate) fn with_rows_of(self, other: &PreparedLayer) -> PreparedLayer {
        self.with_cached_rows(other.cached_rows.clone())
    }

    pub(crate) fn with_live_points(self, points: &LivePoints) -> PreparedLayer {
        self.with_cached_rows(Some(Arc::clone(&points.rows)))
    }

    /// Caches all rows of the layer that are visible in the coverage at `zooms`; the workers read them in parallel. The
    /// layer stays without cached rows if they exceed `limits` or cannot be read.
    pub(crate) async fn cache_rows(
        self,
        snapshot: &Snapshot,
        workers: &[Worker],
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<PreparedLayer, Error> {
        snapshot.keeper.set_savepoint().await?;
        let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
        let layer = self.layer();
        let read = CachedRows::read_all(
            RowReaders { keeper: &snapshot.keeper, others: &readers },
            layer,
            coverage,
            zooms,
            limits,
        )
        .await;
        self.with_rows_read(snapshot, &readers, read).await
    }

    /// Caches the cells that the survey counted, if each is drawn at one point; the workers encode them in parallel.
    /// The layer stays without cached cells if they take more than `memory` bytes or cannot be encoded.
    pub(crate) async fn cache_cells(
        self,
        snapshot: &Snapshot,
        workers: &[Worker],
        memory: usize,
    ) -> Result<PreparedLayer, Error> {
        if memory == 0 || !self.has_counts() || !has_cacheable_cells(&self.layer) {
            return Ok(self);
        }
        snapshot.keeper.set_savepoint().await?;
        let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
        let read = CachedRows::of_cells(RowReaders { keeper: &snapshot.keeper, others: &readers }, &self, memory).await;
        self.with_rows_read(snapshot, &readers, read).await
    }

    /// The layer with the rows that were read, unless a statement failed.
    async fn with_rows_read(
        self,
        snapshot: &Snapshot,
        readers: &[&Session],
        read: Result<Option<CachedRows>, Error>,
    ) -> Result<PreparedLayer, Error> {
        let cached = none_if_failed(snapshot, self.layer(), read).await?;
        if cached.is_none() {
            // A statement may have failed in any of the sessions.
            for reader in readers {
                reader.return_to_savepoint().await?;
            }
        }
        let are_rows_refused = cached.is_none();
        Ok(PreparedLayer { are_rows_refused, ..self }.with_cached_rows(cached.map(Arc::new)))
    }

    pub(crate) fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    pub(crate) fn folds(&self) -> Option<&FoldedValues> {
        self.folds.as_deref()
    }

    pub(crate) fn counts(&self) -> Option<&CellCounts> {
        self.counts.as_deref()
    }

    /// True if the survey counted the layer's cells at some zoom.
    pub(crate) fn has_counts(&self) -> bool {
        self.counts.is_some()
    }

    /// True if the survey counted the layer's cells at this zoom.
    pub(crate) fn is_counted(&self, zoom: Zoom) -> bool {
        self.counts().is_some_and(|counts| counts.has(zoom))
    }

    /// The cached rows: all rows of the layer, or those near changes.
    pub(crate) fn cached_rows(&self) -> Option<&Arc<CachedRows>> {
        self.cached_rows.as_ref()
    }

    /// True if the layer's rows are cached.
    pub(crate) fn has_cached_rows(&self) -> bool {
        self.cached_rows.is_some()
    }

    /// True if the layer's rows were read for caching and could not be cached, so that reading them again is of no use.
    pub(crate) fn are_rows_refused(&self) -> bool {
        self.are_rows_refused
    }

    /// The positions of the cached rows, if all rows that the run needs are in memory.
    pub(crate) fn cached_footprints(&self) -> Option<LayerFootprints> {
        let rows = self.cached_rows.as_ref().filter(|rows| rows.are_in_memory() && rows.near.is_none())?;
        Some(LayerFootprints::Same(Footprints::Points(SortedPoints::new(rows.worlds()))))
    }

    /// Like [`cached_footprints`](Self::cached_footprints), but `None` if the rows are more than a plan keeps in
    /// memory.
    pub(crate) fn few_cached_footprints(&self) -> Option<LayerFootprints> {
        let is_few = self.cached_rows.as_ref().is_some_and(|rows| rows.count() <= MAX_POINTS_IN_MEMORY);
        if is_few { self.cached_footprints() } else { None }
    }

    /// Where its cached lines and polygons lie, for a plan whose deepest zoom is `deepest`. `None` if its rows are
    /// others, or if that takes a survey.
    pub(crate) async fn shape_footprints(
        &self,
        snapshot: &Snapshot,
        deepest: Zoom,
    ) -> Result<Option<LayerFootprints>, Error> {
        let Some(rows) = self.cached_rows.as_ref().filter(|rows| rows.are_shapes()) else { return Ok(None) };
        if !self.layer.is_found_by_area() {
            return Ok(None);
        }
        let context = format!("layer \"{}\", looking how shapes are clipped", self.layer.name());
        let outlines = Outlines::of(&self.layer, &snapshot.keeper, &context).await?;
        Ok(rows.shape_footprints(&self.layer, deepest, outlines).map(LayerFootprints::Same))
    }

    /// True if its rows are cached, and are lines and polygons.
    pub(crate) fn has_cached_shapes(&self) -> bool {
        self.cached_rows.as_ref().is_some_and(|rows| rows.are_shapes())
    }

    /// The memory that its cached rows take, in bytes.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_rows.as_ref().map_or(0, |rows| rows.bytes())
    }

    /// The number of sessions that read the layer's cached rows in parallel; 0 if none are cached.
    pub(crate) fn reading_sessions(&self) -> usize {
        self.cached_rows.as_ref().map_or(0, |rows| rows.sessions)
    }

    /// The zoom from which on the cached rows serve areas near changes; `None` if no rows or all rows are cached.
    pub(crate) fn cached_from(&self) -> Option<Zoom> {
        self.cached_rows.as_ref().and_then(|rows| rows.near_changes_from())
    }
}

// The rendering version.

/// The rendering version, a part of the fingerprint of every target. Raise it with every change that makes some rows,
/// under some configuration, give other MVT bytes than before: in the statements, in tiles drawn from cached rows, in
/// patches, in the choice of rows. Older targets then need a full seed. Without a new version, older targets would
/// count as up to date, or hold a mixture of old and new bytes. `tests/it/rendering/drawing_versions.rs` compares the
/// bytes of a small tileset with those recorded for this number.
pub const RENDERING_VERSION: u32 = 4;
