//! A layer restricted to the rows that a request wants, by further conditions. Their values are held by settings of the session, never by a
//! statement's text.

use serde_json::{Map, Value};

use super::{CalledFunction, Layer, LayerOptions, OnTileError};

/// The prefix of the settings' names. The dot makes them custom settings, which every role may set.
const PREFIX: &str = "oar_tiles.parameter_";

/// The setting of a session that holds the values of a parameter.
pub(in crate::postgis) fn setting(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The values of a parameter as SQL: an array of texts, read from a setting of the session. Without the setting, the statement fails. `name` consists
/// of lower-case letters, digits and `_`.
#[must_use]
pub fn parameter_array(name: &str) -> String {
    format!("pg_catalog.current_setting('{}')::pg_catalog.text[]", setting(name))
}

/// Joins a filter, if there is one, and further conditions with AND.
fn with_conditions(filter: Option<&str>, conditions: &[&str]) -> Option<String> {
    let all: Vec<String> =
        filter.into_iter().chain(conditions.iter().copied()).map(|condition| format!("({condition}\n)")).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

impl Layer {
    /// The layer restricted to rows that also fulfil all `conditions`. If the layer calls a function that takes an object, `members` are added to the
    /// object.
    #[must_use]
    pub fn narrowed(&self, conditions: &[&str], members: &Map<String, Value>) -> Layer {
        // A tile of which a value is the cause must not be taken for one whose rows are.
        let mut narrowed = Layer { on_tile_error: OnTileError::Fail, ..self.clone() };
        if !conditions.is_empty() {
            narrowed.filter = with_conditions(self.filter.as_deref(), conditions);
        }
        if let Some(CalledFunction { query: Some(query), .. }) = &mut narrowed.function {
            // The text was written by this program, so it can be parsed.
            let mut object: Map<String, Value> = serde_json::from_str(query).unwrap_or_default();
            object.extend(members.clone());
            *query = Value::Object(object).to_string();
        }
        narrowed
    }
}

impl LayerOptions {
    /// The options with further conditions for rows.
    #[must_use]
    pub fn narrowed(&self, conditions: &[&str]) -> LayerOptions {
        LayerOptions { filter: with_conditions(self.filter.as_deref(), conditions), ..self.clone() }
    }
}
