//! Covers: what the change log holds of large geometries (`changes/install/trigger/shape.rs`). A cover is a collection of three geometries: a shape
//! with fewer vertices; a line from `0 0` to `r 0`, where no position of the geometry is farther from the shape than `r`; and the geometry's box. In
//! EPSG:4326 and 3857 a closed formula converts `r` to world units. In any other system `r` is 0 if there is no such shape, and covers are read by
//! [`covers`].

use super::edge::is_placeable;
use crate::postgis::layer::{EdgeUnits, Placement};

/// The column, next to the geometry, that holds `r`; NULL for a geometry that is no cover.
pub(super) const FAR: &str = "oar_tiles_far";

/// The number of parts into which a side of a box is divided; the positions between the parts are transformed.
const PARTS_OF_SIDE: u32 = 64;

/// The margin, in degrees, that is added to the box of a cover. It is ample: in EPSG:3857, parallels of another datum are bent by far less.
const BOX_MARGIN_DEGREES: f64 = 0.05;

/// The condition that a geometry is a cover in EPSG:4326 or 3857. The log holds no other collection in these two systems.
fn is_cover(place: &str) -> String {
    format!(
        "CASE WHEN GeometryType({place}) = 'GEOMETRYCOLLECTION' AND ST_SRID({place}) IN (4326, 3857)
            THEN ST_NumGeometries({place}) = 3 AND ST_AsText(ST_StartPoint(ST_GeometryN({place}, 2))) = 'POINT(0 0)' ELSE false END"
    )
}

/// The condition that a geometry is a cover in another reference system, or in none. The triggers wrap any other collection of three geometries, so
/// that it cannot be mistaken for a cover.
fn is_other_cover(place: &str) -> String {
    let [line, bounds] = [2, 3].map(|part| format!("ST_GeometryN({place}, {part})"));
    // The box is compared because the triggers of older logs did not wrap collections.
    format!(
        "CASE WHEN ST_SRID({place}) IN (4326, 3857) OR GeometryType({place}) <> 'GEOMETRYCOLLECTION' THEN false
            WHEN ST_NumGeometries({place}) <> 3 THEN false
            ELSE ST_AsText({line}) ~ '^LINESTRING[(]0 0, ?[0-9.e+-]+ 0[)]$' AND ST_AsBinary(ST_Envelope({bounds})) = ST_AsBinary({bounds}) END"
    )
}

/// A relation with a column of geometries, as an item of a FROM list. Covers in other systems than EPSG:4326 and 3857 are left out. Covers in these
/// two are replaced: with `shapes` by their shapes, with a further column [`FAR`]; without `shapes` by their boxes.
pub(in crate::postgis) fn without_covers(relation: &str, column: &str, shapes: bool) -> String {
    let place = format!("{column}::geometry");
    let is_cover = is_cover(&place);
    let (part, far) = if shapes {
        (1, format!(", CASE WHEN {is_cover} THEN ST_X(ST_EndPoint(ST_GeometryN({place}, 2))) END AS {FAR}"))
    } else {
        (3, String::new())
    };
    format!(
        "(SELECT CASE WHEN {is_cover} THEN ST_GeometryN({place}, {part}) ELSE {place} END AS {column}{far} FROM {relation} WHERE NOT {} OFFSET 0) AS taken_apart",
        is_other_cover(&place)
    )
}

/// The reference systems of the covers that [`covers`] reads; 0 means "no system". Systems that the database does not know are left out, because
/// PostGIS cannot have drawn a feature in them.
pub(in crate::postgis) fn systems_of_covers(relation: &str, column: &str) -> String {
    let place = format!("{column}::geometry");
    format!(
        "SELECT srid FROM (SELECT DISTINCT ST_SRID({place}) AS srid FROM {relation} WHERE {}) AS systems
WHERE srid = 0 OR EXISTS (SELECT FROM spatial_ref_sys AS known WHERE known.srid = systems.srid) ORDER BY srid",
        is_other_cover(&place)
    )
}

/// The covers of one reference system, `srid`; with `with_unknown`, also those with SRID 0, as if they were in it. An item of a FROM list with the
/// columns `shape`, `r` and `box`.
fn of_system(relation: &str, column: &str, srid: i32, with_unknown: bool) -> String {
    let systems = if with_unknown { format!("0, {srid}") } else { srid.to_string() };
    format!(
        "(SELECT ST_SetSRID(ST_GeometryN(place, 1), {srid}) AS shape, ST_X(ST_EndPoint(ST_GeometryN(place, 2))) AS r, ST_SetSRID(ST_GeometryN(place, 3), {srid}) AS box
        FROM (SELECT {column}::geometry AS place FROM {relation} WHERE ST_SRID({column}::geometry) IN ({systems}) OFFSET 0) AS in_system
        WHERE {} OFFSET 0) AS cover",
        is_other_cover("place")
    )
}

/// Where the covers of a reference system lie that is neither EPSG:4326 nor 3857, as columns of WKB in EPSG:3857:
///
/// - With `with_shapes`: the shape, its positions, and its positions moved by `r` times the square root of two to the east, west, north and south.
///   All are NULL for a cover without a shape, or if a position would be moved beyond the end of the system.
/// - Positions along the sides of the box, at most one [part](PARTS_OF_SIDE) of a side apart.
///
/// Only covers whose box can be transformed as it is are returned. `ST_Transform` may still raise an error, because these positions are not those of
/// the geometry; the caller expects that.
pub(in crate::postgis) fn covers(
    placement: Placement<'_>,
    relation: &str,
    column: &str,
    with_unknown: bool,
    with_shapes: bool,
) -> String {
    let covers = of_system(relation, column, placement.shape.srid, with_unknown);
    let own = Placement { column: "box", srid_varies: false, ..placement };
    let metres = |positions: &str| format!("ST_AsBinary(ST_Transform({positions}, 3857), 'NDR')");
    let shapes: String = if with_shapes {
        let moved = [("step", "0"), ("-step", "0"), ("0", "step"), ("0", "-step")];
        let moved = moved.map(|(x, y)| format!("ST_Translate(points, {x}, {y})"));
        let columns = ["shape".to_owned(), "points".to_owned()].into_iter().chain(moved);
        columns.map(|positions| format!("CASE WHEN is_moved THEN {} END, ", metres(&positions))).collect()
    } else {
        String::new()
    };
    let inside = placement.shape.edge.map_or_else(String::new, |units| {
        let high = if units == EdgeUnits::Degrees { "90".to_owned() } else { "1e9".to_owned() };
        let half = units.half_world();
        format!(
            " AND ST_XMin(box) - step >= -{half:?} AND ST_XMax(box) + step <= {half:?} AND ST_YMin(box) - step >= -{high} AND ST_YMax(box) + step <= {high}"
        )
    });
    let part = format!(
        "coalesce(nullif(greatest(ST_XMax(box) - ST_XMin(box), ST_YMax(box) - ST_YMin(box)) / {PARTS_OF_SIDE}, 0), 1)"
    );
    format!(
        "SELECT {shapes}{}
FROM (
    SELECT *, ST_Points(shape) AS points, r > 0{inside} AS is_moved
    FROM (SELECT *, r * sqrt(2) AS step FROM {covers} WHERE {} OFFSET 0) AS placeable
    OFFSET 0
) AS measured",
        metres(&format!("ST_Points(ST_Segmentize(box, {part}))")),
        is_placeable(own),
    )
}

/// The boxes of the covers that [`covers`] leaves out, as a relation with the columns `box` and [`FAR`]. In a system that ends at ±180°, a box that
/// reaches beyond is cut there.
pub(in crate::postgis) fn boxes_beyond(
    placement: Placement<'_>,
    relation: &str,
    column: &str,
    with_unknown: bool,
) -> String {
    let covers = of_system(relation, column, placement.shape.srid, with_unknown);
    let own = Placement { column: "box", srid_varies: false, ..placement };
    format!(
        "(SELECT box, {BOX_MARGIN_DEGREES:?}::float8 AS {FAR} FROM {covers} WHERE NOT ({}) OFFSET 0) AS beyond",
        is_placeable(own)
    )
}
