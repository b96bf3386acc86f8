//! The watch as the writer in a server. It runs under a lease, so that only one of several servers writes and the
//! others stand by.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::family::watch_family;
use super::jobs::run_queued;
use super::{DirtyListener, ReseedOptions, ReseedOutcome, RetryListener, watch};
use crate::backoff::Backoff;
use crate::error::with_causes;
use crate::report::{FamilyReport, Report};
use crate::run::writer_lease::{LeaseWait, WriterLease};
use crate::run::{CommandError, Family, QueueGate, TilesetRun};
use crate::serve::{Writer, WriterHandle, WriterObserver, WriterOptions, WrittenTarget, WrittenVariants};
use crate::stop::{Signal, Stop};
use crate::target::NoteStore;

/// The pauses after a watch has ended with an error that a retry cannot fix, such as a target that needs a seed. The
/// watch then begins again, because an operator may have fixed the cause. The pauses begin anew with another cause.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// The failures of a writer since its last success. Each cause is logged once.
#[derive(Debug, Default)]
pub(crate) struct WriterFailures {
    /// The last cause, with the pauses that follow it; `None` after a success.
    last: RefCell<Option<(String, Backoff)>>,
}

impl WriterFailures {
    /// Notes that the writer of `what` has failed, and returns the pause until it tries again.
    pub(crate) fn has_failed(&self, what: &str, why: &str) -> Duration {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(said, _)| said != why) {
            tracing::warn!("{what}: {why}");
            *last = None;
        }
        last.get_or_insert_with(|| (why.to_owned(), PAUSES)).1.next_pause()
    }

    /// True if the writer has failed since its last success.
    pub(crate) fn is_failing(&self) -> bool {
        self.last.borrow().is_some()
    }

    /// Notes that the writer works.
    pub(crate) fn has_succeeded(&self) {
        self.last.take();
    }
}

/// Writes for a server as long as this process has the lease.
struct LeasedWriter<W> {
    /// What is written, for messages.
    what: String,
    /// "is" or "are", as `what` needs it.
    verb: &'static str,
    /// Where the lease is kept.
    notes: Arc<dyn NoteStore>,
    options: WriterOptions,
    handle: WriterHandle<W>,
    stop: Stop,
}

impl<W: WriterObserver> LeasedWriter<W> {
    /// Waits for the lease, calls `begin`, and then `watch` again whenever it ends, until the lease is lost; and all of
    /// that again until the stop is asked for. The pause after a failed watch ends early with `woken`.
    async fn write(
        &self,
        run: &TilesetRun,
        begin: impl Fn(),
        watch: impl AsyncFn(&TilesetRun, &WriterFailures) -> Result<(), CommandError>,
        woken: impl AsyncFn(),
    ) {
        let handle = &self.handle;
        loop {
            let waiting = LeaseWait::new(Arc::clone(&self.notes), self.options.lease);
            let (said, failures) = (RefCell::default(), WriterFailures::default());
            let taken = waiting.taken(
                |holder| self.is_held(&holder, &said),
                |why| {
                    // The lease is tried again soon, whatever pause would suit a watch.
                    failures.has_failed(&self.what, &why);
                    handle.report_failed(why);
                },
            );
            let mut lease = tokio::select! {
                lease = taken => lease,
                _ = self.stop.wait() => return,
            };
            begin();
            // This comes last, because clients submit jobs as soon as they read that this server writes.
            handle.report_writing();
            let own = Stop::new();
            let gate = Arc::new(QueueGate::new(handle.queue().clone(), &own));
            let run = run
                .with_report_and_stop(Arc::clone(&run.report), own.clone())
                .with_listener(lease.listener())
                .with_gate(gate);
            let watching = self.keep_watching(&run, &watch, &woken);
            let lost = under_lease(&mut lease, &own, &self.stop, watching).await;
            if self.stop.asked().is_some() {
                return lease.release().await;
            }
            tracing::warn!("{} {} written by another process now: {lost}", self.what, self.verb);
            handle.report_standby(lost);
        }
    }

    /// Another process has the lease. If this server was told to write, it logs each holder once.
    fn is_held(&self, holder: &str, said: &RefCell<String>) {
        self.handle.report_standby(holder.to_owned());
        if !self.options.stands_by {
            let text = format!(
                "another server writes {}: {holder}. This one serves, and writes once that one has ended or not renewed \
                 its lease",
                self.what
            );
            if said.replace(holder.to_owned()) != holder {
                tracing::warn!("{text}");
            }
            self.handle.report_failed(text);
        }
    }

    /// Starts the watch again whenever it ends, until the run's stop is asked for.
    async fn keep_watching(
        &self,
        run: &TilesetRun,
        watch: &impl AsyncFn(&TilesetRun, &WriterFailures) -> Result<(), CommandError>,
        woken: &impl AsyncFn(),
    ) {
        let failures = WriterFailures::default();
        while run.stop.asked().is_none() {
            let Err(error) = watch(run, &failures).await else { return };
            if run.stop.asked().is_some() {
                return;
            }
            let why = with_causes(&error);
            let pause = failures.has_failed(&self.what, &why);
            self.handle.report_failed(why);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = woken() => {}
                _ = run.stop.wait() => return,
            }
        }
    }

    /// Notes in the server's status why a look failed that is tried again.
    fn retry_listener(&self) -> RetryListener {
        let status = self.handle.status.clone();
        RetryListener::new(move |why| status.note_failure(why))
    }

    /// Makes the server notice a publication; the watch goes on once it has.
    fn report_published(&self) {
        tokio::task::block_in_place(|| Handle::current().block_on(self.handle.report_published()));
    }
}

/// Reports that a writer of `what` cannot begin.
fn cannot_begin<W: WriterObserver>(what: &str, handle: &WriterHandle<W>, error: &CommandError) {
    let why = with_causes(error);
    tracing::warn!("{what}: {why}");
    handle.report_failed(why);
}

/// Runs `watching` until the lease is lost or `stop` is asked for. `own` is the stop of `watching`. Returns why it
/// ended.
async fn under_lease(lease: &mut WriterLease, own: &Stop, stop: &Stop, watching: impl Future<Output = ()>) -> String {
    let kept = lease.renew_until_lost();
    tokio::pin!(kept, watching);
    let why = tokio::select! {
        why = &mut kept => why,
        () = &mut watching => "the watch has ended".to_owned(),
        signal = stop.wait() => {
            own.ask(signal);
            // The lease is renewed until the current work is done.
            tokio::select! {
                () = &mut watching => {}
                why = &mut kept => return why,
            }
            return "a stop was asked for".to_owned();
        }
    };
    own.ask(Signal::Terminate);
    watching.await;
    why
}

/// Runs a writer on a thread of its own, because the writer may block it.
fn on_thread<F: Future<Output = ()>>(writer: impl FnOnce() -> F + Send + 'static) -> BoxFuture<'static, ()> {
    let writing = tokio::task::spawn_blocking(move || Handle::current().block_on(writer()));
    Box::pin(async move {
        if let Err(error) = writing.await {
            tracing::error!("the writer has died: {error}");
        }
    })
}

/// Keeps the target of a run up to date for a server.
pub(crate) struct ReseedWriter {
    run: TilesetRun,
    options: ReseedOptions,
    writer: WriterOptions,
}

impl ReseedWriter {
    /// A writer for the run's target.
    pub(crate) fn new(run: TilesetRun, options: ReseedOptions, writer: WriterOptions) -> Arc<ReseedWriter> {
        Arc::new(ReseedWriter { run, options, writer })
    }

    async fn write(self: Arc<Self>, handle: WriterHandle<WrittenTarget>, stop: Stop) {
        let notes = match self.run.target.notes() {
            Ok(notes) => notes,
            Err(error) => return cannot_begin(&self.run.target.to_string(), &handle, &error),
        };
        let what = self.run.target.to_string();
        let leased = LeasedWriter { what, verb: "is", notes, options: self.writer, handle: handle.clone(), stop };
        let begin = || {
            handle.write_back().turn(self.writer.write_back);
            if let Err(error) = tokio::task::block_in_place(|| handle.jobs().take_over()) {
                tracing::warn!("the jobs that are kept with {} cannot be read: {}", leased.what, with_causes(&error));
            }
        };
        let listening_handle = handle.clone();
        let on_dirty = DirtyListener::new(move |tiles| listening_handle.report_dirty(tiles));
        let options = ReseedOptions {
            on_dirty: Some(on_dirty),
            on_retry: Some(leased.retry_listener()),
            jobs: Some(handle.jobs().clone()),
            write_back: Some(handle.write_back().clone()),
            ..self.options.clone()
        };
        let watch_once = async |run: &TilesetRun, failures: &WriterFailures| {
            let mut each = |outcome: &ReseedOutcome| -> Result<(), CommandError> {
                failures.has_succeeded();
                match outcome {
                    ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => handle.report_up_to_date(),
                    ReseedOutcome::Done(_) | ReseedOutcome::Seeded(_) => leased.report_published(),
                }
                Ok(())
            };
            // A job may fix a target that the watch cannot write.
            if let Err(error) = Box::pin(run_queued(run, &options, handle.jobs(), &mut each)).await {
                handle.report_failed(with_causes(&error));
            }
            let options = ReseedOptions { is_retry: failures.is_failing(), ..options.clone() };
            watch(run, &options, each).await
        };
        leased.write(&self.run, begin, watch_once, async || handle.jobs().queued().await).await;
    }
}

impl Writer<WrittenTarget> for ReseedWriter {
    fn run(self: Arc<Self>, handle: WriterHandle<WrittenTarget>, stop: Stop) -> BoxFuture<'static, ()> {
        on_thread(move || self.write(handle, stop))
    }
}

/// Keeps all variants of a tileset up to date for a server, under a lease that is kept with the family's manifest.
pub(crate) struct FamilyReseedWriter {
    family: Family,
    writer: WriterOptions,
    report: Arc<dyn Report>,
}

impl FamilyReseedWriter {
    pub(crate) fn new(family: Family, writer: WriterOptions, report: &Arc<dyn Report>) -> Arc<FamilyReseedWriter> {
        Arc::new(FamilyReseedWriter { family, writer, report: Arc::clone(report) })
    }

    async fn write(self: Arc<Self>, handle: WriterHandle<WrittenVariants>, stop: Stop) {
        let what = format!("the variants of {}", self.family.name());
        let opened = self.family.tileset_run(&self.report, &stop);
        let opened = opened.and_then(|run| Ok((self.family.notes(&self.report, &stop)?, run)));
        let (notes, run) = match opened {
            Ok(opened) => opened,
            Err(error) => return cannot_begin(&what, &handle, &error),
        };
        let leased = LeasedWriter { what, verb: "are", notes, options: self.writer, handle, stop };
        let watch_once = async |run: &TilesetRun, failures: &WriterFailures| {
            let each = |_report: &FamilyReport, has_published: bool| -> Result<(), CommandError> {
                failures.has_succeeded();
                if has_published {
                    leased.report_published();
                } else {
                    leased.handle.report_up_to_date();
                }
                Ok(())
            };
            let on_retry = Some(leased.retry_listener());
            let options = ReseedOptions { is_retry: failures.is_failing(), on_retry, ..ReseedOptions::default() };
            watch_family(&self.family, false, run, &options, each).await
        };
        leased.write(&run, || {}, watch_once, std::future::pending).await;
    }
}

impl Writer<WrittenVariants> for FamilyReseedWriter {
    fn run(self: Arc<Self>, handle: WriterHandle<WrittenVariants>, stop: Stop) -> BoxFuture<'static, ()> {
        on_thread(move || self.write(handle, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_while_the_cause_stays_the_same() {
        let failures = WriterFailures::default();
        let pause = |why: &str| failures.has_failed("t.mbtiles", why).as_secs();
        assert_eq!([0; 6].map(|_| pause("a")), [5, 10, 20, 40, 60, 60]);
        assert_eq!([pause("b"), pause("b")], [5, 10]);
        failures.has_succeeded();
        assert_eq!(pause("b"), 5);
    }
}
