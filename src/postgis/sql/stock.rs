//! The statement that reads the rows of a layer of points once, for tiles of all zooms.

use super::render::{Carried, carried};
use super::survey::near;
use super::{filter, is_in_world, projected, world_columns};
use crate::postgis::layer::Layer;
use crate::postgis::query::Values;

/// So many rows are written together, or rows of so many bytes.
const ROWS: u32 = 1024;
const BYTES: u32 = 1_000_000;

/// Every row of a layer of points that lies in the world, in the order of the keys, some at a time: where they lie in metres of
/// EPSG:3857 (x, y), and what `ST_AsMVT` writes of them, all in one place.
///
/// Parameters: as for the [survey](super::survey) `$1..$4`, boxes near which rows are looked for, if there are any; the values of a
/// query's placeholders; then the layer's name, its extent, and after how many bytes of texts there is an end; their numbers are given.
pub(in crate::postgis) fn stock(layer: &Layer, boxes: usize, [name, extent, most]: [usize; 3]) -> String {
    let Carried { values, names, row, order, arguments } = carried(layer);
    let order = order.trim_start_matches(", ");
    // What is no text takes about as many bytes each as the program keeps of a number.
    let texts = layer.properties.iter().enumerate().filter(|(_, property)| property.kind == "String");
    let size: String = texts.map(|(number, _)| format!(" + coalesce(octet_length(p{number}::text), 0)")).collect();
    let size = format!("{}{size}", 2 * layer.properties.len() + 1);
    format!(
        "SELECT array_agg(drawn.x), array_agg(drawn.y), ST_AsMVT(feature.*, ${name}, ${extent}, {arguments})
FROM (
    SELECT greatest(number / {ROWS}, bytes / {BYTES}) AS part, number, x, y, ST_MakePoint(0, 0) AS mvt_geometry{names}
    FROM (
        SELECT row_number() OVER sorted - 1 AS number, sum({size}) OVER sorted AS bytes, x, y{names}
        FROM (
            SELECT ST_X(m) AS x, ST_Y(m) AS y, {world}{names}
            FROM (SELECT {projected} AS m{values} FROM {relation} WHERE true {near} {filter} OFFSET 0) AS placed
            OFFSET 0
        ) AS located
        WHERE {in_world}
        WINDOW sorted AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)
    ) AS numbered
    WHERE bytes < ${most}
    -- In this order they are grouped: no other sort, which would lose it.
    ORDER BY part, number
    OFFSET 0
) AS drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.part",
        world = world_columns(layer),
        projected = projected(layer),
        relation = layer.rows(&Values::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        near = near(layer, boxes),
        filter = filter(layer),
        in_world = is_in_world(layer),
    )
}
