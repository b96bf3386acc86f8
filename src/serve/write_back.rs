//! Live tiles that the writer will store in the target (`write_back`): tiles outside of its scope that clients have
//! asked for.
//!
//! Only the names of tiles wait here. The writer renders them once more with the next batch, on that run's snapshot. So
//! a stored tile shows exactly the state that the manifest names, no matter how long it has waited and what has changed
//! meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::tile::TileCoord;

/// The most tiles that wait; further ones are stored when they are asked for again.
const MAX_WAITING_TILES: usize = 10_000;

/// The most tiles of a batch: while a batch is stored, the writer cannot publish changes.
const MAX_TILES_PER_BATCH: usize = 500;

/// The least time between two batches, because each is a publication.
const BATCH_PAUSE: Duration = Duration::from_secs(2);

/// For how many seconds of tiles there is room at once: a map that somebody opens asks for dozens.
const BURST_SECONDS: f64 = 10.0;

/// The period of [`WriteBackLimits::bytes_per_day`].
const SECONDS_PER_DAY: f64 = 86_400.0;

/// The pause before it is looked again whether there is room.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// How many live tiles are stored. Clients choose which tiles these are: without limits they could fill the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteBackLimits {
    /// The most tiles a second, on average.
    pub tiles_per_second: u32,
    /// The most bytes of tiles a day.
    pub bytes_per_day: u64,
}

/// What may still be stored: it grows evenly with time, up to a most.
#[derive(Debug)]
struct WriteBackRoom {
    limits: WriteBackLimits,
    tiles: f64,
    bytes: f64,
    since: Instant,
    /// True once the log says that there is no room for more bytes.
    is_said: bool,
}

#[derive(Debug, Default)]
struct WaitingTiles {
    /// `None` unless this process writes the target and stores live tiles.
    room: Option<WriteBackRoom>,
    /// The tiles with their sizes in bytes.
    tiles: HashMap<TileCoord, usize>,
}

impl WriteBackRoom {
    fn new(limits: WriteBackLimits, now: Instant) -> WriteBackRoom {
        let (tiles, bytes) = (f64::from(limits.tiles_per_second) * BURST_SECONDS, limits.bytes_per_day as f64);
        WriteBackRoom { limits, tiles, bytes, since: now, is_said: false }
    }

    /// Lets the room grow until now.
    fn grow(&mut self, now: Instant) {
        let (most, passed) = (WriteBackRoom::new(self.limits, now), now.duration_since(self.since).as_secs_f64());
        self.tiles = (self.tiles + passed * most.tiles / BURST_SECONDS).min(most.tiles);
        self.bytes = (self.bytes + passed * most.bytes / SECONDS_PER_DAY).min(most.bytes);
        self.since = now;
    }

    fn fitting<'t>(&mut self, waiting: impl Iterator<Item = (&'t TileCoord, &'t usize)>) -> Vec<TileCoord> {
        let (mut tiles, mut bytes, mut fitting) = (self.tiles, self.bytes, Vec::new());
        let mut is_full = false;
        for (tile, size) in waiting {
            let size = *size as f64;
            if tiles < 1.0 {
                break;
            }
            if bytes < size {
                is_full = true;
                continue;
            }
            (tiles, bytes) = (tiles - 1.0, bytes - size);
            fitting.push(*tile);
        }
        if is_full && fitting.is_empty() && !self.is_said {
            self.is_said = true;
            tracing::warn!(
                "no more live tiles are written back for now: {} MB a day are stored already (write_back_mb in [serve])",
                self.limits.bytes_per_day >> 20
            );
        }
        fitting
    }

    fn take(&mut self, size: usize) {
        (self.tiles, self.bytes) = (self.tiles - 1.0, self.bytes - size as f64);
    }
}

/// The queue into which the server puts the names of live tiles, and from which the writer takes them. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WriteBackQueue {
    waiting: Arc<Mutex<WaitingTiles>>,
    arrived: Arc<Notify>,
}

impl WriteBackQueue {
    /// Sets how many live tiles this process stores from now on (`None` for none), and forgets the tiles that wait.
    pub fn turn(&self, limits: Option<WriteBackLimits>) {
        let room = limits.map(|limits| WriteBackRoom::new(limits, Instant::now()));
        *self.waiting.lock() = WaitingTiles { room, tiles: HashMap::new() };
    }

    /// Notes that a client was sent a tile of `bytes` bytes that was rendered on request.
    pub(crate) fn note(&self, tile: TileCoord, bytes: usize) {
        let mut waiting = self.waiting.lock();
        let is_wanted = waiting.room.is_some() && waiting.tiles.len() < MAX_WAITING_TILES;
        if is_wanted && waiting.tiles.insert(tile, bytes).is_none() {
            self.arrived.notify_one();
        }
    }

    /// The tiles of the next batch, as many as the limits allow. They stay in the queue until
    /// [`WriteBackQueue::stored`] or [`WriteBackQueue::given_up`] is called.
    pub fn batch(&self) -> Vec<TileCoord> {
        let mut waiting = self.waiting.lock();
        let WaitingTiles { room: Some(room), tiles } = &mut *waiting else { return Vec::new() };
        room.grow(Instant::now());
        room.fitting(tiles.iter().take(MAX_TILES_PER_BATCH))
    }

    /// Removes tiles that the target holds now.
    pub fn stored(&self, tiles: &[TileCoord]) {
        let mut waiting = self.waiting.lock();
        for tile in tiles {
            let size = waiting.tiles.remove(tile);
            if let (Some(size), Some(room)) = (size, &mut waiting.room) {
                room.take(size);
            }
        }
    }

    /// Removes tiles that could not be stored; they are tried again once a client asks for them again.
    pub fn given_up(&self, tiles: &[TileCoord]) {
        self.stored(tiles);
    }

    /// Returns when it is time for a batch. Dropping the future loses nothing.
    pub async fn due(&self) {
        while self.batch().is_empty() {
            if self.waiting.lock().tiles.is_empty() {
                self.arrived.notified().await;
            } else {
                tokio::time::sleep(ROOM_PAUSE).await;
            }
        }
        tokio::time::sleep(BATCH_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn clients_cannot_fill_the_target_faster_than_the_limits_say() {
        let now = Instant::now();
        let tiles: Vec<TileCoord> = (0..100).map(|x| TileCoord::new(Zoom::new(20).unwrap(), x, 0).unwrap()).collect();
        let mut room = WriteBackRoom::new(WriteBackLimits { tiles_per_second: 2, bytes_per_day: 86_400 }, now);
        let mut stored = |seconds: u64, size: usize| {
            room.grow(now + Duration::from_secs(seconds));
            let fitting = room.fitting(tiles.iter().map(|tile| (tile, &size)));
            assert_eq!(room.fitting(tiles.iter().map(|tile| (tile, &size))), fitting, "until they are stored");
            for _ in &fitting {
                room.take(size);
            }
            fitting.len()
        };
        assert_eq!([stored(0, 1), stored(0, 1), stored(5, 1), stored(1_000, 1)], [20, 0, 10, 20], "tiles");
        assert_eq!([stored(2_000, 90_000), stored(2_000, 80_000), stored(2_000, 80_000)], [0, 1, 0], "bytes");
        assert_eq!([stored(50_000, 80_000), stored(90_000, 80_000)], [0, 1], "bytes come back evenly");
    }

    #[test]
    fn tiles_wait_while_the_process_writes_and_no_more_than_there_is_room_for() {
        let queue = WriteBackQueue::default();
        let tile = |x| TileCoord::new(Zoom::new(20).unwrap(), x, 0).unwrap();
        queue.note(tile(1), 1);
        assert!(queue.batch().is_empty(), "another process writes");
        queue.turn(Some(WriteBackLimits { tiles_per_second: 10_000, bytes_per_day: 1 << 20 }));
        (0..20_000).for_each(|x| queue.note(tile(x), 1));
        assert_eq!(queue.waiting.lock().tiles.len(), MAX_WAITING_TILES);
        let first = queue.batch();
        assert_eq!((first.len(), queue.batch() == first), (MAX_TILES_PER_BATCH, true), "until they are stored");
        queue.stored(&first);
        assert!(queue.batch() != first);
        queue.turn(None);
        assert!(queue.batch().is_empty());
    }
}
