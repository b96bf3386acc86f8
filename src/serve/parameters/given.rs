//! The parameters that a request gives in its query.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::polygon::MAX_POSITIONS;
use super::{Parameter, ParameterType, ParameterValue, TilesetParameters};

/// The longest query that is read, in bytes.
const MAX_QUERY_BYTES: usize = 8 << 10;

/// The most names and values of a query, declared or not.
const MAX_PAIRS: usize = 512;

/// The characters that a query escapes: all but the unreserved characters (RFC 3986, section 2.3), and the comma of
/// boxes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b',');

/// What is done with names that the tileset does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
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
pub(crate) struct BadQuery(pub(crate) String);

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
    pub name: String,
    pub kind: ParameterType,
    /// True if it takes several values.
    pub is_list: bool,
    /// The values: sorted, each once, at least one.
    pub values: Vec<ParameterValue>,
}

impl GivenParameter {
    /// The parameter with the values of these texts; the error says what is wrong.
    pub(crate) fn of_texts(parameter: &Parameter, texts: &[String]) -> Result<GivenParameter, String> {
        let values = texts
            .iter()
            .map(|text| ParameterValue::read(parameter, text, MAX_POSITIONS))
            .collect::<Result<Vec<_>, String>>();
        let mut values = values.map_err(|what| format!("a value {what}"))?;
        values.sort_unstable();
        values.dedup();
        let most = parameter.most.map_or(1, NonZeroUsize::get);
        if values.is_empty() || values.len() > most {
            return Err(format!("there are {} different values: write 1 to {most}", values.len()));
        }
        let Parameter { name, kind, most, .. } = parameter;
        Ok(GivenParameter { name: name.clone(), kind: *kind, is_list: most.is_some(), values })
    }

    /// The values as a PostgreSQL array in text form. The sides of a box and the bounds of a range are separate
    /// elements; a bound that is missing is NULL.
    pub fn array(&self) -> String {
        let escaped = |text: &String| match text.as_str() {
            "" if self.kind == ParameterType::Range => "NULL".to_owned(),
            text => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        };
        let elements: Vec<String> = self.values.iter().flat_map(|value| &value.texts).map(escaped).collect();
        format!("{{{}}}", elements.join(","))
    }
}

/// The parameters of a request, at least one, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenParameters {
    pub given: Vec<GivenParameter>,
    pub key: ParametersKey,
}

impl GivenParameters {
    /// The query in its canonical form, without a question mark: names in the order of the configuration, values
    /// sorted.
    pub fn query(&self) -> String {
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let pairs = self.given.iter().flat_map(|parameter| {
            let written = |text: &str| match parameter.kind {
                // A long one would become longer than a query may be.
                ParameterType::Polygon => text.replace(' ', "+"),
                _ => escaped(text),
            };
            let between = if parameter.kind == ParameterType::Range { ".." } else { "," };
            let value = |value: &ParameterValue| format!("{}={}", parameter.name, written(&value.texts.join(between)));
            parameter.values.iter().map(value).collect::<Vec<_>>()
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Their memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let of_value = |value: &ParameterValue| {
            size_of::<ParameterValue>() + value.texts.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>()
        };
        let of_one = |one: &GivenParameter| {
            size_of::<GivenParameter>() + one.name.len() + one.values.iter().map(of_value).sum::<usize>()
        };
        self.given.iter().map(of_one).sum()
    }

    /// The values by name, as functions of the database get them.
    pub fn json(&self) -> Map<String, Value> {
        let value = |parameter: &GivenParameter| match &parameter.values[..] {
            [one] if !parameter.is_list => one.json(parameter.kind),
            all => all.iter().map(|value| value.json(parameter.kind)).collect(),
        };
        self.given.iter().map(|parameter| (parameter.name.clone(), value(parameter))).collect()
    }
}

/// Reads the query of a request for a tile. An empty value counts as not given.
/// Fails if a value is not allowed, or a name is not declared and undeclared names are refused.
pub(crate) fn given(
    declared: &TilesetParameters,
    query: Option<&str>,
    undeclared: UndeclaredNames,
) -> Result<ReadQuery, BadQuery> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(ReadQuery::default()) };
    if declared.0.is_empty() && undeclared == UndeclaredNames::Drop {
        return Ok(ReadQuery { given: None, has_undeclared: true });
    }
    if query.len() > MAX_QUERY_BYTES {
        return Err(BadQuery(format!("the query has more than {MAX_QUERY_BYTES} bytes")));
    }
    let mut read = ReadValues::new(declared, undeclared, MAX_POSITIONS);
    for (count, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count >= MAX_PAIRS {
            return Err(BadQuery(format!("the query has more than {MAX_PAIRS} names")));
        }
        read.add_pair(pair)?;
    }
    Ok(ReadQuery { has_undeclared: read.has_undeclared, given: read.all() })
}

/// What a query says.
#[derive(Debug, Default)]
pub(crate) struct ReadQuery {
    /// The parameters that it gives; `None` if there is none.
    pub(crate) given: Option<GivenParameters>,
    /// True if it has names that are not declared, which were dropped.
    pub(crate) has_undeclared: bool,
}

/// The values of a request, as they are read.
pub(crate) struct ReadValues<'d> {
    declared: &'d TilesetParameters,
    undeclared: UndeclaredNames,
    /// The most positions of a polygon.
    positions: usize,
    /// By the number of the parameter: sorted, each once.
    values: BTreeMap<usize, Vec<ParameterValue>>,
    has_undeclared: bool,
}

impl<'d> ReadValues<'d> {
    pub(crate) const fn new(
        declared: &'d TilesetParameters,
        undeclared: UndeclaredNames,
        positions: usize,
    ) -> ReadValues<'d> {
        ReadValues { declared, undeclared, positions, values: BTreeMap::new(), has_undeclared: false }
    }

    /// Adds a pair of name and value as HTML forms encode it.
    pub(crate) fn add_pair(&mut self, pair: &str) -> Result<(), BadQuery> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(index) = self.named(decoded(name).as_deref())? else {
            self.has_undeclared = true;
            return Ok(());
        };
        self.add(index, decoded(value).as_deref())
    }

    /// The number of the parameter with a name; `None` if there is none, and such names are dropped.
    pub(crate) fn named(&self, name: Option<&str>) -> Result<Option<usize>, BadQuery> {
        let index = name.and_then(|name| self.declared.0.iter().position(|parameter| parameter.name == name));
        match (index, self.undeclared) {
            (None, UndeclaredNames::Refuse) => Err(BadQuery(format!("the tileset takes {}", names(self.declared)))),
            (index, _) => Ok(index),
        }
    }

    /// Adds a value of a parameter; `None` if it is no UTF-8.
    pub(crate) fn add(&mut self, index: usize, value: Option<&str>) -> Result<(), BadQuery> {
        let Some(parameter) = self.declared.0.get(index) else { return Ok(()) };
        let wrong = |what: &str| BadQuery(format!("parameter {}: a value {what}", parameter.name));
        let value = value.ok_or_else(|| wrong("is no UTF-8"))?;
        if value.is_empty() {
            return Ok(());
        }
        let read = ParameterValue::read(parameter, value, self.positions).map_err(|what| wrong(&what))?;
        let values = self.values.entry(index).or_default();
        if let Err(at) = values.binary_search(&read) {
            values.insert(at, read);
        }
        let most = parameter.most.map_or(1, NonZeroUsize::get);
        if values.len() > most {
            return Err(BadQuery(format!("parameter {}: more than {most} different values", parameter.name)));
        }
        Ok(())
    }

    /// The parameters that were given; `None` if there is none.
    pub(crate) fn all(self) -> Option<GivenParameters> {
        let given = self.values.into_iter().filter_map(|(index, values)| {
            let Parameter { name, kind, most, .. } = self.declared.0.get(index)?;
            Some(GivenParameter { name: name.clone(), kind: *kind, is_list: most.is_some(), values })
        });
        let given: Vec<GivenParameter> = given.collect();
        (!given.is_empty()).then(|| GivenParameters { key: key(&given), given })
    }
}

/// The key of some parameters. Each text is preceded by its length, so that different sets never give the same input of
/// the hash.
pub(crate) fn key(given: &[GivenParameter]) -> ParametersKey {
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
pub(crate) fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The names of the parameters, for a message.
fn names(declared: &TilesetParameters) -> String {
    let names: Vec<&str> = declared.0.iter().map(|parameter| &*parameter.name).collect();
    if names.is_empty() { "no parameters".to_owned() } else { format!("the parameters {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use regex_lite::Regex;
    use serde_json::json;

    use super::*;
    use crate::serve::parameters::{LetterCase, ParameterBounds};

    fn parameter(name: &str, kind: ParameterType, most: Option<usize>) -> Parameter {
        let bounds = ParameterBounds {
            case: LetterCase::Keep,
            allowed: Vec::new(),
            pattern: None,
            max_length: 10,
            min: None,
            max: None,
        };
        let most = most.and_then(NonZeroUsize::new);
        Parameter { name: name.to_owned(), description: None, kind, most, bounds, map: None }
    }

    fn declared() -> TilesetParameters {
        let mut country = parameter("country", ParameterType::Text, Some(3));
        country.bounds.case = LetterCase::Upper;
        country.bounds.pattern = Regex::new("^(?:[A-Z]{2})$").ok();
        let mut workers = parameter("workers", ParameterType::Integer, None);
        (workers.bounds.min, workers.bounds.max) = (Some(0.0), Some(1000.0));
        let mut kind = parameter("kind", ParameterType::Text, None);
        kind.bounds.allowed = vec!["mill".to_owned(), "farm".to_owned()];
        let mut range = parameter("range", ParameterType::Range, None);
        range.bounds.min = Some(-5.0);
        TilesetParameters(vec![
            country,
            workers,
            kind,
            parameter("name", ParameterType::Text, None),
            parameter("share", ParameterType::Number, Some(2)),
            parameter("open", ParameterType::Boolean, None),
            parameter("box", ParameterType::Box, None),
            range,
        ])
    }

    fn read(query: &str) -> Result<Option<GivenParameters>, String> {
        let read = given(&declared(), Some(query), UndeclaredNames::Drop);
        read.map(|read| read.given).map_err(|error| error.to_string())
    }

    fn one_form(query: &str) -> String {
        read(query).unwrap_or_else(|error| panic!("{query}: {error}")).map(|given| given.query()).unwrap_or_default()
    }

    #[test]
    fn a_set_of_values_has_one_form_however_it_is_written() {
        for (form, queries) in [
            (
                "country=BD&country=IN",
                &[
                    "country=IN&country=BD",
                    "country=bd&x=1&country=in&country=BD",
                    "%63ountry=%42D&country=IN&",
                    "&&country=IN&country=BD&y",
                ][..],
            ),
            ("workers=7", &["workers=7", "workers=007", "workers=%2B7", "workers=7&workers=07", "v=2&workers=7#"]),
            ("name=a%20b%26c%3Dd", &["name=a+b%26c%3Dd", "name=a%20b%26c=d"]),
            ("share=0&share=0.5", &["share=.5&share=-0", "share=0.50&share=0e3&share=5e-1"]),
            ("range=1..20", &["range=1..20", "range=%2B1..020"]),
            ("range=..20", &["range=..20"]),
            ("range=-5..", &["range=-5.."]),
            ("range=7..7", &["range=7", "range=7..07"]),
            ("open=true&box=-10,0,20.5,30", &["box=-10.0,0,20.50,3e1&open=true"]),
            ("", &["", "country=", "country", "x=1", "%FF=1", "Country=BD", "country%00=BD", "=", "&", "name=&box="]),
        ] {
            for query in queries {
                let query = query.trim_end_matches('#');
                assert_eq!(one_form(query), form, "{query}");
                assert_eq!(one_form(&one_form(query)), form, "{query}");
            }
        }
        let key = |query: &str| read(query).unwrap().unwrap().key;
        assert_eq!(key("country=IN&country=BD"), key("country=bd&country=in"));
        let different = [
            "country=IN",
            "country=BD",
            "country=IN&country=BD",
            "name=BD",
            "name=IN",
            "name=country",
            "workers=1",
            "share=1",
        ];
        let keys: std::collections::BTreeSet<ParametersKey> = different.iter().map(|query| key(query)).collect();
        assert_eq!(keys.len(), different.len());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let long = format!("name={}", "x".repeat(11));
        let huge = format!("name={}", "x".repeat(MAX_QUERY_BYTES));
        let many = "a&".repeat(513);
        let digits = format!("share=0.{}", "1".repeat(200));
        for (query, expected) in [
            ("country=BD&country=IN&country=US&country=DE", "parameter country: more than 3 different values"),
            ("workers=1&workers=2", "parameter workers: more than 1 different values"),
            ("country=Bangladesh", "parameter country: a value does not match the pattern"),
            ("country=B'", "does not match the pattern"),
            ("workers=1.5", "is no whole number"),
            ("workers=1;DROP TABLE x", "is no whole number"),
            ("workers=99999999999999999999", "is no whole number"),
            ("workers=-1", "is less than 0"),
            ("workers=1001", "is more than 1000"),
            ("kind=Mill", "is not one of those allowed"),
            ("name=a%00b", "has control characters"),
            ("name=%0a", "has control characters"),
            ("name=%FF", "is no UTF-8"),
            ("name=%C3%28", "is no UTF-8"),
            (&long, "has more than 10 characters"),
            (&huge, "more than 8192 bytes"),
            (&many, "more than 512 names"),
            ("share=inf", "is no number"),
            ("share=NaN", "is no number"),
            ("share=0x10", "is no number"),
            ("share=1e999", "is no number"),
            (&digits, "is no number"),
            ("open=1", "is neither true nor false"),
            ("box=1,2,3", "is no box"),
            ("box=1,2,3,4,5", "is no box"),
            ("box=20,0,10,1", "west must not be greater than east"),
            ("box=0,0,181,1", "is no box"),
            ("box=a,b,c,d", "is no box"),
            ("range=..", "is no range of whole numbers: write 10..20, 10.. or ..20"),
            ("range=1...2", "is no range of whole numbers"),
            ("range=1..2..3", "is no range of whole numbers"),
            ("range=1.5..2", "is no range of whole numbers"),
            ("range=1-2", "is no range of whole numbers"),
            ("range=9223372036854775808..", "is no range of whole numbers"),
            ("range=3..2", "is no range: 3 is greater than 2"),
            ("range=-6..2", "is less than -5"),
            ("range=1..2&range=3..4", "parameter range: more than 1 different values"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
            assert!(!error.contains("DROP") && error.len() < 120, "{error}");
        }
        let has_undeclared = |query| given(&declared(), Some(query), UndeclaredNames::Drop).unwrap().has_undeclared;
        assert!(has_undeclared("v=1") && !has_undeclared(""));
        let refused = given(&declared(), Some("v=1"), UndeclaredNames::Refuse).unwrap_err().to_string();
        assert_eq!(refused, "the tileset takes the parameters country, workers, kind, name, share, open, box, range");
        let none = given(&TilesetParameters::default(), Some("v=1"), UndeclaredNames::Refuse).unwrap_err();
        assert_eq!(none.to_string(), "the tileset takes no parameters");
    }

    #[test]
    fn values_reach_the_database_as_arrays_and_functions_as_json() {
        let given = read("name=%7B%22a%5C%7D%27&country=us&workers=3&box=1,2,3,4&open=false&share=2").unwrap().unwrap();
        let arrays: Vec<String> = given.given.iter().map(GivenParameter::array).collect();
        assert_eq!(
            arrays,
            [r#"{"US"}"#, r#"{"3"}"#, r#"{"{\"a\\}'"}"#, r#"{"2"}"#, r#"{"false"}"#, r#"{"1","2","3","4"}"#]
        );
        let expected = json!({ "country": ["US"], "workers": 3, "name": "{\"a\\}'", "share": [2], "open": false, "box": [1, 2, 3, 4] });
        assert_eq!(serde_json::Value::Object(given.json()), expected);
        let given = read("range=..20").unwrap().unwrap();
        assert_eq!(given.given[0].array(), r#"{NULL,"20"}"#);
        assert_eq!(serde_json::Value::Object(given.json()), json!({ "range": [null, 20] }));
    }

    /// Random queries of all kinds of pieces: reading one ends, and the canonical form of what was read is read as the
    /// same values.
    #[test]
    fn no_query_does_harm() {
        let pieces = [
            "country=BD",
            "&country=in",
            "&name=a+b",
            "&box=1,2,3,4",
            "&range=1..",
            "&workers=7",
            "&share=1e3",
            "&",
            "&&x=",
            "country",
            "=",
            "%",
            "%4",
            "%41",
            "+",
            "\u{e9}",
            "%C3",
            "%A9",
            "-",
            "%00",
            "'",
            "\"",
            "{",
            "\\",
            ";",
        ];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        let mut kept = 0;
        for _ in 0..20_000 {
            let query: String = (0..next(5)).map(|_| pieces[next(pieces.len())]).collect();
            if let Ok(Some(given)) = read(&query) {
                kept += 1;
                let again = read(&given.query()).unwrap().unwrap();
                assert_eq!(again, given, "{query}");
            }
        }
        assert!(kept > 100, "{kept}");
    }
}
