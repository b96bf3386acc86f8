//! Figures for each zoom, collected while tiles are stored, in bounded memory.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::PackedBatch;
use crate::target::TileEdit;
use crate::tile::{LayerId, TileCoord, Zoom};

/// The largest tile of a zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LargestTile {
    /// Which one.
    pub tile: TileCoord,
    /// Its stored bytes.
    pub bytes: u64,
}

/// A histogram of stored sizes. Sizes above 16 kB are counted in steps of one part in 256, so that the histogram never
/// has more than a few thousand steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct TileSizes(BTreeMap<u64, u64>);

impl TileSizes {
    pub(crate) fn add(&mut self, bytes: u64) {
        *self.0.entry(TileSizes::step(bytes)).or_default() += 1;
    }

    fn step(bytes: u64) -> u64 {
        const EXACT: u64 = 1 << 14;
        if bytes < EXACT {
            return bytes;
        }
        let dropped = 64 - bytes.leading_zeros() - 9;
        bytes >> dropped << dropped
    }

    /// The smallest size that at least `share` (0 to 1) of the tiles do not exceed; 0 if there is no tile.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of tiles are far below 2^52")]
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let tiles: u64 = self.0.values().sum();
        let wanted = ((tiles as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (size, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return *size;
            }
        }
        0
    }
}

/// The time that each stage of a run took, added up over its threads. The stages work at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Rendering: waiting for the database, and drawing from cached rows.
    pub rendering: Duration,
    pub packing: Duration,
    /// Handing tiles to the target, which one thread does.
    pub writing: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct ZoomStats {
    pub zoom: Zoom,
    pub tiles: u64,
    pub features: u64,
    pub bytes: u64,
    pub(crate) sizes: TileSizes,
    /// The largest tile; `None` if no tile was stored.
    pub largest: Option<LargestTile>,
    /// The layer that has the most bytes in the largest tile.
    pub largest_layer: LayerId,
    /// Time that workers spent on rendering and compressing, summed over the workers.
    pub(crate) busy: Duration,
}

/// A batch that took long, and where its tiles lie.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SlowBatch {
    /// The zoom level.
    pub zoom: u8,
    /// The first column of its tiles.
    pub min_x: u32,
    /// The last column.
    pub max_x: u32,
    /// The first row, from the north.
    pub min_y: u32,
    /// The last row.
    pub max_y: u32,
    /// The number of its tiles, empty ones included.
    pub tiles: u64,
    /// The number of pairs of a feature and a tile, as planned.
    pub features: u64,
    /// Time until its tiles were there: in the database, and drawing from cached rows, in seconds.
    pub render_seconds: f64,
    /// Time to compress them, in seconds.
    pub pack_seconds: f64,
}

impl SlowBatch {
    fn of(batch: &PackedBatch) -> SlowBatch {
        let columns = || batch.made.edits.iter().map(|edit| edit.id().coord.x());
        let rows = || batch.made.edits.iter().map(|edit| edit.id().coord.y());
        SlowBatch {
            zoom: batch.zoom.get(),
            min_x: columns().min().unwrap_or_default(),
            max_x: columns().max().unwrap_or_default(),
            min_y: rows().min().unwrap_or_default(),
            max_y: rows().max().unwrap_or_default(),
            tiles: batch.tiles,
            features: batch.planned_features,
            render_seconds: batch.rendering.as_secs_f64(),
            pack_seconds: batch.packing.as_secs_f64(),
        }
    }

    fn seconds(&self) -> f64 {
        self.render_seconds + self.pack_seconds
    }
}

const SLOWEST: usize = 10;

/// Collects the figures of all zooms.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    zooms: BTreeMap<Zoom, ZoomStats>,
    pub(crate) stages: StageTimes,
    /// The slowest batches, the slowest first.
    pub(crate) slowest: Vec<SlowBatch>,
}

impl Stats {
    /// Keeps a batch if it is one of the slowest.
    fn consider(&mut self, batch: &PackedBatch) {
        let seconds = (batch.rendering + batch.packing).as_secs_f64();
        let place = self.slowest.partition_point(|slower| slower.seconds() >= seconds);
        if place < SLOWEST {
            self.slowest.truncate(SLOWEST - 1);
            self.slowest.insert(place, SlowBatch::of(batch));
        }
    }

    /// Counts a batch; returns its stored bytes.
    pub(crate) fn add(&mut self, batch: &PackedBatch) -> u64 {
        let mut stored = 0;
        self.consider(batch);
        self.zoom(batch.zoom).busy += batch.rendering + batch.packing;
        self.stages.rendering += batch.rendering;
        self.stages.packing += batch.packing;
        for (edit, contents) in batch.made.edits.iter().zip(&batch.made.contents) {
            let TileEdit::Put(id, bytes) = edit else { continue };
            let bytes = bytes.len() as u64;
            stored += bytes;
            let zoom = self.zoom(id.coord.zoom());
            zoom.tiles += 1;
            zoom.features += contents.features;
            zoom.bytes += bytes;
            zoom.sizes.add(bytes);
            if zoom.largest.is_none_or(|largest| bytes > largest.bytes) {
                zoom.largest = Some(LargestTile { tile: id.coord, bytes });
                zoom.largest_layer = contents.heaviest;
            }
        }
        stored
    }

    fn zoom(&mut self, zoom: Zoom) -> &mut ZoomStats {
        self.zooms.entry(zoom).or_insert_with(|| ZoomStats {
            zoom,
            tiles: 0,
            features: 0,
            bytes: 0,
            sizes: TileSizes::default(),
            largest: None,
            largest_layer: LayerId(0),
            busy: Duration::ZERO,
        })
    }

    pub(crate) fn finish(self) -> Vec<ZoomStats> {
        self.zooms.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_for_small_tiles_and_close_for_large_ones() {
        let mut sizes = TileSizes::default();
        for bytes in 1..=100 {
            sizes.add(bytes);
        }
        assert_eq!((sizes.quantile(0.5), sizes.quantile(0.95), sizes.quantile(1.0)), (50, 95, 100));
        sizes.add(14_000_001);
        let largest = sizes.quantile(1.0);
        assert!(largest <= 14_000_001 && largest > 13_900_000, "{largest}");
        assert_eq!(TileSizes::default().quantile(0.5), 0);
    }
}
