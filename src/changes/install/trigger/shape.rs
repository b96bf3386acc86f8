//! What is logged of a line or polygon: its shape, a cover, or its box.

use crate::tile::HALF_WORLD_METRES;

/// The most bytes of a geometry that is logged as it is. Of a larger one a cover is logged.
const MAX_SHAPE_BYTES: u32 = 32 << 10;

/// The most bytes of the shape in a cover. Of a geometry without such a cover its box is logged.
const MAX_COVER_BYTES: u32 = 24 << 10;

/// A cover leaves out vertices that lie within this part of the geometry's width or height of the vertex before them; the second part, if the first
/// one leaves too many.
const COVER_PARTS: [u32; 2] = [256, 64];

/// The greatest coordinate, in the units of any reference system, of a geometry that has a cover. One beyond it is never drawn
/// (`MAX_COORDINATE` in `postgis/sql/edge.rs`).
const MAX_COVERED_COORDINATE: &str = "1e9";

/// SQL for whether a geometry is logged by a cover. The first size is known without reading the geometry, but may be that of compressed bytes.
fn is_large(postgis: &str, g: &str) -> String {
    format!("(pg_column_size({g}) > {MAX_SHAPE_BYTES} OR {postgis}.ST_MemSize({g}) > {MAX_SHAPE_BYTES})")
}

/// SQL for whether a geometry has straight edges and is neither a point nor a collection.
fn is_linear(postgis: &str, g: &str) -> String {
    format!("{postgis}.GeometryType({g}) IN ('LINESTRING', 'POLYGON', 'MULTILINESTRING', 'MULTIPOLYGON')")
}

/// SQL for the shape of a line or polygon `g` in EPSG:4326 or 3857, if it is small; for the cover of a large one; else its box. NULL if it is empty.
/// Nothing here raises an error, whether the geometry is valid or not.
pub(super) fn shape_or_box(postgis: &str, g: &str) -> String {
    let (linear, large) = (is_linear(postgis, g), is_large(postgis, g));
    format!(
        "CASE WHEN {linear} AND {large} THEN {}
            WHEN {postgis}.ST_IsEmpty({g}) THEN NULL
            WHEN {linear} THEN {g}
            ELSE {postgis}.ST_Envelope({g}) END",
        CoverSql { postgis, g, alone: "box", within: &in_the_world(postgis) }.sql()
    )
}

/// SQL for a geometry `g` in any other reference system, if it is small; for the cover of a large one, or, without `with_shapes`, its box. NULL if it
/// is empty. Nothing here raises an error, so nothing is transformed.
///
/// What a box is in EPSG:3857 depends on how its sides are bent there: so a box is logged as a cover, too, whose shape is the box and whose `r` is 0. A
/// collection of three is wrapped in another one: it might look like a cover.
pub(super) fn whole_or_cover(postgis: &str, g: &str, with_shapes: bool) -> String {
    let alone = as_cover(postgis, "box", "0");
    let within = format!(
        "{postgis}.ST_XMin(box) >= -{MAX_COVERED_COORDINATE} AND {postgis}.ST_XMax(box) <= {MAX_COVERED_COORDINATE} AND {postgis}.ST_YMin(box) >= -{MAX_COVERED_COORDINATE} AND {postgis}.ST_YMax(box) <= {MAX_COVERED_COORDINATE} AND {}",
        is_linear(postgis, g)
    );
    let within = if with_shapes { within } else { "false".to_owned() };
    format!(
        "CASE WHEN {} THEN {}
            WHEN {postgis}.ST_IsEmpty({g}) THEN NULL
            WHEN {postgis}.GeometryType({g}) = 'GEOMETRYCOLLECTION' AND {postgis}.ST_NumGeometries({g}) = 3 THEN {postgis}.ST_Collect(ARRAY[{g}])
            ELSE {g} END",
        is_large(postgis, g),
        CoverSql { postgis, g, alone: &alone, within: &within }.sql()
    )
}

/// SQL for whether `box` lies inside the world of EPSG:4326 or 3857. The vertices of a geometry beyond are moved before it is drawn.
fn in_the_world(postgis: &str) -> String {
    let within = |low: &str, high: &str, degrees: u8| {
        let limit = format!("CASE {postgis}.ST_SRID(box) WHEN 3857 THEN {HALF_WORLD_METRES:?} ELSE {degrees} END");
        format!("{postgis}.ST_{low}(box) >= -({limit}) AND {postgis}.ST_{high}(box) <= {limit}")
    };
    format!("{} AND {}", within("XMin", "XMax", 180), within("YMin", "YMax", 85))
}

/// SQL for a cover: a collection of a shape of fewer vertices, a line `0 0, r 0`, and `box`, the box of the geometry.
fn as_cover(postgis: &str, shape: &str, far: &str) -> String {
    format!(
        "{postgis}.ST_Collect(ARRAY[{postgis}.ST_Force2D({shape}), {postgis}.ST_SetSRID({postgis}.ST_MakeLine({postgis}.ST_MakePoint(0, 0), {postgis}.ST_MakePoint({far}, 0)), {postgis}.ST_SRID(box)), box])"
    )
}

/// The cover of a large geometry.
struct CoverSql<'a> {
    /// The schema of PostGIS, quoted.
    postgis: &'a str,
    /// The geometry.
    g: &'a str,
    /// What is logged without a shape, over `box`.
    alone: &'a str,
    /// SQL for whether there may be a shape, over `box`: false for coordinates that are not finite.
    within: &'a str,
}

impl CoverSql<'_> {
    /// SQL for the cover of a large line or polygon. No position of the geometry is farther from the shape than `r`, on which
    /// `postgis/sql/cover.rs` depends. Each large value is read twice.
    ///
    /// `ST_RemoveRepeatedPoints` (`ptarray_remove_repeated_points_in_place`) leaves out a vertex that lies within a distance of the last one that it
    /// kept, and that one for the end of the line: so each vertex lies within twice the distance of the vertex that stands for it, each edge within
    /// that of the edge between these, and so does what is inside of one ring and not of the other. No ring is left out.
    fn sql(&self) -> String {
        let [fine, coarse] = COVER_PARTS;
        let CoverSql { postgis, g, alone, within } = self;
        let side = |end: &str| format!("{postgis}.ST_{end}(box)");
        // The size is computed for coordinates that were compared: the difference of others may overflow, which is an error.
        format!(
            "(SELECT CASE
                WHEN {postgis}.ST_IsEmpty(box) THEN NULL
                WHEN {within} THEN coalesce((
                    SELECT CASE WHEN {postgis}.ST_MemSize(fine) <= {MAX_COVER_BYTES} THEN {finely} ELSE (
                        SELECT CASE WHEN {postgis}.ST_MemSize(coarse) <= {MAX_COVER_BYTES} THEN {coarsely} END
                        FROM (SELECT {postgis}.ST_RemoveRepeatedPoints(fine, size / {coarse}) AS coarse OFFSET 0) AS reduced) END
                    FROM (SELECT size, {postgis}.ST_RemoveRepeatedPoints({g}, size / {fine}) AS fine
                        FROM (SELECT greatest({} - {}, {} - {}) AS size OFFSET 0) AS sized OFFSET 0) AS reduced), {alone})
                ELSE {alone} END
            FROM (SELECT {postgis}.ST_Envelope({g}) AS box OFFSET 0) AS boxed)",
            side("XMax"),
            side("XMin"),
            side("YMax"),
            side("YMin"),
            finely = as_cover(postgis, "fine", &format!("2 * size / {fine}")),
            coarsely = as_cover(postgis, "coarse", &format!("2 * size / {fine} + 2 * size / {coarse}")),
        )
    }
}
