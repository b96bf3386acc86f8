//! What others learn of the server.
//!
//! | file | whom it tells |
//! |---|---|
//! | `metrics` | Prometheus |
//! | `access_log` | who reads standard output: a line for each request |
//! | `notify` | systemd: ready, reloading, stopping |
//! | `trouble` | the log and `/readyz`: what does not work at present |

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod notify;
pub(crate) mod trouble;
