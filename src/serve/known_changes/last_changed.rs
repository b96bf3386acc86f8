//! The state of the target since which each tile is unchanged. A cached tile is valid if it was read in that state or a
//! later one. So nothing is removed from the cache when the target changes: entries that are no longer valid are no
//! longer found.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::tile::TileCoord;

/// How much memory a target may take while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetMemory {
    Usual,
    /// It is one of many: a variant, which has neither live tiles nor a writer of its own.
    Small,
}

/// For each tile, a state since which it is unchanged.
#[derive(Debug)]
pub(crate) struct LastChanged {
    /// The last state in which every tile may have changed.
    all: AtomicU64,
    /// The last state in which one of the tiles with this hash may have changed.
    counters: Box<[AtomicU64]>,
}

impl LastChanged {
    /// The number of counters: 1 MiB. Tiles share counters by their hash, so a change of one tile evicts others, too:
    /// about one of 100,000 cached tiles.
    const COUNTERS: usize = 1 << 17;

    /// The number of counters of a target that is one of many: 8 KiB.
    const FEW_COUNTERS: usize = 1 << 10;

    /// No tile has changed since the state `first`.
    pub(crate) fn new(first: u64, memory: TargetMemory) -> LastChanged {
        let count = match memory {
            TargetMemory::Usual => LastChanged::COUNTERS,
            TargetMemory::Small => LastChanged::FEW_COUNTERS,
        };
        let counters = std::iter::repeat_with(|| AtomicU64::new(0)).take(count);
        LastChanged { all: AtomicU64::new(first), counters: counters.collect() }
    }

    /// The state since which the tile is unchanged.
    pub(crate) fn of(&self, tile: TileCoord) -> u64 {
        let counter = self.counter(tile).map_or(0, |counter| counter.load(Ordering::Acquire));
        counter.max(self.all.load(Ordering::Acquire))
    }

    /// Notes that some tiles change in the state `state`. Must be called before the state is visible to requests; the
    /// numbers of states only grow.
    pub(crate) fn change(&self, tiles: impl IntoIterator<Item = TileCoord>, state: u64) {
        for tile in tiles {
            if let Some(counter) = self.counter(tile) {
                counter.fetch_max(state, Ordering::AcqRel);
            }
        }
    }

    /// Notes that every tile may change in the state `state`. Must be called before the state is visible to requests.
    pub(crate) fn change_all(&self, state: u64) {
        self.all.fetch_max(state, Ordering::AcqRel);
    }

    fn counter(&self, tile: TileCoord) -> Option<&AtomicU64> {
        self.counters.get(LastChanged::slot(tile) % self.counters.len())
    }

    /// The number of the counter that a tile shares with some others.
    pub(crate) fn slot(tile: TileCoord) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((tile.zoom().get(), tile.x(), tile.y()));
        usize::try_from(hash % LastChanged::COUNTERS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileRectList, Zoom};

    #[test]
    fn a_change_of_some_tiles_leaves_nearly_all_others() {
        let tile = |x, y| TileCoord::new(Zoom::new(9).unwrap(), x, y).unwrap();
        let known = LastChanged::new(1, TargetMemory::Usual);
        known.change("9/3/7-8".parse::<TileRectList>().unwrap().tiles(), 2);
        let since = |state| {
            (0..512).flat_map(|x| (0..512).map(move |y| tile(x, y))).filter(|tile| known.of(*tile) == state).count()
        };
        assert_eq!((known.of(tile(3, 7)), known.of(tile(3, 8))), (2, 2));
        assert!((2..20).contains(&since(2)), "{}", since(2));
        assert_eq!(since(1) + since(2), 512 * 512);
        known.change_all(3);
        assert_eq!(since(3), 512 * 512);
        known.change([tile(3, 7)], 4);
        assert_eq!((known.of(tile(3, 7)), known.of(tile(3, 8))), (4, 3));
    }
}
