//! Connections: a bounded pool, one exported snapshot that every session of a run sees, and statements that a stop
//! cancels in the server.
//!
//! No statement is named: unnamed ones work behind a pooler that gives out connections by transaction.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use futures_util::{Stream, TryStreamExt as _};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::cancel::cancel;
use super::connect::{ConnectOptions, ServerName};
use super::error::{Cause, Error};
use super::layer::quoted;
use super::snapshot::Snapshot;
use super::tls;
use crate::stop::Stop;

/// Limits of a session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// A statement that runs longer is cancelled by the server. Zero for no limit.
    pub statement_timeout: Duration,
    /// Memory for the sort of one batch, such as "64MB" (`work_mem`).
    pub work_mem: String,
    /// How many sessions there may be at once: the workers and the one that holds the snapshot.
    pub connections: usize,
}

/// A parameter and its type.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A database that sessions are opened on. Clones share the pool.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    config: Arc<tokio_postgres::Config>,
    tls: MakeRustlsConnect,
    server: ServerName,
    options: Arc<SessionOptions>,
    /// The schema of PostGIS, once it is known.
    pub(super) postgis: Arc<OnceLock<String>>,
    pub(super) stop: Stop,
}

/// One connection, in one read-only transaction unless it is for writing.
pub(crate) struct Session {
    pub(super) client: Object,
    pub(super) cancel: CancelToken,
    pub(super) database: Database,
    pub(super) exported: Option<String>,
}

impl Database {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(connect: &ConnectOptions, options: SessionOptions, stop: &Stop) -> Result<Database, Error> {
        let tls = tls::connector(connect.mode, &connect.files)?;
        let manager = Manager::from_config(
            connect.config.clone(),
            tls.clone(),
            // A session that was given back is still in its transaction.
            ManagerConfig { recycling_method: RecyclingMethod::Custom("ROLLBACK".to_owned()) },
        );
        // One place more than sessions: one that replaces a broken one is opened while that one still has its place.
        let pool =
            Pool::builder(manager).max_size(options.connections + 1).build().map_err(|error| Error::Setting {
                what: format!("the connection pool cannot be built ({error})"),
                next: "set connections to at least 2".to_owned(),
            })?;
        Ok(Database {
            pool,
            config: Arc::new(connect.config.clone()),
            tls,
            server: connect.server.clone(),
            options: Arc::new(options),
            postgis: Arc::default(),
            stop: stop.clone(),
        })
    }

    /// The server as it may be shown.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// A connection apart from the pool, for what is no transaction. Its second half is to be driven by whoever asked.
    pub(super) async fn apart(
        &self,
    ) -> Result<
        (
            tokio_postgres::Client,
            tokio_postgres::Connection<
                tokio_postgres::Socket,
                <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
            >,
        ),
        tokio_postgres::Error,
    > {
        self.config.connect(self.tls.clone()).await
    }

    /// A session on a snapshot. Whoever took the snapshot has reached the database: if nobody answers now, it went away.
    pub(super) async fn on(&self, snapshot: &Snapshot) -> Result<Session, Error> {
        self.session(Some(snapshot.exported.clone())).await.map_err(|error| match error {
            Error::Unreachable { server, source } => {
                Error::Lost { server, during: "while connecting again".to_owned(), source }
            }
            other => other,
        })
    }

    pub(super) async fn session(&self, exported: Option<String>) -> Result<Session, Error> {
        let client = tokio::select! {
            client = self.connection() => client?,
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        let cancel = client.cancel_token();
        let session = Session { client, cancel, database: self.clone(), exported };
        session.begin().await?;
        Ok(session)
    }

    /// A connection of the pool. The driver's own limit ends with the socket, once for each address of a host: a server
    /// that takes the connection and says nothing more would be waited for without end.
    pub(super) async fn connection(&self) -> Result<Object, Error> {
        match tokio::time::timeout(self.connect_limit(), self.pool.get()).await {
            Ok(client) => client.map_err(|error| self.not_connected(error)),
            Err(_elapsed) => {
                let source = std::io::Error::other("it takes the connection, but does not answer").into();
                Err(Error::Unreachable { server: self.server.clone(), source })
            }
        }
    }

    /// The time that connecting may take, answers of the server included.
    pub(super) fn connect_limit(&self) -> Duration {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(u32::MAX);
        let each = self.config.get_connect_timeout();
        each.map_or(Duration::MAX, |each| each.saturating_mul(hosts.saturating_mul(2)))
    }

    fn not_connected(&self, error: PoolError) -> Error {
        let server = self.server.clone();
        let source = match error {
            PoolError::Backend(error) => Cause::from(error),
            other => {
                return Error::Setting {
                    what: format!("no connection to {server} is free ({other})"),
                    next: "this is a defect of oar-tiles: please report it".to_owned(),
                };
            }
        };
        if source.tls {
            let next = "check sslmode, and sslrootcert, which names the authority of its certificate";
            return Error::NotAccepted { server, next, source };
        }
        let Some(code) = source.code.clone() else {
            // The one error of the driver that the server had a part in: it asked for a password.
            return if source.to_string() == "password missing" {
                Error::Refused { server, source }
            } else {
                Error::Unreachable { server, source }
            };
        };
        match code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Error::Refused { server, source }
            }
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => {
                Error::Lost { server, during: "while connecting".to_owned(), source }
            }
            SqlState::TOO_MANY_CONNECTIONS => {
                Error::NotAccepted { server, next: "lower --workers, or raise max_connections of the server", source }
            }
            SqlState::INVALID_CATALOG_NAME => {
                Error::NotAccepted { server, next: "name a database that exists", source }
            }
            SqlState::INSUFFICIENT_PRIVILEGE => {
                let next = "run GRANT CONNECT ON DATABASE … TO … as its owner, or connect as another user";
                Error::NotAccepted { server, next, source }
            }
            _ => Error::NotAccepted { server, next: "look into the cause", source },
        }
    }
}

impl Session {
    pub(super) fn server(&self) -> &ServerName {
        &self.database.server
    }

    /// Begins the transaction: read-only, on the snapshot, with the settings that make plans and bytes the same everywhere.
    async fn begin(&self) -> Result<(), Error> {
        let snapshot =
            self.exported.as_ref().map(|id| format!("SET TRANSACTION SNAPSHOT '{}';", id.replace('\'', "''")));
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {snapshot}
             SET LOCAL statement_timeout = {timeout};
             SET LOCAL idle_in_transaction_session_timeout = 0; -- the keeper of the snapshot waits for the whole run
             SET LOCAL lock_timeout = 0;
             SET LOCAL work_mem = '{work_mem}';
             SET LOCAL enable_hashagg = off;                 -- a hash of thousands of open tiles took 40 times as long
             SET LOCAL jit = off;
             SET LOCAL max_parallel_workers_per_gather = 0;  -- the pool is the parallelism; parallel plans change the order
             SET LOCAL timezone = 'UTC';                     -- how dates and numbers read in a tile
             SET LOCAL datestyle = 'ISO, MDY';
             SET LOCAL intervalstyle = 'postgres';
             SET LOCAL extra_float_digits = 1;
             SET LOCAL bytea_output = 'hex';",
            snapshot = snapshot.unwrap_or_default(),
            timeout = self.database.options.statement_timeout.as_millis(),
            work_mem = self.database.options.work_mem.replace('\'', "''"),
        );
        // A pooler may keep even this waiting, until one of its connections is free.
        let begin = async { Ok(self.client.batch_execute(&sql).await) };
        self.until_stopped(begin).await?.map_err(|error| {
            let source = Cause::from(error);
            // The snapshot is gone with the session that exported it.
            let snapshot_gone = self.exported.is_some()
                && matches!(source.code, Some(SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT));
            if source.is_lost() || snapshot_gone {
                return Error::Lost {
                    server: self.server().clone(),
                    during: "while opening a session".to_owned(),
                    source,
                };
            }
            Error::Query {
                place: "opening a session".to_owned(),
                next: "look into the cause (work_mem and statement_timeout stand in [database])",
                source,
            }
        })?;
        match self.database.postgis.get() {
            Some(schema) => self.add_to_search_path(schema).await,
            None => Ok(()),
        }
    }

    /// Notes where PostGIS is, for this session and all that follow.
    pub(super) async fn found_postgis(&self, schema: String) -> Result<(), Error> {
        let schema = self.database.postgis.get_or_init(|| schema);
        self.add_to_search_path(schema).await
    }

    /// Makes PostGIS visible if its schema is not on the search path.
    pub(super) async fn add_to_search_path(&self, schema: &str) -> Result<(), Error> {
        let sql = "SELECT set_config(
                       'search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), $1), true)
                   WHERE NOT $2 = ANY (current_schemas(true)::text[])";
        let (quoted, schema) = (quoted(schema), schema.to_owned());
        self.all("opening a session", sql, &[(&quoted, Type::TEXT), (&schema, Type::TEXT)]).await.map(|_| ())
    }

    /// Marks the place to which the session that holds the snapshot goes back after a failed statement: ending its
    /// transaction would end the snapshot.
    pub(super) async fn save(&self) -> Result<(), Error> {
        self.plainly("SAVEPOINT oar_tiles", "while opening a session").await
    }

    /// Starts over in the same session on the same snapshot, after a statement failed.
    pub(super) async fn restart(&self) -> Result<(), Error> {
        if self.exported.is_none() {
            return self.plainly("ROLLBACK TO SAVEPOINT oar_tiles", "after a failed statement").await;
        }
        self.plainly("ROLLBACK", "after a failed statement").await?;
        self.begin().await
    }

    /// A statement that fails only if the session is lost.
    async fn plainly(&self, sql: &str, during: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|error| Error::Lost {
            server: self.server().clone(),
            during: during.to_owned(),
            source: error.into(),
        })
    }

    /// All rows of a statement.
    pub(crate) async fn all(&self, place: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let begun = Instant::now();
        self.until_stopped(async {
            self.client.query_typed(sql, params).await.map_err(|error| self.failed(place, begun, error))
        })
        .await
    }

    /// The one row of a statement.
    pub(crate) async fn one(&self, place: &str, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        let begun = Instant::now();
        self.until_stopped(async {
            self.client.query_typed_one(sql, params).await.map_err(|error| self.failed(place, begun, error))
        })
        .await
    }

    /// Hands every row of a statement to `each` as it arrives.
    pub(crate) async fn each(
        &self,
        place: &str,
        sql: &str,
        params: &[Param<'_>],
        mut each: impl FnMut(&Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let failed = |error| self.failed(place, begun, error);
        self.until_stopped(async {
            let params = params.iter().map(|(value, kind)| (*value, kind.clone()));
            let rows = self.client.query_typed_raw(sql, params).await.map_err(failed)?;
            tokio::pin!(rows);
            while let Some(row) = next(&mut rows).await.map_err(failed)? {
                each(&row)?;
            }
            Ok(())
        })
        .await
    }

    /// Runs a statement until it is done or a stop is asked for; then the statement is cancelled in the server.
    pub(super) async fn until_stopped<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = self.database.stop.wait() => {}
        }
        let cancelled = cancel(&self.cancel, &self.database.config, &self.database.tls);
        match tokio::time::timeout(Duration::from_secs(1), cancelled).await {
            // The statement ends with an error; waiting for it tells that the server really let go.
            Ok(Ok(())) => drop(tokio::time::timeout(Duration::from_millis(500), work).await),
            Ok(Err(error)) => tracing::warn!("a query could not be cancelled in the server: {error}"),
            Err(_elapsed) => tracing::warn!("a query could not be cancelled in the server within a second"),
        }
        Err(Error::Interrupted)
    }

    pub(super) fn failed(&self, place: &str, begun: Instant, error: tokio_postgres::Error) -> Error {
        let place = place.to_owned();
        let source = Cause::from(error);
        if source.is_lost() {
            return Error::Lost { server: self.server().clone(), during: format!("at {place}"), source };
        }
        if source.is_cancelled() {
            let limit = self.database.options.statement_timeout;
            if took_too_long(begun.elapsed(), limit) {
                return Error::Timeout { place, after: humantime::format_duration(limit).to_string(), source };
            }
            let next = "Somebody cancelled it in the server (pg_cancel_backend): run the command again";
            return Error::Query { place, next, source };
        }
        Error::Query { place, next: "Mend what the cause names, and run the command again", source }
    }
}

/// Whether a statement cancelled after so long had reached the limit; zero is none. Two machines' clocks do not run alike: a
/// tenth is forgiven.
fn took_too_long(after: Duration, limit: Duration) -> bool {
    !limit.is_zero() && after >= limit.mul_f64(0.9)
}

async fn next<S: Stream<Item = Result<Row, tokio_postgres::Error>> + Unpin>(
    rows: &mut S,
) -> Result<Option<Row>, tokio_postgres::Error> {
    rows.try_next().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_ran_as_long_as_its_limit_took_too_long() {
        let seconds = Duration::from_secs;
        for (after, limit, expected) in [(600, 600, true), (599, 600, true), (500, 600, false), (900, 0, false)] {
            assert_eq!(took_too_long(seconds(after), seconds(limit)), expected, "{after} s of {limit} s");
        }
    }
}
