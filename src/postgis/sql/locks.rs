//! Statements that read everything a layer reads. Planning them takes the locks.

use super::{filter_at, without_bounds};
use crate::postgis::layer::Layer;
use crate::postgis::session::quoted;

/// One statement over the rows, and one over the rows of a cell if the layer has aggregates.
pub(in crate::postgis) fn read_statements(layer: &Layer) -> Vec<String> {
    let key = layer.key.iter().map(|column| column.quoted.clone());
    let columns = layer.row_sql().map(str::to_owned).chain([layer.geometry.clone()]).chain(key);
    let columns: Vec<String> = columns.chain(layer.feature_id.iter().map(|column| quoted(column))).collect();
    let aggregates: Vec<String> = layer.aggregates().map(|sql| format!("({}\n)", without_bounds(sql))).collect();
    let lists = [columns, aggregates].into_iter().filter(|list| !list.is_empty());
    let condition = format!("WHERE true {}", filter_at(layer, "0"));
    lists.map(|list| format!("SELECT {} FROM {} {condition}", list.join(", "), layer.relation)).collect()
}
