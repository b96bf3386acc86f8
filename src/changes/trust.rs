//! Whether the schema of the log is a place that only superusers and its owner can alter.

use super::error::{Error, UNSAFE};
use super::literal;
use crate::postgis::{ServerName, Session, quoted};

/// The tables of a log.
const TABLES: [&str; 6] = ["state", "watch", "watched", "member", "needs", "change"];

/// Fills in the tables of a log, and how many these are.
pub(super) fn of_tables(sql: &str) -> String {
    let names: Vec<String> = TABLES.iter().map(|table| literal(table)).collect();
    sql.replace("{tables}", &names.join(", ")).replace("{count}", &TABLES.len().to_string())
}

/// Fills in what concerns the schema: `{name}` and `{quoted}` as literals, `{schema}` as an identifier, and the queries and
/// blocks that look whether it may be trusted.
pub(super) fn of_schema(sql: &str, schema: &str) -> String {
    let filled = sql
        .replace("{guard}", include_str!("sql/guard.sql").trim_end())
        .replace("{trust}", include_str!("sql/trust.sql").trim_end())
        .replace("{unsafe}", UNSAFE)
        .replace("{name}", &literal(schema))
        .replace("{quoted}", &literal(&quoted(schema)))
        .replace("{schema}", &quoted(schema));
    of_tables(&filled)
}

/// What is wrong with the schema of a log, in words.
#[derive(Debug, Default)]
pub(super) struct Distrust {
    /// Another install cannot put it right.
    pub(super) lasting: Vec<String>,
    /// Another install puts it right.
    pub(super) mendable: Vec<String>,
}

impl Distrust {
    /// Asks the catalog. Nothing is wrong with a schema that is not there.
    pub(super) async fn look_up(session: &Session, schema: &str, place: &str) -> Result<Distrust, Error> {
        let sql = of_schema(include_str!("sql/trust.sql"), schema);
        let mut found = Distrust::default();
        for row in session.all(place, &sql, &[]).await? {
            let list = if row.get(1) { &mut found.mendable } else { &mut found.lasting };
            list.push(row.get(0));
        }
        Ok(found)
    }

    /// Refuses what another install would not put right.
    pub(super) fn check(&self, schema: &str, server: &ServerName) -> Result<(), Error> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(Error::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
