//! The edge of the world at ±180°: which rows are drawn as they are, and what is drawn of those that reach beyond it.
//!
//! A row within the tolerance of ±180° is drawn as `ST_Transform` gives it. Any other row is cut and shifted, or clipped, in the
//! reference system of its column, before it is transformed: PROJ wraps each coordinate by itself, which spreads a polygon over
//! the whole world. All of that stands behind a `CASE`, so that rows inside the world do not pay for it.

use super::geometry;
use crate::postgis::layer::{Beyond, EdgeUnits, Layer, MAX_WRAPPED_HALVES};
use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

/// Latitude, in degrees, up to which points are transformed at all; the world ends at 85.0511°.
const LATITUDE_LIMIT: f64 = 85.06;

/// Farther than this, in the units of any reference system, no coordinate is transformed.
const MAX_COORDINATE: f64 = 1e9;

/// Types of geometry that MVT has no place for: `ST_AsMVTGeom` raises an error, or drops all other parts of a collection.
pub(in crate::postgis) const SURFACES: [&str; 3] = ["TIN", "TRIANGLE", "POLYHEDRALSURFACE"];

/// Whether a row's coordinates can be transformed: finite, inside the reference system, and not beyond ±180°. `ST_Transform`
/// raises an error on coordinates that PROJ refuses, turns longitude 190 into -170, and lets NaN pass. Never true for NULL or empty.
pub(in crate::postgis) fn is_placeable(layer: &Layer) -> String {
    // A geography lies within ±180° by itself, but is held to the same bound.
    let units = layer.shape.edge.or_else(|| (layer.shape.srid == 4326).then_some(EdgeUnits::Degrees));
    is_within(layer, units.map_or(MAX_COORDINATE, |units| units.half() + units.tolerance()))
}

/// Whether a row that is not placeable can be cut at ±180°.
pub(in crate::postgis) fn can_be_cut(layer: &Layer, units: EdgeUnits) -> String {
    // A clipped row may reach as far as it likes; a wrapped one is shifted once.
    is_within(
        layer,
        if layer.beyond == Beyond::Wrap {
            MAX_WRAPPED_HALVES * units.half() + units.tolerance()
        } else {
            MAX_COORDINATE
        },
    )
}

/// Whether the coordinates of a row are finite, at most so far from the prime meridian, and in the reference system, and its
/// type is one that tiles can hold.
fn is_within(layer: &Layer, far: f64) -> String {
    let g = geometry(layer);
    // Of a query that gives other rows at each zoom nobody has looked at all.
    let own = if layer.asks_each_zoom() { format!("ST_SRID({g}) = {} AND ", layer.shape.srid) } else { String::new() };
    let in_degrees = layer.shape.srid == 4326 || layer.shape.edge == Some(EdgeUnits::Degrees);
    let high = match (in_degrees, layer.shape.points) {
        (true, true) => LATITUDE_LIMIT,
        (true, false) => 90.0,
        (false, _) => MAX_COORDINATE,
    };
    // NaN counts as greater than every number here, so that BETWEEN refuses it.
    if layer.shape.points {
        return format!("{own}ST_X({g}) BETWEEN -{far:?} AND {far:?} AND ST_Y({g}) BETWEEN -{high:?} AND {high:?}");
    }
    let types = SURFACES.map(|name| format!("'{name}'")).join(", ");
    let types = if layer.shape.curves {
        format!("\n            AND GeometryType({g}) NOT IN ({types})")
    } else {
        String::new()
    };
    // A NaN inside a line does not show in its box, but in its length; among several points it shows in the text only.
    format!(
        "{own}ST_XMin({g}) >= -{far:?} AND ST_XMax({g}) <= {far:?} AND ST_YMin({g}) >= -{high:?} AND ST_YMax({g}) <= {high:?}{types}
            AND ST_Length({g}) + ST_Perimeter({g}) < 'Infinity'
            AND NOT (GeometryType({g}) IN ('MULTIPOINT', 'GEOMETRYCOLLECTION') AND ST_AsText(ST_Force2D({g})) ~* 'nan|inf|{}')",
        SURFACES.join("|")
    )
}

/// The row's geometry in EPSG:3857; NULL if it cannot be placed.
pub(in crate::postgis) fn projected(layer: &Layer) -> String {
    let g = without_curves(layer);
    let mut cases = format!("WHEN {} THEN {}", is_placeable(layer), transformed(layer, &g, 3857));
    if let Some(units) = cutting(layer) {
        let mut drawn = transformed(layer, &cut(layer, units, &g), 3857);
        if layer.cells.is_some() && !layer.shape.points && layer.beyond == Beyond::Wrap {
            drawn = format!(
                "CASE WHEN {} THEN {} ELSE {drawn} END",
                crosses(&sides(layer), units),
                middle(layer, units, &drawn)
            );
        }
        cases.push_str(&format!("\n            WHEN {} THEN {drawn}", can_be_cut(layer, units)));
    }
    format!("CASE {cases} END")
}

/// The row's geometry in EPSG:4326, as [`projected`] has it in EPSG:3857; not NULL for some rows that cannot be placed.
pub(in crate::postgis) fn lonlat(layer: &Layer) -> String {
    let g = without_curves(layer);
    let own = transformed(layer, &g, 4326);
    // Nothing to work out, and nobody beyond the edge: rows that cannot be placed are dropped by their place in metres.
    if layer.shape.srid == 4326 && !layer.reaches_beyond {
        return own;
    }
    let mut cases = format!("WHEN {} THEN {own}", is_placeable(layer));
    if let Some(units) = cutting(layer) {
        let drawn = transformed(layer, &cut(layer, units, &g), 4326);
        cases.push_str(&format!("\n            WHEN {} THEN {drawn}", can_be_cut(layer, units)));
    }
    format!("CASE {cases} END")
}

/// The geometry of a row without curves: `ST_AsMVTGeom` knows none.
fn without_curves(layer: &Layer) -> String {
    let g = geometry(layer);
    if layer.shape.curves { format!("ST_CurveToLine({g})") } else { g }
}

fn transformed(layer: &Layer, g: &str, srid: i32) -> String {
    if layer.shape.srid == srid { g.to_owned() } else { format!("ST_Transform({g}, {srid})") }
}

/// The units of the column, if rows beyond ±180° are cut.
fn cutting(layer: &Layer) -> Option<EdgeUnits> {
    layer.shape.edge.filter(|_| layer.beyond != Beyond::Skip)
}

/// A geometry cut at ±180°, in the reference system of its column: as the manual documents it (docs/world-edge.md).
fn cut(layer: &Layer, units: EdgeUnits, g: &str) -> String {
    let own = match layer.beyond {
        Beyond::Wrap => format!("ST_SnapToGrid(ST_Force2D({g}), {:?}, 0)", units.snap()),
        Beyond::Clip | Beyond::Skip => format!("ST_Force2D({g})"),
    };
    if layer.shape.points {
        return cut_at_edge(layer.beyond, units, &own);
    }
    // Polygons have to be valid to be cut, and pieces that come to lie on each other would cancel each other out when drawn.
    let areas = cut_at_edge(layer.beyond, units, &format!("ST_CollectionExtract(ST_MakeValid({own}), 3)"));
    format!(
        "CASE WHEN ST_Dimension({g}) = 2 THEN ST_UnaryUnion(ST_CollectionExtract({areas}, 3)) ELSE {} END",
        cut_at_edge(layer.beyond, units, &own)
    )
}

fn cut_at_edge(beyond: Beyond, units: EdgeUnits, g: &str) -> String {
    let half = units.half();
    match beyond {
        Beyond::Wrap => {
            let width = 2.0 * half;
            format!("ST_WrapX(ST_WrapX({g}, {half:?}, -{width:?}), -{half:?}, {width:?})")
        }
        Beyond::Clip | Beyond::Skip => {
            // The edge itself lies inside of the box: GEOS drops points on its border.
            let side = half + units.tolerance() / 2.0;
            format!(
                "ST_ClipByBox2D({g}, ST_MakeEnvelope(-{side:?}, -{MAX_COORDINATE:?}, {side:?}, {MAX_COORDINATE:?}))"
            )
        }
    }
}

/// The ends along x of a row's own box, as columns: [`raw_sides`] gives them.
const RAW_SIDES: [&str; 2] = ["raw_west", "raw_east"];

/// The ends along x of a row's own box, to stand beside its projected geometry; nothing where no row is wrapped.
pub(in crate::postgis) fn raw_sides(layer: &Layer) -> String {
    if !layer.has_crossing_rows() {
        return String::new();
    }
    sides(layer).iter().zip(RAW_SIDES).map(|(side, name)| format!(", {side} AS {name}")).collect()
}

fn sides(layer: &Layer) -> [String; 2] {
    let g = geometry(layer);
    [format!("ST_XMin({g})"), format!("ST_XMax({g})")]
}

/// Whether a box lies on both sides of 180° or of -180°, or begins at it (a point at 180° itself is not shifted), and leaves a part of the world free between its wrapped ends: a fraction
/// of 2^-20 at least, so that the ends do not meet in one world unit.
fn crosses([west, east]: &[String; 2], units: EdgeUnits) -> String {
    let (half, end) = (units.half(), units.half() + units.tolerance());
    let most = 2.0 * half * (1.0 - 2.0_f64.powi(-20));
    format!(
        "({east} - {west} < {most:?} AND ({west} <= {half:?} AND {east} > {end:?} OR {west} < -{end:?} AND {east} >= -{half:?}))"
    )
}

/// The west and east column of a row's place in world units, where those of its projected geometry are `west` and `east`. West
/// is greater than east for a row that was wrapped around ±180°.
pub(in crate::postgis) fn wrapped_sides(layer: &Layer, [west, east]: [String; 2]) -> [String; 2] {
    let Some(units) = layer.shape.edge.filter(|_| layer.has_crossing_rows()) else { return [west, east] };
    let (half, [raw_west, raw_east]) = (units.half(), RAW_SIDES);
    let crosses = crosses(&RAW_SIDES.map(str::to_owned), units);
    #[expect(clippy::cast_precision_loss, reason = "2^32 is exact in a double")]
    let scale = WORLD_UNITS as f64 / (2.0 * half);
    // An end at 180° itself lies in the last unit.
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

/// The ends along x of the box by which a row is looked for, from those of its own box: as the row is wrapped, in the reference
/// system of the column. The [shifted boxes](shifted_boxes) find it.
pub(in crate::postgis) fn source_sides(layer: &Layer, [west, east]: [&str; 2]) -> [String; 2] {
    let own = [west.to_owned(), east.to_owned()];
    let Some(units) = layer.shape.edge.filter(|_| layer.is_wrapped() && layer.cells.is_none()) else { return own };
    let (half, width, crosses) = (units.half(), 2.0 * units.half(), crosses(&own, units));
    let end = half + units.tolerance();
    own.map(|side| {
        format!(
            "CASE WHEN {crosses} THEN CASE WHEN {side} > {half:?} THEN {side} - {width:?} WHEN {side} < -{half:?} THEN {side} + {width:?} ELSE {side} END
            WHEN {west} >= {half:?} AND {east} > {end:?} THEN {side} - {width:?}
            WHEN {east} <= -{half:?} AND {west} < -{end:?} THEN {side} + {width:?} ELSE {side} END"
        )
    })
}

/// Where a row that crosses ±180° counts in a grid of cells: in the middle of its own box, wrapped. The box of what is drawn
/// reaches around the world, and its middle is nowhere near.
fn middle(layer: &Layer, units: EdgeUnits, drawn: &str) -> String {
    let (half, [west, east]) = (units.half(), sides(layer));
    let (middle, width) = (format!("(({west} + {east}) * 0.5)"), 2.0 * half);
    let metres = HALF_WORLD_METRES / half;
    format!(
        "ST_SetSRID(ST_MakePoint(
            (CASE WHEN {middle} > {half:?} THEN {middle} - {width:?} WHEN {middle} < -{half:?} THEN {middle} + {width:?} ELSE {middle} END) * {metres:?},
            (ST_YMin({drawn}) + ST_YMax({drawn})) * 0.5), 3857)"
    )
}

/// The boxes, in the reference system of the column, in which wrapped rows lie that show in a box there: the same box one world
/// farther east and west. The ends of the box are given as SQL.
pub(in crate::postgis) fn shifted_boxes(layer: &Layer, [west, south, east, north]: [&str; 4]) -> Vec<String> {
    let Some(units) = layer.shape.edge.filter(|_| layer.is_wrapped()) else { return Vec::new() };
    let (srid, width) = (layer.shape.srid, 2.0 * units.half());
    let shifted = |sign: char| {
        format!(
            "ST_MakeEnvelope({west} {sign} {width:?}::float8, {south}, {east} {sign} {width:?}::float8, {north}, {srid})"
        )
    };
    vec![shifted('+'), shifted('-')]
}

/// How many rows reach beyond ±180° and could be cut there, and the keys of a few: count, examples. One row. The
/// parameters are the values of a query's placeholders.
pub(in crate::postgis) fn beyond(layer: &Layer, units: EdgeUnits, relation: &str) -> String {
    let g = geometry(layer);
    // The index holds boxes of single precision, rounded outwards: with the next number of that precision as the nearer side, rows that
    // end at ±180° are not even looked at.
    let (near, far, srid) = (units.next_single(), "1e30", layer.shape.srid);
    let filter = super::filter(layer);
    format!(
        "SELECT count(*), (array_agg(key ORDER BY key))[1:3] FROM (
    SELECT {key} AS key FROM {relation}
    WHERE ({g} && ST_MakeEnvelope({near:?}, -{far}, {far}, {far}, {srid}) OR {g} && ST_MakeEnvelope(-{far}, -{far}, -{near:?}, {far}, {srid}))
        -- The layer's own condition is asked of rows beyond alone: of others it may raise an error.
        AND CASE WHEN {} THEN false WHEN {} THEN true {filter} ELSE false END
) AS beyond",
        is_placeable(layer),
        can_be_cut(layer, units),
        key = super::key_text(layer),
    )
}
