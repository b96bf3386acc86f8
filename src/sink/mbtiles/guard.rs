//! What keeps a stranger's archive from taking more time and memory than its size explains. SQL is a language in which a file of 8 KB
//! can ask for years of work ("Defense Against The Dark Arts" in SQLite's documentation).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::companions::beside;
use crate::encode::MAX_STORED_TILE;

/// Steps of SQLite's machine between two looks at how many there were.
const STEPS_PER_LOOK: i32 = 10_000;

/// Steps that a statement may take, whatever the size of the archive: about a second.
const MIN_STEPS: u64 = 50_000_000;

/// Steps that a statement may take for each byte of the archive. A row takes 30 and has nine bytes at least.
const STEPS_PER_BYTE: u64 = 400;

/// The fewest bytes of a row with four columns: lengths, types and its place on the page.
const MIN_ROW: u64 = 9;

/// Rows that an archive may show beyond those that its size explains.
const SPARE_ROWS: u64 = 1_000;

/// How much an archive may ask for.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    looks: Arc<AtomicU64>,
    /// Of the file and of its log, in bytes.
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

    /// Ends statements that take too many steps, and all of them once `is_stopped` says so.
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

    /// A new statement begins.
    pub(super) fn begin(&self) {
        self.looks.store(0, Relaxed);
    }

    /// Whether a statement has taken more steps than it may.
    pub(super) fn is_spent(&self) -> bool {
        let most = self.size.saturating_mul(STEPS_PER_BYTE).saturating_add(MIN_STEPS);
        self.looks.load(Relaxed).saturating_mul(u64::from(STEPS_PER_LOOK.unsigned_abs())) > most
    }

    /// The most tiles that can be in the archive.
    pub(super) const fn max_rows(&self) -> u64 {
        self.size / MIN_ROW + SPARE_ROWS
    }
}
