//! Several tilesets in one configuration: the values of each.

use super::error::{ConfigError, nearest};
use super::filters::FilterSettings;
use super::settings::{Check, Settings, layer_names};
use super::values::{ConfigValues, Origin};
use crate::target::{PublishMode, Publishing, TargetSection, Template, TreeOptions};

/// The placeholder for the name of a tileset in addresses.
const TILESET_PLACE: &str = "{tileset}";

impl ConfigValues {
    /// True if the file lists several tilesets, and none of them was chosen yet.
    pub(crate) fn lists_tilesets(&self) -> bool {
        !self.tilesets.is_empty()
    }

    pub(crate) fn tileset_names(&self) -> Vec<&str> {
        self.tilesets.iter().map(|(table, _)| name_of(table)).collect()
    }

    /// The values of each tileset in `only`, or of all tilesets if `only` is empty. A configuration with one
    /// `[tileset]` has only its own values. Fails if there is no such tileset, or two tilesets of the list have the
    /// same name, or one has no name.
    pub(crate) fn tilesets(&self, only: &[String]) -> Result<Vec<ConfigValues>, ConfigError> {
        if !self.lists_tilesets() {
            let own = self.values.get("tileset.name").and_then(|(name, _)| name.as_str()).unwrap_or_default();
            return match only.iter().find(|wanted| *wanted != own) {
                None => Ok(vec![self.clone()]),
                Some(wanted) => Err(unknown(wanted, &[own])),
            };
        }
        let names = self.tileset_names();
        if let Some(at) = names.iter().position(|name| name.is_empty()) {
            return Err(self.wrong_list(format!("number {} has no name: write name = \"…\"", at + 1)));
        }
        let is_safe = |name: &str| {
            !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if let Some(odd) = names.iter().find(|name| !is_safe(name)) {
            return Err(self.wrong_list(format!(
                "\"{odd}\" is no name that files and URLs can have: write letters, digits, -, _ and . (not first)"
            )));
        }
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(self.wrong_list(format!("two are called \"{twice}\": give each its own name")));
        }
        if let Some(wanted) = only.iter().find(|wanted| !names.contains(&wanted.as_str())) {
            return Err(unknown(wanted, &names));
        }
        let chosen = self
            .tilesets
            .iter()
            .filter(|(table, _)| only.is_empty() || only.iter().any(|wanted| wanted == name_of(table)));
        let tilesets: Vec<ConfigValues> = chosen.map(|(table, origin)| self.of_tileset(table, origin)).collect();
        let output = |values: &ConfigValues| {
            let (variants, output) = (values.values.get("tileset.variants"), values.values.get("tileset.output"));
            variants
                .and_then(|(variants, _)| variants.get("output").cloned())
                .or(output.map(|(output, _)| output.clone()))
        };
        for (at, values) in tilesets.iter().enumerate() {
            if let Some(other) = tilesets[..at].iter().find(|other| output(other) == output(values)) {
                let both = [other, values].map(|values| values.tileset.clone().unwrap_or_default());
                let output = output(values).map(|output| output.to_string()).unwrap_or_default();
                return Err(self.wrong_list(format!(
                    "\"{}\" and \"{}\" have the same output, {output}: give each its own; a flag or variable for all of them needs --tileset",
                    both[0], both[1]
                )));
            }
        }
        Ok(tilesets)
    }

    /// The values of a listed tileset. Its own keys and those of `[tileset_defaults]` override the defaults, but not
    /// the environment and flags. An `output` of its own excludes default variants, and variants of its own exclude a
    /// default `output`.
    fn of_tileset(&self, table: &toml::Table, origin: &Origin) -> ConfigValues {
        let may_go = |old: &Origin| !matches!(old, Origin::Environment(_) | Origin::Flag(_));
        let mut values =
            ConfigValues { tilesets: Vec::new(), tileset: Some(name_of(table).to_owned()), ..self.clone() };
        // A tileset has either an output or variants, which have outputs of their own.
        let goes_on = |key: &str| match key {
            "output" => !table.contains_key("variants"),
            "variants" => !table.contains_key("output"),
            _ => true,
        };
        for (key, (value, origin)) in &self.values {
            if let Some(key) = key.strip_prefix("tileset_defaults.").filter(|key| goes_on(key)) {
                values.add_section("tileset", [(key.to_owned(), value.clone())].into_iter().collect(), origin, may_go);
            }
        }
        values.add_section("tileset", table.clone(), origin, may_go);
        values.fill_in_name(name_of(table));
        values
    }

    /// Replaces `{tileset}` with the name of the tileset in its own addresses.
    fn fill_in_name(&mut self, name: &str) {
        let fill_in = |value: &mut toml::Value| {
            if let toml::Value::String(text) = value {
                *text = text.replace(TILESET_PLACE, name);
            }
        };
        for key in ["tileset.output", "target.public_url"] {
            self.values.get_mut(key).into_iter().for_each(|(value, _)| fill_in(value));
        }
        if let Some((toml::Value::Table(variants), _)) = self.values.get_mut("tileset.variants") {
            for key in ["output", "all"] {
                variants.get_mut(key).into_iter().for_each(fill_in);
            }
        }
        let Some((toml::Value::Array(purges), _)) = self.values.get_mut("purge") else { return };
        purges.iter_mut().filter_map(|purge| purge.get_mut("url")).for_each(fill_in);
    }

    fn wrong_list(&self, what: String) -> ConfigError {
        let origin = self.tilesets.first().map_or_else(String::new, |(_, origin)| origin.to_string());
        ConfigError::Setting { key: "tileset".to_owned(), origin, what }
    }
}

fn name_of(table: &toml::Table) -> &str {
    table.get("name").and_then(toml::Value::as_str).unwrap_or_default()
}

fn unknown(wanted: &str, names: &[&str]) -> ConfigError {
    let hint = nearest(wanted, names.iter().copied()).unwrap_or_else(|| format!(": there is {}", names.join(", ")));
    ConfigError::UnknownTileset { wanted: wanted.to_owned(), hint }
}

impl Settings {
    /// The settings for what all tilesets share, such as the change log: the settings of the first tileset, with the
    /// layers of all, and with all that requests may ask of them. `None` if there is no tileset.
    pub(crate) fn with_all_layers(tilesets: Vec<Settings>) -> Option<Settings> {
        let all: Vec<_> = tilesets.iter().flat_map(|settings| &settings.tileset.layers).cloned().collect();
        let filters = FilterSettings::of_all(tilesets.iter().map(|settings| settings.tileset.filters.clone()));
        let mut first = tilesets.into_iter().next()?;
        first.tileset.filters = filters;
        first.tileset.layers.clear();
        // The parts of a layer must follow each other.
        let mut names = layer_names(&all);
        names.sort_unstable();
        names.dedup();
        for name in names {
            first.tileset.layers.extend(all.iter().filter(|layer| layer.name == name).cloned());
        }
        Some(first)
    }
}

// The checks of the section `[target]`.

impl Check<'_> {
    /// How tiles are stored in a directory or bucket, and how they are published.
    pub(crate) fn tree(&self, target: &TargetSection) -> Result<TreeOptions, ConfigError> {
        let text = &target.template;
        let template = Template::new(text).map_err(|error| self.wrong("target.template", error.to_string()))?;
        let publish = match target.publish {
            PublishMode::InPlace => Publishing::InPlace,
            PublishMode::Versioned => Publishing::Versioned { keep: target.keep_versions, keep_for: *target.keep_for },
        };
        match (publish, template.is_versioned()) {
            (Publishing::InPlace, true) => {
                return Err(self.wrong(
                    "target.template",
                    format!("\"{text}\" has a {{version}}: write publish = \"versioned\" with it"),
                ));
            }
            (Publishing::Versioned { .. }, false) => {
                return Err(self.wrong(
                    "target.publish",
                    format!("versions need a {{version}} in the template \"{text}\": write {{version}}/{{z}}/{{x}}/{{y}}.pbf or the like"),
                ));
            }
            _ => {}
        }
        let public_url = target.public_url.as_deref().map(|url| self.public_url(url)).transpose()?;
        Ok(TreeOptions { section: target.clone(), template, publish, force: false, public_url })
    }

    /// Checks the URL under which clients find a target. Returns an empty text for `relative`.
    fn public_url(&self, url: &str) -> Result<String, ConfigError> {
        if url == "relative" {
            return Ok(String::new());
        }
        let wrong = |what: &str| {
            let next = "write https://host/path, under which clients find the output, or relative";
            Err(self.wrong("target.public_url", format!("{what}: {next}")))
        };
        let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
            return wrong("is no whole address");
        };
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return wrong("holds a user or password, and every visitor would read it");
        }
        if host.is_empty() || rest.contains(Self::is_odd_in_address) {
            return wrong("is no address of a folder");
        }
        Ok(url.trim_end_matches('/').to_owned())
    }
}
