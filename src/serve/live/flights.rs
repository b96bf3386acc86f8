//! Flights: each tile is rendered once, however many requests wait for it. A flight waits in the queue of work for its worker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::source::{LiveError, LiveSource, LiveTile};
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::queue::{WorkClass, WorkQueue, WorkTicket};
use crate::serve::tiles::cache::{CachedForm, TileCache};
use crate::stop::{Signal, Stop};
use crate::tile::TileId;

/// How long a tile is not tried again after it failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The number of failures that are remembered before expired ones are removed.
const MAX_REMEMBERED_FAILURES: usize = 1_024;

/// How long to wait for the flights at the server's end: cancelling a statement takes a round trip to the database.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The classes of work that are flights.
const FLIGHT_CLASSES: [WorkClass; 1] = [WorkClass::Live];

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
struct FlightPlan {
    key: FlightKey,
    number: u64,
    since: Instant,
    ticket: WorkTicket,
}

/// A flight that is queued or running.
struct LiveFlight {
    /// A number that distinguishes it from later flights of the same key.
    number: u64,
    /// Its number in the queue of work.
    ticket: u64,
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
    queue: WorkQueue,
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
    /// Live requests' tiles that are being rendered.
    pub(crate) running: usize,
    /// Live requests' tiles that wait for a worker.
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
        queue: WorkQueue,
    ) -> LiveFlights {
        LiveFlights(Arc::new(FlightsShared {
            source,
            cache,
            metrics,
            options,
            table: Mutex::default(),
            queue,
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
        let requests = self.0.table().flights.values().map(|flight| flight.waiters).sum();
        let counts = self.0.queue.counts();
        FlightCounts {
            running: counts.running.of(WorkClass::Live),
            queued: counts.waiting.of(WorkClass::Live),
            requests,
        }
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
            shared.queue.promote(flight.ticket);
            let (number, landed) = (flight.number, flight.landed.clone());
            return Ok(Waiter { shared: Arc::clone(shared), key, number, landed, is_collapsed: true });
        }
        if let Some(until) = table.failed.get(&key) {
            if Instant::now() < *until {
                return Err(LiveError::JustFailed);
            }
            table.failed.remove(&key);
        }
        let estimate = shared.estimate();
        if !shared.queue.has_room(shared.options.queue) || estimate > shared.options.timeout {
            shared.metrics.shed();
            return Err(LiveError::Overloaded { retry_after: estimate });
        }
        table.begun += 1;
        let (tell, landed) = watch::channel(None);
        let (number, stop) = (table.begun, Stop::new());
        let ticket = shared.queue.enter(WorkClass::Live);
        let flight =
            LiveFlight { number, ticket: ticket.number(), waiters: 1, stop: stop.clone(), landed: landed.clone() };
        table.flights.insert(key, flight);
        let plan = FlightPlan { key, number, since, ticket };
        tokio::spawn(fly(Arc::clone(shared), plan, stop, tell));
        Ok(Waiter { shared: Arc::clone(shared), key, number, landed, is_collapsed: false })
    }

    /// Ends every flight, and waits at most [`END_LIMIT`] until the database has ended their statements.
    pub(crate) async fn end(&self) {
        let stops: Vec<Stop> = self.0.table().flights.values().map(|flight| flight.stop.clone()).collect();
        for stop in &stops {
            stop.ask(Signal::Terminate);
        }
        if tokio::time::timeout(END_LIMIT, self.0.queue.idle(&FLIGHT_CLASSES)).await.is_err() {
            tracing::warn!("some tiles are still rendered in the database");
        }
    }
}

impl FlightsShared {
    /// Locks the table. A lock poisoned by a panic is used all the same: no thread leaves the table half changed.
    fn table(&self) -> MutexGuard<'_, FlightTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a further flight would wait for its worker.
    fn estimate(&self) -> Duration {
        let (counts, shares) = (self.queue.counts(), self.queue.shares());
        let workers = shares.workers().get();
        let is_free = counts.running.total() < workers && counts.waiting.of(WorkClass::Live) == 0;
        // Background work keeps the workers that are guaranteed to it.
        let for_background =
            shares.background_guaranteed().min(counts.running.background() + counts.waiting.background());
        let before = (counts.waiting.of(WorkClass::Live) + usize::from(!is_free)) / (workers - for_background).max(1);
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        mean.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// Renders the tile of a flight when a worker is free, and puts it into the cache.
    async fn rendered(self: &Arc<Self>, plan: FlightPlan, stop: &Stop) -> Landed {
        let FlightPlan { key, since, mut ticket, .. } = plan;
        // Another flight may have put the tile into the cache after this one's request looked there and before it started.
        if let Some(held) = self.cache.live(key).await {
            return Ok(held);
        }
        let limit = self.options.timeout;
        let permit = tokio::select! {
            permit = ticket.permit() => permit,
            _ = stop.wait() => return Err(LiveError::Abandoned),
            () = tokio::time::sleep(limit) => return Err(LiveError::Late(limit)),
        };
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
    let FlightPlan { key, number, .. } = plan;
    let landed = shared.rendered(plan, &stop).await;
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
