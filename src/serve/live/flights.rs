//! Flights: a flight renders one tile for all requests that wait for it. It waits in the work queue for a worker.

mod flying;
mod histories;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use self::histories::KnownStates;
use super::source::{LiveError, LiveSource};
use super::table::{FlightKey, FlightTable, FlightWaiter, Landed, LiveFlight, SharedTable};
use crate::serve::change_log::KnownChanges;
use crate::serve::http::negotiate::Encoding;
use crate::serve::http::peers::ClientKey;
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::parameters::{GivenParameters, NewKey};
use crate::serve::queue::{WorkClass, WorkQueue, WorkTicket};
use crate::serve::shared::SharedTiles;
use crate::serve::tiles::cache::{CachedForm, TileCache};
use crate::stop::{Signal, Stop};

/// How long to wait for the flights at the server's end: cancelling a statement takes a round trip to the database.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The classes of work that are flights.
const FLIGHT_CLASSES: [WorkClass; 3] = [WorkClass::Live, WorkClass::Refresh, WorkClass::Neighbour];

/// The most neighbours that wait for each worker.
const NEIGHBOURS_PER_WORKER: usize = 4;

/// The longest `Retry-After` that is sent to a client, in seconds.
const MAX_RETRY_SECONDS: u64 = 30;

/// What a flight needs to start.
struct FlightPlan {
    key: FlightKey,
    number: u64,
    class: WorkClass,
    /// Its place in the queue; `None` while it is not there.
    ticket: Option<WorkTicket>,
    /// True if the queue has dropped it once.
    is_dropped: bool,
    /// Its name in the shared cache.
    shared_key: Option<String>,
    /// The values that the request gives.
    given: Option<Arc<GivenParameters>>,
    /// Counts these values once the rendering begins.
    new_key: Option<NewKey>,
    /// The client that asked first.
    client: ClientKey,
}

/// The tile to render, and its class of work.
struct FlightStart {
    key: FlightKey,
    class: WorkClass,
    notes: FlightNotes,
}

/// What a request knows of its tile in addition to the key.
#[derive(Default)]
pub(crate) struct FlightNotes {
    /// The client that asks.
    pub(crate) client: ClientKey,
    /// Its name in the cache that servers share.
    pub(crate) shared_key: Option<String>,
    /// The values that the request gives; `None` if it gives none.
    pub(crate) given: Option<Arc<GivenParameters>>,
    /// Counts these values once the rendering begins.
    pub(crate) new_key: Option<NewKey>,
}

struct FlightsShared {
    source: Arc<dyn LiveSource>,
    cache: TileCache,
    metrics: Arc<Metrics>,
    options: LiveOptions,
    table: SharedTable,
    queue: WorkQueue,
    shared: Option<SharedTiles>,
    /// The database states of shared tiles about which the database was asked.
    states: tokio::sync::Mutex<KnownStates>,
    known: KnownChanges,
    /// How long a rendering takes, in microseconds: an exponential moving average, in which the last rendering has the weight 1/8.
    mean_micros: AtomicU64,
    /// True if the source was away at the last rendering, so that only changes of this state are logged, not each tile.
    is_away: AtomicBool,
}

/// What flights need.
pub(crate) struct FlightParts {
    pub(crate) source: Arc<dyn LiveSource>,
    /// Takes the rendered tiles.
    pub(crate) cache: TileCache,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: LiveOptions,
    /// The workers.
    pub(crate) queue: WorkQueue,
    /// The tileset's tiles in the cache that servers share.
    pub(crate) shared: Option<SharedTiles>,
    /// The known changes, which decide whether a cached tile is fresh.
    pub(crate) known: KnownChanges,
}

/// The flights of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveFlights(Arc<FlightsShared>);

/// The numbers of tiles and requests in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FlightCounts {
    /// Tiles of live requests that are being rendered.
    pub(crate) running: usize,
    /// Tiles of live requests that wait for a worker.
    pub(crate) queued: usize,
    /// Requests that wait for a tile.
    pub(crate) requests: usize,
}

impl LiveFlights {
    /// Flights for tiles of a source; none has started. Their results are put into the cache.
    pub(crate) fn new(parts: FlightParts) -> LiveFlights {
        let FlightParts { source, cache, metrics, options, queue, shared, known } = parts;
        LiveFlights(Arc::new(FlightsShared {
            source,
            cache,
            metrics,
            options,
            table: SharedTable::default(),
            queue,
            shared,
            states: tokio::sync::Mutex::default(),
            known,
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
        let requests = self.0.table.lock().flights.values().map(|flight| flight.waiters).sum();
        let counts = self.0.queue.counts();
        FlightCounts {
            running: counts.running.of(WorkClass::Live),
            queued: counts.waiting.of(WorkClass::Live),
            requests,
        }
    }

    /// The cached tile of a flight, if it is fresh: it is of that epoch or a later one, and its lifetime has not passed or the change log is
    /// followed.
    pub(crate) async fn fresh(&self, key: FlightKey) -> Option<CachedForm> {
        self.0.fresh(key).await
    }

    /// True if a cached live tile is fresh.
    pub(crate) fn is_fresh(&self, key: FlightKey, held: &CachedForm) -> bool {
        self.0.is_fresh(key, held)
    }

    /// Begins to render a tile from a database state that shows every change that was known at its epoch, or joins the flight that does so
    /// already.
    ///
    /// # Errors
    /// [`LiveError::JustFailed`] and [`LiveError::Overloaded`].
    pub(crate) fn ask(&self, key: FlightKey, notes: FlightNotes) -> Result<FlightWaiter, LiveError> {
        let shared = &self.0;
        let mut table = shared.table.lock();
        if let Some(flight) = table.flights.get_mut(&key) {
            flight.waiters += 1;
            flight.ticket.into_iter().for_each(|ticket| shared.queue.promote(ticket, notes.client));
            let (number, landed) = (flight.number, flight.landed.clone());
            return Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: true });
        }
        if table.has_just_failed(key) {
            return Err(LiveError::JustFailed);
        }
        let estimate = shared.estimate(notes.client);
        if !shared.queue.has_room(shared.options.queue, notes.client) || estimate > shared.options.timeout {
            shared.metrics.shed();
            return Err(LiveError::Overloaded { retry_after: estimate });
        }
        let (number, landed) = shared.begin(&mut table, FlightStart { key, class: WorkClass::Live, notes });
        Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: false })
    }

    /// Begins to render a tile for which no request waits, unless it is being rendered already, has just failed, or too many tasks of the class wait.
    pub(crate) fn ask_ahead(&self, key: FlightKey, class: WorkClass, shared_key: Option<String>) {
        let shared = &self.0;
        let mut table = shared.table.lock();
        let limit = if class == WorkClass::Neighbour { shared.max_neighbours() } else { shared.options.queue };
        let is_full = shared.queue.counts().waiting.of(class) >= limit;
        if !is_full && !table.flights.contains_key(&key) && !table.has_just_failed(key) {
            let notes = FlightNotes { shared_key, ..FlightNotes::default() };
            shared.begin(&mut table, FlightStart { key, class, notes });
        }
    }

    /// Joins the flight of a tile, if there is one, without making it more urgent.
    pub(crate) fn join(&self, key: FlightKey) -> Option<FlightWaiter> {
        let mut table = self.0.table.lock();
        let flight = table.flights.get_mut(&key)?;
        flight.waiters += 1;
        let (number, landed) = (flight.number, flight.landed.clone());
        Some(FlightWaiter { table: self.0.table.clone(), key, number, landed, is_collapsed: true })
    }

    /// The options.
    pub(crate) fn options(&self) -> &LiveOptions {
        &self.0.options
    }

    /// The tiles that are shared with other servers.
    pub(crate) fn shared(&self) -> Option<&SharedTiles> {
        self.0.shared.as_ref()
    }

    /// True if background work or live requests wait. Then there is no time to render tiles that no client has asked for.
    pub(crate) fn is_busy(&self) -> bool {
        let waiting = self.0.queue.counts().waiting;
        waiting.total() > waiting.of(WorkClass::Neighbour)
    }

    /// Ends every flight, and waits at most [`END_LIMIT`] until the database has ended their statements.
    pub(crate) async fn end(&self) {
        let stops: Vec<Stop> = self.0.table.lock().flights.values().map(|flight| flight.stop.clone()).collect();
        for stop in &stops {
            stop.ask(Signal::Terminate);
        }
        if tokio::time::timeout(END_LIMIT, self.0.queue.idle(&FLIGHT_CLASSES)).await.is_err() {
            tracing::warn!("some tiles are still rendered in the database");
        }
    }
}

impl FlightsShared {
    /// Begins a flight; returns its number and the receiver of its result. A flight of class [`WorkClass::Live`] has one request that waits for it,
    /// others have none. The flight enters the queue at once, unless its tile is first looked up in the shared cache.
    fn begin(self: &Arc<Self>, table: &mut FlightTable, start: FlightStart) -> (u64, watch::Receiver<Option<Landed>>) {
        let FlightStart { key, class, notes: FlightNotes { client, shared_key, given, new_key } } = start;
        table.begun += 1;
        let (tell, landed) = watch::channel(None);
        let (number, stop, is_live) = (table.begun, Stop::new(), class == WorkClass::Live);
        let ticket = if shared_key.is_some() { None } else { Some(self.enters(class, client)) };
        let flight = LiveFlight {
            number,
            ticket: ticket.as_ref().map(WorkTicket::number),
            waiters: usize::from(is_live),
            goes_on: !is_live,
            stop: stop.clone(),
            landed: landed.clone(),
        };
        table.flights.insert(key, flight);
        let plan = FlightPlan { key, number, class, ticket, is_dropped: false, shared_key, given, new_key, client };
        tokio::spawn(flying::fly(Arc::clone(self), plan, stop, tell));
        (number, landed)
    }

    /// Puts a flight of a class into the queue. If too many live ones wait, the client with the most of them makes
    /// room.
    fn enters(&self, class: WorkClass, client: ClientKey) -> WorkTicket {
        match class {
            WorkClass::Live => self.queue.enter_for(client, self.options.queue),
            _ => self.queue.enter(class),
        }
    }

    /// The most neighbours that may wait.
    fn max_neighbours(&self) -> usize {
        self.queue.shares().workers().get() * NEIGHBOURS_PER_WORKER
    }

    async fn fresh(&self, key: FlightKey) -> Option<CachedForm> {
        let held = self.cache.get(key.cached(), Encoding::Gzip).await?;
        self.is_fresh(key, &held).then_some(held)
    }

    fn is_fresh(&self, key: FlightKey, held: &CachedForm) -> bool {
        held.epoch() >= Some(key.epoch) && (held.stale_for().is_none() || self.known.is_followed())
    }

    /// How long a further flight of a client would wait for its worker.
    fn estimate(&self, client: ClientKey) -> Duration {
        let (counts, shares) = (self.queue.counts(), self.queue.shares());
        let workers = shares.workers().get();
        let is_free = counts.running.total() < workers && counts.waiting.of(WorkClass::Live) == 0;
        // Background work keeps the workers that are guaranteed to it.
        let for_background =
            shares.background_guaranteed().min(counts.running.background() + counts.waiting.background());
        let before = (self.queue.ahead_of(client) + usize::from(!is_free)) / (workers - for_background).max(1);
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        mean.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
    }
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
