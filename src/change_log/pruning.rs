//! The size of the log, and its pruning.

use std::time::Duration;

use super::error::ChangeLogError;
use super::log::Presence;
use super::witness::kept_transactions;
use crate::cursor::Cursor;
use crate::postgis::{Database, Snapshot, quoted};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WatchBacklog {
    /// Schema and table, quoted.
    pub table: String,
    /// The number of changed rows.
    pub rows: u64,
    /// The age of the oldest change, in seconds; `None` if there is none.
    pub(crate) oldest: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// The number of changed rows that were deleted.
    pub rows: u64,
    /// The number of changed rows that are left.
    pub left: u64,
    /// The open transaction because of which the targets have not seen the rows that are left, in words; `None` if no
    /// transaction is the reason.
    pub(crate) kept_by: Option<String>,
}

/// The entries that the log holds for each watch, without those that pruning keeps as a witness.
pub(crate) async fn backlogs(
    database: &Database,
    snapshot: &Snapshot,
    schema: &str,
) -> Result<Vec<WatchBacklog>, ChangeLogError> {
    let context = "reading the state of the change log";
    Presence::look_up(&snapshot.keeper, schema, context).await?.or_gap(schema, database.server())?;
    let schema = quoted(schema);
    let sql = format!(
        "SELECT watch.name, coalesce(sum(noted.rows), 0)::int8, extract(epoch FROM clock_timestamp() - min(noted.at))::float8
         FROM {schema}.watch AS watch
         LEFT JOIN {schema}.change AS noted ON noted.watch = watch.id AND noted.xid > (SELECT pruned FROM {schema}.state)
         GROUP BY watch.id, watch.name ORDER BY watch.name, watch.id"
    );
    let rows = snapshot.keeper.all(context, &sql, &[]).await?;
    let read = |row: &tokio_postgres::Row| WatchBacklog {
        table: row.get(0),
        rows: row.get::<_, i64>(1).cast_unsigned(),
        oldest: row.get(2),
    };
    Ok(rows.iter().map(read).collect())
}

/// Deletes the entries that every cursor in `seen` has seen, and the entries older than `older`. The log records how
/// far it was pruned, so that a target that has not seen a deleted entry gets an error. One entry of each of the newest
/// transactions stays, so that the witness of a target that has seen them is still found.
pub(crate) async fn prune(
    database: &Database,
    schema: &str,
    seen: &[Cursor],
    older: Option<Duration>,
) -> Result<Pruned, ChangeLogError> {
    let context = "pruning the change log";
    let snapshot = database.snapshot().await?;
    backlogs(database, &snapshot, schema).await?;
    drop(snapshot);
    let log = quoted(schema);
    let mut conditions = Vec::new();
    let first = seen.iter().map(Cursor::xmin).min();
    if let Some(first) = first {
        conditions.push(format!("noted.xid < '{first}'::xid8"));
    }
    if let Some(older) = older {
        conditions.push(format!("noted.at < statement_timestamp() - interval '{} seconds'", older.as_secs_f64()));
    }
    // Without a condition, delete nothing.
    let conditions = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") };
    let session = database.writing().await?;
    let failed = |error| ChangeLogError::from_prune(database.server(), error);
    session.begin_writing(context).await.map_err(failed)?;
    let sql = format!(
        "WITH edge AS (SELECT noted.xid FROM {log}.change AS noted WHERE {conditions} ORDER BY noted.xid DESC LIMIT 1),
              kept AS ({}),
              gone AS (DELETE FROM {log}.change AS noted WHERE ({conditions}) AND noted.ctid NOT IN (SELECT id FROM kept)),
              moved AS (UPDATE {log}.state SET pruned = greatest(pruned, (SELECT xid FROM edge)))
         SELECT coalesce(sum(noted.rows), 0)::text FROM {log}.change AS noted, {log}.state AS state
         WHERE ({conditions}) AND noted.xid > state.pruned;
         SELECT coalesce(sum(rows), 0)::text FROM {log}.change WHERE xid > (SELECT pruned FROM {log}.state);
         SELECT coalesce(({}), '');
         COMMIT",
        kept_transactions(schema, "e.xid <= (SELECT edge.xid FROM edge)"),
        open_transaction(first)
    );
    let counts = session.script(context, &sql).await.map_err(failed)?;
    let count = |at: usize| counts.get(at).and_then(|text| text.parse().ok()).unwrap_or_default();
    let (rows, left) = (count(0), count(1));
    let kept_by = counts.get(2).filter(|text| left > 0 && !text.is_empty()).cloned();
    Ok(Pruned { rows, left, kept_by })
}

/// SQL that names a transaction if it is still open. While it is open, no snapshot's cursor moves past it.
fn open_transaction(transaction: Option<u64>) -> String {
    // The views show the lower 32 bits (PostgreSQL documentation, section 8.19).
    let xid = transaction.unwrap_or_default() & u64::from(u32::MAX);
    format!(
        "SELECT format('the prepared transaction %L', p.gid) FROM pg_prepared_xacts AS p WHERE p.transaction::text = '{xid}'
          UNION ALL
          SELECT format('a transaction of process %s', a.pid) FROM pg_stat_activity AS a WHERE a.backend_xid::text = '{xid}' LIMIT 1"
    )
}
