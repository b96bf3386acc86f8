//! A layer as it is configured.

use super::budget::{Budget, OnTileError};
use super::edge::Beyond;
use super::query::Query;
use crate::cells::CellGrid;
use crate::tile::{LayerId, Margin, ZoomList};

/// Where a layer's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// A table, view, materialized view or foreign table.
    Relation {
        /// Its schema; without one the search path decides.
        schema: Option<String>,
        /// Its name.
        table: String,
    },
    /// An SQL query, trusted as the configuration is.
    Query(Query),
}

/// Where a property's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertySource {
    /// A column of the same relation.
    Column(String),
    /// An SQL expression over the relation's columns, trusted as the configuration is.
    Expression(String),
    /// An SQL aggregate over the rows of a cell; `!xmin!`, `!ymin!`, `!xmax!` and `!ymax!` in it are the cell's bounds in degrees.
    Aggregate(String),
    /// The address of the tile that the feature is drawn in.
    Tile(TilePart),
}

/// A part of a tile's address (XYZ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TilePart {
    /// Its column.
    X,
    /// Its row, growing south.
    Y,
    /// Its zoom.
    Zoom,
}

/// One property of the features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name in the tile.
    pub name: String,
    /// Its value.
    pub source: PropertySource,
}

/// How the features of a layer are put together in cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// The cells.
    pub grid: CellGrid,
    /// A condition over aggregates that a cell must fulfil to be drawn; the same names as in [`PropertySource::Aggregate`].
    pub having: Option<String>,
    /// A row that is alone in its cell is drawn as itself, with the properties that are no aggregates.
    pub keeps_lone: bool,
}

impl Cells {
    /// Its part of [`Layer::definition`](super::Layer::definition).
    pub(in crate::postgis) fn definition(&self) -> String {
        let Cells { grid: CellGrid { shape, size, standing }, having, keeps_lone } = self;
        format!(
            "Some(Cells {{ grid: Grid {{ shape: {shape:?}, size: {size:?}, standing: {standing:?} }}, having: {having:?}, keeps_lone: {keeps_lone:?} }})"
        )
    }
}

/// A layer as it is configured, at zooms at which it is drawn in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOptions {
    /// The layer's name in the tile.
    pub name: String,
    /// The layer. Options with the same id share no zoom.
    pub id: LayerId,
    /// Where its rows come from.
    pub rows: Rows,
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
    /// The tile's grid, and how far beyond its tiles the layer is drawn.
    pub margin: Margin,
    /// The cells in which features are put together.
    pub cells: Option<Cells>,
    /// How much of the layer a tile may hold.
    pub budget: Budget,
    /// What happens when it cannot be rendered in one tile.
    pub on_tile_error: OnTileError,
    /// What becomes of rows that reach beyond ±180°.
    pub beyond: Beyond,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{CellShape, Standing};

    /// As version 1 wrote it: the hash of this text stands in every target.
    #[test]
    fn the_definition_of_cells_stays_as_it_was() {
        let grid = CellGrid { shape: CellShape::Hexagon, size: 0.25, standing: Standing::Polygon };
        let cells = Cells { grid, having: Some("count(*) > 1".to_owned()), keeps_lone: true };
        assert_eq!(
            cells.definition(),
            "Some(Cells { grid: Grid { shape: Hexagon, size: 0.25, standing: Polygon }, having: Some(\"count(*) > 1\"), keeps_lone: true })"
        );
    }
}
