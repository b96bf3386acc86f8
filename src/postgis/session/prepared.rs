//! Statements that the server parses and plans once, for sessions that run the same few statements again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, RowStream, Statement};

use super::error::Error;
use super::{Param, Session};

/// The prepared statements of a session, by their text. Dropping this value closes them in the server. It must be dropped before the session's
/// transaction ends: behind a pooler that assigns connections by transaction, the next client would find the statements.
#[derive(Default)]
pub(super) struct PreparedStatements(Mutex<StatementTable>);

#[derive(Default)]
struct StatementTable {
    statements: HashMap<String, Statement>,
    /// True once the server has refused a name, because another client of the pooler left a statement of that name on the connection.
    is_refused: bool,
}

impl PreparedStatements {
    fn find(&self, sql: &str) -> Option<Statement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).statements.get(sql).cloned()
    }

    fn is_refused(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_refused
    }

    fn refuse(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_refused = true;
    }

    async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Statement, tokio_postgres::Error> {
        let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = client.prepare_typed(sql, &types).await?;
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Session {
    /// From now on, the server parses and plans each statement text only once. Parsing and planning a statement that renders a tile takes about 1.2
    /// ms, and rendering a small tile takes 0.2 ms. The session must have its savepoint.
    ///
    /// # Errors
    /// If the session is lost.
    pub(in crate::postgis) async fn keep_statements(&mut self) -> Result<(), Error> {
        // A generic plan is as good: the areas of a statement are rows of a materialized subquery, so the planner cannot use their values anyway.
        self.all("opening a session", "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)", &[]).await?;
        self.prepared = Some(PreparedStatements::default());
        Ok(())
    }

    /// The rows of a statement, which the server prepares first if the session keeps statements. `failed` converts the driver's errors.
    pub(super) async fn rows(
        &self,
        sql: &str,
        params: &[Param<'_>],
        failed: impl Fn(tokio_postgres::Error) -> Error,
    ) -> Result<RowStream, Error> {
        let rows = if let Some(statement) = self.prepared(sql, params, &failed).await? {
            self.client.query_raw(&statement, params.iter().map(|(value, _)| *value)).await
        } else {
            let params = params.iter().map(|(value, kind)| (*value, kind.clone()));
            self.client.query_typed_raw(sql, params).await
        };
        rows.map_err(failed)
    }

    /// The prepared statement with this text; `None` if the session keeps no statements.
    async fn prepared(
        &self,
        sql: &str,
        params: &[Param<'_>],
        failed: impl Fn(tokio_postgres::Error) -> Error,
    ) -> Result<Option<Statement>, Error> {
        let Some(prepared) = self.prepared.as_ref().filter(|prepared| !prepared.is_refused()) else { return Ok(None) };
        if let Some(statement) = prepared.find(sql) {
            return Ok(Some(statement));
        }
        match prepared.prepare(&self.client, sql, params).await {
            Ok(statement) => Ok(Some(statement)),
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) => {
                prepared.refuse();
                self.return_to_savepoint().await?;
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }
}
