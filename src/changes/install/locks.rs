//! The tables that an install or a removal locks before it changes anything, and the repeated attempts to lock them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::changes::error::{ChangeLogError, TAKEN};
use crate::changes::log::{WATCHER_LOCK, literal_in_block};
use crate::postgis::Database;

/// How long an install or a removal tries to lock the tables.
const MAX_TRYING: Duration = Duration::from_secs(10);

/// The pause after an attempt, in which sessions that have queued behind it can proceed.
const PAUSE: Duration = Duration::from_millis(250);

/// How a table is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::changes) enum LockMode {
    /// While others may read, to add triggers.
    ShareRowExclusive,
    /// Exclusively, to drop triggers or to alter the table.
    AccessExclusive,
}

impl LockMode {
    fn sql(self) -> &'static str {
        match self {
            LockMode::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            LockMode::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

/// The tables that a script locks: schema and name, quoted.
#[derive(Debug, Default)]
pub(in crate::changes) struct TableLocks(BTreeMap<String, LockMode>);

impl TableLocks {
    pub(in crate::changes) fn add(&mut self, table: &str, mode: LockMode) {
        let known = self.0.entry(table.to_owned()).or_insert(mode);
        *known = mode.max(*known);
    }

    pub(in crate::changes) fn merge(&mut self, other: TableLocks) {
        for (table, mode) in other.0 {
            self.add(&table, mode);
        }
    }

    /// The block that takes these locks, and then the locks on tables of the log. Writers take them in the same order. Once all are held, every
    /// earlier writer has ended, and every later one sees the new triggers and functions.
    pub(in crate::changes) fn block(&self, of_log: &[String]) -> String {
        let alone = |table: &String| (table.clone(), LockMode::AccessExclusive);
        let targets: Vec<String> = self
            .0
            .iter()
            .map(|(table, mode)| (table.clone(), *mode))
            .chain(of_log.iter().map(alone))
            .map(|(table, mode)| format!("({}, '{}')", literal_in_block(&format!("ONLY {table}")), mode.sql()))
            .collect();
        if targets.is_empty() {
            return String::new();
        }
        lock_block(&format!("SELECT * FROM (VALUES {}) AS t (called, mode)", targets.join(",\n        ")))
    }
}

/// The block that locks the tables that a query returns as `called`, each in its `mode`, in the order of the rows.
pub(in crate::changes) fn lock_block(query: &str) -> String {
    include_str!("sql/lock.sql").replace("{targets}", query)
}

/// The block that keeps other installs out.
pub(in crate::changes) fn one_at_a_time() -> String {
    include_str!("sql/one_at_a_time.sql")
        .replace("{class}", &WATCHER_LOCK.0.to_string())
        .replace("{object}", &(WATCHER_LOCK.1 + 1).to_string())
        .replace("{taken}", TAKEN)
}

/// Runs a script in one transaction, and returns the first column of each row. A script waits only a fraction of a second for a table; it is repeated
/// until it gets all its tables, within [`MAX_TRYING`].
pub(in crate::changes) async fn run_script(
    database: &Database,
    verb: &'static str,
    sql: &str,
) -> Result<Vec<String>, ChangeLogError> {
    let session = database.writing().await?;
    let context = if verb == "remove" { "removing the change log" } else { "installing the change log" };
    let begun = Instant::now();
    loop {
        let error = match session.script(context, sql).await {
            Ok(rows) => return Ok(rows),
            Err(error) => ChangeLogError::from_script(verb, database.server(), error),
        };
        if !matches!(error, ChangeLogError::Locked { .. } | ChangeLogError::Taken { .. })
            || begun.elapsed() + PAUSE > MAX_TRYING
        {
            return Err(error);
        }
        session.script(context, "ROLLBACK").await?;
        tokio::time::sleep(PAUSE).await;
    }
}
