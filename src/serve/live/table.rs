//! The flights that are queued or running, and the requests that wait for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{Counted, LayerCounts, LiveError};
use crate::serve::known_changes::LiveEpoch;
use crate::serve::parameters::ParametersKey;
use crate::serve::tiles::cache::{CacheSource, CachedTile};
use crate::stop::{Signal, Stop};
use crate::tile::TileId;

/// How long a tile is not tried again after it failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The number of failures that are remembered before expired ones are removed.
const MAX_REMEMBERED_FAILURES: usize = 1_024;

/// The tile of a flight, and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    /// The epoch: the tile shows every change that was known then.
    pub(crate) epoch: LiveEpoch,
    pub(crate) tile: TileId,
    /// The values that the request gives.
    pub(crate) parameters: ParametersKey,
}

impl FlightKey {
    /// The place of its result in the cache.
    pub(crate) const fn cached(self) -> CacheSource {
        CacheSource::Live { tile: self.tile, parameters: self.parameters }
    }
}

pub(crate) type Landed = Result<CachedTile, LiveError>;

/// The record of a flight that is queued or running.
pub(crate) struct FlightEntry {
    /// A number that distinguishes it from later flights of the same key.
    pub(crate) number: u64,
    /// Its number in the queue of work, once it is there.
    pub(crate) ticket: Option<u64>,
    /// The number of requests that wait for it.
    pub(crate) waiters: usize,
    /// True if it goes on when no request waits for it.
    pub(crate) goes_on: bool,
    pub(crate) stop: Stop,
    pub(crate) landed: watch::Receiver<Option<Landed>>,
}

/// The flights that are queued or running, and the tiles that failed a moment ago.
#[derive(Default)]
pub(crate) struct FlightTable {
    pub(crate) flights: HashMap<FlightKey, FlightEntry>,
    /// Tiles that failed, and the time from which each may be tried again.
    failed: HashMap<FlightKey, Instant>,
    pub(crate) begun: u64,
}

impl FlightTable {
    /// True if a tile failed a moment ago, so that it is not tried again yet.
    pub(crate) fn has_just_failed(&mut self, key: FlightKey) -> bool {
        let is_early = self.failed.get(&key).is_some_and(|until| Instant::now() < *until);
        if !is_early {
            self.failed.remove(&key);
        }
        is_early
    }

    /// Removes a flight that has ended, unless another flight of the tile has begun.
    pub(crate) fn remove(&mut self, key: FlightKey, number: u64) {
        if self.flights.get(&key).is_some_and(|flight| flight.number == number) {
            self.flights.remove(&key);
        }
    }

    /// Notes that a tile failed.
    pub(crate) fn note_failure(&mut self, key: FlightKey) {
        let now = Instant::now();
        if self.failed.len() >= MAX_REMEMBERED_FAILURES {
            self.failed.retain(|_, until| *until > now);
        }
        self.failed.insert(key, now + PAUSE_AFTER_FAILURE);
    }
}

/// The table, shared by the flights and the requests that wait for them.
pub(crate) type SharedTable = Arc<Mutex<FlightTable>>;

/// A request that waits for a flight. Dropping it ends the wait.
pub(crate) struct FlightWaiter {
    pub(crate) table: SharedTable,
    pub(crate) key: FlightKey,
    pub(crate) number: u64,
    pub(crate) landed: watch::Receiver<Option<Landed>>,
    /// True if another request had started the flight already.
    pub(crate) is_collapsed: bool,
}

impl FlightWaiter {
    /// Waits for the tile in its stored form. It may be called again after an earlier wait was given up.
    pub(crate) async fn landed(&mut self) -> Landed {
        let landed = match self.landed.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_gone) => None,
        };
        landed.unwrap_or_else(|| Err(LiveError::Failed("a thread died".to_owned())))
    }

    /// Lets the flight go on when no request waits for it any more.
    pub(crate) fn keep_going(&self) {
        if let Some(flight) = self.table.lock().flights.get_mut(&self.key)
            && flight.number == self.number
        {
            flight.goes_on = true;
        }
    }
}

impl Drop for FlightWaiter {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let Some(flight) = table.flights.get_mut(&self.key).filter(|flight| flight.number == self.number) else {
            return;
        };
        flight.waiters -= 1;
        if flight.waiters == 0
            && !flight.goes_on
            && let Some(flight) = table.flights.remove(&self.key)
        {
            // The flight is about to end, so the next request for the tile starts another one.
            flight.stop.ask(Signal::Terminate);
        }
    }
}

/// The rows that were counted last for some values, or why they could not be counted.
#[derive(Debug)]
pub(crate) struct KeptCount {
    pub(crate) counted: Instant,
    /// How long this answers further requests.
    pub(crate) life: Duration,
    /// [`CountRequest::since`](super::CountRequest::since).
    pub(crate) since: Instant,
    pub(crate) rows: Result<Arc<Vec<LayerCounts>>, LiveError>,
}

pub(crate) type CountPlace = Arc<tokio::sync::Mutex<Option<KeptCount>>>;

/// The counts of a tileset by the values of their requests. Whoever counts locks the entry, so that others with the
/// same values wait for the result.
#[derive(Debug)]
pub(crate) struct CountTable {
    pub(crate) all: Mutex<HashMap<(ParametersKey, Counted), CountPlace>>,
    /// The right to count values, which may read the table once for each parameter.
    pub(crate) values: Semaphore,
}

impl Default for CountTable {
    fn default() -> CountTable {
        CountTable { all: Mutex::default(), values: Semaphore::new(1) }
    }
}
