//! Live tiles that the writer is to store in the target (`write_back`): what clients have asked for outside of its scope.
//!
//! Only the names of tiles wait here. The writer renders them once more with the next batch, on that run's snapshot: so a stored tile shows
//! exactly the state that the manifest names, however long it has waited and whatever was changed meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::tile::TileCoord;

/// The most tiles that wait; further ones are stored when they are asked for again.
const MAX_WAITING_TILES: usize = 10_000;

/// The most tiles of a batch: the writer publishes changes meanwhile no sooner than the batch is stored.
const MAX_TILES_PER_BATCH: usize = 500;

/// The least time between two batches: each is a publication.
const BATCH_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct WaitingTiles {
    /// True while this process writes the target, and live tiles are to be stored.
    is_on: bool,
    tiles: HashSet<TileCoord>,
}

/// Where the server leaves the names of live tiles, and the writer takes them. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WriteBackDesk {
    waiting: Arc<Mutex<WaitingTiles>>,
    arrived: Arc<Notify>,
}

impl WriteBackDesk {
    fn waiting(&self) -> MutexGuard<'_, WaitingTiles> {
        // Each update leaves consistent values.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this process stores live tiles, or does so no longer.
    pub fn turn(&self, is_on: bool) {
        *self.waiting() = WaitingTiles { is_on, tiles: HashSet::new() };
    }

    /// A client was sent a tile that was rendered for it.
    pub(crate) fn note(&self, tile: TileCoord) {
        let mut waiting = self.waiting();
        if waiting.is_on && waiting.tiles.len() < MAX_WAITING_TILES && waiting.tiles.insert(tile) {
            self.arrived.notify_one();
        }
    }

    /// The tiles of the next batch. They wait until [`WriteBackDesk::stored`] or [`WriteBackDesk::given_up`].
    #[must_use]
    pub fn batch(&self) -> Vec<TileCoord> {
        self.waiting().tiles.iter().take(MAX_TILES_PER_BATCH).copied().collect()
    }

    /// The target holds these tiles now.
    pub fn stored(&self, tiles: &[TileCoord]) {
        let mut waiting = self.waiting();
        for tile in tiles {
            waiting.tiles.remove(tile);
        }
    }

    /// These tiles could not be stored; they are tried again once somebody asks for them again.
    pub fn given_up(&self, tiles: &[TileCoord]) {
        self.stored(tiles);
    }

    /// Returns when it is time for a batch. Dropping the future loses nothing.
    pub async fn due(&self) {
        while self.waiting().tiles.is_empty() {
            self.arrived.notified().await;
        }
        tokio::time::sleep(BATCH_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn tiles_wait_while_the_process_writes_and_no_more_than_there_is_room_for() {
        let desk = WriteBackDesk::default();
        let tile = |x| TileCoord::new(Zoom::new(20).unwrap(), x, 0).unwrap();
        desk.note(tile(1));
        assert!(desk.batch().is_empty(), "another process writes");
        desk.turn(true);
        (0..20_000).for_each(|x| desk.note(tile(x)));
        assert_eq!(desk.waiting().tiles.len(), MAX_WAITING_TILES);
        let first = desk.batch();
        assert_eq!((first.len(), desk.batch() == first), (MAX_TILES_PER_BATCH, true), "until they are stored");
        desk.stored(&first);
        assert!(desk.batch() != first);
        desk.turn(false);
        assert!(desk.batch().is_empty());
    }
}
