//! An in-memory list of the tiles that the target holds. A tile that is not listed is known to be missing, without a
//! lookup in the target or a request to a bucket.

use std::collections::HashMap;

use crate::tile::{Order, Slice, TileId};

/// A range of consecutive tiles on the Hilbert curve of their zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredRange {
    /// [`Order::sort_key`] of the first tile.
    first: u64,
    /// One more than the [`Order::sort_key`] of the last tile.
    end: u64,
}

/// The tiles that a target holds.
#[derive(Debug, Default)]
pub(crate) struct StoredTiles {
    /// The ranges of each slice, in order, with gaps between them.
    ranges: HashMap<Slice, Vec<StoredRange>>,
    /// The number of tiles in the list.
    pub(crate) tiles: u64,
}

impl StoredTiles {
    pub(crate) fn new(tiles: Vec<TileId>) -> StoredTiles {
        let count = tiles.len() as u64;
        let mut keys: HashMap<Slice, Vec<u64>> = HashMap::new();
        for tile in tiles {
            keys.entry(tile.slice).or_default().push(Order::Hilbert.sort_key(tile.coord));
        }
        let ranges = keys.into_iter().map(|(slice, mut keys)| {
            keys.sort_unstable();
            let mut ranges: Vec<StoredRange> = Vec::new();
            for key in keys {
                match ranges.last_mut() {
                    Some(last) if key <= last.end => last.end = last.end.max(key + 1),
                    _ => ranges.push(StoredRange { first: key, end: key + 1 }),
                }
            }
            ranges.shrink_to_fit();
            (slice, ranges)
        });
        StoredTiles { ranges: ranges.collect(), tiles: count }
    }

    /// True if the tile is in the list.
    pub(crate) fn holds(&self, tile: TileId) -> bool {
        let Some(ranges) = self.ranges.get(&tile.slice) else { return false };
        let key = Order::Hilbert.sort_key(tile.coord);
        let at = ranges.partition_point(|range| range.end <= key);
        ranges.get(at).is_some_and(|range| range.first <= key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{LayerId, TileCoord, Zoom};

    #[test]
    fn exactly_the_listed_tiles_are_held() {
        let zoom = |zoom| Zoom::new(zoom).unwrap();
        let mut listed = Vec::new();
        let mut all = Vec::new();
        for z in 0..=5 {
            for (x, y) in (0..1_u32 << z).flat_map(|x| (0..1_u32 << z).map(move |y| (x, y))) {
                let coord = TileCoord::new(zoom(z), x, y).unwrap();
                for slice in [Slice::Whole, Slice::Layer(LayerId(0)), Slice::Layer(LayerId(3))] {
                    let tile = TileId { coord, slice };
                    let number = u64::from(x) * 31 + u64::from(y) * 17 + u64::from(z) + slice_number(slice);
                    all.push((tile, number.is_multiple_of(3) || z == 4));
                    if all.last().unwrap().1 {
                        listed.push(tile);
                    }
                }
            }
        }
        listed.reverse();
        let (count, stored) = (listed.len() as u64, StoredTiles::new(listed));
        assert_eq!(stored.tiles, count);
        for (tile, is_held) in all {
            assert_eq!(stored.holds(tile), is_held, "{tile}");
        }
        let deep = TileId::from(TileCoord::new(Zoom::MAX, 7, 7).unwrap());
        assert!(!stored.holds(deep) && !StoredTiles::default().holds(deep));
        // The tiles of a whole zoom form one range.
        assert!(stored.ranges[&Slice::Whole].len() < 700, "{}", stored.ranges[&Slice::Whole].len());
    }

    fn slice_number(slice: Slice) -> u64 {
        match slice {
            Slice::Whole => 0,
            Slice::Layer(layer) => u64::from(layer.0) + 1,
        }
    }
}
