//! The budget of a layer: how many features and bytes it may have in a tile, and what happens to tiles that exceed the
//! budget or cannot be rendered.

use std::num::NonZeroU64;

use super::by_zoom::{ZoomValue, ZoomValues};
use super::error::ConfigError;
use super::file::LayerDefaults;
use super::settings::Check;
use crate::postgis::{Budget, LayerSection, Limit, OnLargeTile};
use crate::tile::{ZoomLimits, ZoomList};

impl Check<'_> {
    pub(crate) fn budget(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Budget, ConfigError> {
        let limits = |field: &str, own: Option<&Limit>, default: &Limit| match own {
            Some(own) => self.limits(&format!("layer[{}].{field}", layer.name), own),
            None => self.limits(&format!("layer_defaults.{field}"), default),
        };
        let on_large_tile = layer.on_large_tile.unwrap_or(defaults.on_large_tile);
        if layer.rank.is_some() && on_large_tile != OnLargeTile::Thin {
            let what = "does nothing, for no feature is left out: write on_large_tile = \"thin\" beside it".to_owned();
            return Err(self.wrong(&format!("layer[{}].rank", layer.name), what));
        }
        Ok(Budget {
            features: limits("max_tile_features", layer.max_tile_features.as_ref(), &defaults.max_tile_features)?,
            bytes: limits("max_tile_bytes", layer.max_tile_bytes.as_ref(), &defaults.max_tile_bytes)?,
            on_large_tile,
            rank: layer.rank.clone(),
        })
    }

    /// Refuses a rank of rows in a layer that draws only cells.
    pub(crate) fn no_rank(&self, layer: &LayerSection) -> Result<(), ConfigError> {
        if layer.rank.is_none() {
            return Ok(());
        }
        let what = "ranks single rows, and the layer is put together in cells at all its zooms, of which those with the most rows stay: leave it out";
        Err(self.wrong(&format!("layer[{}].rank", layer.name), what.to_owned()))
    }

    fn limits(&self, key: &str, given: &Limit) -> Result<ZoomLimits, ConfigError> {
        let table = match given {
            Limit::All(limit) => return Ok(ZoomLimits::everywhere(NonZeroU64::new(*limit))),
            Limit::ByZoom(table) => table,
        };
        let values = ZoomValues { misfit: "no number: write how many, or 0 for no limit", noun: "limit" };
        let number = |value: &toml::Value| value.as_integer().and_then(|limit| u64::try_from(limit).ok());
        let mut limits = ZoomLimits::default();
        for ZoomValue { zooms, value } in self.by_zoom(key, table, number, &values)? {
            limits.set(&zooms, NonZeroU64::new(value));
        }
        Ok(limits)
    }
}

/// The smallest `max_tile_features` at zooms where the layer is drawn as cells; `None` if there is none.
pub(crate) fn fewest_features(layer: &LayerSection, zooms: &ZoomList, budget: &Budget) -> Option<NonZeroU64> {
    if budget.thins() {
        return None;
    }
    let within = match (&layer.aggregate, &layer.cluster) {
        (Some(aggregate), _) => aggregate.zoom.as_ref(),
        (None, Some(cluster)) => cluster.zoom.as_ref(),
        (None, None) => None,
    };
    let in_cells = zooms.iter().filter(|zoom| within.is_none_or(|within| within.contains(*zoom)));
    in_cells.filter_map(|zoom| budget.features.at(zoom)).min()
}
