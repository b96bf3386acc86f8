//! Jobs: work for the writer that clients submit to the admin listener.
//!
//! ```text
//! POST /jobs ─► token, form, bounds (routes) ─► a note beside the target (desk), durable ─► 202
//!                                                  └► the writer takes it: running ─► done, failed, cancelled
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `spec` | what a job is to do: read, checked, written |
//! | `record` | a job as it is kept with the target and shown |
//! | `desk` | the jobs of a target: notes, the queue, what the writer takes and tells |
//! | `token` | who may change something |
//! | `routes` | the HTTP of it; `openapi.json` describes it for clients |
//!
//! The desk knows nothing of databases: whoever implements the writer takes a [`StartedJob`] and ends it. Notes are kept with the target, so
//! that the next writer finds the jobs of one that was killed.

mod desk;
mod record;
mod routes;
mod spec;
mod token;

pub use desk::{JobDesk, JobEnd, StartedJob};
pub use record::{JobProgress, JobState};
pub use spec::{JobPriority, JobSpec, JobSpecError, JobWork};
pub use token::{AdminToken, MIN_TOKEN_BYTES, TOKEN_VARIABLE, TokenError};

pub(crate) use routes::JobRoutes;
