//! The stored tiles that are dirty by the change log: a look into the log has found a change in them that the target does not show yet.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::LogLook;
use crate::cursor::Cursor;
use crate::sink::Scope;
use crate::tile::TileCoord;

/// The most dirty tiles that are listed, about 40 bytes each. If there are more, every tile counts as dirty.
const MAX_DIRTY_TILES: usize = 1 << 18;

/// When a tile was first found dirty, and the number of the last look that found it dirty.
#[derive(Debug, Clone, Copy)]
struct FoundDirty {
    since: Instant,
    look: u64,
}

/// The dirty tiles. The tiles of a look are dirty until the target shows all transactions of the look. Database states are ordered by time, so a
/// target that shows the transactions of one look also shows those of all earlier looks.
#[derive(Debug, Default)]
pub(super) struct DirtyByLog {
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
    pub(super) fn add(&mut self, look: &LogLook) {
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

    /// Notes that the target shows the database state `snapshot` within `scopes`, and removes the tiles that are no longer dirty.
    pub(super) fn shows(&mut self, snapshot: Option<Cursor>, scopes: &[Scope]) {
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
    pub(super) fn is_shown_by(&self, stored: &Cursor) -> bool {
        self.shown.as_ref().is_some_and(|shown| stored.sees_all_of(shown))
    }

    /// When a tile was first found dirty; `None` if it is not dirty.
    pub(super) fn since(&self, tile: TileCoord) -> Option<Instant> {
        let all = self.all.filter(|_| self.scopes.iter().any(|scope| scope.holds(tile.into())));
        self.tiles.get(&tile).or(all.as_ref()).map(|found| found.since)
    }

    /// True if no tile is dirty.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_none() && self.tiles.is_empty()
    }

    /// How many tiles are dirty; `None` if every tile may be.
    pub(super) fn count(&self) -> Option<usize> {
        self.all.is_none().then_some(self.tiles.len())
    }
}
