//! The checks of `[tileset.variants]`.

use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, TilesetSection, VariantList, VariantsSection};
use super::settings::Check;
use super::values::Origin;
use super::variants::{NoTemplate, OutputTemplate, VariantCondition, VariantSettings, VariantValues, table_of};
use crate::postgis::{LayerKind, LayerOptions, Query};

impl Check<'_> {
    /// The variants of the tileset, if it has any.
    pub(crate) fn variants(
        &self,
        given: &ConfigFile,
        tileset: &TilesetSection,
        layers: &[LayerOptions],
    ) -> Result<Option<VariantSettings>, ConfigError> {
        let Some(section) = &tileset.variants else { return Ok(None) };
        let wrong = |field: &str, what: String| Err(self.wrong(&format!("tileset.variants.{field}"), what));
        if let Some(Origin::File(_) | Origin::Flag(_) | Origin::Environment(_)) = self.origin("tileset.output") {
            let what = "stands beside variants, which have an output of their own: leave it out, or write all = \"…\" below [tileset.variants] for a tileset of everything";
            return Err(self.wrong("tileset.output", what.to_owned()));
        }
        let output = match OutputTemplate::new(&section.output) {
            Ok(output) => output,
            Err(NoTemplate::Brace) => {
                return wrong(
                    "output",
                    format!(
                        "\"{}\" has a brace that belongs to no {{name}}: write the names of values in braces, such as by-country/{{country}}.pmtiles",
                        section.output
                    ),
                );
            }
            Err(NoTemplate::Constant) => {
                return wrong(
                    "output",
                    format!(
                        "\"{}\" has no {{name}}, so that every variant would go to one place: write the name of a value in braces, such as by-country/{{country}}.pmtiles",
                        section.output
                    ),
                );
            }
        };
        let conditions = self.variant_conditions(section, layers)?;
        let values = match &section.values {
            VariantList::Query(text) => match Query::new(text) {
                Ok(query) if query.asks_box() || query.asks_zoom() => {
                    return wrong(
                        "values",
                        "has a placeholder, and is asked once, for no tile: leave it out".to_owned(),
                    );
                }
                Ok(query) => VariantValues::Query(query),
                Err(error) => return wrong("values", error.to_string()),
            },
            VariantList::Listed(tables) => match table_of(tables) {
                Ok(table) => VariantValues::Listed(table),
                Err(what) => return wrong("values", what),
            },
        };
        for (key, url) in (given.target.public_url.iter().map(|url| ("target.public_url", url)))
            .chain(given.purge.iter().map(|purge| ("purge.url", &purge.url)))
            .filter(|(_, url)| *url != "relative")
        {
            if let Some(lacks) = output.names().into_iter().find(|name| !url.contains(&format!("{{{name}}}"))) {
                let what = format!(
                    "{url:?} has no {{{lacks}}}, so that every variant would have one address: write it where the output has it"
                );
                return Err(self.wrong(key, what));
            }
        }
        Ok(Some(VariantSettings {
            values,
            conditions,
            output,
            all: section.all.clone(),
            public_url: given.target.public_url.clone().filter(|url| url != "relative"),
            purge_urls: given.purge.iter().map(|purge| purge.url.clone()).collect(),
        }))
    }

    fn variant_conditions(
        &self,
        section: &VariantsSection,
        layers: &[LayerOptions],
    ) -> Result<Vec<VariantCondition>, ConfigError> {
        let mut conditions = Vec::new();
        for (layer, sql) in &section.filter {
            let wrong = |what: String| Err(self.wrong("tileset.variants.where", what));
            let Some(known) = layers.iter().find(|known| known.name == *layer) else {
                let hint = nearest(layer, layers.iter().map(|known| known.name.as_str())).unwrap_or_default();
                return wrong(format!("names \"{layer}\", which is no layer of the tileset{hint}"));
            };
            if matches!(known.kind, LayerKind::Function(_)) {
                return wrong(format!(
                    "names \"{layer}\", whose tiles a function gives: write query = {{ name = \"!name!\" }} in the layer instead"
                ));
            }
            conditions.push(VariantCondition { layer: layer.clone(), sql: sql.clone() });
        }
        Ok(conditions)
    }
}
