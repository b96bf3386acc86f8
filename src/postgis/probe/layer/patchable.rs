//! The check that the rows of a relation can be patched in a tile, where they are identified and ordered by their keys.

use super::super::relation::{Column, Relation};
use crate::postgis::layer::KeyColumn;
use crate::postgis::session::quoted;

/// True if a spatial index finds rows of a relation by their position, and the database sorts their keys in the same way as this program sorts them
/// in a tile: texts by their bytes (`COLLATE "C"`), numbers as numbers. A uuid sorts like its text, which has only one form.
pub(in crate::postgis) fn suits_patches(relation: &Relation, geometry: &Column, key: &[KeyColumn]) -> bool {
    let is_key = |column: &&Column| key.iter().any(|key| key.quoted == quoted(&column.name));
    let is_sorted_alike = |column: &Column| {
        column.kind_schema == "pg_catalog"
            && matches!(column.kind.as_str(), "text" | "varchar" | "int2" | "int4" | "int8" | "uuid")
    };
    relation.spatial_indexes.contains(&geometry.name) && relation.columns.iter().filter(is_key).all(is_sorted_alike)
}

/// True if `ST_AsMVT` writes every value of a type under the name of its column. For a jsonb object, it writes each member under the member's own
/// name.
pub(in crate::postgis) fn is_plain_type(kind: &str) -> bool {
    matches!(
        kind,
        "text"
            | "character varying"
            | "character"
            | "smallint"
            | "integer"
            | "bigint"
            | "real"
            | "double precision"
            | "boolean"
            | "numeric"
            | "date"
            | "uuid"
            | "timestamp with time zone"
            | "timestamp without time zone"
    )
}
