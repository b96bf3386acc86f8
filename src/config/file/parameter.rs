//! The sections `[[tileset.parameter]]` as they are written.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;

/// A section `[[tileset.parameter]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ParameterSection {
    pub(in crate::config) name: String,
    pub(in crate::config) description: Option<String>,
    #[serde(rename = "type")]
    pub(in crate::config) kind: ParameterTypeName,
    #[serde(default, rename = "where")]
    pub(in crate::config) conditions: BTreeMap<String, String>,
    pub(in crate::config) case: Option<CaseName>,
    pub(in crate::config) allowed: Option<Vec<AllowedValue>>,
    pub(in crate::config) pattern: Option<String>,
    pub(in crate::config) max_length: Option<NonZeroUsize>,
    pub(in crate::config) max_values: Option<NonZeroUsize>,
    pub(in crate::config) min: Option<f64>,
    pub(in crate::config) max: Option<f64>,
}

/// The type of a parameter's values, or a list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in crate::config) enum ParameterTypeName {
    #[serde(rename = "text")]
    Text,
    #[serde(rename = "text[]")]
    Texts,
    #[serde(rename = "integer")]
    Integer,
    #[serde(rename = "integer[]")]
    Integers,
    #[serde(rename = "number")]
    Number,
    #[serde(rename = "number[]")]
    Numbers,
    #[serde(rename = "boolean")]
    Boolean,
    #[serde(rename = "box")]
    Box,
}

/// The case of a text's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum CaseName {
    #[default]
    Keep,
    Lower,
    Upper,
}

/// A value that is allowed.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a number")]
pub(in crate::config) enum AllowedValue {
    Whole(i64),
    Number(f64),
    Text(String),
}

impl AllowedValue {
    /// The value as a request would give it.
    pub(in crate::config) fn text(&self) -> String {
        match self {
            AllowedValue::Whole(number) => number.to_string(),
            AllowedValue::Number(number) => number.to_string(),
            AllowedValue::Text(text) => text.clone(),
        }
    }
}
