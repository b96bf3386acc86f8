//! A layer: as it is configured, and as it is once the database was asked.

mod boxes;
mod budget;
mod edge;
mod explained;
mod options;
mod point_key;
mod query;
mod query_values;

use crate::cells::{CellGrid, Standing};
use crate::tile::{LayerId, Margin, Zoom, ZoomLimits, ZoomList};

pub use budget::{Budget, OnLargeTile, OnTileError};
pub use edge::Beyond;
pub use options::{Cells, LayerOptions, Property, PropertySource, Rows, TilePart};
pub use query::{Query, QueryError, placeholder_in};

pub(super) use boxes::{area_box, search_boxes, world_box};
pub(super) use budget::{Rank, so_many};
pub(super) use edge::{EdgeUnits, MAX_WRAPPED_HALVES};
pub(super) use explained::explained;
pub(super) use query::{PIXEL_METRES, PlaceholderSql};
pub(super) use query_values::{QueryValues, pixel, query_box};

/// How a layer's positions are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The spatial reference system of the column.
    pub srid: i32,
    /// Every geometry is a single point.
    pub points: bool,
    /// The column is a geography.
    pub geography: bool,
    /// There may be curves, which tiles cannot hold: they are turned into lines. Or surfaces, which are skipped.
    pub curves: bool,
    /// The units of the column, if rows may reach beyond ±180° in it.
    pub edge: Option<EdgeUnits>,
}

impl Shape {
    /// Nothing is known of the geometries but the column's type.
    pub(in crate::postgis) const fn of_any(srid: i32, geography: bool) -> Shape {
        Shape { srid, points: false, geography, curves: true, edge: None }
    }

    /// Whether an area of the world turns into a box of the column's reference system by a closed formula, so that a point
    /// of it is found by the area alone.
    pub(in crate::postgis) fn is_closed_form(self) -> bool {
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
    /// What it is worked out of.
    pub of: ComputedFrom,
    /// The expression.
    pub sql: String,
    /// "Number", "Boolean" or "String", as TileJSON calls the types.
    pub kind: &'static str,
}

/// What a property is worked out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComputedFrom {
    /// A row.
    Row,
    /// The rows of a cell.
    Cell,
    /// The tile's address.
    Tile(TilePart),
}

/// A layer as the database has it: names looked up and quoted, types known.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub(in crate::postgis) name: String,
    pub(in crate::postgis) id: LayerId,
    /// An item of a FROM list: schema and relation, quoted, or a query without values for its placeholders.
    pub(crate) relation: String,
    /// How messages call it.
    pub(in crate::postgis) called: String,
    /// The query that the rows come from.
    pub(in crate::postgis) query: Option<Query>,
    /// The geometry column, quoted.
    pub(crate) geometry: String,
    pub(crate) shape: Shape,
    pub(crate) key: Vec<KeyColumn>,
    /// A part of a tile can be looked up, and put in order by its keys, as far as the relation goes.
    pub(in crate::postgis) suits_patches: bool,
    /// `ST_AsMVT` writes each property under its own name, whatever its value.
    pub(in crate::postgis) has_plain_values: bool,
    pub(crate) properties: Vec<BoundProperty>,
    pub(crate) feature_id: Option<String>,
    pub(crate) filter: Option<String>,
    pub(in crate::postgis) zooms: ZoomList,
    pub(in crate::postgis) margin: Margin,
    pub(crate) cells: Option<Cells>,
    pub(in crate::postgis) budget: Budget,
    /// The budget's rank; none for cells, of which those with the most rows are the best.
    pub(crate) rank: Option<Rank>,
    pub(in crate::postgis) on_tile_error: OnTileError,
    /// What becomes of rows that reach beyond ±180°.
    pub(in crate::postgis) beyond: Beyond,
    /// Whether there is such a row in the snapshot, or nobody has looked.
    pub(in crate::postgis) reaches_beyond: bool,
    /// The columns that this role may read, quoted.
    pub(in crate::postgis) columns: Vec<String>,
}

impl Layer {
    /// The layer's name in the tile.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Beyond how many bytes its part of a tile is named.
    #[must_use]
    pub fn most_bytes(&self) -> &ZoomLimits {
        &self.budget.bytes
    }

    /// The zooms at which it is drawn.
    #[must_use]
    pub fn zooms(&self) -> &ZoomList {
        &self.zooms
    }

    /// Its number in the configuration; the parts of a layer share it.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// The tile's grid, and how far beyond its tiles the layer is drawn.
    #[must_use]
    pub fn margin(&self) -> Margin {
        self.margin
    }

    /// Whether its rows come from a query.
    #[must_use]
    pub fn is_query(&self) -> bool {
        self.query.is_some()
    }

    /// Whether its query is asked for each tile by itself.
    #[must_use]
    pub fn asks_each_tile(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_box)
    }

    /// Whether its rows may be others at each zoom.
    pub(in crate::postgis) fn asks_each_zoom(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_zoom)
    }

    /// The item of a FROM list that gives its rows, with values for the placeholders of a query.
    pub(in crate::postgis) fn rows(&self, values: &PlaceholderSql) -> String {
        self.query.as_ref().map_or_else(|| self.relation.clone(), |query| query.item(&self.name, values))
    }

    /// The cells in which its features are put together.
    #[must_use]
    pub fn grid(&self) -> Option<CellGrid> {
        self.cells.as_ref().map(|cells| cells.grid)
    }

    /// Whether a row that is alone in its cell is drawn as itself.
    pub(in crate::postgis) fn keeps_lone(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.keeps_lone)
    }

    /// Whether every feature in its tiles is a single point.
    pub(in crate::postgis) fn draws_points(&self) -> bool {
        self.grid().map_or(self.shape.points, |grid| grid.standing != Standing::Polygon && !self.is_found_in_boxes())
    }

    /// Whether cells that stand at the mean of their members are planned by their boxes: no closed formula leads to the members,
    /// and the mean does not tell where to look for all of them.
    pub(in crate::postgis) fn is_found_in_boxes(&self) -> bool {
        self.grid().is_some_and(|grid| grid.standing == Standing::Centroid) && !self.is_found_by_area()
    }

    /// At a zoom, how far beyond a tile rows are looked for that show in it, in world units.
    pub(in crate::postgis) fn reach(&self, zoom: Zoom) -> i64 {
        self.margin.units(zoom) + self.grid().map_or(0, |grid| grid.reach(zoom))
    }

    /// The properties worked out of rows.
    pub(crate) fn row_properties(&self) -> impl Iterator<Item = &BoundProperty> {
        self.properties.iter().filter(|property| property.of == ComputedFrom::Row)
    }

    /// The SQL that is worked out of rows: properties, and what ranks the rows.
    pub(crate) fn row_sql(&self) -> impl Iterator<Item = &str> {
        let rank = self.rank.iter().map(|rank| rank.sql.as_str());
        self.row_properties().map(|property| property.sql.as_str()).chain(rank)
    }

    /// The SQL that is worked out over the rows of a cell, the cell's bounds left open.
    pub(crate) fn aggregates(&self) -> impl Iterator<Item = &str> {
        let having = self.cells.iter().filter_map(|cells| cells.having.as_deref());
        self.properties
            .iter()
            .filter(|property| property.of == ComputedFrom::Cell)
            .map(|property| property.sql.as_str())
            .chain(having)
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
    ///
    /// The text is that of the first version: every target holds its hash, so renaming a type must not change it.
    #[must_use]
    pub fn definition(&self) -> String {
        let zooms: Vec<u8> = self.zooms.iter().map(Zoom::get).collect();
        let cells = self.cells.as_ref().map_or_else(|| "None".to_owned(), Cells::definition);
        format!(
            "(({:?}, {:?}, {:?}, {:?}, {:?}, {:?}), ({:?}, {:?}, {zooms:?}, {:?}, {cells}, {:?}))",
            self.name,
            self.relation,
            self.geometry,
            self.shape.geography,
            self.key,
            self.properties,
            self.feature_id,
            self.filter,
            self.margin,
            self.beyond
        ) + &self.budget.definition(self.zooms.iter())
    }
}
