//! Whether the schema of the log is a place that only superusers and its owner can alter.

use super::sql_text::of_schema;
use crate::changes::error::Error;
use crate::postgis::{ServerName, Session, quoted};

/// What is wrong with the schema of a log, in words.
#[derive(Debug, Default)]
pub(in crate::changes) struct Distrust {
    /// Another install cannot put it right.
    pub(in crate::changes) lasting: Vec<String>,
    /// Another install puts it right.
    pub(in crate::changes) mendable: Vec<String>,
}

impl Distrust {
    /// Asks the catalog. Nothing is wrong with a schema that is not there.
    pub(in crate::changes) async fn look_up(session: &Session, schema: &str, place: &str) -> Result<Distrust, Error> {
        let sql = of_schema(include_str!("sql/trust.sql"), schema);
        let mut found = Distrust::default();
        for row in session.all(place, &sql, &[]).await? {
            let list = if row.get(1) { &mut found.mendable } else { &mut found.lasting };
            list.push(row.get(0));
        }
        Ok(found)
    }

    /// Refuses what another install would not put right.
    pub(in crate::changes) fn check(&self, schema: &str, server: &ServerName) -> Result<(), Error> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(Error::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
