//! The output of `oar-tiles config`: every value with its origin, secrets hidden.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Value, json};

use super::file::ConfigFile;
use super::sample::{KeyComment, SAMPLE, comments};
use super::values::{ConfigValues, Origin};
use crate::target::without_user;

/// The output of `config --json`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShownConfig {
    /// The sections of a configuration file, with `{"value": …, "origin": …}` for each key; `purge` and `layer` are
    /// such a pair with a list; `tilesets` is a list of such sections, if the file has several tilesets.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl ConfigValues {
    /// The value of each key, with secrets hidden, and its origin.
    #[must_use]
    pub fn shown(&self) -> ShownConfig {
        let mut sections = serde_json::Map::new();
        for (key, (value, origin)) in &self.values {
            let (section, field) = key.split_once('.').unwrap_or((key, ""));
            let value = if field.is_empty() { shown_list(section, value) } else { shown_value(key, value) };
            let shown = serde_json::json!({ "value": value, "origin": origin.to_string() });
            if field.is_empty() {
                sections.insert(section.to_owned(), shown);
            } else if let serde_json::Value::Object(fields) =
                sections.entry(section).or_insert_with(|| serde_json::json!({}))
            {
                fields.insert(field.to_owned(), shown);
            }
        }
        if !self.tilesets.is_empty() {
            let shown = |(table, origin): &(toml::Table, Origin)| {
                let fields = table.iter().map(|(key, value)| {
                    (key.clone(), serde_json::json!({ "value": value, "origin": origin.to_string() }))
                });
                serde_json::Value::Object(fields.collect())
            };
            sections.insert("tilesets".to_owned(), self.tilesets.iter().map(shown).collect());
        }
        ShownConfig { settings: sections }
    }

    /// TOML with a line for each value, and its origin as a comment.
    #[must_use]
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        let mut section = "";
        for (key, (value, origin)) in &self.values {
            let Some((front, field)) = key.split_once('.') else { continue };
            if front != section {
                section = front;
                lines.push(format!("\n[{section}]"));
            }
            lines.push(format!("{field} = {}  # {origin}", shown_value(key, value)));
        }
        for (table, origin) in &self.tilesets {
            lines.push(format!("\n[[tileset]]  # {origin}"));
            lines.extend(table.iter().map(|(field, value)| format!("{field} = {value}")));
        }
        for list in ["purge", "layer"] {
            let Some((sections, origin)) = self.values.get(list) else { continue };
            let toml::Value::Array(sections) = shown_list(list, sections) else { continue };
            for section in sections {
                lines.push(format!("\n[[{list}]]  # {origin}"));
                if let toml::Value::Table(fields) = section {
                    lines.extend(fields.iter().map(|(field, value)| format!("{field} = {value}")));
                }
            }
        }
        lines.join("\n").trim_start().to_owned() + "\n"
    }
}

/// A value without its secrets.
fn shown_value(key: &str, value: &toml::Value) -> toml::Value {
    match key {
        "database.url" | "serve.redis_url" => toml::Value::String(value.as_str().map(masked).unwrap_or_default()),
        "s3.endpoint" => toml::Value::String(value.as_str().map(hidden_user).unwrap_or_default()),
        _ => value.clone(),
    }
}

/// The tables of a list without their secrets.
fn shown_list(list: &str, value: &toml::Value) -> toml::Value {
    let mut value = value.clone();
    if list == "purge"
        && let toml::Value::Array(sections) = &mut value
    {
        let texts = sections.iter_mut().filter_map(toml::Value::as_table_mut).flat_map(|fields| fields.iter_mut());
        for (_, text) in texts {
            if let toml::Value::String(url) = text {
                *url = hidden_user(url);
            }
        }
    }
    value
}

/// A URL with `(hidden)` instead of user and password.
fn hidden_user(url: &str) -> String {
    let shown = without_user(url);
    match shown.split_once("://") {
        _ if shown == url => shown,
        Some((scheme, rest)) => format!("{scheme}://(hidden)@{rest}"),
        None => format!("(hidden)@{shown}"),
    }
}

/// A database URL or key=value string with `(hidden)` instead of its password.
fn masked(url: &str) -> String {
    let hide = |part: &str| match part.split_once('=') {
        Some((key, _)) if key.to_lowercase().contains("password") => format!("{key}=(hidden)"),
        _ => part.to_owned(),
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        // A quoted value may contain spaces, so nothing after the key of a password is shown.
        return match url.to_lowercase().find("password") {
            Some(at) => format!("{}password=(hidden)", &url[..at]),
            None => url.to_owned(),
        };
    };
    let (authority, query) = match rest.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (rest, None),
    };
    // A password may contain an unescaped "@", so the last one ends it.
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            format!("{}:(hidden)@{host}", user.split(':').next().unwrap_or_default())
        }
        _ => authority.to_owned(),
    };
    let query = query.map(|query| format!("?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{authority}{}", query.unwrap_or_default())
}

// The JSON Schema of a configuration, for editors. The structs that read a file give its types, and the sample gives
// descriptions and defaults.

/// The schema as JSON (draft 7, which TOML editors support).
pub(crate) fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<ConfigFile>().to_value();
    schema["title"] = json!("oar-tiles configuration");
    let defaults = toml::from_str::<toml::Table>(SAMPLE).unwrap_or_default();
    for KeyComment { section, key, comment } in comments() {
        let Some(described) = property(&mut schema, &section, &key) else { continue };
        described["description"] = json!(comment);
        let default = defaults.get(&section).and_then(|values| values.get(&key));
        if let Some(default) = default.and_then(|value| serde_json::to_value(value).ok()) {
            described["default"] = default;
        }
    }
    schema
}

/// The schema of a key, in a section such as `database`, `layer` or `layer.cluster`.
fn property<'s>(schema: &'s mut Value, section: &str, key: &str) -> Option<&'s mut Value> {
    let mut at = schema;
    for name in section.split('.').chain([key]) {
        // A list of tables, or a table that may be missing.
        if at.get("properties").is_none() {
            at = if at.get("items").is_some() { at.get_mut("items")? } else { at.get_mut("anyOf")?.get_mut(0)? };
        }
        at = at.get_mut("properties")?.get_mut(name)?;
    }
    at.is_object().then_some(at)
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn passwords_are_hidden_in_every_form() {
        for (url, shown) in [
            ("postgresql://u:hunter2@h:5/d", "postgresql://u:(hidden)@h:5/d"),
            ("postgresql://u:hun@ter2@h/d?sslmode=require", "postgresql://u:(hidden)@h/d?sslmode=require"),
            (
                "postgresql://u@h/d?password=hunter2&sslmode=require",
                "postgresql://u@h/d?password=(hidden)&sslmode=require",
            ),
            ("host=h password=hunter2 dbname=d", "host=h password=(hidden)"),
            ("host=h PASSWORD = 'hun ter2'", "host=h password=(hidden)"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
        ] {
            assert_eq!(masked(url), shown);
        }
    }
}

#[cfg(test)]
mod schema_tests {
    use super::*;

    #[test]
    fn every_key_of_the_sample_is_described() {
        let schema = schema();
        let all = comments();
        assert!(all.len() > 100, "{}", all.len());
        for KeyComment { section, key, .. } in all {
            let mut schema = schema.clone();
            let found = property(&mut schema, &section, &key);
            assert!(found.is_some_and(|found| found["description"].is_string()), "{section}.{key}");
        }
        assert_eq!(schema["properties"]["database"]["properties"]["statement_timeout"]["default"], "10m");
        assert_eq!(schema["properties"]["database"]["additionalProperties"], false);
    }
}
