//! A job that the writer works on, and how it ended.

use serde_json::Value;

use super::{JobDesk, now};
use crate::serve::jobs::record::{JobProgress, JobRecord, JobState};
use crate::serve::jobs::spec::JobSpec;
use crate::sink::NoteError;
use crate::stop::Stop;

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// The job succeeded, with this closing report.
    Done(Value),
    /// It failed, for this cause.
    Failed(String),
    /// A client cancelled it.
    Cancelled,
    /// The writer ends or has lost its lease: the job waits for the next writer.
    CutOff,
}

/// A job that the writer works on.
pub struct StartedJob {
    pub(super) desk: JobDesk,
    pub(super) id: u64,
    pub(super) spec: JobSpec,
    pub(super) stop: Stop,
}

impl StartedJob {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The work of the job.
    #[must_use]
    pub const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// True if a client has cancelled it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.stop.asked().is_some()
    }

    /// Sets the progress of the job.
    pub fn progress(&self, progress: JobProgress) {
        if let Some(job) = self.desk.table().jobs.get_mut(&self.id) {
            job.progress = progress;
        }
        self.desk.has_changed();
    }

    /// Ends the job. Blocks.
    ///
    /// # Errors
    /// If the end cannot be stored: then the next writer runs the job again.
    pub fn end(&self, end: JobEnd) -> Result<(), NoteError> {
        let (state, report, cause) = match end {
            JobEnd::Done(report) => (JobState::Done, Some(report), None),
            JobEnd::Failed(cause) => (JobState::Failed, None, Some(cause)),
            JobEnd::Cancelled => (JobState::Cancelled, None, None),
            JobEnd::CutOff => (JobState::Queued, None, None),
        };
        self.desk.end(self.id, |record| {
            let (started, ended) = if state.is_final() { (record.started, Some(now())) } else { (None, None) };
            JobRecord { state, started, ended, report, cause, ..record }
        })
    }
}
