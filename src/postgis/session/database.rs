//! A database: a bounded pool of connections, from which all sessions of a run are taken.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::locks::Locks;
use super::search_path::SearchPath;
use super::transaction::Transaction;
use super::{Cause, ConnectOptions, Error, ExportedSnapshot, ServerName, Session, SessionOptions, Snapshot};
use crate::postgis::session::connect;
use crate::stop::Stop;

/// A database with its pool of connections. Clones share the pool.
#[derive(Clone)]
pub struct Database {
    pub(crate) pool: Pool,
    pub(crate) config: Arc<tokio_postgres::Config>,
    pub(crate) tls: MakeRustlsConnect,
    pub(crate) server: ServerName,
    pub(crate) options: Arc<SessionOptions>,
    /// The search path of all sessions; empty until the first session has found it.
    pub(crate) path: Arc<OnceLock<SearchPath>>,
    pub(crate) locks: Arc<Locks>,
    pub(crate) stop: Stop,
}

impl Database {
    /// A database without any connection yet.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(connect: &ConnectOptions, options: SessionOptions, stop: &Stop) -> Result<Database, Error> {
        let tls = connect::connector(connect.mode, &connect.files)?;
        let manager = Manager::from_config(
            connect.config.clone(),
            tls.clone(),
            // A connection returns to the pool inside its transaction.
            ManagerConfig { recycling_method: RecyclingMethod::Custom("ROLLBACK".to_owned()) },
        );
        // One connection more than sessions: the replacement of a broken connection is opened while the broken one is
        // still in the pool.
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

    /// The database for another run. It shares the pool, but releases its locks to waiting processes independently of
    /// this run. `stop` ends its statements.
    pub(crate) fn for_another_run(&self, stop: &Stop) -> Database {
        Database { locks: Arc::default(), stop: stop.clone(), ..self.clone() }
    }

    /// The database for the same run, with another `stop` that ends its statements.
    pub(crate) fn stopped_by(&self, stop: &Stop) -> Database {
        Database { stop: stop.clone(), ..self.clone() }
    }

    /// The number of open connections of the pool, in use or idle.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.pool.status().size
    }

    /// The server for messages.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Opens a connection outside of the pool. The caller must poll the returned `Connection`.
    pub(crate) async fn separate_connection(
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

    /// A session on a snapshot. The database answered when the snapshot was taken, so if it does not answer now, it
    /// went away.
    pub(crate) async fn on(&self, snapshot: &Snapshot) -> Result<Session, Error> {
        match self.session(Some(snapshot.exported.clone())).await {
            Err(Error::Unreachable { server, source }) => {
                Err(Error::Lost { server, during: "while connecting again".to_owned(), source })
            }
            // The address also leads to another server if the server with the snapshot was restarted or replaced. Then
            // the snapshot's session is lost, and that is the error to return.
            Err(error @ Error::OtherServer { .. }) => {
                snapshot.all("looking for the server of the snapshot", "SELECT", &[]).await?;
                Err(error)
            }
            opened => opened,
        }
    }

    /// A session in a new transaction, on an exported snapshot if there is one yet.
    pub(crate) async fn session(&self, exported: Option<ExportedSnapshot>) -> Result<Session, Error> {
        let mut session = self.writing().await?;
        let transaction = Transaction::new(&session.client);
        self.locks.register(&transaction);
        (session.exported, session.transaction) = (exported, Some(Arc::clone(&transaction)));
        session.begin(&transaction).await?;
        Ok(session)
    }

    /// A connection of the pool, within [`Database::connect_limit`]. The driver's own time limit covers only opening
    /// the socket, once for each address of a host, so the driver would wait without end for a server that accepts the
    /// connection and then sends nothing.
    pub(crate) async fn connection(&self) -> Result<Object, Error> {
        match tokio::time::timeout(self.connect_limit(), self.pool.get()).await {
            Ok(client) => client.map_err(|error| self.not_connected(error)),
            Err(_elapsed) => {
                let source = std::io::Error::other("it takes the connection, but does not answer").into();
                Err(self.unreachable(source))
            }
        }
    }

    /// The longest time that connecting may take, including the server's answers.
    pub(crate) fn connect_limit(&self) -> Duration {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(u32::MAX);
        let each = self.config.get_connect_timeout();
        each.map_or(Duration::MAX, |each| each.saturating_mul(hosts.saturating_mul(2)))
    }

    /// The error of a server that does not answer.
    fn unreachable(&self, source: Cause) -> Error {
        let server = self.server.clone();
        if server.is_named { Error::Unreachable { server, source } } else { Error::NotNamed { server, source } }
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
            // This is the only error of the driver itself that follows an answer of the server: the server asked for a
            // password.
            return if source.to_string() == "password missing" {
                Error::Refused { server, source }
            } else {
                self.unreachable(source)
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
