//! A watch that keeps all variants of a tileset up to date.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use super::family::reseed_family;
use super::watched::{Watched, with_cause};
use super::{ReseedOptions, watch};
use crate::changes::WatchOptions;
use crate::error::ErrorKind;
use crate::report::{Event, FamilyReport};
use crate::run::purging::PurgeTask;
use crate::run::{CommandError, Family, FamilyOptions, FamilyWork, Job, SharedSnapshot};
use crate::serve::JobDesk;

/// The most variants that one warning names.
const MAX_NAMED: usize = 5;

/// The result of one look at a family.
#[derive(Debug)]
pub(super) struct FamilyLooked {
    report: FamilyReport,
    /// Why variants failed; `None` if none did.
    problem: Option<String>,
}

impl FamilyLooked {
    /// True if a target was written or deleted.
    fn has_published(&self) -> bool {
        let FamilyReport { written, deleted, seeded, removed, .. } = &self.report;
        *written + *deleted + *seeded > 0 || !removed.is_empty()
    }
}

/// All variants of a tileset.
pub(super) struct WatchedFamily<'a> {
    family: &'a Family,
    /// Deletes the targets of variants whose values have vanished.
    prunes: bool,
    job: &'a Job,
    /// True if the last look brought all variants up to date.
    is_whole: Cell<bool>,
    /// The outputs of variants whose values have vanished. Each is reported only once.
    vanished: RefCell<HashSet<String>>,
}

impl<'a> WatchedFamily<'a> {
    /// `job` is a run with the family's settings, whose target is not a variant's.
    pub(super) fn new(family: &'a Family, prunes: bool, job: &'a Job) -> WatchedFamily<'a> {
        WatchedFamily { family, prunes, job, is_whole: Cell::new(false), vanished: RefCell::default() }
    }

    /// Reports the variants whose values have vanished since the last look.
    fn say_vanished(&self, now: &[String]) {
        let mut said = self.vanished.borrow_mut();
        let new: Vec<&str> = now.iter().filter(|output| !said.contains(*output)).map(String::as_str).collect();
        if !new.is_empty() {
            let more = new.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = new.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
            let message = format!(
                "{named}{more}: still there, and kept up to date no more, for its values are gone: --prune-variants deletes it"
            );
            self.job.report.event(&Event::Warning { message });
        }
        *said = now.iter().cloned().collect();
    }
}

impl Watched for WatchedFamily<'_> {
    type Outcome = FamilyLooked;

    fn job(&self) -> &Job {
        self.job
    }

    fn purge_task(&self) -> Option<PurgeTask> {
        // Each variant has an outbox of its own, which the look sends to CDNs.
        None
    }

    async fn cursor(&self) -> Option<String> {
        let stored = self.family.stored(&self.job.report, &self.job.stop).await;
        // A manifest that cannot be read is reported by the look.
        Some(stored.ok()??.record.snapshot)
    }

    async fn look(&self, job: &Job, options: &ReseedOptions, is_first: bool) -> Result<FamilyLooked, CommandError> {
        let layers = self.family.settings().tileset.layers.iter().map(|layer| layer.options.clone());
        let run = FamilyOptions {
            force: false,
            prunes: self.prunes,
            dry_run: false,
            work: if !is_first && self.is_whole.get() { FamilyWork::LookAgain } else { FamilyWork::Reseed },
            report: Arc::clone(&job.report),
            stop: job.stop.clone(),
            snapshot: SharedSnapshot::after_refreshing(layers),
            like: Some(job.clone()),
            only: Vec::new(),
        };
        self.is_whole.set(false);
        let done = Box::pin(reseed_family(self.family, &run, options)).await?;
        let problem = match done.complete {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Partial => Some(with_cause(&error)),
            // All variants have failed for the same kind of reason, which decides what the watch does.
            Err(error) => return Err(error),
        };
        self.is_whole.set(problem.is_none());
        self.say_vanished(&done.report.vanished);
        Ok(FamilyLooked { report: done.report, problem })
    }

    fn published(&self, looked: &FamilyLooked) -> Option<Event> {
        let done = &looked.report;
        looked.has_published().then(|| Event::Published {
            target: done.output.clone(),
            variants: Some(done.seeded + done.reseeded),
            rows: None,
            dirty: None,
            tiles: done.written,
            deleted: done.deleted,
            bytes: done.bytes,
            latency_seconds: None,
            seconds: done.seconds,
        })
    }

    fn problem(&self, looked: &FamilyLooked) -> Option<String> {
        looked.problem.clone()
    }

    async fn run_jobs(
        &self,
        _options: &ReseedOptions,
        _jobs: &JobDesk,
        _each: &mut impl FnMut(&FamilyLooked) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        // Clients submit jobs for one target.
        Ok(())
    }
}

/// Runs `reseed --watch` for all variants of a tileset: brings them up to date until a stop is asked for. Calls `each` with each result, and with
/// whether anything was published. `job` is [`Family::watched`].
///
/// # Errors
/// If a look fails with an error that a retry cannot fix.
pub async fn watch_family(
    family: &Family,
    prunes: bool,
    job: &Job,
    options: &ReseedOptions,
    how: WatchOptions,
    mut each: impl FnMut(&FamilyReport, bool) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let watched = WatchedFamily::new(family, prunes, job);
    let each = |looked: &FamilyLooked| each(&looked.report, looked.has_published());
    Box::pin(watch::watch(&watched, options, how, each)).await
}
