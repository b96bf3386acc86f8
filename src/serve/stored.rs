//! An in-memory list of the tiles that the target holds. A tile that is not listed is known to be missing, without a lookup in the target
//! or a request to a bucket.
//!
//! The list belongs to one state of the target. A background task makes it, and it is used once it is complete. Until then, and while a run
//! replaces tiles one by one, the target itself is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tileset::{ServedState, ServedTarget};
use crate::sink::ReadError;
use crate::tile::{Order, Slice, TileId};

/// The most tiles that are listed. A list takes 16 bytes for each range of consecutive tiles, and 24 bytes for each tile while it is made.
const MAX_INDEXED_TILES: u64 = 20_000_000;

/// How often the task checks if there is a state to list.
const PAUSE: Duration = Duration::from_secs(1);

/// After making a list, the task pauses for this many times the time that it took, so that it does not list all the time if the target is
/// published again and again.
const REST_BY_LISTING: u32 = 10;

/// A range of consecutive tiles on the Hilbert curve of their zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredRange {
    /// [`Order::place`] of the first tile.
    first: u64,
    /// One more than the [`Order::place`] of the last tile.
    end: u64,
}

/// The tiles that a target holds.
#[derive(Debug, Default)]
pub(crate) struct StoredTiles {
    /// The ranges of each slice, in order, with gaps between them.
    ranges: HashMap<Slice, Vec<StoredRange>>,
    tiles: u64,
}

impl StoredTiles {
    /// A set of tiles.
    pub(crate) fn new(tiles: Vec<TileId>) -> StoredTiles {
        let count = tiles.len() as u64;
        let mut places: HashMap<Slice, Vec<u64>> = HashMap::new();
        for tile in tiles {
            places.entry(tile.slice).or_default().push(Order::Hilbert.place(tile.coord));
        }
        let ranges = places.into_iter().map(|(slice, mut places)| {
            places.sort_unstable();
            let mut ranges: Vec<StoredRange> = Vec::new();
            for place in places {
                match ranges.last_mut() {
                    Some(last) if place <= last.end => last.end = last.end.max(place + 1),
                    _ => ranges.push(StoredRange { first: place, end: place + 1 }),
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
        let place = Order::Hilbert.place(tile.coord);
        let at = ranges.partition_point(|range| range.end <= place);
        ranges.get(at).is_some_and(|range| range.first <= place)
    }

    /// The number of tiles in the list.
    pub(crate) const fn count(&self) -> u64 {
        self.tiles
    }
}

/// True if the tiles of a state may be listed: they do not change before the state does, and there are not too many.
fn can_be_listed(state: &ServedState) -> bool {
    let stored = state.manifest.as_ref().map(|manifest| manifest.stored);
    state.may_be_kept() && stored.is_some_and(|stored| stored <= MAX_INDEXED_TILES)
}

/// Lists the tiles of the target's present state, and of each later state.
pub(crate) async fn keep_listed(target: Arc<ServedTarget>) {
    let mut is_failing = false;
    loop {
        let (begun, of_thread) = (Instant::now(), Arc::clone(&target));
        match tokio::task::spawn_blocking(move || list(&of_thread)).await {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(error)) => {
                if !is_failing {
                    tracing::warn!("the tiles of the target cannot be listed, so each is asked for: {error}");
                }
                is_failing = true;
            }
            Err(error) => return tracing::warn!("a thread died ({error})"),
        }
        tokio::time::sleep(PAUSE.max(begun.elapsed() * REST_BY_LISTING)).await;
    }
}

/// Lists the tiles of the target's present state, unless they are listed already or may not be. Blocks.
fn list(target: &ServedTarget) -> Result<(), ReadError> {
    // If the target cannot be read, the requests report that.
    let Ok(state) = target.current() else { return Ok(()) };
    if state.stored().is_some() || !can_be_listed(&state) {
        return Ok(());
    }
    let stored = StoredTiles::new(target.list()?);
    // A write during the listing began a new state; its tiles may be missing in this list.
    if target.needs_polling() {
        target.poll()?;
    }
    if Arc::ptr_eq(&target.last(), &state) && target.is_current(&state) {
        tracing::info!("{} tiles are known without a lookup", stored.count());
        state.keep_stored(stored);
    }
    Ok(())
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
        assert_eq!(stored.count(), count);
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
