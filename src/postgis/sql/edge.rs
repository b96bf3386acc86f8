//! The edge of the world at ±180°: which rows are drawn as they are, and what is drawn of rows that reach beyond it.
//!
//! A row inside ±180°, or beyond it by rounding alone, is drawn as `ST_Transform` returns it. Any other row is cut and
//! shifted, or clipped, in the reference system of its column before it is transformed: PROJ wraps each coordinate by
//! itself, which would spread a polygon over the whole world. A `CASE` skips this work for rows inside the world.

use crate::postgis::layer::{Beyond, EdgeUnits, Layer, MAX_WRAPPED_HALVES, Placement};
use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

/// The greatest latitude, in degrees, at which points are transformed at all; the world ends at 85.0511°.
const LATITUDE_LIMIT: f64 = 85.06;

/// The greatest coordinate, in the units of any reference system, that is transformed.
const MAX_COORDINATE: f64 = 1e9;

/// Types of geometry that MVT cannot hold: `ST_AsMVTGeom` raises an error, or drops all other parts of a collection.
pub(crate) const SURFACES: [&str; 3] = ["TIN", "TRIANGLE", "POLYHEDRALSURFACE"];

/// The condition that a row's coordinates can be transformed: they are finite, inside the reference system, and not
/// beyond ±180°. `ST_Transform` raises an error on coordinates that PROJ refuses, turns longitude 190 into -170, and
/// lets NaN pass. The condition is never true for NULL or an empty geometry.
pub(crate) fn is_placeable(placement: Placement<'_>) -> String {
    // A geography lies within ±180° by itself; the same bound applies.
    let units = placement.shape.edge.or_else(|| (placement.shape.srid == 4326).then_some(EdgeUnits::Degrees));
    is_within(placement, units.map_or(MAX_COORDINATE, |units| units.half_world() + units.tolerance()))
}

/// The condition that a row that is not placeable can be cut at ±180°.
pub(crate) fn can_be_cut(placement: Placement<'_>, units: EdgeUnits) -> String {
    // A clipped row may reach any distance beyond the edge; a wrapped one is shifted once.
    is_within(
        placement,
        if placement.beyond == Beyond::Wrap {
            MAX_WRAPPED_HALVES * units.half_world() + units.tolerance()
        } else {
            MAX_COORDINATE
        },
    )
}

/// The condition that the coordinates of a row are finite, inside the reference system and at most `far` from the prime
/// meridian, and that tiles can hold its type of geometry.
fn is_within(placement: Placement<'_>, far: f64) -> String {
    let g = placement.geometry();
    // The probe has not seen all rows of a query that returns other rows at each zoom.
    let own =
        if placement.srid_varies { format!("ST_SRID({g}) = {} AND ", placement.shape.srid) } else { String::new() };
    let in_degrees = placement.shape.srid == 4326 || placement.shape.edge == Some(EdgeUnits::Degrees);
    let high = match (in_degrees, placement.shape.points) {
        (true, true) => LATITUDE_LIMIT,
        (true, false) => 90.0,
        (false, _) => MAX_COORDINATE,
    };
    // PostgreSQL sorts NaN above every number, so BETWEEN is false for it.
    if placement.shape.points {
        return format!("{own}ST_X({g}) BETWEEN -{far:?} AND {far:?} AND ST_Y({g}) BETWEEN -{high:?} AND {high:?}");
    }
    let types = SURFACES.map(|name| format!("'{name}'")).join(", ");
    let types = if placement.shape.curves {
        format!("\n            AND GeometryType({g}) NOT IN ({types})")
    } else {
        String::new()
    };
    // A NaN inside a line is visible in its length, but not in its box. Among several points it is visible only in the
    // text.
    format!(
        "{own}ST_XMin({g}) >= -{far:?} AND ST_XMax({g}) <= {far:?} AND ST_YMin({g}) >= -{high:?} AND ST_YMax({g}) <= {high:?}{types}
            AND ST_Length({g}) + ST_Perimeter({g}) < 'Infinity'
            AND NOT (GeometryType({g}) IN ('MULTIPOINT', 'GEOMETRYCOLLECTION') AND ST_AsText(ST_Force2D({g})) ~* 'nan|inf|{}')",
        SURFACES.join("|")
    )
}

/// The row's geometry in EPSG:3857; NULL if it cannot be placed.
pub(crate) fn projected(placement: Placement<'_>) -> String {
    let g = without_curves(placement);
    let mut cases = format!("WHEN {} THEN {}", is_placeable(placement), transformed(placement, &g, 3857));
    if let Some(units) = cut_units(placement) {
        let mut drawn = transformed(placement, &cut(placement, units, &g), 3857);
        if placement.is_gathered() && !placement.shape.points && placement.beyond == Beyond::Wrap {
            drawn = format!(
                "CASE WHEN {} THEN {} ELSE {drawn} END",
                crosses(&x_range(placement), units),
                middle(placement, units, &drawn)
            );
        }
        cases.push_str(&format!("\n            WHEN {} THEN {drawn}", can_be_cut(placement, units)));
    }
    format!("CASE {cases} END")
}

/// The row's geometry in EPSG:4326, the counterpart of [`projected`]. For some rows that cannot be placed it is not
/// NULL.
pub(crate) fn lonlat(placement: Placement<'_>) -> String {
    let g = without_curves(placement);
    let own = transformed(placement, &g, 4326);
    // There is nothing to transform, and no row beyond the edge. Rows that cannot be placed are dropped because of
    // their position in metres.
    if placement.shape.srid == 4326 && !placement.reaches_beyond {
        return own;
    }
    let mut cases = format!("WHEN {} THEN {own}", is_placeable(placement));
    if let Some(units) = cut_units(placement) {
        let drawn = transformed(placement, &cut(placement, units, &g), 4326);
        cases.push_str(&format!("\n            WHEN {} THEN {drawn}", can_be_cut(placement, units)));
    }
    format!("CASE {cases} END")
}

/// The geometry of a row, with curves converted to lines, because `ST_AsMVTGeom` takes no curves.
fn without_curves(placement: Placement<'_>) -> String {
    let g = placement.geometry();
    if placement.shape.curves { format!("ST_CurveToLine({g})") } else { g }
}

fn transformed(placement: Placement<'_>, g: &str, srid: i32) -> String {
    if placement.shape.srid == srid { g.to_owned() } else { format!("ST_Transform({g}, {srid})") }
}

/// The units of the column; `None` if rows beyond ±180° are skipped instead of cut.
fn cut_units(placement: Placement<'_>) -> Option<EdgeUnits> {
    placement.shape.edge.filter(|_| placement.beyond != Beyond::Skip)
}

/// A geometry cut at ±180°, in the reference system of its column, as docs/world-edge.md documents it.
fn cut(placement: Placement<'_>, units: EdgeUnits, g: &str) -> String {
    let own = match placement.beyond {
        Beyond::Wrap => format!("ST_SnapToGrid(ST_Force2D({g}), {:?}, 0)", units.snap_step()),
        Beyond::Clip | Beyond::Skip => format!("ST_Force2D({g})"),
    };
    if placement.shape.points {
        return cut_at_edge(placement.beyond, units, &own);
    }
    // Only valid polygons can be cut, and pieces that overlap after the shift would cancel each other out when drawn.
    let areas = cut_at_edge(placement.beyond, units, &format!("ST_CollectionExtract(ST_MakeValid({own}), 3)"));
    format!(
        "CASE WHEN ST_Dimension({g}) = 2 THEN ST_UnaryUnion(ST_CollectionExtract({areas}, 3)) ELSE {} END",
        cut_at_edge(placement.beyond, units, &own)
    )
}

fn cut_at_edge(beyond: Beyond, units: EdgeUnits, g: &str) -> String {
    let half = units.half_world();
    match beyond {
        Beyond::Wrap => {
            let width = 2.0 * half;
            format!("ST_WrapX(ST_WrapX({g}, {half:?}, -{width:?}), -{half:?}, {width:?})")
        }
        Beyond::Clip | Beyond::Skip => {
            // The edge itself lies inside the box, because GEOS drops points on the box's border.
            let side = half + units.tolerance() / 2.0;
            format!(
                "ST_ClipByBox2D({g}, ST_MakeEnvelope(-{side:?}, -{MAX_COORDINATE:?}, {side:?}, {MAX_COORDINATE:?}))"
            )
        }
    }
}

/// The columns with the west and east side of a row's own box, in the reference system of its column: see
/// [`raw_sides`].
const RAW_SIDES: [&str; 2] = ["raw_west", "raw_east"];

/// The west and east side of a row's own box, as columns next to its projected geometry; empty if no row is wrapped.
pub(crate) fn raw_sides(placement: Placement<'_>) -> String {
    if !placement.has_crossing_rows() {
        return String::new();
    }
    x_range(placement).iter().zip(RAW_SIDES).map(|(side, name)| format!(", {side} AS {name}")).collect()
}

/// The west and east side of a row's own box.
fn x_range(placement: Placement<'_>) -> [String; 2] {
    let g = placement.geometry();
    [format!("ST_XMin({g})"), format!("ST_XMax({g})")]
}

/// The condition that a box lies on both sides of 180° or of -180°, or begins there (a point at 180° itself is not
/// shifted). The box must also be narrower than the world by a fraction of at least 2^-20, so that its wrapped sides do
/// not meet in one world unit.
fn crosses([west, east]: &[String; 2], units: EdgeUnits) -> String {
    let (half, end) = (units.half_world(), units.half_world() + units.tolerance());
    let most = 2.0 * half * (1.0 - 2.0_f64.powi(-20));
    // Not `east - west`: the difference of the greatest numbers overflows, which is an error.
    format!(
        "({east} < {west} + {most:?} AND ({west} <= {half:?} AND {east} > {end:?} OR {west} < -{end:?} AND {east} >= -{half:?}))"
    )
}

/// The west and east side of a row in world units; `west` and `east` are the sides of its projected geometry. The
/// resulting west is greater than east for a row that was wrapped around ±180°.
pub(crate) fn wrapped_sides(placement: Placement<'_>, [west, east]: [String; 2]) -> [String; 2] {
    let Some(units) = placement.shape.edge.filter(|_| placement.has_crossing_rows()) else { return [west, east] };
    let (half, [raw_west, raw_east]) = (units.half_world(), RAW_SIDES);
    let crosses = crosses(&RAW_SIDES.map(str::to_owned), units);
    let scale = WORLD_UNITS as f64 / (2.0 * half);
    // A side at 180° itself lies in the last unit.
    let unit = |x: String| {
        format!(
            "least(floor((least(greatest({x}, -{half:?}), {half:?}) + {half:?}) * {scale:?})::int8, {})",
            WORLD_UNITS - 1
        )
    };
    let width = 2.0 * half;
    [
        (format!("CASE WHEN {raw_west} < -{half:?} THEN {raw_west} + {width:?} ELSE {raw_west} END"), west),
        (format!("CASE WHEN {raw_east} > {half:?} THEN {raw_east} - {width:?} ELSE {raw_east} END"), east),
    ]
    .map(|(wrapped, own)| format!("CASE WHEN {crosses} THEN {} ELSE {own} END", unit(wrapped)))
}

/// The west and east side of the box by which a row is searched, in the reference system of the column. `west` and
/// `east` are the sides of the row's own box. For a row that is wrapped, the result is where it is drawn; the [shifted
/// boxes](shifted_boxes) find the row there.
pub(crate) fn source_sides(placement: Placement<'_>, [west, east]: [&str; 2]) -> [String; 2] {
    let own = [west.to_owned(), east.to_owned()];
    let Some(units) = placement.shape.edge.filter(|_| placement.is_wrapped() && !placement.is_gathered()) else {
        return own;
    };
    let (half, width, crosses) = (units.half_world(), 2.0 * units.half_world(), crosses(&own, units));
    let end = half + units.tolerance();
    own.map(|side| {
        format!(
            "CASE WHEN {crosses} THEN CASE WHEN {side} > {half:?} THEN {side} - {width:?} WHEN {side} < -{half:?} THEN {side} + {width:?} ELSE {side} END
            WHEN {west} >= {half:?} AND {east} > {end:?} THEN {side} - {width:?}
            WHEN {east} <= -{half:?} AND {west} < -{end:?} THEN {side} + {width:?} ELSE {side} END"
        )
    })
}

/// The position of a row that crosses ±180° in a grid of cells: the middle of its own box, wrapped. The drawn geometry
/// is no help, because its box reaches around the world, so that the middle of that box is far away.
fn middle(placement: Placement<'_>, units: EdgeUnits, drawn: &str) -> String {
    let (half, [west, east]) = (units.half_world(), x_range(placement));
    let (middle, width) = (format!("(({west} + {east}) * 0.5)"), 2.0 * half);
    let metres = HALF_WORLD_METRES / half;
    format!(
        "ST_SetSRID(ST_MakePoint(
            (CASE WHEN {middle} > {half:?} THEN {middle} - {width:?} WHEN {middle} < -{half:?} THEN {middle} + {width:?} ELSE {middle} END) * {metres:?},
            (ST_YMin({drawn}) + ST_YMax({drawn})) * 0.5), 3857)"
    )
}

/// The boxes that contain the rows that are wrapped into the given box: the same box one world farther east, and one
/// world farther west. Empty if no row is wrapped. All boxes are in the reference system of the column; the sides are
/// SQL.
pub(crate) fn shifted_boxes(placement: Placement<'_>, [west, south, east, north]: [&str; 4]) -> Vec<String> {
    let Some(units) = placement.shape.edge.filter(|_| placement.is_wrapped()) else { return Vec::new() };
    let (srid, width) = (placement.shape.srid, 2.0 * units.half_world());
    let shifted = |sign: char| {
        format!(
            "ST_MakeEnvelope({west} {sign} {width:?}::float8, {south}, {east} {sign} {width:?}::float8, {north}, {srid})"
        )
    };
    vec![shifted('+'), shifted('-')]
}

/// Counts the rows that reach beyond ±180° and could be cut there. The result is one row: the count, and the keys of up
/// to three such rows. `relation` is the item of the FROM list. The parameters are the values of a query's
/// placeholders.
pub(crate) fn rows_beyond(layer: &Layer, units: EdgeUnits, relation: &str) -> String {
    // A row that is repaired may be drawn within ±180°, but not beyond unless it lies there.
    let placement = Placement { repair: false, ..layer.placement() };
    let (g, stored) = (placement.geometry(), placement.stored());
    // The index holds boxes of single precision, rounded outwards. If the near side is the next number of that
    // precision, rows that end at ±180° are not visited at all.
    let (near, far, srid) = (units.next_single(), "1e30", layer.shape.srid);
    let filter = super::filter(layer);
    // A column of the general type may hold other geometries than points, even if the layer's condition leaves them
    // out.
    let other = if layer.shape.points {
        format!("WHEN GeometryType({g}) NOT IN ('POINT', 'POINTM') THEN false ")
    } else {
        String::new()
    };
    format!(
        "SELECT count(*), (array_agg(key ORDER BY key))[1:3] FROM (
    SELECT {key} AS key FROM {relation}
    WHERE ({stored} && ST_MakeEnvelope({near:?}, -{far}, {far}, {far}, {srid}) OR {stored} && ST_MakeEnvelope(-{far}, -{far}, -{near:?}, {far}, {srid}))
        -- The layer's own condition is asked of rows beyond alone: of others it may raise an error.
        AND CASE {other}WHEN {} THEN false WHEN {} THEN true {filter} ELSE false END
) AS beyond",
        is_placeable(placement),
        can_be_cut(placement, units),
        key = super::key_text(layer),
    )
}

/// The most rows of which [`invalid_rows`] and [`large_rows`] count the vertices.
pub(crate) const MAX_COUNTED_VERTICES: u32 = 200_000;

/// The number of vertices from which on a polygon is checked wherever it is among these rows.
const MANY_VERTICES: u32 = 500;

/// The most polygons that are checked among those with many vertices, and again among the others.
const MAX_VALIDATED: u32 = 2_000;

/// Counts polygons that are not valid among the first rows. The result, `relation` and the parameters are those of
/// [`rows_beyond`].
pub(crate) fn invalid_rows(layer: &Layer, relation: &str) -> String {
    let looked_at = |condition: &str| {
        format!("(SELECT key, g FROM areas WHERE vertices {condition} {MANY_VERTICES} LIMIT {MAX_VALIDATED})")
    };
    format!(
        "SELECT count(*), (array_agg(key ORDER BY key))[1:3] FROM (
    WITH areas AS (
        SELECT key, g, ST_NPoints(g) AS vertices FROM (
            SELECT {key} AS key, {g} AS g FROM {relation} WHERE true {filter} LIMIT {MAX_COUNTED_VERTICES}
        ) AS first WHERE GeometryType(g) ~ '^(MULTI)?POLYGONM?$'
    )
    SELECT key FROM ({many} UNION ALL {others}) AS looked_at WHERE NOT ST_IsValid(g)
) AS invalid",
        key = super::key_text(layer),
        g = layer.placement().stored(),
        filter = super::filter(layer),
        many = looked_at(">="),
        others = looked_at("<"),
    )
}

/// Counts lines and polygons of at least `vertices` vertices among the first rows. The result, `relation` and the
/// parameters are those of [`rows_beyond`], but the keys stand with the numbers of vertices.
pub(crate) fn large_rows(layer: &Layer, relation: &str, vertices: u32) -> String {
    format!(
        "SELECT count(*), (array_agg(format('%s (%s vertices)', key, vertices) ORDER BY vertices DESC))[1:3] FROM (
    -- A stored vertex takes 16 bytes, and hardly ever less than 4 if it is compressed: smaller shapes are not read.
    SELECT key, CASE WHEN pg_column_size(g) >= 4 * {vertices} AND ST_Dimension(g) > 0 THEN ST_NPoints(g) END AS vertices FROM (
        SELECT {key} AS key, {g} AS g FROM {relation} WHERE true {filter} LIMIT {MAX_COUNTED_VERTICES}
    ) AS first
) AS sized WHERE vertices >= {vertices}",
        key = super::key_text(layer),
        g = layer.placement().stored(),
        filter = super::filter(layer),
    )
}

/// Counts the rows with two neighbouring vertices on different sides of ±180° and most of the world between them. The
/// result is one row: the count, and the keys of up to three such rows. An edge from one end of the world to the other,
/// as boxes and the shores of Antarctica have, counts only in a part that is not valid; the function `jumps` of
/// docs/world-edge.md has the same rule. `relation` and the parameters are those of [`rows_beyond`].
pub(crate) fn rows_that_jump(layer: &Layer, units: EdgeUnits, relation: &str) -> String {
    let (g, srid, near) = (layer.placement().stored(), layer.shape.srid, units.half_world() / 2.0);
    // The index serves both conditions, and few rows lie on both sides.
    format!(
        "SELECT count(*), (array_agg(key ORDER BY key))[1:3] FROM (
    SELECT {key} AS key FROM {relation}
    WHERE {g} && ST_MakeEnvelope(-1e30, -1e30, -{near:?}, 1e30, {srid}) AND {g} && ST_MakeEnvelope({near:?}, -1e30, 1e30, 1e30, {srid})
        AND CASE WHEN {jumps} THEN true {filter} ELSE false END
) AS jumping",
        key = super::key_text(layer),
        jumps = super::repair::jumps(&g, units),
        filter = super::filter(layer),
    )
}
