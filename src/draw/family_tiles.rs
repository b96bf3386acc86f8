//! Tiles that are the same in several targets of a family. A tile of one layer of points is identified by the rows in
//! it, because each row is drawn at the same position in every target. So the tile is drawn and packed once, and copied
//! into the other targets.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::Mutex;

use crate::source::PackedOnce;

/// The parts of the table, each with a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 64;

/// The size of an entry in bytes, without the numbers of its rows and the bytes of its tile.
const ENTRY_BYTES: usize = 128;

/// The most bytes of a packed tile that is kept: [`TILE_BYTES`], and [`ROW_BYTES`] for each row. They are reserved
/// before the tile is packed, so that the memory is bounded even if rows are wide.
const TILE_BYTES: usize = 128;
const ROW_BYTES: usize = 96;

/// The tiles of a run that may be the same in several targets, by the numbers of the rows in them.
#[derive(Debug)]
pub(crate) struct FamilyTiles {
    parts: [Mutex<HashTable<KnownTile>>; PARTS],
    hasher: DefaultHashBuilder,
    /// The number of bytes that further tiles may take.
    left: AtomicUsize,
}

#[derive(Debug)]
struct KnownTile {
    /// The tile's place in an order of all tiles.
    place: u64,
    /// The numbers of the rows in the tile, ascending.
    rows: Box<[u32]>,
    tile: Arc<PackedOnce>,
}

impl FamilyTiles {
    /// An empty table, whose tiles may take `memory` bytes in total.
    pub(crate) fn new(memory: usize) -> FamilyTiles {
        let parts = std::array::from_fn(|_| Mutex::default());
        FamilyTiles { parts, hasher: DefaultHashBuilder::default(), left: AtomicUsize::new(memory) }
    }

    /// The tile at `place` with the rows `rows`; it is added if it is new. `None` if there are no rows, or if the tile
    /// is new and there is no memory left for it.
    pub(crate) fn tile(&self, place: u64, rows: &[u32]) -> Option<Arc<PackedOnce>> {
        if rows.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one((place, rows));
        // The hash table uses the other bits.
        let part = &self.parts[usize::try_from(hash >> 32).unwrap_or_default() % PARTS];
        let mut part = part.lock();
        let is_it = |known: &KnownTile| known.place == place && *known.rows == *rows;
        let hash_of = |known: &KnownTile| self.hasher.hash_one((known.place, &*known.rows));
        match part.entry(hash, is_it, hash_of) {
            Entry::Occupied(known) => Some(Arc::clone(&known.get().tile)),
            Entry::Vacant(free) => {
                let most = TILE_BYTES + rows.len() * ROW_BYTES;
                let bytes = ENTRY_BYTES + size_of_val(rows) + most;
                self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).ok()?;
                let tile = Arc::new(PackedOnce::new(most));
                free.insert(KnownTile { place, rows: rows.into(), tile: Arc::clone(&tile) });
                Some(tile)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_known_by_its_place_and_its_rows() {
        let tiles = FamilyTiles::new(100_000);
        let tile = |place, rows: &[u32]| tiles.tile(place, rows);
        tile(7, &[1, 2]).unwrap().keep(b"packed");
        assert_eq!(tile(7, &[1, 2]).unwrap().packed(), Some(&b"packed"[..]));
        for (place, rows) in [(8, &[1, 2][..]), (7, &[1]), (7, &[1, 2, 3]), (7, &[2, 1])] {
            assert_eq!(tile(place, rows).unwrap().packed(), None, "{place} {rows:?}");
        }
        assert_eq!(tile(7, &[]), None);
        // A later call does not replace the packed tile.
        tile(7, &[1, 2]).unwrap().keep(b"other");
        assert_eq!(tile(7, &[1, 2]).unwrap().packed(), Some(&b"packed"[..]));
    }

    #[test]
    fn without_memory_nothing_new_is_shared() {
        let tiles = FamilyTiles::new(2 * (ENTRY_BYTES + TILE_BYTES + ROW_BYTES + 4));
        assert!(tiles.tile(1, &[1]).is_some() && tiles.tile(2, &[1]).is_some());
        assert_eq!(tiles.tile(3, &[1]), None);
        assert!(tiles.tile(1, &[1]).is_some(), "what is known stays");
        // A row with a long text has more bytes than were reserved for it.
        let wide = tiles.tile(1, &[1]).unwrap();
        wide.keep(&[0; TILE_BYTES + ROW_BYTES + 1]);
        assert_eq!(wide.packed(), None);
        wide.keep(&[0; TILE_BYTES + ROW_BYTES]);
        assert!(wide.packed().is_some());
    }
}
