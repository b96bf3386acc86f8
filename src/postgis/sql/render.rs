//! The statement that renders: many tiles at once.

use super::cells::FoldedValues;
use super::edge::{projected, raw_sides};
use super::repair::{Repair, with_repaired};
use super::{
    AREA_ZOOM, AreaSearch, RANK, filter_at, is_in_world, keep_best, search, sizes, world_columns, world_sides,
};
use crate::postgis::layer::{ComputedFrom, Layer, PIXEL_METRES, PlaceholderSql, Placement, Simplify, TilePart};
use crate::postgis::session::quoted;
use crate::postgis::sql::{cells, edge};
use crate::tile::{HALF_WORLD_METRES, MIN_TILES_OF_OUTLINE, TileBounds};

/// Renders the tiles of some areas. The parameters:
///
/// | number | value |
/// |---|---|
/// | `$1`, `$2` | zoom, and margin in world units; here and below, one array element for each area |
/// | `$3..$6` | first column, first row, last column, last row (XYZ) |
/// | `$7..$10` | west, south, east, north of the search box |
/// | `$11`, `$12`, `$13` | the layer's name, its extent, its buffer |
/// | `$14…` | for counted cells, those of [`cells::placed_counts`](super::cells::placed_counts); for a layer that [lists its tiles](Layer::lists_tiles), the first and the last tile of each run of tiles, sorted, as [`listed_tile`] numbers them |
/// | the next | for a layer that is thinned, the most features of a tile by zoom |
/// | the last two | those of [`Repair::Listed`], if `surveyed` says so |
///
/// Returns one row for each tile that has a candidate, ordered by zoom, column and TMS row: the tile (zoom from bit 58
/// on, column from bit 29 on, TMS row), the number of features that are drawn, the MVT layer, and the number of
/// features that were left out.
pub(crate) fn render(
    layer: &Layer,
    folds: Option<&FoldedValues>,
    surveyed: SurveyedRepair,
    candidates: Candidates,
) -> String {
    let placement = layer.placement();
    let carried = carried(layer);
    let CarriedColumns { values, names, row, order, arguments } = &carried;
    // A layer that is thinned is sorted later, after features were left out.
    let (sort, kept, last, left_out) = if layer.budget.thins() {
        let left_out = "max(drawn.found) - count(drawn.mvt_geometry)";
        (
            String::new(),
            {
                let limits = if candidates == Candidates::Counted { cells::next_parameter(layer, folds) } else { 14 };
                keep_best(layer, order, limits)
            },
            "kept AS drawn",
            left_out,
        )
    } else {
        (format!("ORDER BY tile{order}"), String::new(), "drawn", "0::int8")
    };
    let DrawnFeature { geometry, few, from } = draw(layer);
    let [_, north, _, south] = world_sides(placement);
    let columns = columns(placement);
    let touched = touched(layer, &columns);
    let (placed, in_world) = match layer.cells() {
        None => (placed(layer, repair(layer, surveyed), candidates, values, names), is_in_world(placement)),
        Some(cells) if candidates == Candidates::Counted => {
            (cells::placed_counts(layer, cells, folds), "true".to_owned())
        }
        Some(cells) => (cells::placed(layer, cells, folds.is_some()), "true".to_owned()),
    };
    format!(
        "WITH {areas},
{placed},
-- The tiles of the area that a candidate touches: the planner's arithmetic, bit for bit.
ranged AS (
    SELECT z, side, {near},
        {x0} AS x0, greatest(({north} - margin) >> shift, ay0) AS y0,
        {x1} AS x1, least(({south} + margin) >> shift, ay1) AS y1{gap}{by_box}{names}
    FROM placed
    WHERE {in_world}
    OFFSET 0
),
-- One row for each candidate and tile. Nearly all points touch one tile: they are spared a subquery.
touched AS (
    SELECT z, side, m, unnest({touched}) AS xy{carried_few}{names}
    FROM {judged}
),
-- The shifts stand in parentheses: SQL gives << and | the same rank.
-- Sorted by one number and the key: three times as fast as by zoom, column and row.
drawn AS (
    SELECT (z::int8 << 58) | ((xy >> 29) << 29) | ((1 << z) - 1 - (xy & 536870911)) AS tile,
        {geometry} AS mvt_geometry{names}
    FROM {from}
    {sort}
    OFFSET 0
){kept}
-- The sort above is the grouping's order: no second sort, features in the order of their key.
SELECT drawn.tile, count(drawn.mvt_geometry), ST_AsMVT(feature.*, $11, $12, {arguments}), {left_out}
FROM {last} CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.tile",
        areas = areas(layer),
        carried_few = if few.is_empty() { "" } else { ", few" },
        // A subquery, because next to `unnest` the column would be computed for each tile.
        judged = if few.is_empty() {
            "ranged".to_owned()
        } else {
            format!("(SELECT *{few} FROM ranged OFFSET 0) AS ranged")
        },
        near = if layer.lists_tiles() { format!("{} AS m", parts_near(layer)) } else { "m".to_owned() },
        by_box = if layer.lists_tiles() { planned_by_box(placement) } else { String::new() },
        x0 = columns.first,
        x1 = columns.last,
        gap = columns.gap,
    )
}

/// Where some points are drawn in tiles. The parameters are those of [`render()`], with an area of one tile and a small
/// box around one position for each. Returns a row for each row of the layer in these boxes: its position in metres of
/// EPSG:3857 (x, y), the tile as [`render()`] returns it, and the grid point at which it is drawn; NULL if it is not.
pub(crate) fn points_in_tiles(layer: &Layer) -> String {
    let lonlat = lonlat(layer);
    let value = lonlat.as_ref().map(|lonlat| format!(", {lonlat} AS {LONLAT}")).unwrap_or_default();
    let name = lonlat.map(|_| format!(", {LONLAT}")).unwrap_or_default();
    let DrawnFeature { geometry, from, .. } = draw(layer);
    format!(
        "WITH {areas},
{placed},
touched AS (
    SELECT z, side, m, (ax0 << 29) | ay0 AS xy{name}
    FROM placed
    -- The parameter must be mentioned for the server to know its type.
    WHERE {in_world} AND $11 IS NOT NULL
    OFFSET 0
)
SELECT x, y, tile, ST_X(drawn)::int4, ST_Y(drawn)::int4
FROM (
    SELECT ST_X(m) AS x, ST_Y(m) AS y, (z::int8 << 58) | ((xy >> 29) << 29) | ((1 << z) - 1 - (xy & 536870911)) AS tile,
        {geometry} AS drawn
    FROM {from}
    OFFSET 0
) AS places",
        areas = areas(layer),
        placed = placed(layer, Repair::Here, Candidates::Found, &value, &name),
        in_world = is_in_world(layer.placement()),
    )
}

/// The parts of a geometry near the area, if it has more than [`MAX_PARTS_KEPT`] parts. `ST_AsMVTGeom` looks at each
/// vertex for each tile, so fewer parts are faster. It simplifies, rounds and clips each part by itself, so parts
/// beyond the tile do not change the result. But it draws nothing of a geometry whose box is smaller than half a grid
/// unit: if the parts near the area are as small, it gets the whole geometry.
fn parts_near(layer: &Layer) -> String {
    let TileDrawing { reach, .. } = drawing(layer);
    let (half, extent) = (HALF_WORLD_METRES, layer.margin.extent);
    format!(
        "CASE WHEN GeometryType(m) IN ('MULTIPOLYGON', 'MULTILINESTRING') AND ST_NumGeometries(m) > {MAX_PARTS_KEPT} THEN (
            SELECT CASE WHEN greatest(ST_XMax(parts) - ST_XMin(parts), ST_YMax(parts) - ST_YMin(parts)) < side / {extent} THEN m ELSE parts END
            FROM (SELECT ST_Collect(ARRAY(
                SELECT geom FROM ST_Dump(m) WHERE geom && ST_MakeEnvelope(
                    -{half:?} + ax0 * side - {reach}, {half:?} - (ay1 + 1) * side - {reach}, -{half:?} + (ax1 + 1) * side + {reach}, {half:?} - ay0 * side + {reach}, 3857))) AS parts OFFSET 0) AS near
        ) ELSE m END"
    )
}

/// The most parts of a geometry that are passed on without checking where each lies.
const MAX_PARTS_KEPT: u32 = 4;

/// The number of a tile in lists of tiles, as an SQL expression over its zoom `z`, column `x` and row: a run of tiles
/// of one column, from north to south, has numbers that follow each other.
fn listed_tile(row: &str) -> String {
    format!("(z::int8 << {LISTED_ZOOM_BIT}) | (x << {LISTED_COLUMN_BIT}) | {row}")
}

/// The bits above which a tile's number in a list holds its zoom and its column.
pub(crate) const LISTED_ZOOM_BIT: u32 = 58;
pub(crate) const LISTED_COLUMN_BIT: u32 = 29;

/// The array of the tiles that a row of `ranged` touches, each as its column above bit 29 and its row below.
///
/// A row is never compared with each listed tile. Most rows touch a few tiles, and are planned in all of them: they
/// need no list. The others find the runs of their columns by binary search, so that their cost grows with the tiles
/// that they touch.
fn touched(layer: &Layer, TileColumns { no_gap, around, .. }: &TileColumns) -> String {
    let in_box = "SELECT (x << 29) | y FROM generate_series(x0, x1) AS x, generate_series(y0, y1) AS y";
    if !layer.lists_tiles() {
        return format!(
            "CASE WHEN x0 = x1 AND y0 = y1{no_gap} THEN ARRAY[(x0 << 29) | y0] ELSE ARRAY(
        {in_box}{around}) END"
        );
    }
    let (top, bottom) = (listed_tile("y0"), listed_tile("y1"));
    format!(
        "CASE WHEN by_box AND x0 = x1 AND y0 = y1 THEN ARRAY[(x0 << 29) | y0]
        WHEN by_box THEN ARRAY({in_box})
        ELSE ARRAY(
            SELECT tile & {below_zoom}
            FROM generate_series(x0, x1) AS x CROSS JOIN LATERAL (SELECT {top} AS top, {bottom} AS bottom) AS piece
                -- The runs that end at the first tile or later, up to the last that begins at the last tile or earlier.
                CROSS JOIN LATERAL generate_series(width_bucket(top - 1, $15) + 1, width_bucket(bottom, $14)) AS run
                CROSS JOIN LATERAL generate_series(greatest(top, ($14)[run]), least(bottom, ($15)[run])) AS tile{around}) END",
        below_zoom = (1_i64 << LISTED_ZOOM_BIT) - 1,
    )
}

/// A further column of `ranged`: true if the plan holds all tiles of the row's box, because the box touches too few
/// tiles for its outline to be used. At most as many rows as the plan decides so for: the box is not cut at the edges
/// of the world here.
fn planned_by_box(placement: Placement<'_>) -> String {
    let [west, north, east, south] = world_sides(placement);
    let count = |first: &str, last: &str| format!("((({last} + margin) >> shift) - (({first} - margin) >> shift) + 1)");
    format!(
        ",
        {uncrossed}{columns} * {rows} < {MIN_TILES_OF_OUTLINE} AS by_box",
        uncrossed = if placement.has_crossing_rows() { "west <= east AND " } else { "" },
        columns = count(&west, &east),
        rows = count(&north, &south),
    )
}

/// The columns of tiles that a candidate touches, as pieces of the statement.
struct TileColumns {
    first: String,
    last: String,
    /// For a row that was wrapped around ±180°, the gap between its two sides: the last column that it touches in the
    /// west, and the first in the east.
    gap: &'static str,
    /// The condition that a candidate touches all columns from the first to the last.
    no_gap: &'static str,
    /// The condition that a column is not in the gap.
    around: &'static str,
}

fn columns(placement: Placement<'_>) -> TileColumns {
    let [west, _, east, _] = world_sides(placement);
    let (first, last) =
        (format!("greatest(({west} - margin) >> shift, ax0)"), format!("least(({east} + margin) >> shift, ax1)"));
    if !placement.has_crossing_rows() {
        return TileColumns { first, last, gap: "", no_gap: "", around: "" };
    }
    TileColumns {
        first: format!("CASE WHEN west > east THEN ax0 ELSE {first} END"),
        last: format!("CASE WHEN west > east THEN ax1 ELSE {last} END"),
        gap: ",
        CASE WHEN west > east THEN (east + margin) >> shift END AS last_western, CASE WHEN west > east THEN (west - margin) >> shift END AS first_eastern",
        no_gap: " AND last_western IS NULL",
        around: "
        WHERE last_western IS NULL OR x <= last_western OR x >= first_eastern",
    }
}

/// A statement whose only effect is that the server loads PostGIS, and PROJ if the layer's reference system needs it.
pub(crate) fn warm(layer: &Layer) -> String {
    let point = format!("ST_SetSRID(ST_MakePoint(1, 1), {})", layer.shape.srid);
    let point = if layer.shape.srid == 3857 { point } else { format!("ST_Transform({point}, 3857)") };
    format!("SELECT ST_AsMVTGeom({point}, ST_MakeEnvelope(0, 0, 1, 1, 3857)) IS NULL")
}

/// The areas of the parameters `$1..$10`, as a part of `WITH`.
pub(crate) fn areas(layer: &Layer) -> String {
    let AreaSearch { area_columns, .. } = search(layer.placement());
    let pixel = if layer.is_query() || layer.simplify.is_some() {
        format!(", {PIXEL_METRES:?}::float8 / (1::int8 << z) AS pixel_width")
    } else {
        String::new()
    };
    format!(
        "oar_tiles_area AS MATERIALIZED (
    SELECT area, z, 32 - z AS shift, margin, ax0, ay0, ax1, ay1, {sizes},
        ST_MakeEnvelope(w, s, e, n, {srid}) AS box{area_columns}{pixel}
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) WITH ORDINALITY
        AS area (z, margin, ax0, ay0, ax1, ay1, w, s, e, n, area)
)",
        sizes = sizes(layer),
        srid = layer.shape.srid,
    )
}

/// The rows whose expressions the statement computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// Rows that the search box finds: the rows in the tiles, and a few outside of them.
    Found,
    /// Only rows in the tiles, which takes longer to decide. If an expression raises an error, its row is in one of
    /// these tiles.
    Touching,
    /// No rows: the survey has counted the cells.
    Counted,
}

/// What the survey knows of the rows of a layer that need repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SurveyedRepair {
    /// Nothing, or too many rows need it.
    Unknown,
    /// No row needs it.
    None,
    Listed,
}

/// Where the statement takes the repaired shapes of a layer from.
fn repair(layer: &Layer, surveyed: SurveyedRepair) -> Repair {
    match surveyed {
        SurveyedRepair::Unknown => Repair::Here,
        SurveyedRepair::None => Repair::Unneeded,
        SurveyedRepair::Listed => {
            Repair::Listed(14 + 2 * usize::from(layer.lists_tiles()) + usize::from(layer.budget.thins()))
        }
    }
}

/// The candidates of a layer whose rows are its features.
pub(crate) fn placed(layer: &Layer, repair: Repair, candidates: Candidates, values: &str, names: &str) -> String {
    let placement = layer.placement();
    let (AreaSearch { condition: search, .. }, filter) = (search(placement), filter_at(layer, AREA_ZOOM));
    let condition = match candidates {
        Candidates::Found | Candidates::Counted => format!("{search} {filter}"),
        // With CASE, the server checks whether a row touches a tile before it checks the layer's condition (PostgreSQL
        // documentation, section 4.2.14).
        Candidates::Touching => {
            format!("{search} AND CASE WHEN {} THEN true {filter} ELSE false END", touches(placement))
        }
    };
    format!(
        "-- Candidates: every feature near an area, projected once, its place as whole numbers. OFFSET 0 keeps the planner from
-- working an expression out again wherever it is used.
placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, side, {drawn}, {world}{names}
    FROM oar_tiles_area CROSS JOIN LATERAL (
        SELECT {projected} AS m{raw_sides}{values} FROM {relation} WHERE {condition} OFFSET 0
    ) AS near
    OFFSET 0
)",
        drawn = drawn_geometry(layer),
        world = world_columns(placement),
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        relation = with_repaired(placement, repair, &layer.rows(&PlaceholderSql::of_area())),
    )
}

/// A condition: a row touches a tile of the area. It uses the same arithmetic as the rest of the statement.
fn touches(placement: Placement<'_>) -> String {
    let [west, north, east, south] = world_sides(placement);
    let tile = |end: &str, sign: char| format!("({end} {sign} oar_tiles_area.margin) >> oar_tiles_area.shift");
    let (begins, ends) =
        (format!("{} <= oar_tiles_area.ax1", tile(&west, '-')), format!("{} >= oar_tiles_area.ax0", tile(&east, '+')));
    let across = if placement.has_crossing_rows() {
        format!("CASE WHEN west > east THEN {begins} OR {ends} ELSE {begins} AND {ends} END")
    } else {
        format!("{begins} AND {ends}")
    };
    format!(
        "EXISTS (
            SELECT FROM (SELECT {projected} AS m{raw_sides} OFFSET 0) AS projected CROSS JOIN LATERAL (SELECT {world} OFFSET 0) AS located
            WHERE {in_world} AND {across}
                AND {} <= oar_tiles_area.ay1 AND {} >= oar_tiles_area.ay0)",
        tile(&north, '-'),
        tile(&south, '+'),
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        world = world_columns(placement),
        in_world = is_in_world(placement),
    )
}

/// The columns that the statement passes from a row of the relation to its feature in the tile, as pieces of the
/// statement.
pub(crate) struct CarriedColumns {
    /// Expressions over the relation, each with its name within the statement: `, "name" AS p0, …`.
    pub(crate) values: String,
    /// These names: `, p0, …`.
    pub(crate) names: String,
    /// The columns of the feature, under their names in the tile.
    pub(crate) row: String,
    /// The key, for `ORDER BY tile`.
    pub(crate) order: String,
    /// The names of the geometry and of the feature's id, as arguments of `ST_AsMVT`.
    pub(crate) arguments: String,
}

pub(crate) fn carried(layer: &Layer) -> CarriedColumns {
    carried_with(layer, lonlat(layer), false)
}

/// The columns that are the same at every place. Those of a tile's address are NULL if the statement's "drawn" has no
/// tile. Before a column of objects, under its name, is the list of their members that [`Features::add`] wants.
///
/// [`Features::add`]: crate::mvt::Features::add
pub(crate) fn carried_anywhere(layer: &Layer) -> CarriedColumns {
    carried_with(layer, None, true)
}

/// The members of an object, as [`Features::add`] wants them: their number, if `ST_AsMVT` writes a value of each; else
/// their list in the order in which it writes them (`mvt.c`, `parse_jsonb`), with the names of those of which it writes
/// only the key. What is no object has no members: the path fails silently.
///
/// [`Features::add`]: crate::mvt::Features::add
fn members(object: &str) -> String {
    format!(
        "(SELECT CASE WHEN types ?| ARRAY['null', 'array', 'object'] THEN (
        SELECT json_agg(CASE WHEN jsonb_typeof(value) IN ('null', 'array', 'object') THEN name END)::text FROM jsonb_each({object}) AS member (name, value)
    ) ELSE jsonb_array_length(types)::text END FROM (SELECT jsonb_path_query_array({object}, 'strict $.*.type()', '{{}}', true) AS types OFFSET 0) AS members)"
    )
}

fn carried_with(layer: &Layer, lonlat: Option<String>, lists_members: bool) -> CarriedColumns {
    let geometry = free_name(layer, "geom");
    let mut carried = CarriedColumns {
        values: String::new(),
        names: String::new(),
        row: format!("drawn.mvt_geometry AS {}", quoted(&geometry)),
        order: String::new(),
        arguments: literal(&geometry),
    };
    if let Some(lonlat) = lonlat {
        carried.carry(&lonlat, LONLAT.to_owned());
    }
    for (number, property) in layer.properties.iter().enumerate() {
        let value = match property.of {
            ComputedFrom::Row | ComputedFrom::Cell => {
                format!("drawn.{}", carried.carry(&property.sql, format!("p{number}")))
            }
            ComputedFrom::Tile(part) => tile_part(part).to_owned(),
        };
        if lists_members && layer.objects() == Some(number) {
            // The list takes the name, so that it is a property among the others.
            let (list, object) = (members(&value), quoted(&free_name(layer, "object")));
            carried.row.push_str(&format!(", {list} AS {}, {value} AS {object}", quoted(&property.name)));
            continue;
        }
        carried.row.push_str(&format!(", {value} AS {}", quoted(&property.name)));
    }
    if let Some(column) = &layer.section.feature_id {
        let name = carried.carry(&quoted(column), "feature_id".to_owned());
        let shown = free_name(layer, "feature_id");
        carried.row.push_str(&format!(", drawn.{name} AS {}", quoted(&shown)));
        carried.arguments.push_str(&format!(", {}", literal(&shown)));
    }
    if layer.cells().is_some() {
        carried.names.push_str(", k0");
        carried.order.push_str(", k0");
        if layer.budget.thins() {
            carried.names.push_str(&format!(", {RANK}"));
        }
        return carried;
    }
    if let Some(rank) = &layer.rank {
        carried.carry(&rank.sql, RANK.to_owned());
    }
    for (number, column) in layer.key.iter().enumerate() {
        let name = carried.carry(&column.quoted, format!("k{number}"));
        carried.order.push_str(&format!(", {name}{}", if column.collated { " COLLATE \"C\"" } else { "" }));
    }
    carried
}

impl CarriedColumns {
    fn carry(&mut self, sql: &str, name: String) -> String {
        self.values.push_str(&format!(", {sql} AS {name}"));
        self.names.push_str(&format!(", {name}"));
        name
    }
}

/// A part of a tile's address, from the tile's number.
fn tile_part(part: TilePart) -> &'static str {
    match part {
        TilePart::X => "(drawn.tile >> 29 & 536870911)::int4",
        TilePart::Y => "((1 << (drawn.tile >> 58)::int4) - 1 - (drawn.tile & 536870911))::int4",
        TilePart::Zoom => "(drawn.tile >> 58)::int4",
    }
}

/// A feature in a tile, as pieces of the statement.
struct DrawnFeature {
    /// Its geometry; NULL if no part of it is in the tile.
    geometry: String,
    /// A further column of `ranged`, true if the candidate is drawn without a check that it intersects the tile: it
    /// touches at most four tiles, or has a hole that may lie outside of its outer ring.
    few: &'static str,
    /// The `FROM` item with the candidates.
    from: String,
}

fn draw(layer: &Layer) -> DrawnFeature {
    let TileDrawing { from, feature, envelope, grown, near, .. } = drawing(layer);
    let draw = format!("ST_AsMVTGeom({feature}, {envelope}, $12, $13, true)");
    // A large feature is a candidate in every tile of its box, and clipping it costs far more than a check that it does
    // not intersect the tile.
    let clipped = (!layer.placement().draws_points()).then(|| format!("(few OR ST_Intersects({feature}, {grown}))"));
    // ST_AsMVTGeom leaves out a polygon whose outer ring is not near the tile, and draws another part inside of the
    // hole that it left out. ST_Intersects counts the rings around a position instead. Both agree if all holes lie
    // inside of their outer rings.
    let few = if clipped.is_some() {
        ", (x1 - x0 + 1) * (y1 - y0 + 1) <= 4 OR GeometryType(m) = 'MULTIPOLYGON' AND ST_NRings(m) > ST_NumGeometries(m) AND NOT ST_IsValid(m) AS few"
    } else {
        ""
    };
    let conditions: Vec<String> = near.into_iter().chain(clipped).collect();
    let geometry =
        if conditions.is_empty() { draw } else { format!("CASE WHEN {} THEN {draw} END", conditions.join(" AND ")) };
    DrawnFeature { geometry, few, from }
}

/// The name `wanted`, with underscores appended until no property has the same name.
fn free_name(layer: &Layer, wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while layer.properties.iter().any(|property| property.name == name) {
        name.push('_');
    }
    name
}

/// A text literal, for names that this module generated or checked. Other values are parameters.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

// The box of a tile, in metres or in degrees, and the choice of the features that are drawn in it.

/// The column with a feature's geometry in degrees.
pub(crate) const LONLAT: &str = "lonlat";

/// A row's geometry in EPSG:4326, for a layer whose tiles are computed in degrees. `None` for other layers, and for
/// layers of cells, whose features are not rows.
pub(crate) fn lonlat(layer: &Layer) -> Option<String> {
    if layer.margin().bounds == TileBounds::Mercator || layer.cells().is_some() {
        return None;
    }
    Some(edge::lonlat(layer.placement()))
}

/// How the tiles of a layer are drawn, as pieces of the statement. They refer to the columns `z`, `side` (of a tile, in
/// metres) and `xy` (the tile's column above bit 29, its row below).
pub(crate) struct TileDrawing {
    /// The `FROM` item with the columns of the other pieces.
    pub(crate) from: String,
    /// The feature, in the reference system of the box.
    pub(crate) feature: &'static str,
    /// The tile's box.
    pub(crate) envelope: String,
    /// The greatest distance from the tile, in metres, at which a feature is drawn: the buffer (`$13`) and four units
    /// of the grid (`$12` along a side). For tiles in metres only.
    pub(crate) reach: String,
    /// The tile's box expanded by that distance, in its own reference system.
    pub(crate) grown: String,
    /// The condition that a feature is a candidate; `None` if every feature inside the buffer is one.
    pub(crate) near: Option<String>,
}

/// The buffer, three units because simplifying and rounding move an edge by at most that much
/// ([`outline_reach`](crate::tile::outline_reach)), and one unit for the rounding of positions.
const REACH: &str = "side * ($13 + 4) / $12";

/// The sides of a tile in metres: west, south, east, north. This is the arithmetic of `ST_TileEnvelope`, bit for bit,
/// without its clipping to the world (PostGIS 3.5.2 does that, 3.3.2 does not). It is as fast, because `side`, the
/// width of a tile, is computed once for each area.
fn metres() -> [String; 4] {
    let half = HALF_WORLD_METRES;
    [
        format!("-{half:?}::float8 + (xy >> 29) * side"),
        format!("{half:?}::float8 - ((xy & 536870911) + 1) * side"),
        format!("-{half:?}::float8 + ((xy >> 29) + 1) * side"),
        format!("{half:?}::float8 - (xy & 536870911) * side"),
    ]
}

/// The sides of a tile in degrees: longitudes are linear, latitudes come from the inverse of spherical Mercator.
const DEGREES: &str = "(xy >> 29)::float8 / (1 << z) * 360 - 180 AS west,
        degrees(atan(sinh(pi() * (1 - 2 * (((xy & 536870911) + 1)::float8 / (1 << z)))))) AS south,
        ((xy >> 29) + 1)::float8 / (1 << z) * 360 - 180 AS east,
        degrees(atan(sinh(pi() * (1 - 2 * ((xy & 536870911)::float8 / (1 << z)))))) AS north";

/// How a layer's tiles are drawn from the candidates in `touched`.
pub(crate) fn drawing(layer: &Layer) -> TileDrawing {
    let margin = layer.margin();
    let [west, south, east, north] = metres();
    let (sides, feature, envelope) = match (margin.bounds, margin.candidates) {
        (TileBounds::Mercator, None) => {
            let in_metres = format!("ST_MakeEnvelope({west}, {south}, {east}, {north}, 3857)");
            return TileDrawing {
                from: "touched".to_owned(),
                feature: "m",
                envelope: in_metres.clone(),
                grown: format!("ST_Expand({in_metres}, {REACH})"),
                reach: REACH.to_owned(),
                near: None,
            };
        }
        (TileBounds::Mercator, Some(_)) => {
            let sides = format!(
                "{west} AS west,\n        {south} AS south,\n        {east} AS east,\n        {north} AS north"
            );
            (sides, "m", "ST_MakeEnvelope(west, south, east, north, 3857)")
        }
        (TileBounds::Degrees, _) => {
            // The geometry of a cell is computed in metres only.
            let lonlat =
                if layer.cells().is_some() { format!(", ST_Transform(m, 4326) AS {LONLAT}") } else { String::new() };
            (format!("{DEGREES}{lonlat}"), LONLAT, "ST_MakeEnvelope(west, south, east, north, 4326)")
        }
    };
    let envelope = envelope.to_owned();
    TileDrawing {
        from: format!("(\n    SELECT *, {sides}\n    FROM touched\n    OFFSET 0\n) AS touched"),
        feature,
        grown: format!("ST_Expand({envelope}, (east - west) * ($13 + 4) / $12, (north - south) * ($13 + 4) / $12)"),
        reach: REACH.to_owned(),
        envelope,
        near: margin.candidates.map(|fraction| near(feature, layer.placement().draws_points(), fraction)),
    }
}

/// The condition that a feature, or its box, lies inside the tile's box expanded by a fraction of the box's sides. As
/// with `ST_Within`, a feature on the edge is outside. The operator `&&` cannot be used, because it compares
/// single-precision boxes.
fn near(feature: &str, is_point: bool, fraction: f64) -> String {
    let [west, south, east, north] = if is_point { ["X", "Y", "X", "Y"] } else { ["XMax", "YMax", "XMin", "YMin"] }
        .map(|end| format!("ST_{end}({feature})"));
    let (across, along) =
        (format!("(east - west) * {fraction:?}::float8"), format!("(north - south) * {fraction:?}::float8"));
    format!(
        "{west} > west - {across} AND {east} < east + {across}
            AND {south} > south - {along} AND {north} < north + {along}"
    )
}

// The part of the rendering statement that simplifies lines and polygons.

/// The column `m` of "placed", which is the geometry that is cut to tiles. It is the projected geometry `m` of a row
/// near `oar_tiles_area`, simplified for the zoom; NULL if it is too small to be drawn. All tiles of a zoom are cut
/// from the same geometry, so that its pieces meet at their edges.
///
/// The position of the row is computed from the geometry before simplifying, as in the survey, so that plan and tiles
/// agree. Points are not changed.
pub(crate) fn drawn_geometry(layer: &Layer) -> String {
    let Some(simplify) = layer.simplify.as_ref().filter(|_| !layer.shape.points) else { return "m".to_owned() };
    let Simplify { tolerance, snap, min_area, min_length } = simplify;
    let pixel = "oar_tiles_area.pixel_width";
    let mut drawn = "m".to_owned();
    if let Some(tolerance) = tolerance {
        drawn = format!("ST_SimplifyPreserveTopology({drawn}, {tolerance:?}::float8 * {pixel})");
    }
    if let Some(cell) = snap {
        drawn = format!("ST_SnapToGrid({drawn}, {cell:?}::float8 * {pixel})");
    }
    let area = min_area.map(|least| {
        format!(
            "\n            WHEN ST_Dimension(m) = 2 AND ST_Area(m) < {least:?}::float8 * {pixel} * {pixel} THEN NULL"
        )
    });
    let length = min_length.map(|least| {
        format!("\n            WHEN ST_Dimension(m) = 1 AND ST_Length(m) < {least:?}::float8 * {pixel} THEN NULL")
    });
    let too_small: String = area.into_iter().chain(length).collect();
    format!("CASE WHEN ST_Dimension(m) = 0 THEN m{too_small}\n            ELSE {drawn} END AS m")
}
