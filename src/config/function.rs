//! Layers whose whole tiles come from a function of the database.

use super::error::ConfigError;
use super::settings::Check;
use crate::postgis::{LayerSection, OnLargeTile, Query, ROW_NUMBER, Rows, TileFunction};
use crate::tile::HALF_WORLD_METRES;

impl Check<'_> {
    /// The layer's function, if it has one.
    pub(crate) fn function(&self, layer: &LayerSection) -> Result<Option<TileFunction>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let Some(name) = &layer.function else {
            let beside = [("query", layer.query.is_some()), ("occupied", layer.occupied.is_some())];
            return match beside.into_iter().find(|(_, is_set)| *is_set) {
                None => Ok(None),
                Some((field, _)) => {
                    let what =
                        "belongs to function, and there is none: write function = \"schema.name\", or leave it out";
                    Err(self.wrong(&key(field), what.to_owned()))
                }
            };
        };
        if name.trim().is_empty() {
            return Err(self.wrong(&key("function"), "is empty: write \"schema.name\"".to_owned()));
        }
        let of_rows = [
            ("table", layer.table.is_some()),
            ("schema", layer.schema.is_some()),
            ("sql", layer.sql.is_some()),
            ("key", layer.key.is_some()),
            ("properties", layer.properties.is_some()),
            ("property_zooms", layer.property_zooms.is_some()),
            ("feature_id", layer.feature_id.is_some()),
            ("where", layer.filter.is_some()),
            ("min_zoom", layer.min_zoom.is_some()),
            ("max_zoom", layer.max_zoom.is_some()),
            ("aggregate", layer.aggregate.is_some()),
            ("cluster", layer.cluster.is_some()),
            ("simplify", layer.simplify.is_some()),
            ("repair", layer.repair == Some(true)),
            ("rank", layer.rank.is_some()),
            ("facets", !layer.facets.is_empty()),
            ("candidates", layer.candidates.is_some()),
            ("max_tile_features", layer.max_tile_features.is_some()),
        ];
        if let Some((field, _)) = of_rows.into_iter().find(|(_, is_set)| *is_set) {
            let what =
                "stands beside function, which gives whole tiles: it has no meaning there; leave it out".to_owned();
            return Err(self.wrong(&key(field), what));
        }
        if layer.on_large_tile == Some(OnLargeTile::Thin) {
            let what = "is \"thin\" beside function, whose tiles are stored as they are: write \"warn\" or \"fail\""
                .to_owned();
            return Err(self.wrong(&key("on_large_tile"), what));
        }
        let query = layer.query.as_ref().map(|query| json_of(&toml::Value::Table(query.clone())).to_string());
        Ok(Some(TileFunction { name: name.clone(), query, is_bounded: layer.occupied.is_some() }))
    }

    /// The rows of such a layer. They tell where tiles may be.
    pub(crate) fn occupied(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
        let key = format!("layer[{}].occupied", layer.name);
        let world = format!(
            "SELECT ST_MakeEnvelope(-{HALF_WORLD_METRES:?}, -{HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, 3857) AS world"
        );
        let text = layer.occupied.as_ref().unwrap_or(&world);
        let query = Query::new(text).map_err(|error| self.wrong(&key, error.to_string()))?;
        if query.asks_box() {
            let what = "has !bbox!, and is read once, before there are tiles: leave the condition out".to_owned();
            return Err(self.wrong(&key, what));
        }
        Ok(Rows::Query(query.numbered()))
    }

    /// The key of these rows.
    pub(crate) fn occupied_key() -> Vec<String> {
        vec![ROW_NUMBER.to_owned()]
    }
}

/// A value as JSON. Dates and times become texts.
fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}
