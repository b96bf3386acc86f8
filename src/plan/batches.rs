//! Cuts dirty tiles into batches.

use std::num::NonZeroUsize;

use super::dirty::DrawnLayer;
use crate::tile::{Area, Batch, LayerCount, LayerIndex, PlannedTiles, SearchBox, TileCoord, TileRect, joined_columns};

/// The fewest tiles per batch, if there are enough: planning a statement takes PostgreSQL as long as rendering some
/// tens of small tiles.
const MIN_TILES_PER_BATCH: usize = 40;

/// The most tiles per batch: a statement with more than a thousand single tiles gets slow.
const MAX_TILES_PER_BATCH: usize = 1_000;

/// The number of zooms above the deepest over which the weight of a tile still grows. Above them, the size of the table
/// limits the features of a tile.
const MAX_WEIGHT_ZOOMS: u8 = 4;

/// The most tiles of the greatest weight per batch: with a million facilities such a tile may have several megabytes,
/// and a batch is held in memory.
const MAX_HEAVY_TILES_PER_BATCH: u64 = 32;

/// The batches per worker, enough that all workers finish at about the same time.
const BATCHES_PER_WORKER: usize = 6;

/// Cuts tiles, in their target's order, into batches. A batch ends at the latest once it has the weight `max_weight`. A
/// tile of the deepest zoom weighs 1; with each zoom above, a tile weighs four times as much. `search` returns where a
/// layer's features are searched in a rectangle.
pub(crate) fn batches(
    tiles: &[TileCoord],
    layers: &[DrawnLayer],
    workers: NonZeroUsize,
    max_weight: Option<u64>,
    search: impl Fn(LayerIndex, &TileRect) -> SearchBox,
) -> Vec<Batch> {
    let deepest = tiles.iter().map(|tile| tile.zoom().get()).max().unwrap_or_default();
    // A tile holds about four times as many features as a tile of the next deeper zoom.
    let weight = |tile: &TileCoord| 1_u64 << (2 * (deepest - tile.zoom().get()).min(MAX_WEIGHT_ZOOMS));
    let total: u64 = tiles.iter().map(weight).sum();
    let count = (tiles.len() / MIN_TILES_PER_BATCH).clamp(1, workers.get() * BATCHES_PER_WORKER);
    let target = total.div_ceil(count as u64).min(MAX_HEAVY_TILES_PER_BATCH << (2 * MAX_WEIGHT_ZOOMS));
    let target = max_weight.map_or(target, |most| target.min(most));
    // Large shapes take longest at the deepest zooms, whose tiles weigh least.
    let most = if count > 2 { tiles.len().div_ceil(2 * workers.get()).max(MIN_TILES_PER_BATCH) } else { usize::MAX };
    let most = most.min(MAX_TILES_PER_BATCH);
    let mut batches = Vec::new();
    let mut begin = 0;
    let mut heavy = 0;
    for (number, tile) in tiles.iter().enumerate() {
        heavy += weight(tile);
        let end = number + 1;
        if heavy >= target || end - begin == most || end == tiles.len() {
            batches.push(batch(&tiles[begin..end], layers, heavy, &search));
            (begin, heavy) = (end, 0);
        }
    }
    batches
}

fn batch(
    tiles: &[TileCoord],
    layers: &[DrawnLayer],
    weight: u64,
    search: &impl Fn(LayerIndex, &TileRect) -> SearchBox,
) -> Batch {
    let mut counts = vec![LayerCount::default(); layers.len()];
    let areas = rectangles(tiles).into_iter().map(|rect| {
        let search = layers.iter().enumerate().map(|(number, layer)| {
            if !layer.zooms.contains(rect.zoom) {
                return SearchBox::Nothing;
            }
            counts[number].tiles += rect.tiles();
            search(LayerIndex(number), &rect)
        });
        Area { rect, search: search.collect() }
    });
    let areas = areas.collect();
    if let Some(first) = counts.iter_mut().find(|count| count.tiles > 0) {
        first.features = weight;
    }
    Batch {
        areas,
        repeats: Vec::new(),
        planned: PlannedTiles::Every,
        tiles: tiles.len() as u64,
        layers: counts,
        needs_cell_counts: false,
    }
}

/// The tiles as rectangles, so that neighbours are searched together.
fn rectangles(tiles: &[TileCoord]) -> Vec<TileRect> {
    let mut sorted = tiles.to_vec();
    sorted.sort_unstable_by_key(|tile| (tile.zoom(), tile.x(), tile.y()));
    let mut rects: Vec<TileRect> = Vec::new();
    for tile in sorted {
        match rects.last_mut() {
            Some(last) if (last.zoom, last.x0, last.y1 + 1) == (tile.zoom(), tile.x(), tile.y()) => last.y1 += 1,
            _ => rects.push(TileRect::from(tile)),
        }
    }
    joined_columns(rects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Dirty;
    use crate::tile::{ChangeLocation, Coverage, Margin, Order, Scope, WorldBox};

    fn drawn(zooms: &str, buffer: u32) -> DrawnLayer {
        DrawnLayer { zooms: zooms.parse().unwrap(), margin: Margin::plain(4096, buffer), grid: None }
    }

    fn whole(zooms: &str) -> Scope {
        Scope { zooms: zooms.parse().unwrap(), coverage: Coverage::new(&[]) }
    }

    #[test]
    fn batches_hold_every_tile_once_in_the_order_of_the_target() {
        let mut dirty = Dirty::new(&[whole("0-9")], 100_000);
        for place in 0..400_u32 {
            let (x, y) = (place.wrapping_mul(2_654_435_761), place.wrapping_mul(40_503_971));
            dirty.mark(&drawn("0-22", 64), &ChangeLocation::Box(WorldBox::new(x, y, x, y))).unwrap();
        }
        for order in [Order::ZoomColumnTmsRow, Order::Hilbert] {
            let tiles = dirty.in_order(order);
            let layers = [drawn("0-22", 64), drawn("5-6", 0)];
            let workers = NonZeroUsize::new(2).unwrap();
            let batches = batches(&tiles, &layers, workers, None, |_layer, _rect| SearchBox::Area);
            assert!((5..=40).contains(&batches.len()), "{}", batches.len());
            let heavy = |batch: &&Batch| batch.areas.iter().filter(|area| area.rect.zoom.get() <= 5).count() > 65;
            assert_eq!(batches.iter().find(heavy), None);
            let mut last = None;
            let mut seen = 0;
            for batch in &batches {
                assert_eq!(batch.planned, PlannedTiles::Every);
                let mut inside: Vec<TileCoord> = batch.areas.iter().flat_map(|area| area.rect.iter()).collect();
                inside.sort_by_key(|tile| order.sort_key(*tile));
                assert_eq!(inside.len() as u64, batch.tiles);
                for tile in inside {
                    assert!(last < Some(order.sort_key(tile)), "{tile}");
                    last = Some(order.sort_key(tile));
                    seen += 1;
                }
                for area in &batch.areas {
                    let second = [5, 6].contains(&area.rect.zoom.get());
                    assert_eq!(area.search[1] == SearchBox::Area, second, "{:?}", area.rect);
                }
            }
            assert_eq!(seen, dirty.len());
        }
    }
}
