//! What is logged for a line or polygon: its shape, a cover, or its box.

use crate::tile::HALF_WORLD_METRES;

/// The most bytes of a geometry that is logged as it is. For a larger one, a cover is logged.
const MAX_SHAPE_BYTES: u32 = 32 << 10;

/// The most bytes of the shape in a cover. For a geometry that has no such cover, its box is logged.
const MAX_COVER_BYTES: u32 = 24 << 10;

/// A cover leaves out vertices whose distance from the previous vertex is at most the geometry's width or height divided by the first number. The
/// second number is applied if that leaves too many vertices.
const COVER_PARTS: [u32; 2] = [256, 64];

/// The greatest coordinate, in the units of any reference system, of a geometry that has a cover. A geometry beyond it is never drawn
/// (`MAX_COORDINATE` in `postgis/sql/edge.rs`).
const MAX_COVERED_COORDINATE: &str = "1e9";

/// An SQL condition that is true if a geometry is logged by a cover. The first size is known without reading the geometry, but may be the size of
/// compressed bytes.
fn is_large(postgis: &str, g: &str) -> String {
    format!("(pg_column_size({g}) > {MAX_SHAPE_BYTES} OR {postgis}.ST_MemSize({g}) > {MAX_SHAPE_BYTES})")
}

/// An SQL condition that is true if a geometry has straight edges and is neither a point nor a collection.
fn is_linear(postgis: &str, g: &str) -> String {
    format!("{postgis}.GeometryType({g}) IN ('LINESTRING', 'POLYGON', 'MULTILINESTRING', 'MULTIPOLYGON')")
}

/// SQL for what is logged for a geometry `g` in EPSG:4326 or 3857: the shape of a small line or polygon, the cover of a large one, the box of any
/// other. NULL if it is empty. Nothing here raises an error, even if the geometry is invalid.
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

/// SQL for what is logged for a geometry `g` in any other reference system: a small geometry itself; of a large one a cover with a shape or, without
/// `with_shapes`, only with its box. NULL if it is empty. Nothing is transformed here, because nothing may raise an error.
///
/// What a box covers in EPSG:3857 depends on how its sides are bent there. So a box is logged as a cover, too, whose shape is the box and whose `r`
/// is 0. A collection of three geometries might look like a cover, so it is wrapped in another collection.
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

/// An SQL condition that is true if `box` lies inside the world of EPSG:4326 or 3857. A geometry that reaches beyond has no cover, because its
/// vertices are moved before it is drawn.
fn in_the_world(postgis: &str) -> String {
    let within = |low: &str, high: &str, degrees: u8| {
        let limit = format!("CASE {postgis}.ST_SRID(box) WHEN 3857 THEN {HALF_WORLD_METRES:?} ELSE {degrees} END");
        format!("{postgis}.ST_{low}(box) >= -({limit}) AND {postgis}.ST_{high}(box) <= {limit}")
    };
    format!("{} AND {}", within("XMin", "XMax", 180), within("YMin", "YMax", 85))
}

/// SQL for a cover: a collection of a shape with fewer vertices, a line `0 0, r 0`, and `box`, the box of the geometry.
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
    /// SQL over `box` for what is logged if there is no shape.
    alone: &'a str,
    /// An SQL condition over `box` that is true if there may be a shape. It is false for coordinates that are not finite.
    within: &'a str,
}

impl CoverSql<'_> {
    /// SQL for the cover of a large line or polygon. No position of the geometry is farther from the shape than `r`; `postgis/sql/cover.rs` depends
    /// on that. Each large value is read twice.
    ///
    /// `ST_RemoveRepeatedPoints` (`ptarray_remove_repeated_points_in_place`) leaves out a vertex that lies within a distance of the last one that it
    /// kept. It may also leave out that last one in favour of the end of the line. So each vertex lies within twice the distance of the vertex that
    /// represents it, and each edge within twice the distance of the edge between the representatives. The same holds for the area that is inside of
    /// one of the two rings only. No ring is left out.
    fn sql(&self) -> String {
        let [fine, coarse] = COVER_PARTS;
        let CoverSql { postgis, g, alone, within } = self;
        let side = |end: &str| format!("{postgis}.ST_{end}(box)");
        // The size is computed only for coordinates that were compared with the limits, because the difference of others may overflow, which is an
        // error.
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
