//! The checks that only superusers and its owner can alter the schema of the log, and that the triggers have the rights that they need.

use super::sql_text::of_schema;
use crate::changes::error::ChangeLogError;
use crate::postgis::{ServerName, Session, quoted};

/// The flaws of a log's schema, in words.
#[derive(Debug, Default)]
pub(in crate::changes) struct SchemaFlaws {
    /// Flaws that another install does not repair.
    pub(in crate::changes) lasting: Vec<String>,
    /// Flaws that another install repairs.
    pub(in crate::changes) mendable: Vec<String>,
    /// Rights that the triggers lack, which another install grants.
    pub(in crate::changes) lacking: Vec<String>,
}

impl SchemaFlaws {
    /// Looks for flaws in the catalog. A schema that does not exist has none.
    pub(in crate::changes) async fn look_up(
        session: &Session,
        schema: &str,
        context: &str,
    ) -> Result<SchemaFlaws, ChangeLogError> {
        let sql = of_schema(include_str!("sql/trust.sql"), schema);
        let mut found = SchemaFlaws::default();
        for row in session.all(context, &sql, &[]).await? {
            let list = if row.get(1) { &mut found.mendable } else { &mut found.lasting };
            list.push(row.get(0));
        }
        let sql = of_schema(
            "SELECT DISTINCT needed.what FROM ({needed}) AS needed WHERE NOT needed.is_held ORDER BY 1",
            schema,
        );
        found.lacking = session.all(context, &sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok(found)
    }

    /// Returns an error if the schema has lasting flaws.
    ///
    /// # Errors
    /// [`ChangeLogError::Unsafe`].
    pub(in crate::changes) fn check(&self, schema: &str, server: &ServerName) -> Result<(), ChangeLogError> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(ChangeLogError::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
