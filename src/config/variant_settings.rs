//! The settings of one variant of a tileset, and the checks of `[tileset.variants]`.

use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, TilesetSection, VariantList, VariantsSection};
use super::settings::{Check, Settings};
use super::values::Origin;
use super::variants::{
    ALL_SEGMENT, BoundValue, NoTemplate, OutputTemplate, ValueSegment, Variant, VariantCondition, VariantSettings,
    VariantValues, joined, table_of,
};
use crate::cdn::CdnUrlError;
use crate::postgis::{LayerKind, LayerOptions, Query, VariantParameter, bound_condition, joined_conditions};
use crate::tile::TilesetTag;

impl Settings {
    /// The settings of a variant of the tileset. Fails if a value cannot be a part of a path, or a condition names a
    /// parameter that does not exist.
    pub(crate) fn of_variant(&self, parameters: &[VariantParameter], row: &[String]) -> Result<Settings, ConfigError> {
        let Some(variants) = &self.tileset.variants else { return Ok(self.clone()) };
        let segments = variants.segments(parameters, row)?;
        let mut settings = self.with_variant_conditions(parameters)?;
        row.clone_into(&mut settings.database.session.parameters);
        let value = |(parameter, text): (&VariantParameter, &String)| BoundValue {
            parameter: parameter.clone(),
            text: text.clone(),
        };
        let values: Vec<BoundValue> = parameters.iter().zip(row).map(value).collect();
        for layer in &mut settings.tileset.layers {
            if let LayerKind::Function(function) = &mut layer.kind
                && let Some(query) = &function.query
                && let Ok(query) = serde_json::from_str(query)
            {
                function.query = Some(filled_query(query, &values).to_string());
            }
        }
        settings.tileset.output = variants.output_of(&segments);
        let texts: Vec<&str> = segments.iter().map(ValueSegment::as_str).collect();
        settings.address(variants, &format!("{}/{}", self.tileset.name, joined(&segments)), &texts)?;
        settings.tileset.variant = Some(Variant { values, segments });
        Ok(settings)
    }

    /// The settings with the conditions of variants, but without the values of one variant: what all variants share.
    pub(crate) fn with_variant_conditions(&self, parameters: &[VariantParameter]) -> Result<Settings, ConfigError> {
        let mut settings = self.clone();
        let Some(variants) = settings.tileset.variants.take() else { return Ok(settings) };
        for layer in &mut settings.tileset.layers {
            let Some(condition) = variants.conditions.iter().find(|one| one.layer == layer.name) else {
                continue;
            };
            let sql = bound_condition(&condition.sql, parameters)
                .map_err(|error| VariantSettings::wrong("where", error.to_string()))?;
            layer.filter = Some(joined_conditions(layer.filter.as_deref(), &sql));
        }
        Ok(settings)
    }

    /// The settings of the tileset without conditions, if it is wanted in addition to the variants. Fails if the
    /// output, `public_url` or the `url` of a purge is no valid address.
    pub(crate) fn of_all_variants(&self) -> Result<Option<Settings>, ConfigError> {
        let Some(variants) = &self.tileset.variants else { return Ok(None) };
        let Some(all) = &variants.all else { return Ok(None) };
        let mut settings = self.clone();
        settings.tileset.output.clone_from(all);
        settings.address(variants, &self.tileset.name, &vec![ALL_SEGMENT; variants.output.names().len()])?;
        settings.tileset.variants = None;
        Ok(Some(settings))
    }

    /// Gives the tileset the name and the addresses of a variant.
    fn address(&mut self, variants: &VariantSettings, name: &str, segments: &[&str]) -> Result<(), ConfigError> {
        let names = variants.output.names();
        let filled = |url: &str| {
            let each = names.iter().zip(segments);
            each.fold(url.to_owned(), |url, (name, segment)| url.replace(&format!("{{{name}}}"), segment))
        };
        if let Some(url) = &variants.public_url {
            self.tileset.tree.public_url = Some(filled(url).trim_end_matches('/').to_owned());
        }
        for (purge, url) in self.tileset.purges.iter_mut().zip(&variants.purge_urls) {
            let url = filled(url);
            purge.url = url
                .parse()
                .map_err(|error: CdnUrlError| VariantSettings::wrong("purge.url", format!("{url:?} {error}")))?;
        }
        name.clone_into(&mut self.tileset.name);
        self.tileset.bucket.names.tag = TilesetTag::of(name);
        self.server.tile_headers.names.tag = TilesetTag::of(name);
        Ok(())
    }
}

/// The query of a function, in which texts such as `"!country!"` are replaced by values.
fn filled_query(query: serde_json::Value, values: &[BoundValue]) -> serde_json::Value {
    match query {
        serde_json::Value::String(text) => {
            let of = |value: &&BoundValue| text == format!("!{}!", value.parameter.name);
            let Some(value) = values.iter().find(of) else { return text.into() };
            let is_number = ["smallint", "integer", "bigint", "real", "double precision", "numeric", "boolean"];
            match serde_json::from_str(&value.text) {
                Ok(number) if is_number.contains(&value.parameter.kind.as_str()) => number,
                _ => value.text.clone().into(),
            }
        }
        serde_json::Value::Array(all) => all.into_iter().map(|one| filled_query(one, values)).collect(),
        serde_json::Value::Object(all) => {
            let filled = all.into_iter().map(|(name, one)| (name, filled_query(one, values)));
            filled.collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

// The checks of `[tileset.variants]`.

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
