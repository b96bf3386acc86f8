//! Sessions: a bounded pool of connections, one exported snapshot that every session of a run sees, and statements that a stop cancels in the
//! server.
//!
//! | file | subject |
//! |---|---|
//! | `connect/` | where the database is, TLS, cancelling a statement |
//! | `snapshot`, `transaction` | the state that a run sees, and the read-only transaction of each session |
//! | `origin` | whether all sessions of a run are on one server |
//! | `locks/` | locks are taken early and waited for briefly; the run gives way to others |
//! | `search_path` | where names are looked up, and whether others have put objects there that stand in for PostGIS |
//! | `prepared` | statements that are parsed and planned once a session |
//! | `writing`, `listen` | sessions that may write, and connections that receive notifications |
//! | `options`, `error`, `server_name`, `identifier` | limits, errors, names for messages and for SQL |
//!
//! Prepared statements have no names, so they work behind a pooler that assigns connections by transaction; but for `prepared`.

mod connect;
mod error;
mod identifier;
mod listen;
mod locks;
mod options;
mod origin;
mod parameters;
mod prepared;
mod search_path;
mod server_name;
mod session_room;
mod snapshot;
mod transaction;
mod values;
mod writing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use futures_util::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::stop::Stop;

use connect::cancel::cancel;
use connect::tls;
use locks::Locks;
use prepared::PreparedStatements;
use search_path::SearchPath;
use transaction::Transaction;

pub use connect::{ConnectOptions, Parts, SslMode};
pub use error::{Cause, Error};
pub use listen::Listener;
pub use options::SessionOptions;
pub use origin::ExportedSnapshot;
pub use server_name::ServerName;
pub use session_room::SessionRoom;
pub use snapshot::Snapshot;
pub use values::SessionValue;

pub(super) use error::area_name;
pub(crate) use identifier::quoted;
pub(super) use locks::LockAttempts;
pub(super) use parameters::setting_of;

/// How often the server is asked to cancel a statement, and how long each time the statement may take to end.
const CANCEL_REQUESTS: u32 = 6;
const CANCEL_PAUSE: Duration = Duration::from_millis(500);

/// A parameter of a statement, and its type.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A database with its pool of connections. Clones share the pool.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    config: Arc<tokio_postgres::Config>,
    tls: MakeRustlsConnect,
    server: ServerName,
    pub(in crate::postgis) options: Arc<SessionOptions>,
    /// The search path of all sessions, once the first found it.
    path: Arc<OnceLock<SearchPath>>,
    pub(in crate::postgis) locks: Arc<Locks>,
    pub(in crate::postgis) stop: Stop,
}

/// One connection of the pool. It is in one read-only transaction, unless it may write.
pub(crate) struct Session {
    /// Statements that are parsed and planned once, if the session keeps them. Stands before the transaction, for fields are dropped in order.
    prepared: Option<PreparedStatements>,
    pub(in crate::postgis) client: Arc<Object>,
    pub(in crate::postgis) cancel: CancelToken,
    pub(in crate::postgis) database: Database,
    /// The exported snapshot that its transaction imports; `None` for a snapshot of its own.
    pub(in crate::postgis) exported: Option<ExportedSnapshot>,
    /// Its read-only transaction; `None` for a session that may write.
    pub(in crate::postgis) transaction: Option<Arc<Transaction>>,
    /// True while it takes locks in attempts: a wait that is too long is no news.
    waits_briefly: AtomicBool,
}

impl Database {
    /// A database without any connection yet.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(connect: &ConnectOptions, options: SessionOptions, stop: &Stop) -> Result<Database, Error> {
        let tls = tls::connector(connect.mode, &connect.files)?;
        let manager = Manager::from_config(
            connect.config.clone(),
            tls.clone(),
            // A connection returns to the pool inside its transaction.
            ManagerConfig { recycling_method: RecyclingMethod::Custom("ROLLBACK".to_owned()) },
        );
        // One connection more than sessions: the replacement of a broken connection is opened while the broken one is still in the pool.
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
            path: Arc::default(),
            locks: Arc::default(),
            stop: stop.clone(),
        })
    }

    /// The database for another run: it shares the pool, and gives way independently of this one. `stop` ends its statements.
    #[must_use]
    pub fn for_another_run(&self, stop: &Stop) -> Database {
        Database { locks: Arc::default(), stop: stop.clone(), ..self.clone() }
    }

    /// The database for the same run, with another `stop` that ends its statements.
    #[must_use]
    pub fn stopped_by(&self, stop: &Stop) -> Database {
        Database { stop: stop.clone(), ..self.clone() }
    }

    /// How many sessions of the pool are open, in use or not.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.pool.status().size
    }

    /// The server for messages.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Opens a connection outside of the pool. The caller must poll its second half.
    pub(in crate::postgis) async fn separate_connection(
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

    /// A session on a snapshot. The database was reached when the snapshot was taken, so no answer now means that it went away.
    pub(in crate::postgis) async fn on(&self, snapshot: &Snapshot) -> Result<Session, Error> {
        match self.session(Some(snapshot.exported.clone())).await {
            Err(Error::Unreachable { server, source }) => {
                Err(Error::Lost { server, during: "while connecting again".to_owned(), source })
            }
            // Another server, too, if the one with the snapshot was restarted or replaced: then its session is lost, which is the cause.
            Err(error @ Error::OtherServer { .. }) => {
                snapshot.all("looking for the server of the snapshot", "SELECT", &[]).await?;
                Err(error)
            }
            opened => opened,
        }
    }

    /// A session in a new transaction, on an exported snapshot if there is one yet.
    pub(in crate::postgis) async fn session(&self, exported: Option<ExportedSnapshot>) -> Result<Session, Error> {
        let client = tokio::select! {
            client = self.connection() => client?,
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        let (cancel, client) = (client.cancel_token(), Arc::new(client));
        let transaction = Transaction::new(&client);
        self.locks.register(&transaction);
        let (database, own) = (self.clone(), Some(Arc::clone(&transaction)));
        let waits_briefly = AtomicBool::new(false);
        let session = Session { prepared: None, client, cancel, database, exported, transaction: own, waits_briefly };
        session.begin(&transaction).await?;
        Ok(session)
    }

    /// A connection of the pool. The driver's own time limit covers only opening the socket, once for each address of a host, so it would wait
    /// without end for a server that accepts the connection and then says nothing.
    pub(in crate::postgis) async fn connection(&self) -> Result<Object, Error> {
        match tokio::time::timeout(self.connect_limit(), self.pool.get()).await {
            Ok(client) => client.map_err(|error| self.not_connected(error)),
            Err(_elapsed) => {
                let source = std::io::Error::other("it takes the connection, but does not answer").into();
                Err(Error::Unreachable { server: self.server.clone(), source })
            }
        }
    }

    /// The longest time that connecting may take, the server's answers included.
    pub(in crate::postgis) fn connect_limit(&self) -> Duration {
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
            // The only error of the driver itself that follows an answer of the server, which asked for a password.
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
    pub(in crate::postgis) fn server(&self) -> &ServerName {
        &self.database.server
    }

    /// All rows of a statement. `context` says what the run does, for messages, here and below.
    pub(crate) async fn all(&self, context: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let begun = Instant::now();
        self.until_stopped(async {
            self.client.query_typed(sql, params).await.map_err(|error| self.failed(context, begun, error))
        })
        .await
    }

    /// The one row of a statement.
    pub(crate) async fn one(&self, context: &str, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        let begun = Instant::now();
        self.until_stopped(async {
            self.client.query_typed_one(sql, params).await.map_err(|error| self.failed(context, begun, error))
        })
        .await
    }

    /// Calls `each` with every row of a statement as it arrives.
    pub(crate) async fn each(
        &self,
        context: &str,
        sql: &str,
        params: &[Param<'_>],
        mut each: impl FnMut(&Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let failed = |error| self.failed(context, begun, error);
        self.until_stopped(async {
            let rows = Box::pin(self.rows(sql, params, failed)).await?;
            tokio::pin!(rows);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                each(&row)?;
            }
            Ok(())
        })
        .await
    }

    /// Runs a statement to its end. If a stop is asked for, or the run gives way, the statement is cancelled in the server.
    pub(in crate::postgis) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::pin!(work);
        let stopped = tokio::select! {
            biased;
            done = &mut work => return self.checked_result(done).await,
            _ = self.database.stop.wait() => true,
            () = self.database.locks.giving_way() => false,
        };
        // A server ignores a request that comes before it has begun with the statement, so it is repeated.
        for _ in 0..CANCEL_REQUESTS {
            let cancelled = cancel(&self.cancel, &self.database.config, &self.database.tls);
            match tokio::time::timeout(Duration::from_secs(1), cancelled).await {
                // The statement then ends with an error, which shows that the server has cancelled it.
                Ok(Ok(())) if tokio::time::timeout(CANCEL_PAUSE, &mut work).await.is_ok() => break,
                Ok(Ok(())) => continue,
                Ok(Err(error)) => tracing::warn!("a query could not be cancelled in the server: {error}"),
                Err(_elapsed) => tracing::warn!("a query could not be cancelled in the server within a second"),
            }
            break;
        }
        Err(if stopped {
            Error::Interrupted
        } else {
            self.database.locks.gave_way_error().unwrap_or(Error::Interrupted)
        })
    }

    /// The result of a statement, or the error that the run gave way: a statement that runs after its transaction ended sees another state.
    async fn checked_result<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if let Some(gave_way) = self.database.locks.gave_way_error() {
            return Err(gave_way);
        }
        match done {
            Err(error @ Error::Locked { .. }) if !self.waits_briefly.load(Ordering::Relaxed) => {
                Err(self.with_holder(error).await)
            }
            done => done,
        }
    }

    /// Adds to the error of a wait that was too long which lock it was, and which process holds it.
    async fn with_holder(&self, error: Error) -> Error {
        let backend = self.transaction.as_ref().and_then(|transaction| transaction.backend());
        // Boxed, or the future of every statement would be as large as that of opening a connection.
        Box::pin(self.database.with_holder(backend.map(|backend| backend.pid), error)).await
    }

    /// The meaning of a failed statement that began at `begun`.
    pub(in crate::postgis) fn failed(&self, context: &str, begun: Instant, error: tokio_postgres::Error) -> Error {
        let context = context.to_owned();
        let source = Cause::from(error);
        if source.is_lost() {
            return Error::Lost { server: self.server().clone(), during: format!("at {context}"), source };
        }
        // In a session that may write, the caller gives a lock failure its meaning.
        if self.transaction.is_some() && source.is_lock_failure() {
            return Error::Locked {
                context,
                wait: self.database.options.wait_text(&source),
                holder: String::new(),
                source,
            };
        }
        if source.is_recovery_conflict() {
            return Error::Recovery { context, source };
        }
        if source.is_full_lock_table() {
            return Error::Setting {
                what: format!("{context}: the lock table of {} is full ({source})", self.server()),
                next: "lower --workers, or raise max_locks_per_transaction in the server and restart it".to_owned(),
            };
        }
        if source.is_cancelled() {
            let options = &self.database.options;
            if options.is_statement_limit(begun.elapsed()) {
                let limit = options.statement_timeout;
                return Error::Timeout { context, after: humantime::format_duration(limit).to_string(), source };
            }
            let next = "Somebody cancelled it in the server (pg_cancel_backend): run the command again";
            return Error::Query { context, next, source };
        }
        Error::Query { context, next: "Mend what the cause names, and run the command again", source }
    }
}
