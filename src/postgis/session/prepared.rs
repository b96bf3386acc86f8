//! Statements that the server parses and plans once, for sessions that run the same few statements again and again.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, RowStream, Statement};

use super::error::Error;
use super::{Param, Session};

/// The prepared statements of a session, by their text. Dropping this value closes them in the server. It must be
/// dropped before the session's transaction ends: behind a pooler that assigns connections by transaction, the next
/// client would find the statements.
#[derive(Default)]
pub(crate) struct PreparedStatements(Mutex<StatementTable>);

#[derive(Default)]
struct StatementTable {
    statements: HashMap<String, Statement>,
    /// True once the server has refused a name, because another client of the pooler left a statement of that name on
    /// the connection.
    is_refused: bool,
}

impl PreparedStatements {
    fn find(&self, sql: &str) -> Option<Statement> {
        self.0.lock().statements.get(sql).cloned()
    }

    fn is_refused(&self) -> bool {
        self.0.lock().is_refused
    }

    fn refuse(&self) {
        self.0.lock().is_refused = true;
    }

    async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Statement, tokio_postgres::Error> {
        let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = client.prepare_typed(sql, &types).await?;
        let mut table = self.0.lock();
        table.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Session {
    /// From now on, the server parses and plans each statement text only once. Parsing and planning a statement that
    /// renders a tile takes about 1.2 ms, and rendering a small tile takes 0.2 ms. The session must have its savepoint.
    pub(crate) async fn keep_statements(&mut self) -> Result<(), Error> {
        // A generic plan is as good: the areas of a statement are rows of a materialized subquery, so the planner
        // cannot use their values anyway.
        self.all("opening a session", "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)", &[]).await?;
        self.prepared = Some(PreparedStatements::default());
        Ok(())
    }

    /// The rows of a statement, which the server prepares first if the session keeps statements. `failed` converts the
    /// driver's errors.
    pub(crate) async fn rows(
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

// Names as SQL.

/// An identifier in double quotes (PostgreSQL documentation, section 4.1.1).
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

// The values of a variant in a session: settings of its transaction, which the conditions of the layers read.

/// The name of the setting that holds the value of parameter `number`, counted from 0.
pub(crate) fn setting_of(number: usize) -> String {
    format!("oar_tiles.parameter_{}", number + 1)
}

impl Session {
    /// Sets the values of a variant in the session's transaction.
    pub(crate) async fn set_parameters(&self, values: &[String]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let set: Vec<String> =
            (0..values.len()).map(|n| format!("set_config('{}', ${}, true)", setting_of(n), n + 1)).collect();
        let params: Vec<Param<'_>> = values.iter().map(|value| -> Param<'_> { (value, Type::TEXT) }).collect();
        self.all("opening a session", &format!("SELECT {}", set.join(", ")), &params).await.map(drop)
    }
    /// Sets the savepoint to which the session returns before each variant. At this point it holds its locks, and no
    /// values are set.
    pub(crate) async fn set_variant_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("SAVEPOINT oar_tiles_variant", "while opening a session").await
    }

    /// Replaces the values of the previous variant in the session's transaction by those of the next. They stay set
    /// when a statement fails.
    pub(crate) async fn begin_variant(&self, values: &[String]) -> Result<(), Error> {
        self.transaction_control("ROLLBACK TO SAVEPOINT oar_tiles_variant", "between two variants").await?;
        self.set_parameters(values).await?;
        self.set_savepoint().await
    }
}

// Values that statements of a session read: settings of its transaction.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionValue {
    pub(crate) setting: String,
    /// The value: an array of texts, in text form.
    pub(crate) array: String,
}

impl Session {
    /// Sets values until the end of the transaction. The session must have its savepoint; the values stay set when it
    /// returns there.
    pub(crate) async fn set_values(&self, values: &[SessionValue]) -> Result<(), Error> {
        let places: Vec<String> = (0..values.len())
            .map(|index| format!("pg_catalog.set_config(${}, ${}, true)", 2 * index + 1, 2 * index + 2))
            .collect();
        let mut params: Vec<Param<'_>> = Vec::new();
        for SessionValue { setting, array } in values {
            params.push((setting, Type::TEXT));
            params.push((array, Type::TEXT));
        }
        self.release_savepoint().await?;
        self.all("setting the values of a request", &format!("SELECT {}", places.join(", ")), &params).await?;
        self.set_savepoint().await
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(super::quoted("a \"b\".c; DROP"), "\"a \"\"b\"\".c; DROP\"");
    }
}
