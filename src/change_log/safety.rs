//! Whether the schema of the log can be trusted: only superusers and its owner can alter it, the triggers have the
//! rights that they need, and no role has its name.

use tokio_postgres::types::Type;

use super::error::ChangeLogError;
use super::log::{Presence, SAFE_LAYOUT, of_schema};
use crate::postgis::{Database, ServerName, Session, Snapshot, quoted};

/// Checks that only the owner of the log can alter it, and that the triggers can append to it but do no more. Call this
/// before anything else in the log is read. Fails with [`ChangeLogError::Unsafe`]; [`ChangeLogError::Repairable`] or
/// [`ChangeLogError::LacksRights`] if another install repairs it.
pub(crate) async fn check_safety(database: &Database, snapshot: &Snapshot, schema: &str) -> Result<(), ChangeLogError> {
    let context = "checking whether the change log is safe";
    let server = database.server();
    let mut flaws = SchemaFlaws::look_up(&snapshot.keeper, schema, context).await?;
    flaws.check(schema, server)?;
    let is_readable = Presence::look_up(&snapshot.keeper, schema, context).await?.is_readable();
    let schema = quoted(schema);
    if is_readable {
        let sql = format!("SELECT layout FROM {schema}.state");
        let layout: i32 = snapshot.keeper.one(context, &sql, &[]).await?.get(0);
        if layout < SAFE_LAYOUT {
            let what = format!("an earlier version of oar-tiles installed them (layout {layout} of the change log)");
            flaws.mendable.insert(0, what);
        }
    }
    if flaws.mendable.is_empty() {
        return match &flaws.lacking[..] {
            [] => Ok(()),
            lacking => Err(ChangeLogError::LacksRights { server: server.clone(), what: lacking.join("; ") }),
        };
    }
    Err(ChangeLogError::Repairable { schema, server: server.clone(), what: flaws.mendable.join("; ") })
}

/// The warning about what such a role does by mistake, with the remedy. `None` if there is no such role, or if it is
/// neither this role nor the owner of one of the tables, given by their OIDs.
pub(crate) async fn namesake(
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
pub(crate) async fn namesake_of_log(snapshot: &Snapshot, schema: &str) -> Result<Option<String>, ChangeLogError> {
    let (session, context) = (&snapshot.keeper, "looking for a role with the name of the change log's schema");
    let tables = if Presence::look_up(session, schema, context).await?.is_readable() {
        let sql = format!("SELECT array_agg(DISTINCT relation) FROM {}.watch", quoted(schema));
        session.one(context, &sql, &[]).await?.get::<_, Option<Vec<u32>>>(0).unwrap_or_default()
    } else {
        Vec::new()
    };
    namesake(session, schema, &tables, context).await
}

// The checks that only superusers and its owner can alter the schema of the log, and that the triggers have the rights
// that they need.

/// The flaws of a log's schema, in words.
#[derive(Debug, Default)]
pub(crate) struct SchemaFlaws {
    /// Flaws that another install does not repair.
    pub(crate) lasting: Vec<String>,
    /// Flaws that another install repairs.
    pub(crate) mendable: Vec<String>,
    /// Rights that the triggers lack, which another install grants.
    pub(crate) lacking: Vec<String>,
}

impl SchemaFlaws {
    /// Looks for flaws in the catalog. A schema that does not exist has none.
    pub(crate) async fn look_up(session: &Session, schema: &str, context: &str) -> Result<SchemaFlaws, ChangeLogError> {
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

    /// Fails with [`ChangeLogError::Unsafe`] if the schema has lasting flaws.
    pub(crate) fn check(&self, schema: &str, server: &ServerName) -> Result<(), ChangeLogError> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(ChangeLogError::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
