//! How lines and polygons are simplified, and at which zooms.

use super::error::ConfigError;
use super::file::{LayerSection, SimplifySection};
use super::settings::Check;
use crate::postgis::Simplify;
use crate::tile::{Margin, TileBounds, Zoom, ZoomList};

/// The most pixels of a length: the side of a tile.
const MAX_PIXELS: f64 = 256.0;

/// How a layer is simplified, and at which zooms.
pub(super) struct SimplifiedZooms {
    simplify: Option<Simplify>,
    zooms: Option<ZoomList>,
}

impl SimplifiedZooms {
    /// How the layer is simplified at a zoom.
    pub(super) fn at(&self, zoom: Zoom) -> Option<Simplify> {
        self.simplify.clone().filter(|_| self.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom)))
    }
}

impl Check<'_> {
    /// How the layer's lines and polygons are simplified.
    pub(super) fn simplify(&self, layer: &LayerSection, margin: Margin) -> Result<SimplifiedZooms, ConfigError> {
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
    pub(super) fn simplifies_some(&self, layer: &LayerSection, is_simplified: bool) -> Result<(), ConfigError> {
        if layer.simplify.is_none() || is_simplified {
            return Ok(());
        }
        let what = "does nothing: the layer draws no single rows at these zooms. Give it other zooms, or leave it out";
        Err(self.wrong(&format!("layer[{}].simplify", layer.name), what.to_owned()))
    }
}
