//! The schemas in which PostgreSQL looks up the names in a run's statements, and the check that no other role has put
//! objects there that would shadow those of PostGIS.
//!
//! The first session of a run reads its role's search path while its own is `pg_catalog` alone, and checks the schemas
//! on it. All sessions of the run then have the same path: these schemas without the schema of the change log, then the
//! schema of PostGIS.

use tokio_postgres::types::Type;

use super::error::Error;
use super::{Database, Session, quoted};

const CONTEXT: &str = "opening a session";

/// The search path that is in force until the schemas of the role's own path have been checked.
pub(crate) const SAFE_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp;";

/// The schemas of the role's own search path that exist and that the role may use, as JSON. No name in this statement
/// is looked up on that path.
pub(crate) const SCHEMAS: &str = "SELECT pg_catalog.array_to_json(pg_catalog.current_schemas(false));";

/// The schema of PostGIS, and whether the schema $1 holds a change log (recognized by the comment on its table
/// `state`).
const PLACES: &str = "
    SELECT (SELECT n.nspname::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'postgis'),
        EXISTS (
            SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = 'state' AND obj_description(c.oid, 'pg_class') = 'oar-tiles change log')";

/// The most objects of other roles that a message names.
const MAX_OBJECTS_SHOWN: usize = 3;

/// The search path of all sessions of a run.
#[derive(Debug, Clone)]
pub(crate) struct SearchPath {
    /// The schema of PostGIS; `None` if the database has none.
    pub(crate) postgis: Option<String>,
    /// The schemas in their order, quoted.
    schemas: String,
}

impl SearchPath {
    /// The statement that sets this search path until the end of the transaction.
    pub(crate) fn set(&self) -> String {
        let schemas = if self.schemas.is_empty() { "''" } else { &self.schemas };
        format!("SET LOCAL search_path = {schemas};")
    }
}

impl Database {
    /// The schema of PostGIS; `None` before the first session, or if the database has none.
    pub(crate) fn postgis_schema(&self) -> Option<&str> {
        self.path.get()?.postgis.as_deref()
    }
}

impl Session {
    /// Finds the search path from the answer to [`SCHEMAS`], checks it and sets it. Until then, [`SAFE_PATH`] is in
    /// force.
    pub(crate) async fn find_search_path(&self, schemas: &str) -> Result<(), Error> {
        let mut schemas: Vec<String> = serde_json::from_str(schemas).map_err(|error| Error::Query {
            context: CONTEXT.to_owned(),
            next: "This is a defect of oar-tiles: please report it",
            source: std::io::Error::other(error).into(),
        })?;
        let change_log = &self.database.options.change_log;
        let row = self.one(CONTEXT, PLACES, &[(change_log, Type::TEXT)]).await?;
        let (postgis, has_log): (Option<String>, bool) = (row.get(0), row.get(1));
        // The change log's schema is removed: its tables have names such as "state", which a layer would mean for
        // another table.
        schemas.retain(|schema| !(schema.starts_with("pg_temp_") || has_log && schema == change_log));
        let missing = postgis.clone().filter(|postgis| !schemas.contains(postgis));
        schemas.extend(missing);
        self.check_schemas(&schemas, postgis.as_deref()).await?;
        let quoted: Vec<String> = schemas.iter().map(|schema| quoted(schema)).collect();
        let path = SearchPath { postgis, schemas: quoted.join(", ") };
        self.script(CONTEXT, &path.set()).await?;
        if path.postgis.is_some() {
            self.database.path.get_or_init(|| path);
        }
        Ok(())
    }

    /// Returns an error if other roles have objects in these schemas that PostgreSQL would use instead of those of
    /// PostGIS, or of its own.
    async fn check_schemas(&self, schemas: &[String], postgis: Option<&str>) -> Result<(), Error> {
        // A quick check first: finding the objects takes about 30 ms, and hardly any database has one.
        let sql = |text: &str| text.replace("{searched}", include_str!("sql/searched.sql").trim_end());
        let may_be = sql(include_str!("sql/may_be_foreign.sql"));
        if !self.one(CONTEXT, &may_be, &[(&schemas, Type::TEXT_ARRAY)]).await?.get::<_, bool>(0) {
            return Ok(());
        }
        let objects = sql(include_str!("sql/foreign_objects.sql"));
        let found = self.all(CONTEXT, &objects, &[(&schemas, Type::TEXT_ARRAY)]).await?;
        let Some(first) = found.first() else { return Ok(()) };
        let role = quoted(&first.get::<_, String>(4));
        let text = |row: &tokio_postgres::Row, column| row.get::<_, String>(column);
        let mut shown: Vec<String> = found
            .iter()
            .take(MAX_OBJECTS_SHOWN)
            .map(|row| format!("the {} {} of the role {}", text(row, 0), text(row, 1), quoted(&text(row, 3))))
            .collect();
        if found.len() > shown.len() {
            shown.push(format!("{} more", found.len() - shown.len()));
        }
        let is_clean = |schema: &&String| found.iter().all(|row| text(row, 2) != **schema);
        let clean: Vec<String> = schemas.iter().filter(is_clean).map(|schema| quoted(schema)).collect();
        let off = if found.iter().any(|row| Some(text(row, 2).as_str()) == postgis) || clean.is_empty() {
            String::new()
        } else {
            format!(
                ", or take the schema off the search path: ALTER ROLE {role} SET search_path = {}",
                clean.join(", ")
            )
        };
        Err(Error::Setting {
            what: format!(
                "on the search path, others have objects with names of PostGIS or PostgreSQL: {}. They could run with the rights of the role {role}, and change tiles",
                shown.join(", ")
            ),
            next: format!("drop or rename them{off}"),
        })
    }
}
