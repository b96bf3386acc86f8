//! Which layers can be patched at changed positions, and how.

use std::sync::Arc;

use super::counts::CountingWorker;
use crate::patch::{PatchLayer, Patches, Patching, PositionsInTiles};
use crate::plan::DrawnLayer;
use crate::postgis::{Layer, PreparedLayer};
use crate::run::look::{DirtyTiles, drawn};
use crate::run::{Target, TargetUrl};

/// The changed positions by tile; empty if no tile can be patched.
pub(super) fn spots_in_tiles(changed: &DirtyTiles, layers: &[Arc<Layer>], target: &Target) -> PositionsInTiles {
    // An archive in S3 is downloaded as a whole anyway; reading it tile by tile before that would take longer.
    if matches!(target.url, TargetUrl::S3Pmtiles { .. }) {
        return PositionsInTiles::default();
    }
    let drawn: Vec<DrawnLayer> = layers.iter().map(|layer| drawn(layer)).collect();
    changed.spots.in_tiles(&changed.dirty, &drawn)
}

/// The data that a patch needs about the changes; `None` if no tile can be patched.
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

/// A source that patches tiles, with its own reader of the target. May wait for a server.
pub(super) fn patching(
    source: CountingWorker,
    patches: Option<&Arc<Patches>>,
    target: &Target,
) -> Patching<CountingWorker> {
    let reader = patches.and_then(|patches| match target.reader() {
        Ok(reader) => Some((reader, Arc::clone(patches))),
        Err(error) => {
            // Without a reader, tiles are rendered instead of patched. If the target is damaged, the sink will report it.
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
        most_bytes: layer.max_bytes().clone(),
    }
}
