//! Jobs: work for the writer that clients submit to the admin listener.
//!
//! ```text
//! POST /jobs ─► token, form, bounds (routes) ─► a note next to the target (desk), durable ─► 202
//!                                                  └► the writer takes it: running ─► done, failed, cancelled
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `spec` | the work of a job: parsed, checked, serialized |
//! | `record` | a job as it is stored with the target and shown |
//! | `desk` | the jobs of a target: notes, the queue, and how the writer takes and ends jobs |
//! | `token` | who may change something |
//! | `routes` | the HTTP routes; `openapi.json` describes them for clients |
//!
//! The desk knows nothing of databases: the implementation of the writer takes a [`StartedJob`] and ends it. Notes are stored with the target, so
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
