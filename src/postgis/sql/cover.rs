//! Covers: what the change log holds of large lines and polygons in EPSG:4326 or 3857 (`changes/install/trigger/shape.rs`). A cover is a
//! collection of three: a shape of fewer vertices; a line from `0 0` to `r 0`, where no position of the geometry is farther from the shape than `r`;
//! and the geometry's box.

/// The column beside the geometry that holds `r`; NULL for a geometry that is no cover.
pub(super) const FAR: &str = "oar_tiles_far";

/// Whether a geometry is a cover. The log holds no other collection in these two systems.
fn is_cover(place: &str) -> String {
    format!(
        "CASE WHEN GeometryType({place}) = 'GEOMETRYCOLLECTION' AND ST_SRID({place}) IN (4326, 3857)
            THEN ST_NumGeometries({place}) = 3 AND ST_AsText(ST_StartPoint(ST_GeometryN({place}, 2))) = 'POINT(0 0)' ELSE false END"
    )
}

/// A relation with a column of geometries, an item of a FROM list, whose covers are taken apart: into their shapes, with a further column [`FAR`], or,
/// without `shapes`, into their boxes.
pub(in crate::postgis) fn without_covers(relation: &str, column: &str, shapes: bool) -> String {
    let place = format!("{column}::geometry");
    let is_cover = is_cover(&place);
    let (part, far) = if shapes {
        (1, format!(", CASE WHEN {is_cover} THEN ST_X(ST_EndPoint(ST_GeometryN({place}, 2))) END AS {FAR}"))
    } else {
        (3, String::new())
    };
    format!(
        "(SELECT CASE WHEN {is_cover} THEN ST_GeometryN({place}, {part}) ELSE {place} END AS {column}{far} FROM {relation} OFFSET 0) AS taken_apart"
    )
}
