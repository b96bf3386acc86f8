//! The watch of a family as the writer in a server, under a lease that is kept with the family's manifest.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::ReseedOptions;
use super::family_watch::watch_family;
use super::writer::{WriterFailures, on_thread, said_once, under_lease};
use crate::changes::WatchOptions;
use crate::error::with_causes;
use crate::report::{FamilyReport, Report};
use crate::run::writer_lease::LeaseWait;
use crate::run::{CommandError, Family, Job, QueueGate};
use crate::serve::{FamilyDesk, FamilyWriter, WriterOptions};
use crate::stop::Stop;

/// Keeps all variants of a tileset up to date for a server.
pub struct FamilyWatchWriter {
    family: Family,
    how: WatchOptions,
    writer: WriterOptions,
    report: Arc<dyn Report>,
}

impl FamilyWatchWriter {
    /// A writer for a family.
    #[must_use]
    pub fn new(
        family: Family,
        how: WatchOptions,
        writer: WriterOptions,
        report: &Arc<dyn Report>,
    ) -> Arc<FamilyWatchWriter> {
        Arc::new(FamilyWatchWriter { family, how, writer, report: Arc::clone(report) })
    }

    async fn write(self: Arc<Self>, desk: FamilyDesk, stop: Stop) {
        let opened = self.family.watched(&self.report, &stop);
        let opened = opened.and_then(|job| Ok((self.family.notes(&self.report, &stop)?, job)));
        let (notes, job) = match opened {
            Ok(opened) => opened,
            Err(error) => return desk.failed(with_causes(&error)),
        };
        loop {
            let waiting = LeaseWait::new(Arc::clone(&notes), self.writer.lease);
            let said = Mutex::default();
            let held = |holder: String| {
                if !self.writer.stands_by {
                    desk.failed(said_once(&format!("the variants of {}", self.family.name()), &holder, &said));
                }
                desk.stands_by(holder);
            };
            let taken = waiting.taken(held, |why| desk.failed(why));
            let mut lease = tokio::select! {
                lease = taken => lease,
                _ = stop.wait() => return,
            };
            desk.begins();
            let own = Stop::new();
            let gate = Arc::new(QueueGate::new(desk.queue().clone(), &own));
            let job = job.under(Arc::clone(&self.report), own.clone()).with_listener(lease.listener()).behind(gate);
            let lost = under_lease(&mut lease, &own, &stop, self.watched(&job, &desk)).await;
            if stop.asked().is_some() {
                return lease.release().await;
            }
            tracing::warn!("the variants of {} are written by another process now: {lost}", self.family.name());
            desk.stands_by(lost);
        }
    }

    /// Starts the watch again whenever it ends, until the job's stop is asked for.
    async fn watched(&self, job: &Job, desk: &FamilyDesk) {
        let failures = WriterFailures::default();
        while job.stop.asked().is_none() {
            let each = |_report: &FamilyReport, has_published: bool| -> Result<(), CommandError> {
                failures.has_succeeded();
                if has_published {
                    // The watch goes on once the server has noticed the publication.
                    tokio::task::block_in_place(|| Handle::current().block_on(desk.published()));
                } else {
                    desk.is_up_to_date();
                }
                Ok(())
            };
            let options = ReseedOptions { is_retry: failures.is_failing(), ..ReseedOptions::default() };
            let Err(error) = watch_family(&self.family, false, job, &options, self.how, each).await else { return };
            if job.stop.asked().is_some() {
                return;
            }
            let why = with_causes(&error);
            let pause = failures.has_failed(&format!("the variants of {}", self.family.name()), &why);
            desk.failed(why);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = job.stop.wait() => return,
            }
        }
    }
}

impl FamilyWriter for FamilyWatchWriter {
    fn run(self: Arc<Self>, desk: FamilyDesk, stop: Stop) -> BoxFuture<'static, ()> {
        on_thread(move || self.write(desk, stop))
    }
}
