//! Live tiles that the writer will store in the target (`write_back`): tiles outside of its scope that clients have asked for.
//!
//! Only the names of tiles wait here. The writer renders them once more with the next batch, on that run's snapshot. So a stored tile shows exactly
//! the state that the manifest names, no matter how long it has waited and what has changed meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::tile::TileCoord;

/// The most tiles that wait; further ones are stored when they are asked for again.
const MAX_WAITING_TILES: usize = 10_000;

/// The most tiles of a batch: while a batch is stored, the writer cannot publish changes.
const MAX_TILES_PER_BATCH: usize = 500;

/// The least time between two batches, because each is a publication.
const BATCH_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct WaitingTiles {
    /// True while this process writes the target and stores live tiles.
    is_on: bool,
    tiles: HashSet<TileCoord>,
}

/// The queue into which the server puts the names of live tiles, and from which the writer takes them. Clones share it.
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

    /// Sets whether this process stores live tiles from now on, and forgets the tiles that wait.
    pub fn turn(&self, is_on: bool) {
        *self.waiting() = WaitingTiles { is_on, tiles: HashSet::new() };
    }

    /// Notes that a client was sent a tile that was rendered on request.
    pub(crate) fn note(&self, tile: TileCoord) {
        let mut waiting = self.waiting();
        if waiting.is_on && waiting.tiles.len() < MAX_WAITING_TILES && waiting.tiles.insert(tile) {
            self.arrived.notify_one();
        }
    }

    /// The tiles of the next batch. They stay in the queue until [`WriteBackDesk::stored`] or [`WriteBackDesk::given_up`] is called.
    #[must_use]
    pub fn batch(&self) -> Vec<TileCoord> {
        self.waiting().tiles.iter().take(MAX_TILES_PER_BATCH).copied().collect()
    }

    /// Removes tiles that the target holds now.
    pub fn stored(&self, tiles: &[TileCoord]) {
        let mut waiting = self.waiting();
        for tile in tiles {
            waiting.tiles.remove(tile);
        }
    }

    /// Removes tiles that could not be stored; they are tried again once a client asks for them again.
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
