//! `reseed --watch`: reseeds a target or a family repeatedly. The triggers' notifications wake it, and a slow poll
//! finds changes whose notification was lost. If no notifications arrive, it polls the change log more often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::compaction::{Compaction, CompactionAttempts};
use super::jobs::run_queued;
use super::watched_rows::WatchedRows;
use super::{ReseedOptions, ReseedOutcome, once};
use crate::backoff::Backoff;
use crate::change_log::Waking;
use crate::error::{ErrorKind, with_causes};
use crate::postgis::Database;
use crate::report::{Event, Report};
use crate::run::purge::PurgeTask;
use crate::run::target::TargetState;
use crate::run::{CommandError, TilesetRun, blocking_read, if_any};
use crate::serve::{JobStore, WriteBackQueue};
use crate::stop::{Grace, Signal, Stop};

/// The pauses after failures in a row.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The longest pause while another run holds the target's lock or lease: its process may have been paused or killed,
/// and a look costs little.
const MAX_PAUSE_WHILE_HELD: Duration = Duration::from_secs(4);

/// The longest pause between two looks while the watch could not begin to listen. The database may have been away for
/// a moment.
const PAUSE_WITHOUT_WAKING: Duration = Duration::from_secs(1);

/// The shortest pause between two looks into the log. Shorter ones would only keep the database busy.
const MIN_POLL: Duration = Duration::from_millis(100);

/// The longest pause between two looks into the log if no notifications come. On average a change is seen half of this
/// late.
const MAX_LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The grace: how long tiles that are being rendered and stored may take once a stop was asked for. Supervisors wait 30
/// s before they kill.
const GRACE: Duration = Duration::from_secs(20);

/// The loop of `reseed --watch` over one target, or a family.
struct ReseedLoop<'a, W, F> {
    watched: &'a W,
    /// The run of `watched`, for its settings, report and stop.
    run: &'a TilesetRun,
    options: ReseedOptions,
    /// Called with each outcome.
    each: F,
    database: Database,
    waking: Option<Waking>,
    compactions: CompactionAttempts,
    /// Notifies CDNs, if there are any.
    purging: &'a Option<PurgeTask>,
    /// The last message that was reported, so that it is not repeated.
    said: String,
}

/// Reseeds until a stop is asked for.
pub(crate) async fn watch<W: Watched>(
    watched: &W,
    options: &ReseedOptions,
    each: impl FnMut(&W::Outcome) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let run = watched.tileset_run();
    let database = run.database()?;
    let mut options = options.clone();
    // Tiles that could not be rendered do not count as dirty: otherwise each look would retry them. The next change
    // retries them.
    options.filter.leaves_unrendered = true;
    options.is_watch = true;
    // A job is a publish, too: the look after it writes the archive anew.
    options.compaction = Compaction::NEVER;
    let purging = watched.purge_task();
    let watch = ReseedLoop {
        watched,
        run,
        options,
        each,
        database,
        waking: None,
        compactions: CompactionAttempts::new(run.settings.database.changes.compact_between),
        purging: &purging,
        said: String::new(),
    };
    let ended = watch.run().await;
    if let (Some(purging), Some(_)) = (purging, run.stop.asked()) {
        purging.end().await;
    }
    ended
}

impl<W: Watched, F: FnMut(&W::Outcome) -> Result<(), CommandError>> ReseedLoop<'_, W, F> {
    async fn run(mut self) -> Result<(), CommandError> {
        let (mut pauses, mut has_looked, mut compacts) = (PAUSES, false, false);
        let mut unsaid = Some(self.follows().await);
        if !self.options.is_retry {
            self.say_what_it_follows(&mut unsaid);
        }
        loop {
            // Listening begins before the look: a change after the look sends a notification, and the look sees a
            // change before it.
            let obstacle = self.begin_waking().await;
            let compaction = self.compactions.at(SystemTime::now(), compacts);
            let (looked, was_at_work) = Box::pin(self.look(!has_looked, compaction)).await;
            let has_compacted = std::mem::take(&mut compacts);
            match looked {
                Err(CommandError::NotCompacted(error)) if self.run.stop.asked().is_none() => {
                    self.say_not_compacted(&not_compacted(&self.run.target, &error));
                    // What has changed does not wait.
                    continue;
                }
                Ok(outcome) => {
                    self.note_compaction(compaction, &outcome);
                    // Now it is certain that the log can be used again.
                    self.say_what_it_follows(&mut unsaid);
                    pauses.reset();
                    has_looked = true;
                    self.options.has_warned = true;
                    // If the database is away, the look reports it.
                    if let Some(obstacle) = obstacle {
                        self.say_once(obstacle);
                    }
                    compacts = !has_compacted && self.watched.has_put_off_compaction(&outcome);
                    let published = self.watched.published(&outcome);
                    if let Some(event) = &published {
                        self.run.report.event(event);
                    }
                    let shown = (self.each)(&outcome);
                    // Only after this process's own caches have dropped the old tiles, because a CDN would fetch these
                    // again.
                    if let (Some(purging), Some(_)) = (self.purging, published) {
                        purging.wake();
                    }
                    shown?;
                    if let Some(problem) = self.watched.problem(&outcome) {
                        self.run.report.warn(problem);
                    }
                }
                // Nothing was begun, so the target is as the previous look left it.
                Err(error) if error.kind() == ErrorKind::Interrupted && has_looked && !was_at_work => {
                    return Ok(());
                }
                Err(error) if self.run.stop.asked().is_some() || !may_pass(&error) => return Err(error),
                Err(error) => {
                    // Old connections or credentials may be the cause, so they are dropped.
                    self.run.settings.tileset.bucket.shared.reset();
                    let pause = pause(&mut pauses, &error);
                    let why = with_cause(&error);
                    self.run.report.warn(format!("{why}: trying again in {} s", pause.as_secs()));
                    if let Some(listener) = &self.options.on_retry {
                        listener.notify(why);
                    }
                    self.waking = None;
                    tokio::select! {
                        () = tokio::time::sleep(pause) => continue,
                        signal = self.run.stop.wait() => {
                            return if has_looked { Ok(()) } else { Err(CommandError::Interrupted(signal)) };
                        }
                    }
                }
            }
            if let Some(jobs) = self.options.jobs.clone() {
                let (each, mut has_published) = (&mut self.each, false);
                let mut each = |outcome: &W::Outcome| {
                    has_published |= self.watched.published(outcome).is_some();
                    each(outcome)
                };
                Box::pin(self.watched.run_jobs(&self.options, &jobs, &mut each)).await?;
                if let (Some(purging), true) = (self.purging, has_published) {
                    purging.wake();
                }
            }
            // What was published is on its way to clients.
            if compacts {
                continue;
            }
            if let Some(_signal) = self.woken().await {
                return Ok(());
            }
        }
    }

    /// Notes how a look has ended that may have written archives anew.
    fn note_compaction(&mut self, compaction: Compaction, outcome: &W::Outcome) {
        if let Some(why) = self.watched.not_compacted(outcome) {
            self.say_not_compacted(&why);
        } else if compaction != Compaction::NEVER && !self.watched.has_put_off_compaction(outcome) {
            self.compactions.has_succeeded();
        }
    }

    fn say_not_compacted(&mut self, why: &str) {
        if let Some(message) = self.compactions.has_failed(SystemTime::now(), why) {
            self.run.report.warn(message);
        }
    }

    fn say_what_it_follows(&self, unsaid: &mut Option<Event>) {
        if let Some(event) = unsaid.take() {
            self.run.report.event(&event);
        }
    }

    /// The event that says what this watch follows, and from which state on.
    async fn follows(&self) -> Event {
        let TilesetRun { settings, target, .. } = self.run;
        Event::Watching {
            database: self.database.server().to_string(),
            target: target.to_string(),
            layers: crate::config::layer_names(&settings.tileset.layers),
            cursor: self.watched.cursor().await,
            debounce_seconds: settings.database.changes.debounce.as_secs_f64(),
            poll_seconds: settings.database.changes.poll.as_secs_f64(),
            cdns: settings.tileset.purges.iter().map(|purge| purge.provider.name().to_owned()).collect(),
        }
    }

    /// One reseed. A stop ends it at once, unless it has begun to render tiles: then it has [`GRACE`] to finish. Also
    /// returns whether it had begun to render.
    async fn look(&self, is_first: bool, compaction: Compaction) -> (Result<W::Outcome, CommandError>, bool) {
        let own = Stop::new();
        let mut options = ReseedOptions { compaction, ..self.options.clone() };
        options.filter.written_back = options.write_back.as_ref().map(WriteBackQueue::batch).unwrap_or_default();
        let work = Arc::new(InHand::new(&self.run.report, &self.run.stop));
        let report: Arc<dyn Report> = Arc::<InHand>::clone(&work);
        let ended = {
            let run = self.run.with_report_and_stop(report, own.clone());
            let looking = self.watched.look(&run, &options, is_first);
            tokio::pin!(looking);
            tokio::select! {
                ended = &mut looking => ended,
                signal = self.run.stop.wait() => {
                    let parting = if work.is_begun() { GRACE } else { Duration::ZERO };
                    match tokio::time::timeout(parting, &mut looking).await {
                        Ok(ended) => ended,
                        Err(_elapsed) => {
                            own.ask(signal);
                            looking.await
                        }
                    }
                }
            }
        };
        if let (Err(_), Some(queue)) = (&ended, &options.write_back) {
            // A tile that cannot be rendered must not keep others from being published.
            queue.given_up(&options.filter.written_back);
        }
        work.end();
        (ended, work.is_begun())
    }

    /// Waits for the next reason to look: a notification, a job, the poll, or the time for an attempt to write an
    /// archive anew. Returns the signal if a stop is asked for.
    async fn woken(&mut self) -> Option<Signal> {
        let (pause, jobs) = (self.look_pause(), self.options.jobs.as_ref());
        let mut poll = self.compactions.next(SystemTime::now()).min(*self.run.settings.database.changes.poll);
        if self.waking.is_none() {
            poll = poll.min(PAUSE_WITHOUT_WAKING);
        }
        let woken = tokio::select! {
            signal = self.run.stop.wait() => return Some(signal),
            () = if_any(jobs.map(JobStore::queued)) => return None,
            () = if_any(self.options.write_back.as_ref().map(WriteBackQueue::due)) => return None,
            () = tokio::time::sleep(MIN_POLL.max(poll)) => None,
            woken = if_any(self.waking.as_mut().map(|waking| waking.change(pause))) => Some(woken),
        };
        let checked = match woken {
            Some(Ok(())) => {
                tokio::select! {
                    () = tokio::time::sleep(*self.run.settings.database.changes.debounce) => {}
                    // A job need not wait until further changes have arrived. The look before it finds the changes so
                    // far.
                    () = if_any(jobs.map(JobStore::queued)) => {}
                    signal = self.run.stop.wait() => return Some(signal),
                }
                // The next look sees everything that changed during the debounce.
                match &mut self.waking {
                    Some(waking) => waking.forget().await,
                    None => Ok(()),
                }
            }
            Some(Err(error)) => Err(error),
            // A connection that was cut without notice would never report a change, so it is checked.
            None => match &self.waking {
                Some(waking) => waking.check().await,
                None => Ok(()),
            },
        };
        if let Err(error) = checked {
            tracing::info!("{error}: listening again");
            self.waking = None;
        }
        None
    }

    /// Begins to listen for notifications, unless it listens already. Returns a message if none will come, or if
    /// listening is not possible now; the poll goes on, and the next look tries again.
    async fn begin_waking(&mut self) -> Option<String> {
        if self.waking.is_some() {
            return None;
        }
        let begun = tokio::select! {
            begun = Waking::begin(&self.database, &self.run.settings.database.changes.schema) => begun,
            // A stop ends the look at once, too.
            _ = self.run.stop.wait() => return None,
        };
        match begun {
            Ok(waking) => {
                let obstacle = waking.obstacle().map(|quiet| {
                    let pause = humantime::format_duration(self.look_pause());
                    format!(
                        "no notifications wake this run ({quiet}): it looks into the change log every {pause} instead"
                    )
                });
                if obstacle.is_none() {
                    self.said.clear();
                }
                self.waking = Some(waking);
                obstacle
            }
            Err(error) => {
                let poll = PAUSE_WITHOUT_WAKING.min(*self.run.settings.database.changes.poll);
                let (error, poll) = (with_cause(&error), humantime::format_duration(poll));
                Some(format!("{error}: until notifications can be heard, changes are looked for every {poll}"))
            }
        }
    }

    /// The pause between two looks into the log if no notifications come.
    fn look_pause(&self) -> Duration {
        Duration::clamp(*self.run.settings.database.changes.debounce, MIN_POLL, MAX_LOOK_PAUSE)
    }

    fn say_once(&mut self, message: String) {
        if self.said != message {
            self.run.report.warn(message.clone());
            self.said = message;
        }
    }
}

/// Passes events on. The grace begins with the first event of rendering.
struct InHand {
    report: Arc<dyn Report>,
    stop: Stop,
    is_begun: AtomicBool,
    grace: Mutex<Option<Grace>>,
}

impl InHand {
    fn new(report: &Arc<dyn Report>, stop: &Stop) -> InHand {
        let (report, stop) = (Arc::clone(report), stop.clone());
        InHand { report, stop, is_begun: AtomicBool::new(false), grace: Mutex::default() }
    }

    fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Relaxed)
    }

    /// Ends the grace: the work is done or was given up.
    fn end(&self) {
        self.grace.lock().take();
    }
}

impl Report for InHand {
    fn event(&self, event: &Event) {
        let begins = matches!(event, Event::Planned { .. }) && !self.is_begun.swap(true, Ordering::Relaxed);
        if begins {
            *self.grace.lock() = Some(self.stop.grant(GRACE));
        }
        self.report.event(event);
    }
}

/// The pause after another failure.
fn pause(pauses: &mut Backoff, error: &CommandError) -> Duration {
    let pause = pauses.next_pause();
    match error {
        CommandError::Target(error) if error.is_held() => pause.min(MAX_PAUSE_WHILE_HELD),
        _ => pause,
    }
}

/// True if the error may pass without intervention.
fn may_pass(error: &CommandError) -> bool {
    matches!(error.kind(), ErrorKind::Transient(_) | ErrorKind::Failed)
}

// What a watch keeps up to date: one target, or all variants of a tileset.

/// What a watch keeps up to date.
pub(crate) trait Watched {
    type Outcome;

    /// The run whose settings, report and stop the watch uses. Messages name its target.
    fn tileset_run(&self) -> &TilesetRun;

    /// The task that notifies CDNs in parallel to the looks; `None` if there is no such task.
    fn purge_task(&self) -> Option<PurgeTask>;

    /// The database state since which changes are looked for; `None` if nothing was seeded yet, or if it cannot be
    /// read.
    async fn cursor(&self) -> Option<String>;

    /// Finds what has changed, and brings the target up to date. `run` has the report and the stop
    /// of this look. `is_first` is true until a look has succeeded. Fails if nothing was published, or if it is not
    /// certain that everything that the look found was published.
    async fn look(
        &self,
        run: &TilesetRun,
        options: &ReseedOptions,
        is_first: bool,
    ) -> Result<Self::Outcome, CommandError>;

    fn published(&self, outcome: &Self::Outcome) -> Option<Event>;

    /// True if it is time to write an archive anew because of its dead bytes, and the look has left that to the next
    /// one.
    fn has_put_off_compaction(&self, outcome: &Self::Outcome) -> bool;

    /// Why an archive could not be written anew in a look that has succeeded; `None` if none was tried in vain.
    fn not_compacted(&self, outcome: &Self::Outcome) -> Option<String>;

    /// What an outcome lacks until the next look adds it; `None` if it is complete.
    fn problem(&self, outcome: &Self::Outcome) -> Option<String>;

    /// Runs the waiting jobs of clients, and calls `each` with each outcome.
    async fn run_jobs(
        &self,
        options: &ReseedOptions,
        jobs: &JobStore,
        each: &mut impl FnMut(&Self::Outcome) -> Result<(), CommandError>,
    ) -> Result<(), CommandError>;
}

pub(crate) struct WatchedTarget<'a> {
    run: &'a TilesetRun,
    /// The rows of layers of points and cells, from look to look.
    live: Arc<WatchedRows>,
}

impl<'a> WatchedTarget<'a> {
    pub(crate) fn new(run: &'a TilesetRun) -> WatchedTarget<'a> {
        WatchedTarget { run, live: Arc::default() }
    }
}

impl Watched for WatchedTarget<'_> {
    type Outcome = ReseedOutcome;

    fn tileset_run(&self) -> &TilesetRun {
        self.run
    }

    fn purge_task(&self) -> Option<PurgeTask> {
        PurgeTask::begin(self.run)
    }

    async fn cursor(&self) -> Option<String> {
        let read = self.run.target.clone();
        // A target that cannot be read is reported by the look.
        let state = blocking_read(&self.run.stop, move || TargetState::read(&read)).await.ok();
        state.map(|state| state.cursor.to_string())
    }

    async fn look(
        &self,
        run: &TilesetRun,
        options: &ReseedOptions,
        _is_first: bool,
    ) -> Result<ReseedOutcome, CommandError> {
        let options = ReseedOptions { live: Some(Arc::clone(&self.live)), ..options.clone() };
        let outcome = once(run, &options).await;
        let has_same_history =
            matches!(outcome, Ok(ReseedOutcome::Nothing | ReseedOutcome::Done(_)) | Err(CommandError::NotCompacted(_)));
        if !has_same_history {
            // The next look may find another history of the database.
            self.live.clear(run).await;
        }
        outcome
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

    fn has_put_off_compaction(&self, outcome: &ReseedOutcome) -> bool {
        matches!(outcome, ReseedOutcome::Done(done) if done.has_put_off_compaction)
    }

    fn not_compacted(&self, _: &ReseedOutcome) -> Option<String> {
        // The look fails.
        None
    }

    fn problem(&self, outcome: &ReseedOutcome) -> Option<String> {
        // Tiles that could not be rendered are retried with the next change.
        outcome.check_complete().err().map(|error| with_cause(&error))
    }

    async fn run_jobs(
        &self,
        options: &ReseedOptions,
        jobs: &JobStore,
        each: &mut impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        Box::pin(run_queued(self.run, options, jobs, each)).await
    }
}

/// Says that an archive could not be written anew because of its dead bytes.
pub(crate) fn not_compacted(target: &impl std::fmt::Display, error: &CommandError) -> String {
    format!("{target} could not be written anew without its dead bytes: {}", with_causes(error))
}

/// An error with its first cause, on one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("{error}{cause}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{BucketError, TargetError};

    #[test]
    fn a_lock_that_others_hold_is_tried_every_few_seconds() {
        let [place, holder, until] = ["s3://b/p/", "another", "then"].map(str::to_owned);
        let held = CommandError::Target(TargetError::Bucket(BucketError::Held { place, holder, until }));
        let pauses = |error: &CommandError| {
            let mut pauses = PAUSES;
            [0; 8].map(|_| pause(&mut pauses, error).as_secs())
        };
        assert_eq!(pauses(&held), [1, 2, 4, 4, 4, 4, 4, 4]);
        assert_eq!(pauses(&CommandError::Died("it".to_owned())), [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
