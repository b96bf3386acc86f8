//! `oar-tiles reseed`: renders only what changed since the target's snapshot.
//!
//! | file | what |
//! |---|---|
//! | `run` | the dirty tiles rendered and handed to the target |
//! | `sources` | what renders the dirty tiles: sessions, cached rows, patches |
//! | `counts` | the counts of cells |
//! | `patches` | which layers can be patched |
//! | `manifest` | the description of the run for the sink, and the manifest after it |
//! | `family` | all variants of a tileset |
//! | `family_watch`, `family_writer` | a watch of all variants, and the same inside a server |
//! | `or_seed` | a seed instead, if the target needs one |
//! | `watch`, `watched` | repeated reseeds, and what they keep up to date |
//! | `writer`, `jobs` | a watch inside a server, under a lease; jobs of clients between two looks |

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
use crate::report::{DirtyReport, FileMoment, ReseedReport, RunReport, check_writable};
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

/// The options of `reseed`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub struct ReseedOptions {
    /// Which tiles to render.
    pub filter: DirtyFilter,
    /// Report what would be done, and write nothing.
    pub dry_run: bool,
    /// When the target is seeded instead.
    pub seeds: SeedInstead,
    /// Where to write the dirty tiles.
    pub dirty_out: Option<PathBuf>,
    /// An earlier look of the same watch has warned about the role.
    pub has_warned: bool,
    /// An earlier watch of the same target has failed. What is followed is reported again once a look has succeeded.
    pub is_retry: bool,
    /// Notified of the dirty tiles before they are rendered.
    pub on_dirty: Option<DirtyListener>,
    /// Tiles that clients of a server have asked for outside of the target's scope, which a watch stores.
    pub write_back: Option<WriteBackDesk>,
    /// Jobs of clients, which a watch runs between two looks.
    pub jobs: Option<JobDesk>,
}

/// When a reseed seeds its target instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedInstead {
    /// Only if there are too many changes to find the tiles of each.
    #[default]
    Never,
    /// If the target needs a seed.
    WhereNeeded,
}

/// Notified of the dirty tiles; `None` if every tile may be dirty.
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

/// The outcome of a reseed.
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
/// If the target needs a full seed, or anything is missing from the result. The target's manifest is unchanged then.
pub async fn reseed(job: &Job, options: &ReseedOptions) -> Result<ReseedOutcome, CommandError> {
    check_dirty_out(job, options)?;
    let outcome = Box::pin(once(job, options)).await?;
    if let (ReseedOutcome::Nothing, Some(path)) = (&outcome, &options.dirty_out) {
        dirty_file::write(path, &[])?;
    }
    if matches!(outcome, ReseedOutcome::Nothing) {
        job.write_unchanged();
    }
    Ok(outcome)
}

/// Runs `reseed --watch`: reseeds until a stop is asked for, and calls `each` with each outcome.
///
/// # Errors
/// If a reseed fails with an error that a retry cannot fix.
pub async fn watch(
    job: &Job,
    options: &ReseedOptions,
    how: WatchOptions,
    each: impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    check_dirty_out(job, options)?;
    Box::pin(watch::watch(&WatchedTarget(job), options, how, each)).await
}

/// Checks before the work that the dirty tiles can be written after it.
fn check_dirty_out(job: &Job, options: &ReseedOptions) -> Result<(), CommandError> {
    let Some(path) = &options.dirty_out else { return Ok(()) };
    check_writable(path, &job.settings.tileset.output).map_err(|source| {
        WrittenFileError::NoTileList { path: path.clone(), moment: FileMoment::Before, source }.into()
    })
}

/// One reseed with its restarts, or a seed if the target needs one and the options allow it.
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
