//! Locks: a run takes them early, waits only briefly for each, and releases all of them when others have waited too
//! long.
//!
//! A reading session holds `ACCESS SHARE` on tables and indexes until its transaction ends. `ALTER TABLE`, `TRUNCATE`
//! and the like wait for it, and every later session queues behind them: other readers, and the run's own sessions.
//! PostgreSQL does not see this as a deadlock, because the session that holds the lock waits in the client, not in the
//! server. Three rules keep such waits short:
//!
//! - Before the sessions render, every session locks everything that the layers read (`probe::LayerLocks`). A seed
//!   takes these locks between the probe of names and the probe of rows, so before any session reads a row. A reseed
//!   takes them once it knows the number of sessions, which is after the session that holds the snapshot has looked for
//!   the dirty tiles (with `--area`, by a survey; in a watch, perhaps by comparing rows).
//! - No session waits longer than `lock_timeout` for a lock. After a longer wait the run starts over. While a session
//!   takes the locks of the layers, it waits at most 200 ms at a time and releases its locks in between, so that it
//!   cannot take part in a deadlock.
//! - A separate connection watches which processes wait for the run. After `lock_timeout` the run gives way: it ends
//!   all of its transactions, and starts over on a new snapshot if it still needs the database.
//!
//! Some relations are read by one session only: the session that holds the snapshot reads the change log, runs the
//! queries of `[[layer.track]]`, and (in a reseed) reads rows for the probe. That session locks them at their first
//! statement. Because only this session uses them, any deadlock over them is visible to PostgreSQL: if another process
//! holds one of them and waits for a layer's table, the session that holds that table is the one that waits in the
//! server, so PostgreSQL sees the circle and ends it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::error::{Cause, Error};
use super::prepared::quoted;
use super::transaction::Transaction;
use super::{Database, Session};

/// The longest wait for the run's transactions to end once it gives way.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// The locks of a run: the transactions that hold them, and what the watcher found.
#[derive(Debug)]
pub(crate) struct Locks {
    transactions: Mutex<Vec<Weak<Transaction>>>,
    /// For each waiting process of the run, by its id: the lock and its holder in words, as the watcher saw them last.
    waits: Mutex<HashMap<i32, String>>,
    /// [`BRIEF_WAIT`], once a session has read it.
    brief_wait: OnceLock<Duration>,
    /// Set once, when the run gives way.
    gave_way: watch::Sender<Option<GaveWayReason>>,
}

/// Why a run gave way.
#[derive(Debug, Clone)]
struct GaveWayReason {
    /// The process and the relation that it waited for, in words.
    waiting: String,
    limit: Duration,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks {
            transactions: Mutex::default(),
            waits: Mutex::default(),
            brief_wait: OnceLock::new(),
            gave_way: watch::Sender::new(None),
        }
    }
}

impl Locks {
    /// Registers a transaction that is about to begin.
    pub(crate) fn register(&self, transaction: &Arc<Transaction>) {
        let mut all = self.transactions.lock();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(transaction));
    }

    fn transactions(&self) -> Vec<Arc<Transaction>> {
        let all = self.transactions.lock();
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// The error of every statement after the run gave way; `None` if the run did not give way.
    pub(crate) fn gave_way_error(&self) -> Option<Error> {
        let reason = self.gave_way.borrow();
        let GaveWayReason { waiting, limit } = reason.as_ref()?;
        Some(Error::GaveWay { waiting: waiting.clone(), limit: humantime::format_duration(*limit).to_string() })
    }

    /// Waits until the run gives way.
    pub(crate) async fn giving_way(&self) {
        let mut reason = self.gave_way.subscribe();
        if reason.wait_for(Option::is_some).await.is_err() {
            // The sender lives in `self`.
            std::future::pending::<()>().await;
        }
    }

    /// Ends all transactions of the run. Sessions that run a statement cancel it.
    async fn give_way(&self, reason: GaveWayReason) {
        self.gave_way.send_replace(Some(reason));
        let transactions = self.transactions();
        let ended = join_all(transactions.iter().map(|transaction| transaction.roll_back()));
        match tokio::time::timeout(RELEASE_LIMIT, ended).await {
            Ok(ended) => {
                // A transaction whose connection broke has ended, too.
                ended
                    .into_iter()
                    .filter_map(Result::err)
                    .for_each(|error| tracing::debug!("a transaction ended: {error}"));
            }
            Err(_elapsed) => tracing::warn!("not every transaction of the run has ended: some locks are still held"),
        }
    }

    fn set_waits(&self, waits: HashMap<i32, String>) {
        *self.waits.lock() = waits;
    }

    fn holder_of_wait(&self, pid: i32) -> Option<String> {
        self.waits.lock().get(&pid).cloned()
    }
}

impl Database {
    /// Adds the lock, and the process that holds it, as far as known, to the error of a statement that waited too long
    /// for a lock.
    pub(crate) async fn with_holder(&self, pid: Option<i32>, error: Error) -> Error {
        let Error::Locked { context, wait, source, .. } = error else { return error };
        let seen = pid.and_then(|pid| self.locks.holder_of_wait(pid));
        let holder = match seen {
            Some(seen) => seen,
            None => exclusive_locks(self).await.unwrap_or_default(),
        };
        Error::Locked { context, wait, holder, source }
    }
}

// Taking several locks without a deadlock. A session that holds one lock and waits for a second makes a deadlock if the
// holder of the second waits for the first. After `deadlock_timeout` PostgreSQL ends one of the two sessions, which may
// be the other one. So this session waits only briefly, then releases all its locks and tries again, within
// `lock_timeout`.

/// The longest wait for one lock while others may be held, in milliseconds. It is also at most half of
/// `deadlock_timeout` (1 s by default).
const MAX_WAIT: f64 = 200.0;

/// The limit of a wait: $1 milliseconds, or half of `deadlock_timeout`.
const BRIEF_WAIT: &str = "
    SELECT least($1, extract(epoch FROM pg_catalog.current_setting('deadlock_timeout')::interval)::float8 * 500)::float8";

/// Attempts of a session to take locks. From [`LockAttempts::begin`] until the last attempt ends, the session's
/// statements wait only briefly for each lock.
pub(crate) struct LockAttempts<'a> {
    session: &'a Session,
    begun: Instant,
    wait: Duration,
}

impl<'a> LockAttempts<'a> {
    pub(crate) async fn begin(session: &'a Session) -> Result<LockAttempts<'a>, Error> {
        let limit = session.database.options.lock_limit();
        let known = &session.database.locks.brief_wait;
        let brief = if let Some(brief) = known.get() {
            *brief
        } else {
            let row = session.one("opening a session", BRIEF_WAIT, &[(&MAX_WAIT, Type::FLOAT8)]).await?;
            let brief = Duration::from_secs_f64(row.get::<_, f64>(0).max(1.0) / 1000.0);
            *known.get_or_init(|| brief)
        };
        let wait = brief.min(limit);
        let sql = format!("SET LOCAL lock_timeout = {}; SAVEPOINT oar_tiles_locks", wait.as_millis().max(1));
        session.transaction_control(&sql, "while taking locks").await?;
        session.waits_briefly.store(true, Ordering::Relaxed);
        Ok(LockAttempts { session, begun: Instant::now(), wait })
    }

    /// Ends an attempt and returns its result. `None` if a lock was not granted: then all locks are released, and there
    /// is time for another attempt.
    pub(crate) async fn ended<T>(&self, attempt: Result<T, Error>) -> Result<Option<T>, Error> {
        let limit = self.session.database.options.lock_limit();
        let over = format!("RELEASE SAVEPOINT oar_tiles_locks; SET LOCAL lock_timeout = {}", limit.as_millis());
        let error = match attempt {
            Ok(done) => {
                self.session.waits_briefly.store(false, Ordering::Relaxed);
                self.session.transaction_control(&over, "while taking locks").await?;
                return Ok(Some(done));
            }
            Err(error) => error,
        };
        let is_locked = matches!(error, Error::Locked { .. });
        // Rounded to the nearest attempt: the last attempt is the one that ends nearest to the limit.
        if is_locked && self.begun.elapsed() + self.wait / 2 < limit {
            let again = "ROLLBACK TO SAVEPOINT oar_tiles_locks";
            self.session.transaction_control(again, "while taking locks").await?;
            return Ok(None);
        }
        self.session.waits_briefly.store(false, Ordering::Relaxed);
        if error.is_lost() || error.kind() == crate::error::ErrorKind::Interrupted {
            return Err(error);
        }
        let error = if is_locked { self.session.with_holder(error).await } else { error };
        let over = format!("ROLLBACK TO SAVEPOINT oar_tiles_locks; {over}");
        self.session.transaction_control(&over, "while taking locks").await?;
        Err(error)
    }
}

// The server's lock queue: the processes that wait for locks, and the processes that they wait for, in words.

/// The longest time for one read of the queue. After that the read and its connection are given up.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// The columns of a process: id, application name, role and statement, as far as this role may see them.
const PROCESS: &str = "who.pid, who.application_name, who.usename::text, who.query";

/// Waits for relations of this database in which the transactions `$1` of the run take part: waits of other processes
/// for a lock of the run, and the run's own waits, with the process that holds the lock or is ahead in the queue.
///
/// Left out are processes whose wait has ended since `pg_locks` was read: nothing blocks them any more.
///
/// The connection has the role's own search path, which may hold objects of others, so functions and operators on
/// arrays are named with their schema.
///
/// `pg_blocking_pids` does not cover the process that replays the log on a standby. That process waits for the run if
/// it requests an exclusive lock on a relation that the run has locked.
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

/// A relation of this database that a process has locked exclusively, or requests to lock so. The processes of the
/// transactions `$1` do not count.
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

#[derive(Debug)]
pub(crate) struct LockWait {
    /// True if the waiting process belongs to the run.
    pub(crate) is_ours: bool,
    pub(crate) pid: i32,
    pub(crate) relation: u32,
    /// Schema and relation, quoted; "relation" and the OID if the catalog does not show it yet.
    pub(crate) name: String,
    /// The other process in words: the process that waits for the run, or the process that the run waits for.
    pub(crate) other: String,
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
pub(crate) struct LockQueue(Client);

impl LockQueue {
    pub(crate) async fn open(database: &Database) -> Result<LockQueue, Cause> {
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
    pub(crate) async fn queue(&self, transactions: &[String]) -> Result<Vec<LockWait>, Cause> {
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

/// Names a relation that another process has locked exclusively, and that process. `None` if there is no such relation,
/// or if the queue cannot be read.
pub(crate) async fn exclusive_locks(database: &Database) -> Option<String> {
    let transactions = database.locks.ids();
    let look = LockQueue::open(database).await.ok()?;
    let waits = look.waits(EXCLUSIVE, &transactions).await.ok()?;
    waits.first().map(holder_text)
}

/// The lock that a process of the run waits for, in words that follow "a lock".
pub(crate) fn holder_text(wait: &LockWait) -> String {
    format!(" on {}, which {} holds or waits for", wait.name, wait.other)
}

// The check that the server's lock table has room for the locks of all sessions of a run.

/// Three numbers: the relations and indexes that this session has locked, the entries of the server's lock table, and
/// the entries that other sessions take. The table has twice as many entries as the configured number of locks, on the
/// assumption that two sessions share a lock (`InitLocks` in PostgreSQL's lock.c).
const ROOM: &str = "
    SELECT count(*) FILTER (WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation'),
        2 * current_setting('max_locks_per_transaction')::int8
            * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8),
        count(*) FILTER (WHERE NOT fastpath AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid())
    FROM pg_catalog.pg_locks";

impl Session {
    /// Checks that the server's lock table has room if `sessions` further sessions take the same locks as this one.
    /// Fails with [`Error::Setting`] if it has no room for them.
    pub(crate) async fn check_lock_room(&self, sessions: usize) -> Result<(), Error> {
        let row = self.one("counting locks", ROOM, &[]).await?;
        let [own, room, taken] = [0, 1, 2].map(|column| row.get::<_, i64>(column).cast_unsigned());
        let needed = own.saturating_mul(sessions as u64 + 1);
        if needed.saturating_add(taken) <= room {
            return Ok(());
        }
        let per_transaction =
            (needed + taken).saturating_mul(self.locks_per_transaction().await?).div_ceil(room.max(1));
        Err(Error::Setting {
            what: format!(
                "the layers read {own} tables, partitions and indexes: {} sessions take {needed} locks on them, and the lock table of {} has room for {} more",
                sessions + 1,
                self.server(),
                room.saturating_sub(taken)
            ),
            next: format!(
                "lower --workers, or set max_locks_per_transaction to at least {per_transaction} in the server and restart it"
            ),
        })
    }

    async fn locks_per_transaction(&self) -> Result<u64, Error> {
        let sql = "SELECT current_setting($1)::int8";
        let row = self.one("counting locks", sql, &[(&"max_locks_per_transaction", Type::TEXT)]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }
}

// The lock watcher: a separate connection that finds processes waiting for the run's sessions.

/// The shortest pause between two reads of the lock queue. Between the limits, the pause is an eighth of
/// `lock_timeout`.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two reads of the lock queue.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The time without a successful read after which the user is warned.
const WARNING_DELAY: Duration = Duration::from_secs(10);

/// Watches for processes that wait for a run, until it is dropped.
pub(crate) struct LockWatcher(AbortHandle);

impl Drop for LockWatcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LockWatcher {
    /// Starts watching after one pause. A run that ends before then delays nobody, and needs no connection for the
    /// watcher.
    pub(crate) fn start(database: &Database) -> LockWatcher {
        let database = database.clone();
        LockWatcher(tokio::spawn(async move { watch(&database).await }).abort_handle())
    }
}

async fn watch(database: &Database) {
    let limit = database.options.lock_limit();
    let pause = (limit / 8).clamp(MIN_PAUSE, MAX_PAUSE);
    let (mut look, mut seen_at, mut is_told) = (None, Instant::now(), false);
    let mut waiting = Waiting::default();
    loop {
        tokio::time::sleep(pause).await;
        let looked = match look.take() {
            Some(look) => Ok(look),
            None => LockQueue::open(database).await,
        };
        let looked = match looked {
            Ok(opened) => opened.queue(&database.locks.ids()).await.map(|waits| (opened, waits)),
            Err(error) => Err(error),
        };
        match looked {
            Ok((opened, waits)) => {
                (look, seen_at) = (Some(opened), Instant::now());
                database.locks.set_waits(
                    waits.iter().filter(|wait| wait.is_ours).map(|wait| (wait.pid, holder_text(wait))).collect(),
                );
                // A wait may have begun up to one pause before the watcher first saw it.
                if let Some(wait) = waiting.longer_than(limit.saturating_sub(pause), waits) {
                    let reason = GaveWayReason { waiting: format!("{} waited for {}", wait.other, wait.name), limit };
                    return database.locks.give_way(reason).await;
                }
            }
            Err(error) => {
                tracing::debug!("the lock queue cannot be read: {error}");
                if !is_told && seen_at.elapsed() > WARNING_DELAY {
                    is_told = true;
                    tracing::warn!(
                        "this run cannot see which processes wait for its locks, so it may delay them: {error}. Seeing them takes one connection beside workers + 1"
                    );
                }
            }
        }
    }
}

/// When the wait of a process for a relation was first seen, by process and relation.
#[derive(Debug, Default)]
struct Waiting(HashMap<(i32, u32), Instant>);

impl Waiting {
    /// Records the waits seen now. Returns a wait of another process for the run that has lasted at least `limit`, if
    /// there is one.
    fn longer_than(&mut self, limit: Duration, waits: Vec<LockWait>) -> Option<LockWait> {
        let waits: Vec<LockWait> = waits.into_iter().filter(|wait| !wait.is_ours).collect();
        let seen: HashSet<(i32, u32)> = waits.iter().map(|wait| (wait.pid, wait.relation)).collect();
        self.0.retain(|wait, _| seen.contains(wait));
        let now = Instant::now();
        for wait in seen {
            self.0.entry(wait).or_insert(now);
        }
        waits.into_iter().find(|wait| {
            let since = self.0.get(&(wait.pid, wait.relation));
            since.is_some_and(|since| now.duration_since(*since) >= limit)
        })
    }
}

impl Locks {
    /// The virtual ids of the run's transactions.
    pub(crate) fn ids(&self) -> Vec<String> {
        let transactions = self.transactions();
        transactions.iter().filter_map(|one| one.backend()).map(|backend| backend.transaction.clone()).collect()
    }
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
