//! A layer as SQL. Every statement about features is made here, from the same pieces, so that planning and rendering
//! cannot disagree about where a feature lies.
//!
//! Identifiers are quoted, values are parameters. Property expressions and filters are the configuration's own SQL.

use std::fmt::Write as _;

use super::layer::{Layer, quoted};
use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

/// Latitude, in degrees, up to which points are transformed at all; the world ends at 85.0511°.
const LATITUDE_LIMIT: f64 = 85.06;

/// The geometry of a row, in the reference system of its column.
fn geometry(layer: &Layer) -> String {
    if layer.shape.geography { format!("{}::geometry", layer.geometry) } else { layer.geometry.clone() }
}

/// Whether a row's coordinates can be transformed: finite, and inside the reference system. `ST_Transform` raises an
/// error on coordinates that PROJ refuses, turns longitude 190 into -170, and lets NaN pass. Never true for NULL or empty.
fn is_placeable(layer: &Layer) -> String {
    let g = geometry(layer);
    // NaN counts as greater than every number here, so that BETWEEN refuses it.
    let (west, east, south, north) = match (layer.shape.srid, layer.shape.points) {
        (4326, true) => ("-180".to_owned(), "180".to_owned(), format!("-{LATITUDE_LIMIT}"), LATITUDE_LIMIT.to_string()),
        (4326, false) => ("-180".to_owned(), "180".to_owned(), "-90".to_owned(), "90".to_owned()),
        _ => ("-1e9".to_owned(), "1e9".to_owned(), "-1e9".to_owned(), "1e9".to_owned()),
    };
    if layer.shape.points {
        return format!("ST_X({g}) BETWEEN {west} AND {east} AND ST_Y({g}) BETWEEN {south} AND {north}");
    }
    // A NaN inside a line does not show in its box, but in its length; among several points it shows in the text only.
    format!(
        "ST_XMin({g}) >= {west} AND ST_XMax({g}) <= {east} AND ST_YMin({g}) >= {south} AND ST_YMax({g}) <= {north}
            AND ST_Length({g}) + ST_Perimeter({g}) < 'Infinity'
            AND NOT (GeometryType({g}) IN ('MULTIPOINT', 'GEOMETRYCOLLECTION') AND ST_AsText({g}) ~* 'nan|inf')"
    )
}

/// The row's geometry in EPSG:3857; NULL if it cannot be placed.
fn projected(layer: &Layer) -> String {
    let mut g = geometry(layer);
    if layer.shape.curves {
        // ST_AsMVTGeom knows no curves.
        g = format!("ST_CurveToLine({g})");
    }
    if layer.shape.srid != 3857 {
        g = format!("ST_Transform({g}, 3857)");
    }
    format!("CASE WHEN {} THEN {g} END", is_placeable(layer))
}

/// A metre coordinate as world units: x from the west edge, y (negated) from the north edge.
#[expect(clippy::cast_precision_loss, reason = "2^32 is exact in a double")]
fn world_units(metres: &str) -> String {
    let scale = WORLD_UNITS as f64 / (2.0 * HALF_WORLD_METRES);
    format!("floor(({metres} + {HALF_WORLD_METRES:?}) * {scale:?})::int8")
}

/// The same for an end of a box, which may lie outside of the world: cut to it, so that the number fits.
fn cut_world_units(metres: &str) -> String {
    let h = format!("{HALF_WORLD_METRES:?}");
    world_units(&format!("least(greatest({metres}, -{h}), {h})"))
}

/// The columns that say where a projected geometry `m` lies in world units: `west, north`, and for boxes `east, south`. Each
/// expression stands once: the planner would work out every mention again.
fn world_columns(layer: &Layer) -> String {
    if layer.shape.points {
        return format!("{} AS west, {} AS north", world_units("ST_X(m)"), world_units("-ST_Y(m)"));
    }
    format!(
        "{} AS west, {} AS north, {} AS east, {} AS south, ({}) AS inside",
        cut_world_units("ST_XMin(m)"),
        cut_world_units("-ST_YMax(m)"),
        cut_world_units("ST_XMax(m)"),
        cut_world_units("-ST_YMin(m)"),
        box_is_in_world()
    )
}

/// Whether the box of a projected geometry `m` touches the Web Mercator square. NULL if `m` is.
fn box_is_in_world() -> String {
    let h = format!("{HALF_WORLD_METRES:?}");
    format!("ST_XMax(m) >= -{h} AND ST_XMin(m) <= {h} AND ST_YMax(m) >= -{h} AND ST_YMin(m) <= {h}")
}

/// Whether the columns of [`world_columns`] lie in the world. NULL or false if the feature is to be skipped.
fn is_in_world(layer: &Layer) -> String {
    if layer.shape.points {
        return format!("west BETWEEN 0 AND {WORLD_UNITS} AND north BETWEEN 0 AND {WORLD_UNITS}");
    }
    "inside".to_owned()
}

/// West, north, east and south from the columns of [`world_columns`]. A position on the eastern or southern edge of the
/// world belongs to its last unit.
fn ends(layer: &Layer) -> [String; 4] {
    let columns =
        if layer.shape.points { ["west", "north", "west", "north"] } else { ["west", "north", "east", "south"] };
    columns.map(|column| format!("least({column}, {})", WORLD_UNITS - 1))
}

fn filter(layer: &Layer) -> String {
    layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default()
}

/// Where every feature lies, for planning. `boxes` restricts it to rows near the box given by parameters
/// `$1..$4` = arrays of west, south, east, north in the column's reference system.
///
/// Points in a closed-form system give one column: the position, x in the upper and y in the lower half. Others give six:
/// the box's two corners packed the same way, and the box in the column's own system. NULL where a row is skipped.
pub(super) fn survey(layer: &Layer, boxes: bool) -> String {
    let g = geometry(layer);
    let near = if boxes {
        format!(
            "AND EXISTS (SELECT FROM unnest($1, $2, $3, $4) AS near (w, s, e, n)
                WHERE {g} && ST_MakeEnvelope(w, s, e, n, {}))",
            layer.shape.srid
        )
    } else {
        String::new()
    };
    let [west, north, east, south] = ends(layer);
    let (columns, inner, kept) = if layer.shape.is_closed_form() {
        (String::new(), String::new(), "")
    } else {
        (
            format!(", ({east} << 32) | {south}, x0, y0, x1, y1"),
            format!(", ST_XMin({g}) AS x0, ST_YMin({g}) AS y0, ST_XMax({g}) AS x1, ST_YMax({g}) AS y1"),
            ", x0, y0, x1, y1",
        )
    };
    format!(
        "SELECT CASE WHEN {in_world} THEN ({west} << 32) | {north} END{columns}
FROM (
    SELECT {world}{kept}
    FROM (SELECT {projected} AS m{inner} FROM {relation} WHERE true {near} {filter} OFFSET 0) AS placed
    OFFSET 0
) AS located",
        projected = projected(layer),
        relation = layer.relation,
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}

/// Why rows are skipped, how many, and the keys of a few: reason, count, examples.
pub(super) fn skipped(layer: &Layer) -> String {
    let g = geometry(layer);
    let key = layer.key.iter().map(|column| format!("{}::text", column.quoted)).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT reason, count(*), (array_agg(key ORDER BY key))[1:3]
FROM (
    SELECT concat_ws('/', {key}) AS key, CASE
        WHEN {col} IS NULL THEN 'NULL'
        WHEN ST_IsEmpty({g}) THEN 'empty'
        WHEN ST_AsText({g}) ~* 'nan|inf' THEN 'not finite'
        ELSE 'outside' END AS reason
    FROM (
        SELECT *, {world} FROM (SELECT *, {projected} AS m FROM {relation} WHERE true {filter} OFFSET 0) AS placed
        OFFSET 0
    ) AS located
    WHERE ({in_world}) IS NOT TRUE
) AS skipped
GROUP BY reason ORDER BY reason",
        col = layer.geometry,
        projected = projected(layer),
        relation = layer.relation,
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}

/// Renders the tiles of some areas. Parameters, one array element an area: `$1` zoom, `$2` margin in world units, `$3..$6`
/// first column, first row, last column, last row (XYZ), `$7..$10` the search box; then `$11` the layer's name, `$12` its
/// extent, `$13` its buffer.
///
/// Gives one row for each tile that has a candidate: the tile (zoom above bit 58, column above bit 29, TMS row), how many
/// features are drawn, and the MVT layer; ordered by zoom, column and TMS row.
pub(super) fn render(layer: &Layer) -> String {
    let geom = geometry_name(layer);
    let mut row = format!("drawn.mvt_geometry AS {}", quoted(&geom));
    let (mut values, mut names) = (String::new(), String::new());
    let mut carry = |sql: &str, name: String| {
        // Writing to a string does not fail.
        let written = write!(values, ", {sql} AS {name}").and_then(|()| write!(names, ", {name}"));
        debug_assert!(written.is_ok());
        name
    };
    for (number, property) in layer.properties.iter().enumerate() {
        let name = carry(&property.sql, format!("p{number}"));
        row.push_str(&format!(", drawn.{name} AS {}", quoted(&property.name)));
    }
    let mut feature_id = String::new();
    if let Some(column) = &layer.feature_id {
        let name = carry(&quoted(column), "feature_id".to_owned());
        let shown = free_name(layer, "feature_id");
        row.push_str(&format!(", drawn.{name} AS {}", quoted(&shown)));
        feature_id = format!(", {}", literal(&shown));
    }
    let mut order = String::new();
    for (number, column) in layer.key.iter().enumerate() {
        let name = carry(&column.quoted, format!("k{number}"));
        order.push_str(&format!(", {name}{}", if column.collated { " COLLATE \"C\"" } else { "" }));
    }
    let (geometry_column, srid) = (&layer.geometry, layer.shape.srid);
    let search = if layer.shape.geography && layer.shape.points {
        // The index of a geography is asked by distance; the box then decides.
        format!(
            "ST_DWithin({geometry_column}, oar_tiles_area.centre, oar_tiles_area.radius, false)
            AND {geometry_column}::geometry && oar_tiles_area.box"
        )
    } else {
        format!("{} && oar_tiles_area.box", geometry(layer))
    };
    let around = if layer.shape.geography && layer.shape.points {
        ",
        ST_SetSRID(ST_MakePoint((w + e) / 2, (s + n) / 2), 4326)::geography AS centre,
        CASE WHEN e - w > 60 OR n - s > 60 THEN 2.1e7 ELSE 1000 + 1.1 * greatest(
            ST_Distance(ST_SetSRID(ST_MakePoint((w + e) / 2, (s + n) / 2), 4326)::geography, ST_SetSRID(ST_MakePoint(w, s), 4326)::geography, false),
            ST_Distance(ST_SetSRID(ST_MakePoint((w + e) / 2, (s + n) / 2), 4326)::geography, ST_SetSRID(ST_MakePoint(w, n), 4326)::geography, false))
        END AS radius"
    } else {
        ""
    };
    let envelope = "ST_TileEnvelope(z, (xy >> 29)::int4, (xy & 536870911)::int4)";
    let draw = format!("ST_AsMVTGeom(m, {envelope}, $12, $13, true)");
    let draw = if layer.shape.points {
        draw
    } else {
        // A large feature is a candidate in every tile of its box; clipping it costs far more than seeing that it is
        // not there. The envelope grows by two units of the grid more than the buffer, for rounding.
        format!(
            "CASE WHEN few OR ST_Intersects(m, ST_Expand({envelope}, ({side} / (1 << z)) * ($13 + 2) / $12)) THEN {draw} END",
            side = 2.0 * HALF_WORLD_METRES
        )
    };
    let few = if layer.shape.points { "" } else { ", (x1 - x0 + 1) * (y1 - y0 + 1) <= 4 AS few" };
    let [west, north, east, south] = ends(layer);
    format!(
        "WITH oar_tiles_area AS MATERIALIZED (
    SELECT z, 32 - z AS shift, margin, ax0, ay0, ax1, ay1, ST_MakeEnvelope(w, s, e, n, {srid}) AS box{around}
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS area (z, margin, ax0, ay0, ax1, ay1, w, s, e, n)
),
-- Candidates: every feature near an area, projected once, its place as whole numbers. OFFSET 0 keeps the planner from
-- working an expression out again wherever it is used.
placed AS (
    SELECT z, shift, margin, ax0, ay0, ax1, ay1, m, {world}{names}
    FROM oar_tiles_area CROSS JOIN LATERAL (
        SELECT {projected} AS m{values} FROM {relation} WHERE {search} {filter} OFFSET 0
    ) AS near
    OFFSET 0
),
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
    FROM touched
    ORDER BY tile{order}
    OFFSET 0
)
-- The sort above is the grouping's order: no second sort, features in the order of their key.
SELECT tile, count(drawn.mvt_geometry), ST_AsMVT(feature, $11, $12, {geom_literal}{feature_id})
FROM drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY tile",
        geom_literal = literal(&geom),
        world = world_columns(layer),
        projected = projected(layer),
        relation = layer.relation,
        filter = filter(layer),
        in_world = is_in_world(layer),
    )
}

/// The name of the geometry among the row's columns: one that no property has.
fn geometry_name(layer: &Layer) -> String {
    free_name(layer, "geom")
}

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
