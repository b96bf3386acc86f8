//! A layer as it is configured.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::placement::Beyond;
use super::query::Query;
use super::section::{LayerSection, OnLargeTile, OnTileError};
use super::{BoundProperty, CalledFunction, ComputedFrom, KeyColumn, Layer};
use crate::cells::{CellEdges, CellGeometry, CellGrid, CellShape};
use crate::tile::{LayerId, Margin, TileBounds, Zoom, ZoomLimits, ZoomList};

/// Where a layer's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// A table, view, materialized view or foreign table.
    Relation {
        /// The relation's schema; without it, the search path decides.
        schema: Option<String>,
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
    /// An SQL aggregate over the rows of a cell; `!xmin!`, `!ymin!`, `!xmax!` and `!ymax!` in it are the cell's bounds
    /// in degrees.
    Aggregate(String),
    /// The address of the tile that the feature is drawn in.
    Tile(TilePart),
}

/// A part of a tile's address (XYZ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TilePart {
    X,
    /// Its row, growing south.
    Y,
    Zoom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name in the tile.
    pub name: String,
    pub source: PropertySource,
}

/// The zooms at which a row is drawn, as SQL expressions over the row, trusted as the configuration is. NULL sets no
/// bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RowZooms {
    pub min: Option<String>,
    pub max: Option<String>,
}

impl RowZooms {
    pub(crate) fn sql(&self) -> impl Iterator<Item = &str> {
        self.min.iter().chain(&self.max).map(String::as_str)
    }

    /// The condition that a row is drawn at `zoom`, an SQL expression. It begins with AND, to follow another condition.
    pub(crate) fn condition(&self, zoom: &str) -> String {
        let min = self.min.iter().map(|min| format!(" AND (({min}\n) <= {zoom}) IS NOT FALSE"));
        let max = self.max.iter().map(|max| format!(" AND (({max}\n) >= {zoom}) IS NOT FALSE"));
        min.chain(max).collect()
    }
}

/// How lines and polygons are simplified at a zoom. Lengths are in pixels; a tile has 256 pixels along a side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Simplify {
    /// The tolerance of `ST_SimplifyPreserveTopology`.
    pub(crate) tolerance: Option<f64>,
    /// The cell of `ST_SnapToGrid`.
    pub(crate) snap: Option<f64>,
    /// Polygons of a smaller area, in square pixels, are left out.
    pub(crate) min_area: Option<f64>,
    /// Shorter lines are left out.
    pub(crate) min_length: Option<f64>,
}

impl Simplify {
    /// How far a feature may reach beyond the box of its row, as a fraction of a tile's side: half a cell of the grid.
    /// The tolerance adds nothing, because a simplified line consists of some of its own points and stays in its box.
    pub(crate) fn moved(&self) -> f64 {
        self.snap.map_or(0.0, |cell| cell / 2.0 / 256.0)
    }
}

/// How the rows of a layer are gathered in cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    pub(crate) grid: CellGrid,
    /// A condition over aggregates that a cell must fulfil to be drawn, with the placeholders of
    /// [`PropertySource::Aggregate`].
    pub(crate) having: Option<String>,
    /// True if a row that is alone in its cell is drawn as itself, with the properties of rows.
    pub(crate) keeps_lone: bool,
}

/// A database function that returns the MVT bytes of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileFunction {
    /// Its name as SQL, with its schema or without; with the types of its arguments in parentheses if several functions
    /// have the name.
    pub name: String,
    /// The argument after the tile's address: an object as JSON text. `None` if nothing was configured.
    pub query: Option<String>,
    /// True if the layer's rows determine where tiles may be; otherwise there is one row, which covers the world.
    pub(crate) is_bounded: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LayerKind {
    Rows,
    /// The rows that lie in one cell of a grid as one feature.
    Cells(Cells),
    /// The tiles that a function returns; it is called once for each tile. The layer's rows only determine where tiles
    /// may be.
    Function(TileFunction),
}

/// A layer as it is configured, at zooms at which it is drawn in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOptions {
    pub section: Arc<LayerSection>,
    /// The layer's name in the tile.
    pub name: String,
    /// The layer's id. Options with the same id are one layer that is drawn differently at different zooms; they share
    /// no zoom.
    pub id: LayerId,
    /// Where its rows come from.
    pub rows: Rows,
    /// The columns that identify and order features; empty for the primary key.
    pub key: Vec<String>,
    /// The properties; `None` for every column but the geometry.
    pub properties: Option<Vec<Property>>,
    /// An SQL condition that rows must fulfil.
    pub filter: Option<String>,
    pub(crate) row_zooms: RowZooms,
    pub zooms: ZoomList,
    /// The tile's grid, and how far beyond its tiles the layer is drawn.
    pub margin: Margin,
    /// What it draws as one feature.
    pub kind: LayerKind,
    /// How its lines and polygons are simplified; `None` if they are drawn as they are.
    pub(crate) simplify: Option<Simplify>,
    /// How much of the layer a tile may hold.
    pub(crate) budget: Budget,
    /// What happens when the layer cannot be rendered in one tile.
    pub(crate) on_tile_error: OnTileError,
    /// What is drawn of rows that reach beyond ±180°.
    pub beyond: Beyond,
    /// True if lines and polygons that are not valid, or that jump across ±180°, are repaired before they are drawn.
    pub(crate) repair: bool,
}

// How much of a layer a tile may hold, and what happens to tiles that hold more or cannot be rendered.

/// Limits of a layer's part of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Budget {
    pub features: ZoomLimits,
    /// The most bytes of the layer's part of a tile, compressed separately.
    pub bytes: ZoomLimits,
    /// What happens to tiles that hold more.
    pub on_large_tile: OnLargeTile,
    /// An SQL expression over a row. Features with the greatest values stay when others are left out.
    pub rank: Option<String>,
}

impl Budget {
    /// True if features are left out of tiles that hold more than the budget.
    pub(crate) fn thins(&self) -> bool {
        self.on_large_tile == OnLargeTile::Thin
    }

    /// The budget of a layer whose tiles are stored unchanged: without a limit of features, and without leaving any
    /// out.
    pub(crate) fn of_whole_tiles(self) -> Budget {
        let on_large_tile = if self.thins() { OnLargeTile::Warn } else { self.on_large_tile };
        Budget { features: ZoomLimits::everywhere(None), on_large_tile, rank: None, ..self }
    }

    /// The most features at each zoom, as an array parameter: zoom 0 first, NULL where a zoom has no limit.
    pub(crate) fn max_features(&self) -> Vec<Option<i64>> {
        let limit = |zoom: Zoom| self.features.at(zoom).and_then(|limit| i64::try_from(limit.get()).ok());
        (0..=Zoom::MAX.get()).filter_map(Zoom::new).map(limit).collect()
    }
}

/// The same limit of features at every zoom, as the array parameter of [`Budget::max_features`].
pub(crate) fn same_max_features(features: NonZeroU64) -> Vec<Option<i64>> {
    vec![i64::try_from(features.get()).ok(); usize::from(Zoom::MAX.get()) + 1]
}

// The text behind the fingerprint: everything in a layer's configuration that decides its bytes in a tile.
//
// Every target holds a hash of this text. It is written out by hand, in the form of the first version, so that renaming
// a type or a field cannot change it. With another text, every target would have to be seeded again.

impl Layer {
    /// Everything that decides the layer's bytes in a tile, in one text. The kind of the layer's geometries (`Shape`)
    /// is left out: it follows from the rows of the column and changes with them, but does not affect any byte.
    #[must_use]
    pub fn definition(&self) -> String {
        let zooms: Vec<u8> = self.zooms.iter().map(Zoom::get).collect();
        format!(
            "(({:?}, {:?}, {:?}, {}, {}, {}), ({:?}, {:?}, {zooms:?}, {}, {}, {}))",
            self.name,
            self.relation,
            self.geometry,
            self.shape.geography,
            list(&self.key, KeyColumn::definition),
            list(&self.properties, BoundProperty::definition),
            self.section.feature_id,
            self.filter,
            margin(self.margin),
            self.cells().map_or_else(|| "None".to_owned(), Cells::definition),
            self.beyond.definition(),
        ) + &self.budget.definition(self.zooms.iter())
            + &self.row_zooms.definition()
            + &self.simplify.as_ref().map_or_else(String::new, Simplify::definition)
            + if self.repair { "repaired" } else { "" }
            + &self.function.as_ref().map_or_else(String::new, CalledFunction::definition)
    }
}

fn list<T>(items: &[T], definition: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(definition).collect::<Vec<_>>().join(", "))
}

impl KeyColumn {
    fn definition(&self) -> String {
        let KeyColumn { quoted, collated, kind: _ } = self;
        format!("KeyColumn {{ quoted: {quoted:?}, collated: {collated} }}")
    }
}

impl BoundProperty {
    fn definition(&self) -> String {
        let BoundProperty { name, of, sql, kind } = self;
        let of = match of {
            ComputedFrom::Row => "Row",
            ComputedFrom::Cell => "Cell",
            ComputedFrom::Tile(TilePart::X) => "Tile(X)",
            ComputedFrom::Tile(TilePart::Y) => "Tile(Y)",
            ComputedFrom::Tile(TilePart::Zoom) => "Tile(Zoom)",
        };
        format!("BoundProperty {{ name: {name:?}, of: {of}, sql: {sql:?}, kind: {kind:?} }}")
    }
}

fn margin(margin: Margin) -> String {
    // `moved` follows from how the layer is simplified.
    let Margin { extent, buffer, bounds, candidates, moved: _ } = margin;
    let bounds = match bounds {
        TileBounds::Mercator => "Mercator",
        TileBounds::Degrees => "Degrees",
    };
    format!("Margin {{ extent: {extent}, buffer: {buffer}, bounds: {bounds}, candidates: {candidates:?} }}")
}

impl Cells {
    fn definition(&self) -> String {
        let Cells { grid: CellGrid { shape, size, geometry, merges, edges }, having, keeps_lone } = self;
        let shape = match shape {
            CellShape::Square => "Square",
            CellShape::Hexagon => "Hexagon",
        };
        let geometry = match geometry {
            CellGeometry::Center => "Center",
            CellGeometry::Centroid => "Centroid",
            CellGeometry::Polygon => "Polygon",
        };
        let merges = if *merges { ", merges" } else { "" };
        let edges = match edges {
            CellEdges::Mercator => "",
            CellEdges::Degrees => ", edges in degrees",
        };
        format!(
            "Some(Cells {{ grid: Grid {{ shape: {shape}, size: {size:?}, standing: {geometry}{merges}{edges} }}, having: {having:?}, keeps_lone: {keeps_lone} }})"
        )
    }
}

impl Beyond {
    fn definition(self) -> &'static str {
        match self {
            Beyond::Wrap => "Wrap",
            Beyond::Clip => "Clip",
            Beyond::Skip => "Skip",
        }
    }
}

impl RowZooms {
    /// Nothing if every row is drawn at every zoom.
    fn definition(&self) -> String {
        let RowZooms { min, max } = self;
        if *self == RowZooms::default() { String::new() } else { format!("rows from {min:?} to {max:?}") }
    }
}

impl Simplify {
    fn definition(&self) -> String {
        let Simplify { tolerance, snap, min_area, min_length } = self;
        format!("simplified by {tolerance:?}, snapped to {snap:?}, at least {min_area:?} or {min_length:?}")
    }
}

impl Budget {
    /// The part of the budget that decides bytes in tiles at `zooms`; empty unless features are left out.
    fn definition(&self, zooms: impl Iterator<Item = Zoom>) -> String {
        if !self.thins() {
            return String::new();
        }
        let limits: Vec<_> = zooms.map(|zoom| (self.features.at(zoom), self.bytes.at(zoom))).collect();
        format!("thinned to {limits:?} by {:?}", self.rank)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::postgis::layer::{LayerKind, OnLargeTile, OnTileError, PropertyNames, Rank, Shape};
    use crate::tile::{LayerId, ZoomLimits};

    fn section(feature_id: Option<&str>) -> Arc<LayerSection> {
        Arc::new(LayerSection { feature_id: feature_id.map(str::to_owned), ..LayerSection::default() })
    }

    /// A layer with a value in every part of the definition.
    pub(crate) fn layer() -> Layer {
        let property =
            |name: &str, of, sql: &str, kind| BoundProperty { name: name.to_owned(), of, sql: sql.to_owned(), kind };
        Layer {
            section: section(Some("id")),
            name: "facilities".to_owned(),
            id: LayerId(0),
            relation: "\"public\".\"api_facility\"".to_owned(),
            display_name: "\"public\".\"api_facility\"".to_owned(),
            query: None,
            geometry: "\"location\"".to_owned(),
            shape: Shape::of_any(4326, false),
            key: vec![
                KeyColumn { quoted: "\"id\"".to_owned(), collated: true, kind: None },
                KeyColumn { quoted: "\"part\"".to_owned(), collated: false, kind: None },
            ],
            has_spatial_index: true,
            suits_patches: true,
            names: PropertyNames::Own,
            properties: vec![
                property("name", ComputedFrom::Row, "\"name\"", "String"),
                property("count", ComputedFrom::Cell, "(count(*)\n)", "Number"),
                property("x", ComputedFrom::Tile(TilePart::X), "NULL::int4", "Number"),
            ],
            filter: Some("name <> ''".to_owned()),
            row_zooms: RowZooms::default(),
            simplify: None,
            zooms: "0-2".parse().unwrap(),
            margin: Margin { extent: 4096, buffer: 64, bounds: TileBounds::Degrees, candidates: Some(0.5), moved: 0.0 },
            kind: LayerKind::Cells(Cells {
                grid: CellGrid {
                    shape: CellShape::Hexagon,
                    size: 0.25,
                    geometry: CellGeometry::Polygon,
                    merges: false,
                    edges: CellEdges::Mercator,
                },
                having: Some("count(*) > 1".to_owned()),
                keeps_lone: true,
            }),
            function: None,
            budget: Budget {
                features: ZoomLimits::everywhere(None),
                bytes: ZoomLimits::everywhere(std::num::NonZeroU64::new(500_000)),
                on_large_tile: OnLargeTile::Thin,
                rank: Some("workers".to_owned()),
            },
            rank: Some(Rank { sql: "(workers\n)".to_owned(), collated: false, read_as: None }),
            on_tile_error: OnTileError::Fail,
            beyond: Beyond::Wrap,
            reaches_beyond: false,
            repair: false,
            columns: Vec::new(),
            facets: Vec::new(),
        }
    }

    /// The text is as version 1 wrote it, because its hash is stored in every target.
    #[test]
    fn the_definition_of_a_layer_stays_as_it_was() {
        let expected = "((\"facilities\", \"\\\"public\\\".\\\"api_facility\\\"\", \"\\\"location\\\"\", false, \
            [KeyColumn { quoted: \"\\\"id\\\"\", collated: true }, KeyColumn { quoted: \"\\\"part\\\"\", collated: false }], \
            [BoundProperty { name: \"name\", of: Row, sql: \"\\\"name\\\"\", kind: \"String\" }, \
            BoundProperty { name: \"count\", of: Cell, sql: \"(count(*)\\n)\", kind: \"Number\" }, \
            BoundProperty { name: \"x\", of: Tile(X), sql: \"NULL::int4\", kind: \"Number\" }]), \
            (Some(\"id\"), Some(\"name <> ''\"), [0, 1, 2], \
            Margin { extent: 4096, buffer: 64, bounds: Degrees, candidates: Some(0.5) }, \
            Some(Cells { grid: Grid { shape: Hexagon, size: 0.25, standing: Polygon }, having: Some(\"count(*) > 1\"), keeps_lone: true }), \
            Wrap))thinned to [(None, Some(500000)), (None, Some(500000)), (None, Some(500000))] by Some(\"workers\")";
        assert_eq!(layer().definition(), expected);
        let plain = Layer {
            properties: Vec::new(),
            section: section(None),
            filter: None,
            margin: Margin::plain(512, 8),
            kind: LayerKind::Rows,
            budget: Budget { on_large_tile: OnLargeTile::Warn, ..layer().budget },
            beyond: Beyond::Skip,
            ..layer()
        };
        let expected = "((\"facilities\", \"\\\"public\\\".\\\"api_facility\\\"\", \"\\\"location\\\"\", false, \
            [KeyColumn { quoted: \"\\\"id\\\"\", collated: true }, KeyColumn { quoted: \"\\\"part\\\"\", collated: false }], []), \
            (None, None, [0, 1, 2], Margin { extent: 512, buffer: 8, bounds: Mercator, candidates: None }, None, Skip))";
        assert_eq!(plain.definition(), expected);
        let simplify = Simplify { tolerance: Some(0.5), snap: None, min_area: Some(1.0), min_length: None };
        let simplified = Layer { simplify: Some(simplify), ..plain.clone() };
        let said = "simplified by Some(0.5), snapped to None, at least Some(1.0) or None";
        assert_eq!(simplified.definition(), format!("{expected}{said}"));
        let row_zooms = RowZooms { min: Some("first".to_owned()), max: None };
        let drawn = Layer { row_zooms, ..plain.clone() };
        assert_eq!(drawn.definition(), format!("{expected}rows from Some(\"first\") to None"));
        assert_eq!(Layer { repair: true, ..plain }.definition(), format!("{expected}repaired"));
    }
}
