//! The one database state that a whole run sees. It is exported to every session, and is also the cursor for changes.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Row, SimpleQueryMessage};

use super::error::Error;
use super::locks::LockWatcher;
use super::origin::ExportedSnapshot;
use super::search_path::SAFE_PATH;
use super::{Cause, Database, Param, Session, SessionOptions};

/// The oldest PostgreSQL that works, as `server_version_num`: 13 brought `pg_current_snapshot()`.
const OLDEST_POSTGRES: i32 = 130_000;

/// How long a reading waits for a lock that the run can do without.
const SHORT_LOCK_LIMIT: Duration = Duration::from_millis(100);

/// SQL for the cursor of the snapshot `seen`. The snapshot of a standby does not list the running transactions between
/// xmin and xmax, so its cursor counts no transaction from xmin on as seen.
const CURSOR: &str =
    "CASE WHEN pg_is_in_recovery() THEN format('%1$s:%1$s:', pg_snapshot_xmin(seen)) ELSE seen::text END";

/// The database state that a whole run sees. It lasts as long as this value: the session that exported it stays in its
/// transaction.
pub struct Snapshot {
    /// The session that exported the snapshot, or imported it from another one.
    pub(crate) keeper: Session,
    /// What other sessions import.
    pub(crate) exported: ExportedSnapshot,
    cursor: String,
    is_of_standby: bool,
    /// The snapshot from which this one was imported. It has to last as long as this one.
    _source: Option<Arc<Snapshot>>,
    /// Watches for processes that wait for the run; `None` if another snapshot of the run has the watcher.
    _watcher: Option<LockWatcher>,
}

impl Snapshot {
    /// `pg_current_snapshot()`: the state as a cursor for changes.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The snapshot that sessions of other processes import. On a standby, the cursor is older than the state that they
    /// see.
    pub(crate) const fn exported(&self) -> &ExportedSnapshot {
        &self.exported
    }

    /// True if a standby took it, also if that was promoted since.
    pub(crate) const fn is_of_standby(&self) -> bool {
        self.is_of_standby
    }

    /// Sends the server a query, so that no proxy or firewall on the way closes the connection as idle.
    pub(crate) async fn keep_alive(&self) -> Result<(), Error> {
        self.all("keeping the snapshot", "SELECT", &[]).await.map(drop)
    }

    /// The same state with an earlier cursor, for a run that reads data computed before the snapshot: changes after
    /// that computation count as not seen.
    pub(crate) fn known_since(self, cursor: String) -> Snapshot {
        Snapshot { cursor, ..self }
    }

    /// The same database state in a further session of the same run. That session draws one variant after the other.
    pub(crate) async fn in_session(self: &Arc<Snapshot>, keeper: Session) -> Result<Snapshot, Error> {
        keeper.set_variant_savepoint().await?;
        let (exported, cursor, is_of_standby) = (self.exported.clone(), self.cursor.clone(), self.is_of_standby);
        Ok(Snapshot { keeper, exported, cursor, is_of_standby, _source: Some(Arc::clone(self)), _watcher: None })
    }

    /// Removes what was set for the previous variant, and sets the values of another variant in the session's
    /// transaction.
    pub(crate) async fn begin_variant(&self, values: &[String]) -> Result<(), Error> {
        self.keeper.begin_variant(values).await
    }

    /// Awaits what reads in the session, which waits only a moment for locks of others, and then gives up the locks
    /// that it took.
    pub(crate) async fn without_keeping_locks<T, E: From<Error>>(
        &self,
        reading: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.keeper.set_savepoint().await?;
        // The return to the savepoint takes it back.
        let limit = format!("SET LOCAL lock_timeout = {}", SHORT_LOCK_LIMIT.as_millis());
        self.keeper.transaction_control(&limit, "before a short look").await?;
        let read = reading.await;
        self.keeper.return_to_savepoint().await?;
        read
    }

    pub(crate) async fn all(&self, context: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.keeper.all(context, sql, params).await
    }
}

impl Database {
    /// The database state at this moment, as a cursor, and the value of an SQL expression in that state.
    pub(crate) async fn present_state(&self, expression: &str) -> Result<(String, Option<String>), Error> {
        let failed = |source: Cause| {
            let (server, during) = (self.server().clone(), "while asking for its state".to_owned());
            if source.is_lost() {
                return Error::Lost { server, during, source };
            }
            Error::Query { context: "asking for the present state".to_owned(), next: "look into the cause", source }
        };
        // One message, because a pooler may send the next one to another session. It is one transaction, in which the
        // path is set.
        let sql = format!("{SAFE_PATH} SELECT {CURSOR}, {expression} FROM pg_current_snapshot() AS seen");
        let answer = self.connection().await?.simple_query(&sql).await;
        let state = answer.map_err(|error| failed(error.into()))?.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1).map(str::to_owned))),
            _ => None,
        });
        state.ok_or_else(|| failed(std::io::Error::other("it sent no row").into()))
    }

    /// The same database with the values of a variant: sessions opened from now on read for that variant.
    pub(crate) fn with_parameters(&self, values: Vec<String>) -> Database {
        let options = SessionOptions { parameters: values, ..(*self.options).clone() };
        Database { options: Arc::new(options), ..self.clone() }
    }

    /// Takes the snapshot of a run.
    ///
    /// # Errors
    /// If the database cannot be reached or does not let the user in.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.exported_by(self.session(None).await?).await
    }

    /// Imports the snapshot that a session of another process has exported. The new session exports it again, so that
    /// it outlives the other session. Fails if the other session has ended ([`Error::is_snapshot_gone`]), or is on
    /// another server.
    pub(crate) async fn imported_snapshot(&self, from: &ExportedSnapshot) -> Result<Snapshot, Error> {
        let keeper = self.session(Some(from.clone())).await?;
        self.exported_by(keeper).await
    }

    async fn exported_by(&self, keeper: Session) -> Result<Snapshot, Error> {
        let version = "SELECT current_setting('server_version_num')::int4, current_setting('server_version')";
        let export =
            format!("SELECT pg_export_snapshot(), {CURSOR}, pg_is_in_recovery() FROM pg_current_snapshot() AS seen");
        // Both are on their way at once. An old server knows no `pg_current_snapshot`.
        let (version, row) = tokio::join!(
            Box::pin(keeper.one("asking the server for its version", version, &[])),
            Box::pin(keeper.one("taking the snapshot", &export, &[]))
        );
        let version = version?;
        if version.get::<_, i32>(0) < OLDEST_POSTGRES {
            return Err(Error::OldPostgres { server: self.server().clone(), found: version.get(1) });
        }
        let row = row?;
        let exported = ExportedSnapshot { id: row.get(0), origin: keeper.origin().await? };
        Ok(Snapshot {
            keeper,
            exported,
            cursor: row.get(1),
            is_of_standby: row.get(2),
            _source: None,
            _watcher: Some(LockWatcher::start(self)),
        })
    }

    /// The same database state for another run, in a session with locks of its own. Fails if the session of `source` is
    /// lost, or no further session can be opened.
    pub(crate) async fn snapshot_of(&self, source: &Arc<Snapshot>) -> Result<Snapshot, Error> {
        let keeper = self.on(source).await?;
        let (exported, cursor, is_of_standby) = (source.exported.clone(), source.cursor.clone(), source.is_of_standby);
        let (source, watcher) = (Some(Arc::clone(source)), Some(LockWatcher::start(self)));
        Ok(Snapshot { keeper, exported, cursor, is_of_standby, _source: source, _watcher: watcher })
    }
}

// The check that the server allows as many sessions as a program is going to open.

/// The most sessions that the server, the database and the role allow, and the number of other sessions. Some sessions
/// are reserved for superusers, since PostgreSQL 16 also for members of `pg_use_reserved_connections`. In `pg_database`
/// and `pg_roles`, -1 means no limit.
const ROOM: &str = "
    SELECT CASE WHEN role.rolsuper THEN setting.connections
            ELSE least(
                setting.connections - setting.reserved, nullif(role.rolconnlimit, -1), nullif(database.datconnlimit, -1))
            END::int8,
        (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
    FROM pg_catalog.pg_roles AS role, pg_catalog.pg_database AS database,
        (SELECT current_setting('max_connections')::int4 AS connections,
            current_setting('superuser_reserved_connections')::int4
                + coalesce(current_setting('reserved_connections', true)::int4, 0) AS reserved) AS setting
    WHERE role.rolname = session_user AND database.datname = current_database()";

/// How many sessions the server allows, and how many others there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRoom {
    /// The most sessions that the server allows this role at once.
    pub most: u64,
    /// The number of other sessions at present.
    pub others: u64,
}

impl Snapshot {
    /// Checks that the server allows `sessions` sessions, as many as the caller is going to have. `settings` names for
    /// the message the settings to lower. Fails with [`Error::Setting`] if the server does not allow them, or the error
    /// of the query.
    pub(crate) async fn check_session_room(&self, sessions: usize, settings: &str) -> Result<SessionRoom, Error> {
        let rows = self.all("counting sessions", ROOM, &[]).await?;
        let Some(row) = rows.first() else { return Ok(SessionRoom { most: u64::MAX, others: 0 }) };
        let [most, others] = [0, 1].map(|column| row.get::<_, i64>(column).max(0).cast_unsigned());
        if sessions as u64 <= most {
            return Ok(SessionRoom { most, others });
        }
        Err(Error::Setting {
            what: format!("{sessions} sessions are needed, and {} allows {most}", self.keeper.server()),
            next: format!(
                "lower {settings}, or raise what limits them: max_connections of the server, CONNECTION LIMIT of the database or of the role"
            ),
        })
    }
}
