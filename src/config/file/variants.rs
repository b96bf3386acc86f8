//! The keys of `[tileset.variants]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A family of tilesets that differ in the values of parameters.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VariantsSection {
    pub(in crate::config) values: VariantList,
    #[serde(rename = "where", default)]
    pub(in crate::config) filter: BTreeMap<String, String>,
    pub(in crate::config) output: String,
    pub(in crate::config) all: Option<std::path::PathBuf>,
}

/// The values of the parameters: a query, or a list of tables of names and values.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an SQL query, or a list of tables such as [{ country = \"bd\" }, { country = \"in\" }]")]
pub(in crate::config) enum VariantList {
    /// `"SELECT …"`
    Query(String),
    /// `[{ country = "bd" }, …]`
    Listed(#[schemars(with = "Vec<BTreeMap<String, serde_json::Value>>")] Vec<toml::Table>),
}
