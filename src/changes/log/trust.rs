//! Whether only superusers and its owner can alter the schema of the log.

use super::sql_text::of_schema;
use crate::changes::error::Error;
use crate::postgis::{ServerName, Session, quoted};

/// The flaws of a log's schema, in words.
#[derive(Debug, Default)]
pub(in crate::changes) struct SchemaFlaws {
    /// Flaws that another install does not mend.
    pub(in crate::changes) lasting: Vec<String>,
    /// Flaws that another install mends.
    pub(in crate::changes) mendable: Vec<String>,
}

impl SchemaFlaws {
    /// Asks the catalog. A schema that does not exist has no flaws.
    pub(in crate::changes) async fn look_up(
        session: &Session,
        schema: &str,
        context: &str,
    ) -> Result<SchemaFlaws, Error> {
        let sql = of_schema(include_str!("sql/trust.sql"), schema);
        let mut found = SchemaFlaws::default();
        for row in session.all(context, &sql, &[]).await? {
            let list = if row.get(1) { &mut found.mendable } else { &mut found.lasting };
            list.push(row.get(0));
        }
        Ok(found)
    }

    /// Refuses a schema with lasting flaws.
    ///
    /// # Errors
    /// [`Error::Unsafe`].
    pub(in crate::changes) fn check(&self, schema: &str, server: &ServerName) -> Result<(), Error> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(Error::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
