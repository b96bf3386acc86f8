//! Which stored tiles are stale: those with a change in the change log that the target does not show, and those whose run is older than `expires`
//! allows. It also knows which tiles clients have seen in a later state than the stored one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cursor::Cursor;
use crate::serve::change_log::KnownChanges;
use crate::serve::target::state::ServedState;
use crate::tile::{TileCoord, TileId};

/// The most tiles that are sent in a later state than the stored one. Further tiles are sent as stored until the target shows their changes.
const MAX_REFRESHED: usize = 200_000;

/// Decides whether a stored tile is stale, and whether it may be sent.
pub(crate) struct Staleness {
    /// By zoom: how old a stored tile may become.
    expires: Vec<Option<Duration>>,
    known: KnownChanges,
    /// The database states in which clients have seen tiles that are stored in an older one.
    refreshed: Mutex<HashMap<TileId, Arc<Cursor>>>,
    /// False while `refreshed` is empty, so that requests need not lock it.
    any_is_refreshed: AtomicBool,
}

impl Staleness {
    /// Tiles become stale by the known changes, and by their age (`expires`, by zoom).
    pub(crate) fn new(expires: Vec<Option<Duration>>, known: KnownChanges) -> Staleness {
        Staleness { expires, known, refreshed: Mutex::default(), any_is_refreshed: AtomicBool::new(false) }
    }

    fn refreshed(&self) -> MutexGuard<'_, HashMap<TileId, Arc<Cursor>>> {
        // Each update leaves consistent values.
        self.refreshed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a stored tile has been stale; `None` if it is not stale.
    pub(crate) fn age(&self, state: &ServedState, tile: TileCoord) -> Option<Duration> {
        self.known.dirty_for(tile).max(self.expired_for(state, tile))
    }

    /// How long a stored tile has been older than `expires`; `None` if it is not older.
    fn expired_for(&self, state: &ServedState, tile: TileCoord) -> Option<Duration> {
        let expires = (*self.expires.get(usize::from(tile.zoom().get()))?)?;
        let started = Duration::from_secs(state.manifest.as_ref()?.started);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(started + expires)
    }

    /// Notes that a client sees a tile in a later database state than the stored one: later answers must not be older. False if the client must not
    /// see it: clients have seen a later state, or there is no room for a further tile.
    pub(super) fn may_see(&self, tile: TileId, shown: &Arc<Cursor>) -> bool {
        let mut refreshed = self.refreshed();
        if refreshed.len() >= MAX_REFRESHED && !refreshed.contains_key(&tile) {
            return false;
        }
        let seen = refreshed.entry(tile).or_insert_with(|| Arc::clone(shown));
        if !shown.sees_all_of(seen) {
            return false;
        }
        *seen = Arc::clone(shown);
        self.any_is_refreshed.store(true, Ordering::Release);
        true
    }

    /// True if a client may have seen a tile in a later state than the stored one.
    pub(super) fn was_refreshed(&self, state: &ServedState, tile: TileId) -> bool {
        if !self.any_is_refreshed.load(Ordering::Acquire) {
            return false;
        }
        let mut refreshed = self.refreshed();
        let Some(seen) = refreshed.get(&tile) else { return false };
        let is_as_new = state.cursor.as_ref().is_some_and(|stored| {
            // The target may show an older state than the client has seen, but still every change that touches the tile.
            stored.sees_all_of(seen) || self.known.is_unchanged(tile.coord, stored, seen)
        });
        if is_as_new {
            refreshed.remove(&tile);
            self.any_is_refreshed.store(!refreshed.is_empty(), Ordering::Release);
            return false;
        }
        true
    }
}
