//! Live parameters: what a request for a live tile may ask in addition to its address,
//! `…/{z}/{x}/{y}.pbf?country=BD&country=IN`.
//!
//! ```text
//! query ─► decoded, undeclared names dropped ─► typed, bounded ─► one order, no repeats ─┬─► key of the tile
//!                                                                                        └─► values for the database
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `given` | the query of a request |
//! | `polygon` | polygons in it |
//! | `map` | the values for which those of a request stand |
//! | `posted` | filters that were posted, because they are too long for an address |
//! | `gate` | how many sets of values may be new in a minute |
//!
//! A value never becomes a part of an SQL text.

mod gate;
mod given;
mod map;
mod polygon;
mod posted;

use std::num::NonZeroUsize;

use regex_lite::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(crate) use gate::{KeyCost, KeyGate, NewKey, TooManyKeys};
pub(crate) use given::{BadQuery, given};
pub use given::{GivenParameter, GivenParameters, ParametersKey, UndeclaredNames};
pub use map::ValueMap;
pub(crate) use posted::{POSTED_NAME, PUBLICATION_NAME, PostedFilters, PostedQuery, PublicationName, of_form, of_json};

// The parameters that a tileset declares.

/// The type of a parameter's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    Text,
    /// A whole number of 64 bits.
    Integer,
    Number,
    /// `true` or `false`.
    Boolean,
    /// Four numbers: west, south, east, north, in degrees.
    Box,
    /// Whole numbers of 64 bits from one to another, both included. One of them may be missing.
    Range,
    /// A polygon, or several, in degrees.
    Polygon,
}

impl ParameterType {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ParameterType::Text => "text",
            ParameterType::Integer => "integer",
            ParameterType::Number => "number",
            ParameterType::Boolean => "boolean",
            ParameterType::Box => "box",
            ParameterType::Range => "range",
            ParameterType::Polygon => "polygon",
        }
    }
}

/// The case of a text's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LetterCase {
    /// As it was written.
    #[default]
    Keep,
    Lower,
    Upper,
}

/// The conditions that the values of a parameter must meet.
#[derive(Debug, Clone)]
pub struct ParameterBounds {
    /// The case to which texts are converted.
    pub case: LetterCase,
    /// The values that are allowed, in that case; empty for all.
    pub allowed: Vec<String>,
    /// The pattern that a text must match from its beginning to its end. Matching takes time in proportion to pattern
    /// and text.
    pub pattern: Option<Regex>,
    /// The longest text, in characters.
    pub max_length: usize,
    /// The least number.
    pub min: Option<f64>,
    /// The greatest number.
    pub max: Option<f64>,
}

#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name: lower-case letters, digits and `_`.
    pub name: String,
    pub description: Option<String>,
    pub kind: ParameterType,
    /// The most values that a request may give; `None` if it has a single value and is not a list.
    pub most: Option<NonZeroUsize>,
    /// The conditions that its values must meet.
    pub bounds: ParameterBounds,
    /// What its values stand for; `None` if they stand for themselves.
    pub map: Option<ValueMap>,
}

impl Parameter {
    /// True if a request that gives this text chooses the rows that have it as their value. A range is given as a
    /// single number, and an empty text is no value.
    pub(crate) fn offers(&self, text: &str) -> bool {
        let read = ParameterValue::read(self, text, 0);
        !text.is_empty()
            && read.is_ok_and(|value| match &self.map {
                Some(map) => map.is_meant(&value, text),
                None => self.kind == ParameterType::Range || value.texts == [text],
            })
    }

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

// One value of a parameter: checked, and in the canonical form that equal values share.

/// The most digits and signs of a number: more than any number needs.
const MAX_NUMBER_BYTES: usize = 64;

/// A value in its canonical form. Its order is the order of values in a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParameterValue {
    /// The text that the database reads as the type of the parameter; for a box, the text of each side; for a range, of
    /// both bounds, empty for one that is missing.
    pub texts: Vec<String>,
}

impl ParameterValue {
    /// Reads a value, which is decoded already; the error says what is wrong with it. A polygon may have this many
    /// positions.
    pub(crate) fn read(parameter: &Parameter, text: &str, positions: usize) -> Result<ParameterValue, String> {
        let one = |text: String| ParameterValue { texts: vec![text] };
        match parameter.kind {
            ParameterType::Text => text_of(parameter, text).map(one),
            ParameterType::Boolean => match text {
                "true" => Ok(one("true".to_owned())),
                "false" => Ok(one("false".to_owned())),
                _ => Err("is neither true nor false".to_owned()),
            },
            ParameterType::Integer => {
                let number = whole(text).ok_or("is no whole number of 64 bits")?;
                within(parameter, number as f64)?;
                is_allowed(parameter, number.to_string()).map(one)
            }
            ParameterType::Number => {
                let number = number(text)?;
                within(parameter, number)?;
                is_allowed(parameter, number.to_string()).map(one)
            }
            ParameterType::Box => sides(text).map(|texts| ParameterValue { texts }),
            ParameterType::Range => range(parameter, text).map(|texts| ParameterValue { texts }),
            ParameterType::Polygon => polygon::polygon(text, positions).map(one),
        }
    }

    /// The value as JSON, for a function of the database.
    pub(crate) fn json(&self, kind: ParameterType) -> Value {
        let number = |text: &String| -> Value {
            text.parse::<i64>()
                .map(Value::from)
                .or_else(|_fraction| text.parse::<f64>().map(Value::from))
                .unwrap_or_default()
        };
        match kind {
            ParameterType::Text | ParameterType::Polygon => {
                self.texts.first().map_or(Value::Null, |text| text.clone().into())
            }
            ParameterType::Boolean => self.texts.first().is_some_and(|text| text == "true").into(),
            ParameterType::Integer | ParameterType::Number => self.texts.first().map_or(Value::Null, number),
            ParameterType::Box | ParameterType::Range => self.texts.iter().map(number).collect(),
        }
    }
}

fn text_of(parameter: &Parameter, text: &str) -> Result<String, String> {
    let bounds = &parameter.bounds;
    // This check comes before any work whose time grows with the text.
    if text.chars().nth(bounds.max_length).is_some() {
        return Err(format!("has more than {} characters", bounds.max_length));
    }
    if text.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    let text = match bounds.case {
        LetterCase::Keep => text.to_owned(),
        LetterCase::Lower => text.to_lowercase(),
        LetterCase::Upper => text.to_uppercase(),
    };
    if bounds.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(&text)) {
        return Err("does not match the pattern".to_owned());
    }
    is_allowed(parameter, text)
}

fn is_allowed(parameter: &Parameter, text: String) -> Result<String, String> {
    let allowed = &parameter.bounds.allowed;
    if allowed.is_empty() || allowed.contains(&text) { Ok(text) } else { Err("is not one of those allowed".to_owned()) }
}

/// Reads a finite number of digits, a point and an exponent. Other texts that `f64` reads, such as `inf` and `nan`, are
/// refused.
fn number(text: &str) -> Result<f64, String> {
    let is_plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    let read = text.parse::<f64>().ok().filter(|number| number.is_finite());
    // Its canonical form has no exponent.
    let is_short = |number: &f64| number.to_string().len() <= MAX_NUMBER_BYTES;
    match read.filter(|_| text.len() <= MAX_NUMBER_BYTES && text.chars().all(is_plain)).filter(is_short) {
        // -0 becomes 0, so that zero has one form.
        Some(number) => Ok(if number == 0.0 { 0.0 } else { number }),
        None => Err("is no number".to_owned()),
    }
}

/// Reads a whole number of 64 bits.
fn whole(text: &str) -> Option<i64> {
    text.parse().ok().filter(|_| text.len() <= MAX_NUMBER_BYTES)
}

/// The bounds of a range: `10..20`, `10..`, `..20`, or one number alone.
fn range(parameter: &Parameter, text: &str) -> Result<Vec<String>, String> {
    let wrong = || "is no range of whole numbers: write 10..20, 10.. or ..20".to_owned();
    let (least, greatest) = text.split_once("..").unwrap_or((text, text));
    let bound = |text: &str| {
        let number = if text.is_empty() { None } else { Some(whole(text).ok_or_else(wrong)?) };
        number.map_or(Ok(()), |number| within(parameter, number as f64)).map(|()| number)
    };
    match (bound(least)?, bound(greatest)?) {
        (None, None) => Err(wrong()),
        (Some(least), Some(greatest)) if least > greatest => {
            Err(format!("is no range: {least} is greater than {greatest}"))
        }
        (least, greatest) => {
            Ok([least, greatest].map(|bound| bound.map_or_else(String::new, |bound| bound.to_string())).into())
        }
    }
}

fn within(parameter: &Parameter, number: f64) -> Result<(), String> {
    let bounds = &parameter.bounds;
    match (bounds.min.filter(|min| number < *min), bounds.max.filter(|max| number > *max)) {
        (Some(min), _) => Err(format!("is less than {min}")),
        (_, Some(max)) => Err(format!("is more than {max}")),
        _ => Ok(()),
    }
}

fn sides(text: &str) -> Result<Vec<String>, String> {
    let wrong = || "is no box: write west,south,east,north in degrees".to_owned();
    let sides =
        text.split(',').map(|side| number(side).map_err(|_no_number| wrong())).collect::<Result<Vec<_>, _>>()?;
    let [west, south, east, north] = sides[..] else { return Err(wrong()) };
    let is_longitude = |side: f64| (-180.0..=180.0).contains(&side);
    let is_latitude = |side: f64| (-90.0..=90.0).contains(&side);
    if !is_longitude(west) || !is_longitude(east) || !is_latitude(south) || !is_latitude(north) {
        return Err(wrong());
    }
    if west > east || south > north {
        return Err("is no box: west must not be greater than east, nor south than north".to_owned());
    }
    Ok([west, south, east, north].iter().map(ToString::to_string).collect())
}
