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
    /// The values of the variant for which the sessions read, by the number of the parameter; empty without variants.
    pub parameters: Vec<String>,
    /// The schema of the change log, which no session has on its search path.
    pub change_log: String,
}

impl SessionOptions {
    /// The longest that a session waits for a lock. It is shorter than `statement_timeout`, so that a wait does not look like a slow statement.
    #[must_use]
    pub fn lock_limit(&self) -> Duration {
        if self.statement_timeout.is_zero() {
            return self.lock_timeout;
        }
        // PostgreSQL takes zero as "no limit".
        self.lock_timeout.min(self.statement_timeout / 2).max(Duration::from_millis(1))
    }

    /// True if a statement that was cancelled after this time had reached 90 % of `statement_timeout`; false if that is zero. Not 100 %, because the
    /// clocks of two machines differ.
    pub(in crate::postgis) fn is_statement_limit(&self, after: Duration) -> bool {
        !self.statement_timeout.is_zero() && after >= self.statement_timeout.mul_f64(0.9)
    }

    /// How a wait for a lock ended, in words.
    pub(in crate::postgis) fn wait_text(&self, cause: &Cause) -> String {
        if cause.code == Some(SqlState::T_R_DEADLOCK_DETECTED) {
            return "the server ended a deadlock with others: it waited".to_owned();
        }
        format!("it waited longer than lock_timeout ({})", humantime::format_duration(self.lock_limit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_ran_as_long_as_its_limit_took_too_long() {
        let seconds = Duration::from_secs;
        for (after, limit, expected) in [(600, 600, true), (599, 600, true), (500, 600, false), (900, 0, false)] {
            let options = SessionOptions {
                statement_timeout: seconds(limit),
                lock_timeout: seconds(1),
                work_mem: String::new(),
                connections: 1,
                parameters: Vec::new(),
                change_log: String::new(),
            };
            assert_eq!(options.is_statement_limit(seconds(after)), expected, "{after} s of {limit} s");
        }
    }
}
