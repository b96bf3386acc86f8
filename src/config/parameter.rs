//! A parameter of live tiles, checked.

use std::collections::BTreeMap;

use crate::serve::{Parameter, ParameterType};

/// A parameter, and the rows that its values choose.
#[derive(Debug, Clone)]
pub struct ParameterSettings {
    /// The parameter.
    pub parameter: Parameter,
    /// For each layer that it concerns, a condition over the rows and over the values, which a session holds.
    pub conditions: BTreeMap<String, String>,
}

impl ParameterSettings {
    /// Values of its type, as an array of the database in text form: the conditions are tried with them.
    #[must_use]
    pub const fn sample(&self) -> &'static str {
        match self.parameter.kind {
            ParameterType::Text => "{a}",
            ParameterType::Integer | ParameterType::Number => "{1}",
            ParameterType::Boolean => "{true}",
            ParameterType::Box => "{0,0,1,1}",
        }
    }
}
