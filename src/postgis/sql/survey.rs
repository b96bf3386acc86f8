//! The statements of the survey: the positions of features, and the rows that are left out.

use super::cells::{FoldedValues, counted};
use super::cover::FAR;
use super::edge::{self, SURFACES, projected, raw_sides};
use super::{filter, filter_at, is_in_world, key_text, world_columns, world_sides};
use crate::postgis::layer::{Layer, PlaceholderSql, Placement};
use crate::tile::Zoom;

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
}

/// Where every feature of a layer lies, for planning. If `boxes` is greater than 0, only rows near that many boxes are read; the parameters `$1..$4`
/// are then arrays of their west, south, east and north in the column's reference system. The values of a query's placeholders follow. `zoom` is the
/// zoom for which rows are read if the layer's rows differ from zoom to zoom; otherwise it is the deepest zoom. `part` is a condition on the rows
/// that begins with AND; empty for all rows.
///
/// The statement returns the columns of [`positions`], then those of `folds`, and, for a layer that [lists its tiles](Layer::lists_tiles), the
/// columns of [`outlines`].
pub(in crate::postgis) fn survey(
    layer: &Layer,
    folds: Option<&FoldedValues>,
    boxes: usize,
    zoom: Zoom,
    part: &str,
) -> String {
    let relation = layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid));
    let conditions = format!("{} {part} {}", near(layer.placement(), boxes), filter_at(layer, &zoom.get().to_string()));
    let outlines = if layer.lists_tiles() { outlines(layer, zoom) } else { String::new() };
    let rows = SurveyedRows { relation: &relation, conditions: &conditions, outlines: &outlines, carried: "" };
    survey_statement(layer.placement(), &rows, folds)
}

/// Two columns for rows whose box touches more than [`MOST_TILES_OF_BOX`] tiles of the deepest zoom, else NULL: the row's geometry in EPSG:3857 as
/// WKB, and whether it is a valid area.
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

/// Two expressions: whether the box of `m` touches more than [`MOST_TILES_OF_BOX`] tiles of the deepest zoom, and, if it does, `m` as WKB, else NULL.
fn large_shape(deepest: Zoom) -> (String, String) {
    let shift = 32 - deepest.get();
    let large = format!(
        "inside AND west <= east AND ((east >> {shift}) - (west >> {shift}) + 1) * ((south >> {shift}) - (north >> {shift}) + 1) > {MOST_TILES_OF_BOX} AND ST_NPoints(m) <= {MAX_OUTLINE_VERTICES}"
    );
    let shape = format!("CASE WHEN {large} THEN ST_AsBinary(ST_Force2D(m), 'NDR') END");
    (large, shape)
}

/// True if `ST_AsMVTGeom` clips polygons as [`Outline`](crate::tile::Outline) describes it: PostGIS is 3.2 or later and built with Wagyu. One row.
pub(in crate::postgis) const CLIPS_BY_RINGS: &str = "SELECT postgis_wagyu_version() IS NOT NULL
    AND string_to_array(substring(postgis_lib_version() FROM '^[0-9]+[.][0-9]+'), '.')::int4[] >= ARRAY[3, 2]";

/// The most tiles of the deepest zoom that a feature's box may touch without its outline being read.
const MOST_TILES_OF_BOX: u32 = 8;

/// The most vertices of a geometry whose outline is read.
const MAX_OUTLINE_VERTICES: u32 = 4_000_000;

/// The positions of the geometries of a relation, which is an item of a FROM list without parameters. The columns, all NULL if a row is skipped:
///
/// - Points in a system with a closed formula: the position, x in the upper and y in the lower half of one int8.
/// - Other geometries: the two corners of the box, packed in the same way (west is greater than east where it crosses ±180°), and the box in
///   the column's own system.
/// - Rows that are gathered in cells: the position as two doubles, and, without a closed formula, the box in the column's own system.
///
/// `outlined` is the deepest zoom at which lines and polygons are distinguished from their boxes. If it is given, two columns follow: the geometry as
/// WKB, as in a survey's outlines, and how far beyond the geometry the position reaches, from the relation's column [`FAR`](super::cover::FAR).
pub(in crate::postgis) fn positions(placement: Placement<'_>, relation: &str, outlined: Option<Zoom>) -> String {
    let columns = outlined.map_or_else(String::new, |deepest| format!(",\n    {}, {FAR}", large_shape(deepest).1));
    let carried = if outlined.is_some() { FAR } else { "" };
    survey_statement(placement, &SurveyedRows { relation, conditions: "", outlines: &columns, carried }, None)
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
    let (mut values, mut names) = counted::folded(folds);
    if !rows.carried.is_empty() {
        values.push_str(&format!(", {}", rows.carried));
        names.push_str(&format!(", {}", rows.carried));
    }
    format!(
        "SELECT CASE WHEN {in_world} THEN {first} END{columns}{folded}{outlines}
FROM (
    SELECT {world}{kept}{names}{m}
    FROM (SELECT {projected} AS m{raw_sides}{inner}{values} FROM {relation} WHERE true {conditions} OFFSET 0) AS placed
    OFFSET 0
) AS located",
        projected = projected(placement),
        raw_sides = raw_sides(placement),
        outlines = rows.outlines,
        folded = if rows.carried.is_empty() { &names } else { "" },
        m = if rows.outlines.is_empty() { "" } else { ", m" },
        relation = rows.relation,
        conditions = rows.conditions,
        world = world_columns(placement),
        in_world = is_in_world(placement),
    )
}

/// The reference systems of geometries other than `srid`. Systems that the database does not know are left out, because nothing in them was ever
/// drawn.
pub(in crate::postgis) fn other_systems(relation: &str, column: &str, srid: i32) -> String {
    format!(
        "SELECT srid FROM (SELECT DISTINCT ST_SRID({column}::geometry) AS srid FROM {relation} WHERE {column} IS NOT NULL) AS systems
JOIN spatial_ref_sys USING (srid) WHERE srid NOT IN (0, {srid}) ORDER BY srid"
    )
}

/// The geometries of one reference system, as an item of a FROM list. With `with_unknown`, geometries with SRID 0 are included as if they were in it.
/// With `has_far`, the relation's column [`FAR`](super::cover::FAR) is included.
pub(in crate::postgis) fn of_one_system(
    relation: &str,
    column: &str,
    srid: i32,
    with_unknown: bool,
    has_far: bool,
) -> String {
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
pub(in crate::postgis) fn near(placement: Placement<'_>, boxes: usize) -> String {
    let (g, srid) = (placement.stored(), placement.shape.srid);
    // One condition for each box, over parameters alone, so that the spatial index serves it.
    let near: Vec<String> =
        (1..=boxes).map(|n| format!("{g} && ST_MakeEnvelope($1[{n}], $2[{n}], $3[{n}], $4[{n}], {srid})")).collect();
    if near.is_empty() { String::new() } else { format!("AND ({})", near.join(" OR ")) }
}

/// Counts the skipped rows. Each result row has a reason, the count, and the keys of up to three rows. The statement reads no columns but the key and
/// the geometry, because the role may have no right to read the others. The parameters are the values of a query's placeholders.
pub(in crate::postgis) fn skipped(layer: &Layer) -> String {
    let placement = layer.placement();
    let g = placement.stored();
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
        WHEN ST_AsText(ST_Force2D(g)) ~* 'nan|inf' THEN 'not finite'
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
        relation = layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid)),
        filter = filter(layer),
        world = world_columns(placement),
        in_world = is_in_world(placement),
    )
}
