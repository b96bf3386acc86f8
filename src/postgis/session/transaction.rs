//! The transaction of a session: read-only, with the settings that make plans and bytes the same everywhere. Its end is the end of
//! its locks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use deadpool_postgres::Object;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::Session;
use super::error::{Cause, Error};

/// A transaction on a connection of the pool. Dropped, it is rolled back: a connection that waits in the pool holds no lock.
pub(in crate::postgis) struct Transaction {
    client: Arc<Object>,
    backend: OnceLock<Backend>,
    ended: AtomicBool,
}

/// What the server knows a transaction by.
#[derive(Debug, Clone)]
pub(in crate::postgis) struct Backend {
    /// The process.
    pub(in crate::postgis) pid: i32,
    /// The virtual transaction id (`pg_locks.virtualxid`). A pooler lends the process to others after the transaction; this id
    /// is never theirs.
    pub(in crate::postgis) transaction: String,
}

impl Transaction {
    pub(in crate::postgis) fn new(client: &Arc<Object>) -> Arc<Transaction> {
        Arc::new(Transaction { client: Arc::clone(client), backend: OnceLock::new(), ended: AtomicBool::new(false) })
    }

    /// What the server knows it by, once it has begun.
    pub(in crate::postgis) fn backend(&self) -> Option<&Backend> {
        self.backend.get()
    }

    /// Ends it, after the statement that runs in it.
    pub(in crate::postgis) async fn roll_back(&self) -> Result<(), tokio_postgres::Error> {
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
        // Without a runtime the process is about to end, and its connections with it.
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
    /// Begins the transaction on the snapshot, if there is one yet.
    pub(in crate::postgis) async fn begin(&self, transaction: &Transaction) -> Result<(), Error> {
        let options = &self.database.options;
        let snapshot =
            self.exported.as_ref().map(|id| format!("SET TRANSACTION SNAPSHOT '{}';", id.replace('\'', "''")));
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {snapshot}
             SET LOCAL statement_timeout = {timeout};
             SET LOCAL idle_in_transaction_session_timeout = 0; -- the keeper of the snapshot waits for the whole run
             SET LOCAL lock_timeout = {lock_timeout};
             SET LOCAL work_mem = '{work_mem}';
             SET LOCAL enable_hashagg = off;                 -- a hash of thousands of open tiles took 40 times as long
             SET LOCAL jit = off;
             SET LOCAL max_parallel_workers_per_gather = 0;  -- the pool is the parallelism; parallel plans change the order
             SET LOCAL timezone = 'UTC';                     -- how dates and numbers read in a tile
             SET LOCAL datestyle = 'ISO, MDY';
             SET LOCAL intervalstyle = 'postgres';
             SET LOCAL extra_float_digits = 1;
             SET LOCAL bytea_output = 'hex';
             SELECT pid, virtualxid FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'virtualxid'",
            snapshot = snapshot.unwrap_or_default(),
            timeout = options.statement_timeout.as_millis(),
            lock_timeout = options.lock_limit().as_millis(),
            work_mem = options.work_mem.replace('\'', "''"),
        );
        // A pooler may keep even this waiting, until one of its connections is free.
        let begin = async { Ok(self.client.simple_query(&sql).await) };
        let messages = self.until_stopped(begin).await?.map_err(|error| self.not_begun(error.into()))?;
        if let Some(backend) = messages.iter().find_map(backend) {
            transaction.backend.get_or_init(|| backend);
        }
        match self.database.postgis.get() {
            Some(schema) => self.add_to_search_path(schema).await,
            None => Ok(()),
        }
    }

    fn not_begun(&self, source: Cause) -> Error {
        // The snapshot is gone with the session that exported it.
        let snapshot_gone = self.exported.is_some()
            && matches!(source.code, Some(SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT));
        if source.is_lost() || snapshot_gone {
            let during = "while opening a session".to_owned();
            return Error::Lost { server: self.server().clone(), during, source };
        }
        Error::Query {
            place: "opening a session".to_owned(),
            next: "look into the cause (work_mem and statement_timeout stand in [database])",
            source,
        }
    }

    /// Marks the place to which the session goes back after a failed statement. Ending its transaction would release its locks,
    /// and end the snapshot if the session holds it.
    pub(in crate::postgis) async fn save(&self) -> Result<(), Error> {
        self.plainly("SAVEPOINT oar_tiles", "while opening a session").await
    }

    /// Goes back to the marked place after a statement failed: the snapshot and the locks taken before stay.
    pub(in crate::postgis) async fn restart(&self) -> Result<(), Error> {
        self.plainly("ROLLBACK TO SAVEPOINT oar_tiles", "after a failed statement").await
    }

    /// A statement that fails only if the session is lost.
    async fn plainly(&self, sql: &str, during: &str) -> Result<(), Error> {
        let ended = self.client.batch_execute(sql).await;
        if let Some(gave_way) = self.database.locks.gave_way() {
            return Err(gave_way);
        }
        ended.map_err(|error| Error::Lost {
            server: self.server().clone(),
            during: during.to_owned(),
            source: error.into(),
        })
    }
}

/// The row that says what the server knows the transaction by.
fn backend(message: &SimpleQueryMessage) -> Option<Backend> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some(Backend { pid: row.get(0)?.parse().ok()?, transaction: row.get(1)?.to_owned() })
}
