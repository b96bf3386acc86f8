//! A layer: as it is configured, and as it is once the database was asked.

use std::sync::Arc;

use super::budget::{Budget, OnTileError, Rank};
use super::edge::{Beyond, EdgeUnits};
use super::error::Error;
use super::folds::Folds;
use super::query::{Query, Values};
use super::snapshot::Snapshot;
use super::stock::Stock;
use crate::cells::{CellCounts, CellGrid, Standing};
use crate::tile::{LayerId, Margin, Zoom, ZoomLimits, ZoomList};

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
    pub(super) const fn of_any(srid: i32, geography: bool) -> Shape {
        Shape { srid, points: false, geography, curves: true, edge: None }
    }

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
    /// What it is worked out of.
    pub of: Of,
    /// The expression.
    pub sql: String,
    /// "Number", "Boolean" or "String", as TileJSON calls the types.
    pub kind: &'static str,
}

/// What a property is worked out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
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
    pub(super) name: String,
    pub(super) id: LayerId,
    /// An item of a FROM list: schema and relation, quoted, or a query without values for its placeholders.
    pub(crate) relation: String,
    /// How messages call it.
    pub(super) called: String,
    /// The query that the rows come from.
    pub(super) query: Option<Query>,
    /// The geometry column, quoted.
    pub(crate) geometry: String,
    pub(crate) shape: Shape,
    pub(crate) key: Vec<KeyColumn>,
    /// A part of a tile can be looked up, and put in order by its keys, as far as the relation goes.
    pub(super) suits_patches: bool,
    /// `ST_AsMVT` writes each property under its own name, whatever its value.
    pub(super) has_plain_values: bool,
    pub(crate) properties: Vec<BoundProperty>,
    pub(crate) feature_id: Option<String>,
    pub(crate) filter: Option<String>,
    pub(super) zooms: ZoomList,
    pub(super) margin: Margin,
    pub(crate) cells: Option<Cells>,
    pub(super) budget: Budget,
    /// The budget's rank; none for cells, of which those with the most rows are the best.
    pub(crate) rank: Option<Rank>,
    pub(super) on_tile_error: OnTileError,
    /// What becomes of rows that reach beyond ±180°.
    pub(super) beyond: Beyond,
    /// Whether there is such a row in the snapshot, or nobody has looked.
    pub(super) reaches_beyond: bool,
    /// The columns that this role may read, quoted.
    pub(super) columns: Vec<String>,
    /// The aggregates that the survey folds; none if it is to count at most.
    pub(super) folds: Option<Arc<Folds>>,
    /// Its cells, at the zooms at which the survey has counted all that is to be known of them.
    pub(super) counted: Option<Arc<CellCounts>>,
    /// Its rows, if they were read once for all zooms.
    pub(super) stock: Option<Arc<Stock>>,
}

impl Layer {
    /// The layer with its cells as the survey has counted them: they need not be looked for again.
    #[must_use]
    pub fn with_counts(self, counted: Option<Arc<CellCounts>>) -> Layer {
        Layer { counted, ..self }
    }

    /// The layer with those of its aggregates looked up that a survey of all rows can work out while it reads them.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub async fn folded(self, snapshot: &Snapshot) -> Result<Layer, Error> {
        let folds = Folds::look_up(snapshot, &self).await?.map(Arc::new);
        Ok(Layer { folds, ..self })
    }

    /// Whether a survey of all rows may find out all that is to be known of its cells at a zoom. Which aggregates can be folded is not
    /// looked at: [`Layer::folded`] does.
    #[must_use]
    pub fn may_be_counted(&self, zoom: Zoom) -> bool {
        let has_few = self.grid().is_some_and(|grid| grid.has_few_cells(zoom));
        self.zooms.contains(zoom) && (has_few || self.needs_only_counts())
    }

    /// Whether a survey does.
    #[must_use]
    pub fn is_counted_by_survey(&self) -> bool {
        self.folds.is_some() || self.needs_only_counts()
    }

    /// Whether the survey has counted its cells at a zoom.
    pub(super) fn is_counted(&self, zoom: Zoom) -> bool {
        self.counted.as_ref().is_some_and(|counted| counted.has(zoom))
    }

    /// Whether nothing but a number of rows is to be known of its cells.
    fn needs_only_counts(&self) -> bool {
        super::sql::needs_only_counts(self)
    }

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
    pub(super) fn asks_each_zoom(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_zoom)
    }

    /// The item of a FROM list that gives its rows, with values for the placeholders of a query.
    pub(super) fn rows(&self, values: &Values) -> String {
        self.query.as_ref().map_or_else(|| self.relation.clone(), |query| query.item(&self.name, values))
    }

    /// The cells in which its features are put together.
    #[must_use]
    pub fn grid(&self) -> Option<CellGrid> {
        self.cells.as_ref().map(|cells| cells.grid)
    }

    /// Whether a row that is alone in its cell is drawn as itself.
    pub(super) fn keeps_lone(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.keeps_lone)
    }

    /// Whether every feature in its tiles is a single point.
    pub(super) fn draws_points(&self) -> bool {
        self.grid().map_or(self.shape.points, |grid| grid.standing != Standing::Polygon && !self.is_found_in_boxes())
    }

    /// Whether cells that stand at the mean of their members are planned by their boxes: no closed formula leads to the members,
    /// and the mean does not tell where to look for all of them.
    pub(super) fn is_found_in_boxes(&self) -> bool {
        self.grid().is_some_and(|grid| grid.standing == Standing::Centroid) && !self.is_found_by_area()
    }

    /// At a zoom, how far beyond a tile rows are looked for that show in it, in world units.
    pub(super) fn reach(&self, zoom: Zoom) -> i64 {
        self.margin.units(zoom) + self.grid().map_or(0, |grid| grid.reach(zoom))
    }

    /// The properties worked out of rows.
    pub(crate) fn row_properties(&self) -> impl Iterator<Item = &BoundProperty> {
        self.properties.iter().filter(|property| property.of == Of::Row)
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
            .filter(|property| property.of == Of::Cell)
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
    #[must_use]
    pub fn definition(&self) -> String {
        let zooms: Vec<u8> = self.zooms.iter().map(Zoom::get).collect();
        format!(
            "{:?}",
            (
                (&self.name, &self.relation, &self.geometry, self.shape.geography, &self.key, &self.properties),
                (&self.feature_id, &self.filter, zooms, self.margin, &self.cells, self.beyond)
            )
        ) + &self.budget.definition(self.zooms.iter())
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
