//! Types of values in a configuration, for the sections that the parts of the program read.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::clock::since_1970;

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

/// A part of each day in UTC, such as `02:00-05:00`; one whose end comes before its beginning contains midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HoursOfDay {
    /// In minutes since midnight.
    begin: u16,
    /// In minutes since midnight; that of the next day is 24:00.
    end: u16,
}

impl HoursOfDay {
    /// True if the moment lies in them; their end does not.
    pub(crate) fn contain(self, now: SystemTime) -> bool {
        let minute = since_midnight(now).as_secs() / 60;
        let HoursOfDay { begin, end } = self;
        let (begun, ended) = (minute >= u64::from(begin), minute >= u64::from(end));
        if begin < end { begun && !ended } else { begun || !ended }
    }

    /// How long it takes until they begin the next time: a day if they begin at this moment.
    pub(crate) fn begin_in(self, now: SystemTime) -> Duration {
        let (begin, now) = (Duration::from_secs(u64::from(self.begin) * 60), since_midnight(now));
        let today = begin.checked_sub(now).filter(|rest| !rest.is_zero());
        today.unwrap_or_else(|| (begin + DAY).saturating_sub(now))
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The time since the last midnight in UTC.
fn since_midnight(now: SystemTime) -> Duration {
    let since = since_1970(now);
    Duration::new(since.as_secs() % DAY.as_secs(), since.subsec_nanos())
}

impl fmt::Display for HoursOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HoursOfDay { begin, end } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", begin / 60, begin % 60, end / 60, end % 60)
    }
}

/// The error for a text that names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no part of a day: write two times in UTC, such as \"02:00-05:00\", or \"00:00-24:00\" for the whole day"
)]
pub(crate) struct HoursOfDayError(String);

impl FromStr for HoursOfDay {
    type Err = HoursOfDayError;

    fn from_str(text: &str) -> Result<HoursOfDay, HoursOfDayError> {
        let number = |text: &str, below: u16| {
            let is_plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|number| is_plain && *number < below)
        };
        let minutes = |time: &str| {
            let (hour, minute) = time.trim().split_once(':')?;
            Some(number(hour, 25)? * 60 + number(minute, 60)?)
        };
        let hours = text.split_once('-').and_then(|(begin, end)| {
            let (begin, end) = (minutes(begin)?, minutes(end)?);
            (begin != end && begin < 24 * 60 && end <= 24 * 60).then_some(HoursOfDay { begin, end })
        });
        hours.ok_or_else(|| HoursOfDayError(text.to_owned()))
    }
}

is_text_in_json!(HoursOfDay);
has_schema_of!(HoursOfDay, String, inline = true);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_of_a_day_are_read_and_may_contain_midnight() {
        let at = |minute: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + minute * 60 + 59);
        for (text, shown, inside, outside) in [
            ("02:00-05:30", "02:00-05:30", [120, 200, 329], [0, 119, 330]),
            ("22:00 - 4:05", "22:00-04:05", [1_320, 0, 244], [1_319, 245, 700]),
            ("5:00-00:00", "05:00-00:00", [300, 301, 1_439], [0, 1, 299]),
            ("5:00-24:00", "05:00-24:00", [300, 301, 1_439], [0, 1, 299]),
        ] {
            let hours: HoursOfDay = text.parse().unwrap();
            assert_eq!(hours.to_string(), shown);
            assert!(inside.into_iter().all(|minute| hours.contain(at(minute))), "{text}");
            assert!(!outside.into_iter().any(|minute| hours.contain(at(minute))), "{text}");
        }
        let whole: HoursOfDay = "00:00-24:00".parse().unwrap();
        assert!((0..1_440).all(|minute| whole.contain(at(minute))) && whole.to_string() == "00:00-24:00");
        for text in [
            "",
            "-",
            "02:00",
            "02:00-02:00",
            "24:00-02:00",
            "02:00-24:01",
            "02:00-25:00",
            "02:60-03:00",
            "2-5",
            "+2:00-05:00",
            "02:00-05:00Z",
        ] {
            let error = text.parse::<HoursOfDay>().unwrap_err().to_string();
            let expected = "is no part of a day: write two times in UTC, such as \"02:00-05:00\", or \"00:00-24:00\" for the whole day";
            assert_eq!(error, format!("\"{text}\" {expected}"));
        }
    }
}
