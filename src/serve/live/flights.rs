//! Flights: each tile is rendered once, however many requests wait for it. A flight waits in the queue of work for its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::source::{LiveError, LiveSource, LiveTile};
use super::table::{FlightKey, FlightTable, FlightWaiter, Landed, LiveFlight, SharedTable};
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::queue::{WorkClass, WorkPermit, WorkQueue, WorkTicket};
use crate::serve::shared::SharedCache;
use crate::serve::tiles::cache::{CachedForm, CachedWay, TileCache};
use crate::stop::{Signal, Stop};

/// How long to wait for the flights at the server's end: cancelling a statement takes a round trip to the database.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The classes of work that are flights.
const FLIGHT_CLASSES: [WorkClass; 3] = [WorkClass::Live, WorkClass::Refresh, WorkClass::Neighbour];

/// The most neighbours that wait for each worker.
const NEIGHBOURS_PER_WORKER: usize = 4;

/// The longest `Retry-After` that a client is told, in seconds.
const MAX_RETRY_SECONDS: u64 = 30;

/// What a flight needs to start.
struct FlightPlan {
    key: FlightKey,
    number: u64,
    since: Instant,
    class: WorkClass,
    /// Its place in the queue; `None` while it is not there.
    ticket: Option<WorkTicket>,
    /// True if the queue has dropped it once.
    is_dropped: bool,
    /// Its key in the shared cache.
    shared_key: Option<String>,
}

/// What is to be rendered, and why.
struct FlightStart {
    key: FlightKey,
    since: Instant,
    class: WorkClass,
    shared_key: Option<String>,
}

struct FlightsShared {
    source: Arc<dyn LiveSource>,
    cache: TileCache,
    metrics: Arc<Metrics>,
    options: LiveOptions,
    table: SharedTable,
    queue: WorkQueue,
    shared: Option<SharedCache>,
    /// How long a rendering takes, in microseconds: an exponential moving average, in which the last rendering has the weight 1/8.
    mean_micros: AtomicU64,
    /// True if the source was away at the last rendering, so that only changes of this state are logged, not each tile.
    is_away: AtomicBool,
}

/// The flights of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveFlights(Arc<FlightsShared>);

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

impl LiveFlights {
    /// Flights for tiles of a source; none has started. Their results are put into the cache.
    pub(crate) fn new(
        source: Arc<dyn LiveSource>,
        cache: TileCache,
        metrics: Arc<Metrics>,
        options: LiveOptions,
        queue: WorkQueue,
        shared: Option<SharedCache>,
    ) -> LiveFlights {
        LiveFlights(Arc::new(FlightsShared {
            source,
            cache,
            metrics,
            options,
            table: SharedTable::default(),
            queue,
            shared,
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

    /// Begins to render a tile from a database state after `since`, the moment at which its generation was seen first, or joins the flight
    /// that does so already. `shared_key` is its name in the shared cache.
    ///
    /// # Errors
    /// [`LiveError::JustFailed`] and [`LiveError::Overloaded`].
    pub(crate) fn ask(
        &self,
        key: FlightKey,
        since: Instant,
        shared_key: Option<String>,
    ) -> Result<FlightWaiter, LiveError> {
        let shared = &self.0;
        let mut table = shared.table.lock();
        if let Some(flight) = table.flights.get_mut(&key) {
            flight.waiters += 1;
            flight.ticket.into_iter().for_each(|ticket| shared.queue.promote(ticket));
            let (number, landed) = (flight.number, flight.landed.clone());
            return Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: true });
        }
        if table.has_just_failed(key) {
            return Err(LiveError::JustFailed);
        }
        let estimate = shared.estimate();
        if !shared.queue.has_room(shared.options.queue) || estimate > shared.options.timeout {
            shared.metrics.shed();
            return Err(LiveError::Overloaded { retry_after: estimate });
        }
        let (number, landed) = shared.begin(&mut table, FlightStart { key, since, class: WorkClass::Live, shared_key });
        Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: false })
    }

    /// Begins to render a tile for which nobody waits, unless it is rendered already, has just failed, or too many tasks of the class wait.
    pub(crate) fn ask_ahead(&self, key: FlightKey, since: Instant, class: WorkClass, shared_key: Option<String>) {
        let shared = &self.0;
        let mut table = shared.table.lock();
        let limit = if class == WorkClass::Neighbour { shared.max_neighbours() } else { shared.options.queue };
        let is_full = shared.queue.counts().waiting.of(class) >= limit;
        if !is_full && !table.flights.contains_key(&key) && !table.has_just_failed(key) {
            shared.begin(&mut table, FlightStart { key, since, class, shared_key });
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

    /// True if tiles are shared with other servers.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// True if background work waits, or live requests do: no time for tiles that nobody has asked for.
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
    /// Begins a flight; gives its number, and where its result will be. One of class [`WorkClass::Live`] has one request that waits for it,
    /// others have none. It enters the queue at once, unless it is looked for in the shared cache first.
    fn begin(self: &Arc<Self>, table: &mut FlightTable, start: FlightStart) -> (u64, watch::Receiver<Option<Landed>>) {
        let FlightStart { key, since, class, shared_key } = start;
        table.begun += 1;
        let (tell, landed) = watch::channel(None);
        let (number, stop, is_live) = (table.begun, Stop::new(), class == WorkClass::Live);
        let ticket = if shared_key.is_some() { None } else { Some(self.queue.enter(class)) };
        let flight = LiveFlight {
            number,
            ticket: ticket.as_ref().map(WorkTicket::number),
            waiters: usize::from(is_live),
            goes_on: !is_live,
            stop: stop.clone(),
            landed: landed.clone(),
        };
        table.flights.insert(key, flight);
        let plan = FlightPlan { key, number, since, class, ticket, is_dropped: false, shared_key };
        tokio::spawn(fly(Arc::clone(self), plan, stop, tell));
        (number, landed)
    }

    /// The most neighbours that may wait.
    fn max_neighbours(&self) -> usize {
        self.queue.shares().workers().get() * NEIGHBOURS_PER_WORKER
    }

    /// Waits for a worker. A task that the queue has dropped enters it again if somebody waits for its tile by now.
    async fn permit(&self, plan: &mut FlightPlan) -> Result<WorkPermit, LiveError> {
        loop {
            let mut ticket = match plan.ticket.take() {
                Some(ticket) => ticket,
                None => self.entered(plan)?,
            };
            if let Some(permit) = ticket.permit().await {
                return Ok(permit);
            }
            plan.is_dropped = true;
        }
    }

    /// Puts a flight into the queue: as a live request if somebody waits for it.
    fn entered(&self, plan: &FlightPlan) -> Result<WorkTicket, LiveError> {
        let mut table = self.table.lock();
        let flight = table.flights.get_mut(&plan.key).filter(|flight| flight.number == plan.number);
        let Some(flight) = flight.filter(|flight| flight.waiters > 0 || !plan.is_dropped) else {
            // The next request for the tile begins another flight.
            table.remove(plan.key, plan.number);
            return Err(LiveError::Abandoned);
        };
        let ticket = self.queue.enter(if flight.waiters > 0 { WorkClass::Live } else { plan.class });
        flight.ticket = Some(ticket.number());
        Ok(ticket)
    }

    /// The tile from the shared cache, if another server has rendered it a short while ago.
    async fn found_elsewhere(&self, plan: &FlightPlan) -> Option<CachedForm> {
        let (shared, name) = self.shared.as_ref().zip(plan.shared_key.as_deref())?;
        let (entry, age) = shared.get(name, self.options.ttl).await?;
        let fresh_until = Instant::now() + self.options.ttl.saturating_sub(age);
        let form = CachedForm::of_live(entry.stored, fresh_until, CachedWay::Shared);
        self.cache.keep_live(plan.key, form.clone()).await;
        Some(form)
    }

    /// Gives up a flight that has waited too long for a worker. That nobody waits for it is no failure of its tile.
    fn too_late(&self, key: FlightKey, number: u64) -> LiveError {
        let mut table = self.table.lock();
        let waits = table.flights.get(&key).is_some_and(|flight| flight.number == number && flight.waiters > 0);
        if waits {
            return LiveError::Late(self.options.timeout);
        }
        table.remove(key, number);
        LiveError::Abandoned
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
    async fn rendered(self: &Arc<Self>, mut plan: FlightPlan, stop: &Stop) -> Landed {
        let FlightPlan { key, number, since, .. } = plan;
        // Another flight may have put the tile into the cache after this one's request looked there and before it started.
        if let Some(held) = self.cache.live(key).await {
            return Ok(held);
        }
        if let Some(found) = self.found_elsewhere(&plan).await {
            return Ok(found);
        }
        let limit = self.options.timeout;
        let permit = tokio::select! {
            permit = self.permit(&mut plan) => permit?,
            _ = stop.wait() => return Err(LiveError::Abandoned),
            () = tokio::time::sleep(limit) => return Err(self.too_late(key, number)),
        };
        let way = if permit.class() == WorkClass::Neighbour { CachedWay::Ahead } else { CachedWay::Asked };
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
        if let Some((shared, name)) = self.shared.as_ref().zip(plan.shared_key.take()) {
            shared.put(name, stored.as_deref(), self.options.ttl);
        }
        let form = CachedForm::of_live(stored, Instant::now() + self.options.ttl, way);
        if way == CachedWay::Ahead {
            self.metrics.rendered_ahead();
        }
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
        let mut table = shared.table.lock();
        table.remove(key, number);
        if matches!(landed, Err(LiveError::Failed(_) | LiveError::Away(_) | LiveError::Late(_))) {
            table.note_failure(key);
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
