//! The check whether there is a change log in a schema.

use tokio_postgres::types::Type;

use super::sql_text::with_tables;
use crate::changes::error::ChangeLogError;
use crate::postgis::Session;

/// What a schema holds.
pub(in crate::changes) enum Presence {
    /// Nothing, or the schema does not exist.
    Nothing,
    /// Other tables.
    Foreign,
    /// A change log that the role, quoted if necessary, may not read.
    Unreadable { role: String },
    /// A change log.
    Readable,
}

impl Presence {
    /// Looks in the catalog, which every role may read.
    pub(in crate::changes) async fn look_up(
        session: &Session,
        schema: &str,
        context: &str,
    ) -> Result<Presence, ChangeLogError> {
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
}
