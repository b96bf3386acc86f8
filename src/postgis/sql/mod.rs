//! A layer as SQL. Every statement about features is built here from the same pieces, so that planning and rendering
//! agree about where a feature lies.
//!
//! Identifiers are quoted, values are parameters. Property expressions and filters are the configuration's own SQL.
//!
//! | file | what |
//! |---|---|
//! | `aggregates` | parses the aggregates of the configuration: the calls whose values can be folded row by row, and the text around them |
//! | `cached_rows` | the statement that reads the rows of a layer of points once, for tiles of all zooms |
//! | `cells` | cells: rows grouped by their position |
//! | `edge` | the edge of the world at ±180°: which rows are drawn as they are, and what is drawn of rows that reach beyond it |
//! | `render` | the statement that renders: many tiles at once |
//! | `repair` | shapes that are repaired before they are drawn: invalid ones, and those that jump across ±180° |
//! | `survey` | the statements of the survey: the positions of features, and the rows that are left out |

mod aggregates;
mod cached_rows;
mod cells;
mod edge;
pub(crate) mod render;
mod repair;
mod survey;

use super::layer::{CalledFunction, Layer, Placement};
use super::session::quoted;
use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

pub(crate) use cached_rows::ExpectedRows;
pub(crate) use cached_rows::{
    CachedRowsParameters, DRAWN_SHAPES, HAS_INDEX_ON, KeyArray, KeyRange, KeySample, RowChoice, TABLE_PAGES,
    cached_rows, encoded_cells, facet_values, first_value, hash_conditions, key_bounds, matching_keys, members,
    members_near, members_of_one, row_keys, scan, some_shapes, value_column,
};
pub(crate) use cells::FoldedValues;
pub(crate) use cells::{
    AggregateFunction, DependsOn, FoldedValue, ValueKind, calls, depends_on, fold_types, needs_only_counts,
    needs_only_folds, without_bounds,
};
pub(crate) use edge::{MAX_COUNTED_VERTICES, invalid_rows, large_rows, rows_beyond, rows_that_jump};
pub(crate) use render::{
    Candidates, LISTED_COLUMN_BIT, LISTED_ZOOM_BIT, SurveyedRepair, points_in_tiles, render, warm,
};
pub(crate) use repair::with_bands;
pub(crate) use survey::{
    CLIPS_BY_RINGS, FAR, MAX_TILES_OF_BOX, boxes_beyond, count_of_table, covers, estimated_rows, frequent_values,
    of_one_system, other_systems, positions, row_count, row_count_and_box, rows_in_squares, skipped, survey,
    systems_of_covers, without_covers,
};

/// The zoom of an area, for a statement that has a row of `oar_tiles_area`.
const AREA_ZOOM: &str = "oar_tiles_area.z";

/// A world unit in metres, rounded up.
const WORLD_UNIT_METRES: f64 = 0.01;

/// A coordinate in metres as a whole number of world units: x from the west edge, y (negated) from the north edge.
fn world_units(metres: &str) -> String {
    let scale = WORLD_UNITS as f64 / (2.0 * HALF_WORLD_METRES);
    // Truncated, not rounded down: a position less than a unit beyond the western or northern edge belongs to the first
    // unit, just as a position beyond the other edges belongs to the last.
    format!("trunc(({metres} + {HALF_WORLD_METRES:?}) * {scale:?})::int8")
}

/// [`world_units`] of a side of a box that may lie outside the world: clamped to the world, so that the number fits.
fn clamped_world_units(metres: &str) -> String {
    let h = format!("{HALF_WORLD_METRES:?}");
    world_units(&format!("least(greatest({metres}, -{h}), {h})"))
}

/// The columns that say where a projected geometry `m` lies in world units.
///
/// - Points: `west, north`.
/// - Boxes: `west, north, east, south, inside`. West is greater than east for a row that was wrapped around ±180°; the
///   columns of [`edge::raw_sides`] must then be there in addition to `m`.
/// - Rows that are gathered in cells: `x, y`, which are not whole numbers.
///
/// Each expression occurs only once, because the server would compute it again for every occurrence.
fn world_columns(placement: Placement<'_>) -> String {
    if placement.is_gathered() {
        let [x, y] = cells::position(placement.shape, "m");
        return format!("{x} AS x, {y} AS y");
    }
    if placement.shape.points {
        return format!("{} AS west, {} AS north", world_units("ST_X(m)"), world_units("-ST_Y(m)"));
    }
    let [west, east] =
        edge::wrapped_sides(placement, [clamped_world_units("ST_XMin(m)"), clamped_world_units("ST_XMax(m)")]);
    format!(
        "{west} AS west, {} AS north, {east} AS east, {} AS south, ({}) AS inside",
        clamped_world_units("-ST_YMax(m)"),
        clamped_world_units("-ST_YMin(m)"),
        box_is_in_world()
    )
}

/// The condition that the box of a projected geometry `m` touches the Web Mercator square, or misses it by at most a
/// world unit. The same holds for points, whose positions are rounded down. NULL if `m` is NULL.
fn box_is_in_world() -> String {
    let h = format!("{:?}", HALF_WORLD_METRES + WORLD_UNIT_METRES);
    format!("ST_XMax(m) >= -{h} AND ST_XMin(m) <= {h} AND ST_YMax(m) >= -{h} AND ST_YMin(m) <= {h}")
}

/// The condition that the columns of [`world_columns`] lie in the world. It is NULL or false if the row must be
/// skipped.
fn is_in_world(placement: Placement<'_>) -> String {
    if placement.is_gathered() {
        return cells::is_in_world("x", "y");
    }
    if placement.shape.points {
        // A tolerance of one unit on all four sides (see `world_units`), because other programs' limits of the world
        // differ by less than that.
        return format!("west BETWEEN 0 AND {WORLD_UNITS} AND north BETWEEN 0 AND {WORLD_UNITS}");
    }
    "inside".to_owned()
}

/// West, north, east and south from the columns of [`world_columns`]; for a point, its west and north twice. A position
/// on the eastern or southern edge of the world belongs to its last unit.
fn world_sides(placement: Placement<'_>) -> [String; 4] {
    let columns =
        if placement.draws_points() { ["west", "north", "west", "north"] } else { ["west", "north", "east", "south"] };
    columns.map(|column| format!("least({column}, {})", WORLD_UNITS - 1))
}

/// The name of a value's type, as SQL. For a domain it is the base type, because `ST_AsMVT` writes values by their base
/// type.
pub(crate) fn type_of(value: &str) -> String {
    format!(
        "COALESCE((SELECT format_type(typbasetype, NULL) FROM pg_catalog.pg_type
            WHERE oid = pg_typeof({value}) AND typtype = 'd'), pg_typeof({value})::text)"
    )
}

/// A row's key as a text for messages. The values of several columns are joined with slashes.
pub(crate) fn key_text(layer: &Layer) -> String {
    // Not by casts to text: the owner of a key's type could have created a cast function, and this role would run it.
    let text = |key: &str| format!("CASE WHEN {key} IS NULL THEN 'NULL' ELSE pg_catalog.concat({key}) END");
    let columns = layer.key.iter().map(|key| text(&key.quoted));
    format!("pg_catalog.concat_ws('/', {})", columns.collect::<Vec<_>>().join(", "))
}

/// The condition that a row is drawn at `zoom`, an SQL expression: the layer's own condition, and the zooms of the row.
/// It begins with AND, to follow another condition.
fn filter_at(layer: &Layer, zoom: &str) -> String {
    format!("{}{}", filter(layer), layer.row_zooms.condition(zoom))
}

/// The layer's own condition with AND before it, to follow another condition; empty if the layer has none.
fn filter(layer: &Layer) -> String {
    layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default()
}

/// How the spatial index finds the rows of an area.
struct AreaSearch {
    /// The condition on a row, joined with a row of `oar_tiles_area`.
    condition: String,
    /// The columns that `oar_tiles_area` needs for it: `, … AS …`.
    area_columns: String,
}

fn search(placement: Placement<'_>) -> AreaSearch {
    let (column, srid) = (placement.column, placement.shape.srid);
    if !(placement.shape.geography && placement.shape.points) {
        let g = placement.stored();
        let shifted = edge::shifted_boxes(placement, ["w", "s", "e", "n"]);
        let jumping = repair::jumping_boxes(placement, "s", "n");
        if shifted.is_empty() && jumping.is_none() {
            return AreaSearch { condition: format!("{g} && oar_tiles_area.box"), area_columns: String::new() };
        }
        let names = (1..=shifted.len()).map(|n| format!("shifted_{n}"));
        let mut found: String = names.clone().map(|name| format!(" OR {g} && oar_tiles_area.{name}")).collect();
        let columns = names.zip(&shifted).map(|(name, shifted)| format!(", {shifted} AS {name}"));
        let mut area_columns: String = columns.collect();
        if let Some([west, east]) = jumping {
            found.push_str(&format!(" OR {g} && oar_tiles_area.jumping_west AND {g} && oar_tiles_area.jumping_east"));
            area_columns.push_str(&format!(", {west} AS jumping_west, {east} AS jumping_east"));
        }
        return AreaSearch { condition: format!("({g} && oar_tiles_area.box{found})"), area_columns };
    }
    // The index of a geography can only be searched by distance; the box then decides.
    let condition = format!(
        "ST_DWithin({column}, oar_tiles_area.centre, oar_tiles_area.radius, false)
            AND {column}::geometry && oar_tiles_area.box"
    );
    // Distances are measured within one reference system only.
    let point = |x: &str, y: &str| format!("ST_SetSRID(ST_MakePoint({x}, {y}), {srid})::geography");
    let (centre, corner) = (point("(w + e) / 2", "(s + n) / 2"), point("w", "latitude"));
    // In metres: a little more than from the centre to the farther corners; the whole earth for areas that are wider
    // than 60 degrees.
    let area_columns = format!(
        ",
        {centre} AS centre,
        CASE WHEN e - w > 60 OR n - s > 60 THEN 2.1e7 ELSE 1000 + 1.1 * (
            SELECT max(ST_Distance({centre}, {corner}, false))
            FROM (VALUES (s), (n)) AS corner (latitude)) END AS radius"
    );
    AreaSearch { condition, area_columns }
}

/// The area with the number `number`, an SQL expression, as an item of a FROM list: the columns of
/// [`areas`](render::areas) but for its number and its boxes. It is looked up in the parameters. A plan that is kept
/// expects ten areas and few rows, so a join might compare each row with each area.
pub(crate) fn area_of(layer: &Layer, number: &str) -> String {
    let columns = ["z", "margin", "ax0", "ay0", "ax1", "ay1"];
    let bound: Vec<String> = (1..).zip(columns).map(|(n, column)| format!("(${n})[{number}] AS {column}")).collect();
    format!(
        "CROSS JOIN LATERAL (
        SELECT {columns}, 32 - z AS shift, {sizes}
        FROM (SELECT {bound}) AS bound
        OFFSET 0
    ) AS oar_tiles_area",
        columns = columns.join(", "),
        sizes = sizes(layer),
        bound = bound.join(", "),
    )
}

/// Two columns of an area at the zoom `z`: the width of a cell in world units, and the width of a tile in metres.
fn sizes(layer: &Layer) -> String {
    format!(
        "{width:?}::float8 * (1::int8 << (32 - z)) AS width, {world:?}::float8 / (1::int8 << z) AS side",
        width = layer.grid().map_or(0.0, |grid| grid.size),
        world = 2.0 * HALF_WORLD_METRES,
    )
}

// The statement that calls a function for many tiles.

/// Calls a function once for each tile. The parameters: `$1` numbers that identify the tiles; `$2`, `$3`, `$4` zoom,
/// column and row (XYZ), each one array; `$5` the function's further argument, as text.
///
/// Returns one row for each tile: the tile's number in `$1`, and the function's value or first column; NULL if the
/// function returned nothing.
pub(crate) fn call(function: &CalledFunction) -> String {
    let query = function.arguments.get(3).map_or_else(String::new, |kind| format!(", $5::pg_catalog.{kind}"));
    format!(
        "SELECT tile.number, given.mvt
FROM unnest($1, $2, $3, $4) AS tile (number, z, x, y)
LEFT JOIN LATERAL {}(tile.z, tile.x, tile.y{query}) AS given (mvt) ON true",
        function.name
    )
}

// Statements that read everything a layer reads. Planning them takes the locks.

/// One statement over the rows, and one over the rows of a cell if the layer has aggregates.
pub(crate) fn read_statements(layer: &Layer) -> Vec<String> {
    let key = layer.key.iter().map(|column| column.quoted.clone());
    let columns = layer.row_sql().map(str::to_owned).chain([layer.geometry.clone()]).chain(key);
    let columns: Vec<String> = columns.chain(layer.section.feature_id.iter().map(|column| quoted(column))).collect();
    let aggregates: Vec<String> = layer.aggregates().map(|sql| format!("({}\n)", without_bounds(sql))).collect();
    let lists = [columns, aggregates].into_iter().filter(|list| !list.is_empty());
    let condition = format!("WHERE true {}", filter_at(layer, "0"));
    lists.map(|list| format!("SELECT {} FROM {} {condition}", list.join(", "), layer.relation)).collect()
}

// The part of the rendering statement that leaves out features of the lowest rank.

/// The column that holds the rank of a feature in every step of the statement.
const RANK: &str = "r0";

/// Returns `WITH` items over "drawn"; the last is called "kept". `limits` is the number of the parameter with the
/// greatest number of features in a tile, as an array by zoom. `order` sorts by key: `, k0, …`.
///
/// The features that are drawn in a tile are numbered by rank, then by key, with the best first. Candidates that are
/// not drawn are numbered last, so that they do not displace others. The first candidate stays in any case, so that the
/// tile is not lost.
fn keep_best(layer: &Layer, order: &str, limits: usize) -> String {
    let best = match (&layer.rank, layer.cells()) {
        (Some(rank), _) if rank.collated => format!(", {RANK} COLLATE \"C\" DESC NULLS LAST"),
        (Some(_), _) | (None, Some(_)) => format!(", {RANK} DESC NULLS LAST"),
        (None, None) => String::new(),
    };
    format!(
        ",
ranked AS (
    SELECT *, count(mvt_geometry) OVER (PARTITION BY tile) AS found,
        row_number() OVER (PARTITION BY tile ORDER BY mvt_geometry IS NULL{best}{order}) AS place
    FROM drawn OFFSET 0
),
kept AS (
    SELECT * FROM ranked WHERE place <= coalesce(${limits}[(tile >> 58)::int4 + 1], place) ORDER BY tile{order} OFFSET 0
)"
    )
}

#[cfg(test)]
mod tests;
