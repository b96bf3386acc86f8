//! Which layers can be patched where they have changed, and how.

use std::sync::Arc;

use super::counts::Counting;
use crate::patch::{PatchLayer, Patches, Patching, PositionsInTiles};
use crate::plan::DrawnLayer;
use crate::postgis::{Layer, PreparedLayer};
use crate::run::look::{DirtyTiles, drawn};
use crate::run::{Target, TargetUrl};

/// Where points have changed, tile by tile; nothing is known of it where tiles are rendered whole.
pub(super) fn spots_in_tiles(changed: &DirtyTiles, layers: &[Arc<Layer>], target: &Target) -> PositionsInTiles {
    // An archive in S3 is fetched as a whole anyway, and reading tile by tile before that would take longer.
    if matches!(target.url, TargetUrl::S3Pmtiles { .. }) {
        return PositionsInTiles::default();
    }
    let drawn: Vec<DrawnLayer> = layers.iter().map(|layer| drawn(layer)).collect();
    changed.spots.in_tiles(&changed.dirty, &drawn)
}

/// What is known of the changes for patching; `None` if tiles are rendered whole.
pub(super) fn patches(
    spots: PositionsInTiles,
    layers: &[PreparedLayer],
    unrendered: &[crate::tile::TileCoord],
    layers_apart: bool,
) -> Option<Arc<Patches>> {
    if !spots.are_known() {
        return None;
    }
    let (layers, whole) = (layers.iter().map(patch_layer).collect(), unrendered.iter().copied().collect());
    Some(Arc::new(Patches::new(layers, spots, whole, layers_apart)))
}

/// A source that reads the target for itself where there is something to be patched. May wait for a server.
pub(super) fn patching(source: Counting, patches: Option<&Arc<Patches>>, target: &Target) -> Patching<Counting> {
    let reader = patches.and_then(|patches| match target.reader() {
        Ok(reader) => Some((reader, Arc::clone(patches))),
        Err(error) => {
            // Whatever is wrong with the target, writing it will tell.
            tracing::info!("{error}: rendering every tile whole");
            None
        }
    });
    Patching::new(source, reader)
}

fn patch_layer(prepared: &PreparedLayer) -> PatchLayer {
    let layer = prepared.layer();
    PatchLayer {
        id: layer.id(),
        name: layer.name().to_owned(),
        zooms: layer.zooms().clone(),
        extent: layer.margin().extent,
        points: layer.as_points(),
        cached_from: prepared.cached_from(),
        most_bytes: layer.most_bytes().clone(),
    }
}
