//! `${NAME}` and `${NAME:-default}` in the strings of a file: environment variables. Strings with SQL are not changed,
//! because SQL has its own use of these characters.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// The keys of a layer whose strings are SQL or columns.
const SQL_KEYS: [&str; 7] = ["sql", "where", "min_zoom", "max_zoom", "rank", "having", "properties"];

/// A string of the file that contains a variable, and its replacement.
struct Replacement {
    span: Range<usize>,
    text: String,
}

/// The text of a file with its variables replaced. Line numbers stay the same. Fails if a variable is not set and has
/// no default, or the braces do not match.
pub(crate) fn expanded(
    path: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ConfigError> {
    // A text that is no TOML has an error of its own, which says more.
    let Ok(table) = DeTable::parse(text) else { return Ok(text.to_owned()) };
    let mut found = Found { path, text, environment, replacements: Vec::new() };
    found.table(table.get_ref(), &mut Vec::new())?;
    let Found { mut replacements, .. } = found;
    replacements.sort_by_key(|one| one.span.start);
    let mut result = text.to_owned();
    for Replacement { span, text } in replacements.into_iter().rev() {
        result.replace_range(span, &text);
    }
    Ok(result)
}

struct Found<'a> {
    path: &'a Path,
    text: &'a str,
    environment: &'a dyn Fn(&str) -> Option<String>,
    replacements: Vec<Replacement>,
}

impl Found<'_> {
    fn table<'k>(&mut self, table: &'k DeTable<'_>, place: &mut Vec<&'k str>) -> Result<(), ConfigError> {
        for (key, value) in table {
            place.push(key.get_ref());
            if !is_sql(place) {
                self.value(value.get_ref(), value.span(), place)?;
            }
            place.pop();
        }
        Ok(())
    }

    fn value<'k>(
        &mut self,
        value: &'k DeValue<'_>,
        span: Range<usize>,
        place: &mut Vec<&'k str>,
    ) -> Result<(), ConfigError> {
        match value {
            DeValue::String(string) if string.contains("${") => {
                let line = self.text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
                let failed = |what: String| ConfigError::InFile {
                    path: self.path.to_owned(),
                    line,
                    message: format!("{}: {what}", place.join(".")),
                };
                let replaced = replaced(string, self.environment).map_err(failed)?;
                let is_long = self.text.get(span.clone()).is_some_and(|raw| raw.contains('\n'));
                self.replacements.push(Replacement { span, text: literal(&replaced, is_long) });
            }
            DeValue::Array(values) => {
                for value in values {
                    self.value(value.get_ref(), value.span(), place)?;
                }
            }
            DeValue::Table(table) => self.table(table, place)?,
            _ => {}
        }
        Ok(())
    }
}

/// True if the strings at a key are SQL or columns.
fn is_sql(place: &[&str]) -> bool {
    match place {
        ["layer", "track", "geometry"] => true,
        ["layer", rest @ ..] => rest.iter().any(|key| SQL_KEYS.contains(key)),
        _ => false,
    }
}

/// A TOML string. If `is_long`, it keeps its line breaks.
fn literal(text: &str, is_long: bool) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' if is_long => escaped.push('\n'),
            other if other.is_control() => escaped.push_str(&format!("\\u{:04X}", u32::from(other))),
            other => escaped.push(other),
        }
    }
    if is_long { format!("\"\"\"{escaped}\"\"\"") } else { format!("\"{escaped}\"") }
}

/// The text with its variables replaced; `$${` stands for `${`.
fn replaced(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        let before = &rest[..at];
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(before);
        let Some((inside, behind)) = rest[at + 2..].split_once('}') else {
            return Err("${ has no }: write ${NAME}, ${NAME:-default}, or $${ for the characters themselves".to_owned());
        };
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!(
                "${{{inside}}} names no variable: write ${{NAME}}, ${{NAME:-default}}, or $${{ for the characters themselves"
            ));
        }
        match (environment(name), default) {
            (Some(value), None) => result.push_str(&value),
            // As in a shell, the default also replaces an empty variable.
            (Some(value), Some(_)) if !value.is_empty() => result.push_str(&value),
            (_, Some(default)) => result.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
                ));
            }
        }
        rest = behind;
    }
    Ok(result + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db.example.org".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("a\"b\\c\nd ${HOST}".to_owned()),
            _ => None,
        }
    }

    fn of(text: &str) -> Result<String, String> {
        let expanded = expanded(Path::new("c.toml"), text, &environment);
        expanded.map_err(|error| error.to_string())
    }

    #[test]
    fn strings_hold_variables() {
        for (text, value) in [
            ("${HOST}", "db.example.org"),
            ("a ${HOST}:${PORT:-5432}/b", "a db.example.org:5432/b"),
            ("${EMPTY}|${EMPTY:-e}|${NONE:-}", "|e|"),
            ("$${HOST} $HOST $ {HOST}", "${HOST} $HOST $ {HOST}"),
            // The value of a variable is not expanded again.
            ("${ODD}", "a\"b\\c\nd ${HOST}"),
        ] {
            let file = of(&format!("[database]\nurl = '{text}'\nlist = [\"x\", '{text}']\n")).unwrap();
            let read: toml::Table = toml::from_str(&file).unwrap();
            assert_eq!(read["database"]["url"].as_str(), Some(value));
            assert_eq!(read["database"]["list"][1].as_str(), Some(value));
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_sql_its_characters() {
        let text = "[tileset]\ndescription = \"\"\"\none ${HOST}\n\"\"\"\nname = \"n\"\n[[layer]]\nname = \"${HOST}\"\nsql = \"SELECT '${HOST}'\"\nwhere = \"${HOST}\"\nproperties = { a = \"'${HOST}'\" }\n[[layer.track]]\ntable = \"${HOST}\"\ngeometry = \"${HOST}\"\n";
        let file = of(text).unwrap();
        let read: toml::Table = toml::from_str(&file).unwrap();
        let layer = &read["layer"][0];
        assert_eq!(layer["name"].as_str(), Some("db.example.org"));
        assert_eq!(layer["track"][0]["table"].as_str(), Some("db.example.org"));
        for sql in [&layer["sql"], &layer["where"], &layer["properties"]["a"], &layer["track"][0]["geometry"]] {
            assert!(sql.as_str().unwrap().contains("${HOST}"), "{sql}");
        }
        assert_eq!(read["tileset"]["description"].as_str(), Some("one db.example.org\n"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_line() {
        for (value, message) in [
            ("${NONE}", "the environment variable NONE is not set: set it, or write ${NONE:-default}"),
            ("${HOST", "${ has no }: write ${NAME}, ${NAME:-default}, or $${ for the characters themselves"),
            (
                "${a b}",
                "${a b} names no variable: write ${NAME}, ${NAME:-default}, or $${ for the characters themselves",
            ),
        ] {
            let failed = of(&format!("[database]\nurl = \"{value}\"\n")).unwrap_err();
            assert_eq!(failed, format!("c.toml, line 2: database.url: {message}"));
        }
    }
}
