//! What is logged of a line or polygon: its shape, a cover, or its box.

use crate::tile::HALF_WORLD_METRES;

/// The most bytes of a geometry that is logged as it is. Of a larger one a cover is logged.
const MAX_SHAPE_BYTES: u32 = 32 << 10;

/// The most bytes of the shape in a cover. Of a geometry without such a cover its box is logged.
const MAX_COVER_BYTES: u32 = 24 << 10;

/// A cover leaves out vertices that lie within this part of the geometry's width or height of the vertex before them; the second part, if the first
/// one leaves too many.
const COVER_PARTS: [u32; 2] = [256, 64];

/// SQL for the shape of a line or polygon `g`, if it is small; for the cover of a large one; else its box. NULL if it is empty. Nothing here raises an
/// error, whether the geometry is valid or not.
pub(super) fn shape_or_box(postgis: &str, g: &str) -> String {
    let linear = format!("{postgis}.GeometryType({g}) IN ('LINESTRING', 'POLYGON', 'MULTILINESTRING', 'MULTIPOLYGON')");
    // The first size is known without reading the geometry, but may be that of compressed bytes.
    format!(
        "CASE WHEN {linear} AND (pg_column_size({g}) > {MAX_SHAPE_BYTES} OR {postgis}.ST_MemSize({g}) > {MAX_SHAPE_BYTES}) THEN {}
            WHEN {postgis}.ST_IsEmpty({g}) THEN NULL
            WHEN {linear} THEN {g}
            ELSE {postgis}.ST_Envelope({g}) END",
        cover(postgis, g)
    )
}

/// SQL for the cover of a large line or polygon `g` in EPSG:4326 or 3857: a collection of a shape of fewer vertices, a line `0 0, r 0`, and the box of
/// `g`. No position of `g` is farther from the shape than `r`, on which `postgis/sql/cover.rs` depends. The box alone if there is no
/// such shape, or if `g` reaches beyond the world, where its vertices are moved before it is drawn. Each large value is read twice.
///
/// `ST_RemoveRepeatedPoints` (`ptarray_remove_repeated_points_in_place`) leaves out a vertex that lies within a distance of the last one that it kept, and
/// that one for the end of the line: so each vertex lies within twice the distance of the vertex that stands for it, each edge within that of the
/// edge between these, and so does what is inside of one ring and not of the other. No ring is left out.
fn cover(postgis: &str, g: &str) -> String {
    let [fine, coarse] = COVER_PARTS;
    let made = |shape: &str, far: &str| {
        format!(
            "{postgis}.ST_Collect(ARRAY[{postgis}.ST_Force2D({shape}), {postgis}.ST_SetSRID({postgis}.ST_MakeLine({postgis}.ST_MakePoint(0, 0), {postgis}.ST_MakePoint({far}, 0)), {postgis}.ST_SRID(box)), box])"
        )
    };
    let side = |end: &str| format!("{postgis}.ST_{end}(box)");
    let within = |low: &str, high: &str, degrees: u8| {
        let limit = format!("CASE {postgis}.ST_SRID(box) WHEN 3857 THEN {HALF_WORLD_METRES:?} ELSE {degrees} END");
        format!("{} >= -({limit}) AND {} <= {limit}", side(low), side(high))
    };
    format!(
        "(SELECT CASE
                WHEN {postgis}.ST_IsEmpty(box) THEN NULL
                WHEN {x} AND {y} THEN coalesce((
                    SELECT CASE WHEN {postgis}.ST_MemSize(fine) <= {MAX_COVER_BYTES} THEN {finely} ELSE (
                        SELECT CASE WHEN {postgis}.ST_MemSize(coarse) <= {MAX_COVER_BYTES} THEN {coarsely} END
                        FROM (SELECT {postgis}.ST_RemoveRepeatedPoints(fine, size / {coarse}) AS coarse OFFSET 0) AS reduced) END
                    FROM (SELECT {postgis}.ST_RemoveRepeatedPoints({g}, size / {fine}) AS fine OFFSET 0) AS reduced), box)
                ELSE box END
            FROM (SELECT box, greatest({} - {}, {} - {}) AS size
                FROM (SELECT {postgis}.ST_Envelope({g}) AS box OFFSET 0) AS boxed OFFSET 0) AS boxed)",
        side("XMax"),
        side("XMin"),
        side("YMax"),
        side("YMin"),
        x = within("XMin", "XMax", 180),
        y = within("YMin", "YMax", 85),
        finely = made("fine", &format!("2 * size / {fine}")),
        coarsely = made("coarse", &format!("2 * size / {fine} + 2 * size / {coarse}")),
    )
}
