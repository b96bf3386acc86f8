//! The statements of the survey: the positions of features, and the rows that are left out.

use super::cells::FoldedValues;
use super::edge::{SURFACES, is_placeable, projected, raw_sides};
use super::render::areas;
use super::repair::{self, Repair, repaired_columns, with_repaired};
use super::{AREA_ZOOM, filter, filter_at, is_in_world, key_text, search, world_columns, world_sides};
use crate::postgis::layer::{EdgeUnits, Facet, Layer, PlaceholderSql, Placement, REPAIRED};
use crate::postgis::session::quoted;
use crate::postgis::sql::{cells, edge};
use crate::tile::{TileCoord, WORLD_UNITS, Zoom};

/// The rows whose positions are read.
struct SurveyedRows<'a> {
    /// An item of a FROM list.
    relation: &'a str,
    /// What follows `WHERE true`.
    conditions: &'a str,
    /// Further columns, computed from `m` and the columns of its position; empty if there are none.
    outlines: &'a str,
    /// A column of the relation that these columns use; empty if there is none.
    carried: &'a str,
    /// True if the last two columns are the identity and the shape of a row that was repaired.
    lists_repaired: bool,
}

/// Where every feature of a layer lies, for planning. If `boxes` is greater than 0, only rows near that many boxes are
/// read; the parameters `$1..$4` are then arrays of their west, south, east and north in the column's reference system.
/// The values of a query's placeholders follow. `zoom` is the zoom for which rows are read if the layer's rows differ
/// from zoom to zoom; otherwise it is the deepest zoom. `part` is a condition on the rows that begins with AND; empty
/// for all rows.
///
/// The statement returns the columns of [`positions`], then those of `folds`, and, for a layer that [lists its
/// tiles](Layer::lists_tiles), the columns of [`outlines`]. For a layer whose rows are [repaired once a
/// run](Layer::is_repaired_once), two columns follow: the identity and the shape of a row that was repaired
/// ([`repaired_columns`]).
pub(crate) fn survey(layer: &Layer, folds: Option<&FoldedValues>, boxes: usize, zoom: Zoom, part: &str) -> String {
    let relation = layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid));
    let conditions = format!("{} {part} {}", near(layer.placement(), boxes), filter_at(layer, &zoom.get().to_string()));
    let outlines = if layer.lists_tiles() { outlines(layer, zoom) } else { String::new() };
    let rows = SurveyedRows {
        relation: &relation,
        conditions: &conditions,
        outlines: &outlines,
        carried: "",
        lists_repaired: layer.is_repaired_once(),
    };
    survey_statement(layer.placement(), &rows, folds)
}

/// The positions and folded values of the rows in some squares, for a layer of cells whose points have a closed form.
/// The parameters are those of [`areas`]; the squares are areas without a margin that do not overlap. The columns are
/// those of [`survey`].
pub(crate) fn rows_in_squares(layer: &Layer, folds: Option<&FoldedValues>) -> String {
    let placement = layer.placement();
    let (values, names) = cells::folded(folds);
    format!(
        "WITH {areas}
SELECT located.x, located.y{names}
FROM oar_tiles_area CROSS JOIN LATERAL (
    SELECT {world}{names}
    FROM (SELECT {projected} AS m{raw_sides}{values} FROM {relation} WHERE {search} {filter} OFFSET 0) AS placed
    OFFSET 0
) AS located
WHERE {in_world}
    AND {column} >> shift BETWEEN ax0 AND ax1 AND {row} >> shift BETWEEN ay0 AND ay1",
        areas = areas(layer),
        world = world_columns(placement),
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        relation = layer.rows(&PlaceholderSql::of_area()),
        search = search(placement).condition,
        filter = filter_at(layer, AREA_ZOOM),
        in_world = is_in_world(placement),
        column = cells::unit("located.x"),
        row = cells::unit("located.y"),
    )
}

/// Counts the rows of a layer's table, those included that cannot be drawn.
pub(crate) fn count_of_table(layer: &Layer) -> String {
    format!("SELECT count(*)::int8 FROM {} WHERE true {}", layer.relation, filter(layer))
}

/// Has the planner estimate the rows of a layer's table, all of them or those in a tile.
pub(crate) fn estimated_rows(layer: &Layer, tile: Option<TileCoord>) -> String {
    let within = tile.map_or_else(String::new, |tile| {
        let (stored, srid) = (layer.placement().stored(), layer.shape.srid);
        format!("AND {stored} && ST_Transform(ST_TileEnvelope({}, {}, {}), {srid})", tile.zoom(), tile.x(), tile.y())
    });
    format!("EXPLAIN SELECT FROM {} WHERE true {within} {}", layer.relation, filter(layer))
}

/// Counts the rows of which [`survey`] returns a position; with the same parameters.
pub(crate) fn row_count(layer: &Layer, boxes: usize, zoom: Zoom) -> String {
    format!(
        "SELECT count(surveyed.place)::int8 FROM (
{}
) AS surveyed (place)",
        survey(layer, None, boxes, zoom, "")
    )
}

/// Counts the rows of which [`survey`] returns a position, with the box in which they lie: west, north, east and south
/// in world units, NULL without rows. With the same parameters.
pub(crate) fn row_count_and_box(layer: &Layer, zoom: Zoom) -> String {
    let end = WORLD_UNITS - 1;
    let (west, north) = ("(place >> 32 & 4294967295)", "(place & 4294967295)");
    let unit = |name: &str| format!("least(greatest(trunc({name})::int8, 0), {end})");
    let (columns, [west, north, east, south]) = if layer.grid().is_some() {
        ("place, y", [unit("place"), unit("y"), unit("place"), unit("y")])
    } else if layer.placement().draws_points() && layer.is_found_by_area() {
        ("place", [west, north, west, north].map(str::to_owned))
    } else {
        ("place, corner", [west, north, "(corner >> 32 & 4294967295)", "(corner & 4294967295)"].map(str::to_owned))
    };
    // A box across ±180° is as wide as the world.
    format!(
        "SELECT count(*)::int8, min(CASE WHEN {west} <= {east} THEN {west} ELSE 0 END), min({north}),
    max(CASE WHEN {west} <= {east} THEN {east} ELSE {end} END), max({south}) FROM (
{}
) AS surveyed ({columns}) WHERE place IS NOT NULL",
        survey(layer, None, 0, zoom, "")
    )
}

/// The values of a facet, as texts, and the number of a layer's rows that have each, of those that [`row_count`] counts
/// at the deepest zoom: the `most` most frequent values.
pub(crate) fn frequent_values(layer: &Layer, facet: &Facet, most: usize) -> String {
    let placement = layer.placement();
    let of_row = if facet.is_array { "SELECT DISTINCT pg_catalog.unnest(facet)" } else { "SELECT facet" };
    format!(
        "SELECT value::pg_catalog.text, count(*)::int8
FROM (
    SELECT {world}, facet
    FROM (SELECT {projected} AS m{raw_sides}, {column} AS facet FROM {relation} WHERE {geometry} IS NOT NULL {filter} OFFSET 0) AS placed
    OFFSET 0
) AS located CROSS JOIN LATERAL ({of_row}) AS of_row (value)
WHERE {in_world} AND value IS NOT NULL
GROUP BY value ORDER BY 2 DESC, value::pg_catalog.text COLLATE \"C\" LIMIT {most}",
        world = world_columns(placement),
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        column = quoted(&facet.column),
        relation = with_repaired(placement, Repair::Here, &layer.relation),
        geometry = layer.geometry,
        filter = filter_at(layer, &layer.zooms().max().get().to_string()),
        in_world = is_in_world(placement),
    )
}

/// Two columns for rows whose box touches more than [`MAX_TILES_OF_BOX`] tiles of the deepest zoom, else NULL: the
/// row's geometry in EPSG:3857 as WKB, and whether it is a valid area.
fn outlines(layer: &Layer, deepest: Zoom) -> String {
    let valid = if layer.is_same_in_each_tile() { "ST_Dimension(m) = 2 AND ST_IsValid(m)" } else { "false" };
    outlines_of(deepest, valid)
}

/// The columns of [`outlines`]; `valid` is an SQL expression that is true if `m` is a valid area.
fn outlines_of(deepest: Zoom, valid: &str) -> String {
    let (large, shape) = large_shape(deepest);
    format!(
        ",
    {shape},
    CASE WHEN {large} THEN {valid} END"
    )
}

/// Two expressions: whether the box of `m` touches more than [`MAX_TILES_OF_BOX`] tiles of the deepest zoom, and, if
/// it does, `m` as WKB, else NULL.
fn large_shape(deepest: Zoom) -> (String, String) {
    let shift = 32 - deepest.get();
    let large = format!(
        "inside AND west <= east AND ((east >> {shift}) - (west >> {shift}) + 1) * ((south >> {shift}) - (north >> {shift}) + 1) > {MAX_TILES_OF_BOX} AND ST_NPoints(m) <= {MAX_OUTLINE_VERTICES}"
    );
    let shape = format!("CASE WHEN {large} THEN ST_AsBinary(ST_Force2D(m), 'NDR') END");
    (large, shape)
}

/// True if `ST_AsMVTGeom` clips polygons as [`Outline`](crate::tile::Outline) describes it: PostGIS is 3.2 or later and
/// built with Wagyu. One row.
pub(crate) const CLIPS_BY_RINGS: &str = "SELECT postgis_wagyu_version() IS NOT NULL
    AND string_to_array(substring(postgis_lib_version() FROM '^[0-9]+[.][0-9]+'), '.')::int4[] >= ARRAY[3, 2]";

/// The most tiles of the deepest zoom that a feature's box may touch without its outline being read.
pub(crate) const MAX_TILES_OF_BOX: u32 = 8;

/// The most vertices of a geometry whose outline is read.
const MAX_OUTLINE_VERTICES: u32 = 4_000_000;

/// The positions of the geometries of a relation, which is an item of a FROM list without parameters. The columns, all
/// NULL if a row is skipped:
///
/// - Points in a system with a closed formula: the position, x in the upper and y in the lower half of one int8.
/// - Other geometries: the two corners of the box, packed in the same way (west is greater than east where it crosses
///   ±180°), and the box in the column's own system.
/// - Rows that are gathered in cells: the position as two doubles, and, without a closed formula, the box in the
///   column's own system.
///
/// `outlined` is the deepest zoom at which lines and polygons are distinguished from their boxes. If it is given, two
/// columns follow: the geometry as WKB, as in a survey's outlines, and how far beyond the geometry the position
/// reaches, from the relation's column [`FAR`](FAR).
pub(crate) fn positions(placement: Placement<'_>, relation: &str, outlined: Option<Zoom>) -> String {
    let columns = outlined.map_or_else(String::new, |deepest| format!(",\n    {}, {FAR}", large_shape(deepest).1));
    let carried = if outlined.is_some() { FAR } else { "" };
    survey_statement(
        placement,
        &SurveyedRows { relation, conditions: "", outlines: &columns, carried, lists_repaired: false },
        None,
    )
}

fn survey_statement(placement: Placement<'_>, rows: &SurveyedRows<'_>, folds: Option<&FoldedValues>) -> String {
    let g = placement.geometry();
    let (box_of, sides) = (
        format!(", ST_XMin({g}) AS x0, ST_YMin({g}) AS y0, ST_XMax({g}) AS x1, ST_YMax({g}) AS y1"),
        ", x0, y0, x1, y1",
    );
    let [west, north, east, south] = world_sides(placement);
    let first = if placement.is_gathered() { "x".to_owned() } else { format!("({west} << 32) | {north}") };
    let (columns, inner, kept) = match (placement.is_gathered(), placement.shape.has_closed_form()) {
        (true, true) => (", y".to_owned(), String::new(), ""),
        (true, false) => (format!(", y{sides}"), box_of, sides),
        (false, true) if placement.shape.points => (String::new(), String::new(), ""),
        (false, _) => (format!(", ({east} << 32) | {south}{sides}"), box_of, sides),
    };
    let [x0, x1] = edge::source_sides(placement, ["x0", "x1"]);
    let kept = if kept.is_empty() { String::new() } else { format!(", {x0} AS x0, y0, {x1} AS x1, y1") };
    let (mut values, mut names) = cells::folded(folds);
    if !rows.carried.is_empty() {
        values.push_str(&format!(", {}", rows.carried));
        names.push_str(&format!(", {}", rows.carried));
    }
    let [repaired, repaired_names] = if rows.lists_repaired { repaired_columns(placement) } else { Default::default() };
    format!(
        "SELECT CASE WHEN {in_world} THEN {first} END{columns}{folded}{outlines}{repaired_names}
FROM (
    SELECT {world}{kept}{names}{m}{repaired_names}
    FROM (SELECT {projected} AS m{raw_sides}{inner}{values}{repaired} FROM {relation} WHERE true {conditions} OFFSET 0) AS placed
    OFFSET 0
) AS located",
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        outlines = rows.outlines,
        folded = if rows.carried.is_empty() { &names } else { "" },
        m = if rows.outlines.is_empty() { "" } else { ", m" },
        relation = with_repaired(placement, Repair::Here, rows.relation),
        conditions = rows.conditions,
        world = world_columns(placement),
        in_world = is_in_world(placement),
    )
}

/// The reference systems of geometries other than `srid`. Systems that the database does not know are left out: it
/// cannot draw rows in them.
pub(crate) fn other_systems(relation: &str, column: &str, srid: i32) -> String {
    format!(
        "SELECT srid FROM (SELECT DISTINCT ST_SRID({column}::geometry) AS srid FROM {relation} WHERE {column} IS NOT NULL) AS systems
JOIN spatial_ref_sys USING (srid) WHERE srid NOT IN (0, {srid}) ORDER BY srid"
    )
}

/// The geometries of one reference system, as an item of a FROM list. With `with_unknown`, geometries with SRID 0 are
/// included as if they were in it. With `has_far`, the relation's column [`FAR`](FAR) is included.
pub(crate) fn of_one_system(relation: &str, column: &str, srid: i32, with_unknown: bool, has_far: bool) -> String {
    let far = if has_far { format!(", {FAR}") } else { String::new() };
    let (geometry, systems) = if with_unknown {
        (format!("ST_SetSRID({column}::geometry, {srid})"), format!("0, {srid}"))
    } else {
        (format!("{column}::geometry"), srid.to_string())
    };
    format!(
        "(SELECT {geometry} AS {column}{far} FROM {relation} WHERE ST_SRID({column}::geometry) IN ({systems})) AS in_system"
    )
}

/// The condition that a row is near one of the boxes of the parameters `$1..$4`; empty if there are no boxes.
pub(crate) fn near(placement: Placement<'_>, boxes: usize) -> String {
    let (g, srid) = (placement.stored(), placement.shape.srid);
    // One condition for each box, over parameters alone, so that the spatial index serves it.
    let one = |n: usize| {
        let own = format!("{g} && ST_MakeEnvelope($1[{n}], $2[{n}], $3[{n}], $4[{n}], {srid})");
        match repair::jumping_boxes(placement, &format!("$2[{n}]"), &format!("$4[{n}]")) {
            Some([west, east]) => format!("{own} OR {g} && {west} AND {g} && {east}"),
            None => own,
        }
    };
    let near: Vec<String> = (1..=boxes).map(one).collect();
    if near.is_empty() { String::new() } else { format!("AND ({})", near.join(" OR ")) }
}

/// Counts the skipped rows. Each result row has a reason, the count, and the keys of up to three rows. A row with a Z
/// that is not finite is among them only where PROJ cannot transform it (9.6; 9.1 can). The statement reads no columns
/// but the key and the geometry, because the role may have no right to read the others. The parameters are the values
/// of a query's placeholders.
pub(crate) fn skipped(layer: &Layer) -> String {
    let placement = layer.placement();
    // A shape of which nothing is left when it is repaired is empty.
    let g = if placement.repair { REPAIRED.to_owned() } else { placement.stored() };
    let (key, srid) = (key_text(layer), layer.shape.srid);
    let foreign = if placement.srid_varies {
        format!("\n        WHEN ST_SRID(g) <> {srid} THEN 'foreign'")
    } else {
        String::new()
    };
    format!(
        "SELECT reason, count(*), (array_agg(key ORDER BY key))[1:3]
FROM (
    SELECT key, CASE
        WHEN g IS NULL THEN 'NULL'
        WHEN ST_IsEmpty(g) THEN 'empty'
        WHEN ST_AsText(g) ~* 'nan|inf' THEN 'not finite'
        WHEN ST_AsText(ST_Force2D(g)) ~ '{surfaces}' THEN 'unsupported'{foreign}
        ELSE 'outside' END AS reason
    FROM (
        SELECT key, g, {world} FROM (
            SELECT {key} AS key, {g} AS g, {projected} AS m{raw_sides} FROM {relation} WHERE true {filter} OFFSET 0
        ) AS placed
        OFFSET 0
    ) AS located
    WHERE ({in_world}) IS NOT TRUE
) AS skipped
GROUP BY reason ORDER BY reason",
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        surfaces = SURFACES.join("|"),
        relation =
            with_repaired(placement, Repair::Here, &layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid))),
        filter = filter(layer),
        world = world_columns(placement),
        in_world = is_in_world(placement),
    )
}

// Covers: what the change log holds of large geometries (`change_log/install/trigger.rs`). A cover is a collection of
// three geometries: a shape with fewer vertices; a line from `0 0` to `r 0`, where no position of the geometry is
// farther from the shape than `r`; and the geometry's box. In EPSG:4326 and 3857 a closed formula converts `r` to world
// units. In any other system `r` is 0 if there is no such shape, and covers are read by [`covers`].

/// The column, next to the geometry, that holds `r`; NULL for a geometry that is no cover.
pub(crate) const FAR: &str = "oar_tiles_far";

/// The number of parts into which a side of a box is divided; the positions between the parts are transformed.
const PARTS_OF_SIDE: u32 = 64;

/// The margin, in degrees, that is added to the box of a cover. It is ample: in EPSG:3857, parallels of another datum
/// are bent by far less.
const BOX_MARGIN_DEGREES: f64 = 0.05;

/// The condition that a geometry is a cover in EPSG:4326 or 3857. The log holds no other collection in these two
/// systems.
fn is_cover(place: &str) -> String {
    format!(
        "CASE WHEN GeometryType({place}) = 'GEOMETRYCOLLECTION' AND ST_SRID({place}) IN (4326, 3857)
            THEN ST_NumGeometries({place}) = 3 AND ST_AsText(ST_StartPoint(ST_GeometryN({place}, 2))) = 'POINT(0 0)' ELSE false END"
    )
}

/// The condition that a geometry is a cover in another reference system, or in none. The triggers wrap any other
/// collection of three geometries, so that it cannot be mistaken for a cover.
fn is_other_cover(place: &str) -> String {
    let [line, bounds] = [2, 3].map(|part| format!("ST_GeometryN({place}, {part})"));
    // The box is compared because the triggers of older logs did not wrap collections.
    format!(
        "CASE WHEN ST_SRID({place}) IN (4326, 3857) OR GeometryType({place}) <> 'GEOMETRYCOLLECTION' THEN false
            WHEN ST_NumGeometries({place}) <> 3 THEN false
            ELSE ST_AsText({line}) ~ '^LINESTRING[(]0 0, ?[0-9.e+-]+ 0[)]$' AND ST_AsBinary(ST_Envelope({bounds})) = ST_AsBinary({bounds}) END"
    )
}

/// A relation with a column of geometries, as an item of a FROM list. Covers in other systems than EPSG:4326 and 3857
/// are left out. Covers in these two are replaced: with `shapes` by their shapes, with a further column [`FAR`];
/// without `shapes` by their boxes.
pub(crate) fn without_covers(relation: &str, column: &str, shapes: bool) -> String {
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

/// The reference systems of the covers that [`covers`] reads; 0 means "no system". Systems that the database does not
/// know are left out, because PostGIS cannot have drawn a feature in them.
pub(crate) fn systems_of_covers(relation: &str, column: &str) -> String {
    let place = format!("{column}::geometry");
    format!(
        "SELECT srid FROM (SELECT DISTINCT ST_SRID({place}) AS srid FROM {relation} WHERE {}) AS systems
WHERE srid = 0 OR EXISTS (SELECT FROM spatial_ref_sys AS known WHERE known.srid = systems.srid) ORDER BY srid",
        is_other_cover(&place)
    )
}

/// The covers of one reference system, `srid`; with `with_unknown`, also those with SRID 0, as if they were in it. An
/// item of a FROM list with the columns `shape`, `r` and `box`. The box of a row that may jump across ±180° is the
/// whole band of its latitudes if the rows of `placement` are repaired.
fn of_system(placement: Placement<'_>, relation: &str, column: &str, with_unknown: bool) -> String {
    let srid = placement.shape.srid;
    let systems = if with_unknown { format!("0, {srid}") } else { srid.to_string() };
    let mut bounds = format!("ST_SetSRID(ST_GeometryN(place, 3), {srid})");
    if let Some(units) = placement.repair_units().filter(|_| placement.repair) {
        bounds = format!(
            "CASE WHEN {} THEN {} ELSE {bounds} END",
            repair::is_wide(&bounds, "0", units),
            repair::band(&bounds, "0", units)
        );
    }
    format!(
        "(SELECT ST_SetSRID(ST_GeometryN(place, 1), {srid}) AS shape, ST_X(ST_EndPoint(ST_GeometryN(place, 2))) AS r, {bounds} AS box
        FROM (SELECT {column}::geometry AS place FROM {relation} WHERE ST_SRID({column}::geometry) IN ({systems}) OFFSET 0) AS in_system
        WHERE {} OFFSET 0) AS cover",
        is_other_cover("place")
    )
}

/// Where the covers of a reference system lie that is neither EPSG:4326 nor 3857, as columns of WKB in EPSG:3857:
///
/// - With `with_shapes`: the shape, its positions, and its positions moved by `r` times the square root of two to the
///   east, west, north and south. All are NULL for a cover without a shape, or if a position would be moved beyond the
///   end of the system.
/// - Positions along the sides of the box, at most one [part](PARTS_OF_SIDE) of a side apart.
///
/// Only covers whose box can be transformed as it is are returned. `ST_Transform` may still raise an error, because
/// these positions are not those of the geometry; the caller expects that.
pub(crate) fn covers(
    placement: Placement<'_>,
    relation: &str,
    column: &str,
    with_unknown: bool,
    with_shapes: bool,
) -> String {
    let covers = of_system(placement, relation, column, with_unknown);
    let own = Placement { column: "box", srid_varies: false, repair: false, ..placement };
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

/// The boxes of the covers that [`covers`] leaves out, as a relation with the columns `box` and [`FAR`]. In a system
/// that ends at ±180°, a box that reaches beyond is cut there.
pub(crate) fn boxes_beyond(placement: Placement<'_>, relation: &str, column: &str, with_unknown: bool) -> String {
    let covers = of_system(placement, relation, column, with_unknown);
    let own = Placement { column: "box", srid_varies: false, repair: false, ..placement };
    format!(
        "(SELECT box, {BOX_MARGIN_DEGREES:?}::float8 AS {FAR} FROM {covers} WHERE NOT ({}) OFFSET 0) AS beyond",
        is_placeable(own)
    )
}
