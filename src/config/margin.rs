//! The grid of a layer's tiles, and how far beyond them it is drawn.

use super::error::ConfigError;
use super::file::{CellDrawing, LayerDefaults, LayerSection, TileBoundsName};
use super::settings::Check;
use crate::tile::{Margin, TileBounds};

impl Check<'_> {
    pub(super) fn margin(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Margin, ConfigError> {
        let field = |field: &str, own: bool| {
            if own { format!("layer[{}].{field}", layer.name) } else { format!("layer_defaults.{field}") }
        };
        let extent = self.present("layer_defaults.extent", layer.extent.or(defaults.extent))?;
        let extent = self.within(&field("extent", layer.extent.is_some()), extent, 256..=65_536)?;
        let buffer = self.present("layer_defaults.buffer", layer.buffer.or(defaults.buffer))?;
        let buffer = self.within(&field("buffer", layer.buffer.is_some()), buffer, 0..=2 * extent)?;
        let bounds = self.present("layer_defaults.tile_bounds", layer.tile_bounds.or(defaults.tile_bounds))?;
        let bounds = match bounds {
            TileBoundsName::Mercator => TileBounds::Mercator,
            TileBoundsName::Degrees => TileBounds::Degrees,
        };
        let are_polygons = layer.aggregate.as_ref().is_some_and(|aggregate| aggregate.draw == CellDrawing::Polygon);
        if bounds == TileBounds::Degrees && are_polygons {
            let what = "\"degrees\" is for points, lines and polygons of a table, and for cells that stand as points: set draw = \"center\", or tile_bounds = \"mercator\"";
            return Err(self.wrong(&field("tile_bounds", layer.tile_bounds.is_some()), what.to_owned()));
        }
        let candidates = layer.candidates.map(|fraction| fraction.0);
        if let Some(fraction) = candidates.filter(|fraction| !(*fraction > 0.0 && *fraction <= 2.0)) {
            let what = format!(
                "{fraction} of a tile is out of range: write more than 0 and at most 2, such as 0.2. For no features beyond the tile's edges write buffer = 0"
            );
            return Err(self.wrong(&field("candidates", true), what));
        }
        Ok(Margin { extent, buffer, bounds, candidates, moved: 0.0 })
    }
}
