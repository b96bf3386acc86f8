//! Monitoring: to whom the server reports its state.
//!
//! | file | reports to |
//! |---|---|
//! | `metrics` | Prometheus |
//! | `access_log` | readers of standard output: a line for each request |
//! | `notify` | systemd: ready, reloading, stopping |
//! | `trouble` | the log and `/readyz`: what does not work at present |

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod notify;
pub(crate) mod trouble;
