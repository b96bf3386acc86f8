//! `oar-tiles seed`: renders every occupied tile of the pyramid into the output.
//!
//! The run itself is `src/run/seed.rs`: claim the target, plan, render, store, write the manifest last.

mod dry_run;
mod family;

use crate::report::{Event, PlanReport, RunReport};
use crate::run::attempts::restarting;
use crate::run::describe::budgets;
use crate::run::seed::seed_target;
use crate::run::{CommandError, Job};

pub use family::{plan_family, seed_family};

/// Seeds the job's target.
///
/// # Errors
/// If anything is missing from the result. The target is then unchanged, unless the error says otherwise.
pub async fn seed(job: &Job) -> Result<RunReport, CommandError> {
    let done = seed_target(job).await?;
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    job.report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    Ok(done)
}

/// # Errors
/// If tiles could not be rendered.
pub fn complete(done: &RunReport) -> Result<(), CommandError> {
    budgets::complete(&done.output, &done.failed)
}

/// The plan of a seed, with estimated sizes and times. Writes nothing.
///
/// # Errors
/// The errors of a seed.
pub async fn plan_seed(job: &Job) -> Result<PlanReport, CommandError> {
    let plan = async |_restarts| Box::pin(dry_run::dry_run(job)).await.inspect_err(|_error| job.release_snapshot());
    restarting(&job.settings.database, &job.report, &job.stop, plan).await
}
