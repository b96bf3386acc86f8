//! A layer: as it is configured, and as it is once the database was asked.

use crate::tile::{Zoom, ZoomList};

/// Where a property's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertySource {
    /// A column of the same relation.
    Column(String),
    /// An SQL expression over the relation's columns, trusted as the configuration is.
    Expression(String),
}

/// One property of the features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name in the tile.
    pub name: String,
    /// Its value.
    pub source: PropertySource,
}

/// A layer as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOptions {
    /// The layer's name in the tile.
    pub name: String,
    /// The schema of its relation; without one the search path decides.
    pub schema: Option<String>,
    /// The table, view, materialized view or foreign table.
    pub table: String,
    /// The column with the geometry or geography; without one the relation must have exactly one.
    pub geometry: Option<String>,
    /// The columns that tell features apart and order them; none for the primary key.
    pub key: Vec<String>,
    /// The properties; `None` for every column but the geometry.
    pub properties: Option<Vec<Property>>,
    /// The integer column that becomes the feature's id (MVT 2.1, section 4.2).
    pub feature_id: Option<String>,
    /// An SQL condition that rows must fulfil.
    pub filter: Option<String>,
    /// The zooms at which the layer is drawn.
    pub zooms: ZoomList,
    /// Units of a tile's grid along one side (MVT 2.1, section 4.1).
    pub extent: u32,
    /// The buffer around a tile in units of its grid.
    pub buffer: u32,
}

/// How a layer's positions are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The spatial reference system of the column.
    pub srid: i32,
    /// Every geometry is a single point.
    pub points: bool,
    /// The column is a geography.
    pub geography: bool,
    /// There may be curves, which tiles cannot hold: they are turned into lines.
    pub curves: bool,
}

impl Shape {
    /// Whether an area of the world turns into a box of the column's reference system by a closed formula, so that a point
    /// of it is found by the area alone.
    pub(super) fn is_closed_form(self) -> bool {
        self.points && matches!(self.srid, 3857 | 4326)
    }
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// Its name, quoted.
    pub quoted: String,
    /// Its type has a collation; ordering by it is made the same everywhere by `COLLATE "C"`.
    pub collated: bool,
}

/// A property ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundProperty {
    /// Its name in the tile.
    pub name: String,
    /// The expression.
    pub sql: String,
    /// "Number", "Boolean" or "String", as TileJSON calls the types.
    pub kind: &'static str,
}

/// A layer as the database has it: names looked up and quoted, types known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub(super) name: String,
    /// Schema and relation, quoted.
    pub(crate) relation: String,
    /// The geometry column, quoted.
    pub(crate) geometry: String,
    pub(crate) shape: Shape,
    pub(crate) key: Vec<KeyColumn>,
    pub(crate) properties: Vec<BoundProperty>,
    pub(crate) feature_id: Option<String>,
    pub(crate) filter: Option<String>,
    pub(super) zooms: ZoomList,
    pub(super) extent: u32,
    pub(super) buffer: u32,
}

impl Layer {
    /// The layer's name in the tile.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The zooms at which it is drawn.
    #[must_use]
    pub fn zooms(&self) -> &ZoomList {
        &self.zooms
    }

    /// Units of a tile's grid along one side.
    #[must_use]
    pub fn extent(&self) -> u32 {
        self.extent
    }

    /// The buffer around a tile in units of its grid.
    #[must_use]
    pub fn buffer(&self) -> u32 {
        self.buffer
    }

    /// The spatial reference system of its column.
    #[must_use]
    pub fn srid(&self) -> i32 {
        self.shape.srid
    }

    /// Whether a closed formula leads from an area of the world to the box of the layer's reference system in which all of
    /// its features lie: both axes of EPSG:4326 and EPSG:3857 are monotone in each other.
    #[must_use]
    pub fn is_found_by_area(&self) -> bool {
        matches!(self.shape.srid, 3857 | 4326)
    }

    /// Names of the properties and their types as TileJSON calls them.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.properties.iter().map(|property| (property.name.as_str(), property.kind))
    }

    /// Everything that decides the layer's bytes in a tile, in one text: the ground of the tileset's fingerprint. How positions are
    /// found follows from the rows of a column of any type, and changes with them: it decides no byte.
    #[must_use]
    pub fn definition(&self) -> String {
        let zooms: Vec<u8> = self.zooms.iter().map(Zoom::get).collect();
        format!(
            "{:?}",
            (
                (&self.name, &self.relation, &self.geometry, self.shape.geography, &self.key, &self.properties),
                (&self.feature_id, &self.filter, zooms, self.extent, self.buffer)
            )
        )
    }
}

/// An identifier in double quotes (PostgreSQL documentation, section 4.1.1).
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(super::quoted("a \"b\".c; DROP"), "\"a \"\"b\"\".c; DROP\"");
    }
}
