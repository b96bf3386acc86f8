//! The transaction of a session: read-only, with the settings that make plans and bytes the same on every server. Its
//! locks last until its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use deadpool_postgres::Object;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::error::{Cause, Error};
use super::options::lift_limits;
use super::origin::{ExportedSnapshot, ORIGIN_COLUMNS, SessionOrigin};
use super::search_path::{SAFE_PATH, SCHEMAS, SearchPath};
use super::text_settings::fix_drawn_texts;
use super::{Database, Session};
use crate::error::with_causes;

/// A transaction on a connection of the pool. Dropping it rolls it back, so that a connection in the pool holds no
/// lock.
pub(crate) struct Transaction {
    client: Arc<Object>,
    backend: OnceLock<Backend>,
    origin: OnceLock<SessionOrigin>,
    ended: AtomicBool,
}

/// How the server identifies a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    /// The process that serves the connection.
    pub(crate) pid: i32,
    /// The virtual transaction id (`pg_locks.virtualxid`). A pooler assigns the process to other clients after the
    /// transaction, but not this id.
    pub(crate) transaction: String,
}

impl Transaction {
    pub(crate) fn new(client: &Arc<Object>) -> Arc<Transaction> {
        let (client, backend, origin) = (Arc::clone(client), OnceLock::new(), OnceLock::new());
        Arc::new(Transaction { client, backend, origin, ended: AtomicBool::new(false) })
    }

    /// How the server identifies the transaction; `None` before it began.
    pub(crate) fn backend(&self) -> Option<&Backend> {
        self.backend.get()
    }

    /// The server and the snapshot of the transaction; `None` before it began.
    pub(crate) fn origin(&self) -> Option<&SessionOrigin> {
        self.origin.get()
    }

    /// Ends the transaction. If a statement runs in it, the server ends it after that statement.
    pub(crate) async fn roll_back(&self) -> Result<(), tokio_postgres::Error> {
        if self.ended.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.client.batch_execute("ROLLBACK").await
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if *self.ended.get_mut() || self.client.is_closed() {
            return;
        }
        // Without a runtime, the process is about to end, which closes its connections.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let client = Arc::clone(&self.client);
        runtime.spawn(async move {
            if let Err(error) = client.batch_execute("ROLLBACK").await {
                tracing::debug!("a transaction ended with its connection: {error}");
            }
        });
    }
}

impl Session {
    /// Begins the transaction, on the exported snapshot if there is one yet.
    pub(crate) async fn begin(&self, transaction: &Transaction) -> Result<(), Error> {
        let options = &self.database.options;
        let snapshot =
            self.exported.as_ref().map(|from| format!("SET TRANSACTION SNAPSHOT '{}';", from.id.replace('\'', "''")));
        let path = self.database.path.get().map(SearchPath::set);
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {snapshot} {SCHEMAS} {SAFE_PATH}
             SET LOCAL statement_timeout = {timeout};
             {lifted}
             SET LOCAL lock_timeout = {lock_timeout};
             SET LOCAL work_mem = '{work_mem}';
             SET LOCAL enable_hashagg = off;                 -- a hash of thousands of open tiles took 40 times as long
             SET LOCAL jit = off;
             SET LOCAL max_parallel_workers_per_gather = 0;  -- the pool is the parallelism; parallel plans change the order
             {texts}
             SELECT pid, virtualxid, {ORIGIN_COLUMNS} FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'virtualxid'; {path}",
            path = path.as_deref().unwrap_or_default(),
            snapshot = snapshot.unwrap_or_default(),
            timeout = options.section.statement_timeout.as_millis(),
            lifted = lift_limits(),
            lock_timeout = options.lock_limit().as_millis(),
            texts = fix_drawn_texts(),
            work_mem = options.section.work_mem.replace('\'', "''"),
        );
        // Behind a pooler even this may have to wait for a free connection.
        let begin = async { Ok(self.client.simple_query(&sql).await) };
        let messages = match self.until_stopped(begin).await? {
            Ok(messages) => messages,
            Err(error) => return Err(self.not_begun(error.into()).await),
        };
        if let Some(backend) = messages.iter().find_map(backend) {
            transaction.backend.get_or_init(|| backend);
        }
        if let Some(origin) = messages.iter().find_map(origin) {
            if let Some(from) = self.exported.as_ref().filter(|from| !from.origin.is_same(&origin)) {
                return Err(self.other_server(from, &origin));
            }
            transaction.origin.get_or_init(|| origin);
        }
        if path.is_none() {
            self.find_search_path(messages.iter().find_map(schemas).unwrap_or("[]")).await?;
        }
        self.set_parameters(&options.parameters).await
    }

    /// The server and the snapshot of the session: as its transaction said when it began, else as the server says now.
    pub(crate) async fn origin(&self) -> Result<SessionOrigin, Error> {
        if let Some(origin) = self.transaction.as_ref().and_then(|transaction| transaction.origin()) {
            return Ok(origin.clone());
        }
        let context = "asking the server which one it is";
        let asked = async { Ok(self.client.simple_query(&format!("SELECT {ORIGIN_COLUMNS}")).await) };
        let messages = self.until_stopped(asked).await?;
        let messages = messages.map_err(|error| self.failed(context, Instant::now(), error))?;
        messages.iter().find_map(origin).ok_or_else(|| Error::Query {
            context: context.to_owned(),
            next: "look into the cause",
            source: std::io::Error::other("it gives no answer").into(),
        })
    }

    fn other_server(&self, expected: &ExportedSnapshot, found: &SessionOrigin) -> Error {
        let (first, other) = (expected.origin.to_string(), found.to_string());
        Error::OtherServer { server: self.server().clone(), first, other }
    }

    async fn not_begun(&self, source: Cause) -> Error {
        // The server does not know the snapshot any more, because the session that exported it has ended.
        let snapshot_gone = self.exported.is_some()
            && matches!(source.code, Some(SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT));
        if !source.is_lost()
            && let Some(from) = &self.exported
            && self.client.batch_execute("ROLLBACK").await.is_ok()
            && let Ok(found) = self.origin().await
            && !from.origin.is_same_server(&found)
        {
            return self.other_server(from, &found);
        }
        if source.is_lost() || snapshot_gone {
            let during = "while opening a session".to_owned();
            return Error::Lost { server: self.server().clone(), during, source };
        }
        Error::Query {
            context: "opening a session".to_owned(),
            next: "look into the cause (work_mem and statement_timeout stand in [database])",
            source,
        }
    }

    /// Sets the savepoint to which the session returns after a failed statement. Ending the transaction instead would
    /// release its locks, and end the snapshot if the session holds it.
    pub(crate) async fn set_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("SAVEPOINT oar_tiles", "while opening a session").await
    }

    /// Releases the savepoint, and keeps what was set after it.
    pub(crate) async fn release_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("RELEASE SAVEPOINT oar_tiles", "while setting values").await
    }

    /// Returns to the savepoint after a failed statement. The snapshot and the locks that were taken before the
    /// savepoint stay.
    pub(crate) async fn return_to_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("ROLLBACK TO SAVEPOINT oar_tiles", "after a failed statement").await
    }

    /// The result of statements that began at the savepoint. If one of them failed, the session returns to the
    /// savepoint, and the inner result has the error.
    pub(crate) async fn at_savepoint<T>(&self, done: Result<T, Error>) -> Result<Result<T, Error>, Error> {
        match done {
            Err(error) if error.is_of_statement() => {
                self.return_to_savepoint().await?;
                Ok(Err(error))
            }
            done => done.map(Ok),
        }
    }

    /// The result of statements that began at the savepoint and that a run can do without. `None` if one of them
    /// failed; the log then says why, and what `instead` happens to the layer.
    pub(crate) async fn or_without<T>(
        &self,
        done: Result<T, Error>,
        layer: &str,
        instead: &str,
    ) -> Result<Option<T>, Error> {
        let done = self.at_savepoint(done).await?;
        Ok(done.inspect_err(|error| tracing::info!("layer \"{layer}\": {instead}: {}", with_causes(error))).ok())
    }

    /// Runs a statement that controls the transaction, which fails only if the session is lost.
    pub(crate) async fn transaction_control(&self, sql: &str, during: &str) -> Result<(), Error> {
        let ended = self.client.batch_execute(sql).await;
        if let Some(gave_way) = self.database.locks.gave_way_error() {
            return Err(gave_way);
        }
        ended.map_err(|error| Error::Lost {
            server: self.server().clone(),
            during: during.to_owned(),
            source: error.into(),
        })
    }
}

/// The schemas of the role's search path, if `message` is the answer that contains them.
fn schemas(message: &SimpleQueryMessage) -> Option<&str> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    if row.len() == 1 { row.get(0) } else { None }
}

/// The session's origin, if `message` is the answer that contains it.
fn origin(message: &SimpleQueryMessage) -> Option<SessionOrigin> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    if row.len() > 1 { SessionOrigin::of(row) } else { None }
}

/// The answer of the server that identifies the transaction, if `message` is that answer.
fn backend(message: &SimpleQueryMessage) -> Option<Backend> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    if row.len() < 2 {
        return None;
    }
    Some(Backend { pid: row.get(0)?.parse().ok()?, transaction: row.get(1)?.to_owned() })
}

// Sessions that may write. Only the change log needs them; everything else reads a snapshot.

impl Database {
    /// A session without a transaction. When it is dropped, a transaction that it began and did not commit is rolled
    /// back.
    pub(crate) async fn writing(&self) -> Result<Session, Error> {
        let client = tokio::select! {
            client = self.connection() => client?,
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        let (cancel, client) = (client.cancel_token(), Arc::new(client));
        let (database, waits_briefly) = (self.clone(), AtomicBool::new(false));
        Ok(Session { prepared: None, client, cancel, database, exported: None, transaction: None, waits_briefly })
    }
}

impl Session {
    /// The statements that begin a transaction that may write. No setting limits how long it takes: a refresh or a
    /// prune may be long.
    fn begin_statements(&self) -> String {
        let lock_limit = self.database.options.lock_limit().as_millis();
        let lifted = lift_limits();
        format!("BEGIN READ WRITE; SET LOCAL lock_timeout = {lock_limit}; SET LOCAL statement_timeout = 0; {lifted}")
    }

    /// Begins a transaction that may write. It has the search path and the lock limit of a reading transaction.
    pub(crate) async fn begin_writing(&self, context: &str) -> Result<(), Error> {
        let begin = self.begin_statements();
        if let Some(path) = self.database.path.get() {
            return self.script(context, &format!("{begin} {}", path.set())).await.map(drop);
        }
        let schemas = self.script(context, &format!("{begin} {SCHEMAS} {SAFE_PATH}")).await?;
        self.find_search_path(schemas.last().map_or("[]", String::as_str)).await
    }

    /// Begins a transaction with only `pg_catalog` on its search path, so that no object in the role's own schemas can
    /// shadow those of PostgreSQL.
    pub(crate) async fn begin_writing_without_search_path(&self, context: &str) -> Result<(), Error> {
        let begin = format!("{} {SAFE_PATH}", self.begin_statements());
        self.script(context, &begin).await.map(drop)
    }

    /// Runs statements one after the other, as psql would, and returns the first column of every row. The first failure
    /// ends the script.
    pub(crate) async fn script(&self, context: &str, sql: &str) -> Result<Vec<String>, Error> {
        let begun = Instant::now();
        let messages = self
            .until_stopped(async {
                self.client.simple_query(sql).await.map_err(|error| self.failed(context, begun, error))
            })
            .await?;
        let first = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) if !row.is_empty() => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(messages.iter().filter_map(first).collect())
    }
}
