//! The statement that reads rows of a layer of points once, for tiles of all zooms.

use super::edge::projected;
use super::render::{Candidates, CarriedColumns, areas, carried, placed};
use super::survey::near;
use super::{ends, filter, is_in_world, world_columns};
use crate::postgis::layer::{Layer, PlaceholderSql};

/// So many rows are written together, or rows of so many bytes.
const MAX_ROWS_PER_GROUP: u32 = 1024;
const MAX_BYTES_PER_GROUP: u32 = 1_000_000;

/// Which rows are read.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgis) enum RowChoice {
    /// Those near so many boxes, as for the [survey](super::survey) `$1..$4`, or all for none; the values of a query's placeholders
    /// follow. They are known to be so many, so it may be seen that some are left out for their bytes.
    Boxes { boxes: usize, rows: u64 },
    /// Those in cells, no two of which overlap: areas without a margin, `$1..$10`. If there are so many, some may be missing.
    Cells { limit: u64 },
}

/// Rows of a layer of points that lie in the world, in the order of the keys, some at a time: where they lie in metres of
/// EPSG:3857 (x, y), and what `ST_AsMVT` writes of them, all in one place.
///
/// Parameters behind those that say which rows: the layer's name, its extent, and after how many bytes of texts there is an end; their
/// numbers are given.
pub(in crate::postgis) fn cached_rows(layer: &Layer, rows: RowChoice, [name, extent, max_bytes]: [usize; 3]) -> String {
    let carried = carried(layer);
    let (with, located) = match rows {
        RowChoice::Boxes { boxes, .. } => (String::new(), in_boxes(layer, &carried, boxes)),
        RowChoice::Cells { limit } => {
            let placed = placed(layer, Candidates::Found, &carried.values, &carried.names);
            (format!("WITH {},\n{placed}\n", areas(layer)), in_cells(layer, &carried, limit))
        }
    };
    let is_whole = match rows {
        RowChoice::Boxes { .. } => format!("bytes < ${max_bytes}"),
        // Nobody could see what is left out; the parameter has to be there.
        RowChoice::Cells { .. } => format!("${max_bytes} > 0"),
    };
    let CarriedColumns { names, row, order, arguments, .. } = carried;
    let order = order.trim_start_matches(", ");
    // What is no text takes about as many bytes each as the program keeps of a number.
    let texts = layer.properties.iter().enumerate().filter(|(_, property)| property.kind == "String");
    let size: String = texts.map(|(number, _)| format!(" + coalesce(octet_length(p{number}::text), 0)")).collect();
    let size = format!("{}{size}", 2 * layer.properties.len() + 1);
    format!(
        "{with}SELECT array_agg(drawn.x), array_agg(drawn.y), ST_AsMVT(feature.*, ${name}, ${extent}, {arguments})
FROM (
    SELECT greatest(number / {MAX_ROWS_PER_GROUP}, bytes / {MAX_BYTES_PER_GROUP}) AS part, number, x, y, ST_MakePoint(0, 0) AS mvt_geometry{names}
    FROM (
        SELECT row_number() OVER sorted - 1 AS number, sum({size}) OVER sorted AS bytes, x, y{names}
        FROM (
            {located}
            OFFSET 0
        ) AS located
        WHERE {in_world}
        WINDOW sorted AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)
    ) AS numbered
    WHERE {is_whole}
    -- In this order they are grouped: no other sort, which would lose it.
    ORDER BY part, number
    OFFSET 0
) AS drawn CROSS JOIN LATERAL (SELECT {row}) AS feature
GROUP BY drawn.part",
        in_world = is_in_world(layer),
    )
}

fn in_boxes(layer: &Layer, CarriedColumns { values, names, .. }: &CarriedColumns, boxes: usize) -> String {
    format!(
        "SELECT ST_X(m) AS x, ST_Y(m) AS y, {world}{names}
            FROM (SELECT {projected} AS m{values} FROM {relation} WHERE true {near} {filter} OFFSET 0) AS placed",
        world = world_columns(layer),
        projected = projected(layer),
        relation = layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        near = near(layer, boxes),
        filter = filter(layer),
    )
}

/// A row is found by the boxes of its cell's neighbours, too; its place tells the one that it lies in.
fn in_cells(layer: &Layer, CarriedColumns { names, .. }: &CarriedColumns, limit: u64) -> String {
    let [west, north, ..] = ends(layer);
    format!(
        "SELECT ST_X(m) AS x, ST_Y(m) AS y, west, north{names}
            FROM placed
            WHERE {west} >> shift BETWEEN ax0 AND ax1 AND {north} >> shift BETWEEN ay0 AND ay1
            LIMIT {limit}"
    )
}
