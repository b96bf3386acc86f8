//! The statements that find which rows of a layer belong to which variant.

use super::cached_rows::in_boxes;
use super::filter;
use super::is_in_world;
use super::render::carried;
use super::survey::near;
use crate::postgis::layer::{Layer, PlaceholderSql};

/// The name of the relation with the variants' values, in a condition.
pub(in crate::postgis) const VALUES: &str = "oar_tiles_values";

/// The name of the column with the value of a parameter, counted from 0.
pub(in crate::postgis) fn value_column(parameter: usize) -> String {
    format!("{VALUES}.oar_tiles_value_{}", parameter + 1)
}

/// The keys of a layer's rows as texts, in the order of [`cached_rows`](super::cached_rows()) and with the same parameters.
pub(in crate::postgis) fn row_keys(layer: &Layer, boxes: usize) -> String {
    let carried = carried(layer);
    let located = in_boxes(layer, &carried, boxes, "");
    let names: Vec<String> = (0..layer.key.len()).map(|number| format!("k{number}")).collect();
    format!(
        "SELECT pg_catalog.concat(ROW({})) FROM (
    {located}
    OFFSET 0
) AS located
WHERE {}
ORDER BY {}",
        names.join(", "),
        is_in_world(layer.placement()),
        carried.order.trim_start_matches(", ")
    )
}

/// Finds the variants to which the rows of a layer belong: the number of the variant, from 1 on, and the key of the row. `condition` is over the row
/// and the [columns of the values](value_column). The parameters after those of [`row_keys`] are arrays of texts, one for each of `kinds`.
pub(in crate::postgis) fn members(layer: &Layer, boxes: usize, condition: &str, kinds: &[String]) -> String {
    let first = first_value(layer, boxes);
    let arrays: Vec<String> = (0..kinds.len()).map(|n| format!("${}::text[]", first + n)).collect();
    let columns: Vec<String> = (0..kinds.len()).map(|n| format!("oar_tiles_value_{}", n + 1)).collect();
    format!(
        "SELECT {VALUES}.oar_tiles_number, {} FROM {} CROSS JOIN unnest({}) WITH ORDINALITY AS {VALUES} ({}, oar_tiles_number)
WHERE true {} {} AND ({condition}\n)",
        key(layer),
        layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        arrays.join(", "),
        columns.join(", "),
        near(layer.placement(), boxes),
        filter(layer),
    )
}

/// The keys of the rows that belong to one variant. `condition` is over the row and the parameters after those of [`row_keys`], which are texts.
pub(in crate::postgis) fn members_of_one(layer: &Layer, boxes: usize, condition: &str) -> String {
    format!(
        "SELECT {} FROM {} WHERE true {} {} AND ({condition}\n)",
        key(layer),
        layer.rows(&PlaceholderSql::parameters(if boxes > 0 { 5 } else { 1 }, layer.shape.srid)),
        near(layer.placement(), boxes),
        filter(layer),
    )
}

/// Finds the variants that have rows near some boxes now: the numbers of the variants, from 1 on. The parameters `$1..$4` are arrays of the boxes'
/// west, south, east and north in the column's reference system; an array of texts for each of `kinds` follows. `condition` is over the row, which is
/// called `name`, and the [columns of the values](value_column).
///
/// The rows near the boxes are read once. For each variant, the condition is then planned as if its values were constants. As the condition of a
/// join, `id IN (SELECT … WHERE contributor = …)` would be evaluated for each pair of a row and a variant.
pub(in crate::postgis) fn members_near(layer: &Layer, name: &str, condition: &str, kinds: &[String]) -> String {
    let placement = layer.placement();
    let arrays: Vec<String> = (0..kinds.len()).map(|n| format!("${}::text[]", 5 + n)).collect();
    let columns: Vec<String> = (0..kinds.len()).map(|n| format!("oar_tiles_value_{}", n + 1)).collect();
    format!(
        "WITH oar_tiles_near AS MATERIALIZED (
    SELECT found.* FROM unnest($1::float8[], $2::float8[], $3::float8[], $4::float8[]) AS box (x0, y0, x1, y1),
        LATERAL (
            SELECT {read} FROM {relation}
            WHERE {g} && ST_MakeEnvelope(box.x0, box.y0, box.x1, box.y1, {srid}) {filter}
            OFFSET 0
        ) AS found
)
SELECT {VALUES}.oar_tiles_number FROM unnest({arrays}) WITH ORDINALITY AS {VALUES} ({columns}, oar_tiles_number),
    LATERAL (SELECT FROM (SELECT * FROM oar_tiles_near) AS {name} WHERE ({condition}\n) LIMIT 1) AS member",
        read = layer.columns.join(", "),
        relation = layer.relation,
        g = placement.stored(),
        srid = placement.shape.srid,
        filter = filter(layer),
        arrays = arrays.join(", "),
        columns = columns.join(", "),
    )
}

/// The number of the first parameter with values.
pub(in crate::postgis) fn first_value(layer: &Layer, boxes: usize) -> usize {
    let boxes = if boxes > 0 { 4 } else { 0 };
    let query = if layer.is_query() { 6 } else { 0 };
    boxes + query + 1
}

fn key(layer: &Layer) -> String {
    let columns: Vec<String> = layer.key.iter().map(|key| key.quoted.clone()).collect();
    format!("pg_catalog.concat(ROW({}))", columns.join(", "))
}
