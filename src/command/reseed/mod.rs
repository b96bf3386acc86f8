//! `oar-tiles reseed`: render what changed since the target's snapshot, and nothing else.
//!
//! | file | what |
//! |---|---|
//! | `run` | the dirty tiles rendered and handed to the target |
//! | `sources` | what renders them: sessions, cached rows, patches |
//! | `counts` | the counts of cells |
//! | `patches` | which layers can be patched |
//! | `manifest` | what the target says before and after |
//! | `family` | all variants of a tileset |
//! | `family_watch`, `family_writer` | the same again and again, and inside a server |
//! | `or_seed` | a seed instead, where the target needs one |
//! | `watch`, `watched` | again and again, and what is watched |
//! | `writer`, `jobs` | the same inside a server, under a lease; jobs of clients between two looks |

mod counts;
mod family;
mod family_watch;
mod family_writer;
mod jobs;
mod manifest;
mod or_seed;
mod patches;
mod run;
mod sources;
mod watch;
mod watched;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use crate::changes::WatchOptions;
use crate::error::ErrorKind;
use crate::report::{DirtyReport, ReseedReport, RunReport, check_writable};
use crate::run::attempts::{restarting, with_what_remains};
use crate::run::describe::budgets;
use crate::run::look::dirty_file;
use crate::run::{CommandError, DirtyFilter, Job, WrittenFileError};
use crate::serve::{JobDesk, WriteBackDesk};
use crate::tile::TileRectList;

pub use family::reseed_family;
pub use family_watch::watch_family;
pub use family_writer::FamilyWatchWriter;
use watched::WatchedTarget;
pub use writer::WatchWriter;

/// What `reseed` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct ReseedOptions {
    /// Which tiles to render.
    pub filter: DirtyFilter,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
    /// When the target is seeded instead.
    pub seeds: SeedInstead,
    /// Where to write the dirty tiles.
    pub dirty_out: Option<PathBuf>,
    /// An earlier look of the same watch has warned about the role.
    pub has_warned: bool,
    /// Told which tiles are dirty, before they are rendered.
    pub on_dirty: Option<DirtyListener>,
    /// Tiles that clients of a server have asked for outside of the target's scope, which a watch stores.
    pub write_back: Option<WriteBackDesk>,
    /// Jobs of clients, which a watch runs between two looks.
    pub jobs: Option<JobDesk>,
}

/// When a reseed seeds its target instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedInstead {
    /// Only where there are more changes than are worth telling apart.
    #[default]
    Never,
    /// Where it needs a seed.
    WhereNeeded,
    /// Where something changed, and it is published as versions, each of which is written as a whole. Else such a target is refused.
    Versions,
}

/// Told which tiles are dirty; `None` if every tile may be.
#[derive(Clone)]
pub struct DirtyListener(Arc<OnDirtyTiles>);

type OnDirtyTiles = dyn Fn(Option<&TileRectList>) + Send + Sync;

impl DirtyListener {
    /// Calls `listener` with the dirty tiles of each run.
    pub fn new(listener: impl Fn(Option<&TileRectList>) + Send + Sync + 'static) -> DirtyListener {
        DirtyListener(Arc::new(listener))
    }

    fn tell(&self, tiles: Option<&TileRectList>) {
        (self.0)(tiles);
    }
}

impl std::fmt::Debug for DirtyListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirtyListener")
    }
}

/// How a reseed ended.
#[derive(Debug)]
pub enum ReseedOutcome {
    /// Nothing had changed.
    Nothing,
    /// This would be done.
    Planned(DirtyReport),
    /// This was done.
    Done(Box<ReseedReport>),
    /// The target was seeded.
    Seeded(Box<RunReport>),
}

impl ReseedOutcome {
    /// # Errors
    /// If tiles could not be rendered.
    pub fn complete(&self) -> Result<(), CommandError> {
        match self {
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => Ok(()),
            ReseedOutcome::Done(done) => budgets::complete(&done.output, &done.failed),
            ReseedOutcome::Seeded(done) => budgets::complete(&done.output, &done.failed),
        }
    }
}

/// Runs `reseed` once.
///
/// # Errors
/// If the target needs a full seed, or anything at all is missing from the result; the target's manifest is the old one then.
pub async fn reseed(job: &Job, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    check_dirty_out(job, options)?;
    let outcome = Box::pin(once(job, options)).await?;
    if let (ReseedOutcome::Nothing, Some(path)) = (&outcome, &options.dirty_out) {
        dirty_file::write(path, &[])?;
    }
    if matches!(outcome, ReseedOutcome::Nothing) {
        dirty_file::write_unchanged(job.changed_out.as_deref())?;
    }
    Ok(outcome)
}

/// Runs `reseed --watch`: reseeds until a stop is asked for, and hands each outcome to `each`.
///
/// # Errors
/// If a reseed fails with an error that a retry does not mend.
pub async fn watch(
    job: &Job,
    options: &ReseedOptions,
    how: WatchOptions,
    each: impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    check_dirty_out(job, options)?;
    Box::pin(watch::watch(&WatchedTarget(job), options, how, each)).await
}

/// Finds out before the work whether the dirty tiles can be written after it.
fn check_dirty_out(job: &Job, options: &ReseedOptions) -> Result<(), CommandError> {
    let Some(path) = &options.dirty_out else { return Ok(()) };
    check_writable(path, &job.settings.tileset.output)
        .map_err(|source| WrittenFileError::NoTileList { path: path.clone(), source }.into())
}

/// One reseed with its restarts, or a seed where the target needs one and that is allowed.
async fn once(job: &Job, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    let attempt = async |restarts| Box::pin(run::attempt(job, options, restarts)).await;
    let ended = Box::pin(restarting(&job.settings.database, &job.report, &job.stop, attempt)).await;
    match ended.map_err(|error| with_what_remains(error, &job.target)) {
        Err(error)
            if options.seeds == SeedInstead::WhereNeeded
                && !options.dry_run
                && error.kind() == ErrorKind::NeedsSeed =>
        {
            or_seed::seed_instead(job, options, &error).await
        }
        ended => ended,
    }
}
