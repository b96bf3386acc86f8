//! The statements of the survey: where features lie, and which rows are left out.

use super::{ends, filter, geometry, is_in_world, projected, world_columns};
use crate::postgis::layer::Layer;

/// Where every feature lies, for planning. `boxes` restricts it to rows near the box given by parameters
/// `$1..$4` = arrays of west, south, east, north in the column's reference system.
///
/// Points in a closed-form system give one column: the position, x in the upper and y in the lower half. Others give six:
/// the box's two corners packed the same way, and the box in the column's own system. NULL where a row is skipped.
pub(in crate::postgis) fn survey(layer: &Layer, boxes: bool) -> String {
    let g = geometry(layer);
    let near = if boxes {
        format!(
            "AND EXISTS (SELECT FROM unnest($1, $2, $3, $4) AS near (w, s, e, n)
                WHERE {g} && ST_MakeEnvelope(w, s, e, n, {}))",
            layer.shape.srid
        )
    } else {
        String::new()
    };
    let [west, north, east, south] = ends(layer);
    let (columns, inner, kept) = if layer.shape.is_closed_form() {
        (String::new(), String::new(), "")
    } else {
        (
            format!(", ({east} << 32) | {south}, x0, y0, x1, y1"),
            format!(", ST_XMin({g}) AS x0, ST_YMin({g}) AS y0, ST_XMax({g}) AS x1, ST_YMax({g}) AS y1"),
            ", x0, y0, x1, y1",
        )
    };
    format!(
        "SELECT CASE WHEN {in_world} THEN ({west} << 32) | {north} END{columns}
FROM (
    SELECT {world}{kept}
    FROM (SELECT {projected} AS m{inner} FROM {relation} WHERE true {near} {filter} OFFSET 0) AS placed
    OFFSET 0
) AS located",
        projected = projected(layer),
        relation = layer.relation,
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}

/// Why rows are skipped, how many, and the keys of a few: reason, count, examples.
pub(in crate::postgis) fn skipped(layer: &Layer) -> String {
    let g = geometry(layer);
    let key = layer.key.iter().map(|column| format!("{}::text", column.quoted)).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT reason, count(*), (array_agg(key ORDER BY key))[1:3]
FROM (
    SELECT concat_ws('/', {key}) AS key, CASE
        WHEN {col} IS NULL THEN 'NULL'
        WHEN ST_IsEmpty({g}) THEN 'empty'
        WHEN ST_AsText({g}) ~* 'nan|inf' THEN 'not finite'
        ELSE 'outside' END AS reason
    FROM (
        SELECT *, {world} FROM (SELECT *, {projected} AS m FROM {relation} WHERE true {filter} OFFSET 0) AS placed
        OFFSET 0
    ) AS located
    WHERE ({in_world}) IS NOT TRUE
) AS skipped
GROUP BY reason ORDER BY reason",
        col = layer.geometry,
        projected = projected(layer),
        relation = layer.relation,
        filter = filter(layer),
        world = world_columns(layer),
        in_world = is_in_world(layer),
    )
}
