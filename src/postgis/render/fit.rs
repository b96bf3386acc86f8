//! Keeping a layer's part of a tile within its budget of bytes. How many bytes features take is known only once they are drawn
//! and packed, so a tile that is too large is rendered again, with fewer features, until it fits and is nearly full.
//!
//! Every step follows from the tile's own features and bytes: a tile comes out the same in whatever batch it is rendered.

use std::num::NonZeroU64;

use super::Tiles;
use super::drawing::BatchDrawing;
use crate::encode::{EncodeError, Packer, most_packed};
use crate::postgis::layer::{OnLargeTile, so_many};
use crate::postgis::session::Error;
use crate::source::{Note, Noted, RenderedLayer, RenderedTile};
use crate::tile::{Area, TileRect};

/// How often a tile is rendered again to fill its budget. The first tries are guessed from the sizes known, and come close; halving
/// the rest makes an end with tiles of which some features are far larger than others.
const MAX_TRIES: u32 = 10;
const MAX_GUESSES: u32 = 5;

/// A tile is full enough with so much of its budget. What is guessed aims between this and the whole.
const MIN_FILL: f64 = 0.95;
const TARGET_FILL: f64 = 0.98;

/// A number of features, and how many bytes they have.
#[derive(Debug, Clone, Copy)]
struct MeasuredSize {
    features: u64,
    bytes: u64,
}

impl BatchDrawing<'_> {
    /// Looks for tiles over the layer's budget of bytes, and does with them as the layer says.
    pub(in crate::postgis) async fn fit(self, index: usize, areas: &[Area], part: &mut Tiles) -> Result<(), Error> {
        let layer = self.probed(index);
        for tile in part.values_mut() {
            let Some(limit) = layer.budget.bytes.at(tile.tile.zoom()) else { continue };
            let limit = limit.get();
            if most_packed(tile.mvt.len() as u64) <= limit {
                continue;
            }
            let on_large = layer.budget.on_large_tile;
            if on_large == OnLargeTile::Warn {
                // Whoever packs the tile will see.
                tile.notes.push(Note { layer: layer.id(), what: Noted::Heavy { limit } });
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
            *tile = self.thinned((index, areas), tile, bytes, limit).await?;
        }
        Ok(())
    }

    /// A tile with as many of its best features as fit.
    async fn thinned(
        self,
        (index, areas): (usize, &[Area]),
        tile: &RenderedTile,
        bytes: u64,
        limit: u64,
    ) -> Result<RenderedTile, Error> {
        let layer = self.probed(index).id();
        let nothing = RenderedTile {
            layers: vec![RenderedLayer { layer, bytes: 0 }],
            notes: vec![Note { layer, what: Noted::Thinned { left_out: tile.features + left_out(tile) } }],
            ..RenderedTile::empty(tile.tile)
        };
        let (mut fits, mut fullest) = (MeasuredSize { features: 0, bytes: 0 }, nothing);
        let mut exceeds = MeasuredSize { features: tile.features, bytes };
        let mut tries = 0;
        // Beyond the tries, until something fits at all: no more often than the number can be halved.
        while exceeds.features - fits.features > 1 && (tries < MAX_TRIES || fits.features == 0) {
            let most = if tries < MAX_GUESSES {
                guess(fits, exceeds, limit)
            } else {
                fits.features.midpoint(exceeds.features)
            };
            tries += 1;
            let fewer = self.with_fewer((index, areas), tile, most).await?;
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

    /// A tile again, with so many features at most.
    async fn with_fewer(
        self,
        (index, areas): (usize, &[Area]),
        tile: &RenderedTile,
        most: u64,
    ) -> Result<RenderedTile, Error> {
        let rect = TileRect::from(tile.tile);
        let around = areas.iter().find(|area| area.rect.common(&rect).is_some_and(|common| common == rect));
        let alone: Vec<Area> = around.iter().map(|area| area.within(rect)).collect();
        let mut again = Tiles::new();
        let most = so_many(NonZeroU64::new(most).unwrap_or(NonZeroU64::MIN));
        self.layer_or_parts(index, &alone, &most, &mut again).await?;
        Ok(again.into_values().next().unwrap_or_else(|| RenderedTile::empty(tile.tile)))
    }

    /// How many bytes a tile has, packed as the run packs. It may take long: on a thread of its own.
    async fn packed(self, index: usize, tile: &RenderedTile) -> Result<u64, Error> {
        let (packing, mvt) = (self.worker.packing, tile.mvt.clone());
        let packing = tokio::task::spawn_blocking(move || Packer::new(packing).pack(&mvt).map(|packed| packed.len()));
        let packed = packing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let failed =
            |source: EncodeError| Error::Pack { layer: self.probed(index).name().to_owned(), tile: tile.tile, source };
        Ok(packed.map_err(failed)? as u64)
    }
}

/// Features that the budget of features has left out already.
fn left_out(tile: &RenderedTile) -> u64 {
    let of_note = |note: &Note| match note.what {
        Noted::Thinned { left_out } => left_out,
        _ => 0,
    };
    tile.notes.iter().map(of_note).sum()
}

#[expect(clippy::cast_precision_loss, reason = "sizes of tiles are far below 2^52")]
fn is_full(bytes: u64, limit: u64) -> bool {
    bytes as f64 >= limit as f64 * MIN_FILL
}

/// How many features have nearly as many bytes as allowed, if bytes grew evenly from what fits to what does not.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of features and sizes of tiles are far below 2^52"
)]
fn guess(fits: MeasuredSize, exceeds: MeasuredSize, limit: u64) -> u64 {
    let share = (limit as f64 * TARGET_FILL - fits.bytes as f64) / (exceeds.bytes - fits.bytes) as f64;
    let between = (exceeds.features - fits.features) as f64 * share.clamp(0.0, 1.0);
    (fits.features + between as u64).clamp(fits.features + 1, exceeds.features - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_lies_between_what_fits_and_what_does_not() {
        let known = |features, bytes| MeasuredSize { features, bytes };
        for (fits, exceeds, limit, expected) in [
            (known(0, 0), known(1_000, 100_000), 50_000, 490),
            (known(400, 40_000), known(500, 52_000), 50_000, 475),
            (known(0, 0), known(2, 1_000_000), 10, 1),
            (known(10, 49_999), known(12, 50_001), 50_000, 11),
        ] {
            assert_eq!(guess(fits, exceeds, limit), expected, "{fits:?} {exceeds:?}");
        }
    }
}
