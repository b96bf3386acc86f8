//! The settings of one variant.

use std::path::PathBuf;

use super::template::NoSegment;
use super::{ALL_SEGMENT, ValueSegment, VariantSettings};
use crate::config::error::ConfigError;
use crate::config::settings::JobSettings;
use crate::postgis::{LayerKind, VariantParameter, bound_condition};
use crate::purge::CdnUrlError;
use crate::tile::TilesetTag;

/// What makes a tileset a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its values.
    pub values: Vec<BoundValue>,
    /// The values in its output, as segments.
    pub segments: Vec<ValueSegment>,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundValue {
    /// The parameter.
    pub parameter: VariantParameter,
    /// The value as text.
    pub text: String,
}

impl Variant {
    /// Everything that decides the variant's bytes beside its layers, for the fingerprint.
    #[must_use]
    pub fn definition(&self) -> String {
        let one = |value: &BoundValue| (value.parameter.name.clone(), value.parameter.kind.clone(), value.text.clone());
        format!("variant {:?}", self.values.iter().map(one).collect::<Vec<_>>())
    }

    /// The values in its output, as a path.
    #[must_use]
    pub fn key(&self) -> String {
        joined(&self.segments)
    }
}

fn joined(segments: &[ValueSegment]) -> String {
    segments.iter().map(ValueSegment::as_str).collect::<Vec<_>>().join("/")
}

impl VariantSettings {
    fn wrong(field: &str, what: String) -> ConfigError {
        ConfigError::Variants { key: if field.contains('.') { field.to_owned() } else { format!("tileset.variants.{field}") }, what }
    }

    /// Checks that the output and the conditions name parameters that are there.
    ///
    /// # Errors
    /// If they do not.
    pub fn check_parameters(&self, parameters: &[VariantParameter]) -> Result<(), ConfigError> {
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

    /// The segments of a variant in the output.
    ///
    /// # Errors
    /// If a value cannot be a part of a path.
    pub fn segments(&self, parameters: &[VariantParameter], row: &[String]) -> Result<Vec<ValueSegment>, ConfigError> {
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

    /// The output of a variant.
    #[must_use]
    pub fn output_of(&self, segments: &[ValueSegment]) -> PathBuf {
        PathBuf::from(self.output.filled(segments))
    }
}

impl JobSettings {
    /// The settings of a variant of the tileset.
    ///
    /// # Errors
    /// If a value cannot be a part of a path, or a condition names a parameter that is not there.
    pub fn of_variant(&self, parameters: &[VariantParameter], row: &[String]) -> Result<JobSettings, ConfigError> {
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
            if let LayerKind::Function(function) = &mut layer.options.kind
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

    /// The settings with the conditions of variants, and without the values of one: what all variants have in common.
    ///
    /// # Errors
    /// If a condition names a parameter that is not there.
    pub fn with_variant_conditions(&self, parameters: &[VariantParameter]) -> Result<JobSettings, ConfigError> {
        let mut settings = self.clone();
        let Some(variants) = settings.tileset.variants.take() else { return Ok(settings) };
        for layer in &mut settings.tileset.layers {
            let Some(condition) = variants.conditions.iter().find(|one| one.layer == layer.options.name) else { continue };
            let sql = bound_condition(&condition.sql, parameters)
                .map_err(|error| VariantSettings::wrong("where", error.to_string()))?;
            let own = layer.options.filter.take();
            layer.options.filter = Some(own.map_or_else(|| sql.clone(), |own| format!("({own}\n) AND ({sql}\n)")));
        }
        Ok(settings)
    }

    /// The settings of the tileset without conditions, if it is wanted beside the variants.
    ///
    /// # Errors
    /// If an address is none.
    pub fn of_all_variants(&self) -> Result<Option<JobSettings>, ConfigError> {
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
            purge.url =
                url.parse().map_err(|error: CdnUrlError| VariantSettings::wrong("purge.url", format!("{url:?} {error}")))?;
        }
        name.clone_into(&mut self.tileset.name);
        self.tileset.s3.headers.names.tag = TilesetTag::of(name);
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
