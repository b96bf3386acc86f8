//! Keeps a layer's part of a tile within its budget of bytes. The bytes of features are known only after they are drawn
//! and packed, so a tile that is too large is rendered again with fewer features, until it fits and is nearly full.
//!
//! Every step depends only on the tile's own features and bytes, so a tile has the same bytes in every batch.

use std::num::NonZeroU64;

use super::BatchTiles;
use super::drawing::BatchDrawing;
use crate::encode::{EncodeError, Packer, most_packed};
use crate::postgis::layer::{OnLargeTile, same_max_features};
use crate::postgis::session::Error;
use crate::source::{LayerIssue, LayerIssueKind, RenderedLayer, RenderedTile};
use crate::threads::blocking;
use crate::tile::{Area, TileRect};

/// The most times that a tile is rendered again to fill its budget.
const MAX_TRIES: u32 = 10;

/// The number of tries that interpolate between the known sizes. Later tries halve the interval, so that the search
/// also ends in tiles in which some features are far larger than others.
const MAX_INTERPOLATED_TRIES: u32 = 5;

/// The share of its budget from which on a tile counts as full.
const MIN_FILL: f64 = 0.95;

/// The share of the budget that an interpolated try aims at: between [`MIN_FILL`] and the whole.
const TARGET_FILL: f64 = 0.98;

/// A number of features, and the packed bytes of a tile with them.
#[derive(Debug, Clone, Copy)]
struct MeasuredSize {
    features: u64,
    bytes: u64,
}

/// The packed bytes of a tile that exceeds its budget, and the most that it may have.
#[derive(Debug, Clone, Copy)]
struct ByteBudget {
    bytes: u64,
    limit: u64,
}

impl BatchDrawing<'_> {
    /// Finds the tiles that exceed the layer's budget of bytes. Depending on `on_large_tile`, they are reported or
    /// thinned, or the first of them is an error.
    pub(crate) async fn fit(self, index: usize, areas: &[Area], part: &mut BatchTiles) -> Result<(), Error> {
        let layer = self.probed(index);
        for tile in part.values_mut() {
            let Some(limit) = layer.budget.bytes.at(tile.tile.zoom()) else { continue };
            let limit = limit.get();
            if most_packed(tile.mvt.len() as u64) <= limit {
                continue;
            }
            let on_large = layer.budget.on_large_tile;
            if on_large == OnLargeTile::Warn {
                // The pipeline packs the tile later, and compares its size.
                tile.issues.push(LayerIssue { layer: layer.id(), kind: LayerIssueKind::Heavy { limit } });
                continue;
            }
            let bytes = self.packed(index, tile).await?;
            if bytes <= limit {
                continue;
            }
            if on_large == OnLargeTile::Fail {
                let (layer, tile) = (layer.name().to_owned(), tile.tile);
                return Err(Error::LargeTile { layer, tile, bytes, limit });
            }
            *tile = self.thinned(index, areas, tile, ByteBudget { bytes, limit }).await?;
        }
        Ok(())
    }

    /// A tile with as many of its best features as fit the budget.
    async fn thinned(
        self,
        index: usize,
        areas: &[Area],
        tile: &RenderedTile,
        budget: ByteBudget,
    ) -> Result<RenderedTile, Error> {
        let ByteBudget { bytes, limit } = budget;
        let layer = self.probed(index).id();
        let nothing = RenderedTile {
            layers: vec![RenderedLayer { layer, bytes: 0 }],
            issues: vec![LayerIssue {
                layer,
                kind: LayerIssueKind::Thinned { left_out: tile.features + left_out(tile) },
            }],
            ..RenderedTile::empty(tile.tile)
        };
        let (mut fits, mut fullest) = (MeasuredSize { features: 0, bytes: 0 }, nothing);
        let mut exceeds = MeasuredSize { features: tile.features, bytes };
        let mut tries = 0;
        // If nothing fits after these tries, the search goes on by halving the number of features until something fits.
        while exceeds.features - fits.features > 1 && (tries < MAX_TRIES || fits.features == 0) {
            let most = if tries < MAX_INTERPOLATED_TRIES {
                interpolated(fits, exceeds, limit)
            } else {
                fits.features.midpoint(exceeds.features)
            };
            tries += 1;
            let fewer = self.with_fewer(index, areas, tile, most).await?;
            if fewer.is_failed() {
                return Ok(fewer);
            }
            let known = MeasuredSize { features: most, bytes: self.packed(index, &fewer).await? };
            if known.bytes > limit {
                exceeds = known;
                continue;
            }
            (fits, fullest) = (known, fewer);
            if is_full(known.bytes, limit) {
                break;
            }
        }
        Ok(fullest)
    }

    /// A tile rendered again with at most `most` features.
    async fn with_fewer(
        self,
        index: usize,
        areas: &[Area],
        tile: &RenderedTile,
        most: u64,
    ) -> Result<RenderedTile, Error> {
        let rect = TileRect::from(tile.tile);
        let around = areas.iter().find(|area| area.rect.common(&rect).is_some_and(|common| common == rect));
        let alone: Vec<Area> = around.iter().map(|area| area.within(rect)).collect();
        let mut again = BatchTiles::new();
        let most = same_max_features(NonZeroU64::new(most).unwrap_or(NonZeroU64::MIN));
        self.layer_or_parts(index, &alone, &most, &mut again).await?;
        Ok(again.into_values().next().unwrap_or_else(|| RenderedTile::empty(tile.tile)))
    }

    /// The size of a tile in bytes, packed as the run packs it. Packing may take long, so it has its own thread.
    async fn packed(self, index: usize, tile: &RenderedTile) -> Result<u64, Error> {
        let (packing, mvt) = (self.worker.packing, tile.mvt.clone());
        let packed = blocking(move || Packer::new(packing).pack(&mvt).map(|packed| packed.len())).await;
        let failed =
            |source: EncodeError| Error::Pack { layer: self.probed(index).name().to_owned(), tile: tile.tile, source };
        Ok(packed.map_err(failed)? as u64)
    }
}

/// The number of features that the budget of features left out already.
fn left_out(tile: &RenderedTile) -> u64 {
    let of_issue = |issue: &LayerIssue| match issue.kind {
        LayerIssueKind::Thinned { left_out } => left_out,
        _ => 0,
    };
    tile.issues.iter().map(of_issue).sum()
}

fn is_full(bytes: u64, limit: u64) -> bool {
    bytes as f64 >= limit as f64 * MIN_FILL
}

/// The number of features with [`TARGET_FILL`] of the allowed bytes, interpolated between a number that fits and one
/// that does not.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of features and sizes of tiles are far below 2^52"
)]
fn interpolated(fits: MeasuredSize, exceeds: MeasuredSize, limit: u64) -> u64 {
    let share = (limit as f64 * TARGET_FILL - fits.bytes as f64) / (exceeds.bytes - fits.bytes) as f64;
    let between = (exceeds.features - fits.features) as f64 * share.clamp(0.0, 1.0);
    (fits.features + between as u64).clamp(fits.features + 1, exceeds.features - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpolated_number_lies_between_one_that_fits_and_one_that_does_not() {
        let known = |features, bytes| MeasuredSize { features, bytes };
        for (fits, exceeds, limit, expected) in [
            (known(0, 0), known(1_000, 100_000), 50_000, 490),
            (known(400, 40_000), known(500, 52_000), 50_000, 475),
            (known(0, 0), known(2, 1_000_000), 10, 1),
            (known(10, 49_999), known(12, 50_001), 50_000, 11),
        ] {
            assert_eq!(interpolated(fits, exceeds, limit), expected, "{fits:?} {exceeds:?}");
        }
    }
}
