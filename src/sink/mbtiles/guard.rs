//! Limits for archives from unknown sources: reading one takes time and memory in proportion to its size. Without them, a file of 8 KB can
//! hold SQL (views, triggers) that runs for years ("Defense Against The Dark Arts" in SQLite's documentation).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::companions::beside;
use crate::encode::MAX_STORED_TILE;

/// Steps of SQLite's virtual machine between two checks of the step limit.
const STEPS_PER_LOOK: i32 = 10_000;

/// Steps that a statement may take in an archive of any size: about one second.
const FREE_STEPS: u64 = 50_000_000;

/// Steps that a statement may take, in addition, for each byte of the archive. Reading a row takes 30 steps, and a row has at least nine
/// bytes.
const STEPS_PER_BYTE: u64 = 400;

/// The smallest size of a row with four columns, in bytes: its lengths, its types and its pointer on the page.
const MIN_BYTES_PER_ROW: u64 = 9;

/// Rows that an archive may have in addition to one for each [`MIN_BYTES_PER_ROW`] bytes of its size.
const SPARE_ROWS: u64 = 1_000;

/// Counts the steps that a statement takes on one archive, and compares them with the limit for the archive's size.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    looks: Arc<AtomicU64>,
    /// Size of the file and its write-ahead log together, in bytes.
    pub(super) size: u64,
}

impl Guard {
    /// The guard of the archive at `path`, with no steps counted.
    pub(super) fn of(path: &Path) -> Guard {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Guard { looks: Arc::default(), size: length(path) + length(&beside(path, "-wal")) }
    }

    /// Sets the limits that SQLite itself enforces on `connection`.
    pub(super) fn limit(connection: &Connection) -> rusqlite::Result<()> {
        // The longest value, and the longest row, in bytes.
        let longest = i32::try_from(MAX_STORED_TILE + 1_000).unwrap_or(i32::MAX);
        for (limit, most) in [
            (Limit::SQLITE_LIMIT_LENGTH, longest),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 10),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        ] {
            connection.set_limit(limit, most)?;
        }
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA ignore_check_constraints = ON")
    }

    /// Makes `connection` abort a statement that takes too many steps, and every statement after `is_stopped` has returned true.
    pub(super) fn watch(
        &self,
        connection: &mut Connection,
        mut is_stopped: impl FnMut() -> bool + Send + 'static,
    ) -> rusqlite::Result<()> {
        let guard = self.clone();
        let look = move || {
            guard.looks.fetch_add(1, Relaxed);
            guard.is_spent() || is_stopped()
        };
        connection.progress_handler(STEPS_PER_LOOK, Some(look))
    }

    /// Resets the count of steps. Call it before each statement.
    pub(super) fn begin(&self) {
        self.looks.store(0, Relaxed);
    }

    /// True if the statement has taken more steps than an archive of this size may need.
    pub(super) fn is_spent(&self) -> bool {
        let most = self.size.saturating_mul(STEPS_PER_BYTE).saturating_add(FREE_STEPS);
        self.looks.load(Relaxed).saturating_mul(u64::from(STEPS_PER_LOOK.unsigned_abs())) > most
    }

    /// The most rows that an archive of this size can hold.
    pub(super) const fn max_rows(&self) -> u64 {
        self.size / MIN_BYTES_PER_ROW + SPARE_ROWS
    }
}
