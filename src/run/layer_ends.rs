//! Layers that are drawn only at the shallow zooms of a tileset. Map clients enlarge tiles beyond the deepest zoom of a
//! source, but not beyond the deepest zoom of a layer. At deeper zooms such a layer is missing from the map.

use std::collections::BTreeMap;

use crate::config::JobSettings;
use crate::target::TargetUrl;
use crate::tile::{LayerId, Zoom, ZoomList};

/// A warning for each layer that ends at a shallower zoom than the tileset. There is none if another layer begins at
/// the very next zoom, as single facilities follow cells, and none if each layer has a TileJSON of its own.
pub(crate) fn layers_that_end_early(settings: &JobSettings) -> Vec<String> {
    if has_apart(settings) {
        return Vec::new();
    }
    // A layer that is drawn in several ways has an entry for each of them.
    let mut layers: BTreeMap<LayerId, (&str, Vec<Zoom>)> = BTreeMap::new();
    for layer in &settings.tileset.layers {
        layers.entry(layer.id).or_insert((&layer.name, Vec::new())).1.extend(layer.zooms.iter());
    }
    let layers: Vec<(&str, ZoomList)> =
        layers.into_values().filter_map(|(name, zooms)| Some((name, ZoomList::of(zooms)?))).collect();
    let tileset = &settings.tileset.zooms;
    let warning = |(name, zooms): &(&str, ZoomList)| {
        let gone = tileset.iter().find(|zoom| *zoom > zooms.max())?;
        let follows = |(_, other): &(&str, ZoomList)| other.min().get() == zooms.max().get() + 1;
        if layers.iter().any(follows) {
            return None;
        }
        Some(format!(
            "layer \"{name}\" is drawn up to zoom {} and the tileset goes to {deepest}: the layer vanishes from zoom {gone} on, because map clients enlarge tiles only beyond the deepest zoom of the whole tileset. Give the layer zoom = \"{}-{deepest}\", or seed it into a tileset of its own",
            zooms.max(),
            zooms.min(),
            deepest = tileset.max(),
        ))
    };
    layers.iter().filter_map(warning).collect()
}

/// True if the target keeps each layer in tiles of its own.
fn has_apart(settings: &JobSettings) -> bool {
    let place = TargetUrl::parse(&settings.tileset.output.to_string_lossy());
    place.is_ok_and(|url| !url.is_archive()) && settings.tileset.tree.template.layers_apart()
}
