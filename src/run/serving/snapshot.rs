//! The database state that live tiles show for some seconds: one snapshot, probed once, for all tiles that are
//! requested meanwhile.
//!
//! A snapshot for each tile would have to probe the layers for each tile, which takes longer than rendering one. A
//! snapshot that is kept would show an old state, and hold back the server's vacuum. So a snapshot lives for
//! [`MIN_LIFE`], or longer if taking it took long.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::follow::LOG_SESSIONS;
use super::rows::{LayersWithRows, ServedRows};
use super::sets::SetsState;
use crate::change_log::{Cursor, NewestLogged, StateInHistory, newest_logged};
use crate::config::{AskedCondition, DatabaseSettings, FilterSettings, ParameterSettings};
use crate::draw::{
    CachedRows, CellMembers, CellValues, LayerPlan, LivePoints, MatchingSet, PreparedLayer, RowReaders, RunLayers,
    Worker, session_value,
};
use crate::encode::Packing;
use crate::error::{ErrorKind, Obstacle};
use crate::plan::DrawnLayer;
use crate::postgis::{Database, Error, Facet, Layer, LayerLocks, Reads, SessionOptions, SessionValue, Snapshot, probe};
use crate::run::kept_rows::RowsSnapshot;
use crate::run::{CommandError, Job};
use crate::serve::{GivenParameters, WorkerShares};
use crate::source::RenderedTile;
use crate::stop::{Signal, Stop};
use crate::tile::{Batch, LayerFootprints, LayerIndex, TileRect, Zoom};

/// How long live tiles show one database state, at least.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// A snapshot lives this many times as long as its preparation took, so that at most a tenth of the database's time is
/// spent on preparation.
const LIFE_BY_PREPARATION: u32 = 10;

/// A session that renders, and its stop. A session that was stopped is not used again.
struct LiveSession {
    worker: Worker,
    stop: Stop,
    /// Its right to wait idle for its next tile.
    idle: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy)]
pub(crate) enum SnapshotUse<'a> {
    /// To check the layers at the start.
    Check,
    /// To draw live tiles, from these rows where they are kept.
    Tiles(&'a ServedRows),
    /// To read the rows that are kept.
    Rows,
}

/// One database state, the layers in this state, and the idle sessions on it.
pub(crate) struct LiveSnapshot {
    run: Database,
    pub(crate) snapshot: Arc<Snapshot>,
    /// The layers, in the order of the configuration.
    pub(crate) layers: Vec<Arc<Layer>>,
    /// The layers for planning.
    pub(crate) drawn: Vec<DrawnLayer>,
    statements: Arc<RunLayers>,
    /// The layers with the rows that are kept of them.
    prepared: Vec<PreparedLayer>,
    /// The rows that are kept, by the layers' numbers.
    rows: BTreeMap<usize, LivePoints>,
    /// The layers of cells among these.
    cells: BTreeMap<usize, Arc<CellMembers>>,
    /// Of these, the layers whose rows are those of a layer of points, with the number of that layer.
    homes: BTreeMap<usize, usize>,
    locks: LayerLocks,
    pub(crate) reads: Reads,
    packing: Packing,
    /// The database state, and what distinguishes its history from others.
    pub(crate) shown: StateInHistory,
    /// What matching sets of this state have to be like.
    pub(crate) sets: SetsState,
    /// Where the features lie of layers without a closed formula.
    pub(crate) surveys: FeatureSurveys,
    idle: Mutex<Vec<LiveSession>>,
    bounds: Arc<LiveBounds>,
    /// The plans of statements that take longer are logged.
    explain_after: Option<Duration>,
    /// The right to hold the snapshot.
    _held: Option<OwnedSemaphorePermit>,
    /// How long it took to take the snapshot, and to survey features since.
    prepared_in: Mutex<Duration>,
}

impl LiveSnapshot {
    /// Takes a snapshot and probes the layers of a job. Live rows are brought to it. Fails if the database cannot be
    /// reached, or the layers do not fit the database any more.
    pub(crate) async fn take(
        database: &Database,
        job: &Job,
        stop: &Stop,
        bounds: &Arc<LiveBounds>,
        purpose: SnapshotUse<'_>,
    ) -> Result<LiveSnapshot, CommandError> {
        let settings = &job.settings;
        let held = match purpose {
            SnapshotUse::Rows => bounds.reading().await,
            SnapshotUse::Check | SnapshotUse::Tiles(_) => bounds.snapshot().await,
        };
        let begun = Instant::now();
        let run = database.for_another_run(stop);
        let snapshot = Arc::new(run.snapshot().await?);
        let probed = probe(&snapshot, &settings.tileset.layers).await?;
        let state: Cursor = snapshot.cursor().parse()?;
        let newest = newest_logged(&snapshot, &settings.database.changes.schema, std::slice::from_ref(&state)).await;
        let newest = match newest {
            Ok(newest) => newest.first().copied().unwrap_or(NewestLogged::NoLog),
            // Tiles do not wait for a locked log. The next look evicts them, and no other server takes them.
            Err(error) if error.kind() == ErrorKind::Transient(Obstacle::HeldUp) => NewestLogged::NoLog,
            Err(error) => return Err(error.into()),
        };
        let shown = StateInHistory { state, newest };
        let (LayersWithRows { prepared, rows, cells, homes }, sets) = match purpose {
            SnapshotUse::Tiles(rows) => {
                rows.prepared(&run, &snapshot, &probed, &shown, &settings.database.changes.schema).await
            }
            SnapshotUse::Check | SnapshotUse::Rows => (LayersWithRows::without(&probed.layers), SetsState::default()),
        };
        let drawn = probed.layers.iter().map(|layer| DrawnLayer {
            zooms: layer.zooms().clone(),
            margin: layer.margin(),
            grid: layer.grid(),
        });
        Ok(LiveSnapshot {
            run,
            snapshot,
            drawn: drawn.collect(),
            statements: RunLayers::new(&prepared),
            prepared,
            rows,
            cells,
            homes,
            layers: probed.layers,
            locks: probed.locks,
            reads: probed.reads,
            packing: settings.run.limits.packing,
            shown,
            sets,
            surveys: FeatureSurveys::default(),
            idle: Mutex::default(),
            bounds: Arc::clone(bounds),
            explain_after: bounds.explain_after,
            _held: held,
            prepared_in: Mutex::new(begun.elapsed()),
        })
    }

    /// How long the snapshot is used.
    pub(crate) fn life(&self) -> Duration {
        let prepared_in = *self.prepared_in.lock();
        MIN_LIFE.max(prepared_in * LIFE_BY_PREPARATION)
    }

    /// Notes how long a further preparation took.
    pub(crate) fn note_preparation(&self, took: Duration) {
        *self.prepared_in.lock() += took;
    }

    /// Renders a batch in a session of its own. When `stop` is asked for, the statement is cancelled in the server and
    /// the session is given up. Its connection returns to the pool once the server has ended the statement and rolled
    /// back.
    pub(crate) async fn render(
        &self,
        batch: &Batch,
        narrowed: Option<&NarrowedLayers>,
        stop: &Stop,
    ) -> Result<Vec<RenderedTile>, Error> {
        let mut session = self.session(stop).await?;
        let own = session.stop.clone();
        let statements = narrowed.map_or(&self.statements, |narrowed| &narrowed.statements);
        let begun = Instant::now();
        let rendering = async {
            if let Some(narrowed) = narrowed {
                session.worker.set_values(&narrowed.values).await?;
            }
            session.worker.render(statements, batch).await
        };
        let rendered = until_stopped(rendering, &own, stop).await;
        let is_slow = |limit: &Duration| rendered.is_ok() && begun.elapsed() > *limit;
        let is_explained = match self.explain_after.filter(is_slow) {
            Some(limit) => LiveSnapshot::explain(&session, statements, batch, limit).await,
            None => true,
        };
        self.give_back(session, rendered.is_ok() && is_explained);
        rendered
    }

    /// Keeps a session for the next tile. A session in which a statement failed is given up, because its connection may
    /// be lost.
    fn give_back(&self, mut session: LiveSession, is_usable: bool) {
        session.idle = self.bounds.idle().filter(|_| is_usable && session.stop.asked().is_none());
        if session.idle.is_some() {
            self.idle.lock().push(session);
        }
    }

    /// The rows of a layer that fulfil the conditions of `narrowed`, with these `values`; see
    /// [`LivePoints::matching`].
    pub(crate) async fn matching(
        &self,
        points: &LivePoints,
        narrowed: &Layer,
        values: &[SessionValue],
        before: Option<&MatchingSet>,
        alike: &[LivePoints],
        stop: &Stop,
    ) -> Result<Option<Vec<MatchingSet>>, Error> {
        let matching = self
            .in_session(stop, async |worker| {
                worker.set_values(values).await?;
                points.matching(worker, narrowed, before, alike).await
            })
            .await?;
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(matching)
    }

    /// Lets a session ask the database something. When `stop` is asked for, the statement is cancelled.
    pub(crate) async fn in_session<T>(
        &self,
        stop: &Stop,
        ask: impl AsyncFnOnce(&Worker) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let session = self.session(stop).await?;
        let own = session.stop.clone();
        let asked = until_stopped(ask(&session.worker), &own, stop).await;
        self.give_back(session, asked.is_ok());
        asked
    }

    /// Waits for the right to ask for a matching set, while as many are asked for as may be at once. Never returns
    /// `None`, because the semaphore is never closed.
    pub(crate) async fn right_to_ask(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bounds.asking).acquire_owned().await.ok()
    }

    /// The rows that are kept of a layer, by its number.
    pub(crate) fn kept(&self, layer: usize) -> Option<&LivePoints> {
        self.rows.get(&layer)
    }

    /// The number of the layer that keeps the rows of a layer.
    pub(crate) fn home(&self, layer: usize) -> usize {
        self.homes.get(&layer).copied().unwrap_or(layer)
    }

    /// The layers that are drawn in a batch, by their numbers, with the rows that are kept of them. `None` if those of
    /// a layer are not kept.
    pub(crate) fn points_in(&self, batch: &Batch) -> Option<BTreeMap<usize, LivePoints>> {
        let drawn = self.statements.drawn_in(batch);
        drawn.map(|(index, _)| Some((index, self.rows.get(&index)?.clone()))).collect()
    }

    /// True if the rows of a layer of cells that is drawn in a batch are kept.
    pub(crate) fn has_cells_for(&self, batch: &Batch) -> bool {
        self.statements.drawn_in(batch).any(|(index, _)| self.cells.contains_key(&index))
    }

    /// Draws a tile of whose cells the rows are kept. The cells are counted from these rows. Cells whose encoded values
    /// are known are drawn here; the database draws the others, without reading a row. `filter` narrows the layers, and
    /// `rows` are those that it leaves, by the layers' numbers. `None` if the cells of a layer cannot be counted.
    pub(crate) async fn drawn_with_cells(
        &self,
        batch: &Batch,
        mut rows: BTreeMap<usize, CachedRows>,
        filter: Option<&RequestFilter<'_>>,
        stop: &Stop,
    ) -> Result<Option<DrawnWithCells>, Error> {
        let Some(tile) = batch.areas.first().map(|area| area.rect) else { return Ok(None) };
        let mut counted: BTreeMap<usize, PreparedLayer> = BTreeMap::new();
        let mut is_composed = true;
        for (index, statements) in self.statements.drawn_in(batch) {
            let Some((members, points)) = self.cells.get(&index).zip(self.rows.get(&index)) else { continue };
            let layer = LiveSnapshot::narrowed(statements.prepared.layer(), filter);
            let (own, all, of_cells) = (rows.remove(&index), Arc::clone(&points.rows), Arc::clone(members));
            let counting =
                tokio::task::spawn_blocking(move || of_cells.counted(&layer, &tile, own.as_ref().unwrap_or(&*all)));
            let prepared = counting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let Some(prepared) = prepared else { return Ok(None) };
            let composed = match members.values() {
                Some(values) => self.composed(values, &prepared, &tile, stop).await?,
                None => None,
            };
            is_composed &= composed.is_some();
            rows.extend(composed.map(|composed| (index, composed)));
            counted.insert(index, prepared);
        }
        if is_composed && self.statements.have_rows_for(batch, &rows) {
            if let Some(tiles) = self.drawn_from_rows(batch, rows).await {
                return Ok(Some(DrawnWithCells { tiles, by_database: false }));
            }
            rows = BTreeMap::new();
        }
        let mut layers = Vec::new();
        for (index, prepared) in self.prepared.iter().enumerate() {
            let narrowed = LiveSnapshot::narrowed(prepared.layer(), filter);
            let is_narrowed = !Arc::ptr_eq(&narrowed, prepared.layer());
            layers.push(match (counted.remove(&index), rows.remove(&index)) {
                (Some(counted), _) => counted,
                (None, Some(own)) => PreparedLayer::new(&narrowed).with_cached_rows(Some(Arc::new(own))),
                (None, None) if is_narrowed => PreparedLayer::new(&narrowed),
                (None, None) => prepared.clone(),
            });
        }
        let values = filter.map(|filter| filter.values.clone()).unwrap_or_default();
        let narrowed = NarrowedLayers { statements: RunLayers::new(&layers), values };
        let tiles = Box::pin(self.render(batch, Some(&narrowed), stop)).await?;
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(Some(DrawnWithCells { tiles, by_database: true }))
    }

    /// A layer with the rows that a request wants of it; the same one if it wants all.
    fn narrowed(layer: &Arc<Layer>, filter: Option<&RequestFilter<'_>>) -> Arc<Layer> {
        match filter.filter(|filter| !filter.of_layer(layer).is_empty()) {
            Some(filter) => Arc::new(filter.narrowed(layer)),
            None => Arc::clone(layer),
        }
    }

    /// The counted cells of a tile as rows. The database encodes what is not known yet. `None` if they cannot be put
    /// together.
    async fn composed(
        &self,
        values: &CellValues,
        prepared: &PreparedLayer,
        tile: &TileRect,
        stop: &Stop,
    ) -> Result<Option<CachedRows>, Error> {
        if let Some(rows) = values.rows(prepared, tile) {
            return Ok(Some(rows));
        }
        let session = self.session(stop).await?;
        let own = session.stop.clone();
        let learning = async {
            let readers = RowReaders { keeper: session.worker.session(), others: &[] };
            values.learn(readers, prepared, tile).await
        };
        let learnt = until_stopped(learning, &own, stop).await;
        self.give_back(session, learnt.is_ok());
        Ok(if learnt? { values.rows(prepared, tile) } else { None })
    }

    /// The tiles of a batch from kept rows, with the rows in `instead` for the layers with these numbers.
    pub(crate) async fn drawn_from_rows(
        &self,
        batch: &Batch,
        instead: BTreeMap<usize, CachedRows>,
    ) -> Option<Vec<RenderedTile>> {
        if !self.statements.have_rows_for(batch, &instead) {
            return None;
        }
        let (layers, batch) = (Arc::clone(&self.statements), batch.clone());
        let drawing = tokio::task::spawn_blocking(move || layers.drawn_from_rows(&batch, &instead));
        drawing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    pub(crate) async fn for_rows(&self) -> Result<RowsSnapshot<'_>, Error> {
        Ok(RowsSnapshot {
            worker: Worker::alone(&self.run, &self.snapshot, &self.locks, self.packing).await?,
            database: &self.run,
            snapshot: &self.snapshot,
            layers: &self.layers,
            reads: &self.reads,
            shown: &self.shown,
        })
    }

    /// Logs the plans of a slow tile's statements. False if the session cannot be used any more.
    async fn explain(session: &LiveSession, statements: &RunLayers, batch: &Batch, limit: Duration) -> bool {
        let tile = batch.areas.first().and_then(|area| area.rect.first());
        let tile = tile.map(|tile| tile.to_string()).unwrap_or_default();
        let limit = humantime::format_duration(limit);
        match session.worker.explain(statements, batch).await {
            Ok(plans) => {
                for LayerPlan { layer, plan } in plans {
                    tracing::warn!("tile {tile} took longer than {limit}; the plan of layer \"{layer}\":\n{plan}");
                }
                true
            }
            Err(error) => {
                tracing::info!("the plans of tile {tile} cannot be shown: {error}");
                false
            }
        }
    }

    async fn session(&self, stop: &Stop) -> Result<LiveSession, Error> {
        let idle = self.idle.lock().pop();
        if let Some(idle) = idle {
            return Ok(LiveSession { idle: None, ..idle });
        }
        let own = Stop::new();
        let database = self.run.stopped_by(&own);
        let opening = Worker::open(&database, &self.snapshot, &self.locks, self.packing, 1);
        tokio::pin!(opening);
        let opened = tokio::select! {
            opened = &mut opening => opened,
            signal = stop.wait() => {
                own.ask(signal);
                opening.await
            }
        };
        let mut worker = opened?.pop().ok_or(Error::Interrupted)?;
        worker.keep_statements().await?;
        Ok(LiveSession { worker, stop: own, idle: None })
    }
}

/// Awaits what runs in a session that `own` stops, which is asked to when `stop` is.
async fn until_stopped<T>(work: impl Future<Output = T>, own: &Stop, stop: &Stop) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        signal = stop.wait() => {
            own.ask(signal);
            work.await
        }
    }
}

impl Drop for LiveSnapshot {
    fn drop(&mut self) {
        for session in self.idle.lock().drain(..) {
            session.stop.ask(Signal::Terminate);
        }
    }
}

// The limits on the database sessions of all tilesets' live tiles together.

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

// Live tiles of requests that give values for parameters: the layers with further conditions, and the values that these
// conditions read.

/// What a request wants of the rows.
pub(crate) struct RequestFilter<'r> {
    filters: &'r FilterSettings,
    /// `None` for a request that gives no values, and wants all rows.
    given: Option<&'r GivenParameters>,
    pub(crate) values: Vec<SessionValue>,
}

impl<'r> RequestFilter<'r> {
    pub(crate) fn of(filters: &'r FilterSettings, given: Option<&'r GivenParameters>) -> RequestFilter<'r> {
        let all = given.map(|given| filters.values(given)).unwrap_or_default();
        let values = all.into_iter().map(|given| session_value(&given.name, given.array()));
        RequestFilter { filters, given, values: values.collect() }
    }

    /// The conditions that the request sets on the rows of a layer.
    pub(crate) fn of_layer(&self, layer: &Layer) -> Vec<AskedCondition> {
        self.given.map_or_else(Vec::new, |given| self.filters.asked(given, layer))
    }

    /// The facets of a layer by which requests choose, each with the parameter.
    pub(crate) fn facets_of<'l>(&self, layer: &'l Layer) -> Vec<(&'r ParameterSettings, &'l Facet)> {
        self.filters.facets_of(layer)
    }

    /// The layer with the rows that the request wants.
    pub(crate) fn narrowed(&self, layer: &Layer) -> Layer {
        self.narrowed_by(layer, &self.of_layer(layer))
    }

    /// The layer with the rows that fulfil some of the request's conditions.
    pub(crate) fn narrowed_by(&self, layer: &Layer, asked: &[AskedCondition]) -> Layer {
        let conditions: Vec<&str> = asked.iter().map(|condition| condition.sql.as_str()).collect();
        layer.narrowed(&conditions, &self.given.map(GivenParameters::json).unwrap_or_default())
    }
}

pub(crate) struct NarrowedLayers {
    pub(crate) statements: Arc<RunLayers>,
    pub(crate) values: Vec<SessionValue>,
}

impl NarrowedLayers {
    /// The layers with the rows that a request wants.
    pub(crate) fn of(layers: &[Arc<Layer>], filter: RequestFilter<'_>) -> NarrowedLayers {
        let layers = layers.iter().map(|layer| PreparedLayer::new(&Arc::new(filter.narrowed(layer))));
        NarrowedLayers { statements: RunLayers::new(&layers.collect::<Vec<_>>()), values: filter.values }
    }
}

/// Tiles whose cells were counted from kept rows.
pub(crate) struct DrawnWithCells {
    pub(crate) tiles: Vec<RenderedTile>,
    /// True if the database drew them.
    pub(crate) by_database: bool,
}

// Where features lie, by layer and zoom. They are surveyed when the first tile needs them.

/// Where the features of a layer lie at a zoom, or why the survey failed.
pub(crate) type SurveyedFootprints = Result<Arc<LayerFootprints>, Arc<Error>>;

/// The surveys that were begun.
#[derive(Default)]
pub(crate) struct FeatureSurveys(Mutex<HashMap<(LayerIndex, Zoom), SharedWork<SurveyedFootprints>>>);

impl FeatureSurveys {
    /// The survey of a layer's features at a zoom. `start` begins it if it was not begun yet, or if its task died.
    pub(crate) fn of(
        &self,
        layer: LayerIndex,
        zoom: Zoom,
        start: impl FnOnce() -> SharedWork<SurveyedFootprints>,
    ) -> SharedWork<SurveyedFootprints> {
        let mut surveys = self.0.lock();
        let known = surveys.get(&(layer, zoom)).filter(|survey| !survey.is_dead()).cloned();
        known.unwrap_or_else(|| {
            let survey = start();
            surveys.insert((layer, zoom), survey.clone());
            survey
        })
    }
}

// Work that is done once by a task of its own, however many callers wait for it and however many of them stop waiting.

/// Work that is under way or done. Clones wait for the same result.
#[derive(Clone)]
pub(crate) struct SharedWork<T>(watch::Receiver<Option<T>>);

impl<T: Clone + Send + Sync + 'static> SharedWork<T> {
    pub(crate) fn start(work: impl Future<Output = T> + Send + 'static) -> SharedWork<T> {
        let (tell, done) = watch::channel(None);
        tokio::spawn(async move {
            let result = work.await;
            // There may be no receiver any more.
            tell.send_replace(Some(result));
        });
        SharedWork(done)
    }

    /// Waits for the result; `None` if the task died.
    pub(crate) async fn done(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
    }

    /// The result, if it is there already.
    pub(crate) fn peek(&self) -> Option<T> {
        self.0.borrow().clone()
    }

    /// True if the task died, so that there will never be a result.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.borrow().is_none() && self.0.has_changed().is_err()
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
