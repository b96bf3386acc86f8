//! Epochs: how new a live tile must be to be cached, and which database state a tile that another server has rendered
//! must show.
//!
//! The epoch of a tile is the moment at which its last change became known: a tile that was rendered from an older
//! database state is of an older epoch. Moments are local to a server. Servers that share tiles compare database states
//! instead (`Cursor`), which are ordered by the time at which they were taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::last_changed::{LastChanged, TargetMemory};
use crate::cursor::Cursor;
use crate::tile::TileCoord;

/// A moment, in microseconds since the server began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct LiveEpoch(u64);

/// The least epoch of the live tiles that are served together with a publication. It falls back to the least epoch of
/// the previous publication once the log has been read up to this publication. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveSince(Arc<AtomicU64>);

impl LiveSince {
    pub(crate) fn get(&self) -> LiveEpoch {
        LiveEpoch(self.0.load(Ordering::Acquire))
    }
}

/// A publication up to which the log has not been read yet.
#[derive(Debug)]
struct AwaitingLog {
    since: LiveSince,
    before: LiveSince,
    shows: Arc<Cursor>,
}

/// The most publications that wait for the log. If there are more, the live tiles of the oldest one stay evicted.
const MAX_AWAITING_LOG: usize = 16;

#[derive(Debug, Default)]
struct LeastStates {
    awaiting_log: VecDeque<AwaitingLog>,
    /// The database state that every tile must show at least.
    all: Option<Arc<Cursor>>,
    /// The database state that a tile must show at least, by the counter that it shares with other tiles in
    /// [`LastChanged`].
    by_slot: HashMap<usize, Arc<Cursor>>,
    /// The database state that shows the latest known change of any tile whatever, and of a tile, in the same way.
    any_changed: Option<Arc<Cursor>>,
    changed: HashMap<usize, Arc<Cursor>>,
    /// The latest database state in which a tile was rendered or taken over, in the same way: clients may have seen it.
    answered: HashMap<usize, Arc<Cursor>>,
}

#[derive(Debug)]
pub(crate) struct LiveEpochs {
    begun: Instant,
    changed: LastChanged,
    /// When a tile was taken over from another server. A tile that is rendered here afterwards must not be older.
    taken: LastChanged,
    /// When a tile was evicted. A tile that another server has rendered is not taken over then, until it changes.
    evicted: LastChanged,
    /// The epoch in which the database was last found to be another one.
    other_history: AtomicU64,
    /// When a change of any tile was noted last.
    latest: AtomicU64,
    least: Mutex<LeastStates>,
}

impl LeastStates {
    /// Removes and returns the oldest publication if a look has seen everything that it shows.
    fn next_reached(&mut self, seen: &Cursor) -> Option<AwaitingLog> {
        if seen.sees_all_of(&self.awaiting_log.front()?.shows) { self.awaiting_log.pop_front() } else { None }
    }

    /// Notes that every tile must show at least the database state `shown`.
    fn raise_all(&mut self, shown: &Arc<Cursor>) {
        self.all = Some(later(self.all.as_ref(), shown));
    }

    /// Notes that a tile has changed, which the database state `seen` shows.
    fn change(&mut self, tile: TileCoord, seen: &Arc<Cursor>) {
        self.changed.insert(LastChanged::slot(tile), Arc::clone(seen));
        self.raise(tile, seen);
    }

    /// Notes that a tile must show at least the database state `shown`.
    fn raise(&mut self, tile: TileCoord, shown: &Arc<Cursor>) {
        let slot = self.by_slot.entry(LastChanged::slot(tile)).or_insert_with(|| Arc::clone(shown));
        *slot = later(Some(slot), shown);
    }

    /// Notes that clients may have seen a tile in the database state `shown`.
    fn answer(&mut self, tile: TileCoord, shown: &Arc<Cursor>) {
        let slot = self.answered.entry(LastChanged::slot(tile)).or_insert_with(|| Arc::clone(shown));
        *slot = later(Some(slot), shown);
        self.raise(tile, shown);
    }
}

/// The later one of two database states.
fn later(one: Option<&Arc<Cursor>>, other: &Arc<Cursor>) -> Arc<Cursor> {
    match one {
        Some(one) if one.sees_all_of(other) => Arc::clone(one),
        _ => Arc::clone(other),
    }
}

impl LiveEpochs {
    pub(crate) fn new(memory: TargetMemory) -> LiveEpochs {
        LiveEpochs {
            begun: Instant::now(),
            changed: LastChanged::new(0, memory),
            taken: LastChanged::new(0, memory),
            evicted: LastChanged::new(0, memory),
            other_history: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            least: Mutex::default(),
        }
    }

    /// The present moment: tiles that are rendered from a database state taken from now on are of this epoch.
    pub(crate) fn now(&self) -> LiveEpoch {
        // Rounded up.
        LiveEpoch(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1)
    }

    /// The epoch of a live tile that is served together with a publication.
    pub(crate) fn of(&self, tile: TileCoord, beside: &LiveSince) -> LiveEpoch {
        LiveEpoch(self.changed.of(tile)).max(beside.get())
    }

    pub(crate) fn moment(&self, epoch: LiveEpoch) -> Instant {
        self.begun + Duration::from_micros(epoch.0)
    }

    /// When a change of any tile was noted last.
    pub(crate) fn last_change(&self) -> Instant {
        self.moment(LiveEpoch(self.latest.load(Ordering::Acquire)))
    }

    /// If a tile is rendered here, its database state must be taken after this moment.
    pub(crate) fn since(&self, tile: TileCoord, epoch: LiveEpoch) -> Instant {
        self.moment(epoch.max(LiveEpoch(self.taken.of(tile))))
    }

    /// Notes that these tiles have changed (`None` for every tile). The database state `seen` shows the changes.
    pub(crate) fn mark_changed(&self, tiles: Option<&[TileCoord]>, seen: &Arc<Cursor>) {
        let LiveEpoch(now) = self.now();
        self.latest.fetch_max(now, Ordering::AcqRel);
        let mut least = self.least.lock();
        match tiles {
            None => {
                least.raise_all(seen);
                least.any_changed = Some(Arc::clone(seen));
                self.changed.change_all(now);
            }
            Some(tiles) => {
                for tile in tiles {
                    least.change(*tile, seen);
                }
                self.changed.change(tiles.iter().copied(), now);
            }
        }
    }

    /// Evicts the live tiles of these addresses with all parameters, so that they are rendered again.
    pub(crate) fn evict_tiles(&self, tiles: &[TileCoord]) {
        let LiveEpoch(now) = self.now();
        self.evicted.change(tiles.iter().copied(), now);
        self.changed.change(tiles.iter().copied(), now);
    }

    /// Evicts every live tile: the database is another one, so its states do not follow those that clients have seen.
    pub(crate) fn evict_all(&self) {
        let LiveEpoch(now) = self.now();
        let mut least = self.least.lock();
        least.answered.clear();
        least.by_slot.clear();
        least.changed.clear();
        (least.all, least.any_changed) = (None, None);
        self.other_history.store(now, Ordering::Release);
        self.latest.fetch_max(now, Ordering::AcqRel);
        self.changed.change_all(now);
    }

    /// Live tiles of an older epoch may show another history of the database: their states cannot be compared.
    pub(crate) fn of_this_history(&self) -> LiveEpoch {
        LiveEpoch(self.other_history.load(Ordering::Acquire))
    }

    /// Returns the least epoch of live tiles for a publication that requests are about to see. Live tiles that are
    /// served together with it must not be older than the database state that it `shows` (`None` if that is not known).
    /// `is_followed` is true if the log will be read up to that state, and will show which tiles have changed.
    pub(crate) fn begin_publication(&self, shows: Option<&Cursor>, before: &LiveSince, is_followed: bool) -> LiveSince {
        let since = LiveSince(Arc::new(AtomicU64::new(self.now().0)));
        let Some(shows) = shows.cloned().map(Arc::new) else { return since };
        let mut least = self.least.lock();
        if !is_followed {
            least.raise_all(&shows);
            return since;
        }
        least.awaiting_log.push_back(AwaitingLog { since: since.clone(), before: before.clone(), shows });
        if least.awaiting_log.len() > MAX_AWAITING_LOG
            && let Some(oldest) = least.awaiting_log.pop_front()
        {
            least.raise_all(&oldest.shows);
        }
        since
    }

    /// Notes that the log has been read up to the database state `seen`.
    pub(crate) fn record_log_reached(&self, seen: &Cursor) {
        let mut least = self.least.lock();
        while let Some(AwaitingLog { since, before, .. }) = least.next_reached(seen) {
            since.0.store(before.get().0, Ordering::Release);
        }
    }

    /// The latest database state that a tile must show; `None` if none is known for the tile.
    pub(crate) fn least_state(&self, tile: TileCoord) -> Option<Arc<Cursor>> {
        self.least.lock().by_slot.get(&LastChanged::slot(tile)).cloned()
    }

    /// Notes that a client may see a tile in the database state `shown`: later answers must not be older. False, and
    /// nothing is noted, if an answer may have been later already.
    pub(crate) fn try_record_answer(&self, tile: TileCoord, shown: &Arc<Cursor>) -> bool {
        let mut least = self.least.lock();
        let before = least.answered.get(&LastChanged::slot(tile));
        let is_new = before.is_none_or(|before| shown.sees_all_of(before));
        if is_new {
            least.answer(tile, shown);
        }
        is_new
    }

    /// The database states that show the known changes of a tile.
    pub(crate) fn known_changes(&self, tile: TileCoord) -> Vec<Arc<Cursor>> {
        let least = self.least.lock();
        least.any_changed.iter().chain(least.changed.get(&LastChanged::slot(tile))).cloned().collect()
    }

    /// Notes that a client may see a tile with some parameters in the database state `shown`.
    pub(crate) fn answers_with_parameters(&self, tile: TileCoord, shown: &Arc<Cursor>) {
        self.least.lock().raise(tile, shown);
    }

    /// Notes that changes up to the database state `shown` may have been missed: live tiles of older states are not
    /// fresh.
    pub(crate) fn lost(&self, shown: &Cursor) {
        let LiveEpoch(now) = self.now();
        self.latest.fetch_max(now, Ordering::AcqRel);
        self.least.lock().raise_all(&Arc::new(shown.clone()));
        self.changed.change_all(now);
    }

    /// True if a tile that another server has rendered from the database state `shown` may be sent to clients: it shows
    /// every known change, and everything that clients have seen here. If so, it counts as sent.
    pub(crate) fn takes(&self, tile: TileCoord, shown: &Arc<Cursor>) -> bool {
        let LiveEpoch(now) = self.now();
        let evicted = self.evicted.of(tile);
        if evicted > 0 && evicted >= self.changed.of(tile) {
            return false;
        }
        let mut least = self.least.lock();
        let of_tile = least.by_slot.get(&LastChanged::slot(tile));
        let awaiting_log = least.awaiting_log.iter().map(|awaiting_log| &awaiting_log.shows);
        let is_new = least.all.iter().chain(of_tile).chain(awaiting_log).all(|least| shown.sees_all_of(least));
        if is_new {
            least.answer(tile, shown);
            self.taken.change([tile], now);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    fn tile(zoom: u8, x: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, 0).unwrap()
    }

    fn state(text: &str) -> Arc<Cursor> {
        Arc::new(text.parse().unwrap())
    }

    #[test]
    fn a_change_gives_its_tiles_a_new_epoch_at_any_zoom_and_leaves_the_others() {
        let (epochs, since) = (LiveEpochs::new(TargetMemory::Usual), LiveSince::default());
        let first = epochs.of(tile(9, 8), &since);
        std::thread::sleep(Duration::from_millis(1));
        epochs.mark_changed(Some(&[tile(9, 9), tile(20, 5)]), &state("110:110:"));
        let changed = epochs.of(tile(9, 9), &since);
        assert!(changed > first && epochs.of(tile(20, 5), &since) == changed && epochs.of(tile(9, 8), &since) == first);
        assert!(epochs.since(tile(9, 9), changed) >= epochs.moment(changed));
        epochs.record_log_reached(&state("120:120:"));
        assert_eq!(epochs.of(tile(9, 9), &since), changed, "nothing has changed");
        std::thread::sleep(Duration::from_millis(1));
        epochs.mark_changed(None, &state("120:120:"));
        assert!(epochs.of(tile(9, 8), &since) > changed);
    }

    #[test]
    fn a_shared_tile_is_taken_if_it_shows_every_known_change_and_all_that_clients_have_seen() {
        let epochs = LiveEpochs::new(TargetMemory::Usual);
        epochs.begin_publication(Some(&state("100:100:")), &LiveSince::default(), false);
        assert!(!epochs.takes(tile(9, 1), &state("99:99:")), "it is older than the target");
        let before = epochs.since(tile(9, 1), LiveEpoch::default());
        assert!(epochs.takes(tile(9, 1), &state("104:104:")));
        assert!(epochs.since(tile(9, 1), LiveEpoch::default()) > before, "nothing older is rendered here afterwards");
        assert!(!epochs.takes(tile(9, 1), &state("103:103:")), "clients have seen a later one");
        epochs.mark_changed(Some(&[tile(9, 2)]), &state("110:110:"));
        assert!(!epochs.takes(tile(9, 2), &state("109:109:")) && epochs.takes(tile(9, 3), &state("109:109:")));
        assert!(
            epochs.try_record_answer(tile(9, 2), &state("115:115:"))
                && !epochs.try_record_answer(tile(9, 2), &state("114:114:"))
        );
        assert!(!epochs.takes(tile(9, 2), &state("114:114:")) && epochs.takes(tile(9, 2), &state("115:115:")));
        epochs.evict_tiles(&[tile(9, 2)]);
        assert!(!epochs.takes(tile(9, 2), &state("116:116:")), "it is rendered here");
        std::thread::sleep(Duration::from_millis(1));
        epochs.mark_changed(Some(&[tile(9, 2)]), &state("118:118:"));
        assert!(epochs.takes(tile(9, 2), &state("118:118:")));
    }
}
