//! The parameters that a request gives in its query.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::declared::{Parameter, ParameterType, TilesetParameters};
use super::value::ParameterValue;

/// The longest query that is read, in bytes.
const MAX_QUERY_BYTES: usize = 8 << 10;

/// The most names and values of a query, declared or not.
const MAX_PAIRS: usize = 512;

/// The characters that a query escapes: all but the unreserved characters (RFC 3986, section 2.3), and the comma of boxes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b',');

/// What is done with names that the tileset does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UndeclaredNames {
    /// They are dropped, as if they were not there.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
}

/// Why a query cannot be answered; for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadQuery(String);

/// Identifies a set of values: a hash of its canonical form. 0 stands for no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct ParametersKey(pub(crate) u128);

impl ParametersKey {
    /// True if there are values.
    pub(crate) const fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// A parameter with the values of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenParameter {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: ParameterType,
    /// True if it takes several values.
    pub is_list: bool,
    /// The values: sorted, each once, at least one.
    pub values: Vec<ParameterValue>,
}

impl GivenParameter {
    /// The values as a PostgreSQL array in text form. The sides of a box are separate elements.
    #[must_use]
    pub fn array(&self) -> String {
        let escaped = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let elements: Vec<String> = self.values.iter().flat_map(|value| &value.texts).map(escaped).collect();
        format!("{{{}}}", elements.join(","))
    }
}

/// The parameters of a request, at least one, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenParameters {
    /// The parameters.
    pub given: Vec<GivenParameter>,
    /// Their key.
    pub key: ParametersKey,
}

impl GivenParameters {
    /// The query in its canonical form, without a question mark: names in the order of the configuration, values sorted.
    #[must_use]
    pub fn query(&self) -> String {
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let pairs = self.given.iter().flat_map(|parameter| {
            let value = |value: &ParameterValue| format!("{}={}", parameter.name, escaped(&value.texts.join(",")));
            parameter.values.iter().map(value).collect::<Vec<_>>()
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The values by name, as functions of the database get them.
    #[must_use]
    pub fn json(&self) -> Map<String, Value> {
        let value = |parameter: &GivenParameter| match &parameter.values[..] {
            [one] if !parameter.is_list => one.json(parameter.kind),
            all => all.iter().map(|value| value.json(parameter.kind)).collect(),
        };
        self.given.iter().map(|parameter| (parameter.name.clone(), value(parameter))).collect()
    }
}

/// Reads the query of a request for a tile; `None` if it gives no parameter. An empty value counts as not given.
///
/// # Errors
/// If a value is not allowed, or a name is not declared and undeclared names are refused.
pub(crate) fn given(
    declared: &TilesetParameters,
    query: Option<&str>,
    undeclared: UndeclaredNames,
) -> Result<Option<GivenParameters>, BadQuery> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    if declared.0.is_empty() && undeclared == UndeclaredNames::Drop {
        return Ok(None);
    }
    if query.len() > MAX_QUERY_BYTES {
        return Err(BadQuery(format!("the query has more than {MAX_QUERY_BYTES} bytes")));
    }
    let mut values: BTreeMap<usize, Vec<ParameterValue>> = BTreeMap::new();
    for (count, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count >= MAX_PAIRS {
            return Err(BadQuery(format!("the query has more than {MAX_PAIRS} names")));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let index = decoded(name).and_then(|name| declared.0.iter().position(|parameter| parameter.name == name));
        let Some((index, parameter)) = index.and_then(|index| Some((index, declared.0.get(index)?))) else {
            match undeclared {
                UndeclaredNames::Drop => continue,
                UndeclaredNames::Refuse => return Err(BadQuery(format!("the tileset takes {}", names(declared)))),
            }
        };
        let wrong = |what: &str| BadQuery(format!("parameter {}: a value {what}", parameter.name));
        let value = decoded(value).ok_or_else(|| wrong("is no UTF-8"))?;
        if value.is_empty() {
            continue;
        }
        let read = ParameterValue::read(parameter, &value).map_err(|what| wrong(&what))?;
        let values = values.entry(index).or_default();
        if let Err(at) = values.binary_search(&read) {
            values.insert(at, read);
        }
        let most = parameter.most.map_or(1, std::num::NonZeroUsize::get);
        if values.len() > most {
            return Err(BadQuery(format!("parameter {}: more than {most} different values", parameter.name)));
        }
    }
    let given = values.into_iter().filter_map(|(index, values)| {
        let Parameter { name, kind, most, .. } = declared.0.get(index)?;
        Some(GivenParameter { name: name.clone(), kind: *kind, is_list: most.is_some(), values })
    });
    let given: Vec<GivenParameter> = given.collect();
    Ok((!given.is_empty()).then(|| GivenParameters { key: key(&given), given }))
}

/// The key of some parameters. Each text is preceded by its length, so that different sets never give the same input of the hash.
fn key(given: &[GivenParameter]) -> ParametersKey {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for parameter in given {
        add(&parameter.name);
        add(&parameter.values.len().to_string());
        parameter.values.iter().flat_map(|value| &value.texts).for_each(|text| add(text));
    }
    let first = hash.finalize().iter().take(16).fold(0_u128, |key, byte| key << 8 | u128::from(*byte));
    ParametersKey(first.max(1))
}

/// A name or value of a query, decoded as HTML forms encode it; `None` if it is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The names of the parameters, for a message.
fn names(declared: &TilesetParameters) -> String {
    let names: Vec<&str> = declared.0.iter().map(|parameter| &*parameter.name).collect();
    if names.is_empty() { "no parameters".to_owned() } else { format!("the parameters {}", names.join(", ")) }
}

#[cfg(test)]
mod tests;
