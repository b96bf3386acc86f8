//! What a watch keeps up to date: one target, or all variants of a tileset.

use super::jobs::run_queued;
use super::{ReseedOptions, ReseedOutcome, once};
use crate::report::Event;
use crate::run::attempts::reading;
use crate::run::look::TargetState;
use crate::run::purging::PurgeTask;
use crate::run::{CommandError, Job};
use crate::serve::JobDesk;

/// What a watch keeps up to date.
pub(super) trait Watched {
    /// The outcome of one look.
    type Outcome;

    /// The run whose settings, report and stop the watch uses. Messages name its target.
    fn job(&self) -> &Job;

    /// The task that notifies CDNs in parallel to the looks; `None` if there is no such task.
    fn purge_task(&self) -> Option<PurgeTask>;

    /// The database state since which changes are looked for; `None` if nothing was seeded yet, or if it cannot be read.
    async fn cursor(&self) -> Option<String>;

    /// Finds what has changed, and brings the target up to date. `job` is [`Watched::job`] with the report and the stop of this look. `is_first`
    /// is true until a look has succeeded.
    ///
    /// # Errors
    /// If nothing was published, or if it is not certain that everything that the look found was published.
    async fn look(&self, job: &Job, options: &ReseedOptions, is_first: bool) -> Result<Self::Outcome, CommandError>;

    /// The event of an outcome that has published something.
    fn published(&self, outcome: &Self::Outcome) -> Option<Event>;

    /// What an outcome lacks until the next look adds it; `None` if it is complete.
    fn problem(&self, outcome: &Self::Outcome) -> Option<String>;

    /// Runs the waiting jobs of clients, and calls `each` with each outcome.
    ///
    /// # Errors
    /// If `each` fails.
    async fn run_jobs(
        &self,
        options: &ReseedOptions,
        jobs: &JobDesk,
        each: &mut impl FnMut(&Self::Outcome) -> Result<(), CommandError>,
    ) -> Result<(), CommandError>;
}

/// One target.
pub(super) struct WatchedTarget<'a>(pub(super) &'a Job);

impl Watched for WatchedTarget<'_> {
    type Outcome = ReseedOutcome;

    fn job(&self) -> &Job {
        self.0
    }

    fn purge_task(&self) -> Option<PurgeTask> {
        PurgeTask::begin(self.0)
    }

    async fn cursor(&self) -> Option<String> {
        let read = self.0.target.clone();
        // A target that cannot be read is reported by the look.
        let state = reading(&self.0.stop, move || TargetState::read(&read)).await.ok();
        state.map(|state| state.cursor.to_string())
    }

    async fn look(&self, job: &Job, options: &ReseedOptions, _is_first: bool) -> Result<ReseedOutcome, CommandError> {
        once(job, options).await
    }

    fn published(&self, outcome: &ReseedOutcome) -> Option<Event> {
        match outcome {
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => None,
            ReseedOutcome::Done(done) => Some(Event::Published {
                target: done.output.clone(),
                variants: None,
                rows: Some(done.rows()),
                dirty: Some(done.dirty),
                tiles: done.written,
                deleted: done.deleted,
                bytes: done.bytes,
                latency_seconds: done.latency_seconds,
                seconds: done.seconds,
            }),
            ReseedOutcome::Seeded(done) => Some(Event::Published {
                target: done.output.clone(),
                variants: None,
                rows: None,
                dirty: None,
                tiles: done.written,
                deleted: done.deleted,
                bytes: done.bytes,
                latency_seconds: None,
                seconds: done.plan_seconds + done.render_seconds + done.finish_seconds,
            }),
        }
    }

    fn problem(&self, outcome: &ReseedOutcome) -> Option<String> {
        // Tiles that could not be rendered are retried with the next change.
        outcome.complete().err().map(|error| with_cause(&error))
    }

    async fn run_jobs(
        &self,
        options: &ReseedOptions,
        jobs: &JobDesk,
        each: &mut impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        Box::pin(run_queued(self.0, options, jobs, each)).await
    }
}

/// An error with its first cause, on one line.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("{error}{cause}")
}
