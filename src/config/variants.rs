//! Variants: a family of tilesets that differ in the values of parameters.

use std::fmt;
use std::path::PathBuf;

use super::error::ConfigError;
use crate::postgis::{Query, VariantParameter, VariantTable, bound_condition};

#[derive(Debug, Clone)]
pub struct VariantSettings {
    pub values: VariantValues,
    /// The conditions that choose the rows of layers.
    pub(crate) conditions: Vec<VariantCondition>,
    pub output: OutputTemplate,
    /// The output of the tileset without conditions, if it is wanted.
    pub all: Option<PathBuf>,
    /// The address under which clients find a variant, with `{name}` for the values.
    pub(crate) public_url: Option<String>,
    /// The addresses under which CDNs know a variant, with `{name}` for the values.
    pub(crate) purge_urls: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum VariantValues {
    Query(Query),
    Listed(VariantTable),
}

/// The condition on a layer's rows, an SQL expression with `!name!` for the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VariantCondition {
    pub layer: String,
    pub sql: String,
}

/// The segment in place of `{name}` in the addresses of the tileset without conditions.
pub(crate) const ALL_SEGMENT: &str = "all";

/// The values by which a tileset is a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    pub values: Vec<BoundValue>,
    pub(crate) segments: Vec<ValueSegment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundValue {
    pub parameter: VariantParameter,
    pub text: String,
}

impl Variant {
    /// Everything that decides the variant's bytes in addition to its layers, for the fingerprint.
    pub(crate) fn definition(&self) -> String {
        let one = |value: &BoundValue| (value.parameter.name.clone(), value.parameter.kind.clone(), value.text.clone());
        format!("variant {:?}", self.values.iter().map(one).collect::<Vec<_>>())
    }
}

pub(crate) fn joined(segments: &[ValueSegment]) -> String {
    segments.iter().map(ValueSegment::as_str).collect::<Vec<_>>().join("/")
}

impl VariantSettings {
    pub(crate) fn wrong(field: &str, what: String) -> ConfigError {
        ConfigError::Variants {
            key: if field.contains('.') { field.to_owned() } else { format!("tileset.variants.{field}") },
            what,
        }
    }

    /// Checks that the output and the conditions name only parameters that exist.
    pub(crate) fn check_parameters(&self, parameters: &[VariantParameter]) -> Result<(), ConfigError> {
        let known = || parameters.iter().map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(", ");
        let is_known = |name: &str| parameters.iter().any(|parameter| parameter.name == name);
        if let Some(other) = self.output.names().into_iter().find(|name| !is_known(name)) {
            let what = format!("has {{{other}}}, which is no value: there is {}", known());
            return Err(VariantSettings::wrong("output", what));
        }
        for condition in &self.conditions {
            bound_condition(&condition.sql, parameters).map_err(|error| {
                let what = format!("for layer \"{}\" {error} (values: {})", condition.layer, known());
                VariantSettings::wrong("where", what)
            })?;
        }
        Ok(())
    }

    /// The segments of a variant in its output.
    pub(crate) fn segments(
        &self,
        parameters: &[VariantParameter],
        row: &[String],
    ) -> Result<Vec<ValueSegment>, ConfigError> {
        let of = |name: &&str| {
            let number = parameters.iter().position(|parameter| parameter.name == **name);
            let value = number.and_then(|number| row.get(number)).map_or("", String::as_str);
            ValueSegment::of(value).map_err(|why| {
                let what = match why {
                    NoSegment::Empty => format!("give an empty text for {name}, which is a part of the output: leave such rows out, or let coalesce name them"),
                    NoSegment::Long => format!("give a {name} of {} bytes, which is too long for the name of a file: add a short value, such as a number, and write that into the output", value.len()),
                };
                VariantSettings::wrong("values", what)
            })
        };
        self.output.names().iter().map(of).collect()
    }

    pub(crate) fn output_of(&self, segments: &[ValueSegment]) -> PathBuf {
        PathBuf::from(self.output.filled(segments))
    }
}

/// A text in which the `{name}` of variants are replaced, so that it can be checked as an address.
pub(crate) fn without_names(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once('{') {
        plain.push_str(before);
        match behind.split_once('}') {
            Some((name, after)) if is_parameter_name(name) => {
                plain.push_str(ALL_SEGMENT);
                rest = after;
            }
            _ => {
                plain.push('{');
                rest = behind;
            }
        }
    }
    plain + rest
}

// Values of variants that the file lists.

/// The table of values, or a message about what is wrong with it.
pub(crate) fn table_of(tables: &[toml::Table]) -> Result<VariantTable, String> {
    let Some(first) = tables.first() else { return Ok(VariantTable { parameters: Vec::new(), rows: Vec::new() }) };
    let mut parameters = Vec::new();
    for (name, value) in first {
        if !is_parameter_name(name) {
            return Err(format!("has the name {name:?}: write letters, digits and _"));
        }
        let Some(kind) = kind_of(value) else {
            return Err(format!(
                "has {value} for {name}: write a text, a number, true or false, or a list of one of them"
            ));
        };
        parameters.push(VariantParameter { name: name.clone(), kind });
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let place = number + 1;
        if let Some(other) = table.keys().find(|name| !first.contains_key(*name)) {
            return Err(format!(
                "has {other} in its table {place} and not in the first: give all tables the same names"
            ));
        }
        let mut row = Vec::new();
        for VariantParameter { name, kind } in &parameters {
            let Some(value) = table.get(name) else {
                return Err(format!("lacks {name} in its table {place}: give all tables the same names"));
            };
            if kind_of(value).as_ref() != Some(kind) {
                return Err(format!(
                    "has {value} for {name} in its table {place}, and the first has a value of type {kind}: give all values one type"
                ));
            }
            row.push(text_of(value));
        }
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows.sort();
    Ok(VariantTable { parameters, rows })
}

/// The type of a value, in PostgreSQL's words.
fn kind_of(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(_) => "text".to_owned(),
        toml::Value::Integer(_) => "bigint".to_owned(),
        toml::Value::Float(_) => "double precision".to_owned(),
        toml::Value::Boolean(_) => "boolean".to_owned(),
        toml::Value::Array(values) => {
            let kind = kind_of(values.first()?)?;
            let is_alike = values.iter().all(|value| kind_of(value).as_ref() == Some(&kind));
            if !is_alike || kind.ends_with("[]") {
                return None;
            }
            format!("{kind}[]")
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

/// A value in the form that PostgreSQL reads.
fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => {
            let quoted =
                |value: &toml::Value| format!("\"{}\"", text_of(value).replace('\\', "\\\\").replace('"', "\\\""));
            format!("{{{}}}", values.iter().map(quoted).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

// The output of the variants of a tileset: a target with `{name}` in it. Each variant fills in its values.

/// The longest segment of a value, in bytes: file systems allow names of 255 bytes, and an ending follows.
const MAX_SEGMENT: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTemplate {
    pieces: Vec<OutputPiece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum OutputPiece {
    Plain(String),
    Filled(String),
}

/// A value as a part of a path and of a URL. It consists of ASCII letters and digits, `-`, `_`, `.`, and `~XX` for
/// every other byte. It never begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ValueSegment(String);

/// Why a value cannot become a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSegment {
    Empty,
    Long,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoTemplate {
    /// A brace has no counterpart, or there is no name between two of them.
    Brace,
    Constant,
}

impl ValueSegment {
    pub(crate) fn of(value: &str) -> Result<ValueSegment, NoSegment> {
        let mut segment = String::with_capacity(value.len());
        for (at, byte) in value.bytes().enumerate() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => segment.push(char::from(byte)),
                b'.' if at > 0 => segment.push('.'),
                other => segment.push_str(&format!("~{other:02X}")),
            }
        }
        match segment.len() {
            0 => Err(NoSegment::Empty),
            1..=MAX_SEGMENT => Ok(ValueSegment(segment)),
            _ => Err(NoSegment::Long),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl OutputTemplate {
    pub(crate) fn new(text: &str) -> Result<OutputTemplate, NoTemplate> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((plain, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or(NoTemplate::Brace)?;
            if plain.contains('}') || !is_parameter_name(name) {
                return Err(NoTemplate::Brace);
            }
            pieces.extend((!plain.is_empty()).then(|| OutputPiece::Plain(plain.to_owned())));
            pieces.push(OutputPiece::Filled(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(NoTemplate::Brace);
        }
        if pieces.is_empty() || !pieces.iter().any(|piece| matches!(piece, OutputPiece::Filled(_))) {
            return Err(NoTemplate::Constant);
        }
        pieces.extend((!rest.is_empty()).then(|| OutputPiece::Plain(rest.to_owned())));
        Ok(OutputTemplate { pieces })
    }

    /// The names in the template, each once, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for piece in &self.pieces {
            if let OutputPiece::Filled(name) = piece
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// The text in which the names are replaced with segments, in the order of [`OutputTemplate::names`].
    pub(crate) fn filled(&self, segments: &[ValueSegment]) -> String {
        let names = self.names();
        let of = |name: &str| names.iter().position(|other| *other == name).and_then(|at| segments.get(at));
        let text = |piece: &OutputPiece| match piece {
            OutputPiece::Plain(text) => text.clone(),
            OutputPiece::Filled(name) => of(name).map_or_else(String::new, |segment| segment.as_str().to_owned()),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The folder or prefix that contains all variants: the text before the first name, up to its last slash; empty for
    /// the current folder.
    #[must_use]
    pub fn folder(&self) -> &str {
        match self.pieces.first() {
            Some(OutputPiece::Plain(text)) => text.rfind('/').map_or("", |slash| &text[..=slash]),
            _ => "",
        }
    }
}

pub(crate) fn is_parameter_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

impl fmt::Display for OutputTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            OutputPiece::Plain(text) => f.write_str(text),
            OutputPiece::Filled(name) => write!(f, "{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str) -> Result<VariantTable, String> {
        let table: toml::Table = toml::from_str(&format!("values = {list}")).unwrap();
        let toml::Value::Array(tables) = &table["values"] else { panic!("{list}") };
        table_of(&tables.iter().map(|table| table.as_table().unwrap().clone()).collect::<Vec<_>>())
    }

    #[test]
    fn values_have_the_types_of_the_file() {
        let table = of(
            r#"[{ a = "x", n = 3, l = ["p\"q", "r\\"] }, { a = "a", n = 4, l = ["s"] }, { a = "x", n = 3, l = ["p\"q", "r\\"] }]"#,
        );
        let table = table.unwrap();
        let kinds: Vec<_> = table.parameters.iter().map(|one| format!("{} {}", one.name, one.kind)).collect();
        assert_eq!(kinds, ["a text", "n bigint", "l text[]"]);
        assert_eq!(table.rows, [vec!["a", "4", "{\"s\"}"], vec!["x", "3", "{\"p\\\"q\",\"r\\\\\"}"]]);
        assert_eq!(of("[]").unwrap().rows.len(), 0);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        for (list, what) in [
            ("[{ a = 1 }, { b = 1 }]", "has b in its table 2"),
            ("[{ a = 1, b = 2 }, { b = 1 }]", "lacks a in its table 2"),
            ("[{ a = 1 }, { a = \"1\" }]", "the first has a value of type bigint"),
            ("[{ \"a b\" = 1 }]", "has the name \"a b\""),
            ("[{ a = 2020-01-01 }]", "write a text"),
            ("[{ a = [] }]", "write a text"),
            ("[{ a = [1, \"x\"] }]", "write a text"),
        ] {
            let error = of(list).unwrap_err();
            assert!(error.contains(what), "{list}: {error}");
        }
    }
}

#[cfg(test)]
mod template_tests {
    use super::*;

    fn filled(template: &str, values: &[&str]) -> String {
        let segments: Vec<_> = values.iter().map(|value| ValueSegment::of(value).unwrap()).collect();
        OutputTemplate::new(template).unwrap().filled(&segments)
    }

    #[test]
    fn a_value_becomes_one_segment_of_a_path() {
        for (value, path) in [
            ("bd", "t/bd.pmtiles"),
            ("BD", "t/BD.pmtiles"),
            ("a/b", "t/a~2Fb.pmtiles"),
            ("..", "t/~2E..pmtiles"),
            ("../../etc", "t/~2E.~2F..~2Fetc.pmtiles"),
            (".", "t/~2E.pmtiles"),
            (".oar-tiles", "t/~2Eoar-tiles.pmtiles"),
            ("a b%\\~", "t/a~20b~25~5C~7E.pmtiles"),
            ("日", "t/~E6~97~A5.pmtiles"),
            ("{x}", "t/~7Bx~7D.pmtiles"),
        ] {
            assert_eq!(filled("t/{c}.pmtiles", &[value]), path, "{value}");
        }
        assert_eq!(ValueSegment::of(""), Err(NoSegment::Empty));
        assert_eq!(ValueSegment::of(&"x".repeat(201)), Err(NoSegment::Long));
        assert_eq!(filled("s3://b/{a}/{b}/{a}/", &["x", "y"]), "s3://b/x/y/x/");
    }

    #[test]
    fn a_template_says_what_folder_its_variants_lie_in_and_needs_names_in_braces() {
        for (template, folder) in
            [("t/{c}.pmtiles", "t/"), ("{c}/x/", ""), ("s3://b/p-{c}/", "s3://b/"), ("a/b{c}/", "a/")]
        {
            assert_eq!(OutputTemplate::new(template).unwrap().folder(), folder);
        }
        for odd in ["t/{c.pmtiles", "t/c}.pmtiles", "t/{}.pmtiles", "t/{a b}/", "t/{1}/", "t}{a}/"] {
            assert_eq!(OutputTemplate::new(odd), Err(NoTemplate::Brace), "{odd}");
        }
        assert_eq!(OutputTemplate::new("t.pmtiles"), Err(NoTemplate::Constant));
    }
}
