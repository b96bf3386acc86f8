//! Types of values in a configuration, for the sections that the parts of the program read.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A duration such as `30s` or `10m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(pub Duration);

impl Deref for TimeSpan {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<TimeSpan> for Duration {
    fn from(span: TimeSpan) -> Duration {
        span.0
    }
}

impl From<Duration> for TimeSpan {
    fn from(span: Duration) -> TimeSpan {
        TimeSpan(span)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeSpan, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(&text) {
            Ok(duration) => Ok(TimeSpan(duration)),
            Err(error) => Err(D::Error::custom(format!("\"{text}\" is no duration ({error}): write 30s, 10m or 0s"))),
        }
    }
}

impl JsonSchema for TimeSpan {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// A text that `Debug` hides.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A text for all zooms, or one for each list of zooms.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a table of zooms and texts")]
pub enum TextByZoom {
    All(String),
    ByZoom(#[schemars(with = "std::collections::BTreeMap<String, String>")] toml::Table),
}

/// Values that a configuration knows by name, if no derived enum can have these names: one name stands for no value, or
/// a value has several parts.
pub(crate) trait Named: Clone + 'static {
    /// The names and what they stand for.
    const NAMES: &'static [(&'static str, Self)];
}

/// Reads a value by its name, for `#[serde(deserialize_with = …)]`. The message is that of a derived enum.
pub(crate) fn by_name<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let given = String::deserialize(deserializer)?;
    T::NAMES.iter().find(|(name, _)| *name == given).map(|(_, value)| value.clone()).ok_or_else(|| {
        let names: Vec<String> = T::NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
        D::Error::custom(format!("unknown variant `{given}`, expected one of {}", names.join(", ")))
    })
}

/// The schema of such a value, for `#[schemars(schema_with = …)]`.
pub(crate) fn names_schema<T: Named>(_generator: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
    json_schema!({ "type": "string", "enum": names })
}

/// For a section in which every key may be missing: the sample has its default.
pub(crate) fn no_key_is_required(schema: &mut Schema) {
    schema.remove("required");
}
