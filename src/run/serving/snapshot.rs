//! The database state that live tiles show for some seconds: one snapshot, probed once, for all tiles that are
//! requested meanwhile.
//!
//! A snapshot for each tile would have to probe the layers for each tile, which takes longer than rendering one. A
//! snapshot that is kept would show an old state, and hold back the server's vacuum. So a snapshot lives for
//! [`MIN_LIFE`], or longer if taking it took long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::bounds::LiveBounds;
use super::live_layers::LiveLayers;
use super::request_filter::NarrowedLayers;
use super::rows::ServedRows;
use super::sets::SetsState;
use super::shared_work::SharedWorkByKey;
use crate::change_log::{Cursor, NewestLogged, StateInHistory, newest_logged};
use crate::draw::{LayerPlan, LivePoints, MatchingSet, RunLayers, Worker};
use crate::encode::Packing;
use crate::error::{ErrorKind, Obstacle};
use crate::plan::DrawnLayer;
use crate::postgis::{Database, Error, Layer, LayerLocks, Reads, SessionValue, Snapshot, probe};
use crate::run::kept_rows::RowsSnapshot;
use crate::run::{CommandError, TilesetRun};
use crate::source::RenderedTile;
use crate::stop::{Signal, Stop};
use crate::tile::{Batch, LayerFootprints, LayerIndex, Zoom};

/// How long live tiles show one database state, at least.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// A snapshot lives this many times as long as its preparation took, so that at most a tenth of the database's time is
/// spent on preparation.
const LIFE_BY_PREPARATION: u32 = 10;

/// Where the features of a layer lie at a zoom, or why the survey failed.
pub(crate) type SurveyedFootprints = Result<Arc<LayerFootprints>, Arc<Error>>;

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
    pub(crate) statements: Arc<RunLayers>,
    /// The layers with the rows that are kept of them.
    pub(crate) live: LiveLayers,
    locks: LayerLocks,
    pub(crate) reads: Reads,
    packing: Packing,
    /// The database state, and what distinguishes its history from others.
    pub(crate) shown: StateInHistory,
    /// What matching sets of this state have to be like.
    pub(crate) sets: SetsState,
    /// Where the features lie of layers without a closed formula. They are surveyed when the first tile needs them.
    pub(crate) surveys: SharedWorkByKey<(LayerIndex, Zoom), SurveyedFootprints>,
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
    /// Takes a snapshot and probes the layers of a run. Live rows are brought to it. Fails if the database cannot be
    /// reached, or the layers do not fit the database any more.
    pub(crate) async fn take(
        database: &Database,
        tileset_run: &TilesetRun,
        stop: &Stop,
        bounds: &Arc<LiveBounds>,
        purpose: SnapshotUse<'_>,
    ) -> Result<LiveSnapshot, CommandError> {
        let settings = &tileset_run.settings;
        let held = match purpose {
            SnapshotUse::Rows => bounds.reading().await,
            SnapshotUse::Check | SnapshotUse::Tiles(_) => bounds.snapshot().await,
        };
        let begun = Instant::now();
        let run = database.for_another_run(stop);
        let snapshot = Arc::new(run.snapshot().await?);
        // Opening a connection does not count: the next snapshot uses it again.
        let taken = Instant::now();
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
        let (live, sets) = match purpose {
            SnapshotUse::Tiles(rows) => {
                rows.prepared(&run, &snapshot, &probed, &shown, begun, &settings.database.changes.schema).await
            }
            SnapshotUse::Check | SnapshotUse::Rows => (LiveLayers::without_rows(&probed.layers), SetsState::default()),
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
            statements: RunLayers::new(&live.prepared),
            live,
            layers: probed.layers,
            locks: probed.locks,
            reads: probed.reads,
            packing: settings.run.limits.packing,
            shown,
            sets,
            surveys: SharedWorkByKey::default(),
            idle: Mutex::default(),
            bounds: Arc::clone(bounds),
            explain_after: bounds.explain_after,
            _held: held,
            prepared_in: Mutex::new(taken.elapsed()),
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
        self.bounds.asking().await
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
