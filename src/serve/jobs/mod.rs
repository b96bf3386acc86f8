//! Jobs: work for the writer that clients submit to the admin listener.
//!
//! ```text
//! POST /jobs ─► token, form, bounds (routes) ─► a note next to the target (store), durable ─► 202
//!                                                  └► the writer takes it: running ─► done, failed, cancelled
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `spec` | the work of a job: parsed, checked, serialized |
//! | `store` | the jobs of a target: notes, the queue, and how the writer takes and ends jobs |
//! | `token` | who may change something |
//! | `routes` | the HTTP routes; `openapi.json` describes them for clients |
//!
//! The store knows nothing of databases: the implementation of the writer takes a [`StartedJob`] and ends it. Notes are
//! stored with the target, so that the next writer finds the jobs of one that was killed.

mod routes;
mod spec;
mod store;
mod token;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::moment;
use crate::json::JSON_VERSION;

pub(crate) use routes::JobRoutes;
pub use spec::{JobPriority, JobSpec, JobSpecError, JobWork};
pub use store::{JobEnd, JobStore, StartedJob};
pub use token::{AdminToken, MIN_TOKEN_BYTES, TOKEN_VARIABLE, TokenError};

// A job as it is stored with the target and shown to clients.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Queued,
    /// The writer works on it.
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    /// True if nothing will happen any more.
    pub const fn is_final(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// Tiles that are stored.
    pub done: u64,
    /// Tiles that the job has to render; `None` until they are counted.
    pub total: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobRecord {
    pub(crate) id: u64,
    pub(crate) spec: JobSpec,
    /// The `Idempotency-Key` of each request for this job that had one, each once: the first request, and those that
    /// came while it waited.
    pub(crate) keys: Vec<String>,
    pub(crate) state: JobState,
    /// When it was submitted, in seconds since 1970. `started` is when it last began, `ended` when it ended.
    pub(crate) submitted: u64,
    pub(crate) started: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) report: Option<Value>,
    /// Why it failed.
    pub(crate) cause: Option<String>,
    /// Not stored with the target.
    pub(crate) progress: JobProgress,
}

#[derive(Debug, Serialize, Deserialize)]
struct JobNote {
    id: u64,
    spec: Value,
    #[serde(default)]
    keys: Vec<String>,
    state: JobState,
    submitted: u64,
    started: Option<u64>,
    ended: Option<u64>,
    report: Option<Value>,
    cause: Option<String>,
}

impl JobRecord {
    /// The job in a note; `None` if it cannot be read, for example because a later version of this program wrote it.
    pub(crate) fn read(note: &[u8]) -> Option<JobRecord> {
        let JobNote { id, spec, keys, state, submitted, started, ended, report, cause } =
            serde_json::from_slice(note).ok()?;
        let spec = JobSpec::read(spec.to_string().as_bytes()).ok()?;
        let progress = JobProgress::default();
        Some(JobRecord { id, spec, keys, state, submitted, started, ended, report, cause, progress })
    }

    pub(crate) fn note(&self) -> Vec<u8> {
        let JobRecord { id, spec, keys, state, submitted, started, ended, report, cause, .. } = self.clone();
        let note = JobNote { id, spec: spec.json(), keys, state, submitted, started, ended, report, cause };
        // Numbers, strings and maps with string keys can always be serialized.
        serde_json::to_vec(&note).unwrap_or_default()
    }

    /// The job as clients see it at `now`, in seconds since 1970.
    pub(crate) fn json(&self, now: u64) -> Value {
        let progress = (self.state == JobState::Running).then(|| {
            let JobProgress { done, total } = self.progress;
            json!({ "done": done, "total": total, "eta_seconds": self.eta(now) })
        });
        json!({
            "schema_version": JSON_VERSION,
            "id": self.id,
            "state": self.state,
            "job": self.spec.json(),
            "submitted": moment(self.submitted),
            "started": self.started.map(moment),
            "ended": self.ended.map(moment),
            "progress": progress,
            "report": self.report,
            "cause": self.cause,
        })
    }

    /// The seconds that are left at the present speed.
    fn eta(&self, now: u64) -> Option<u64> {
        let JobProgress { done, total } = self.progress;
        let (left, passed) = (total?.checked_sub(done)?, now.checked_sub(self.started?)?);
        (u128::from(left) * u128::from(passed)).checked_div(u128::from(done)).and_then(|eta| u64::try_from(eta).ok())
    }
}
