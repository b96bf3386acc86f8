//! The compiled-in sample: the default of each key, its comment, and the environment variable that sets it. Whatever
//! lists keys is made from it: the manual, the schema, and the variables.

use std::sync::LazyLock;

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};

use super::file::ConfigFile;

/// The sample configuration, which holds all defaults.
pub(crate) const SAMPLE: &str = include_str!("../../sample-config.toml");

/// The sample's tables. A test reads them.
static TABLES: LazyLock<DeTable<'static>> =
    LazyLock::new(|| DeTable::parse(SAMPLE).map_or_else(|_error| DeTable::new(), toml::Spanned::into_inner));

/// Reads a configuration. What its text leaves out is as in the sample. Fails if a key is unknown or a value has the
/// wrong type. The error's span lies in the text.
pub(crate) fn read(text: &str) -> Result<ConfigFile, toml::de::Error> {
    let mut tables = DeTable::parse(text)?;
    let root = tables.get_mut();
    fill(root, &TABLES);
    for (section, value) in root.iter_mut() {
        let section = match &**section.get_ref() {
            "tileset_defaults" => "tileset",
            other => other,
        };
        for table in tables_in(value.get_mut()) {
            fill_from(table, section);
            if let Some(target) = table.get_mut("target").filter(|_| section == "tileset") {
                for target in tables_in(target.get_mut()) {
                    fill_from(target, "target");
                }
            }
        }
    }
    ConfigFile::deserialize(toml::Deserializer::from(tables))
}

fn tables_in<'t, 'i>(value: &'t mut DeValue<'i>) -> Vec<&'t mut DeTable<'i>> {
    match value {
        DeValue::Table(table) => vec![table],
        DeValue::Array(values) => values
            .iter_mut()
            .filter_map(|value| match value.get_mut() {
                DeValue::Table(table) => Some(table),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Adds the keys that the sample has in a section. Lists of the sample have no defaults for tables of other lists.
fn fill_from(table: &mut DeTable<'_>, section: &str) {
    if let Some(DeValue::Table(sample)) = TABLES.get(section).map(toml::Spanned::get_ref) {
        fill(table, sample);
    }
}

fn fill(table: &mut DeTable<'_>, sample: &DeTable<'static>) {
    for (key, value) in sample {
        if !table.contains_key(&**key.get_ref()) {
            table.insert(key.clone(), value.clone());
        }
    }
}

// The comments.

pub(crate) struct KeyComment {
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) comment: String,
}

/// The comments of the sample. Each is in front of its key, which is itself commented out if it has no default.
pub(crate) fn comments() -> Vec<KeyComment> {
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

// The variables of the environment.

/// Variables whose names do not follow from their keys: programs of PostgreSQL share the first; the keys of the others
/// also stand in another section.
const OWN_VARIABLES: [(&str, &str, &str); 3] = [
    ("database", "url", "DATABASE_URL"),
    ("serve", "public_url", "OAR_TILES_SERVE_PUBLIC_URL"),
    ("serve", "workers", "OAR_TILES_SERVE_WORKERS"),
];

/// The sections whose names are a part of their variables.
const NAMED_SECTIONS: [&str; 1] = ["s3"];

/// A variable of the environment, and the key that it sets.
pub(crate) struct KeyVariable {
    pub(crate) name: String,
    pub(crate) section: String,
    pub(crate) key: String,
}

/// How the text of a variable becomes a value.
pub(crate) enum VariableKind {
    Text,
    Number,
    Truth,
    List,
}

static VARIABLES: LazyLock<Vec<KeyVariable>> = LazyLock::new(|| {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let of = |KeyComment { section, key, comment }: KeyComment| {
        let name = variable_of(&section, &key);
        let is_named = comment.split(|c| !is_word(c)).any(|word| word == name);
        is_named.then_some(KeyVariable { name, section, key })
    };
    comments().into_iter().filter_map(of).collect()
});

/// The variables of all keys that have one: those whose comments name it.
pub(crate) fn key_variables() -> &'static [KeyVariable] {
    &VARIABLES
}

/// The name of a key's variable.
fn variable_of(section: &str, key: &str) -> String {
    if let Some((_, _, name)) = OWN_VARIABLES.iter().find(|(of, own, _)| (*of, *own) == (section, key)) {
        return (*name).to_owned();
    }
    let section = if NAMED_SECTIONS.contains(&section) { format!("{section}_") } else { String::new() };
    format!("OAR_TILES_{}", (section + key).to_uppercase())
}

impl KeyVariable {
    /// By the default of the key; a key without a default takes a text.
    pub(crate) fn kind(&self) -> VariableKind {
        let section = TABLES.get(&*self.section).and_then(|section| section.get_ref().get(&*self.key));
        match section.map(toml::Spanned::get_ref) {
            Some(DeValue::Integer(_)) => VariableKind::Number,
            Some(DeValue::Boolean(_)) => VariableKind::Truth,
            Some(DeValue::Array(_)) => VariableKind::List,
            _ => VariableKind::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_of_the_sample_sets_the_key_that_it_stands_above() {
        assert!(read("").is_ok() && !TABLES.is_empty());
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for KeyComment { section, key, comment } in comments() {
            let words = comment.split(|c| !is_word(c));
            // The token is no setting, and the others are those of the AWS tools.
            for word in words.filter(|word| word.starts_with("OAR_TILES_") && *word != "OAR_TILES_TOKEN") {
                let variable = key_variables().iter().find(|variable| variable.name == word);
                let set = variable.map(|variable| (&*variable.section, &*variable.key));
                assert_eq!(set, Some((&*section, &*key)), "{word}");
            }
        }
        let names: std::collections::BTreeSet<&str> =
            key_variables().iter().map(|variable| variable.name.as_str()).collect();
        assert_eq!(names.len(), key_variables().len(), "two keys have one variable");
        for own in OWN_VARIABLES {
            assert!(names.contains(own.2), "{own:?}");
        }
    }

    #[test]
    fn what_a_text_leaves_out_is_as_in_the_sample() {
        let file = read("[tileset]\nname = \"n\"\n[tileset.target]\nkeep_versions = 7\n[tileset_defaults]\nzoom = 3\n[serve]\nlive = true").unwrap();
        let tileset = file.tileset.one().unwrap();
        assert_eq!((tileset.name.as_str(), tileset.gzip_level), ("n", 1));
        assert!(read("[[tileset]]\nname = \"n\"\n[tileset.target]\npublish = \"versioned\"").is_ok());
        assert!(file.serve.live && file.serve.live_queue == 64 && file.layer.len() == 1);
    }
}
