//! The work of the verbs, and what they share: one run of one tileset into one target. The table has the verbs first, then
//! the parts of a run in the order of its course, what several targets or processes share, and helpers.
//!
//! | file | what |
//! |---|---|
//! | `config`, `copy`, `diff`, `doctor/`, `init/`, `inspect`, `jobs`, `publish`, `reseed/`, `serving/`, `shards/`, `track`, `verify` | a verb each |
//! | `seed` | a seed, from the plan to the manifest: for `seed`, and for a `reseed` that has to seed |
//! | `family_seed` | a seed of all variants of a tileset |
//! | `dry_run` | `oar-tiles seed --dry-run`: the plan |
//! | `prepare` | snapshot, probe, survey and plan of a seed; where the features of all layers lie |
//! | `row_loss` | whether a run would lose too many rows of a layer |
//! | `fitted_filters` | whether the database understands what requests may ask |
//! | `render` | rendering the planned tiles of a run into a sink |
//! | `finish` | the end of a run: manifest, list of changed tiles, report |
//! | `describe` | what a run says about its result: manifest, metadata, budgets, warnings |
//! | `identity` | whether a target shows this database and its history |
//! | `dirty/` | the dirty tiles of a target: for `reseed` and `track status` |
//! | `kept_rows` | rows that a server or a watch keeps: the snapshot on which they are read, and where they have changed since |
//! | `target/` | the kind of target that a text names, how it is opened, whether a run may replace what is there |
//! | `tilesets` | several targets in one command: the shared snapshot, which of them failed, how the command ends |
//! | `family/` | families: the variants of a tileset, and their own manifest |
//! | `shared_rows` | the rows of layers that are the same in several tilesets |
//! | `queue_gate` | batches of a server's own writer wait in its queue |
//! | `writer_lease` | which of several servers writes a target |
//! | `purge` | notifying CDNs after a publish, and the verb |
//! | `dirty_file` | lists of tiles as files: `z/x/y` lines for other programs, JSON, or GeoJSON to look at on a map |
//! | `endpoint` | a running endpoint of tiles, asked tile after tile, for `diff` |
//! | `picture` | tiles and maps as pictures, for `inspect --png` and `preview --picture` |
//! | `error` | the errors of commands, and their kinds |
//!
//! A verb makes a [`TilesetRun`] and returns a value; `cli` prints it.

pub(crate) mod config;
pub mod copy;
mod describe;
pub(crate) mod diff;
mod dirty;
mod dirty_file;
pub(crate) mod doctor;
mod dry_run;
pub(crate) mod endpoint;
mod error;
mod family;
pub(crate) mod family_seed;
mod finish;
mod fitted_filters;
mod identity;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod jobs;
mod kept_rows;
pub(crate) mod picture;
mod prepare;
pub(crate) mod publish;
pub(crate) mod purge;
mod queue_gate;
mod render;
pub mod reseed;
mod row_loss;
pub mod seed;
pub(crate) mod serving;
pub mod shards;
mod shared_rows;
mod target;
mod tilesets;
pub(crate) mod track;
pub(crate) mod verify;
mod writer_lease;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use family::{FamilyCachePart, SessionPart};
use target::TargetOptions;
use tilesets::refreshed_snapshot;
use tokio::task::spawn_blocking;

use crate::backoff::Backoff;
use crate::change_log::Cursor;
use crate::config::{DatabaseSettings, Settings};
use crate::draw::{RowsPool, Worker};
use crate::encode::TileCompression;
use crate::error::{ErrorKind, Obstacle};
use crate::manifest::Witness;
use crate::pipeline::{BatchGate, BatchKind, BatchPace, BatchTurns};
use crate::postgis::{Database, Snapshot};
use crate::report::{Event, Report};
use crate::stop::Stop;
use crate::target::BeforeManifest;
use crate::tile::{ColumnRanges, Coverage};

pub(crate) use dirty::{DirtyFilter, TileList, TileListDocument, TilesWanted, area, area_or_boxes};
pub(crate) use dirty_file::ChangedOut;
pub(crate) use error::OTHER_HISTORY;
pub(crate) use error::{CommandError, SeveralError, WrittenFileError, interrupted};
pub(crate) use family::FamilyReader;
pub(crate) use family::{Family, FamilyOptions, FamilyOutcome, FamilyRecord, FamilyWork};
pub(crate) use queue_gate::QueueGate;
pub(crate) use target::{Target, VersionSwitch};
pub(crate) use tilesets::{FailedTargets, SeveralTargets, SharedSnapshot};

/// One run: what it renders, where its rows come from, who is told, and the stop that ends it.
#[derive(Clone)]
pub struct TilesetRun {
    pub settings: Settings,
    /// The target that it reads or writes.
    pub target: Target,
    /// The tiles that it renders.
    pub(crate) part: RunPart,
    /// Where its rows and layers come from.
    pub(crate) rows: RowSource,
    /// The live rows of all runs in this process that keep some; `None` if it keeps them for itself.
    pub(crate) pool: Option<Arc<RowsPool>>,
    /// The gate at which its batches wait for their turn, if the run shares the database's sessions with others.
    pub gate: Option<Arc<dyn BatchGate>>,
    /// Receives the list of changed tiles after the run is published.
    pub(crate) changed_out: ChangedOut,
    /// Receives the events.
    pub report: Arc<dyn Report>,
    /// Tells whether a stop was asked for.
    pub stop: Stop,
}

/// The tiles of its tileset that a run renders.
#[derive(Debug, Clone)]
pub(crate) enum RunPart {
    /// All tiles within its zooms and boxes.
    Whole,
    Shard {
        columns: ColumnRanges,
        /// The approximate number of rows that its tiles show, each counted once.
        rows: u64,
        /// True if these are most of all rows.
        reads_most: bool,
    },
}

/// Where the rows and layers of a run come from.
#[derive(Clone)]
pub(crate) enum RowSource {
    OwnSnapshot,
    /// The snapshot that it shares with the runs of other targets.
    SharedSnapshot(SharedSnapshot),
    /// The rows of its family, read before. No session is needed.
    FamilyCache(FamilyCachePart),
    FamilySession(SessionPart),
}

impl RowSource {
    /// The snapshot that the run shares with others.
    fn shared(&self) -> Option<&SharedSnapshot> {
        match self {
            RowSource::OwnSnapshot | RowSource::FamilyCache(_) => None,
            RowSource::SharedSnapshot(shared) => Some(shared),
            RowSource::FamilySession(session) => Some(&session.sessions.shared),
        }
    }

    /// How many runs share the memory for cached rows at once.
    fn side_by_side(&self) -> usize {
        match self {
            RowSource::OwnSnapshot | RowSource::SharedSnapshot(_) | RowSource::FamilyCache(_) => 1,
            RowSource::FamilySession(session) => session.sessions.count,
        }
    }
}

/// The database state that a publication of a target is known to show, in addition to what its own manifest says.
#[derive(Debug, Clone)]
pub(crate) struct KnownState {
    pub(crate) cursor: Cursor,
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) publication: String,
}

impl TilesetRun {
    /// A run with the output that the settings name; with `force`, it may overwrite whatever is there. Must be called
    /// on a runtime, which then runs requests to servers.
    ///
    /// # Errors
    /// If the output is no target.
    pub fn new(
        mut settings: Settings,
        force: bool,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<TilesetRun, CommandError> {
        let targets = TargetOptions::new(&settings.tileset, force, stop);
        let target = targets.target(&settings.tileset.output.to_string_lossy())?;
        if !target.is_packed() {
            settings.run.limits.packing.compression = TileCompression::None;
        }
        Ok(TilesetRun {
            settings,
            target,
            part: RunPart::Whole,
            rows: RowSource::OwnSnapshot,
            pool: None,
            gate: None,
            changed_out: ChangedOut::default(),
            report: Arc::clone(report),
            stop: stop.clone(),
        })
    }

    /// The same run, which also writes the list of changed tiles to the file `path`.
    pub(crate) fn with_changed_out(self, path: Option<&Path>) -> Result<TilesetRun, CommandError> {
        let changed_out = ChangedOut::new(path, &self.settings.tileset.output)?;
        Ok(TilesetRun { changed_out, ..self })
    }

    /// The same run, which takes live rows from others in this process and gives them its own.
    pub(crate) fn with_pool(self, pool: &Arc<RowsPool>) -> TilesetRun {
        TilesetRun { pool: Some(Arc::clone(pool)), ..self }
    }

    /// The same run with another report.
    pub(crate) fn with_report_and_stop(&self, report: Arc<dyn Report>, stop: Stop) -> TilesetRun {
        let target = self.target.under(&stop);
        TilesetRun { target, report, stop, ..self.clone() }
    }

    /// The turns of the run's batches, if it shares the database's sessions with others.
    pub(crate) fn turns(&self, kind: BatchKind) -> Option<BatchTurns> {
        let batch_features = self.settings.run.batch_features;
        self.gate.as_ref().map(|gate| BatchTurns { gate: Arc::clone(gate), kind, batch_features })
    }

    /// The number of features per batch when a run is planned: as configured, or fewer if others wait for the session
    /// meanwhile.
    pub(crate) fn batch_features(&self, kind: BatchKind) -> NonZeroU64 {
        let set = self.settings.run.batch_features;
        match (&self.gate, kind) {
            (None, _) => set,
            (Some(_), BatchKind::Seed) => set.min(BatchPace::SEED_PLAN_FEATURES),
            (Some(gate), BatchKind::Reseed) => NonZeroU64::new(gate.pace(kind).features(set.get())).unwrap_or(set),
        }
    }

    /// The same run, with batches that wait at `gate`.
    pub(crate) fn with_gate(self, gate: Arc<dyn BatchGate>) -> TilesetRun {
        TilesetRun { gate: Some(gate), ..self }
    }

    /// The same run with the gate and the listeners of `other`: its batches wait at the same gate, and it notifies the
    /// same listeners before its manifest becomes visible.
    pub(crate) fn with_gate_and_listeners_of(self, other: &TilesetRun) -> TilesetRun {
        TilesetRun { target: self.target.telling_listeners_of(&other.target), gate: other.gate.clone(), ..self }
    }

    /// The same run, on a snapshot that it shares with the seeds of other tilesets.
    pub(crate) fn with_snapshot(self, snapshot: &SharedSnapshot) -> TilesetRun {
        TilesetRun { rows: RowSource::SharedSnapshot(snapshot.clone()), ..self }
    }

    /// The workers that read rows in parallel; none for a shard, unless it reads most rows. The rows of a shard lie in
    /// pages all over the table. Each worker would read all of these pages, and so would the sample by which the
    /// workers divide the rows. So one session reads the shard, and other sessions read other shards.
    pub(crate) const fn readers<'a>(&self, workers: &'a [Worker]) -> &'a [Worker] {
        match self.part {
            RunPart::Whole | RunPart::Shard { reads_most: true, .. } => workers,
            RunPart::Shard { .. } => &[],
        }
    }

    /// The area that the run covers.
    pub(crate) fn coverage(&self) -> Coverage {
        let all = Coverage::new(&self.settings.tileset.bbox);
        match &self.part {
            RunPart::Whole => all,
            RunPart::Shard { columns, .. } => all.of_columns(columns.clone()),
        }
    }

    /// The database of the run, without a connection yet.
    pub(crate) fn database(&self) -> Result<Database, CommandError> {
        Ok(self.settings.database.open(&self.stop)?)
    }

    /// The snapshot of an attempt. If `refreshes`, it is taken after materialized views were refreshed.
    pub(crate) async fn take_snapshot(
        &self,
        database: &Database,
        refreshes: bool,
    ) -> Result<Arc<Snapshot>, CommandError> {
        Ok(Arc::new(match self.rows.shared() {
            Some(shared) => shared.get(&self.settings.database, database, &self.stop).await?,
            None if refreshes => {
                let layers = self.settings.tileset.layers.iter();
                refreshed_snapshot(database, database, layers).await?
            }
            None => database.snapshot().await?,
        }))
    }

    /// Releases a shared snapshot after an attempt that failed.
    pub(crate) fn release_snapshot(&self) {
        self.rows.shared().into_iter().for_each(SharedSnapshot::release);
    }

    /// The same run, which also notifies `listener` of what it changed before its manifest becomes visible.
    pub(crate) fn with_listener(self, listener: Arc<dyn BeforeManifest>) -> TilesetRun {
        TilesetRun { target: self.target.with_listener(listener), ..self }
    }

    /// The same run with rows from `rows`.
    pub(crate) fn with_rows(self, rows: RowSource) -> TilesetRun {
        TilesetRun { rows, ..self }
    }

    /// The same run of a target of which a family's manifest says what it shows.
    pub(crate) fn with_known_state(self, known: Option<KnownState>) -> TilesetRun {
        TilesetRun { target: Target { known, ..self.target }, ..self }
    }

    /// The same run with other settings.
    pub(crate) fn with_settings(&self, settings: Settings) -> TilesetRun {
        TilesetRun { settings, ..self.clone() }
    }
}

// Restarts of a run on a new snapshot, and work on threads that may block.

/// The pauses before attempts.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(32));

/// Runs `attempt`, and runs it again if the database goes away or other sessions hold the run up. `attempt` gets the
/// number of earlier attempts.
pub(crate) async fn restarting<T>(
    database: &DatabaseSettings,
    report: &Arc<dyn Report>,
    stop: &Stop,
    attempt: impl AsyncFn(u32) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (mut restarts, mut last, mut pauses) = (0, None, PAUSES);
    loop {
        let (error, obstacle) = match attempt(restarts).await.map_err(|error| interrupted(error, stop)) {
            Err(CommandError::Database(error)) => match obstacle(error.kind(), last) {
                Some(obstacle) => (error, obstacle),
                None => return Err(error.into()),
            },
            ended => return ended,
        };
        let attempts = restarts + 1;
        let most = database.session.section.restarts;
        if restarts == most {
            return Err(match obstacle {
                Obstacle::Lost | Obstacle::Unreachable => CommandError::Restarts { attempts, source: error },
                Obstacle::HeldUp | Obstacle::GaveWay => CommandError::HeldUp { attempts, source: error },
            });
        }
        (restarts, last) = (attempts, Some(obstacle));
        report.event(&Event::Restarting { attempt: restarts, of: most, cause: error.to_string() });
        let pause = pauses.next_pause();
        let pause = match obstacle {
            // The session that waited has its lock by now. If not, the run's first lock waits for that session.
            Obstacle::GaveWay => Duration::ZERO,
            Obstacle::Lost | Obstacle::Unreachable => pause,
            Obstacle::HeldUp => pause.min(database.session.lock_limit()),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
    }
}

/// The obstacle that makes a run start over after an error of this kind; `None` if the run does not start over. `last`
/// is the obstacle of the previous attempt. An unreachable server is a reason to start over only if it has answered
/// before. A missing table is one only if a lock stopped the previous attempt, because others may be replacing the
/// table at this moment.
const fn obstacle(kind: ErrorKind, last: Option<Obstacle>) -> Option<Obstacle> {
    match (kind, last) {
        (ErrorKind::Transient(Obstacle::Unreachable), None) => None,
        (ErrorKind::Transient(obstacle), _) => Some(obstacle),
        (ErrorKind::Usage, Some(Obstacle::HeldUp | Obstacle::GaveWay)) => Some(Obstacle::HeldUp),
        _ => None,
    }
}

/// Adds to the error of an interrupted run what the run leaves in a synchronized target.
pub(crate) fn with_what_remains(error: CommandError, target: &Target) -> CommandError {
    match error {
        CommandError::Interrupted(signal) if !target.url.is_archive() => {
            CommandError::InterruptedSynchronized { target: target.to_string(), signal }
        }
        error => error,
    }
}

/// Waits for a future; for ever if there is none.
pub(crate) async fn if_any<F: Future>(wanted: Option<F>) -> F::Output {
    match wanted {
        Some(wanted) => wanted.await,
        None => std::future::pending().await,
    }
}

/// Runs blocking reads on a thread that may block. Returns as soon as a stop is asked for, because a read leaves
/// nothing to undo.
pub(crate) async fn blocking_read<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    tokio::select! {
        read = spawn_blocking(work) => read?,
        signal = stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}
