//! A layer: as it is configured ([`LayerOptions`]), and as it is after the probe of the database ([`Layer`]).
//!
//! | file | subject |
//! |---|---|
//! | `options` | the configuration, and what kind of layer it is |
//! | `definition` | the text behind the fingerprint |
//! | `placement`, `edge`, `boxes` | where rows lie: reference systems, the edge at ±180°, boxes to search |
//! | `budget` | limits of a tile |
//! | `query/`, `query_values` | a query as the source of rows, and the values of its placeholders |
//! | `function` | a database function that returns whole tiles |
//! | `narrowed` | a layer restricted to the rows that a request wants |
//! | `patchable` | which layers can be patched |
//! | `explain` | errors of the database, explained in terms of the settings |

mod boxes;
mod budget;
mod definition;
mod edge;
mod explain;
mod function;
mod narrowed;
mod options;
mod patchable;
mod placement;
mod query;
mod query_values;

use crate::cells::CellGrid;
use crate::tile::{LayerId, Margin, TileBounds, Zoom, ZoomLimits, ZoomList};

pub use budget::{Budget, OnLargeTile, OnTileError};
pub use edge::Beyond;
pub use narrowed::parameter_array;
pub use options::{
    Cells, LayerKind, LayerOptions, Property, PropertySource, RowZooms, Rows, Simplify, TileFunction, TilePart,
};
pub use query::{Query, QueryError, ROW_NUMBER, placeholder_in};

pub(super) use boxes::{ROUNDING_UNITS, area_box, search_boxes, shifted_boxes, world_box};
pub(super) use budget::{Rank, same_max_features};
pub(super) use edge::{EdgeUnits, MAX_WRAPPED_HALVES};
pub(super) use explain::explain;
pub(crate) use function::{CalledFunction, CommentLayer, FunctionComment};
pub(super) use narrowed::setting;
pub(super) use placement::{Placement, Shape};
pub(super) use query::{PIXEL_METRES, PlaceholderSql, filled_parameters};
pub(super) use query_values::{QueryValues, pixel, query_box};

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// Its name, quoted.
    pub quoted: String,
    /// True if its type has a collation; `COLLATE "C"` then makes the order the same on every server.
    pub collated: bool,
}

/// A property ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundProperty {
    /// Its name in the tile.
    pub name: String,
    /// What it is computed from.
    pub of: ComputedFrom,
    /// The expression.
    pub sql: String,
    /// "Number", "Boolean" or "String", as TileJSON calls the types.
    pub kind: &'static str,
}

/// What a property is computed from.
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
    /// The name of the relation in messages.
    pub(in crate::postgis) display_name: String,
    /// The query that returns the rows; `None` if they come from a relation.
    pub(in crate::postgis) query: Option<Query>,
    /// The geometry column, quoted.
    pub(crate) geometry: String,
    pub(crate) shape: Shape,
    pub(crate) key: Vec<KeyColumn>,
    /// True if the relation allows patches: a spatial index finds the rows, and the database sorts their keys in the order of the features in a tile.
    pub(in crate::postgis) suits_patches: bool,
    /// True if `ST_AsMVT` writes each property under its own name, for any value.
    pub(in crate::postgis) has_plain_values: bool,
    pub(crate) properties: Vec<BoundProperty>,
    pub(crate) feature_id: Option<String>,
    pub(crate) filter: Option<String>,
    /// The zooms at which a row is drawn.
    pub(crate) row_zooms: RowZooms,
    pub(in crate::postgis) zooms: ZoomList,
    pub(in crate::postgis) margin: Margin,
    pub(in crate::postgis) kind: LayerKind,
    /// The function that returns the layer's tiles; `None` if they are drawn from rows.
    pub(in crate::postgis) function: Option<CalledFunction>,
    /// How its lines and polygons are simplified; `None` if they are drawn as they are.
    pub(in crate::postgis) simplify: Option<Simplify>,
    pub(in crate::postgis) budget: Budget,
    /// The budget's rank. `None` for cells: the cells with the most rows stay.
    pub(crate) rank: Option<Rank>,
    pub(in crate::postgis) on_tile_error: OnTileError,
    /// What is drawn of rows that reach beyond ±180°.
    pub(in crate::postgis) beyond: Beyond,
    /// True if the snapshot has a row that reaches beyond ±180°, or may have one because not all rows were checked.
    pub(in crate::postgis) reaches_beyond: bool,
    /// The columns that this role may read, quoted.
    pub(in crate::postgis) columns: Vec<String>,
}

/// Joins a condition, if there is one, and a further condition with AND.
#[must_use]
pub fn joined_conditions(own: Option<&str>, further: &str) -> String {
    own.map_or_else(|| further.to_owned(), |own| format!("({own}\n) AND ({further}\n)"))
}

impl Layer {
    /// The layer with a further condition of its rows.
    #[must_use]
    pub fn with_condition(&self, sql: &str) -> Layer {
        let filter = joined_conditions(self.filter.as_deref(), sql);
        Layer { filter: Some(filter), ..self.clone() }
    }

    /// True if the layer has the same rows as `other`, even if the two are drawn differently.
    #[must_use]
    pub fn has_rows_of(&self, other: &Layer) -> bool {
        let rows = |layer: &Layer| (layer.relation.clone(), layer.geometry.clone(), layer.filter.clone(), layer.beyond);
        rows(self) == rows(other)
    }

    /// The layer's name in the tile.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The most bytes that the layer may have in a tile before the run reports the tile.
    #[must_use]
    pub fn max_bytes(&self) -> &ZoomLimits {
        &self.budget.bytes
    }

    /// The zooms at which it is drawn.
    #[must_use]
    pub fn zooms(&self) -> &ZoomList {
        &self.zooms
    }

    /// The zooms of `zooms` at which the layer is drawn, in ascending order.
    #[must_use]
    pub fn drawn_zooms(&self, zooms: &ZoomList) -> Vec<Zoom> {
        zooms.iter().filter(|zoom| self.zooms.contains(*zoom)).collect()
    }

    /// The layer's id in the configuration. A layer that is drawn in several ways at different zooms becomes several [`Layer`]s with the same id.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// The tile's grid, and how far beyond its tiles the layer is drawn.
    #[must_use]
    pub fn margin(&self) -> Margin {
        self.margin
    }

    /// True if the layer's rows come from a query.
    #[must_use]
    pub fn is_query(&self) -> bool {
        self.query.is_some()
    }

    /// True if the database is queried once for each tile: the layer's query contains `!bbox!`, or a function returns the tile.
    #[must_use]
    pub fn asks_each_tile(&self) -> bool {
        self.asks_box() || self.function.is_some()
    }

    /// True if the layer's query contains `!bbox!`.
    pub(in crate::postgis) fn asks_box(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_box)
    }

    /// The function that returns the layer's tiles; `None` if they are drawn from rows.
    #[must_use]
    pub(crate) fn function(&self) -> Option<&CalledFunction> {
        self.function.as_ref()
    }

    /// True if the statement that renders the layer gets a list of the planned tiles: its features are lines and polygons, whose boxes also touch
    /// other tiles. False if the layer is thinned, because thinning counts the candidates of a tile, or simplified, because that moves edges.
    #[must_use]
    pub fn lists_tiles(&self) -> bool {
        let is_plain = self.margin.bounds == TileBounds::Mercator && self.margin.candidates.is_none();
        let is_read_once = !self.differs_by_zoom() && !self.asks_each_tile();
        let is_drawn_as_is = self.simplify.is_none() && !self.budget.thins();
        is_plain && is_read_once && is_drawn_as_is && !self.shape.points && self.cells().is_none()
    }

    /// True if no property depends on the tile, so that a feature which fills several tiles looks the same in all of them.
    pub(in crate::postgis) fn is_same_in_each_tile(&self) -> bool {
        self.properties.iter().all(|property| !matches!(property.of, ComputedFrom::Tile(_)))
    }

    /// True if the layer's query contains the zoom.
    pub(in crate::postgis) fn asks_each_zoom(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_zoom)
    }

    /// True if the number of its rows says how much it shows. A function that is called for every tile has no rows.
    pub(in crate::postgis) fn has_countable_rows(&self) -> bool {
        self.function.as_ref().is_none_or(|function| function.is_bounded)
    }

    /// The zooms of `tileset` for which a count of the layer's rows holds: those at which it is drawn, if its rows may
    /// differ from zoom to zoom, else all of its own.
    pub(crate) fn zooms_of_count(&self, tileset: &ZoomList) -> Option<ZoomList> {
        if self.differs_by_zoom() {
            return ZoomList::of(tileset.iter().filter(|zoom| self.zooms.contains(*zoom)));
        }
        Some(self.zooms.clone())
    }

    /// True if the layer's rows may differ from zoom to zoom.
    pub(in crate::postgis) fn differs_by_zoom(&self) -> bool {
        self.asks_each_zoom() || self.row_zooms != RowZooms::default()
    }

    /// The item of a FROM list that returns the layer's rows, with values for the placeholders of a query.
    pub(in crate::postgis) fn rows(&self, values: &PlaceholderSql) -> String {
        self.query.as_ref().map_or_else(|| self.relation.clone(), |query| query.sql_item(&self.name, values))
    }

    /// How the layer's rows are gathered in cells; `None` if each row is a feature.
    pub(crate) fn cells(&self) -> Option<&Cells> {
        match &self.kind {
            LayerKind::Rows | LayerKind::Function(_) => None,
            LayerKind::Cells(cells) => Some(cells),
        }
    }

    /// The grid of the cells in which its rows are gathered; `None` if each row is a feature.
    #[must_use]
    pub fn grid(&self) -> Option<CellGrid> {
        self.cells().map(|cells| cells.grid)
    }

    /// True if a row that is alone in its cell is drawn as itself.
    pub(in crate::postgis) fn keeps_lone(&self) -> bool {
        self.cells().is_some_and(|cells| cells.keeps_lone)
    }

    /// The greatest distance, in world units, at which a row outside of a tile of `zoom` may still affect the tile.
    pub(in crate::postgis) fn reach(&self, zoom: Zoom) -> i64 {
        self.margin.units(zoom) + self.grid().map_or(0, |grid| grid.reach(zoom))
    }

    /// The properties that are computed from rows.
    pub(crate) fn row_properties(&self) -> impl Iterator<Item = &BoundProperty> {
        self.properties.iter().filter(|property| property.of == ComputedFrom::Row)
    }

    /// The SQL over rows: properties, and the rank.
    pub(crate) fn row_sql(&self) -> impl Iterator<Item = &str> {
        let rank = self.rank.iter().map(|rank| rank.sql.as_str());
        self.row_properties().map(|property| property.sql.as_str()).chain(rank)
    }

    /// The SQL over the rows of a cell: properties, and the condition of the cell. The cell's bounds are still placeholders.
    pub(crate) fn aggregates(&self) -> impl Iterator<Item = &str> {
        let having = self.cells().and_then(|cells| cells.having.as_deref());
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

    /// True if a closed formula gives, for an area of the world, the box in the layer's reference system that contains all features of the
    /// area. EPSG:4326 and EPSG:3857 have one: each axis of one is a monotone function of an axis of the other.
    #[must_use]
    pub fn is_found_by_area(&self) -> bool {
        self.shape.has_closed_form()
    }

    /// Names of the properties and their types as TileJSON calls them.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.properties.iter().map(|property| (property.name.as_str(), property.kind))
    }
}
