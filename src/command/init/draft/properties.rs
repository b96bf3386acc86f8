//! The properties of a layer, from the columns of its relation. A column that MVT cannot hold is cast, or left out with a comment.

use std::collections::BTreeSet;

use super::text::{comment, key, plain_list, string};
use crate::postgis::{CatalogColumn, DiscoveredRelation, quoted};

/// The names of the properties of clusters. Properties of rows must not have them.
const CLUSTER_NAMES: [&str; 4] = ["cluster", "cluster_id", "point_count", "point_count_abbreviated"];

/// The most properties that are chosen from many columns. Each row of each tile carries all of them.
const MAX_CHOSEN_PROPERTIES: usize = 12;

/// How a column is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is a property without a cast.
    Plain,
    /// It is a property once it is cast to this type.
    Cast(&'static str),
    /// It is left out, for this reason.
    LeftOut(&'static str),
}

/// The properties of a layer.
#[derive(Debug)]
pub(super) struct DraftProperties {
    /// The name and SQL expression of each property; `None` if the expression is the column of this name.
    named: Vec<(String, Option<String>)>,
    /// The columns that the properties use.
    columns: Vec<String>,
    /// The columns that are left out, and why.
    left_out: Vec<String>,
    /// The names of the columns that are left out because there are many.
    not_chosen: Vec<String>,
}

/// The columns that become properties if there are many: the key's columns, a name, and the columns with a value in the most rows. `None` if all
/// do.
fn chosen<'a>(found: &'a DiscoveredRelation, geometry: &str) -> Option<BTreeSet<&'a String>> {
    let relation = &found.relation;
    let key = relation.key().map_or(&[][..], |key| &key.columns);
    let is_key = |column: &CatalogColumn| key.contains(&column.name) || found.distinct.as_ref() == Some(&column.name);
    let filled = |column: &CatalogColumn| found.filled.get(&column.name).copied().unwrap_or_default();
    // The texts of whole documents are long, and a map does not show them.
    let is_long = |column: &CatalogColumn| matches!(treatment(column, geometry), Treatment::Cast("text"));
    let is_name = |column: &CatalogColumn| matches!(&*column.name.to_lowercase(), "name" | "title" | "label");
    let mut columns: Vec<&CatalogColumn> = relation.columns.iter().collect();
    columns.retain(|column| !matches!(treatment(column, geometry), Treatment::LeftOut(_)));
    if found.filled.is_empty() || columns.len() <= MAX_CHOSEN_PROPERTIES {
        return None;
    }
    columns.retain(|column| is_key(column) || filled(column) > 0 && !is_long(column));
    columns.sort_by_key(|column| (!is_key(column), !is_name(column), std::cmp::Reverse(filled(column))));
    columns.truncate(MAX_CHOSEN_PROPERTIES);
    Some(columns.into_iter().map(|column| &column.name).collect())
}

fn treatment(column: &CatalogColumn, geometry: &str) -> Treatment {
    if column.name == geometry {
        return Treatment::LeftOut("");
    }
    if !column.readable {
        return Treatment::LeftOut("the role may not read it");
    }
    if column.is_spatial {
        return Treatment::LeftOut("another geometry");
    }
    if column.is_enum {
        return Treatment::Plain;
    }
    match column.base.as_str() {
        "bool" | "int2" | "int4" | "int8" | "float4" | "float8" | "text" | "varchar" | "bpchar" | "name" | "citext"
        | "date" | "timestamp" | "timestamptz" | "time" | "timetz" | "interval" | "uuid" | "inet" | "cidr"
        | "macaddr" | "money" => Treatment::Plain,
        "numeric" => Treatment::Cast("float8"),
        "bytea" | "_bytea" => Treatment::LeftOut("binary data"),
        "tsvector" | "tsquery" => Treatment::LeftOut("an index of words"),
        "xml" | "raster" | "topogeometry" | "box2d" | "box3d" => Treatment::LeftOut("not a value of a map"),
        base if base.starts_with("_geom") || base.starts_with("_geog") || base.starts_with("_raster") => {
            Treatment::LeftOut("geometries")
        }
        _ if column.is_composite => Treatment::LeftOut("a row of its own"),
        _ if column.category == "G" => Treatment::LeftOut("a geometry that PostGIS does not draw"),
        _ => Treatment::Cast("text"),
    }
}

impl DraftProperties {
    /// The properties of a layer that draws the column `geometry`. `in_clusters` is true if the layer has clusters.
    pub(super) fn of(found: &DiscoveredRelation, geometry: &str, in_clusters: bool) -> DraftProperties {
        let (mut named, mut columns, mut left_out, mut not_chosen) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let chosen = chosen(found, geometry);
        for column in &found.relation.columns {
            let name = if in_clusters && CLUSTER_NAMES.contains(&column.name.as_str()) {
                format!("{}_of_row", column.name)
            } else {
                column.name.clone()
            };
            let sql = match treatment(column, geometry) {
                Treatment::Plain if name == column.name => None,
                Treatment::Plain => Some(quoted(&column.name)),
                Treatment::Cast(kind) => Some(format!("{}::{kind}", quoted(&column.name))),
                Treatment::LeftOut("") => continue,
                Treatment::LeftOut(why) => {
                    left_out.push(format!("{} ({}, {why})", column.name, column.called));
                    continue;
                }
            };
            if chosen.as_ref().is_some_and(|chosen| !chosen.contains(&column.name)) {
                not_chosen.push(column.name.clone());
                continue;
            }
            named.push((name, sql));
            columns.push(column.name.clone());
        }
        DraftProperties { named, columns, left_out, not_chosen }
    }

    /// The columns that the properties use.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The lines for the properties among the layer's own keys.
    pub(super) fn inline(&self) -> String {
        let mut text = String::new();
        if !self.left_out.is_empty() {
            text.push_str(&comment(&format!("Left out: {}.", self.left_out.join(", "))));
        }
        if !self.not_chosen.is_empty() {
            text.push_str(&comment(&format!(
                "Of {} columns these have a value in the most rows; each feature of each tile carries them. Add what the map needs, take out the rest. The others: {}.",
                self.named.len() + self.not_chosen.len(),
                self.not_chosen.join(", ")
            )));
        }
        if self.named.iter().all(|(_, sql)| sql.is_none()) {
            text.push_str(&format!("properties = {}\n", plain_list(self.named.iter().map(|(name, _)| name))));
        }
        text
    }

    /// The table of properties after the layer's own keys; empty if all properties are plain columns.
    pub(super) fn table(&self) -> String {
        if self.named.iter().all(|(_, sql)| sql.is_none()) {
            return String::new();
        }
        let line = |(name, sql): &(String, Option<String>)| {
            let sql = sql.clone().unwrap_or_else(|| quoted(name));
            format!("{} = {}\n", key(name), string(&sql))
        };
        format!("[layer.properties]\n{}", self.named.iter().map(line).collect::<String>())
    }
}

/// A list of names for people.
pub(super) fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| string(name)).collect::<Vec<_>>().join(", ")
}
