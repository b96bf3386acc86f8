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
        /// The relation's schema; without it, the search path decides.
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
    /// A column of the layer's relation.
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

/// The zooms at which a row is drawn, as SQL expressions over the row, trusted as the configuration is. NULL sets no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowZooms {
    /// The first zoom.
    pub min: Option<String>,
    /// The last zoom.
    pub max: Option<String>,
}

impl RowZooms {
    /// The expressions.
    pub(crate) fn sql(&self) -> impl Iterator<Item = &str> {
        self.min.iter().chain(&self.max).map(String::as_str)
    }

    /// The condition that a row is drawn at `zoom`, an SQL expression. It begins with AND, to follow another condition.
    pub(in crate::postgis) fn condition(&self, zoom: &str) -> String {
        let min = self.min.iter().map(|min| format!(" AND (({min}\n) <= {zoom}) IS NOT FALSE"));
        let max = self.max.iter().map(|max| format!(" AND (({max}\n) >= {zoom}) IS NOT FALSE"));
        min.chain(max).collect()
    }
}

/// How lines and polygons are simplified at a zoom. Lengths are in pixels; a tile has 256 pixels along a side.
#[derive(Debug, Clone, PartialEq)]
pub struct Simplify {
    /// The tolerance of `ST_SimplifyPreserveTopology`.
    pub tolerance: Option<f64>,
    /// The cell of `ST_SnapToGrid`.
    pub snap: Option<f64>,
    /// Polygons of a smaller area, in square pixels, are left out.
    pub min_area: Option<f64>,
    /// Shorter lines are left out.
    pub min_length: Option<f64>,
}

impl Simplify {
    /// How far a feature may reach beyond the box of its row, as a fraction of a tile's side: half a cell of the grid. The tolerance adds nothing,
    /// because a simplified line consists of some of its own points and stays in its box.
    #[must_use]
    pub fn moved(&self) -> f64 {
        self.snap.map_or(0.0, |cell| cell / 2.0 / 256.0)
    }
}

/// How the rows of a layer are gathered in cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// The grid of the cells.
    pub grid: CellGrid,
    /// A condition over aggregates that a cell must fulfil to be drawn, with the placeholders of [`PropertySource::Aggregate`].
    pub having: Option<String>,
    /// True if a row that is alone in its cell is drawn as itself, with the properties of rows.
    pub keeps_lone: bool,
}

/// A database function that returns the MVT bytes of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileFunction {
    /// Its name as SQL, with its schema or without; with the types of its arguments in parentheses if several functions have the name.
    pub name: String,
    /// The argument after the tile's address: an object as JSON text. `None` if nothing was configured.
    pub query: Option<String>,
    /// True if the layer's rows determine where tiles may be; otherwise there is one row, which covers the world.
    pub is_bounded: bool,
}

/// What a layer draws.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerKind {
    /// Each row as one feature.
    Rows,
    /// The rows that lie in one cell of a grid as one feature.
    Cells(Cells),
    /// The tiles that a function returns; it is called once for each tile. The layer's rows only determine where tiles may be.
    Function(TileFunction),
}

/// A layer as it is configured, at zooms at which it is drawn in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOptions {
    /// The layer's name in the tile.
    pub name: String,
    /// The layer's id. Options with the same id are one layer that is drawn differently at different zooms; they share no zoom.
    pub id: LayerId,
    /// Where its rows come from.
    pub rows: Rows,
    /// The column with the geometry or geography; without one the relation must have exactly one.
    pub geometry: Option<String>,
    /// The columns that identify and order features; empty for the primary key.
    pub key: Vec<String>,
    /// The properties; `None` for every column but the geometry.
    pub properties: Option<Vec<Property>>,
    /// The integer column that becomes the feature's id (MVT 2.1, section 4.2).
    pub feature_id: Option<String>,
    /// An SQL condition that rows must fulfil.
    pub filter: Option<String>,
    /// The zooms at which a row is drawn.
    pub row_zooms: RowZooms,
    /// The zooms at which the layer is drawn.
    pub zooms: ZoomList,
    /// The tile's grid, and how far beyond its tiles the layer is drawn.
    pub margin: Margin,
    /// What it draws as one feature.
    pub kind: LayerKind,
    /// How its lines and polygons are simplified; `None` if they are drawn as they are.
    pub simplify: Option<Simplify>,
    /// How much of the layer a tile may hold.
    pub budget: Budget,
    /// What happens when the layer cannot be rendered in one tile.
    pub on_tile_error: OnTileError,
    /// What is drawn of rows that reach beyond ±180°.
    pub beyond: Beyond,
    /// True if its relation is a materialized view that a run refreshes before it takes its snapshot.
    pub refresh: bool,
    /// True for the layer of the sample configuration, which is drawn if the user names no other.
    pub is_sample: bool,
}
