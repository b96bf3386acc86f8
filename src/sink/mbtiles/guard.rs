//! Limits for strangers' archives: time and memory in proportion to the size of the file. SQL is a language in which a file of 8 KB can ask
//! for years of work ("Defense Against The Dark Arts" in SQLite's documentation).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::companions::beside;
use crate::encode::MAX_STORED_TILE;

/// Steps of SQLite's virtual machine between two checks of the limit.
const STEPS_PER_LOOK: i32 = 10_000;

/// Steps that a statement may take whatever the size of the archive: about a second.
const FREE_STEPS: u64 = 50_000_000;

/// Steps that a statement may take for each byte of the archive. A row takes 30 steps and at least nine bytes.
const STEPS_PER_BYTE: u64 = 400;

/// Bytes of a row with four columns at least: lengths, types and its pointer on the page.
const MIN_BYTES_PER_ROW: u64 = 9;

/// Rows that an archive may have beyond those that its size explains.
const SPARE_ROWS: u64 = 1_000;

/// Counts the steps of statements on one archive against its limit.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    looks: Arc<AtomicU64>,
    /// Bytes of the file and its write-ahead log.
    pub(super) size: u64,
}

impl Guard {
    /// For the file of a path.
    pub(super) fn of(path: &Path) -> Guard {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Guard { looks: Arc::default(), size: length(path) + length(&beside(path, "-wal")) }
    }

    /// Sets the limits of a connection.
    pub(super) fn limit(connection: &Connection) -> rusqlite::Result<()> {
        // Of each value, and of a row.
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

    /// Has `connection` end a statement that takes too many steps, and every statement once `is_stopped` returns true.
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

    /// Starts counting for a new statement.
    pub(super) fn begin(&self) {
        self.looks.store(0, Relaxed);
    }

    /// Whether the statement has used up its steps.
    pub(super) fn is_spent(&self) -> bool {
        let most = self.size.saturating_mul(STEPS_PER_BYTE).saturating_add(FREE_STEPS);
        self.looks.load(Relaxed).saturating_mul(u64::from(STEPS_PER_LOOK.unsigned_abs())) > most
    }

    /// The most tiles that can be in the archive.
    pub(super) const fn max_rows(&self) -> u64 {
        self.size / MIN_BYTES_PER_ROW + SPARE_ROWS
    }
}
