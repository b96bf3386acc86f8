//! What the verbs share: one run of one tileset into one target.
//!
//! | file | what |
//! |---|---|
//! | `error` | the errors of commands, and their kinds |
//! | `target/` | the kind of target that a text names, how it is opened, whether a run may replace what is there |
//! | `attempts` | restarts on a new snapshot; work on threads that may block |
//! | `prepare` | snapshot, probe, survey and plan of a seed |
//! | `surveys` | where the features of all layers lie |
//! | `purging` | notifying CDNs after a publish |
//! | `queue_gate` | batches of a server's own writer wait in its queue |
//! | `rows` | whether a run would lose too many rows of a layer |
//! | `seed` | a seed, from the plan to the manifest: for `seed`, and for a `reseed` that has to seed |
//! | `look/` | the dirty tiles of a target: for `reseed` and `track status` |
//! | `writer_lease` | which of several servers writes a target |
//! | `tilesets` | several tilesets in one command: the shared snapshot, and how the command ends |
//! | `shared_rows` | the rows of layers that are the same in several tilesets |
//! | `variants/` | families: the variants of a tileset, and their own manifest |
//! | `describe/` | what a run says about its result: manifest, metadata, budgets, warnings |
//!
//! A verb makes a [`Job`] and returns a value; `main` prints it.

pub(crate) mod attempts;
pub(crate) mod describe;
mod error;
pub(crate) mod look;
pub(crate) mod prepare;
pub(crate) mod purging;
mod queue_gate;
pub(crate) mod rows;
pub(crate) mod seed;
mod shared_rows;
pub(crate) mod surveys;
pub(crate) mod target;
mod tilesets;
pub(crate) mod variants;
pub(crate) mod writer_lease;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::changes::Cursor;
use crate::config::JobSettings;
use crate::encode::Packing;
use crate::manifest::Witness;
use crate::pipeline::{BatchGate, BatchKind, BatchPace, BatchTurns};
use crate::postgis::{Database, Snapshot, Worker, refresh_views};
use crate::report::Report;
use crate::shards::WorkFolder;
use crate::sink::{BeforeManifest, ChangedTiles};
use crate::stop::Stop;
use crate::tile::{ColumnRanges, Coverage};

pub use describe::TileCause;
pub(crate) use error::OTHER_HISTORY;
pub use error::{CommandError, SeveralError, WrittenFileError, interrupted};
pub use look::{DirtyFilter, TileList, TileListDocument, TileListError, TilesWanted, area, area_or_boxes};
pub use queue_gate::QueueGate;
pub use rows::LostRows;
pub use target::{Target, TargetUrl};
pub use tilesets::{FailedTilesets, SharedSnapshot};
pub use variants::{
    Family, FamilyMembers, FamilyOptions, FamilyOutcome, FamilyParameter, FamilyRecord, FamilySettingsMark, FamilyWork,
    RecordedVariant,
};

pub(crate) use variants::FamilyReader;

use target::Targets;
use variants::{FamilyCachePart, SessionPart};

/// One run: its settings, its target, its report, and the stop that ends it.
#[derive(Clone)]
pub struct Job {
    /// The settings.
    pub settings: JobSettings,
    /// The target that it reads or writes.
    pub target: Target,
    /// The file for the list of changed tiles, which is written after the run is published.
    pub changed_out: Option<PathBuf>,
    /// Why that list could not be written.
    pub(crate) unlisted: Arc<Mutex<Option<CommandError>>>,
    /// Receives the events.
    pub report: Arc<dyn Report>,
    /// Tells whether a stop was asked for.
    pub stop: Stop,
    /// The gate at which its batches wait for their turn, if the run shares the database's sessions with others.
    pub gate: Option<Arc<dyn BatchGate>>,
    /// The snapshot, if the run shares it with the runs of other tilesets.
    pub snapshot: Option<SharedSnapshot>,
    /// The part that the run renders; `None` for all tiles within its zooms and boxes.
    pub part: Option<JobPart>,
    /// What the target shows according to the family's manifest, if it is a variant.
    pub(crate) known: Option<KnownState>,
    /// The rows of its family from which the run draws, if it is a variant that is seeded together with others.
    pub(crate) family_cache: Option<FamilyCachePart>,
    /// The session of its family that draws it, if it is a variant that is seeded in parallel with others.
    pub(crate) session: Option<SessionPart>,
}

/// A part of a tileset, such as one shard of it.
#[derive(Debug, Clone)]
pub struct JobPart {
    /// Its columns of tiles.
    pub columns: ColumnRanges,
    /// The approximate number of rows that its tiles show, each counted once.
    pub rows: u64,
}

/// The database state that a publication of a target is known to show, in addition to what its own manifest says.
#[derive(Debug, Clone)]
pub(crate) struct KnownState {
    pub(crate) cursor: Cursor,
    /// The witnesses of that state.
    pub(crate) witnesses: Vec<Witness>,
    /// The id of the publication.
    pub(crate) publication: String,
}

impl Job {
    /// A run with the output that the settings name; with `force`, it may overwrite whatever is there. Must be called on a runtime, which
    /// then runs requests to servers.
    ///
    /// # Errors
    /// If the output is no target.
    pub fn new(
        mut settings: JobSettings,
        force: bool,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Job, CommandError> {
        let targets = Targets::new(&settings.tileset, force, stop);
        let target = targets.target(&settings.tileset.output.to_string_lossy())?;
        if !target.is_packed() {
            settings.run.limits.packing = Packing::Plain;
        }
        Ok(Job {
            settings,
            target,
            changed_out: None,
            unlisted: Arc::default(),
            report: Arc::clone(report),
            stop: stop.clone(),
            gate: None,
            snapshot: None,
            part: None,
            known: None,
            family_cache: None,
            session: None,
        })
    }

    /// The same run, which also writes the list of changed tiles to the file `path`.
    ///
    /// # Errors
    /// If the file cannot be written, or is the output.
    pub fn with_changed_out(self, path: Option<&Path>) -> Result<Job, CommandError> {
        look::dirty_file::can_write_changed(path, &self.settings.tileset.output)?;
        Ok(Job { changed_out: path.map(Path::to_owned), ..self })
    }

    /// Writes the list of the tiles that a publish in `scope` has changed, if the run has a file for it. If that fails,
    /// the rest of the run goes on, because the target is published: [`Job::listed`] returns the error.
    pub(crate) fn write_changed(&self, changed: Option<&ChangedTiles>, scope: &look::dirty_file::DirtyScope) {
        if let Err(error) = look::dirty_file::write_changed(self.changed_out.as_deref(), changed, scope) {
            self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Writes a list that says that nothing changed, like [`Job::write_changed`].
    pub(crate) fn write_unchanged(&self) {
        if let Err(error) = look::dirty_file::write_unchanged(self.changed_out.as_deref()) {
            self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Returns once why the list of changed tiles could not be written.
    ///
    /// # Errors
    /// If a run has published its target, and its list of changed tiles could not be written.
    pub fn listed(&self) -> Result<(), CommandError> {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// The same run with another report.
    pub(crate) fn under(&self, report: Arc<dyn Report>, stop: Stop) -> Job {
        let target = Target { url: self.target.url.clone(), targets: self.target.targets.under(&stop) };
        Job { target, report, stop, ..self.clone() }
    }

    /// The turns of the run's batches, if it shares the database's sessions with others.
    pub(crate) fn turns(&self, kind: BatchKind) -> Option<BatchTurns> {
        let batch_features = self.settings.run.batch_features;
        self.gate.as_ref().map(|gate| BatchTurns { gate: Arc::clone(gate), kind, batch_features })
    }

    /// The number of features per batch when a run is planned: as configured, or fewer if others wait for the session meanwhile.
    pub(crate) fn batch_features(&self, kind: BatchKind) -> NonZeroU64 {
        let set = self.settings.run.batch_features;
        match (&self.gate, kind) {
            (None, _) => set,
            (Some(_), BatchKind::Seed) => set.min(BatchPace::SEED_PLAN_FEATURES),
            (Some(gate), BatchKind::Reseed) => NonZeroU64::new(gate.pace(kind).features(set.get())).unwrap_or(set),
        }
    }

    /// The same run, with batches that wait at `gate`.
    #[must_use]
    pub fn behind(self, gate: Arc<dyn BatchGate>) -> Job {
        Job { gate: Some(gate), ..self }
    }

    /// The same run with the gate and the listeners of `other`: its batches wait at the same gate, and it notifies the same listeners before its
    /// manifest becomes visible.
    pub(crate) fn like(self, other: &Job) -> Job {
        Job { target: self.target.telling_like(&other.target), gate: other.gate.clone(), ..self }
    }

    /// The same run, on a snapshot that it shares with the seeds of other tilesets.
    #[must_use]
    pub fn sharing(self, snapshot: &SharedSnapshot) -> Job {
        Job { snapshot: Some(snapshot.clone()), ..self }
    }

    /// The work folder that a text names, for shards of this run.
    ///
    /// # Errors
    /// If `text` names no folder and no prefix of a bucket, or names the target.
    pub fn work_folder(&self, text: &str) -> Result<WorkFolder, CommandError> {
        self.target.work_folder(text)
    }

    /// The workers that read rows in parallel; none for a part. The rows of a part lie in pages all over the table. Each worker would read all of
    /// these pages, and so would the sample by which the workers divide the rows. So one session reads the part, and other sessions read other
    /// parts.
    pub(crate) const fn readers<'a>(&self, workers: &'a [Worker]) -> &'a [Worker] {
        if self.part.is_some() { &[] } else { workers }
    }

    /// The area that the run covers.
    pub(crate) fn coverage(&self) -> Coverage {
        let all = Coverage::new(&self.settings.tileset.bbox);
        match &self.part {
            Some(part) => all.of_columns(part.columns.clone()),
            None => all,
        }
    }

    /// The database of the run, without a connection yet.
    pub(crate) fn database(&self) -> Result<Database, CommandError> {
        let settings = &self.settings.database;
        Ok(Database::new(&settings.connect, settings.session.clone(), &self.stop)?)
    }

    /// The snapshot of an attempt. If `refreshes`, it is taken after materialized views were refreshed.
    pub(crate) async fn take_snapshot(
        &self,
        database: &Database,
        refreshes: bool,
    ) -> Result<Arc<Snapshot>, CommandError> {
        Ok(Arc::new(match &self.snapshot {
            Some(shared) => shared.get(&self.settings.database, database, &self.stop).await?,
            None if refreshes => self.refreshed_snapshot(database).await?,
            None => database.snapshot().await?,
        }))
    }

    /// Refreshes the materialized views for which layers ask, and takes a snapshot. The snapshot's cursor is from before the refresh.
    pub(crate) async fn refreshed_snapshot(&self, database: &Database) -> Result<Snapshot, CommandError> {
        let layers: Vec<_> = self.settings.tileset.layers.iter().map(|layer| &layer.options).collect();
        let before = refresh_views(database, &layers).await?;
        let snapshot = database.snapshot().await?;
        Ok(match before {
            Some(cursor) => snapshot.known_since(cursor),
            None => snapshot,
        })
    }

    /// Releases a shared snapshot after an attempt that failed.
    pub(crate) fn release_snapshot(&self) {
        self.snapshot.iter().for_each(SharedSnapshot::release);
    }

    /// The same run, which also notifies `listener` of what it changed before its manifest becomes visible.
    pub(crate) fn with_listener(self, listener: Arc<dyn BeforeManifest>) -> Job {
        Job { target: self.target.with_listener(listener), ..self }
    }

    /// The same run with other settings.
    pub(crate) fn with_settings(&self, settings: JobSettings) -> Job {
        Job { settings, ..self.clone() }
    }
}
