//! A layer: as it is configured ([`LayerOptions`]), and as it is after the probe of the database ([`Layer`]).
//!
//! | file | subject |
//! |---|---|
//! | `placement` | where rows lie: reference systems, the edge at ±180°, boxes to search |
//! | `options` | the configuration, and what kind of layer it is; the text behind the fingerprint; limits of a tile |
//! | `query` | a query as the source of rows, and the values of its placeholders |
//! | `function` | a database function that returns whole tiles |
//! | `facet` | columns whose values requests choose, and the conditions that say so |
//! | `rank` | the rank of a layer's features, which decides which of them stay in a large tile |
//! | `ordered_bytes` | values as bytes that compare as the values do in PostgreSQL |
//! | `key_bytes` | the keys of rows as such bytes |
//! | `section` | the keys of a section `[[layer]]` |

mod facet;
mod function;
mod key_bytes;
mod options;
mod ordered_bytes;
mod placement;
mod query;
mod rank;
mod section;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::session::{Error, area_name, quoted};
use crate::cells::CellGrid;
use crate::mvt::{FeatureKey, PointLayer, TileConstants};
use crate::tile::{LayerId, Margin, TileBounds, TileCoord, TileRect, Zoom, ZoomLimits, ZoomList};

pub(crate) use facet::{Facet, FacetChoice, FacetMatch, FacetType, FacetValue, FrequentValue, WantedValues};
pub(crate) use function::{CalledFunction, CommentLayer, FunctionComment};
pub(crate) use key_bytes::{KeyType, KeyTypes, KeyValues};
pub(crate) use options::same_max_features;
#[cfg(test)]
pub(crate) use options::tests::layer as example_layer;
pub(crate) use options::{
    Budget, Cells, LayerKind, LayerOptions, Property, PropertySource, RowZooms, Rows, Simplify, TileFunction, TilePart,
};
pub(crate) use ordered_bytes::OrderedBytes;
pub(crate) use placement::Beyond;
pub(crate) use placement::{
    EdgeUnits, MAX_WRAPPED_HALVES, Placement, REPAIRED, ROUNDING_UNITS, Shape, area_box, search_boxes, shifted_boxes,
    world_box,
};
pub(crate) use query::{PIXEL_METRES, PlaceholderSql, QueryValues, filled_parameters, pixel, query_box};
pub(crate) use query::{Query, QueryError, ROW_NUMBER, placeholder_in};
pub(crate) use rank::Rank;
pub(crate) use section::{
    AggregateSection, ClusterSection, Fraction, Limit, Properties, RowCondition, SimplifySection,
};
pub(crate) use section::{LayerSection, OnLargeTile, OnTileError, TrackSection};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// Its name, quoted.
    pub(crate) quoted: String,
    /// True if its type has a collation; `COLLATE "C"` then makes the order the same on every server.
    pub(crate) collated: bool,
    /// Its type; `None` if the order of its values is not known here.
    pub(crate) kind: Option<KeyType>,
}

/// A property ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundProperty {
    pub name: String,
    pub of: ComputedFrom,
    pub sql: String,
    /// "Number", "Boolean" or "String", as TileJSON calls the types.
    pub kind: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComputedFrom {
    Row,
    Cell,
    /// The tile's address.
    Tile(TilePart),
}

/// The names under which `ST_AsMVT` writes the values of a layer's properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PropertyNames {
    /// Each property under its own name.
    Own,
    /// The same, but for one property, which is jsonb: the members of an object are written under their own names.
    Members { of: usize },
    /// Others.
    Other,
}

/// A layer as the database has it: names looked up and quoted, types known.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub(crate) section: Arc<LayerSection>,
    pub(crate) name: String,
    pub(crate) id: LayerId,
    /// An item of a FROM list: schema and relation, quoted, or a query without values for its placeholders.
    pub(crate) relation: String,
    /// The name of the relation in messages.
    pub(crate) display_name: String,
    /// The query that returns the rows; `None` if they come from a relation.
    pub(crate) query: Option<Query>,
    /// The geometry column, quoted.
    pub(crate) geometry: String,
    pub(crate) shape: Shape,
    pub(crate) key: Vec<KeyColumn>,
    /// True if a spatial index finds the rows of the relation.
    pub(crate) has_spatial_index: bool,
    /// True if the relation allows patches: a spatial index finds the rows, and the database sorts their keys in the
    /// order of the features in a tile.
    pub(crate) suits_patches: bool,
    pub(crate) names: PropertyNames,
    pub(crate) properties: Vec<BoundProperty>,
    pub(crate) filter: Option<String>,
    pub(crate) row_zooms: RowZooms,
    pub(crate) zooms: ZoomList,
    pub(crate) margin: Margin,
    pub(crate) kind: LayerKind,
    /// The function that returns the layer's tiles; `None` if they are drawn from rows.
    pub(crate) function: Option<CalledFunction>,
    /// How its lines and polygons are simplified; `None` if they are drawn as they are.
    pub(crate) simplify: Option<Simplify>,
    pub(crate) budget: Budget,
    /// The budget's rank. `None` for cells: the cells with the most rows stay.
    pub(crate) rank: Option<Rank>,
    pub(crate) on_tile_error: OnTileError,
    /// What is drawn of rows that reach beyond ±180°.
    pub(crate) beyond: Beyond,
    /// True if the snapshot has a row that reaches beyond ±180°, or may have one because not all rows were checked.
    pub(crate) reaches_beyond: bool,
    /// True if the configuration wants shapes repaired before they are drawn.
    pub(crate) repair: bool,
    /// The columns that this role may read, quoted.
    pub(crate) columns: Vec<String>,
    /// The columns whose values requests choose, in the order of the configuration.
    pub(crate) facets: Vec<Facet>,
}

pub(crate) fn joined_conditions(own: Option<&str>, further: &str) -> String {
    own.map_or_else(|| further.to_owned(), |own| format!("({own}\n) AND ({further}\n)"))
}

impl Layer {
    /// The layer with a further condition of its rows.
    pub(crate) fn with_condition(&self, sql: &str) -> Layer {
        let filter = joined_conditions(self.filter.as_deref(), sql);
        Layer { filter: Some(filter), ..self.clone() }
    }

    /// True if the layer has the same rows as `other`, even if the two are drawn differently.
    pub(crate) fn has_rows_of(&self, other: &Layer) -> bool {
        let rows = |layer: &Layer| (layer.relation.clone(), layer.geometry.clone(), layer.filter.clone());
        (rows(self), self.beyond, self.repair) == (rows(other), other.beyond, other.repair)
    }

    #[must_use]
    pub fn section(&self) -> &LayerSection {
        &self.section
    }

    /// The layer's name in the tile.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The context of its statements in messages.
    pub(crate) fn context(&self) -> String {
        format!("layer \"{}\"", self.name)
    }

    /// The context of a statement over some areas. `first` is the first of `count` areas.
    pub(crate) fn context_at(&self, first: Option<&TileRect>, count: usize) -> String {
        match (first, count) {
            (Some(first), 1) => format!("{}, {}", self.context(), area_name(first)),
            (Some(first), _) => format!("{}, {} and others", self.context(), area_name(first)),
            (None, _) => self.context(),
        }
    }

    /// The most bytes that the layer may have in a tile before the run reports the tile.
    pub(crate) fn max_bytes(&self) -> &ZoomLimits {
        &self.budget.bytes
    }

    #[must_use]
    pub fn zooms(&self) -> &ZoomList {
        &self.zooms
    }

    /// The zooms of `zooms` at which the layer is drawn, in ascending order.
    pub(crate) fn drawn_zooms(&self, zooms: &ZoomList) -> Vec<Zoom> {
        zooms.iter().filter(|zoom| self.zooms.contains(*zoom)).collect()
    }

    /// The layer's id in the configuration. A layer that is drawn in several ways at different zooms becomes several
    /// [`Layer`]s with the same id.
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
    pub(crate) fn is_query(&self) -> bool {
        self.query.is_some()
    }

    /// True if the database is queried once for each tile: the layer's query contains `!bbox!`, or a function returns
    /// the tile.
    #[must_use]
    pub fn asks_each_tile(&self) -> bool {
        self.asks_box() || self.function.is_some()
    }

    /// True if the layer's query contains `!bbox!`.
    pub(crate) fn asks_box(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_box)
    }

    /// The function that returns the layer's tiles; `None` if they are drawn from rows.
    pub(crate) fn function(&self) -> Option<&CalledFunction> {
        self.function.as_ref()
    }

    /// True if the statement that renders the layer gets a list of the planned tiles: its features are lines and
    /// polygons, whose boxes also touch other tiles. False if the layer is thinned, because thinning counts the
    /// candidates of a tile, or simplified, because that moves edges.
    #[must_use]
    pub fn lists_tiles(&self) -> bool {
        let is_plain = self.margin.bounds == TileBounds::Mercator && self.margin.candidates.is_none();
        let is_read_once = !self.differs_by_zoom() && !self.asks_each_tile();
        let is_drawn_as_is = self.simplify.is_none() && !self.budget.thins();
        is_plain && is_read_once && is_drawn_as_is && !self.shape.points && self.cells().is_none()
    }

    /// The properties that the address of a tile gives to all of its features.
    pub(crate) fn constants(&self, tile: TileCoord) -> TileConstants {
        let mut constants = TileConstants::default();
        for (number, property) in self.properties.iter().enumerate() {
            if let ComputedFrom::Tile(part) = property.of {
                let value = match part {
                    TilePart::X => tile.x(),
                    TilePart::Y => tile.y(),
                    TilePart::Zoom => tile.zoom().get().into(),
                };
                constants.add(number, value);
            }
        }
        constants
    }

    /// True if no property depends on the tile, so that a feature which fills several tiles looks the same in all of
    /// them.
    pub(crate) fn is_same_in_each_tile(&self) -> bool {
        self.properties.iter().all(|property| !matches!(property.of, ComputedFrom::Tile(_)))
    }

    /// True if the layer's query contains the zoom.
    pub(crate) fn asks_each_zoom(&self) -> bool {
        self.query.as_ref().is_some_and(Query::asks_zoom)
    }

    /// True if the number of its rows says how much it shows. A function that is called for every tile has no rows.
    pub(crate) fn has_countable_rows(&self) -> bool {
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
    pub(crate) fn differs_by_zoom(&self) -> bool {
        self.asks_each_zoom() || self.row_zooms != RowZooms::default()
    }

    /// The item of a FROM list that returns the layer's rows, with values for the placeholders of a query.
    pub(crate) fn rows(&self, values: &PlaceholderSql) -> String {
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
    pub(crate) fn grid(&self) -> Option<CellGrid> {
        self.cells().map(|cells| cells.grid)
    }

    /// True if a row that is alone in its cell is drawn as itself.
    pub(crate) fn keeps_lone(&self) -> bool {
        self.cells().is_some_and(|cells| cells.keeps_lone)
    }

    /// The greatest distance, in world units, at which a row outside of a tile of `zoom` may still affect the tile.
    pub(crate) fn reach(&self, zoom: Zoom) -> i64 {
        self.margin.units(zoom) + self.grid().map_or(0, |grid| grid.reach(zoom))
    }

    pub(crate) fn row_properties(&self) -> impl Iterator<Item = &BoundProperty> {
        self.properties.iter().filter(|property| property.of == ComputedFrom::Row)
    }

    /// The SQL over rows: properties, and the rank.
    pub(crate) fn row_sql(&self) -> impl Iterator<Item = &str> {
        let rank = self.rank.iter().map(|rank| rank.sql.as_str());
        self.row_properties().map(|property| property.sql.as_str()).chain(rank)
    }

    /// The type as which cached rows read the rank of a row; `None` if the layer has none, or if its values cannot be
    /// compared here.
    pub(crate) fn cached_rank(&self) -> Option<&'static str> {
        self.rank.as_ref().filter(|_| self.shape.points)?.read_as
    }

    /// The SQL over the rows of a cell: properties, and the condition of the cell. The cell's bounds are still
    /// placeholders.
    pub(crate) fn aggregates(&self) -> impl Iterator<Item = &str> {
        let having = self.cells().and_then(|cells| cells.having.as_deref());
        self.properties
            .iter()
            .filter(|property| property.of == ComputedFrom::Cell)
            .map(|property| property.sql.as_str())
            .chain(having)
    }

    /// The spatial reference system of its column.
    pub(crate) fn srid(&self) -> i32 {
        self.shape.srid
    }

    /// True if a closed formula gives, for an area of the world, the box in the layer's reference system that contains
    /// all features of the area. EPSG:4326 and EPSG:3857 have one: each axis of one is a monotone function of an axis
    /// of the other.
    pub(crate) fn is_found_by_area(&self) -> bool {
        self.shape.has_closed_form()
    }

    /// Names of the properties and their types as TileJSON calls them.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.properties.iter().map(|property| (property.name.as_str(), property.kind))
    }
}

// Errors of the database, explained in terms of a layer's settings.

/// Adds advice to errors whose own text gives none, such as PROJ's error about coordinates far outside a projected
/// system.
pub(crate) fn explain(error: Error, layer: &Layer) -> Error {
    match error {
        Error::Query { source, .. } if source.to_string().contains("Cannot find SRID") => Error::Layer {
            layer: layer.name.clone(),
            what: format!(
                "the geometries in {} of {} have SRID {}, which the table spatial_ref_sys does not have",
                layer.geometry, layer.display_name, layer.shape.srid
            ),
            next: "Add it there, or set the right one with ST_SetSRID".to_owned(),
            source: Some(source),
        },
        Error::Query { source, .. } if source.to_string().contains("transform") => Error::Layer {
            layer: layer.name.clone(),
            what: format!("a geometry cannot be brought from SRID {} to Web Mercator", layer.shape.srid),
            next: format!(
                "Look for coordinates far outside of that reference system, and mend them or leave them out with where ({} && ST_MakeEnvelope(…, {}))",
                layer.geometry, layer.shape.srid
            ),
            source: Some(source),
        },
        Error::Query { source, .. } if layer.asks_box() && source.to_string().contains("mixed SRID") => Error::Layer {
            layer: layer.name.clone(),
            what: format!(
                "its query compares !bbox!, which is in EPSG:{} as its geometry {} is, with a geometry in another system",
                layer.shape.srid, layer.geometry
            ),
            next: "Bring it there: ST_Transform(!bbox!, …)".to_owned(),
            source: Some(source),
        },
        other => other,
    }
}

// A layer restricted to the rows that a request wants, by further conditions. Their values are held by settings of the
// session, never by a statement's text.

/// The prefix of the settings' names. The dot makes them custom settings, which every role may set.
const PREFIX: &str = "oar_tiles.parameter_";

/// The setting of a session that holds the values of a parameter.
pub(crate) fn setting(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The values of a parameter as SQL: an array of texts, read from a setting of the session. Without the setting, the
/// statement fails. `name` consists of lower-case letters, digits and `_`.
pub(crate) fn parameter_array(name: &str) -> String {
    format!("pg_catalog.current_setting('{}')::pg_catalog.text[]", setting(name))
}

/// Joins a filter, if there is one, and further conditions with AND.
fn with_conditions(filter: Option<&str>, conditions: &[&str]) -> Option<String> {
    let all: Vec<String> =
        filter.into_iter().chain(conditions.iter().copied()).map(|condition| format!("({condition}\n)")).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

impl Layer {
    /// The layer restricted to rows that also fulfil a condition.
    pub(crate) fn narrowed_by(&self, condition: &str) -> Layer {
        self.narrowed(&[condition], &Map::new())
    }

    /// The layer restricted to rows that also fulfil all `conditions`. If the layer calls a function that takes an
    /// object, `members` are added to the object.
    pub(crate) fn narrowed(&self, conditions: &[&str], members: &Map<String, Value>) -> Layer {
        // A tile of which a value is the cause must not be taken for one whose rows are.
        let mut narrowed = Layer { on_tile_error: OnTileError::Fail, ..self.clone() };
        if !conditions.is_empty() {
            narrowed.filter = with_conditions(self.filter.as_deref(), conditions);
        }
        if let Some(CalledFunction { query: Some(query), .. }) = &mut narrowed.function {
            // The text was written by this program, so it can be parsed.
            let mut object: Map<String, Value> = serde_json::from_str(query).unwrap_or_default();
            object.extend(members.clone());
            *query = Value::Object(object).to_string();
        }
        narrowed
    }
}

impl LayerOptions {
    /// The options with further conditions for rows.
    pub(crate) fn narrowed(&self, conditions: &[&str]) -> LayerOptions {
        LayerOptions { filter: with_conditions(self.filter.as_deref(), conditions), ..self.clone() }
    }
}

// Which layers can be patched: layers whose tiles hold the keys of their features, which identify and order them.

impl Layer {
    /// How the layer is written in a tile, if features of a tile can be replaced without the rest; else `None`. They
    /// can be replaced if they are single points that are drawn independently of each other and of their position, and
    /// if the tile holds their keys.
    pub(crate) fn as_points(&self) -> Option<PointLayer> {
        // The other settings stop the run, or leave out features that are far from the change.
        self.keyed_points().filter(|_| self.budget.on_large_tile == OnLargeTile::Warn)
    }

    /// The same for a layer from whose tiles features may be left out, so that its features can be replaced only where
    /// none is.
    pub(crate) fn keyed_points(&self) -> Option<PointLayer> {
        let properties = || self.fields().map(|(name, _)| name.to_owned()).collect();
        self.point_key().map(|key| PointLayer { key, properties: properties() })
    }

    /// How the layer's rows are identified and sorted that are kept from snapshot to snapshot: by the keys that their
    /// features hold, or by bytes [behind](super::layer::key_bytes) these. `None` if the order of their keys is not
    /// known here, or if no index finds them.
    pub(crate) fn kept_key(&self) -> Option<FeatureKey> {
        let behind = || {
            let is_known = self.has_spatial_index && self.has_independent_points() && self.key_types().is_some();
            is_known.then_some(FeatureKey::Behind)
        };
        self.point_key().or_else(behind)
    }

    /// The types of the keys that kept rows of the layer have behind their features; `None` if they have none.
    pub(crate) fn keys_behind(&self) -> Option<KeyTypes<'_>> {
        self.key_types().filter(|_| self.kept_key() == Some(FeatureKey::Behind))
    }

    /// True if the layer's features are single points that differ from tile to tile only by their places and by the
    /// tile's own address, so that tiles can be drawn from rows that are read once.
    fn has_cacheable_rows(&self) -> bool {
        self.shape.points
            && self.cells().is_none()
            && !self.asks_each_tile()
            && !self.differs_by_zoom()
            // The degrees of a row are computed back from its metres.
            && (self.margin.bounds == TileBounds::Mercator || self.shape.has_closed_form())
            && self.names != PropertyNames::Other
    }

    /// True if the layer's features are lines and polygons that are drawn as they are stored, from the same rows in
    /// every tile.
    fn has_cacheable_shapes(&self) -> bool {
        self.lists_tiles()
            && !self.repairs()
            && !self.placement().has_crossing_rows()
            && self.names != PropertyNames::Other
    }

    /// True if `ST_AsMVT` writes each property as one value, under its own name.
    pub(crate) fn has_plain_values(&self) -> bool {
        self.names == PropertyNames::Own
    }

    /// The index of the property whose objects `ST_AsMVT` writes as their members; `None` if there is none, or if others
    /// are not known to be written under their own names.
    pub(crate) fn objects(&self) -> Option<usize> {
        match self.names {
            PropertyNames::Members { of } => Some(of),
            PropertyNames::Own | PropertyNames::Other => None,
        }
    }

    /// The traits by which a run chooses the sources that draw the layer.
    pub(crate) fn traits(&self) -> LayerTraits {
        LayerTraits {
            has_cacheable_rows: self.has_cacheable_rows(),
            has_cacheable_shapes: self.has_cacheable_shapes(),
            is_thinned: self.budget.thins(),
            is_patchable: self.has_cacheable_rows() && self.as_points().is_some(),
        }
    }

    /// Where a tile holds the keys of the features; `None` if the layer cannot be patched.
    fn point_key(&self) -> Option<FeatureKey> {
        let [key] = &self.key[..] else { return None };
        if !(self.has_independent_points() && self.suits_patches && self.has_plain_values()) {
            return None;
        }
        if self.section.feature_id.as_ref().is_some_and(|column| quoted(column) == key.quoted) {
            return Some(FeatureKey::Id);
        }
        let is_key = |sql: &str| sql == key.quoted || is_name_of(sql, &key.quoted);
        let property =
            self.properties.iter().position(|property| property.of == ComputedFrom::Row && is_key(&property.sql));
        property.map(FeatureKey::Property)
    }
}

impl Layer {
    /// True if the layer's features are rows that are single points, drawn independently of each other.
    fn has_independent_points(&self) -> bool {
        self.shape.has_closed_form_points()
            && self.cells().is_none()
            && !self.asks_each_tile()
            && !self.asks_each_zoom()
            && self.budget.on_large_tile != OnLargeTile::Fail
    }
}

/// True if an expression is just the name of a column.
fn is_name_of(sql: &str, column: &str) -> bool {
    let name = sql.trim_start_matches('(').trim_end_matches(')').trim();
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    name == column || (is_plain && quoted(name) == column)
}

/// The properties of a layer that decide which sources can draw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerTraits {
    /// True if its features are single points that differ from tile to tile only by their places and by the tile's own
    /// address, so that its rows may be cached.
    pub(crate) has_cacheable_rows: bool,
    /// True if its features are lines and polygons that are drawn as they are stored, from the same rows in every tile.
    pub(crate) has_cacheable_shapes: bool,
    /// True if features are left out of tiles with too many.
    pub(crate) is_thinned: bool,
    /// True if its rows may be cached and the features of a tile are identified and sorted by their keys in the tile,
    /// so that the tile may be patched from cached rows.
    pub(crate) is_patchable: bool,
}

impl LayerTraits {
    /// True if all of its rows are in the tiles, and may be cached.
    pub(crate) const fn shows_all_points(self) -> bool {
        self.has_cacheable_rows && !self.is_thinned
    }
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
