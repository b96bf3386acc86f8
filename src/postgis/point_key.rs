//! Whether the features of a layer can be told apart, and put in order, by what stands in a tile.

use super::budget::OnLargeTile;
use super::layer::{KeyColumn, Layer, Of, quoted};
use super::relation::{Column, Relation};
use crate::mvt::{FeatureKey, PointLayer};
use crate::tile::TileBounds;

/// Whether rows of a relation are found by their place without reading all of them, and their keys are sorted by the database as
/// they stand in a tile: texts (by COLLATE "C") by their bytes, numbers as numbers. A uuid is written with the same letters at the same places.
pub(super) fn suits_patches(relation: &Relation, geometry: &Column, key: &[KeyColumn]) -> bool {
    let is_key = |column: &&Column| key.iter().any(|key| key.quoted == quoted(&column.name));
    let is_sorted_alike = |column: &Column| {
        column.kind_schema == "pg_catalog"
            && matches!(column.kind.as_str(), "text" | "varchar" | "int2" | "int4" | "int8" | "uuid")
    };
    relation.spatial_indexes.contains(&geometry.name) && relation.columns.iter().filter(is_key).all(is_sorted_alike)
}

/// Whether `ST_AsMVT` writes values of a type under the name of their column, whatever they are: of jsonb it writes what an object
/// holds, each under its own name.
pub(super) fn is_plain(kind: &str) -> bool {
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

impl Layer {
    /// How it is written, if its features are single points, each drawn by itself and in the same way wherever it lies, and have their
    /// keys in the tile: then a part of a tile can be replaced without the rest.
    #[must_use]
    pub fn as_points(&self) -> Option<PointLayer> {
        let properties = || self.fields().map(|(name, _)| name.to_owned()).collect();
        self.point_key().map(|key| PointLayer { key, properties: properties() })
    }

    /// Where the keys of its features stand in a tile.
    fn point_key(&self) -> Option<FeatureKey> {
        let may_be_patched = self.shape.is_closed_form()
            && self.cells.is_none()
            && !self.asks_each_tile()
            && !self.asks_each_zoom()
            && self.margin.bounds == TileBounds::Mercator
            // Others have the run end, or leave out other features than the nearest.
            && self.budget.on_large_tile == OnLargeTile::Warn
            && self.suits_patches
            && self.has_plain_values;
        let [key] = &self.key[..] else { return None };
        if !may_be_patched {
            return None;
        }
        if self.feature_id.as_ref().is_some_and(|column| quoted(column) == key.quoted) {
            return Some(FeatureKey::Id);
        }
        let is_key = |sql: &str| sql == key.quoted || is_name_of(sql, &key.quoted);
        let property = self.properties.iter().position(|property| property.of == Of::Row && is_key(&property.sql));
        property.map(FeatureKey::Property)
    }
}

/// Whether an expression is a column's name and nothing else.
fn is_name_of(sql: &str, column: &str) -> bool {
    let name = sql.trim_start_matches('(').trim_end_matches(')').trim();
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    name == column || (is_plain && quoted(name) == column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_columns_name_is_told_from_an_expression() {
        for (sql, column, expected) in [
            ("(id\n)", "\"id\"", true),
            ("(\"Id\"\n)", "\"Id\"", true),
            ("(Id\n)", "\"Id\"", false),
            ("(upper(id)\n)", "\"id\"", false),
            ("(id || 'x'\n)", "\"id\"", false),
            ("(-id\n)", "\"id\"", false),
        ] {
            assert_eq!(is_name_of(sql, column), expected, "{sql}");
        }
    }
}
