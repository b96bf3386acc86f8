//! Flights: each tile is rendered once, however many requests wait for it, with a bounded queue of tiles in front of the workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::source::{LiveError, LiveSource, LiveTile};
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::tiles::cache::{CachedForm, TileCache};
use crate::stop::{Signal, Stop};
use crate::tile::TileId;

/// How long a tile is not tried again after it failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The number of failures that are remembered before expired ones are removed.
const MAX_REMEMBERED_FAILURES: usize = 1_024;

/// How long to wait for the flights at the server's end: cancelling a statement takes a round trip to the database.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The longest `Retry-After` that a client is told, in seconds.
const MAX_RETRY_SECONDS: u64 = 30;

/// The tile of a flight, and the generation of the target that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    /// The generation of the target with which the tile is shown.
    pub(crate) generation: u64,
    /// The tile.
    pub(crate) tile: TileId,
}

/// The result of a flight.
type Landed = Result<CachedForm, LiveError>;

/// What a flight needs to start.
#[derive(Debug, Clone, Copy)]
struct FlightPlan {
    key: FlightKey,
    number: u64,
    since: Instant,
}

/// A flight that is queued or running.
struct LiveFlight {
    /// A number that distinguishes it from later flights of the same key.
    number: u64,
    /// The number of requests that wait for it.
    waiters: usize,
    stop: Stop,
    landed: watch::Receiver<Option<Landed>>,
}

#[derive(Default)]
struct FlightTable {
    flights: HashMap<FlightKey, LiveFlight>,
    /// Tiles that failed, and the time from which each may be tried again.
    failed: HashMap<FlightKey, Instant>,
    begun: u64,
}

struct FlightsShared {
    source: Arc<dyn LiveSource>,
    cache: TileCache,
    metrics: Arc<Metrics>,
    options: LiveOptions,
    table: Mutex<FlightTable>,
    workers: Arc<Semaphore>,
    /// How long a rendering takes, in microseconds: an exponential moving average, in which the last rendering has the weight 1/8.
    mean_micros: AtomicU64,
    /// True if the source was away at the last rendering, so that only changes of this state are logged, not each tile.
    is_away: AtomicBool,
}

/// The flights of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveFlights(Arc<FlightsShared>);

/// The result of a request for a live tile.
pub(crate) struct Joined {
    /// The tile as it would be stored.
    pub(crate) landed: Landed,
    /// True if another request had started the flight already.
    pub(crate) is_collapsed: bool,
}

/// The numbers of tiles and requests in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FlightCounts {
    /// Tiles that are being rendered.
    pub(crate) running: usize,
    /// Tiles that wait for a worker.
    pub(crate) queued: usize,
    /// Requests that wait for a tile.
    pub(crate) requests: usize,
}

/// A request that waits for a flight. Dropping it ends the wait.
struct Waiter {
    shared: Arc<FlightsShared>,
    key: FlightKey,
    number: u64,
    landed: watch::Receiver<Option<Landed>>,
    is_collapsed: bool,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        let Some(flight) = table.flights.get_mut(&self.key).filter(|flight| flight.number == self.number) else {
            return;
        };
        flight.waiters -= 1;
        if flight.waiters == 0
            && let Some(flight) = table.flights.remove(&self.key)
        {
            // The flight is about to end, so the next request for the tile starts another one.
            flight.stop.ask(Signal::Terminate);
        }
    }
}

impl LiveFlights {
    /// Flights for tiles of a source; none has started. Their results are put into the cache.
    pub(crate) fn new(
        source: Arc<dyn LiveSource>,
        cache: TileCache,
        metrics: Arc<Metrics>,
        options: LiveOptions,
    ) -> LiveFlights {
        LiveFlights(Arc::new(FlightsShared {
            source,
            cache,
            metrics,
            options,
            table: Mutex::default(),
            workers: Arc::new(Semaphore::new(options.workers.get())),
            mean_micros: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
        }))
    }

    /// The source that renders the tiles.
    pub(crate) fn source(&self) -> &dyn LiveSource {
        &*self.0.source
    }

    /// The numbers of tiles and requests in flight.
    pub(crate) fn counts(&self) -> FlightCounts {
        let (flights, requests) = {
            let table = self.0.table();
            (table.flights.len(), table.flights.values().map(|flight| flight.waiters).sum())
        };
        let running = self.0.options.workers.get() - self.0.workers.available_permits();
        FlightCounts { running, queued: flights.saturating_sub(running), requests }
    }

    /// Renders a tile from a database state after `since`, the moment at which its generation was seen first, or waits for the flight that
    /// does so already.
    pub(crate) async fn tile(&self, key: FlightKey, since: Instant) -> Joined {
        let mut waiter = match self.join(key, since) {
            Ok(waiter) => waiter,
            Err(error) => return Joined { landed: Err(error), is_collapsed: false },
        };
        let landed = match waiter.landed.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_gone) => None,
        };
        let landed = landed.unwrap_or_else(|| Err(LiveError::Failed("a thread died".to_owned())));
        Joined { landed, is_collapsed: waiter.is_collapsed }
    }

    fn join(&self, key: FlightKey, since: Instant) -> Result<Waiter, LiveError> {
        let shared = &self.0;
        let mut table = shared.table();
        if let Some(flight) = table.flights.get_mut(&key) {
            flight.waiters += 1;
            let (number, landed) = (flight.number, flight.landed.clone());
            return Ok(Waiter { shared: Arc::clone(shared), key, number, landed, is_collapsed: true });
        }
        if let Some(until) = table.failed.get(&key) {
            if Instant::now() < *until {
                return Err(LiveError::JustFailed);
            }
            table.failed.remove(&key);
        }
        let room = shared.options.workers.get() + shared.options.queue;
        let estimate = shared.estimate(table.flights.len());
        if table.flights.len() >= room || estimate > shared.options.timeout {
            shared.metrics.shed();
            return Err(LiveError::Overloaded { retry_after: estimate });
        }
        table.begun += 1;
        let (tell, landed) = watch::channel(None);
        let (number, stop) = (table.begun, Stop::new());
        table.flights.insert(key, LiveFlight { number, waiters: 1, stop: stop.clone(), landed: landed.clone() });
        let plan = FlightPlan { key, number, since };
        tokio::spawn(fly(Arc::clone(shared), plan, stop, tell));
        Ok(Waiter { shared: Arc::clone(shared), key, number, landed, is_collapsed: false })
    }

    /// Ends every flight, and waits at most [`END_LIMIT`] until the database has ended their statements.
    pub(crate) async fn end(&self) {
        let stops: Vec<Stop> = self.0.table().flights.values().map(|flight| flight.stop.clone()).collect();
        for stop in &stops {
            stop.ask(Signal::Terminate);
        }
        let all = u32::try_from(self.0.options.workers.get()).unwrap_or(u32::MAX);
        if tokio::time::timeout(END_LIMIT, self.0.workers.acquire_many(all)).await.is_err() {
            tracing::warn!("some tiles are still rendered in the database");
        }
    }
}

impl FlightsShared {
    /// Locks the table. A lock poisoned by a panic is used all the same: no thread leaves the table half changed.
    fn table(&self) -> MutexGuard<'_, FlightTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a flight would wait behind `flights` others.
    fn estimate(&self, flights: usize) -> Duration {
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        let workers = self.options.workers.get();
        let before = u32::try_from((flights + 1).saturating_sub(workers) / workers).unwrap_or(u32::MAX);
        mean.saturating_mul(before)
    }

    /// Renders the tile of a flight when a worker is free, and puts it into the cache.
    async fn rendered(self: &Arc<Self>, plan: FlightPlan, stop: &Stop) -> Landed {
        let FlightPlan { key, since, .. } = plan;
        // Another flight may have put the tile into the cache after this one's request looked there and before it started.
        if let Some(held) = self.cache.live(key).await {
            return Ok(held);
        }
        let (limit, queued) = (self.options.timeout, Instant::now());
        let permit = tokio::select! {
            permit = Arc::clone(&self.workers).acquire_owned() => permit,
            _ = stop.wait() => return Err(LiveError::Abandoned),
            () = tokio::time::sleep(limit) => return Err(LiveError::Late(limit)),
        };
        self.metrics.waited(queued.elapsed());
        let (shared, of_task, begun) = (Arc::clone(self), stop.clone(), Instant::now());
        // The worker becomes free only when the database has ended the tile's statement.
        let mut rendering = tokio::spawn(async move {
            let rendered = shared.source.render(key.tile, since, &of_task).await;
            drop(permit);
            rendered
        });
        let (done, is_late) = tokio::select! {
            done = &mut rendering => (done, false),
            () = tokio::time::sleep(limit) => {
                stop.ask(Signal::Terminate);
                (rendering.await, true)
            }
        };
        let LiveTile { stored, in_database } = match done {
            Ok(Err(LiveError::Abandoned)) if is_late => Err(LiveError::Late(limit)),
            Ok(rendered) => rendered,
            Err(error) => Err(LiveError::Failed(format!("a thread died: {error}"))),
        }?;
        self.note_time(begun.elapsed());
        self.metrics.rendered(begun.elapsed(), in_database);
        let form = CachedForm::of_live(stored, Instant::now() + self.options.ttl);
        self.cache.keep_live(key, form.clone()).await;
        Ok(form)
    }

    fn note_time(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8);
        let mean = self.mean_micros.load(Ordering::Relaxed);
        let next = if mean == 0 { micros } else { mean - mean / 8 + micros / 8 };
        self.mean_micros.store(next, Ordering::Relaxed);
    }

    /// Logs a failure: that the source is away once, that a tile fails each time.
    fn log(&self, key: FlightKey, landed: &Landed) {
        match landed {
            Err(LiveError::Away(why)) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!("live tiles cannot be rendered: {why}");
                }
            }
            Err(LiveError::Abandoned) => {}
            Err(error) => tracing::warn!("tile {}: {error}", key.tile),
            Ok(_) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    tracing::warn!("live tiles are rendered again");
                }
            }
        }
    }
}

/// Runs one flight, from the queue to its result.
async fn fly(shared: Arc<FlightsShared>, plan: FlightPlan, stop: Stop, tell: watch::Sender<Option<Landed>>) {
    let landed = shared.rendered(plan, &stop).await;
    let FlightPlan { key, number, .. } = plan;
    shared.log(key, &landed);
    {
        let mut table = shared.table();
        if table.flights.get(&key).is_some_and(|flight| flight.number == number) {
            table.flights.remove(&key);
        }
        if matches!(landed, Err(LiveError::Failed(_) | LiveError::Away(_) | LiveError::Late(_))) {
            let now = Instant::now();
            if table.failed.len() >= MAX_REMEMBERED_FAILURES {
                table.failed.retain(|_, until| *until > now);
            }
            table.failed.insert(key, now + PAUSE_AFTER_FAILURE);
        }
    }
    tell.send_replace(Some(landed));
}

impl LiveError {
    /// The number of seconds after which a client may ask again.
    pub(crate) fn retry_seconds(&self) -> u64 {
        match self {
            LiveError::Overloaded { retry_after } => retry_after.as_secs().saturating_add(1).min(MAX_RETRY_SECONDS),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests;
