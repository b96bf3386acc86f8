//! The stored tiles that are dirty by the change log: a look into the log has found a change in them that the target
//! does not show yet.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::LogLook;
use crate::cursor::Cursor;
use crate::tile::{Scope, TileCoord};

/// The most dirty tiles that are listed, about 40 bytes each. If there are more, every tile counts as dirty.
const MAX_DIRTY_TILES: usize = 1 << 18;

/// When a tile was first found dirty, and the number of the last look that found it dirty.
#[derive(Debug, Clone, Copy)]
struct FoundDirty {
    since: Instant,
    look: u64,
}

/// The dirty tiles. The tiles of a look are dirty until the target shows all transactions of the look. Database states
/// are ordered by time, so a target that shows the transactions of one look also shows those of all earlier looks.
#[derive(Debug, Default)]
pub(crate) struct DirtyByLog {
    tiles: HashMap<TileCoord, FoundDirty>,
    /// Set if every tile may be dirty.
    all: Option<FoundDirty>,
    /// The looks that the target does not show yet, and their transactions.
    looks: VecDeque<(u64, Vec<u64>)>,
    /// The number of the last look.
    last: u64,
    /// The database state that the target shows.
    shown: Option<Cursor>,
    scopes: Vec<Scope>,
}

impl DirtyByLog {
    /// Adds the tiles that a look has found dirty.
    pub(crate) fn add(&mut self, look: &LogLook) {
        let is_shown = |transaction: &u64| self.shown.as_ref().is_some_and(|shown| shown.sees(*transaction));
        if look.transactions.iter().all(is_shown) {
            return;
        }
        self.last += 1;
        self.looks.push_back((self.last, look.transactions.clone()));
        let found = FoundDirty { since: Instant::now(), look: self.last };
        let mut is_all = look.dirty.is_none();
        for tile in
            look.dirty.iter().flatten().filter(|tile| self.scopes.iter().any(|scope| scope.holds((**tile).into())))
        {
            if self.tiles.len() >= MAX_DIRTY_TILES {
                is_all = true;
                break;
            }
            self.tiles.entry(*tile).or_insert(found).look = found.look;
        }
        if is_all {
            self.all.get_or_insert(found).look = found.look;
            self.tiles = HashMap::new();
        }
    }

    /// Notes that the target shows the database state `snapshot` within `scopes`, and removes the tiles that are no
    /// longer dirty.
    pub(crate) fn shows(&mut self, snapshot: Option<Cursor>, scopes: &[Scope]) {
        (self.shown, self.scopes) = (snapshot, scopes.to_vec());
        let Some(shown) = &self.shown else { return };
        let mut through = 0;
        while let Some((look, _)) = self.looks.front().filter(|(_, ended)| ended.iter().all(|one| shown.sees(*one))) {
            through = *look;
            self.looks.pop_front();
        }
        self.tiles.retain(|_, found| found.look > through);
        self.all = self.all.filter(|found| found.look > through);
    }

    /// True if the database state `stored` is not older than the one that the target shows.
    pub(crate) fn is_shown_by(&self, stored: &Cursor) -> bool {
        self.shown.as_ref().is_some_and(|shown| stored.sees_all_of(shown))
    }

    /// When a tile was first found dirty; `None` if it is not dirty.
    pub(crate) fn since(&self, tile: TileCoord) -> Option<Instant> {
        let all = self.all.filter(|_| self.scopes.iter().any(|scope| scope.holds(tile.into())));
        self.tiles.get(&tile).or(all.as_ref()).map(|found| found.since)
    }

    /// True if no tile is dirty.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_none() && self.tiles.is_empty()
    }

    /// How many tiles are dirty; `None` if every tile may be.
    pub(crate) fn count(&self) -> Option<usize> {
        self.all.is_none().then_some(self.tiles.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn a_stored_tile_is_dirty_until_the_target_shows_every_transaction_of_the_look_that_found_it() {
        let tile = |zoom, x| TileCoord::new(Zoom::new(zoom).unwrap(), x, 0).unwrap();
        let mut dirty = DirtyByLog::default();
        let show = |dirty: &mut DirtyByLog, state: &str| {
            dirty.shows(Some(state.parse().unwrap()), &[Scope::read("0-5", &[]).unwrap()]);
        };
        let look = |transactions: &[u64], dirty: Option<&[TileCoord]>| LogLook {
            since: Cursor::default(),
            seen: Cursor::default(),
            transactions: transactions.to_vec(),
            dirty: dirty.map(<[TileCoord]>::to_vec),
            is_other_history: false,
            begun: Instant::now(),
        };
        show(&mut dirty, "100:100:");
        dirty.add(&look(&[101, 105], Some(&[tile(3, 1), tile(9, 9)])));
        assert!(dirty.since(tile(3, 1)).is_some() && dirty.since(tile(3, 2)).is_none());
        assert!(dirty.since(tile(9, 9)).is_none(), "the target does not hold it");
        dirty.add(&look(&[111], Some(&[tile(3, 2)])));
        // A publication of a state in which one of the two was running, and an unrelated one, too.
        show(&mut dirty, "101:108:105");
        assert!(dirty.since(tile(3, 1)).is_some());
        show(&mut dirty, "107:110:107,109");
        assert!(dirty.since(tile(3, 1)).is_none() && dirty.since(tile(3, 2)).is_some());
        show(&mut dirty, "112:112:");
        assert!(dirty.since(tile(3, 2)).is_none());
        // What the target shows before the look finds it was never dirty.
        dirty.add(&look(&[111], None));
        assert!(dirty.since(tile(3, 2)).is_none());
        // Too many to list.
        dirty.add(&look(&[133], None));
        assert!(dirty.since(tile(5, 7)).is_some() && dirty.since(tile(6, 7)).is_none());
    }
}
