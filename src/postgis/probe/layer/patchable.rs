//! Whether the rows of a relation can be patched in a tile: told apart, and put in order, by what stands there.

use super::super::relation::{Column, Relation};
use crate::postgis::layer::KeyColumn;
use crate::postgis::session::quoted;

/// Whether rows of a relation are found by their place without reading all of them, and their keys are sorted by the database as
/// they stand in a tile: texts (by COLLATE "C") by their bytes, numbers as numbers. A uuid is written with the same letters at the same places.
pub(in crate::postgis) fn suits_patches(relation: &Relation, geometry: &Column, key: &[KeyColumn]) -> bool {
    let is_key = |column: &&Column| key.iter().any(|key| key.quoted == quoted(&column.name));
    let is_sorted_alike = |column: &Column| {
        column.kind_schema == "pg_catalog"
            && matches!(column.kind.as_str(), "text" | "varchar" | "int2" | "int4" | "int8" | "uuid")
    };
    relation.spatial_indexes.contains(&geometry.name) && relation.columns.iter().filter(is_key).all(is_sorted_alike)
}

/// Whether `ST_AsMVT` writes values of a type under the name of their column, whatever they are: of jsonb it writes what an object
/// holds, each under its own name.
pub(in crate::postgis) fn is_plain(kind: &str) -> bool {
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
