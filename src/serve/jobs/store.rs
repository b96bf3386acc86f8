//! The jobs of a target: stored with the target as notes, cached in memory for requests, and handed to the writer one
//! by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::spec::JobSpec;
use super::{JobProgress, JobRecord, JobState};
use crate::clock::seconds_now;
use crate::setting::shows_its_name_alone;
use crate::stop::{Signal, Stop};
use crate::target::{NoteError, NoteStore, WriteCondition};

const FOLDER: &str = "jobs";

/// The most jobs that may wait.
pub(crate) const MAX_WAITING_JOBS: usize = 100;

/// The most ended jobs that are kept; if there are more, the oldest are deleted.
const MAX_ENDED_JOBS: usize = 100;

pub(crate) const MAX_KEYS_PER_JOB: usize = 64;

/// The most attempts to find a free number while another process submits jobs, too.
const MAX_NUMBER_TRIES: usize = 10;

/// Why a job was not accepted, or not cancelled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error("{MAX_WAITING_JOBS} jobs wait already: try again later")]
    TooManyJobs,
    #[error("an equal job waits, and has {MAX_KEYS_PER_JOB} Idempotency-Keys already: try again later")]
    TooManyKeys,
    #[error("another job was submitted with this Idempotency-Key")]
    OtherWithKey,
    #[error("the job has ended already")]
    Ended,
    /// The job could not be stored with the target.
    #[error(transparent)]
    Note(#[from] NoteError),
}

#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) record: JobRecord,
    /// False if an equal job waits already, or the request was repeated.
    pub(crate) is_new: bool,
}

#[derive(Default)]
struct JobTable {
    jobs: BTreeMap<u64, JobRecord>,
    /// The number of the running job, and the handle that cancels it.
    running: Option<(u64, Stop)>,
}

struct JobStoreParts {
    notes: Arc<dyn NoteStore>,
    table: Mutex<JobTable>,
    /// Locked while a job is submitted, begins or ends, so that the second of two equal jobs finds the first, and no
    /// change of a job undoes another.
    changing: Mutex<()>,
    /// True while this process writes the target.
    is_writer: AtomicBool,
    /// A number that grows with each change of a job.
    changes: watch::Sender<u64>,
}

/// The jobs of a target. Clones share them.
#[derive(Clone)]
pub struct JobStore(Arc<JobStoreParts>);

shows_its_name_alone!(JobStore);

fn name(id: u64) -> String {
    format!("{FOLDER}/{id:010}.json")
}

impl JobStore {
    /// The jobs that are stored with a target. Nothing is read yet.
    pub fn new(notes: Arc<dyn NoteStore>) -> JobStore {
        let (changes, _) = watch::channel(0);
        let (table, changing, is_writer) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        JobStore(Arc::new(JobStoreParts { notes, table, changing, is_writer, changes }))
    }

    /// True while this process writes the target.
    pub(crate) fn is_writer(&self) -> bool {
        self.0.is_writer.load(Ordering::Relaxed)
    }

    /// Notes that this process no longer writes the target.
    pub fn stands_by(&self) {
        self.0.is_writer.store(false, Ordering::Relaxed);
    }

    fn has_changed(&self) {
        self.0.changes.send_modify(|number| *number += 1);
    }

    /// A receiver that is notified of each change of a job.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Reads the jobs that are stored with the target. A node that does not write the target calls this before each
    /// answer. Blocks.
    pub(crate) fn reload(&self) -> Result<(), NoteError> {
        let mut jobs = BTreeMap::new();
        for name in self.0.notes.list(FOLDER)? {
            let note = self.0.notes.read(&name)?;
            if let Some(record) = note.and_then(|note| JobRecord::read(&note.body)) {
                jobs.insert(record.id, record);
            }
        }
        self.0.table.lock().jobs = jobs;
        Ok(())
    }

    /// Makes this process the writer: reads the jobs, and queues again those that a previous writer was working on.
    /// Blocks.
    pub fn take_over(&self) -> Result<(), NoteError> {
        self.reload()?;
        let cut_off: Vec<JobRecord> =
            self.0.table.lock().jobs.values().filter(|job| job.state == JobState::Running).cloned().collect();
        for job in cut_off {
            self.keep(JobRecord { state: JobState::Queued, started: None, ..job })?;
        }
        self.0.is_writer.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a job's note, then updates the job in memory. Blocks.
    fn keep(&self, record: JobRecord) -> Result<(), NoteError> {
        self.0.notes.write(&name(record.id), &record.note(), &WriteCondition::Always)?;
        self.0.table.lock().jobs.insert(record.id, record);
        self.has_changed();
        Ok(())
    }

    /// All jobs, the oldest first.
    pub(crate) fn all(&self) -> Vec<JobRecord> {
        self.0.table.lock().jobs.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<JobRecord> {
        self.0.table.lock().jobs.get(&id).cloned()
    }

    /// Submits a job: it and its key are durable when this returns. Blocks.
    /// Fails if the job is not accepted, or cannot be stored.
    pub(crate) fn submit(&self, spec: JobSpec, key: Option<String>) -> Result<Submitted, JobError> {
        let _changing = self.0.changing.lock();
        let (same_key, equal, waiting) = {
            let table = self.0.table.lock();
            let has = |key: &String| table.jobs.values().find(|job| job.keys.contains(key)).cloned();
            let same_key = key.as_ref().and_then(has);
            let mut queued = table.jobs.values().filter(|job| job.state == JobState::Queued);
            let waiting = queued.clone().count();
            (same_key, queued.find(|job| job.spec == spec).cloned(), waiting)
        };
        match (same_key, equal) {
            (Some(record), _) if record.spec == spec => return Ok(Submitted { record, is_new: false }),
            (Some(_), _) => return Err(JobError::OtherWithKey),
            (None, Some(record)) => return self.join(record, key),
            (None, None) if waiting >= MAX_WAITING_JOBS => return Err(JobError::TooManyJobs),
            (None, None) => {}
        }
        let mut record = JobRecord {
            id: self.0.table.lock().jobs.last_key_value().map_or(1, |(last, _)| last + 1),
            spec,
            keys: key.into_iter().collect(),
            state: JobState::Queued,
            submitted: seconds_now(),
            started: None,
            ended: None,
            report: None,
            cause: None,
            progress: JobProgress::default(),
        };
        for tries in 1.. {
            match self.0.notes.write(&name(record.id), &record.note(), &WriteCondition::Absent) {
                Ok(_tag) => break,
                Err(NoteError::Changed { .. }) if tries < MAX_NUMBER_TRIES => record.id += 1,
                Err(error) => return Err(error.into()),
            }
        }
        self.0.table.lock().jobs.insert(record.id, record.clone());
        self.has_changed();
        Ok(Submitted { record, is_new: true })
    }

    /// Makes a request one for a job that waits: the request's key becomes a key of that job.
    fn join(&self, mut record: JobRecord, key: Option<String>) -> Result<Submitted, JobError> {
        if let Some(key) = key {
            if record.keys.len() >= MAX_KEYS_PER_JOB {
                return Err(JobError::TooManyKeys);
            }
            record.keys.push(key);
            self.keep(record.clone())?;
        }
        Ok(Submitted { record, is_new: false })
    }

    /// Cancels a job: a waiting job is cancelled at once, a running job is asked to end. `None` if there is no such
    /// job. Blocks.
    /// Fails if the job has ended, or the change cannot be stored.
    pub(crate) fn cancel(&self, id: u64) -> Result<Option<JobRecord>, JobError> {
        let _changing = self.0.changing.lock();
        let Some(record) = self.get(id) else { return Ok(None) };
        match record.state {
            JobState::Queued => {
                self.keep(JobRecord { state: JobState::Cancelled, ended: Some(seconds_now()), ..record })?;
            }
            JobState::Running => {
                if let Some((_, stop)) = self.0.table.lock().running.as_ref().filter(|(running, _)| *running == id) {
                    stop.ask(Signal::Terminate);
                }
            }
            _ => return Err(JobError::Ended),
        }
        Ok(self.get(id))
    }

    /// Waits until a job waits for the writer.
    pub async fn queued(&self) {
        let mut changes = self.changes();
        loop {
            if self.0.table.lock().jobs.values().any(|job| job.state == JobState::Queued) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Begins the next job: the oldest of the most urgent ones. If a client cancels it, a stop is asked for through
    /// `stop`. Blocks.
    pub fn begin_next(&self, stop: &Stop) -> Result<Option<StartedJob>, NoteError> {
        let _changing = self.0.changing.lock();
        let next = {
            let table = self.0.table.lock();
            let queued = table.jobs.values().filter(|job| job.state == JobState::Queued);
            queued.min_by_key(|job| (job.spec.priority, job.id)).cloned()
        };
        let Some(next) = next else { return Ok(None) };
        let (id, spec) = (next.id, next.spec.clone());
        self.0.table.lock().running = Some((id, stop.clone()));
        self.keep(JobRecord { state: JobState::Running, started: Some(seconds_now()), ..next })?;
        Ok(Some(StartedJob { store: self.clone(), id, spec, stop: stop.clone() }))
    }

    fn end(&self, id: u64, change: impl FnOnce(JobRecord) -> JobRecord) -> Result<(), NoteError> {
        let _changing = self.0.changing.lock();
        self.0.table.lock().running = None;
        let Some(record) = self.get(id) else { return Ok(()) };
        self.keep(change(record))?;
        let ended: Vec<u64> =
            self.0.table.lock().jobs.values().filter(|job| job.state.is_final()).map(|job| job.id).collect();
        for old in &ended[..ended.len().saturating_sub(MAX_ENDED_JOBS)] {
            self.0.notes.remove(&name(*old))?;
            self.0.table.lock().jobs.remove(old);
        }
        Ok(())
    }
}

// A job that the writer works on, and how it ended.

#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// The job succeeded, with this closing report.
    Done(Value),
    Failed(String),
    Cancelled,
    /// The writer ends or has lost its lease: the job waits for the next writer.
    CutOff,
}

/// A job that the writer works on.
pub struct StartedJob {
    pub(crate) store: JobStore,
    pub(crate) id: u64,
    pub(crate) spec: JobSpec,
    pub(crate) stop: Stop,
}

impl StartedJob {
    pub const fn id(&self) -> u64 {
        self.id
    }

    pub const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// True if a client has cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.stop.asked().is_some()
    }

    pub fn progress(&self, progress: JobProgress) {
        if let Some(job) = self.store.0.table.lock().jobs.get_mut(&self.id) {
            job.progress = progress;
        }
        self.store.has_changed();
    }

    /// Ends the job. Blocks.
    /// Fails if the end cannot be stored: then the next writer runs the job again.
    pub fn end(&self, end: JobEnd) -> Result<(), NoteError> {
        let (state, report, cause) = match end {
            JobEnd::Done(report) => (JobState::Done, Some(report), None),
            JobEnd::Failed(cause) => (JobState::Failed, None, Some(cause)),
            JobEnd::Cancelled => (JobState::Cancelled, None, None),
            JobEnd::CutOff => (JobState::Queued, None, None),
        };
        self.store.end(self.id, |record| {
            let (started, ended) = if state.is_final() { (record.started, Some(seconds_now())) } else { (None, None) };
            JobRecord { state, started, ended, report, cause, ..record }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::target::FolderNotes;

    fn store(folder: &std::path::Path) -> JobStore {
        let store = JobStore::new(Arc::new(FolderNotes::beside(&folder.join("t.mbtiles"))));
        store.take_over().unwrap();
        store
    }

    fn spec(text: &str) -> JobSpec {
        JobSpec::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn jobs_outlive_their_process_and_run_once_more_if_it_died() {
        let folder = tempfile::tempdir().unwrap();
        let first = store(folder.path());
        let log = first.submit(spec(r#"{"what":"log"}"#), Some("k".to_owned())).unwrap();
        assert!(log.is_new && log.record.id == 1);
        // Equal waiting jobs become one, and so do repeated requests.
        let again = first.submit(spec(r#"{"what":"log"}"#), None).unwrap();
        assert!(!again.is_new && again.record.id == 1);
        assert!(matches!(first.submit(spec(r#"{"what":"seed"}"#), Some("k".to_owned())), Err(JobError::OtherWithKey)));
        let seed = first.submit(spec(r#"{"what":"seed"}"#), None).unwrap().record.id;
        let urgent = spec(r#"{"what":"tiles","tiles":["0/0/0"],"priority":"refresh"}"#);
        let urgent = first.submit(urgent, None).unwrap().record.id;
        assert_eq!((seed, urgent), (2, 3));
        let started = first.begin_next(&Stop::new()).unwrap().unwrap();
        assert_eq!(started.id(), urgent);
        // The process dies here.
        let second = store(folder.path());
        assert!(second.all().iter().all(|job| job.state == JobState::Queued) && second.all().len() == 3);
        for expected in [urgent, 1, seed] {
            let started = second.begin_next(&Stop::new()).unwrap().unwrap();
            assert_eq!(started.id(), expected);
            started.end(JobEnd::Done(serde_json::json!({ "written": 1 }))).unwrap();
        }
        assert!(second.begin_next(&Stop::new()).unwrap().is_none());
        let third = store(folder.path());
        assert_eq!(third.get(urgent).unwrap().report, Some(serde_json::json!({ "written": 1 })));
        // A repeated request finds the job that has ended; without a key it is another job.
        assert_eq!(third.submit(spec(r#"{"what":"log"}"#), Some("k".to_owned())).unwrap().record.id, 1);
        assert_eq!(third.submit(spec(r#"{"what":"log"}"#), None).unwrap().record.id, 4);
    }

    #[test]
    fn jobs_are_taken_back_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let tile = |number: usize| spec(&format!(r#"{{"what":"tiles","tiles":["10/{number}/0"]}}"#));
        for number in 0..MAX_WAITING_JOBS {
            assert!(store.submit(tile(number), None).unwrap().is_new);
        }
        assert!(matches!(store.submit(tile(1_000), None), Err(JobError::TooManyJobs)));
        assert_eq!(store.cancel(1).unwrap().unwrap().state, JobState::Cancelled);
        assert!(matches!(store.cancel(1), Err(JobError::Ended)));
        assert!(store.cancel(999).unwrap().is_none());
        let stop = Stop::new();
        let running = store.begin_next(&stop).unwrap().unwrap();
        assert_eq!(running.id(), 2);
        store.cancel(2).unwrap();
        assert!(running.is_cancelled());
        running.end(JobEnd::Cancelled).unwrap();
        // A job that was cut off waits again.
        store.begin_next(&Stop::new()).unwrap().unwrap().end(JobEnd::CutOff).unwrap();
        assert_eq!(store.get(3).unwrap().state, JobState::Queued);
        while let Some(next) = store.begin_next(&Stop::new()).unwrap() {
            next.end(JobEnd::Failed("x".to_owned())).unwrap();
        }
        for number in 0..50 {
            store.submit(tile(number), None).unwrap();
            store.begin_next(&Stop::new()).unwrap().unwrap().end(JobEnd::Done(Value::Null)).unwrap();
        }
        assert_eq!(store.all().len(), MAX_ENDED_JOBS);
        assert_eq!(store.0.notes.list(FOLDER).unwrap().len(), MAX_ENDED_JOBS);
    }
}
