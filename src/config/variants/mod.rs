//! Variants: a family of tilesets that differ in the values of parameters.
//!
//! | file | what |
//! |---|---|
//! | `template` | the output, with `{name}` for the values |
//! | `listed` | values that the file lists |

mod listed;
mod template;

use std::path::PathBuf;

use super::error::ConfigError;
use crate::postgis::{Query, VariantParameter, VariantTable, bound_condition};

pub(super) use listed::table_of;
pub(super) use template::NoTemplate;
pub use template::{OutputTemplate, ValueSegment};

use template::{NoSegment, is_parameter_name};

/// The variants of a tileset.
#[derive(Debug, Clone)]
pub struct VariantSettings {
    /// The values.
    pub values: VariantValues,
    /// The conditions that choose the rows of layers.
    pub conditions: Vec<VariantCondition>,
    /// The output of each variant.
    pub output: OutputTemplate,
    /// The output of the tileset without conditions, if it is wanted.
    pub all: Option<PathBuf>,
    /// The address under which clients find a variant, with `{name}` for the values.
    pub(super) public_url: Option<String>,
    /// The addresses under which CDNs know a variant, with `{name}` for the values.
    pub(super) purge_urls: Vec<String>,
}

/// The source of the values.
#[derive(Debug, Clone)]
pub enum VariantValues {
    /// A query.
    Query(Query),
    /// The configuration.
    Listed(VariantTable),
}

/// The condition on a layer's rows, an SQL expression with `!name!` for the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantCondition {
    /// The name of the layer.
    pub layer: String,
    /// The condition.
    pub sql: String,
}

/// The segment in place of `{name}` in the addresses of the tileset without conditions.
pub(super) const ALL_SEGMENT: &str = "all";

/// The values by which a tileset is a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its values.
    pub values: Vec<BoundValue>,
    /// The values in its output, as segments.
    pub segments: Vec<ValueSegment>,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundValue {
    /// The parameter.
    pub parameter: VariantParameter,
    /// The value as text.
    pub text: String,
}

impl Variant {
    /// Everything that decides the variant's bytes in addition to its layers, for the fingerprint.
    #[must_use]
    pub fn definition(&self) -> String {
        let one = |value: &BoundValue| (value.parameter.name.clone(), value.parameter.kind.clone(), value.text.clone());
        format!("variant {:?}", self.values.iter().map(one).collect::<Vec<_>>())
    }

    /// The values in its output, as a path.
    #[must_use]
    pub fn key(&self) -> String {
        joined(&self.segments)
    }
}

pub(super) fn joined(segments: &[ValueSegment]) -> String {
    segments.iter().map(ValueSegment::as_str).collect::<Vec<_>>().join("/")
}

impl VariantSettings {
    pub(super) fn wrong(field: &str, what: String) -> ConfigError {
        ConfigError::Variants {
            key: if field.contains('.') { field.to_owned() } else { format!("tileset.variants.{field}") },
            what,
        }
    }

    /// Checks that the output and the conditions name only parameters that exist.
    ///
    /// # Errors
    /// If they do not.
    pub fn check_parameters(&self, parameters: &[VariantParameter]) -> Result<(), ConfigError> {
        let known = || parameters.iter().map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(", ");
        let is_known = |name: &str| parameters.iter().any(|parameter| parameter.name == name);
        if let Some(other) = self.output.names().into_iter().find(|name| !is_known(name)) {
            let what = format!("has {{{other}}}, which is no value: there is {}", known());
            return Err(VariantSettings::wrong("output", what));
        }
        for condition in &self.conditions {
            bound_condition(&condition.sql, parameters).map_err(|error| {
                let what = format!("for layer \"{}\" {error} (values: {})", condition.layer, known());
                VariantSettings::wrong("where", what)
            })?;
        }
        Ok(())
    }

    /// The segments of a variant in its output.
    ///
    /// # Errors
    /// If a value cannot be a part of a path.
    pub fn segments(&self, parameters: &[VariantParameter], row: &[String]) -> Result<Vec<ValueSegment>, ConfigError> {
        let of = |name: &&str| {
            let number = parameters.iter().position(|parameter| parameter.name == **name);
            let value = number.and_then(|number| row.get(number)).map_or("", String::as_str);
            ValueSegment::of(value).map_err(|why| {
                let what = match why {
                    NoSegment::Empty => format!("give an empty text for {name}, which is a part of the output: leave such rows out, or let coalesce name them"),
                    NoSegment::Long => format!("give a {name} of {} bytes, which is too long for the name of a file: add a short value, such as a number, and write that into the output", value.len()),
                };
                VariantSettings::wrong("values", what)
            })
        };
        self.output.names().iter().map(of).collect()
    }

    /// The output of a variant.
    #[must_use]
    pub fn output_of(&self, segments: &[ValueSegment]) -> PathBuf {
        PathBuf::from(self.output.filled(segments))
    }
}

/// A text in which the `{name}` of variants are replaced, so that it can be checked as an address.
pub(super) fn without_names(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once('{') {
        plain.push_str(before);
        match behind.split_once('}') {
            Some((name, after)) if is_parameter_name(name) => {
                plain.push_str(ALL_SEGMENT);
                rest = after;
            }
            _ => {
                plain.push('{');
                rest = behind;
            }
        }
    }
    plain + rest
}
