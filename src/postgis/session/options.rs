//! The section `[database]`, and the limits of a session.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio_postgres::error::SqlState;

use super::error::Cause;
use crate::setting::{Secret, TimeSpan, no_key_is_required};

/// What a role, a database or a server may limit for all of its sessions, and a run cannot do with: it keeps
/// transactions open for as long as it takes, some of them idle, goes on after a failed statement, and draws every row.
/// `gin_fuzzy_search_limit` leaves rows out at random. The settings of [`SessionOptions`] are not among them, for each
/// session sets these; nor is `temp_file_limit`, which only superusers may lift.
const LIMITS: [&str; 4] = [
    "idle_in_transaction_session_timeout",
    "transaction_timeout", // since PostgreSQL 17
    "gin_fuzzy_search_limit",
    "exit_on_error",
];

/// The limit of a session that waits outside of a transaction, since PostgreSQL 14.
pub(crate) const IDLE_LIMIT: &str = "idle_session_timeout";

/// A statement that lifts [`LIMITS`] for the transaction.
pub(crate) fn lift_limits() -> String {
    lift(&LIMITS, true)
}

/// A statement that sets each of these settings to 0, if the server knows it: for the transaction if it is `local`,
/// else for the session. It returns no row, and looks up no name on the search path.
pub(crate) fn lift(settings: &[&str], local: bool) -> String {
    let settings = settings.join(",");
    format!(
        "SELECT FROM pg_catalog.unnest('{{{settings}}}'::pg_catalog.text[]) AS carried (name)
         WHERE CASE WHEN pg_catalog.current_setting(name, true) IS NOT NULL THEN pg_catalog.set_config(name, '0', {local}) IS NULL END;"
    )
}

// The section `[database]`; `sample-config.toml` says what each key means.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub struct DatabaseSection {
    pub(crate) url: Option<Secret>,
    pub(crate) url_file: Option<PathBuf>,
    pub(crate) statement_timeout: TimeSpan,
    pub(crate) lock_timeout: TimeSpan,
    pub(crate) connect_timeout: TimeSpan,
    pub(crate) work_mem: String,
    pub(crate) restarts: u32,
}

/// The limits of a session, and what it is told when it begins.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    pub section: DatabaseSection,
    /// The most sessions at once: the workers and the session that holds the snapshot. The lock watcher has another
    /// connection.
    pub(crate) connections: usize,
    /// The values of the variant for which the sessions read, by the number of the parameter; empty without variants.
    pub parameters: Vec<String>,
    /// The schema of the change log, which no session has on its search path.
    pub change_log: String,
}

impl SessionOptions {
    /// The longest that a session waits for a lock. It is shorter than `statement_timeout`, so that a wait does not
    /// look like a slow statement.
    pub(crate) fn lock_limit(&self) -> Duration {
        let (statement_timeout, lock_timeout) = (*self.section.statement_timeout, *self.section.lock_timeout);
        if statement_timeout.is_zero() {
            return lock_timeout;
        }
        // PostgreSQL takes zero as "no limit".
        lock_timeout.min(statement_timeout / 2).max(Duration::from_millis(1))
    }

    /// True if a statement that was cancelled after this time had reached 90 % of `statement_timeout`; false if that is
    /// zero. Not 100 %, because the clocks of two machines differ.
    pub(crate) fn is_statement_limit(&self, after: Duration) -> bool {
        let limit = *self.section.statement_timeout;
        !limit.is_zero() && after >= limit.mul_f64(0.9)
    }

    /// How a wait for a lock ended, in words.
    pub(crate) fn wait_text(&self, cause: &Cause) -> String {
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
                section: DatabaseSection { statement_timeout: seconds(limit).into(), ..DatabaseSection::default() },
                connections: 1,
                parameters: Vec::new(),
                change_log: String::new(),
            };
            assert_eq!(options.is_statement_limit(seconds(after)), expected, "{after} s of {limit} s");
        }
    }
}
