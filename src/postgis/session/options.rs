//! The limits of a session.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::error::Cause;

/// Limits of a session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// A statement that runs longer is cancelled by the server. Zero for no limit.
    pub statement_timeout: Duration,
    /// The longest that a session waits for a lock, and that others wait for a lock of the run.
    pub lock_timeout: Duration,
    /// Memory for the sort of one batch, such as "64MB" (`work_mem`).
    pub work_mem: String,
    /// The most sessions at once: the workers and the session that holds the snapshot. The lock watcher has another connection.
    pub connections: usize,
}

impl SessionOptions {
    /// The longest that a session waits for a lock. It is shorter than `statement_timeout`, so that a wait does not look like a slow statement.
    #[must_use]
    pub fn lock_limit(&self) -> Duration {
        if self.statement_timeout.is_zero() {
            return self.lock_timeout;
        }
        // To PostgreSQL, zero is no limit.
        self.lock_timeout.min(self.statement_timeout / 2).max(Duration::from_millis(1))
    }

    /// How a wait for a lock ended, in words.
    pub(in crate::postgis) fn wait_text(&self, cause: &Cause) -> String {
        if cause.code == Some(SqlState::T_R_DEADLOCK_DETECTED) {
            return "the server ended a deadlock with others: it waited".to_owned();
        }
        format!("it waited longer than lock_timeout ({})", humantime::format_duration(self.lock_limit()))
    }
}
