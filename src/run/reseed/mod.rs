//! `oar-tiles reseed`: renders only what changed since the target's snapshot.
//!
//! | file | what |
//! |---|---|
//! | `run` | the dirty tiles rendered and handed to the target; the sessions that render; which layers can be patched |
//! | `prepared` | the layers, prepared for drawing: live rows, rows near changes, counted cells |
//! | `watch` | repeated reseeds, and what they keep up to date |
//! | `compaction` | when a PMTiles archive is written anew because of its dead bytes |
//! | `watched_rows` | the rows that a watch keeps, read beside its looks |
//! | `family`, `writer`, `jobs` | all variants of a tileset; a watch of all variants, and the same inside a server; a watch inside a server, under a lease; jobs of clients between two looks |

mod compaction;
mod family;
mod jobs;
mod prepared;
mod run;
mod watch;
mod watched_rows;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use compaction::Compaction;
use watch::{WatchedTarget, not_compacted};
use watched_rows::WatchedRows;

use super::describe::{database, names};
use super::dirty::{DirtyTiles, Look};
use super::dirty_file::{DirtyScope, write_everything};
use super::finish::Provenance;
use super::identity::LogIdentity;
use super::row_loss::RowsJudge;
use super::seed::seed_target;
use super::target::TargetState;
use super::{
    ChangedOut, CommandError, DirtyFilter, OTHER_HISTORY, TilesetRun, WrittenFileError, blocking_read, restarting,
    with_what_remains,
};
use crate::config::Settings;
use crate::error::ErrorKind;
use crate::manifest::{DatabaseMark, Manifest, Publication, RowCounts, Witness};
use crate::postgis::count_rows;
use crate::report::{DirtyReport, FileMoment, Report, ReseedReport, RunReport, check_writable};
use crate::run::{describe, dirty_file};
use crate::serve::{JobStore, WriteBackQueue};
use crate::setting::shows_its_name_alone;
use crate::target::{ChangedTiles, PartialScope, RunKind, Tileset, Unwritten};
use crate::tile::{Coverage, Order, Scope, TileRectList, ZoomList, area_of_texts, area_texts};

pub(crate) use family::{reseed_family, watch_family};
pub(crate) use writer::{FamilyReseedWriter, ReseedWriter};

/// The options of `reseed`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub struct ReseedOptions {
    /// Which tiles to render.
    pub filter: DirtyFilter,
    /// Report what would be done, and write nothing.
    pub(crate) dry_run: bool,
    /// When the target is seeded instead.
    pub(crate) seeds: SeedInstead,
    /// Where to write the dirty tiles.
    pub(crate) dirty_out: Option<PathBuf>,
    /// An earlier look of the same watch has warned about the role.
    pub(crate) has_warned: bool,
    /// An earlier watch of the same target has failed. What is followed is reported again once a look has succeeded.
    pub(crate) is_retry: bool,
    /// Notified of the dirty tiles before they are rendered.
    pub(crate) on_dirty: Option<DirtyListener>,
    /// Notified why a look of a watch failed that is tried again.
    pub(crate) on_retry: Option<RetryListener>,
    /// Tiles that clients of a server have asked for outside of the target's scope, which a watch stores.
    pub(crate) write_back: Option<WriteBackQueue>,
    /// The rows of layers of points and cells that a watch keeps between its looks.
    pub(crate) live: Option<Arc<WatchedRows>>,
    /// Jobs of clients, which a watch runs between two looks.
    pub jobs: Option<JobStore>,
    /// True for a look of a watch.
    pub(crate) is_watch: bool,
    /// When a PMTiles archive is written anew because of its dead bytes.
    pub(crate) compaction: Compaction,
}

impl ReseedOptions {
    /// The same for another attempt, which leaves dead bytes where they are.
    fn without_compaction(&self) -> ReseedOptions {
        ReseedOptions { compaction: Compaction::NEVER, has_warned: true, ..self.clone() }
    }
}

/// When a reseed seeds its target instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SeedInstead {
    /// Only if there are too many changes to find the tiles of each.
    #[default]
    Never,
    WhereNeeded,
}

/// Notified of the dirty tiles; `None` if every tile may be dirty.
#[derive(Clone)]
pub(crate) struct DirtyListener(Arc<OnDirtyTiles>);

type OnDirtyTiles = dyn Fn(Option<&TileRectList>) + Send + Sync;

impl DirtyListener {
    /// Calls `listener` with the dirty tiles of each run.
    pub(crate) fn new(listener: impl Fn(Option<&TileRectList>) + Send + Sync + 'static) -> DirtyListener {
        DirtyListener(Arc::new(listener))
    }

    fn notify(&self, tiles: Option<&TileRectList>) {
        (self.0)(tiles);
    }
}

shows_its_name_alone!(DirtyListener);

/// Notified why a look failed.
#[derive(Clone)]
pub(crate) struct RetryListener(Arc<dyn Fn(String) + Send + Sync>);

impl RetryListener {
    /// Calls `listener` with the cause of each failure.
    pub(crate) fn new(listener: impl Fn(String) + Send + Sync + 'static) -> RetryListener {
        RetryListener(Arc::new(listener))
    }

    fn notify(&self, why: String) {
        (self.0)(why);
    }
}

shows_its_name_alone!(RetryListener);

#[derive(Debug)]
pub enum ReseedOutcome {
    /// Nothing had changed.
    Nothing,
    /// This would be done.
    Planned(DirtyReport),
    Done(Box<ReseedReport>),
    Seeded(Box<RunReport>),
}

/// What a reseed, or the seed in its place, has published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishedFigures {
    pub written: u64,
    pub bytes: u64,
    pub(crate) took: Duration,
}

impl ReseedOutcome {
    /// What was published; `None` if nothing was.
    pub(crate) fn published(&self) -> Option<PublishedFigures> {
        let (written, bytes, seconds) = match self {
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => return None,
            ReseedOutcome::Done(done) => {
                (done.written, done.bytes, done.plan_seconds + done.render_seconds + done.finish_seconds)
            }
            ReseedOutcome::Seeded(done) => {
                (done.written, done.bytes, done.plan_seconds + done.render_seconds + done.finish_seconds)
            }
        };
        Some(PublishedFigures { written, bytes, took: Duration::try_from_secs_f64(seconds).unwrap_or_default() })
    }

    pub(crate) fn check_complete(&self) -> Result<(), CommandError> {
        match self {
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => Ok(()),
            ReseedOutcome::Done(done) => describe::check_complete(&done.output, &done.failed),
            ReseedOutcome::Seeded(done) => describe::check_complete(&done.output, &done.failed),
        }
    }
}

/// A reseed under way.
struct ReseedRun<'a> {
    options: &'a ReseedOptions,
    look: Look<'a>,
    begun: Instant,
    started: SystemTime,
    publication: Publication,
    restarts: u32,
}

/// Runs `reseed` once. If an archive cannot be written anew because of its dead bytes, the changes are published
/// without that, with a warning.
///
/// # Errors
/// If the target needs a full seed, or anything is missing from the result. The target's manifest is unchanged then.
pub async fn reseed(run: &TilesetRun, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    match Box::pin(reseed_or_not_compacted(run, options)).await {
        Err(CommandError::NotCompacted(error)) => {
            let outcome = Box::pin(reseed_or_not_compacted(run, &options.without_compaction())).await?;
            say_not_compacted(&run.report, &not_compacted(&run.target, &error));
            Ok(outcome)
        }
        ended => ended,
    }
}

/// The same, but an archive that cannot be written anew is an error: [`CommandError::NotCompacted`].
async fn reseed_or_not_compacted(run: &TilesetRun, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    check_dirty_out(run, options)?;
    let outcome = Box::pin(once(run, options)).await?;
    if let (ReseedOutcome::Nothing, Some(path)) = (&outcome, &options.dirty_out) {
        dirty_file::write(path, &[])?;
    }
    if matches!(outcome, ReseedOutcome::Nothing) {
        run.changed_out.write_unchanged();
    }
    Ok(outcome)
}

/// Runs `reseed --watch`: reseeds until a stop is asked for, and calls `each` with each outcome.
pub(crate) async fn watch(
    run: &TilesetRun,
    options: &ReseedOptions,
    each: impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    check_dirty_out(run, options)?;
    Box::pin(watch::watch(&WatchedTarget::new(run), options, each)).await
}

/// Says that a run has published everything, but could not write an archive anew, and `why`.
fn say_not_compacted(report: &Arc<dyn Report>, why: &str) {
    let message = format!("{why}. Its tiles are up to date, and the next run tries it again");
    report.warn(message);
}

/// Checks before the work that the dirty tiles can be written after it.
fn check_dirty_out(run: &TilesetRun, options: &ReseedOptions) -> Result<(), CommandError> {
    let Some(path) = &options.dirty_out else { return Ok(()) };
    check_writable(path, &run.settings.tileset.output).map_err(|source| {
        WrittenFileError::NoTileList { path: path.clone(), moment: FileMoment::Before, source }.into()
    })
}

/// One reseed with its restarts, or a seed if the target needs one and the options allow it.
async fn once(run: &TilesetRun, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    let attempt = async |restarts| Box::pin(run::attempt(run, options, restarts)).await;
    let ended = Box::pin(restarting(&run.settings.database, &run.report, &run.stop, attempt)).await;
    match ended.map_err(|error| with_what_remains(error, &run.target)) {
        Err(error)
            if options.seeds == SeedInstead::WhereNeeded
                && !options.dry_run
                && error.kind() == ErrorKind::NeedsSeed =>
        {
            seed_instead(run, options, &error).await
        }
        ended => ended,
    }
}

// The tileset that a reseed hands to its sink, and the manifest that it writes.

impl ReseedRun<'_> {
    /// The description of the run for the sink.
    pub(crate) fn tileset(&self, changed: &DirtyTiles) -> Result<Tileset, CommandError> {
        let before = self.look.state.manifest.publication.as_ref();
        let dirty = TileRectList::of(changed.dirty.iter());
        let changed_rows = changed.with_changed_rows();
        let before_manifest = self.look.run.target.before_manifest(before, &self.publication, changed_rows.as_ref())?;
        Ok(Tileset {
            fingerprint: self.look.state.manifest.fingerprint.clone(),
            layers: names(&self.look.layers),
            scope: self.look.run.settings.tileset.scope(),
            partial: PartialScope::default(),
            unwritten: Unwritten::Keep,
            list_changes: self.look.run.changed_out.is_wanted(),
            run: RunKind::Reseed {
                database: database(self.mark(changed).as_ref(), Some(&self.look.reads.digest)),
                complete: changed.complete,
                max_dead_percent: self.max_dead_percent(changed),
            },
            dirty,
            before_manifest,
        })
    }

    /// The share of dead bytes beyond which the sink writes an archive anew; `None` if it does not.
    fn max_dead_percent(&self, changed: &DirtyTiles) -> Option<u64> {
        self.options.compaction.max_dead_percent(changed.dirty.iter().next().is_some())
    }

    /// The mark of the database that the manifest has after this run.
    fn mark(&self, changed: &DirtyTiles) -> Option<DatabaseMark> {
        let before = self.look.state.manifest.database.as_ref();
        match &self.look.log {
            // After a run of tiles that the user named, the other tiles still belong to the database in the old
            // manifest.
            Some(log) if changed.complete || before.is_some() => Some(log.mark(&self.look.server.identity)),
            _ => before.cloned(),
        }
    }

    /// The witness that the manifest has after this run: that of the newest state which any of its tiles shows.
    fn witness(&self, changed: &DirtyTiles) -> Option<Witness> {
        let before = self.look.state.manifest.witness.as_ref();
        let own = self.look.log.as_ref().filter(|log| changed.complete || log.is_behind(before).is_none());
        own.filter(|_| self.mark(changed).is_some()).map(LogIdentity::own).or(before).cloned()
    }

    /// The numbers of rows after this run. Refuses a run that would lose too many rows of a layer. Rows are counted
    /// only if the changes could exceed what is allowed.
    pub(crate) async fn rows(&self, changed: &DirtyTiles) -> Result<Option<RowCounts>, CommandError> {
        let Look { run, state, snapshot, layers, .. } = &self.look;
        let before = state.manifest.rows.clone();
        if changed.rows.is_empty() {
            return Ok(before);
        }
        let all = |zooms: ZoomList, part: &Scope| zooms.union(&part.zooms);
        let zooms = state.parts.iter().fold(run.settings.tileset.zooms.clone(), all);
        // The boxes of the counts, which may be those of an earlier seed than the last.
        let counted = before.as_ref().and_then(|before| area_of_texts(&before.bbox).ok());
        let boxes = counted.unwrap_or_else(|| run.settings.tileset.bbox.clone());
        let bbox = area_texts(&boxes);
        let coverage = Coverage::new(&boxes);
        let (target, max) = (&run.target, run.settings.tileset.max_shrink);
        let judge = RowsJudge { target, max, layers, zooms: &zooms, bbox, before: before.as_ref() };
        let rows = judge
            .judge(&changed.rows, async |layer: usize| {
                tracing::debug!("layer \"{}\": its rows are counted", layers[layer].name());
                Ok(count_rows(snapshot, &layers[layer], &coverage, &zooms).await?)
            })
            .await?;
        // Otherwise the same changes are looked at again by the next run.
        Ok(if changed.complete { Some(rows) } else { before })
    }

    /// What the manifest says of this run. `rows` are the numbers of rows after it.
    pub(crate) fn provenance(&self, changed: &DirtyTiles, rows: Option<RowCounts>) -> Provenance {
        Provenance {
            database: self.mark(changed),
            witness: self.witness(changed),
            reads: self.look.reads.digest.clone(),
            rows,
            started: self.started,
            publication: self.publication.clone(),
        }
    }

    /// The parts of the manifest that depend on which tiles the run covers. A complete run moves the snapshot to its
    /// own. `stored` is the number of tiles that the target holds after the run.
    pub(crate) fn base_manifest(&self, changed: &DirtyTiles, stored: u64) -> Manifest {
        let old = self.look.state.manifest.clone();
        let parts = if changed.complete { old.brought_forward(self.look.snapshot.cursor()) } else { old };
        let left = self.look.state.unrendered.iter().filter(|tile| !changed.dirty.is_marked(**tile));
        Manifest {
            planned: stored + parts.empty,
            stored,
            partial: changed.beyond.partial.clone(),
            unrendered: left.map(ToString::to_string).collect(),
            ..parts
        }
    }
}

// `reseed --or-seed`: seeds a target that cannot be brought up to date.

/// Seeds the target, for the reason in `error`.
pub(crate) async fn seed_instead(
    run: &TilesetRun,
    options: &ReseedOptions,
    error: &CommandError,
) -> Result<ReseedOutcome, CommandError> {
    let why = match error {
        CommandError::NeedsSeed { target, why } => format!("{target} needs a full seed: {why}"),
        CommandError::OtherHistory { target } => format!("{target} needs a full seed: {OTHER_HISTORY}"),
        other => other.to_string(),
    };
    run.report.warn(format!("{why}: seeding it"));
    let seeds = seeds(run, options).await?;
    // Written before the first tile, because a seed that fails half-way may have changed any tile.
    let scope = match &seeds[..] {
        [first, others @ ..] => DirtyScope::of(first, others),
        [] => DirtyScope::of(&run.settings, &[]),
    };
    write_everything(options.dirty_out.as_deref(), &scope)?;
    // With several seeds the list of changes cannot be exact, because each may change tiles that another has already
    // changed.
    let is_alone = seeds.len() == 1;
    let changed_out = if is_alone { run.changed_out.clone() } else { ChangedOut::default() };
    let each = TilesetRun { changed_out, ..run.clone() };
    let mut seeded = None;
    for settings in seeds {
        seeded = Some(seed_target(&each.with_settings(settings)).await?);
    }
    if !is_alone {
        let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
        changed.declare_everything("parts of the target were seeded one after the other");
        run.changed_out.write(Some(&changed), &scope);
    }
    Ok(seeded.map_or(ReseedOutcome::Nothing, |done| ReseedOutcome::Seeded(Box::new(done))))
}

/// The settings of the seeds that bring the target up to date. They have the target's own zooms and boxes, unless flags
/// give others.
async fn seeds(run: &TilesetRun, options: &ReseedOptions) -> Result<Vec<Settings>, CommandError> {
    let as_configured = || Ok(vec![run.settings.clone()]);
    if options.filter.is_narrowed() {
        return as_configured();
    }
    let (target, settings) = (run.target.clone(), run.settings.clone());
    let own = blocking_read(&run.stop, move || {
        TargetState::read(&target).map(|state| state.settings_to_seed(&settings, &target))
    });
    match own.await {
        Err(CommandError::Interrupted(signal)) => Err(CommandError::Interrupted(signal)),
        Ok(seeds) => match &seeds?[..] {
            [] => as_configured(),
            seeds => Ok(seeds.to_vec()),
        },
        // A target whose manifest cannot be read is seeded with the zooms and boxes of the settings.
        Err(_unreadable) => as_configured(),
    }
}
