//! A parameter of live tiles, checked.

use std::collections::BTreeMap;

use crate::serve::{Parameter, ParameterType};

/// A parameter, and the conditions by which its values choose rows.
#[derive(Debug, Clone)]
pub struct ParameterSettings {
    /// The parameter.
    pub parameter: Parameter,
    /// For each layer that the parameter affects, a condition on the rows. It reads the parameter's values, which the session holds.
    pub conditions: BTreeMap<String, String>,
}

impl ParameterSettings {
    /// Sample values of the parameter's type, as an array of the database in text form. The conditions are tried with them.
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
