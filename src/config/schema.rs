//! The JSON Schema of a configuration, for editors. The structs that read a file give its types, and the sample gives descriptions and defaults.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::file::ConfigFile;
use super::values::SAMPLE;

/// The schema as JSON (draft 7, which TOML editors support).
#[must_use]
pub fn schema() -> Value {
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

/// The sample's comment on a key.
struct KeyComment {
    section: String,
    key: String,
    comment: String,
}

/// The comments of the sample. Each is in front of its key, which is itself commented out if it has no default.
fn comments() -> Vec<KeyComment> {
    let (mut found, mut section, mut comment) = (Vec::new(), String::new(), Vec::<&str>::new());
    for line in SAMPLE.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").map(|(key, _)| key).filter(|key| is_key(key));
        if let Some(header) = line.strip_prefix('[') {
            header.trim_matches(['[', ']']).clone_into(&mut section);
            comment.clear();
        } else if let Some(key) = key {
            found.push(KeyComment { section: section.clone(), key: key.to_owned(), comment: comment.join(" ") });
            comment.clear();
        } else if line.starts_with("# ") && !bare.starts_with(' ') {
            comment.push(bare);
        } else if line.is_empty() {
            comment.clear();
        }
    }
    found
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
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
