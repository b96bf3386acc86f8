//! Which layers can be patched where they have changed, and how.

use std::sync::Arc;

use super::changed::{Changed, drawn};
use super::counts::Counting;
use crate::command::target::{Place, Reach};
use crate::mvt::{FeatureKey, PointLayer};
use crate::patch::{PatchLayer, Patches, Patching};
use crate::plan::Drawn;
use crate::postgis::{Layer, PointKey};

/// What is known of the changes for patching; `None` if tiles are rendered whole.
pub(super) fn patches(
    (changed, layers): (&Changed, &[Layer]),
    unrendered: &[crate::tile::TileCoord],
    place: &Place,
    layers_apart: bool,
) -> Option<Arc<Patches>> {
    // An archive in S3 is fetched as a whole anyway, and reading tile by tile before that would take longer.
    if !changed.spots.are_known() || matches!(place, Place::S3Pmtiles { .. }) {
        return None;
    }
    let drawn: Vec<Drawn> = layers.iter().map(drawn).collect();
    let spots = changed.spots.in_tiles(&changed.dirty, &drawn);
    let layers = layers.iter().map(patch_layer).collect();
    Some(Arc::new(Patches::new(layers, spots, unrendered.iter().copied().collect(), layers_apart)))
}

/// A source that reads the target for itself where there is something to be patched. May wait for a server.
pub(super) fn patching(
    source: Counting,
    patches: Option<&Arc<Patches>>,
    (place, reach): (&Place, &Reach),
) -> Patching<Counting> {
    let reader = patches.and_then(|patches| match reach.reader(place) {
        Ok(reader) => Some((reader, Arc::clone(patches))),
        Err(error) => {
            // Whatever is wrong with the target, writing it will tell.
            tracing::info!("{error}: rendering every tile whole");
            None
        }
    });
    Patching::new(source, reader)
}

fn patch_layer(layer: &Layer) -> PatchLayer {
    let points = layer.point_key().map(|key| PointLayer {
        key: match key {
            PointKey::FeatureId => FeatureKey::Id,
            PointKey::Property(number) => FeatureKey::Property(number),
        },
        properties: layer.fields().map(|(name, _)| name.to_owned()).collect(),
    });
    PatchLayer {
        number: layer.number(),
        name: layer.name().to_owned(),
        zooms: layer.zooms().clone(),
        extent: layer.margin().extent,
        points,
        near: layer.near(),
        most_bytes: layer.most_bytes().clone(),
    }
}
