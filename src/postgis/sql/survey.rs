//! The statements of the survey: where features lie, and which rows are left out.

use super::cells::{FoldedValues, counted};
use super::edge::{self, SURFACES, projected, raw_sides};
use super::{ends, filter, geometry, is_in_world, key_text, world_columns};
use crate::postgis::layer::{Layer, PlaceholderSql};

/// Where every feature lies, for planning. With `boxes`, only rows near so many boxes, given by
/// the parameters `$1..$4`: arrays of west, south, east, north in the column's reference system. The values of a query's
/// placeholders follow.
///
/// Points in a closed-form system give one column: the position, x in the upper and y in the lower half. Others give six:
/// the box's two corners packed the same way (west is greater than east where it runs over ±180°), and the box in the column's own system. Members of cells give their position as two
/// doubles, and where no closed formula leads to them, that box; then the values that are folded. NULL where a row is skipped.
pub(in crate::postgis) fn survey(layer: &Layer, folds: Option<&FoldedValues>, boxes: usize) -> String {
    let g = geometry(layer);
    let (box_of, sides) = (
        format!(", ST_XMin({g}) AS x0, ST_YMin({g}) AS y0, ST_XMax({g}) AS x1, ST_YMax({g}) AS y1"),
        ", x0, y0, x1, y1",
    );
    let [west, north, east, south] = ends(layer);
    let place = if layer.cells.is_some() { "x".to_owned() } else { format!("({west} << 32) | {north}") };
    let (columns, inner, kept) = match (layer.cells.is_some(), layer.is_found_by_area()) {
        (true, true) => (", y".to_owned(), String::new(), ""),
        (true, false) => (format!(", y{sides}"), box_of, sides),
        (false, _) if layer.shape.is_closed_form() => (String::new(), String::new(), ""),
        (false, _) => (format!(", ({east} << 32) | {south}{sides}"), box_of, sides),
    };
    let [x0, x1] = edge::source_sides(layer, ["x0", "x1"]);
    let kept = if kept.is_empty() { String::new() } else { format!(", {x0} AS x0, y0, {x1} AS x1, y1") };
    let (values, names) = counted::folded(folds);
    format!(
        "SELECT CASE WHEN {in_world} THEN {place} END{columns}{names}
FROM (
    SELECT {world}{kept}{names}
    FROM (SELECT {projected} AS m{raw_sides}{inner}{values} FROM {relation} WHERE true {near} {filter} OFFSET 0) AS placed
    OFFSET 0
) AS located",
        projected = projected(layer),
        raw_sides = raw_sides(layer),
        near = near(layer, boxes),
        relation = layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}

/// The condition that a row is near one of so many boxes, the parameters `$1..$4`; none if there are none.
pub(in crate::postgis) fn near(layer: &Layer, boxes: usize) -> String {
    let (g, srid) = (geometry(layer), layer.shape.srid);
    // One condition a box, each over parameters alone: the spatial index serves them.
    let near: Vec<String> =
        (1..=boxes).map(|n| format!("{g} && ST_MakeEnvelope($1[{n}], $2[{n}], $3[{n}], $4[{n}], {srid})")).collect();
    if near.is_empty() { String::new() } else { format!("AND ({})", near.join(" OR ")) }
}

/// Why rows are skipped, how many, and the keys of a few: reason, count, examples. Reads no other columns than the key and
/// the geometry: a role may have no right to the others. The parameters are the values of a query's placeholders.
pub(in crate::postgis) fn skipped(layer: &Layer) -> String {
    let g = geometry(layer);
    let (key, srid) = (key_text(layer), layer.shape.srid);
    let foreign = if layer.asks_each_zoom() {
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
        projected = projected(layer),
        raw_sides = raw_sides(layer),
        surfaces = SURFACES.join("|"),
        relation = layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid)),
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}
