//! The rows that a watch keeps from look to look. They are read beside the looks, on a snapshot of their own, so that
//! no look waits for them.
//!
//! ```text
//!  a look of which they would have been of use ─► wanted ─► read on a snapshot of its own, while looks go on
//!  the first look after that ─► the changes since that snapshot, by the change log ─► kept
//!  after five minutes ─► read again, while those that are kept are used
//! ```
//!
//! In a server, rows of points are those of its live tiles where these have some: see [`RowsPool`](crate::draw::RowsPool).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::change_log::newest_logged;
use crate::cursor::{Cursor, NewestLogged, StateInHistory};
use crate::draw::{GivenCount, LivePoints, LiveRows, LiveStep, Worker};
use crate::error::with_causes;
use crate::postgis::{Database, Layer, Snapshot, counts_cells, foldable, probe};
use crate::run::dirty::Look;
use crate::run::kept_rows::{PoolStep, RowsSnapshot, changed_positions, is_in_history};
use crate::run::{CommandError, TilesetRun};
use crate::stop::{Signal, Stop};

/// The pause after rows were read or could not be read, before rows are read again.
const PAUSE: Duration = Duration::from_secs(30);

/// The rows that a watch keeps, and those that are being read.
#[derive(Debug, Default)]
pub(crate) struct WatchedRows {
    pub(crate) kept: LiveRows,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    None,
    /// It ends early once the stop is asked for.
    Running(JoinHandle<Result<ReadRows, CommandError>>, Stop),
    /// It has ended; the next one begins at this moment at the earliest.
    PausedUntil(Instant),
}

/// Rows that were read on a snapshot of their own.
#[derive(Debug)]
struct ReadRows {
    rows: LiveRows,
    /// The state of the database that they are of.
    shown: StateInHistory,
    /// The definitions of the layers whose rows were to be read.
    wanted: Vec<String>,
}

impl WatchedRows {
    /// Drops all rows, and those that are being read. Nobody else in this process takes them then.
    pub(crate) async fn clear(&self, run: &TilesetRun) {
        self.end_reading();
        for age in self.kept.ages().await {
            run.pool.iter().for_each(|pool| pool.forget(age));
        }
        self.kept.clear().await;
    }

    /// Ends a reading that is under way: its statement is cancelled, and its locks are released.
    fn end_reading(&self) {
        if let Reading::Running(_task, stop) = std::mem::take(&mut *self.reading.lock()) {
            stop.ask(Signal::Terminate);
        }
    }

    /// Begins to read the rows that are wanted, unless rows are being read. `look` is a look at the layers.
    pub(crate) async fn begin_reading(&self, look: &Look<'_>) {
        let wanted = self.kept.wanted().await;
        let (_, bytes) = self.kept.size().await;
        let mut reading = self.reading.lock();
        let is_due = match &*reading {
            Reading::None => true,
            Reading::Running(..) => false,
            Reading::PausedUntil(time) => *time <= Instant::now(),
        };
        if is_due && !wanted.is_empty() {
            // Those that are kept stay in memory meanwhile.
            let memory = look.run.rows_memory().saturating_sub(bytes);
            // The look may end, or be stopped, before the reading.
            let stop = Stop::new();
            let run = look.run.with_report_and_stop(Arc::clone(&look.run.report), stop.clone());
            *reading = Reading::Running(tokio::spawn(read(run, wanted, memory)), stop);
        }
    }

    /// Takes over rows that were read since an earlier look, or newer rows of others in this process, brought to the
    /// snapshot of this one.
    ///
    /// # Errors
    /// If the session of the snapshot is lost, or a stop was requested.
    pub(crate) async fn take_over(&self, look: &Look<'_>) -> Result<(), CommandError> {
        self.take_over_read(look).await?;
        let Some(pool) = pool_step(&look.run, &look.database, &look.snapshot) else { return Ok(()) };
        for layer in &look.layers {
            if let Some(age) = self.kept.age_of(layer).await {
                let memory = look.run.rows_memory().saturating_sub(self.kept.bytes_besides(layer).await);
                if let Some(newer) = pool.taken(layer, std::slice::from_ref(layer), Some(age), memory).await {
                    self.kept.take_over(newer).await;
                }
            }
        }
        Ok(())
    }

    /// Offers rows of points, which are those of the look's snapshot, to others in this process.
    pub(crate) async fn offer(&self, look: &Look<'_>) {
        let Some(pool) = pool_step(&look.run, &look.database, &look.snapshot) else { return };
        if self.kept.point_layers().await == 0 {
            return;
        }
        match state_in_history(&look.run, &look.snapshot).await {
            Ok(shown) => offer(pool, &self.kept, &look.layers, &shown).await,
            Err(error) => tracing::debug!("rows are not offered to others in this process: {}", with_causes(&error)),
        }
    }

    /// Takes over rows that were read since an earlier look. Rows that cannot be brought to this one are dropped.
    async fn take_over_read(&self, look: &Look<'_>) -> Result<(), CommandError> {
        let running = {
            let mut reading = self.reading.lock();
            if !matches!(&*reading, Reading::Running(task, _) if task.is_finished()) {
                return Ok(());
            }
            std::mem::replace(&mut *reading, Reading::PausedUntil(Instant::now() + PAUSE))
        };
        let Reading::Running(task, _) = running else { return Ok(()) };
        let read = match task.await.map_err(CommandError::from).and_then(|read| read) {
            Ok(read) => read,
            Err(error) => {
                tracing::info!("rows are not kept: {}", with_causes(&error));
                return Ok(());
            }
        };
        let (_, bytes) = self.kept.size().await;
        let memory = look.run.rows_memory().saturating_sub(bytes);
        let mut lost = read.wanted.clone();
        if let Some(rows) = brought(read, look, memory).await? {
            let read = rows.definitions().await;
            lost.retain(|definition| !read.contains(definition));
            self.kept.take_over(rows).await;
        }
        self.kept.note_not_replaced(&lost).await;
        Ok(())
    }
}

impl Drop for WatchedRows {
    fn drop(&mut self) {
        self.end_reading();
    }
}

/// Rows brought to the snapshot of a look; `None` if it is not known what has changed.
async fn brought(read: ReadRows, look: &Look<'_>, memory: usize) -> Result<Option<LiveRows>, CommandError> {
    let ReadRows { rows, shown, .. } = read;
    let (snapshot, schema) = (&*look.snapshot, &look.run.settings.database.changes.schema);
    let mut layers = Vec::new();
    for layer in &look.layers {
        if rows.has(layer).await {
            layers.push(Arc::clone(layer));
        }
    }
    let asking = Box::pin(changed_positions(&look.database, snapshot, &layers, &shown.state, schema));
    let changed = match is_in_history(snapshot, schema, &shown).await {
        Ok(true) => snapshot.without_keeping_locks(asking).await,
        Ok(false) => {
            tracing::info!("rows are not kept: the database has another history");
            return Ok(None);
        }
        Err(error) => Err(error),
    };
    let changed = match changed {
        Ok(changed) => changed,
        Err(error) => {
            tracing::info!("rows are not kept: {}", with_causes(&error));
            return Ok(None);
        }
    };
    let since = shown.state.to_string();
    let at = LiveStep { snapshot, since: &since, now: snapshot.cursor(), memory };
    for (layer, positions) in layers.iter().zip(&changed) {
        rows.bring(at, layer, positions.as_deref()).await?;
    }
    Ok(Some(rows))
}

fn pool_step<'a>(run: &'a TilesetRun, database: &'a Database, snapshot: &'a Snapshot) -> Option<PoolStep<'a>> {
    let schema = &run.settings.database.changes.schema;
    run.pool.as_deref().map(|pool| PoolStep { pool, database, snapshot, schema })
}

async fn state_in_history(run: &TilesetRun, snapshot: &Snapshot) -> Result<StateInHistory, CommandError> {
    let state: Cursor = snapshot.cursor().parse()?;
    let newest = newest_logged(snapshot, &run.settings.database.changes.schema, std::slice::from_ref(&state)).await?;
    Ok(StateInHistory { state, newest: newest.first().copied().unwrap_or(NewestLogged::NoLog) })
}

async fn offer(pool: PoolStep<'_>, rows: &LiveRows, layers: &[Arc<Layer>], shown: &StateInHistory) {
    for layer in layers {
        pool.offer(rows, layer, shown, &GivenCount::default()).await;
    }
}

/// Takes the rows of a layer of points, by its number, from others in this process, or reads them.
async fn obtain_points(
    run: &TilesetRun,
    on: &RowsSnapshot<'_>,
    number: usize,
    rows: &LiveRows,
    look: LiveStep<'_>,
) -> Result<(), CommandError> {
    let layer = &on.layers[number];
    if let Some(step) = pool_step(run, on.database, on.snapshot) {
        let memory = look.memory.saturating_sub(rows.bytes_besides(layer).await);
        if let Some(taken) = step.taken(layer, std::slice::from_ref(layer), None, memory).await {
            rows.take_over(taken).await;
            if are_right(on, number, rows.points(look, layer, None).await?).await? {
                return Ok(());
            }
            // Those that are read may be right, and take the place of these.
            rows.age_of(layer).await.into_iter().for_each(|age| step.pool.forget(age));
        }
    }
    let read = rows.read_points(look, layer).await?;
    if read.is_some() && !are_right(on, number, read).await? {
        rows.refuse(look, layer).await;
    }
    Ok(())
}

async fn are_right(on: &RowsSnapshot<'_>, number: usize, points: Option<LivePoints>) -> Result<bool, CommandError> {
    match points {
        Some(points) => on.draws_alike(number, &points).await,
        None => Ok(false),
    }
}

/// Reads the rows of some layers, by their definitions.
async fn read(run: TilesetRun, wanted: Vec<String>, memory: usize) -> Result<ReadRows, CommandError> {
    let database = run.database()?;
    let snapshot = Arc::new(database.snapshot().await?);
    let probed = probe(&snapshot, &run.settings.tileset.layers).await?;
    let shown = state_in_history(&run, &snapshot).await?;
    let packing = run.settings.run.limits.packing;
    let on = RowsSnapshot {
        worker: Worker::alone(&database, &snapshot, &probed.locks, packing).await?,
        database: &database,
        snapshot: &snapshot,
        layers: &probed.layers,
        reads: &probed.reads,
        shown: &shown,
    };
    let (rows, look) =
        (LiveRows::default(), LiveStep { snapshot: &snapshot, since: "", now: snapshot.cursor(), memory });
    for (number, layer) in on.layers.iter().enumerate().filter(|(_, layer)| wanted.contains(&layer.definition())) {
        if layer.grid().is_some() {
            let folds = foldable(&snapshot, layer).await?;
            if counts_cells(layer, folds.as_deref()) {
                rows.read_cells(look, layer, folds.as_deref()).await?;
                rows.encode_cells(look, layer, folds.as_ref()).await?;
            }
        } else {
            obtain_points(&run, &on, number, &rows, look).await?;
        }
    }
    snapshot.check_partitions(on.reads).await?;
    if let Some(pool) = pool_step(&run, &database, &snapshot) {
        offer(pool, &rows, on.layers, &shown).await;
    }
    drop(on);
    Ok(ReadRows { rows, shown, wanted })
}
