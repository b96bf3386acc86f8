//! The values of the configuration by key. Their origins are, in this order, the compiled-in sample, a file, the
//! environment and flags. If a key has several values, the last one takes precedence.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;

use super::error::ConfigError;
use super::file::ConfigFile;
use super::sample::{KeyVariable, SAMPLE, VariableKind, key_variables, read};
use super::variables::expanded;
use crate::serve::TOKEN_VARIABLE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The compiled-in sample.
    Default,
    File(PathBuf),
    /// A draft for the tables of the database, as `init` writes it.
    Draft,
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Draft => f.write_str("the tables of the database"),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Values by key, such as `tileset.zoom`, each with its origin.
#[derive(Debug, Clone, Default)]
pub struct ConfigValues {
    pub(crate) values: BTreeMap<String, (toml::Value, Origin)>,
    /// The list of tilesets, if a file has several.
    pub(crate) tilesets: Vec<(toml::Table, Origin)>,
    /// The name of the listed tileset to which these values belong.
    pub(crate) tileset: Option<String>,
}

/// The variable that names the file; it sets no key.
pub(crate) const CONFIG_VARIABLE: &str = "OAR_TILES_CONFIG";

/// The variable in place of `--log`. It sets no key, because the error about a configuration that cannot be read is
/// logged, too.
pub(crate) const LOG_VARIABLE: &str = "OAR_TILES_LOG";

impl ConfigValues {
    /// The compiled-in defaults.
    pub(crate) fn defaults() -> Result<ConfigValues, ConfigError> {
        let mut values = ConfigValues::default();
        values.add_text(SAMPLE, &Origin::Default, Path::new("sample-config.toml"))?;
        Ok(values)
    }

    pub(crate) fn add_file(
        &mut self,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        self.add_file_text(&expanded(path, &text, environment)?, path)
    }

    /// Adds the text of a file. Its variables are already replaced.
    pub(crate) fn add_file_text(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        self.add_text(text, &Origin::File(path.to_owned()), path)
    }

    /// The defaults, overridden by a draft.
    ///
    /// # Errors
    /// If the draft is no configuration, which is a defect.
    pub fn of_draft(text: &str) -> Result<ConfigValues, ConfigError> {
        let mut values = ConfigValues::defaults()?;
        values.add_draft(text)?;
        Ok(values)
    }

    pub(crate) fn add_draft(&mut self, text: &str) -> Result<(), ConfigError> {
        let path = Path::new("the draft for the tables of the database");
        self.add_text(&expanded(path, text, &|_no_variable| None)?, &Origin::Draft, path)
    }

    fn add_text(&mut self, text: &str, origin: &Origin, path: &Path) -> Result<(), ConfigError> {
        let wrong = |error| ConfigError::in_file(path, text, &error);
        read(text).map_err(wrong)?;
        let table: toml::Table = toml::from_str(text).map_err(wrong)?;
        for (section, value) in table {
            match value {
                toml::Value::Array(tables) if section == "tileset" => {
                    let tables = tables.into_iter().filter_map(|table| table.try_into().ok());
                    self.tilesets = tables.map(|table| (table, origin.clone())).collect();
                }
                toml::Value::Table(keys) => self.add_section(&section, keys, origin, |_old| true),
                other => {
                    self.values.insert(section, (other, origin.clone()));
                }
            }
        }
        Ok(())
    }

    /// Adds the keys of a section. A present value is replaced only if it `may_go`. The sub-table `target` of a tileset
    /// is the section `[target]`.
    pub(crate) fn add_section(
        &mut self,
        section: &str,
        keys: toml::Table,
        origin: &Origin,
        may_go: impl Fn(&Origin) -> bool + Copy,
    ) {
        for (key, value) in keys {
            match value {
                toml::Value::Table(keys) if (section, &*key) == ("tileset", "target") => {
                    self.add_section("target", keys, origin, may_go);
                }
                value => {
                    let key = format!("{section}.{key}");
                    if self.values.get(&key).is_none_or(|(_, old)| may_go(old)) {
                        self.values.insert(key, (value, origin.clone()));
                    }
                }
            }
        }
    }

    /// Adds environment variables. An unknown one that begins with `OAR_TILES_` is an error.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in variables {
            // The token is not a setting, because settings are shown.
            if [CONFIG_VARIABLE, LOG_VARIABLE, TOKEN_VARIABLE].contains(&&*name) || text.is_empty() {
                continue;
            }
            let Some(variable) = key_variables().iter().find(|variable| variable.name == name) else {
                if name.starts_with("OAR_TILES_") {
                    let known = key_variables().iter().map(|variable| &*variable.name);
                    return Err(ConfigError::unknown_variable(name, known.chain([CONFIG_VARIABLE, LOG_VARIABLE])));
                }
                continue;
            };
            let value = value_of(variable, text)?;
            self.values.insert(format!("{}.{}", variable.section, variable.key), (value, Origin::Environment(name)));
        }
        Ok(())
    }

    /// Adds a flag, whose value was checked when it was parsed.
    pub(crate) fn add_flag(&mut self, flag: &'static str, key: &str, value: toml::Value) {
        self.values.insert(key.to_owned(), (value, Origin::Flag(flag)));
    }

    /// True if the output is that of the sample configuration.
    pub(crate) fn has_default_output(&self) -> bool {
        matches!(self.origin("tileset.output"), None | Some(Origin::Default))
    }

    pub(crate) fn together(&self) -> Result<ConfigFile, ConfigError> {
        let mut table = toml::Table::new();
        for (key, (value, _)) in &self.values {
            match key.split_once('.') {
                // A part of each tileset by now.
                Some(("tileset_defaults", _)) => {}
                Some((section, field)) => {
                    let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                    if let toml::Value::Table(section) = section {
                        section.insert(field.to_owned(), value.clone());
                    }
                }
                None => {
                    table.insert(key.clone(), value.clone());
                }
            }
        }
        // Each origin was read before, and the sample has what is left out, so this does not fail.
        ConfigFile::deserialize(table).map_err(|error| ConfigError::Setting {
            key: "configuration".to_owned(),
            origin: "all layers together".to_owned(),
            what: error.message().to_owned(),
        })
    }

    /// Refuses the default output for a configuration with its own layers: that output belongs to the layers of the
    /// sample. Fails if the layers are not those of the sample, but the output is.
    pub(crate) fn names_output(&self) -> Result<(), ConfigError> {
        if self.values.contains_key("tileset.variants") {
            return Ok(());
        }
        match (self.origin("layer"), self.origin("tileset.output")) {
            (Some(layers), Some(Origin::Default)) if *layers != Origin::Default => {
                Err(ConfigError::NoOutput { layers: layers.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to draw the sample's layer, which nobody has asked for. `file` is the configuration file.
    pub(crate) fn names_layers(&self, file: Option<&Path>) -> Result<(), ConfigError> {
        match (self.origin("layer"), file) {
            (None | Some(Origin::Default), Some(path)) => Err(ConfigError::NoLayers { path: path.to_owned() }),
            (None | Some(Origin::Default), None) => Err(ConfigError::NoConfiguration),
            _ => Ok(()),
        }
    }

    pub(crate) fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }
}

fn value_of(variable: &KeyVariable, text: String) -> Result<toml::Value, ConfigError> {
    let name = || variable.name.clone();
    let value = match variable.kind() {
        VariableKind::Text => toml::Value::String(text),
        VariableKind::Truth => match text.trim() {
            "true" => toml::Value::Boolean(true),
            "false" => toml::Value::Boolean(false),
            _ => {
                let message = format!("\"{text}\" is neither true nor false");
                return Err(ConfigError::BadVariable { variable: name(), message });
            }
        },
        VariableKind::List => {
            toml::Value::Array(text.split(';').filter(|part| !part.trim().is_empty()).map(toml::Value::from).collect())
        }
        VariableKind::Number => match text.trim().parse::<i64>() {
            Ok(number) => toml::Value::Integer(number),
            Err(source) => return Err(ConfigError::NotANumber { variable: name(), text, source }),
        },
    };
    let fits = |value: &toml::Value| {
        let keys = toml::Table::from_iter([(variable.key.clone(), value.clone())]);
        read(&toml::Table::from_iter([(variable.section.clone(), toml::Value::Table(keys))]).to_string())
    };
    let Err(error) = fits(&value) else { return Ok(value) };
    // A key that takes a word or a number, such as rows_mb.
    let number = value.as_str().and_then(|text| text.trim().parse().ok()).map(toml::Value::Integer);
    match number.filter(|number| fits(number).is_ok()) {
        Some(number) => Ok(number),
        None => Err(ConfigError::BadVariable { variable: name(), message: error.message().to_owned() }),
    }
}
