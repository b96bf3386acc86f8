//! A layer of which a request wants some rows only: further conditions over values that stand in the session, never in a statement.

use serde_json::{Map, Value};

use super::{CalledFunction, Layer, LayerOptions};

/// What stands before the name of a value in the names of settings. A dot makes it a setting that every role may have.
const PREFIX: &str = "oar_tiles.parameter_";

/// The setting of a session that holds the values of a parameter.
pub(in crate::postgis) fn setting(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The values of a parameter as SQL: an array of texts, which a session holds. A statement in a session that does not hold them fails.
/// `name` consists of lower-case letters, digits and `_`.
#[must_use]
pub fn parameter_array(name: &str) -> String {
    format!("pg_catalog.current_setting('{}')::pg_catalog.text[]", setting(name))
}

/// A filter with further conditions.
fn with_conditions(filter: Option<&str>, conditions: &[&str]) -> Option<String> {
    let all: Vec<String> =
        filter.into_iter().chain(conditions.iter().copied()).map(|condition| format!("({condition}\n)")).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

impl Layer {
    /// The layer with the rows that fulfil all of some conditions, too. A function that takes an object gets further members.
    #[must_use]
    pub fn narrowed(&self, conditions: &[&str], members: &Map<String, Value>) -> Layer {
        let mut narrowed = self.clone();
        if !conditions.is_empty() {
            narrowed.filter = with_conditions(self.filter.as_deref(), conditions);
        }
        if let Some(CalledFunction { query: Some(query), .. }) = &mut narrowed.function {
            // It was written by this program.
            let mut object: Map<String, Value> = serde_json::from_str(query).unwrap_or_default();
            object.extend(members.clone());
            *query = Value::Object(object).to_string();
        }
        narrowed
    }
}

impl LayerOptions {
    /// The options with further conditions.
    #[must_use]
    pub fn narrowed(&self, conditions: &[&str]) -> LayerOptions {
        LayerOptions { filter: with_conditions(self.filter.as_deref(), conditions), ..self.clone() }
    }
}
