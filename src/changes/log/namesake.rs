//! A role with the name of the log's schema: PostgreSQL puts the schema with the name of a role first on its search path ("$user").

use tokio_postgres::types::Type;

use super::Presence;
use crate::changes::error::ChangeLogError;
use crate::postgis::{Session, Snapshot, quoted};

/// The warning about what such a role does by mistake, with the remedy. `None` if there is no such role, or if it is neither this role nor the owner
/// of one of the tables, given by their OIDs.
pub(in crate::changes) async fn namesake(
    session: &Session,
    schema: &str,
    tables: &[u32],
    context: &str,
) -> Result<Option<String>, ChangeLogError> {
    let sql = include_str!("sql/namesake.sql");
    let row = session.one(context, sql, &[(&schema, Type::TEXT), (&tables, Type::OID_ARRAY)]).await?;
    let name = quoted(schema);
    Ok(row.get::<_, bool>(0).then(|| {
        format!(
            "the role {name} has the name of the change log's schema, which so comes first on its search path: a table that it makes without naming a schema lies in the change log. Run ALTER ROLE {name} SET search_path = public, or choose another schema under [changes]"
        )
    }))
}

/// Like `namesake`, for the tables that an installed log watches.
///
/// # Errors
/// If the database is lost.
pub async fn namesake_of_log(snapshot: &Snapshot, schema: &str) -> Result<Option<String>, ChangeLogError> {
    let (session, context) = (&snapshot.keeper, "looking for a role with the name of the change log's schema");
    let tables = match Presence::look_up(session, schema, context).await? {
        Presence::Readable => {
            let sql = format!("SELECT array_agg(DISTINCT relation) FROM {}.watch", quoted(schema));
            session.one(context, &sql, &[]).await?.get::<_, Option<Vec<u32>>>(0).unwrap_or_default()
        }
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => Vec::new(),
    };
    namesake(session, schema, &tables, context).await
}
