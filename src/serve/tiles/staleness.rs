//! Which stored tiles are stale: those whose run is older than `expires` says, and that no refreshed one stands for.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::serve::live::FlightKey;
use crate::serve::target::served::ServedState;
use crate::tile::{TileId, Zoom};

/// The most tiles that are known to have been refreshed. With more, every stale tile counts as refreshed.
const MAX_REFRESHED: usize = 200_000;

/// The tiles of a generation of which clients have seen a refreshed state.
#[derive(Debug, Default)]
struct RefreshedTiles {
    generation: u64,
    tiles: HashSet<TileId>,
    is_full: bool,
}

/// Tells whether a stored tile is stale.
#[derive(Debug)]
pub(crate) struct Staleness {
    /// By zoom: how old a stored tile may become.
    expires: Vec<Option<Duration>>,
    refreshed: Mutex<RefreshedTiles>,
}

impl Staleness {
    /// Tiles become stale by their age, by zoom.
    pub(crate) fn new(expires: Vec<Option<Duration>>) -> Staleness {
        Staleness { expires, refreshed: Mutex::default() }
    }

    /// How long a stored tile has been stale; `None` if it is not.
    pub(crate) fn age(&self, state: &ServedState, zoom: Zoom) -> Option<Duration> {
        let expires = (*self.expires.get(usize::from(zoom.get()))?)?;
        let started = Duration::from_secs(state.manifest.as_ref()?.started);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(started + expires)
    }

    /// Notes that a client sees a refreshed state of a tile: it must not see the stored one again.
    pub(super) fn note_refreshed(&self, key: FlightKey) {
        let mut refreshed = self.of_generation(key.generation);
        if refreshed.tiles.len() < MAX_REFRESHED {
            refreshed.tiles.insert(key.tile);
        } else {
            refreshed.is_full = true;
        }
    }

    /// True if a client may have seen a refreshed state of a tile.
    pub(super) fn was_refreshed(&self, key: FlightKey) -> bool {
        let refreshed = self.of_generation(key.generation);
        refreshed.is_full || refreshed.tiles.contains(&key.tile)
    }

    /// The refreshed tiles of a generation; those of an older one are forgotten.
    fn of_generation(&self, generation: u64) -> std::sync::MutexGuard<'_, RefreshedTiles> {
        let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshed.generation < generation {
            *refreshed = RefreshedTiles { generation, ..RefreshedTiles::default() };
        }
        refreshed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::TileCoord;

    #[test]
    fn what_a_client_has_seen_refreshed_is_known_until_the_next_publication() {
        let staleness = Staleness::new(Vec::new());
        let key = |generation, x| FlightKey {
            generation,
            tile: TileCoord::new(Zoom::new(20).unwrap(), x, 0).unwrap().into(),
        };
        staleness.note_refreshed(key(1, 5));
        assert!(staleness.was_refreshed(key(1, 5)) && !staleness.was_refreshed(key(1, 6)));
        assert!(!staleness.was_refreshed(key(2, 5)));
        for x in 0..=u32::try_from(MAX_REFRESHED).unwrap() {
            staleness.note_refreshed(key(2, x));
        }
        assert!(staleness.was_refreshed(key(2, 900_000)), "there are too many to tell");
        assert!(!staleness.was_refreshed(key(3, 900_000)));
    }
}
