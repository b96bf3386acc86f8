//! The change log as the database holds it: its layout, whether there is one, and pieces of SQL.

use tokio_postgres::types::Type;

use super::error::{ChangeLogError, UNSAFE};
use super::gap::LogGap;
use crate::postgis::{ServerName, Session, quoted};

/// The advisory lock that every process shares while it waits for changes (PostgreSQL documentation, section 13.3.5,
/// `pg_advisory_lock_shared(class, object)`). The triggers send notifications, on a channel with the name of the log's
/// schema, only while the lock is held.
pub const WATCHER_LOCK: (i32, i32) = (0x6f61_7274, 1);

/// The version of the log's layout. In a log of version 2, large shapes are logged as boxes, not as covers. In a log of
/// version 3, large shapes in other reference systems than EPSG:4326 and 3857 are logged whole. Everything else is the
/// same, so entries from before an upgrade can be read, too.
pub(crate) const LAYOUT: i32 = 4;

/// The oldest layout that is safe. A log of version 1 does not record the owner of the trigger functions, which ran
/// casts of the columns' types.
pub(crate) const SAFE_LAYOUT: i32 = 2;

// The check whether there is a change log in a schema.

/// What a schema holds.
pub enum Presence {
    /// Nothing, or the schema does not exist.
    Nothing,
    /// Other tables.
    Foreign,
    /// A change log that the role may not read.
    Unreadable {
        /// The role, quoted if necessary.
        role: String,
    },
    Readable,
}

impl Presence {
    /// Looks in the catalog, which every role may read.
    pub(crate) async fn look_up(session: &Session, schema: &str, context: &str) -> Result<Presence, ChangeLogError> {
        let row =
            session.one(context, &with_tables(include_str!("sql/presence.sql")), &[(&schema, Type::TEXT)]).await?;
        let (is_ours, has_tables, is_readable): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        Ok(match (is_ours, has_tables, is_readable) {
            (true, _, true) => Presence::Readable,
            (true, _, false) => Presence::Unreadable { role: row.get(3) },
            (false, true, _) => Presence::Foreign,
            (false, false, _) => Presence::Nothing,
        })
    }

    pub(crate) const fn is_readable(&self) -> bool {
        matches!(self, Presence::Readable)
    }

    /// Fails unless this role may read the log of the schema.
    pub(crate) fn or_gap(self, schema: &str, server: &ServerName) -> Result<(), LogGap> {
        let schema = quoted(schema);
        match self {
            Presence::Readable => Ok(()),
            Presence::Unreadable { role } => Err(LogGap::Unreadable { role, schema }),
            Presence::Nothing | Presence::Foreign => Err(LogGap::NotInstalled { server: server.clone(), schema }),
        }
    }
}

// Pieces of SQL, and the functions that fill in the placeholders of the files in `sql/`.

/// SQL for schema and name of the relation `c` in the namespace `n`, quoted like [`quoted`].
pub(crate) const QUALIFIED_NAME: &str =
    r#"'"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'"#;

/// A text literal (PostgreSQL documentation, section 4.1.2.1) that does not depend on `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A text literal for use inside dollar quotes: it contains no dollar sign, which might end the quotes.
pub(crate) fn literal_in_block(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\044");
    format!(" E'{escaped}'")
}

/// Replaces `{postgis}` in a statement by the schema of PostGIS.
pub(crate) fn at_postgis(sql: &str, postgis: &str) -> String {
    sql.replace("{postgis}", &quoted(postgis))
}

const TABLES: [&str; 6] = ["state", "watch", "watched", "member", "needs", "change"];

/// Replaces `{tables}` in a statement by the names of the log's tables, and `{count}` by their number.
pub(crate) fn with_tables(sql: &str) -> String {
    let names: Vec<String> = TABLES.iter().map(|table| literal(table)).collect();
    sql.replace("{tables}", &names.join(", ")).replace("{count}", &TABLES.len().to_string())
}

/// Fills the schema into a statement: `{name}` and `{quoted}` as literals, `{schema}` as an identifier. It also fills
/// in the queries and blocks that check whether the schema can be trusted.
pub(crate) fn of_schema(sql: &str, schema: &str) -> String {
    let filled = sql
        .replace("{guard}", include_str!("sql/guard.sql").trim_end())
        .replace("{trust}", include_str!("sql/trust.sql").trim_end())
        .replace("{needed}", include_str!("sql/trigger_rights.sql").trim_end())
        .replace("{unsafe}", UNSAFE)
        .replace("{name}", &literal(schema))
        .replace("{quoted}", &literal(&quoted(schema)))
        .replace("{schema}", &quoted(schema));
    with_tables(&filled)
}
