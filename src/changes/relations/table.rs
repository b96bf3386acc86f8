//! What the catalog says about a table that will be watched.

use serde::Deserialize;
use tokio_postgres::types::Type;

use crate::changes::error::ChangeLogError;
use crate::changes::log::{Decoding, QUALIFIED_NAME, at_postgis, decoding_expression, literal};
use crate::postgis::{Session, quoted};

/// What an install must know about a table. The fields are those of the JSON of `sql/table.sql`.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct Table {
    pub(in crate::changes) owner: String,
    /// True if the owner is a superuser.
    pub(in crate::changes) is_of_superuser: bool,
    /// True if this role has the owner's rights.
    pub(in crate::changes) is_ours: bool,
    /// The table itself, then its partitions, children and parents.
    pub(in crate::changes) relatives: Vec<TableRelative>,
    pub(in crate::changes) columns: Vec<TableColumn>,
    /// The columns of a unique index over all rows; empty if there is none.
    pub(in crate::changes) key: Vec<TableKeyColumn>,
}

/// A table through which rows of the watched table can be changed: the table itself, a partition, a child or a parent.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct TableRelative {
    pub(in crate::changes) oid: u32,
    /// Schema and name, quoted.
    pub(in crate::changes) name: String,
    /// `pg_class.relkind`.
    pub(in crate::changes) kind: String,
    /// `pg_class.relpersistence`.
    pub(in crate::changes) persistence: String,
    pub(in crate::changes) columns: Vec<String>,
}

/// A column.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the catalog")]
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct TableColumn {
    pub(in crate::changes) name: String,
    /// The OID of its type.
    #[serde(rename = "type")]
    pub(in crate::changes) type_oid: u32,
    /// The modifier of its type (`pg_attribute.atttypmod`); for a geometry, this is its shape, reference system and dimensions.
    #[serde(rename = "modifier")]
    pub(in crate::changes) type_modifier: i32,
    /// The name of its type.
    pub(in crate::changes) kind: String,
    /// The geometry type that it declares, such as "Point"; "Geometry" for any.
    pub(in crate::changes) shape: String,
    /// The reference system that it declares; 0 for none.
    pub(in crate::changes) srid: i32,
    /// True if values that are equal by the operator `=` of `pg_catalog` (for collated types, with the collation "C") have the same bytes.
    pub(in crate::changes) is_exact: bool,
    /// True if its type has a collation.
    pub(in crate::changes) is_collated: bool,
    /// True if it is of PostGIS's type geometry.
    pub(in crate::changes) is_geometry: bool,
    /// True if it is of PostGIS's type geometry or geography, not of another type with that name.
    pub(in crate::changes) is_spatial: bool,
    /// Its type, as SQL names it.
    #[serde(rename = "called")]
    pub(in crate::changes) type_text: String,
    /// How its values are read from the log.
    pub(in crate::changes) decoding: Decoding,
}

/// A column of the key.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct TableKeyColumn {
    pub(in crate::changes) name: String,
    /// The equality operator of the index, such as `OPERATOR(pg_catalog.=)`; `None` if its name could mean another operator.
    pub(in crate::changes) equals: Option<String>,
}

impl Table {
    /// Reads the facts from the catalog.
    pub(in crate::changes) async fn look_up(
        session: &Session,
        postgis: &str,
        oid: u32,
        context: &str,
    ) -> Result<Table, ChangeLogError> {
        let sql = at_postgis(include_str!("sql/table.sql"), postgis)
            .replace("{postgis_name}", &literal(&quoted(postgis)))
            .replace("{decoding}", &decoding_expression("a.atttypid", "a.atttypmod"))
            .replace("{called}", QUALIFIED_NAME);
        let text: String = session.one(context, &sql, &[(&oid, Type::OID)]).await?.get(0);
        serde_json::from_str(&text)
            .map_err(|source| ChangeLogError::Unreadable { what: "the catalog's answer", source })
    }

    pub(in crate::changes) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}
