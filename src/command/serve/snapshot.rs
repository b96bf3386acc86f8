//! The database state that live tiles show for some seconds: one snapshot, probed once, for all tiles that are requested meanwhile.
//!
//! A snapshot for each tile would have to probe the layers for each tile, which takes longer than rendering one. A snapshot that is kept would
//! show an old state, and hold back the server's vacuum. So a snapshot lives for [`MIN_LIFE`], or longer if taking it took long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::bounds::LiveBounds;
use super::narrowed::NarrowedLayers;
use super::search::FeaturePlaces;
use crate::changes::{Cursor, CursorError, NewestLogged, StateInHistory, newest_logged};
use crate::encode::Packing;
use crate::error::{ErrorKind, Obstacle};
use crate::plan::DrawnLayer;
use crate::postgis::{
    Database, Error, Layer, LayerLocks, LayerOptions, LayerPlan, PreparedLayer, Reads, RunLayers, Snapshot, Worker,
    probe,
};
use crate::run::{CommandError, Job};
use crate::source::RenderedTile;
use crate::stop::{Signal, Stop};
use crate::tile::Batch;

/// How long live tiles show one database state, at least.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// A snapshot lives this many times as long as its preparation took, so that at most a tenth of the database's time is spent on preparation.
const LIFE_BY_PREPARATION: u32 = 10;

/// A session that renders, and its stop. A session that was stopped is not used again.
struct LiveSession {
    worker: Worker,
    stop: Stop,
    /// Its right to wait idle for its next tile.
    idle: Option<OwnedSemaphorePermit>,
}

/// One database state, the layers in this state, and the idle sessions on it.
pub(super) struct LiveSnapshot {
    run: Database,
    pub(super) snapshot: Arc<Snapshot>,
    /// The layers, in the order of the configuration.
    pub(super) layers: Vec<Arc<Layer>>,
    /// The layers for planning.
    pub(super) drawn: Vec<DrawnLayer>,
    /// The layers with their statements.
    statements: Arc<RunLayers>,
    locks: LayerLocks,
    pub(super) reads: Reads,
    packing: Packing,
    /// The database state, and what distinguishes its history from others.
    pub(super) shown: StateInHistory,
    /// Where the features lie of layers without a closed formula.
    pub(super) places: FeaturePlaces,
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
    /// Takes a snapshot and probes the layers of a job.
    ///
    /// # Errors
    /// If the database cannot be reached, or the layers do not fit the database any more.
    pub(super) async fn take(
        database: &Database,
        job: &Job,
        stop: &Stop,
        bounds: &Arc<LiveBounds>,
    ) -> Result<LiveSnapshot, CommandError> {
        let settings = &job.settings;
        let held = bounds.snapshot().await;
        let begun = Instant::now();
        let run = database.for_another_run(stop);
        let snapshot = Arc::new(run.snapshot().await?);
        let options: Vec<LayerOptions> = settings.tileset.layers.iter().map(|layer| layer.options.clone()).collect();
        let probed = probe(&snapshot, &options).await?;
        let state: Cursor =
            snapshot.cursor().parse().map_err(|error: CursorError| CommandError::Pipeline(error.to_string()))?;
        let newest = newest_logged(&snapshot, &settings.database.changes.schema, std::slice::from_ref(&state)).await;
        let newest = match newest {
            Ok(newest) => newest.first().copied().unwrap_or(NewestLogged::NoLog),
            // Tiles do not wait for a locked log. The next look evicts them, and no other server takes them.
            Err(error) if error.kind() == ErrorKind::Transient(Obstacle::HeldUp) => NewestLogged::NoLog,
            Err(error) => return Err(error.into()),
        };
        let prepared: Vec<PreparedLayer> = probed.layers.iter().map(PreparedLayer::new).collect();
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
            layers: probed.layers,
            locks: probed.locks,
            reads: probed.reads,
            packing: settings.run.limits.packing,
            shown: StateInHistory { state, newest },
            places: FeaturePlaces::default(),
            idle: Mutex::default(),
            bounds: Arc::clone(bounds),
            explain_after: bounds.explain_after,
            _held: held,
            prepared_in: Mutex::new(begun.elapsed()),
        })
    }

    /// How long the snapshot is used.
    pub(super) fn life(&self) -> Duration {
        let prepared_in = *self.prepared_in.lock().unwrap_or_else(PoisonError::into_inner);
        MIN_LIFE.max(prepared_in * LIFE_BY_PREPARATION)
    }

    /// Notes how long a further preparation took.
    pub(super) fn prepared_for(&self, took: Duration) {
        *self.prepared_in.lock().unwrap_or_else(PoisonError::into_inner) += took;
    }

    /// Renders a batch in a session of its own. When `stop` is asked for, the statement is cancelled in the server and the session is given up.
    /// Its connection returns to the pool once the server has ended the statement and rolled back.
    ///
    /// # Errors
    /// If a statement fails or is stopped.
    pub(super) async fn render(
        &self,
        batch: &Batch,
        narrowed: Option<&NarrowedLayers>,
        stop: &Stop,
    ) -> Result<Vec<RenderedTile>, Error> {
        let mut session = self.session(stop).await?;
        let own = session.stop.clone();
        let statements = narrowed.map_or(&self.statements, |narrowed| &narrowed.statements);
        let begun = Instant::now();
        let rendered = {
            let rendering = async {
                if let Some(narrowed) = narrowed {
                    session.worker.set_values(&narrowed.values).await?;
                }
                session.worker.render(statements, batch).await
            };
            tokio::pin!(rendering);
            tokio::select! {
                done = &mut rendering => done,
                signal = stop.wait() => {
                    own.ask(signal);
                    rendering.await
                }
            }
        };
        let is_slow = |limit: &Duration| rendered.is_ok() && begun.elapsed() > *limit;
        let is_explained = match self.explain_after.filter(is_slow) {
            Some(limit) => LiveSnapshot::explain(&session, statements, batch, limit).await,
            None => true,
        };
        // A session in which a statement failed is given up, because its connection may be lost.
        let is_usable = match &rendered {
            Ok(_) => own.asked().is_none() && is_explained,
            Err(_) => false,
        };
        session.idle = self.bounds.idle().filter(|_| is_usable);
        if session.idle.is_some() {
            self.idle().push(session);
        }
        rendered
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

    /// A session on the snapshot.
    async fn session(&self, stop: &Stop) -> Result<LiveSession, Error> {
        let idle = self.idle().pop();
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

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<LiveSession>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveSnapshot {
    fn drop(&mut self) {
        for session in self.idle().drain(..) {
            session.stop.ask(Signal::Terminate);
        }
    }
}
