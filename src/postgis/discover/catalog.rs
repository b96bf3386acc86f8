//! What the catalog says about relations with a geometry.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::types::Type;

use crate::postgis::session::{Cause, Error, Param, Session, quoted};

/// The kinds of relations that `pg_class.relkind` distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum SpatialKind {
    #[serde(rename = "r")]
    Table,
    #[serde(rename = "p")]
    PartitionedTable,
    #[serde(rename = "v")]
    View,
    #[serde(rename = "m")]
    MaterializedView,
    #[serde(rename = "f")]
    ForeignTable,
}

impl SpatialKind {
    /// Its name for people.
    pub(crate) const fn called(self) -> &'static str {
        match self {
            SpatialKind::Table => "table",
            SpatialKind::PartitionedTable => "partitioned table",
            SpatialKind::View => "view",
            SpatialKind::MaterializedView => "materialized view",
            SpatialKind::ForeignTable => "foreign table",
        }
    }

    /// True if it can have indexes, and stores rows that can be sampled.
    pub(crate) const fn is_stored(self) -> bool {
        matches!(self, SpatialKind::Table | SpatialKind::PartitionedTable | SpatialKind::MaterializedView)
    }
}

/// A relation with a geometry. The fields are those of the JSON of `sql/relations.sql`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SpatialRelation {
    pub(crate) oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: SpatialKind,
    /// The role that looked it up.
    pub role: String,
    /// True if the search path finds it by its name alone.
    pub(crate) is_visible: bool,
    /// True if the role may use its schema.
    pub(crate) schema_usable: bool,
    /// True if the role may read some column of it.
    pub(crate) readable: bool,
    /// The number of rows that ANALYZE has estimated; `None` if it never ran, and for views.
    pub(crate) estimated_rows: Option<f64>,
    /// The size of its rows on disk; `None` for views and foreign tables.
    pub bytes: Option<u64>,
    /// False for a materialized view that was never filled.
    pub(crate) is_populated: bool,
    /// Its columns in their order.
    pub columns: Vec<CatalogColumn>,
    /// Its unique indexes over plain columns, the primary key first.
    pub keys: Vec<CatalogKey>,
    /// The first columns of its spatial indexes.
    pub(crate) indexed: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CatalogColumn {
    pub name: String,
    /// The name of its type; for a domain, the name of the base type.
    pub(crate) base: String,
    /// Its type, as SQL names it.
    pub called: String,
    /// The category of its type (`pg_type.typcategory`).
    pub(crate) category: String,
    /// True if its type is an enum.
    pub(crate) is_enum: bool,
    /// True if its values are rows.
    pub(crate) is_composite: bool,
    /// True if it is never NULL.
    pub(crate) not_null: bool,
    /// True if the role may read it.
    pub(crate) readable: bool,
    /// True if its type is geometry or geography.
    pub(crate) is_spatial: bool,
    /// The SRID that it declares; 0 if it declares none.
    pub(crate) srid: i32,
    /// The geometry type that it declares, such as "Point"; "Geometry" for any.
    pub shape: String,
}

/// Columns that are unique together.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CatalogKey {
    pub columns: Vec<String>,
}

/// A table that a view reads. The fields are those of the JSON of `sql/view_reads.sql`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ViewRead {
    pub schema: String,
    pub name: String,
    pub kind: SpatialKind,
    pub(crate) geometries: Vec<ViewGeometry>,
    /// The columns of its primary key; empty if it has none.
    pub key: Vec<String>,
    /// Its foreign keys to other tables that the view reads.
    pub(crate) links: Vec<TableLink>,
}

/// A column with geometries of a table that a view reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ViewGeometry {
    pub column: String,
    /// True if its type is geography.
    pub(crate) is_geography: bool,
    /// The SRID that it declares; 0 if it declares none.
    pub(crate) srid: i32,
}

/// A foreign key.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TableLink {
    pub(crate) to_schema: String,
    pub(crate) to_name: String,
    /// Its columns, each with the column that it refers to.
    pub pairs: Vec<ColumnLink>,
}

/// One column of a foreign key.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ColumnLink {
    /// The column of the table with the foreign key.
    pub own: String,
    pub other: String,
}

impl SpatialRelation {
    /// Schema and name, quoted.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// The name as a person would write it: with its schema unless the search path finds it without.
    pub(crate) fn name_for_people(&self) -> String {
        if self.is_visible { self.name.clone() } else { format!("{}.{}", self.schema, self.name) }
    }

    pub(crate) fn column(&self, name: &str) -> Option<&CatalogColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The primary key, or else a unique index over columns that are never NULL, if the role may read its columns.
    pub(crate) fn key(&self) -> Option<&CatalogKey> {
        let is_usable = |name: &String| self.column(name).is_some_and(|column| column.not_null && column.readable);
        self.keys.iter().find(|key| !key.columns.is_empty() && key.columns.iter().all(is_usable))
    }

    /// True if the role may read it, and it holds anything that can be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.schema_usable && self.readable && self.is_populated
    }
}

/// All relations with a geometry, by schema and name.
pub(crate) async fn relations(session: &Session) -> Result<Vec<SpatialRelation>, Error> {
    objects(session, include_str!("sql/relations.sql"), &[]).await
}

pub(crate) async fn view_reads(session: &Session, view: u32) -> Result<Vec<ViewRead>, Error> {
    objects(session, include_str!("sql/view_reads.sql"), &[(&view, Type::OID)]).await
}

/// The rows of a statement that returns JSON.
pub(crate) async fn objects<T: DeserializeOwned>(
    session: &Session,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<T>, Error> {
    let context = "looking for tables with a geometry";
    let rows = session.all(context, sql, params).await?;
    let read = |row: &tokio_postgres::Row| {
        serde_json::from_str(row.get(0)).map_err(|error| Error::Query {
            context: context.to_owned(),
            next: "This is a defect of oar-tiles: please report it",
            source: Cause::from(std::io::Error::other(error)),
        })
    };
    rows.iter().map(read).collect()
}

// Functions that return the bytes of a tile, in the form in which other tile servers call them.

/// A function whose arguments and result have the types of a function that returns tiles. The fields are those of the
/// JSON of `sql/functions.sql`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SpatialFunction {
    pub schema: String,
    pub name: String,
    pub arguments: Vec<String>,
    /// True if the search path finds it by its name alone.
    pub(crate) is_visible: bool,
}

impl SpatialFunction {
    /// Its schema, name and arguments as SQL, by which a configuration names it.
    pub(crate) fn signature(&self) -> String {
        format!("{}.{}({})", quoted(&self.schema), quoted(&self.name), self.arguments.join(", "))
    }

    /// Its name as a person would write it: with its schema unless the search path finds it without.
    pub(crate) fn name_for_people(&self) -> String {
        let name = if self.is_visible { self.name.clone() } else { format!("{}.{}", self.schema, self.name) };
        format!("{name}({})", self.arguments.join(", "))
    }
}

/// All such functions, by schema and name, without those of extensions.
pub(crate) async fn functions(session: &Session) -> Result<Vec<SpatialFunction>, Error> {
    objects(session, include_str!("sql/functions.sql"), &[]).await
}
