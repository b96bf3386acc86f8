//! The layers of the tileset. A layer that is drawn in several ways, such as cells at some zooms or fewer properties, becomes several layers with
//! the same [`LayerId`], each for its own zooms.

use std::num::NonZeroU64;

use super::budget::fewest_features;
use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, LayerDefaults, LayerSection, Properties};
use super::settings::{Check, LayerSettings, LayerTexts};
use crate::changes::TrackOptions;
use crate::postgis::{
    LayerKind, LayerOptions, Property, PropertySource, RowZooms, Rows, Simplify, TileFunction, TilePart,
};
use crate::sink::is_own_name;
use crate::tile::{LayerId, Margin, Zoom, ZoomList};

/// The most layers in one tile.
const MOST_LAYERS: usize = 255;

/// What a layer draws at some of its zooms.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    properties: Option<Vec<Property>>,
    kind: LayerKind,
    filter: Option<String>,
    simplify: Option<Simplify>,
}

impl Band {
    fn of_function(function: TileFunction) -> Band {
        Band { properties: Some(Vec::new()), kind: LayerKind::Function(function), filter: None, simplify: None }
    }
}

impl Check<'_> {
    pub(super) fn layers(&self, given: &ConfigFile, only: &[String]) -> Result<Vec<LayerSettings>, ConfigError> {
        let layers = self.present("layer", given.layer.as_ref())?;
        if layers.is_empty() || layers.len() > MOST_LAYERS {
            return Err(self.wrong("layer", format!("there are {} layers: write 1 to {MOST_LAYERS}", layers.len())));
        }
        let mut names: Vec<&str> = Vec::new();
        for layer in layers {
            if names.contains(&layer.name.as_str()) {
                return Err(
                    self.wrong("layer", format!("two layers are named \"{}\": give each its own name", layer.name))
                );
            }
            if is_own_name(&layer.name) {
                let what = format!(
                    "a layer is named \"{}\", as what the program keeps beside the tiles (.oar-tiles…, metadata.json, latest.json, tiles.json, ….tiles.json): give it another name",
                    layer.name
                );
                return Err(self.wrong("layer", what));
            }
            names.push(&layer.name);
        }
        if let Some(wanted) = only.iter().find(|wanted| !names.contains(&wanted.as_str())) {
            let hint = nearest(wanted, names.iter().copied());
            let hint = hint.unwrap_or_else(|| format!(": there is {}", names.join(", ")));
            return Err(ConfigError::UnknownLayer { wanted: wanted.clone(), hint });
        }
        let mut settings = Vec::new();
        let chosen = layers.iter().filter(|layer| only.is_empty() || only.contains(&layer.name));
        for (number, layer) in (0..).zip(chosen) {
            settings.append(&mut self.layer(LayerId(number), layer, &given.layer_defaults)?);
        }
        Ok(settings)
    }

    /// The layers that one layer of the configuration becomes.
    fn layer(
        &self,
        id: LayerId,
        layer: &LayerSection,
        defaults: &LayerDefaults,
    ) -> Result<Vec<LayerSettings>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let margin = self.margin(layer, defaults)?;
        let function = self.function(layer)?;
        let (rows, columns) = match &function {
            Some(_) => (self.occupied(layer)?, Self::occupied_key()),
            None => (self.rows(layer)?, layer.key.clone().unwrap_or_default()),
        };
        if let Some(twice) = first_repeated(columns.iter()) {
            return Err(self.wrong(&key("key"), format!("names the column \"{twice}\" twice: name each column once")));
        }
        let zooms = self.present("layer_defaults.zoom", layer.zoom.as_ref().or(defaults.zoom.as_ref()).cloned())?;
        let track: Vec<TrackOptions> = (layer.track.iter())
            .map(|track| TrackOptions {
                table: track.table.clone(),
                schema: track.schema.clone(),
                geometry: track.geometry.clone(),
            })
            .collect();
        let (mut budget, on_tile_error) = (self.budget(layer, defaults)?, self.on_tile_error(layer, defaults)?);
        if function.is_some() {
            budget = budget.of_whole_tiles();
        }
        let beyond = self.present("layer_defaults.beyond", layer.beyond.or(defaults.beyond))?;
        let row_zooms = RowZooms { min: layer.min_zoom.clone(), max: layer.max_zoom.clone() };
        let refresh = layer.refresh.unwrap_or(false);
        if refresh && matches!(rows, Rows::Query(_)) {
            let what = "is for a layer that names a materialized view with table: leave it out".to_owned();
            return Err(self.wrong(&key("refresh"), what));
        }
        let limit = fewest_features(layer, &zooms, &budget);
        let bands = match function {
            Some(function) => vec![(zooms, Band::of_function(function))],
            None => self.bands(layer, &zooms, limit, margin)?,
        };
        if bands.iter().all(|(_, band)| band.kind != LayerKind::Rows) {
            self.no_rank(layer)?;
        }
        let bands = bands.into_iter().map(|(zooms, band)| LayerSettings {
            options: LayerOptions {
                name: layer.name.clone(),
                id,
                rows: rows.clone(),
                geometry: layer.geometry.clone(),
                key: columns.clone(),
                properties: band.properties,
                feature_id: layer.feature_id.clone(),
                filter: band.filter,
                row_zooms: row_zooms.clone(),
                zooms,
                margin: Margin { moved: band.simplify.as_ref().map_or(0.0, Simplify::moved), ..margin },
                kind: band.kind,
                simplify: band.simplify,
                budget: budget.clone(),
                on_tile_error,
                beyond,
                refresh,
                is_sample: self.is_sample(),
            },
            track: track.clone(),
        });
        Ok(bands.collect())
    }

    /// Descriptions of the layers, for people.
    pub(super) fn layer_texts(&self, given: &ConfigFile) -> Result<Vec<LayerTexts>, ConfigError> {
        let texts = |layer: &LayerSection| {
            let of_properties = layer.property_descriptions.clone().unwrap_or_default();
            // Only the database knows the columns of a table, and clusters have properties of their own.
            let own = layer.properties.as_ref().filter(|_| layer.aggregate.is_none() && layer.cluster.is_none());
            let known = own.map(Properties::names);
            let unknown = |name: &&String| known.as_ref().is_some_and(|known| !known.contains(&name.as_str()));
            if let Some(unknown) = of_properties.keys().find(unknown) {
                let key = format!("layer[{}].property_descriptions", layer.name);
                return Err(self.wrong(&key, format!("describes \"{unknown}\", which is no property of the layer")));
            }
            Ok(LayerTexts { name: layer.name.clone(), description: layer.description.clone(), of_properties })
        };
        given.layer.iter().flatten().map(texts).collect()
    }

    /// The ways in which the layer is drawn, each with its zooms, ordered by the first zoom. Together they cover all zooms of the layer.
    fn bands(
        &self,
        layer: &LayerSection,
        zooms: &ZoomList,
        limit: Option<NonZeroU64>,
        margin: Margin,
    ) -> Result<Vec<(ZoomList, Band)>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let own =
            layer.properties.as_ref().map(|properties| self.properties(&key("properties"), properties)).transpose()?;
        self.no_placeholders(layer, own.as_deref())?;
        let gathered = match (&layer.aggregate, &layer.cluster) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let what = "stands beside [layer.aggregate]: a layer has one or the other".to_owned();
                return Err(self.wrong(&key("cluster"), what));
            }
            (Some(aggregate), None) => {
                let (cells, properties) = self.aggregate(&key("aggregate"), aggregate, limit)?;
                let within = aggregate.zoom.clone();
                Some((LayerKind::Cells(cells), properties, within))
            }
            (None, Some(cluster)) => {
                let (cells, properties) = self.cluster(&key("cluster"), cluster, own.as_deref(), limit)?;
                Some((LayerKind::Cells(cells), properties, cluster.zoom.clone()))
            }
        };
        if let Some(column) = layer.feature_id.as_ref().filter(|_| gathered.is_some()) {
            let what = format!("names the column \"{column}\", and a cell is no row: leave feature_id out");
            return Err(self.wrong(&key("feature_id"), what));
        }
        let property_zooms = self.property_zooms(&key("property_zooms"), layer, own.as_deref())?;
        let (conditions, simplify) = (self.conditions(layer)?, self.simplify(layer, margin)?);
        let mut bands: Vec<(Vec<Zoom>, Band)> = Vec::new();
        for zoom in zooms.iter() {
            let is_shown = |property: &&Property| {
                let list = property_zooms.iter().find(|(name, _)| *name == property.name);
                matches!(property.source, PropertySource::Aggregate(_))
                    || list.is_none_or(|(_, zooms)| zooms.contains(zoom))
            };
            let (kind, properties) = match &gathered {
                Some((kind, properties, within)) if within.as_ref().is_none_or(|within| within.contains(zoom)) => {
                    (kind.clone(), Some(properties))
                }
                _ => (LayerKind::Rows, own.as_ref()),
            };
            let properties = properties.map(|all| all.iter().filter(is_shown).cloned().collect());
            let simplify = simplify.at(zoom).filter(|_| kind == LayerKind::Rows);
            let band = Band { properties, kind, filter: conditions.at(zoom), simplify };
            match bands.iter_mut().find(|(_, other)| *other == band) {
                Some((zooms, _)) => zooms.push(zoom),
                None => bands.push((vec![zoom], band)),
            }
        }
        self.simplifies_some(layer, bands.iter().any(|(_, band)| band.simplify.is_some()))?;
        let plain = bands.iter().any(|(_, band)| band.kind == LayerKind::Rows);
        if layer.aggregate.is_some() && own.is_some() && !plain {
            let what = "are those of single rows, and the layer is aggregated at all its zooms: write them into [layer.aggregate], or give that a zoom of its own";
            return Err(self.wrong(&key("properties"), what.to_owned()));
        }
        Ok(bands.into_iter().filter_map(|(zooms, band)| Some((ZoomList::of(zooms)?, band))).collect())
    }

    /// Refuses placeholders (`!name!`) that have no value here.
    pub(super) fn placeholders(&self, key: &str, sql: &str, known: &[&str]) -> Result<(), ConfigError> {
        match placeholders(sql).find(|name| !known.contains(name)) {
            Some(name) => {
                let known: Vec<String> = known.iter().map(|name| format!("!{name}!")).collect();
                let what = format!("!{name}! is no placeholder here: there is {}", known.join(", "));
                Err(self.wrong(key, what))
            }
            None => Ok(()),
        }
    }

    pub(super) fn properties(&self, key: &str, properties: &Properties) -> Result<Vec<Property>, ConfigError> {
        let properties: Vec<Property> = match properties {
            Properties::Columns(names) => names
                .iter()
                .map(|name| Property { name: name.clone(), source: PropertySource::Column(name.clone()) })
                .collect(),
            Properties::Expressions(table) => table
                .iter()
                .map(|(name, sql)| match sql {
                    toml::Value::String(sql) => Ok(Property { name: name.clone(), source: expression(sql) }),
                    _ => Err(self
                        .wrong(key, format!("the value of \"{name}\" is no text: write an SQL expression in quotes"))),
                })
                .collect::<Result<_, _>>()?,
        };
        if let Some(twice) = first_repeated(properties.iter().map(|property| &property.name)) {
            return Err(self.wrong(key, format!("names \"{twice}\" twice: name each property once")));
        }
        // PostgreSQL truncates longer names, so two might become the same.
        if let Some(long) = properties.iter().find(|property| property.name.len() > 63) {
            return Err(self.wrong(key, format!("the name \"{}\" is longer than 63 bytes: shorten it", long.name)));
        }
        Ok(properties)
    }
}

/// The address of the tile, or SQL.
fn expression(sql: &str) -> PropertySource {
    match sql.trim() {
        "!x!" => PropertySource::Tile(TilePart::X),
        "!y!" => PropertySource::Tile(TilePart::Y),
        "!zoom!" => PropertySource::Tile(TilePart::Zoom),
        _ => PropertySource::Expression(sql.to_owned()),
    }
}

/// The names between exclamation marks.
fn placeholders(sql: &str) -> impl Iterator<Item = &str> {
    let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    // The first and the last part are outside of the marks.
    let parts: Vec<&str> = sql.split('!').collect();
    let inner = parts.len().saturating_sub(2);
    parts.into_iter().skip(1).take(inner).filter(is_name)
}

pub(super) fn first_repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
