//! Sessions: a bounded pool of connections, one exported snapshot that every session of a run sees, and statements that
//! a stop cancels in the server.
//!
//! | file | subject |
//! |---|---|
//! | `database` | the pool that a run's sessions come from |
//! | `connect` | where the database is, TLS, cancelling a statement |
//! | `origin` | whether all sessions of a run are on one server |
//! | `locks` | locks are taken early and waited for briefly; the run releases them when others have waited too long |
//! | `search_path` | where names are looked up, and whether others have put objects there that stand in for PostGIS |
//! | `text_settings` | the settings that decide how values are written as texts and read from texts |
//! | `snapshot`, `transaction`, `listen` | the state that a run sees, and the read-only transaction of each session; sessions that may write, and connections that receive notifications |
//! | `prepared`, `options`, `error` | statements that are parsed and planned once a session; limits, errors, names for messages and for SQL |
//!
//! Prepared statements have no names, so they work behind a pooler that assigns connections by transaction. Those of
//! `prepared` are the exception.

mod connect;
mod database;
mod error;
mod listen;
mod locks;
mod options;
mod origin;
mod prepared;
mod search_path;
mod snapshot;
mod text_settings;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use connect::cancel;
use deadpool_postgres::Object;
use futures_util::TryStreamExt as _;
use prepared::PreparedStatements;
use text_settings::fix_drawn_texts;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{CancelToken, Row};
use transaction::Transaction;

pub(crate) use connect::ConnectOptions;
pub use connect::ConnectParts;
pub use database::Database;
pub(crate) use error::ServerName;
pub(crate) use error::area_name;
pub(crate) use error::{Cause, Error};
pub(crate) use listen::Listener;
pub(crate) use locks::LockAttempts;
pub(crate) use options::{DatabaseSection, SessionOptions};
pub(crate) use origin::ExportedSnapshot;
pub(crate) use prepared::SessionValue;
pub(crate) use prepared::{quoted, setting_of};
pub(crate) use snapshot::Snapshot;
pub(crate) use text_settings::{DRAWN_TEXTS, LOGGED_TEXTS, TextSetting};

/// The most requests to the server to cancel a statement.
const CANCEL_REQUESTS: u32 = 6;
/// The time that a statement has to end after each request.
const CANCEL_PAUSE: Duration = Duration::from_millis(500);

/// A parameter of a statement, and its type.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A value in the binary format of the protocol (PostgreSQL documentation, section 55.7).
#[derive(Debug)]
pub(crate) struct BinaryValue(pub(crate) Vec<u8>);

impl ToSql for BinaryValue {
    fn to_sql(&self, _kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// One connection of the pool. It is in one read-only transaction, unless it may write.
pub(crate) struct Session {
    /// Statements that are parsed and planned once, if the session keeps them. This field stands before the transaction
    /// because fields are dropped in order.
    prepared: Option<PreparedStatements>,
    pub(crate) client: Arc<Object>,
    pub(crate) cancel: CancelToken,
    pub(crate) database: Database,
    /// The exported snapshot that the session's transaction imports; `None` if it has a snapshot of its own.
    pub(crate) exported: Option<ExportedSnapshot>,
    /// The session's read-only transaction; `None` if the session may write.
    pub(crate) transaction: Option<Arc<Transaction>>,
    /// True while the session takes locks in attempts ([`LockAttempts`]): a wait that is too long is then expected, and
    /// its error names no holder.
    waits_briefly: AtomicBool,
}

impl Session {
    pub(crate) fn server(&self) -> &ServerName {
        &self.database.server
    }

    /// All rows of a statement. Here and in the methods below, `context` says in messages what the run does.
    pub(crate) async fn all(&self, context: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.answered(context, Box::pin(self.client.query_typed(sql, params))).await
    }

    pub(crate) async fn one(&self, context: &str, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        self.answered(context, Box::pin(self.client.query_typed_one(sql, params))).await
    }

    async fn answered<T>(
        &self,
        context: &str,
        query: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let failed = |error| self.failed(context, begun, error);
        self.until_stopped(async {
            let (restored, answer) = tokio::join!(self.restored(), query);
            let answer = answer.map_err(failed)?;
            restored.map_err(failed).map(|()| answer)
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
            let (restored, rows) = tokio::join!(self.restored(), Box::pin(self.rows(sql, params, failed)));
            let rows = rows?;
            restored.map_err(failed)?;
            tokio::pin!(rows);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                each(&row)?;
            }
            Ok(())
        })
        .await
    }

    /// Sets the search path and the form of texts again, before a statement that is on its way at once: this costs no
    /// round trip. A view or function that an earlier statement read may have changed them (`set_config`), and then
    /// names and texts of other layers would mean something else.
    async fn restored(&self) -> Result<(), tokio_postgres::Error> {
        match self.database.path.get().filter(|_| self.transaction.is_some()) {
            Some(path) => self.client.batch_execute(&(fix_drawn_texts() + &path.set())).await,
            None => Ok(()),
        }
    }

    /// Runs a statement to its end. If a stop is requested, or the run gives way to others, the statement is cancelled
    /// in the server.
    pub(crate) async fn until_stopped<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(work);
        let stopped = tokio::select! {
            biased;
            done = &mut work => return self.checked_result(done).await,
            _ = self.database.stop.wait() => true,
            () = self.database.locks.giving_way() => false,
        };
        // A server ignores a cancel request that arrives before it has begun the statement, so the request is repeated.
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

    /// The result of a statement, or the error that the run gave way. In that case the statement may have run after its
    /// transaction ended, on another state.
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

    /// Adds the lock, and the process that holds it, to the error of a wait that was too long.
    async fn with_holder(&self, error: Error) -> Error {
        let backend = self.transaction.as_ref().and_then(|transaction| transaction.backend());
        // Boxed, because otherwise the future of every statement would be as large as the future that opens a
        // connection.
        Box::pin(self.database.with_holder(backend.map(|backend| backend.pid), error)).await
    }

    /// Classifies the error of a statement that began at `begun`.
    pub(crate) fn failed(&self, context: &str, begun: Instant, error: tokio_postgres::Error) -> Error {
        let context = context.to_owned();
        let source = Cause::from(error);
        if source.is_lost() {
            return Error::Lost { server: self.server().clone(), during: format!("at {context}"), source };
        }
        // In a session that may write, the caller classifies lock failures.
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
                let limit = *options.section.statement_timeout;
                return Error::Timeout { context, after: humantime::format_duration(limit).to_string(), source };
            }
            let next = "Somebody cancelled it in the server (pg_cancel_backend): run the command again";
            return Error::Query { context, next, source };
        }
        let next = if source.is_temp_file_limit() {
            "Raise temp_file_limit of the role in the server, or work_mem in [database], and run the command again"
        } else {
            "Mend what the cause names, and run the command again"
        };
        Error::Query { context, next, source }
    }
}
