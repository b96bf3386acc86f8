//! Variants: a family of tilesets that differ in the values of parameters.
//!
//! | file | what |
//! |---|---|
//! | `template` | the output, with `{name}` for the values |
//! | `listed` | values that the file lists |
//! | `member` | the settings of one variant |

mod listed;
mod member;
mod template;

use std::path::PathBuf;

use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, VariantList, VariantsSection};
use super::settings::{Check, LayerSettings};
use super::values::Origin;
use crate::postgis::{LayerKind, Query, VariantTable};

pub use member::{BoundValue, Variant};
pub use template::{OutputTemplate, ValueSegment};

use template::{NoTemplate, is_parameter_name};

/// The variants of a tileset.
#[derive(Debug, Clone)]
pub struct VariantSettings {
    /// The values.
    pub values: VariantValues,
    /// The conditions by which the rows of layers are chosen.
    pub conditions: Vec<VariantCondition>,
    /// Where each variant goes.
    pub output: OutputTemplate,
    /// Where the tileset without conditions goes, if it is wanted.
    pub all: Option<PathBuf>,
    /// The address under which clients find a variant, with `{name}` in it.
    public_url: Option<String>,
    /// The addresses under which CDNs know a variant, with `{name}` in it.
    purge_urls: Vec<String>,
}

/// Where the values come from.
#[derive(Debug, Clone)]
pub enum VariantValues {
    /// A query.
    Query(Query),
    /// The configuration.
    Listed(VariantTable),
}

/// The condition of a layer's rows, an SQL expression with `!name!` for the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantCondition {
    /// The name of the layer.
    pub layer: String,
    /// The condition.
    pub sql: String,
}

/// What stands for `{name}` in the addresses of the tileset without conditions.
const ALL_SEGMENT: &str = "all";

impl Check<'_> {
    /// The variants of the tileset, if it has any.
    pub(super) fn variants(
        &self,
        given: &ConfigFile,
        layers: &[LayerSettings],
    ) -> Result<Option<VariantSettings>, ConfigError> {
        let Some(section) = given.tileset.one().variants else { return Ok(None) };
        let wrong = |field: &str, what: String| Err(self.wrong(&format!("tileset.variants.{field}"), what));
        if let Some(Origin::File(_) | Origin::Flag(_) | Origin::Environment(_)) = self.origin("tileset.output") {
            let what = "stands beside variants, which have an output of their own: leave it out, or write all = \"…\" below [tileset.variants] for a tileset of everything";
            return Err(self.wrong("tileset.output", what.to_owned()));
        }
        let output = match OutputTemplate::new(&section.output) {
            Ok(output) => output,
            Err(NoTemplate::Brace) => {
                return wrong("output", format!("\"{}\" has a brace that belongs to no {{name}}: write the names of values in braces, such as by-country/{{country}}.pmtiles", section.output));
            }
            Err(NoTemplate::Constant) => {
                return wrong("output", format!("\"{}\" has no {{name}}, so that every variant would go to one place: write the name of a value in braces, such as by-country/{{country}}.pmtiles", section.output));
            }
        };
        let conditions = self.variant_conditions(&section, layers)?;
        let values = match section.values {
            VariantList::Query(text) => match Query::new(&text) {
                Ok(query) if query.asks_box() || query.asks_zoom() => {
                    return wrong("values", "has a placeholder, and is asked once, for no tile: leave it out".to_owned());
                }
                Ok(query) => VariantValues::Query(query),
                Err(error) => return wrong("values", error.to_string()),
            },
            VariantList::Listed(tables) => match listed::table_of(&tables) {
                Ok(table) => VariantValues::Listed(table),
                Err(what) => return wrong("values", what),
            },
        };
        for (key, url) in (given.target.public_url.iter().map(|url| ("target.public_url", url)))
            .chain(given.purge.iter().map(|purge| ("purge.url", &purge.url)))
            .filter(|(_, url)| *url != "relative")
        {
            if let Some(lacks) = output.names().into_iter().find(|name| !url.contains(&format!("{{{name}}}"))) {
                let what = format!("{url:?} has no {{{lacks}}}, so that every variant would have one address: write it where the output has it");
                return Err(self.wrong(key, what));
            }
        }
        Ok(Some(VariantSettings {
            values,
            conditions,
            output,
            all: section.all,
            public_url: given.target.public_url.clone().filter(|url| url != "relative"),
            purge_urls: given.purge.iter().map(|purge| purge.url.clone()).collect(),
        }))
    }

    fn variant_conditions(
        &self,
        section: &VariantsSection,
        layers: &[LayerSettings],
    ) -> Result<Vec<VariantCondition>, ConfigError> {
        let mut conditions = Vec::new();
        for (layer, sql) in &section.filter {
            let wrong = |what: String| Err(self.wrong("tileset.variants.where", what));
            let Some(known) = layers.iter().find(|known| known.options.name == *layer) else {
                let hint = nearest(layer, layers.iter().map(|known| known.options.name.as_str())).unwrap_or_default();
                return wrong(format!("names \"{layer}\", which is no layer of the tileset{hint}"));
            };
            if matches!(known.options.kind, LayerKind::Function(_)) {
                return wrong(format!(
                    "names \"{layer}\", whose tiles a function gives: write query = {{ name = \"!name!\" }} in the layer instead"
                ));
            }
            conditions.push(VariantCondition { layer: layer.clone(), sql: sql.clone() });
        }
        Ok(conditions)
    }
}

/// A text without the `{name}` of variants, to be checked as an address.
pub(super) fn without_names(text: &str) -> String {
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
