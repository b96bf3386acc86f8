//! The statements that tell which rows of a layer belong to which variant.

use super::cached_rows::in_boxes;
use super::filter;
use super::is_in_world;
use super::render::carried;
use super::survey::near;
use crate::postgis::layer::{Layer, PlaceholderSql};

/// The name under which a condition finds the values of the variants.
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

/// Which variants the rows of a layer belong to: the number of the variant, from 1 on, and the key of the row. `condition` is over the row and the
/// [columns of the values](value_column). The parameters after those of [`row_keys`] are arrays of texts, one for each of `kinds`.
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
