//! The grid of a layer's tiles, how far beyond them it is drawn, and how its lines and polygons are simplified.

use super::error::ConfigError;
use super::file::LayerDefaults;
use super::settings::Check;
use crate::cells::CellGeometry;
use crate::postgis::{LayerSection, Simplify, SimplifySection};
use crate::tile::{Margin, TileBounds, Zoom, ZoomList};

impl Check<'_> {
    pub(crate) fn margin(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Margin, ConfigError> {
        let field = |field: &str, own: bool| {
            if own { format!("layer[{}].{field}", layer.name) } else { format!("layer_defaults.{field}") }
        };
        let extent = layer.extent.unwrap_or(defaults.extent);
        let extent = self.within(&field("extent", layer.extent.is_some()), extent, 256..=65_536)?;
        let buffer = layer.buffer.unwrap_or(defaults.buffer);
        let buffer = self.within(&field("buffer", layer.buffer.is_some()), buffer, 0..=2 * extent)?;
        let bounds = layer.tile_bounds.unwrap_or(defaults.tile_bounds);
        let are_polygons = layer.aggregate.as_ref().is_some_and(|aggregate| aggregate.draw == CellGeometry::Polygon);
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

// How lines and polygons are simplified, and at which zooms.

/// The most pixels of a length: the side of a tile.
const MAX_PIXELS: f64 = 256.0;

pub(crate) struct SimplifiedZooms {
    simplify: Option<Simplify>,
    zooms: Option<ZoomList>,
}

impl SimplifiedZooms {
    pub(crate) fn at(&self, zoom: Zoom) -> Option<Simplify> {
        self.simplify.clone().filter(|_| self.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom)))
    }
}

impl Check<'_> {
    /// How the layer's lines and polygons are simplified.
    pub(crate) fn simplify(&self, layer: &LayerSection, margin: Margin) -> Result<SimplifiedZooms, ConfigError> {
        let Some(section) = &layer.simplify else { return Ok(SimplifiedZooms { simplify: None, zooms: None }) };
        let SimplifySection { tolerance, snap, min_area, min_length, zoom } = section;
        let key = format!("layer[{}].simplify", layer.name);
        for (name, value, most) in [
            ("tolerance", tolerance, MAX_PIXELS),
            ("snap", snap, MAX_PIXELS),
            ("min_area", min_area, MAX_PIXELS * MAX_PIXELS),
            ("min_length", min_length, MAX_PIXELS),
        ] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= most)) {
                let unit = if name == "min_area" { "square pixels" } else { "pixels" };
                let what =
                    format!("{value} {unit} are out of range: write more than 0 and at most {most}, such as 0.5");
                return Err(self.wrong(&format!("{key}.{name}"), what));
            }
        }
        if [tolerance, snap, min_area, min_length].iter().all(|value| value.is_none()) {
            let what = "says nothing to do: write tolerance = 0.5, snap, min_area or min_length".to_owned();
            return Err(self.wrong(&key, what));
        }
        let others = [
            ("tile_bounds = \"degrees\"", margin.bounds == TileBounds::Degrees),
            ("candidates", margin.candidates.is_some()),
        ];
        if let Some((other, _)) = others.iter().find(|(_, is_given)| *is_given) {
            let what = format!("stands beside {other}, and only whole tiles in metres are simplified: leave one out");
            return Err(self.wrong(&key, what));
        }
        let simplify = Simplify { tolerance: *tolerance, snap: *snap, min_area: *min_area, min_length: *min_length };
        Ok(SimplifiedZooms { simplify: Some(simplify), zooms: zoom.clone() })
    }

    /// Refuses to simplify a layer that does not draw single rows at any of the zooms.
    pub(crate) fn simplifies_some(&self, layer: &LayerSection, is_simplified: bool) -> Result<(), ConfigError> {
        if layer.simplify.is_none() || is_simplified {
            return Ok(());
        }
        let what = "does nothing: the layer draws no single rows at these zooms. Give it other zooms, or leave it out";
        Err(self.wrong(&format!("layer[{}].simplify", layer.name), what.to_owned()))
    }
}
