//! The server's lock queue: the processes that wait for locks, and the processes that they wait for, in words.

use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::super::Database;
use super::super::error::Cause;
use super::super::identifier::quoted;

/// The longest time for one read of the queue. After that the read and its connection are given up.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// The columns of a process: id, application name, role and statement, as far as this role may see them.
const PROCESS: &str = "who.pid, who.application_name, who.usename::text, who.query";

/// Waits for relations of this database in which the transactions `$1` of the run take part: waits of other processes for a lock of the run, and
/// the run's own waits, with the process that holds the lock or is ahead in the queue.
///
/// Left out are processes whose wait has ended since `pg_locks` was read: nothing blocks them any more.
///
/// The connection has the role's own search path, which may hold objects of others, so functions and operators on arrays are named with their schema.
///
/// `pg_blocking_pids` does not cover the process that replays the log on a standby. That process waits for the run if it requests an exclusive lock
/// on a relation that the run has locked.
const QUEUE: &str = "
    WITH held AS MATERIALIZED (
        SELECT pid, locktype, database, relation, virtualxid, mode, granted FROM pg_catalog.pg_locks
    ), ours AS MATERIALIZED (
        SELECT coalesce(pg_catalog.array_agg(pid), '{}') AS pids FROM held WHERE locktype = 'virtualxid' AND granted AND virtualxid = ANY ($1)
    ), waiting AS MATERIALIZED (
        SELECT held.*, held.pid = ANY (ours.pids) AS is_ours, pg_catalog.pg_blocking_pids(held.pid) AS blockers
        FROM held CROSS JOIN ours
        WHERE NOT held.granted AND held.locktype = 'relation'
            AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    )
    SELECT waiting.is_ours, waiting.pid, waiting.relation, n.nspname::text, c.relname::text, {process}
    FROM waiting CROSS JOIN ours
        LEFT JOIN pg_catalog.pg_class AS c ON c.oid = waiting.relation
        LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_stat_activity AS who ON who.pid = CASE WHEN NOT waiting.is_ours THEN waiting.pid ELSE (
            SELECT pg_catalog.min(blocker) FROM pg_catalog.unnest(waiting.blockers) AS blocker WHERE blocker <> ALL (ours.pids)) END
    WHERE waiting.is_ours AND waiting.blockers OPERATOR(pg_catalog.<>) '{}' OR waiting.blockers OPERATOR(pg_catalog.&&) ours.pids
        OR waiting.mode = 'AccessExclusiveLock' AND EXISTS (
            SELECT FROM held AS mine
            WHERE mine.granted AND mine.pid = ANY (ours.pids) AND mine.locktype = 'relation'
                AND mine.database = waiting.database AND mine.relation = waiting.relation)
    ORDER BY waiting.pid";

/// A relation of this database that a process has locked exclusively, or requests to lock so. The processes of the transactions `$1` do not count.
const EXCLUSIVE: &str = "
    SELECT false, held.pid, held.relation, n.nspname::text, c.relname::text, {process}
    FROM pg_catalog.pg_locks AS held
        JOIN pg_catalog.pg_class AS c ON c.oid = held.relation
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_stat_activity AS who ON who.pid = held.pid
    WHERE held.locktype = 'relation' AND held.mode = 'AccessExclusiveLock' AND c.relpersistence <> 't'
        AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
        AND held.virtualtransaction <> ALL ($1)
    ORDER BY held.granted DESC, c.relkind IN ('r', 'p', 'm', 'v') DESC, held.pid
    LIMIT 1";

/// One wait for a lock on a relation.
#[derive(Debug)]
pub(in crate::postgis) struct LockWait {
    /// True if the waiting process belongs to the run.
    pub(in crate::postgis) is_ours: bool,
    /// The waiting process.
    pub(in crate::postgis) pid: i32,
    /// The OID of the relation.
    pub(in crate::postgis) relation: u32,
    /// Schema and relation, quoted; "relation" and the OID if the catalog does not show it yet.
    pub(in crate::postgis) name: String,
    /// The other process in words: the process that waits for the run, or the process that the run waits for.
    pub(in crate::postgis) other: String,
}

impl LockWait {
    fn of(row: &Row) -> LockWait {
        let (schema, name): (Option<String>, Option<String>) = (row.get(3), row.get(4));
        let relation: u32 = row.get(2);
        let name = match (schema, name) {
            (Some(schema), Some(name)) => format!("{}.{}", quoted(&schema), quoted(&name)),
            _ => format!("relation {relation}"),
        };
        let (pid, application, role, query) = (row.get(5), row.get(6), row.get(7), row.get(8));
        LockWait { is_ours: row.get(0), pid: row.get(1), relation, name, other: process(pid, application, role, query) }
    }
}

/// A process for messages.
fn process(pid: Option<i32>, application: Option<&str>, role: Option<&str>, query: Option<&str>) -> String {
    let Some(pid) = pid else { return "a process that this role may not see".to_owned() };
    let mut known: Vec<String> = Vec::new();
    known.extend(application.filter(|name| !name.is_empty()).map(str::to_owned));
    known.extend(role.map(|role| format!("role {}", quoted(role))));
    known.extend(query.and_then(kind));
    if known.is_empty() { format!("process {pid}") } else { format!("process {pid} ({})", known.join(", ")) }
}

/// The kind of a statement: its first keywords, in capitals. The rest is never shown, because it may hold secrets.
fn kind(query: &str) -> Option<String> {
    const FIRST: [&str; 18] = [
        "ALTER", "CREATE", "DROP", "REFRESH", "VACUUM", "REINDEX", "LOCK", "CLUSTER", "TRUNCATE", "BEGIN", "COMMIT",
        "DO", "CALL", "SELECT", "INSERT", "UPDATE", "DELETE", "COPY",
    ];
    const SECOND: [&str; 12] = [
        "TABLE",
        "INDEX",
        "UNIQUE",
        "VIEW",
        "MATERIALIZED",
        "FOREIGN",
        "TRIGGER",
        "SCHEMA",
        "DATABASE",
        "SYSTEM",
        "EXTENSION",
        "FULL",
    ];
    // "<insufficient privilege>" and the like: this role may not see the statement.
    if query.starts_with('<') {
        return None;
    }
    let mut words = query.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphabetic()));
    let mut known = |keywords: &[&'static str]| {
        let word = words.next()?;
        keywords.iter().copied().find(|keyword| word.eq_ignore_ascii_case(keyword))
    };
    let mut first = known(&FIRST)?;
    // Several statements may be sent as one text.
    if first == "BEGIN"
        && let Some(next) = known(&FIRST)
    {
        first = next;
    }
    Some(known(&SECOND).map_or_else(|| first.to_owned(), |second| format!("{first} {second}")))
}

/// A connection that reads the queue. Between two reads it holds no snapshot and no lock.
pub(in crate::postgis) struct LockQueue(Client);

impl LockQueue {
    pub(in crate::postgis) async fn open(database: &Database) -> Result<LockQueue, Cause> {
        let opening = async {
            let (client, connection) = database.separate_connection().await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("the connection that looks for waits ended: {error}");
                }
            });
            Ok::<_, tokio_postgres::Error>(LockQueue(client))
        };
        within_limit(opening).await
    }

    /// The waits in which the run's transactions take part.
    pub(in crate::postgis) async fn queue(&self, transactions: &[String]) -> Result<Vec<LockWait>, Cause> {
        self.waits(QUEUE, transactions).await
    }

    async fn waits(&self, sql: &str, transactions: &[String]) -> Result<Vec<LockWait>, Cause> {
        let sql = sql.replace("{process}", PROCESS);
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&transactions, Type::TEXT_ARRAY)];
        let rows = within_limit(self.0.query_typed(&sql, &params)).await?;
        Ok(rows.iter().map(LockWait::of).collect())
    }
}

async fn within_limit<T>(looking: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Cause> {
    match tokio::time::timeout(READ_LIMIT, looking).await {
        Ok(looked) => looked.map_err(Cause::from),
        Err(_elapsed) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Names a relation that another process has locked exclusively, and that process. `None` if there is no such relation, or if the queue cannot be
/// read.
pub(in crate::postgis) async fn exclusive_locks(database: &Database) -> Option<String> {
    let transactions = database.locks.ids();
    let look = LockQueue::open(database).await.ok()?;
    let waits = look.waits(EXCLUSIVE, &transactions).await.ok()?;
    waits.first().map(holder_text)
}

/// The lock that a process of the run waits for, in words that follow "a lock".
pub(in crate::postgis) fn holder_text(wait: &LockWait) -> String {
    format!(" on {}, which {} holds or waits for", wait.name, wait.other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kind_of_a_statement_is_shown() {
        for (query, expected) in [
            ("ALTER TABLE secret ADD COLUMN x text DEFAULT 'secret'", Some("ALTER TABLE")),
            ("  truncate secret;", Some("TRUNCATE")),
            ("VACUUM (FULL) secret", Some("VACUUM FULL")),
            ("vacuum full secret", Some("VACUUM FULL")),
            ("REINDEX TABLE secret", Some("REINDEX TABLE")),
            ("LOCK secret", Some("LOCK")),
            ("BEGIN; DROP TABLE secret", Some("DROP TABLE")),
            ("BEGIN", Some("BEGIN")),
            ("/* secret */ ALTER TABLE x", None),
            ("<insufficient privilege>", None),
            ("secret", None),
            ("", None),
        ] {
            assert_eq!(kind(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_process_is_described_by_what_this_role_may_see() {
        let alter = Some("ALTER TABLE t ADD COLUMN c int");
        assert_eq!(
            process(Some(7), Some("psql"), Some("owner"), alter),
            "process 7 (psql, role \"owner\", ALTER TABLE)"
        );
        assert_eq!(
            process(Some(7), Some(""), Some("owner"), Some("<insufficient privilege>")),
            "process 7 (role \"owner\")"
        );
        assert_eq!(process(Some(7), None, None, None), "process 7");
        assert_eq!(process(None, None, None, None), "a process that this role may not see");
    }
}
