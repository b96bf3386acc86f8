//! Which layers can be patched: layers whose tiles hold the keys of their features, which identify and order them.

use super::budget::OnLargeTile;
use super::{ComputedFrom, Layer};
use crate::mvt::{FeatureKey, PointLayer};
use crate::postgis::session::quoted;
use crate::source::LayerTraits;
use crate::tile::TileBounds;

impl Layer {
    /// How the layer is written in a tile, if features of a tile can be replaced without the rest; else `None`. They can be replaced if they are
    /// single points that are drawn independently of each other and of their position, and if the tile holds their keys.
    #[must_use]
    pub fn as_points(&self) -> Option<PointLayer> {
        let properties = || self.fields().map(|(name, _)| name.to_owned()).collect();
        self.point_key().map(|key| PointLayer { key, properties: properties() })
    }

    /// True if the layer's features are single points with the same properties in every tile of every zoom.
    fn has_uniform_points(&self) -> bool {
        self.shape.points
            && self.cells().is_none()
            && !self.asks_each_tile()
            && !self.differs_by_zoom()
            && self.margin.bounds == TileBounds::Mercator
            && self.margin.candidates.is_none()
            && self.has_plain_values
            && self.properties.iter().all(|property| property.of == ComputedFrom::Row)
    }

    /// The traits by which a run chooses the sources that draw the layer.
    #[must_use]
    pub fn traits(&self) -> LayerTraits {
        LayerTraits {
            has_uniform_points: self.has_uniform_points(),
            is_thinned: self.budget.thins(),
            is_patchable: self.as_points().is_some(),
        }
    }

    /// Where a tile holds the keys of the features; `None` if the layer cannot be patched.
    fn point_key(&self) -> Option<FeatureKey> {
        let may_be_patched = self.shape.has_closed_form_points()
            && self.cells().is_none()
            && !self.asks_each_tile()
            && !self.asks_each_zoom()
            && self.margin.bounds == TileBounds::Mercator
            // The other settings stop the run, or leave out features that are far from the change.
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
        let property =
            self.properties.iter().position(|property| property.of == ComputedFrom::Row && is_key(&property.sql));
        property.map(FeatureKey::Property)
    }
}

/// True if an expression is just the name of a column.
fn is_name_of(sql: &str, column: &str) -> bool {
    let name = sql.trim_start_matches('(').trim_end_matches(')').trim();
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    name == column || (is_plain && quoted(name) == column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_columns_name_is_distinguished_from_an_expression() {
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
