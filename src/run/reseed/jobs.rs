//! Jobs of clients. The writer of a server runs them between two looks of its watch.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{ReseedOptions, ReseedOutcome, SeedInstead, once, seed_instead};
use crate::error::with_causes;
use crate::report::{Event, Report, ReseedReport};
use crate::run::{CommandError, DirtyFilter, TileList, TilesWanted, TilesetRun};
use crate::serve::{JobEnd, JobProgress, JobSpec, JobStore, JobWork, StartedJob};
use crate::stop::Stop;

/// Passes events on, and reports the progress of the job.
struct JobReport {
    inner: Arc<dyn Report>,
    started: Arc<StartedJob>,
    total: AtomicU64,
    done: AtomicU64,
}

impl Report for JobReport {
    fn event(&self, event: &Event) {
        match event {
            Event::Planned { tiles, .. } => {
                self.total.store(*tiles, Ordering::Relaxed);
                self.done.store(0, Ordering::Relaxed);
            }
            Event::Stored { tiles, .. } => {
                self.done.fetch_add(*tiles, Ordering::Relaxed);
            }
            _ => return self.inner.event(event),
        }
        let total = Some(self.total.load(Ordering::Relaxed));
        self.started.progress(JobProgress { done: self.done.load(Ordering::Relaxed), total });
        self.inner.event(event);
    }
}

/// Runs the waiting jobs one after the other, until none waits or a stop is asked for. Calls `each` with each outcome,
/// before clients learn that the job is done.
pub(crate) async fn run_queued(
    run: &TilesetRun,
    options: &ReseedOptions,
    jobs: &JobStore,
    each: &mut impl FnMut(&ReseedOutcome) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    while run.stop.asked().is_none() {
        let own = Stop::new();
        let started = match tokio::task::block_in_place(|| jobs.begin_next(&own)) {
            Ok(Some(started)) => Arc::new(started),
            Ok(None) => return Ok(()),
            Err(error) => {
                run.report.warn(format!("jobs cannot be begun: {error}"));
                return Ok(());
            }
        };
        let ended = Box::pin(run_one(run, options, &started, &own)).await;
        let end = match ended {
            Ok(outcome) => {
                each(&outcome)?;
                match outcome.check_complete() {
                    Ok(()) => JobEnd::Done(report_of(run, &outcome)),
                    Err(error) => JobEnd::Failed(with_causes(&error)),
                }
            }
            Err(_) if run.stop.asked().is_some() => JobEnd::CutOff,
            Err(_) if started.is_cancelled() => JobEnd::Cancelled,
            Err(error) => JobEnd::Failed(with_causes(&error)),
        };
        if let Err(error) = tokio::task::block_in_place(|| started.end(end)) {
            run.report
                .warn(format!("the end of job {} cannot be noted, so that it is run again: {error}", started.id()));
            return Ok(());
        }
    }
    Ok(())
}

async fn run_one(
    run: &TilesetRun,
    options: &ReseedOptions,
    started: &Arc<StartedJob>,
    own: &Stop,
) -> Result<ReseedOutcome, CommandError> {
    let report = JobReport {
        inner: Arc::clone(&run.report),
        started: Arc::clone(started),
        total: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    let own_run = run.with_report_and_stop(Arc::new(report), own.clone());
    let spec = started.spec();
    // The file is removed when the job has ended.
    let list = (spec.work == JobWork::Tiles).then(|| listed(spec)).transpose().map_err(CommandError::Output)?;
    let wanted = match &list {
        Some(list) => TilesWanted::List(TileList { path: list.path().to_owned(), parents: false, children: false }),
        None if spec.work == JobWork::Area => TilesWanted::Area(spec.area.clone()),
        None => TilesWanted::Changed,
    };
    let filter = DirtyFilter { tiles: wanted, zoom: spec.zooms.clone(), ..DirtyFilter::default() };
    let options = ReseedOptions { filter, seeds: SeedInstead::Never, ..options.clone() };
    let running = async {
        if spec.work == JobWork::Seed {
            let target = run.target.to_string();
            let asked = CommandError::NeedsSeed { target, why: format!("job {} asks for it", started.id()) };
            return seed_instead(&own_run, &options, &asked).await;
        }
        once(&own_run, &options).await
    };
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => ended,
        signal = run.stop.wait() => {
            own.ask(signal);
            running.await
        }
    }
}

/// A file with the tiles of a job, one per line.
fn listed(spec: &JobSpec) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let lines: String = spec.tiles.iter().map(|tile| format!("{tile}\n")).collect();
    file.write_all(lines.as_bytes())?;
    Ok(file)
}

fn report_of(run: &TilesetRun, outcome: &ReseedOutcome) -> Value {
    let report = match outcome {
        ReseedOutcome::Done(done) => serde_json::to_value(done),
        ReseedOutcome::Seeded(done) => serde_json::to_value(done),
        ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => {
            serde_json::to_value(ReseedReport::nothing(run.target.to_string()))
        }
    };
    report.unwrap_or_default()
}
