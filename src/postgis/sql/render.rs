//! The statement that renders: many tiles at once.

use super::{bounds, cells};
use super::{ends, filter, is_in_world, projected, search, world_columns};
use crate::postgis::layer::{Layer, Of, TilePart, quoted};
use crate::postgis::query::{PIXEL, Values};

/// Renders the tiles of some areas. Parameters, one array element an area: `$1` zoom, `$2` margin in world units, `$3..$6`
/// first column, first row, last column, last row (XYZ), `$7..$10` the search box; then `$11` the layer's name, `$12` its
/// extent, `$13` its buffer.
///
/// Gives one row for each tile that has a candidate: the tile (zoom above bit 58, column above bit 29, TMS row), how many
/// features are drawn, and the MVT layer; ordered by zoom, column and TMS row.
pub(in crate::postgis) fn render(layer: &Layer) -> String {
    let Carried { values, names, row, order, arguments } = carried(layer);
    let (_, around) = search(layer);
    let (draw, few, from) = draw(layer);
    let [west, north, east, south] = ends(layer);
    let (placed, in_world) = match &layer.cells {
        None => (placed(layer, &values, &names), is_in_world(layer)),
        Some(cells) if layer.counted.is_some() => (cells::placed_counted(layer, cells), "true".to_owned()),
        Some(cells) => (cells::placed(layer, cells), "true".to_owned()),
    };
    let width = layer.cells.as_ref().map_or(0.0, |cells| cells.grid.size);
    let pixel =
        if layer.is_query() { format!(", {PIXEL:?}::float8 / (1::int8 << z) AS pixel_width") } else { String::new() };
    format!(
        "WITH oar_tiles_area AS MATERIALIZED (
    SELECT area, z, 32 - z AS shift, margin, ax0, ay0, ax1, ay1, {width:?}::float8 * (1::int8 << (32 - z)) AS width,
        ST_MakeEnvelope(w, s, e, n, {srid}) AS box{around}{pixel}
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) WITH ORDINALITY
        AS area (z, margin, ax0, ay0, ax1, ay1, w, s, e, n, area)
),
{placed},
-- The tiles of the area that a candidate touches: the planner's arithmetic, bit for bit.
ranged AS (
    SELECT z, m,
        greatest(({west} - margin) >> shift, ax0) AS x0, greatest(({north} - margin) >> shift, ay0) AS y0,
        least(({east} + margin) >> shift, ax1) AS x1, least(({south} + margin) >> shift, ay1) AS y1{names}
    FROM placed
    WHERE {in_world}
    OFFSET 0
),
-- One row for each candidate and tile. Nearly all points touch one tile: they are spared a subquery.
touched AS (
    SELECT z, m, unnest(CASE WHEN x0 = x1 AND y0 = y1 THEN ARRAY[(x0 << 29) | y0] ELSE ARRAY(
        SELECT (x << 29) | y FROM generate_series(x0, x1) AS x, generate_series(y0, y1) AS y) END) AS xy{few}{names}
    FROM ranged
),
-- The shifts stand in parentheses: SQL gives << and | the same rank.
-- Sorted by one number and the key: three times as fast as by zoom, column and row.
drawn AS (
    SELECT (z::int8 << 58) | ((xy >> 29) << 29) | ((1 << z) - 1 - (xy & 536870911)) AS tile,
        {draw} AS mvt_geometry{names}
    FROM {from}
    ORDER BY tile{order}
    OFFSET 0
)
-- The sort above is the grouping's order: no second sort, features in the order of their key.
SELECT drawn.tile, count(drawn.mvt_geometry), ST_AsMVT(feature.*, $11, $12, {arguments})
FROM drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.tile",
        srid = layer.shape.srid,
    )
}

/// The candidates of a layer whose rows are its features.
fn placed(layer: &Layer, values: &str, names: &str) -> String {
    let (search, _) = search(layer);
    format!(
        "-- Candidates: every feature near an area, projected once, its place as whole numbers. OFFSET 0 keeps the planner from
-- working an expression out again wherever it is used.
placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, m, {world}{names}
    FROM oar_tiles_area CROSS JOIN LATERAL (
        SELECT {projected} AS m{values} FROM {relation} WHERE {search} {filter} OFFSET 0
    ) AS near
    OFFSET 0
)",
        world = world_columns(layer),
        projected = projected(layer),
        relation = layer.rows(&Values::of_area()),
        filter = filter(layer),
    )
}

/// What is carried from a row of the relation to its feature in the tile, as pieces of the statement.
struct Carried {
    /// Expressions over the relation, each with its name within the statement: `, "name" AS p0, …`.
    values: String,
    /// Those names: `, p0, …`.
    names: String,
    /// The columns of the feature, under the names that the tile shows.
    row: String,
    /// The key, for `ORDER BY tile`.
    order: String,
    /// The names of the geometry and of the feature's id, as arguments of `ST_AsMVT`.
    arguments: String,
}

fn carried(layer: &Layer) -> Carried {
    let geometry = free_name(layer, "geom");
    let mut carried = Carried {
        values: String::new(),
        names: String::new(),
        row: format!("drawn.mvt_geometry AS {}", quoted(&geometry)),
        order: String::new(),
        arguments: literal(&geometry),
    };
    if let Some(lonlat) = bounds::lonlat(layer) {
        carried.carry(&lonlat, bounds::LONLAT.to_owned());
    }
    for (number, property) in layer.properties.iter().enumerate() {
        let value = match property.of {
            Of::Row | Of::Cell => format!("drawn.{}", carried.carry(&property.sql, format!("p{number}"))),
            Of::Tile(part) => tile_part(part).to_owned(),
        };
        carried.row.push_str(&format!(", {value} AS {}", quoted(&property.name)));
    }
    if let Some(column) = &layer.feature_id {
        let name = carried.carry(&quoted(column), "feature_id".to_owned());
        let shown = free_name(layer, "feature_id");
        carried.row.push_str(&format!(", drawn.{name} AS {}", quoted(&shown)));
        carried.arguments.push_str(&format!(", {}", literal(&shown)));
    }
    if layer.cells.is_some() {
        carried.names.push_str(", k0");
        carried.order.push_str(", k0");
        return carried;
    }
    for (number, column) in layer.key.iter().enumerate() {
        let name = carried.carry(&column.quoted, format!("k{number}"));
        carried.order.push_str(&format!(", {name}{}", if column.collated { " COLLATE \"C\"" } else { "" }));
    }
    carried
}

impl Carried {
    fn carry(&mut self, sql: &str, name: String) -> String {
        self.values.push_str(&format!(", {sql} AS {name}"));
        self.names.push_str(&format!(", {name}"));
        name
    }
}

/// A part of the address of a tile, from its number.
fn tile_part(part: TilePart) -> &'static str {
    match part {
        TilePart::X => "(drawn.tile >> 29 & 536870911)::int4",
        TilePart::Y => "((1 << (drawn.tile >> 58)::int4) - 1 - (drawn.tile & 536870911))::int4",
        TilePart::Zoom => "(drawn.tile >> 58)::int4",
    }
}

/// The feature's geometry in the tile, what a candidate has to carry along for it, and where its columns come from.
fn draw(layer: &Layer) -> (String, &'static str, String) {
    let bounds::Drawing { from, feature, envelope, grown, near } = bounds::drawing(layer);
    let draw = format!("ST_AsMVTGeom({feature}, {envelope}, $12, $13, true)");
    // A large feature is a candidate in every tile of its box; clipping it costs far more than seeing that it is not there.
    let clipped = (!layer.draws_points()).then(|| format!("(few OR ST_Intersects({feature}, {grown}))"));
    let few = if clipped.is_some() { ", (x1 - x0 + 1) * (y1 - y0 + 1) <= 4 AS few" } else { "" };
    let conditions: Vec<String> = near.into_iter().chain(clipped).collect();
    let draw =
        if conditions.is_empty() { draw } else { format!("CASE WHEN {} THEN {draw} END", conditions.join(" AND ")) };
    (draw, few, from)
}

/// The name wanted, or one like it that no property has.
fn free_name(layer: &Layer, wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while layer.properties.iter().any(|property| property.name == name) {
        name.push('_');
    }
    name
}

/// A text literal. Used for names that this module made up or checked; values from elsewhere are parameters.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
