//! A table that is watched, as the catalog has it.

use serde::Deserialize;

use super::decoding::{Decoding, decoding_of};
use super::error::Error;
use super::{CALLED, at_postgis, literal};
use crate::postgis::{Session, quoted};
use tokio_postgres::types::Type;

/// What the triggers have to know of a table.
#[derive(Debug, Deserialize)]
pub(super) struct Table {
    pub(super) owner: String,
    /// The owner is a superuser.
    pub(super) is_of_superuser: bool,
    /// This role has the owner's rights.
    pub(super) is_ours: bool,
    /// The table itself first; its partitions, children and parents.
    pub(super) kin: Vec<Kin>,
    pub(super) columns: Vec<TableColumn>,
    /// The columns of a unique index that holds for all rows; none if there is none.
    pub(super) key: Vec<TableKeyColumn>,
}

/// A table through which rows of the watched one are changed.
#[derive(Debug, Deserialize)]
pub(super) struct Kin {
    /// Schema and name, quoted.
    pub(super) name: String,
    /// `pg_class.relkind`.
    pub(super) kind: String,
    /// `pg_class.relpersistence`.
    pub(super) persistence: String,
    pub(super) columns: Vec<String>,
}

/// A column.
#[expect(clippy::struct_excessive_bools, reason = "facts of the catalog, each by itself")]
#[derive(Debug, Deserialize)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// The OID of its type.
    #[serde(rename = "type")]
    pub(super) type_oid: u32,
    /// The name of its type.
    pub(super) kind: String,
    /// The geometry type that it declares, such as "Point"; "Geometry" for any.
    pub(super) shape: String,
    /// The reference system that it declares; 0 for none.
    pub(super) srid: i32,
    /// Values that are equal are the same bytes, by the operator `=` of `pg_catalog` and, if it has one, the collation "C".
    pub(super) is_exact: bool,
    pub(super) is_collated: bool,
    /// It is of PostGIS's type geometry.
    pub(super) is_geometry: bool,
    /// It is of PostGIS's type geometry or geography: not of another type that is called so.
    pub(super) is_spatial: bool,
    /// Its type, as SQL names it.
    pub(super) called: String,
    /// How its values are read from the log.
    pub(super) decoding: Decoding,
}

/// A column of the key.
#[derive(Debug, Deserialize)]
pub(super) struct TableKeyColumn {
    pub(super) name: String,
    /// The equality of the index, such as `OPERATOR(pg_catalog.=)`; `None` if another operator could be taken for it.
    pub(super) equals: Option<String>,
}

impl Table {
    /// Asks the catalog.
    pub(super) async fn look_up(session: &Session, postgis: &str, oid: u32, place: &str) -> Result<Table, Error> {
        let sql = at_postgis(include_str!("sql/table.sql"), postgis)
            .replace("{postgis_name}", &literal(&quoted(postgis)))
            .replace("{decoding}", &decoding_of("a.atttypid", "a.atttypmod"))
            .replace("{called}", CALLED);
        let text: String = session.one(place, &sql, &[(&oid, Type::OID)]).await?.get(0);
        serde_json::from_str(&text).map_err(|source| Error::Unreadable { what: "the catalog's answer", source })
    }

    pub(super) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}
