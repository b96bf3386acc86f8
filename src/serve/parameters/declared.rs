//! The parameters that a tileset declares.

use std::num::NonZeroUsize;

use regex_lite::Regex;
use serde_json::{Map, Value, json};

/// The type of a parameter's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    /// Any text.
    Text,
    /// A whole number of 64 bits.
    Integer,
    /// A finite number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Four numbers: west, south, east, north, in degrees.
    Box,
}

impl ParameterType {
    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ParameterType::Text => "text",
            ParameterType::Integer => "integer",
            ParameterType::Number => "number",
            ParameterType::Boolean => "boolean",
            ParameterType::Box => "box",
        }
    }
}

/// The case of a text's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LetterCase {
    /// As it was written.
    #[default]
    Keep,
    /// Lower case.
    Lower,
    /// Upper case.
    Upper,
}

/// The conditions that the values of a parameter must meet.
#[derive(Debug, Clone)]
pub struct ParameterBounds {
    /// The case to which texts are converted.
    pub case: LetterCase,
    /// The values that are allowed, in that case; empty for all.
    pub allowed: Vec<String>,
    /// The pattern that a text must match from its beginning to its end. Matching takes time in proportion to pattern and text.
    pub pattern: Option<Regex>,
    /// The longest text, in characters.
    pub max_length: usize,
    /// The least number.
    pub min: Option<f64>,
    /// The greatest number.
    pub max: Option<f64>,
}

/// A parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name: lower-case letters, digits and `_`.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The type of its values.
    pub kind: ParameterType,
    /// The most values that a request may give; `None` if it has a single value and is not a list.
    pub most: Option<NonZeroUsize>,
    /// The conditions that its values must meet.
    pub bounds: ParameterBounds,
}

impl Parameter {
    /// The parameter as the TileJSON describes it.
    fn json(&self) -> Value {
        let list = if self.most.is_some() { "[]" } else { "" };
        let mut json = Map::new();
        json.insert("name".to_owned(), self.name.clone().into());
        json.insert("type".to_owned(), format!("{}{list}", self.kind.name()).into());
        if let Some(description) = &self.description {
            json.insert("description".to_owned(), description.clone().into());
        }
        if !self.bounds.allowed.is_empty() {
            json.insert("allowed".to_owned(), json!(self.bounds.allowed));
        }
        for (name, bound) in [("min", self.bounds.min), ("max", self.bounds.max)] {
            if let Some(bound) = bound {
                json.insert(name.to_owned(), bound.into());
            }
        }
        Value::Object(json)
    }
}

/// The parameters of a tileset, in the order of the configuration, which is also the order of their values in keys.
#[derive(Debug, Clone, Default)]
pub struct TilesetParameters(pub Vec<Parameter>);

/// The parameters as a TileJSON describes them.
pub(crate) fn parameters_json(parameters: &TilesetParameters) -> Value {
    parameters.0.iter().map(Parameter::json).collect()
}
