//! Sessions that may write. Only the change log needs them; everything else reads a snapshot.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio_postgres::SimpleQueryMessage;

use super::error::Error;
use super::options::lift_limits;
use super::search_path::{SAFE_PATH, SCHEMAS};
use super::{Database, Session};

impl Database {
    /// A session without a transaction. When it is dropped, a transaction that it began and did not commit is rolled back.
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
    /// The statements that begin a transaction that may write. No setting limits how long it takes: a refresh or a prune may be long.
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

    /// Begins a transaction with only `pg_catalog` on its search path, so that no object in the role's own schemas can shadow those of PostgreSQL.
    pub(crate) async fn begin_writing_without_search_path(&self, context: &str) -> Result<(), Error> {
        let begin = format!("{} {SAFE_PATH}", self.begin_statements());
        self.script(context, &begin).await.map(drop)
    }

    /// Runs statements one after the other, as psql would, and returns the first column of every row. The first failure ends the script.
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
