//! Types of values in a configuration, for the sections that the parts of the program read.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Gives a type the JSON of its text: `Display` and `FromStr`.
macro_rules! is_text_in_json {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Gives a type a `Debug` that shows its name alone: what is in it is secret, or has no text.
macro_rules! shows_its_name_alone {
    ($type:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($type))
            }
        }
    };
}

/// Gives a type the schema of the type that it is read as.
macro_rules! has_schema_of {
    ($type:ident, $read:ty, inline = $inline:literal) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                $inline
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$read as schemars::JsonSchema>::json_schema(generator)
            }
        }
    };
}

pub(crate) use {has_schema_of, is_text_in_json, shows_its_name_alone};

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

has_schema_of!(TimeSpan, String, inline = true);

/// A text that `Debug` hides.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl Secret {
    /// Replaces the secret in a text: a server may repeat the secret that it was sent.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "(hidden)")
    }
}

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
