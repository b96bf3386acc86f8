//! Flights: a flight renders one tile for all requests that wait for it. It waits in the work queue for a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::history::{HistoryMatch, StateHistory};
use super::table::{CountTable, FlightEntry, FlightKey, FlightTable, FlightWaiter, Landed, SharedTable};
use super::{LiveError, LiveRequest, LiveSource, LiveTile};
use crate::cursor::StateInHistory;
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer::Encoding;
use crate::serve::known_changes::KnownChanges;
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::parameters::{GivenParameters, NewKey};
use crate::serve::queue::{WorkClass, WorkPermit, WorkQueue, WorkTicket};
use crate::serve::redis::{RedisEntry, RedisTiles};
use crate::serve::tiles::cache::{CacheOrigin, CachedTile, TileCache};
use crate::stop::{Signal, Stop};

/// How long to wait for the flights at the server's end: cancelling a statement takes a round trip to the database.
const END_LIMIT: Duration = Duration::from_secs(2);

const FLIGHT_CLASSES: [WorkClass; 3] = [WorkClass::Live, WorkClass::Refresh, WorkClass::Neighbour];

/// The most neighbours that wait for each worker.
const NEIGHBOURS_PER_WORKER: usize = 4;

/// The longest `Retry-After` that is sent to a client, in seconds.
const MAX_RETRY_SECONDS: u64 = 30;

/// A flight on its way, from the queue to its result.
struct Flight {
    key: FlightKey,
    number: u64,
    class: WorkClass,
    request: FlightRequest,
    /// Its place in the queue; `None` while it is not there.
    ticket: Option<WorkTicket>,
    /// True if the queue has dropped it once.
    is_dropped: bool,
}

/// What a request knows of its tile in addition to the key.
#[derive(Default)]
pub(crate) struct FlightRequest {
    pub(crate) client: ClientKey,
    /// The tile's name in the cache that servers share.
    pub(crate) shared_key: Option<String>,
    /// The values that the request gives; `None` if it gives none.
    pub(crate) given: Option<Arc<GivenParameters>>,
    /// Counts these values once the rendering begins.
    pub(crate) new_key: Option<NewKey>,
}

/// The parts of the server that all flights of a tileset use.
pub(crate) struct FlightContext {
    pub(crate) source: Arc<dyn LiveSource>,
    /// Takes the rendered tiles.
    pub(crate) cache: TileCache,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: LiveOptions,
    pub(crate) queue: WorkQueue,
    /// The tileset's tiles in the cache that servers share.
    pub(crate) shared: Option<RedisTiles>,
    /// The known changes, which decide whether a cached tile is fresh.
    pub(crate) known: KnownChanges,
}

/// The flights of a tileset, and what they have learnt.
pub(crate) struct FlightState {
    context: FlightContext,
    table: SharedTable,
    /// Which states of shared tiles belong to the history of this database.
    history: StateHistory,
    /// How long a rendering takes, in microseconds: an exponential moving average, in which the last rendering has the
    /// weight 1/8.
    mean_micros: AtomicU64,
    pub(crate) counts: CountTable,
    /// How many flights may wait for what their values choose, without a worker.
    preparing: Semaphore,
    /// True if the source was away at the last rendering, so that only changes of this state are logged, not each tile.
    is_away: AtomicBool,
}

impl std::ops::Deref for FlightState {
    type Target = FlightContext;

    fn deref(&self) -> &FlightContext {
        &self.context
    }
}

/// The flights of a tileset. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveFlights(Arc<FlightState>);

impl std::ops::Deref for LiveFlights {
    type Target = FlightState;

    fn deref(&self) -> &FlightState {
        &self.0
    }
}

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
    pub(crate) fn new(context: FlightContext) -> LiveFlights {
        let preparing = Semaphore::new(context.options.queue.min(Semaphore::MAX_PERMITS));
        LiveFlights(Arc::new(FlightState {
            context,
            preparing,
            table: SharedTable::default(),
            history: StateHistory::default(),
            mean_micros: AtomicU64::new(0),
            counts: CountTable::default(),
            is_away: AtomicBool::new(false),
        }))
    }

    /// The numbers of tiles and requests in flight.
    pub(crate) fn counts(&self) -> FlightCounts {
        let requests = self.table.lock().flights.values().map(|flight| flight.waiters).sum();
        let counts = self.queue.counts();
        FlightCounts {
            running: counts.running.of(WorkClass::Live),
            queued: counts.waiting.of(WorkClass::Live),
            requests,
        }
    }

    /// Begins to render a tile from a database state that shows every change that was known at its epoch, or joins the
    /// flight that does so already.
    /// Fails with [`LiveError::JustFailed`] and [`LiveError::Overloaded`].
    pub(crate) fn ask(&self, key: FlightKey, request: FlightRequest) -> Result<FlightWaiter, LiveError> {
        let shared = &self.0;
        let mut table = shared.table.lock();
        if let Some(flight) = table.flights.get_mut(&key) {
            flight.waiters += 1;
            flight.ticket.into_iter().for_each(|ticket| shared.queue.promote(ticket, request.client));
            let (number, landed) = (flight.number, flight.landed.clone());
            return Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: true });
        }
        if table.has_just_failed(key) {
            return Err(LiveError::JustFailed);
        }
        let estimate = shared.estimate(request.client);
        // Those that prepare will enter the queue.
        let limit = shared.options.queue.saturating_sub(shared.preparing_now());
        if !shared.queue.has_room(limit, request.client) || estimate > shared.options.timeout {
            shared.metrics.count_shed();
            return Err(LiveError::Overloaded { retry_after: estimate });
        }
        let (number, landed) = shared.begin(&mut table, key, WorkClass::Live, request);
        Ok(FlightWaiter { table: shared.table.clone(), key, number, landed, is_collapsed: false })
    }

    /// Begins to render a tile for which no request waits, unless it is being rendered already, has just failed, or too
    /// many tasks of the class wait.
    pub(crate) fn ask_ahead(&self, key: FlightKey, class: WorkClass, shared_key: Option<String>) {
        let shared = &self.0;
        let mut table = shared.table.lock();
        let limit = if class == WorkClass::Neighbour { shared.max_neighbours() } else { shared.options.queue };
        let is_full = shared.queue.counts().waiting.of(class) >= limit;
        if !is_full && !table.flights.contains_key(&key) && !table.has_just_failed(key) {
            let request = FlightRequest { shared_key, ..FlightRequest::default() };
            shared.begin(&mut table, key, class, request);
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

    /// True if background work or live requests wait. Then there is no time to render tiles that no client has asked
    /// for.
    pub(crate) fn is_busy(&self) -> bool {
        let waiting = self.queue.counts().waiting;
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

impl FlightState {
    /// Begins a flight; returns its number and the receiver of its result. A flight of class [`WorkClass::Live`] has
    /// one request that waits for it, others have none. The flight enters the queue at once, unless its tile is first
    /// looked up in the shared cache, or waits for what its values choose.
    fn begin(
        self: &Arc<Self>,
        table: &mut FlightTable,
        key: FlightKey,
        class: WorkClass,
        request: FlightRequest,
    ) -> (u64, watch::Receiver<Option<Landed>>) {
        table.begun += 1;
        let (tell, landed) = watch::channel(None);
        let (number, stop, is_live) = (table.begun, Stop::new(), class == WorkClass::Live);
        let enters_later = request.shared_key.is_some() || request.given.is_some();
        let ticket = if enters_later { None } else { Some(self.enqueue(class, request.client)) };
        let entry = FlightEntry {
            number,
            ticket: ticket.as_ref().map(|ticket| ticket.number),
            waiters: usize::from(is_live),
            goes_on: !is_live,
            stop: stop.clone(),
            landed: landed.clone(),
        };
        table.flights.insert(key, entry);
        let flight = Flight { key, number, class, request, ticket, is_dropped: false };
        tokio::spawn(fly(Arc::clone(self), flight, stop, tell));
        (number, landed)
    }

    /// Puts a flight of a class into the queue. If too many live ones wait, the client with the most of them makes
    /// room.
    fn enqueue(&self, class: WorkClass, client: ClientKey) -> WorkTicket {
        match class {
            WorkClass::Live => self.queue.enter_for(client, self.options.queue),
            _ => self.queue.enter(class),
        }
    }

    /// The most neighbours that may wait.
    fn max_neighbours(&self) -> usize {
        self.queue.shares().workers().get() * NEIGHBOURS_PER_WORKER
    }

    pub(crate) async fn fresh(&self, key: FlightKey) -> Option<CachedTile> {
        let held = self.cache.get(key.cached(), Encoding::Gzip).await?;
        self.is_fresh(key, &held).then_some(held)
    }

    /// True if a cached live tile is of the epoch of `key` or a later one, and its lifetime has not passed or the
    /// change log is followed.
    pub(crate) fn is_fresh(&self, key: FlightKey, held: &CachedTile) -> bool {
        held.epoch() >= Some(key.epoch) && (held.stale_for().is_none() || self.known.is_followed())
    }

    /// How many flights wait for what their values choose.
    fn preparing_now(&self) -> usize {
        self.max_preparing() - self.preparing.available_permits()
    }

    fn max_preparing(&self) -> usize {
        self.options.queue.min(Semaphore::MAX_PERMITS)
    }

    /// How long a further flight of a client would wait for its worker.
    pub(crate) fn estimate(&self, client: ClientKey) -> Duration {
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

// One flight, from the queue to its result.

/// The most times that a tile is rendered because the first state was older than what clients may have seen. The second
/// one is later, unless a standby is behind another one.
const MAX_RENDERINGS: u32 = 3;

/// How long a tile is kept in the shared cache by servers that follow the change log.
const SHARED_LIFE: Duration = Duration::from_secs(24 * 3_600);

impl FlightState {
    async fn compare_history(&self, shown: &StateInHistory) -> HistoryMatch {
        self.history.compare(&self.known, &*self.source, shown).await
    }

    /// Waits for a worker. A task that the queue has dropped enters it again if a request waits for its tile by now.
    async fn permit(&self, flight: &mut Flight) -> Result<WorkPermit, LiveError> {
        loop {
            let mut ticket = match flight.ticket.take() {
                Some(ticket) => ticket,
                None => self.enqueue_again(flight)?,
            };
            if let Some(permit) = ticket.permit().await {
                return Ok(permit);
            }
            if ticket.was_displaced() {
                self.metrics.count_shed();
                return Err(LiveError::Overloaded { retry_after: self.estimate(flight.request.client) });
            }
            flight.is_dropped = true;
        }
    }

    /// Puts a flight into the queue: as a live request if a request waits for it, otherwise with its own class.
    fn enqueue_again(&self, flight: &Flight) -> Result<WorkTicket, LiveError> {
        let mut table = self.table.lock();
        let entry = table.flights.get_mut(&flight.key).filter(|entry| entry.number == flight.number);
        let Some(entry) = entry.filter(|entry| entry.waiters > 0 || !flight.is_dropped) else {
            // The next request for the tile begins another flight.
            table.remove(flight.key, flight.number);
            return Err(LiveError::Abandoned);
        };
        let class = if entry.waiters > 0 { WorkClass::Live } else { flight.class };
        let ticket = self.enqueue(class, flight.request.client);
        entry.ticket = Some(ticket.number);
        Ok(ticket)
    }

    /// The tile from the shared cache, if another server has rendered it from a database state that shows every change
    /// known here, and that this database has in its history. If no change log is followed, the tile must also be
    /// younger than `ttl`.
    async fn look_up_in_redis(&self, flight: &Flight) -> Option<CachedTile> {
        let (shared, name) = self.shared.as_ref().zip(flight.request.shared_key.as_deref())?;
        let max_age = if self.known.is_followed() { None } else { Some(self.options.ttl) };
        let (entry, age) = shared.get(name, max_age).await?;
        let FlightKey { tile, .. } = flight.key;
        match self.compare_history(&entry.shown).await {
            HistoryMatch::Ours => {}
            HistoryMatch::Ahead => {
                self.metrics.count_redis_lookup("ahead");
                return None;
            }
            HistoryMatch::Other => {
                self.metrics.count_redis_lookup("other");
                shared.forget(name, &entry);
                return None;
            }
        }
        let RedisEntry { stored, shown, .. } = entry;
        if !self.known.epochs().takes(tile.coord, &Arc::new(shown.state.clone())) {
            self.metrics.count_redis_lookup("old");
            return None;
        }
        self.metrics.count_redis_lookup("hit");
        let form = CachedTile::of_live(stored, flight.key, shown.state.clone());
        let form = form.kept_for(self.options.ttl.saturating_sub(age), CacheOrigin::Shared);
        Some(self.cache_latest(flight.key, form, &shown).await)
    }

    /// Gives up a flight that has waited too long for a worker. If no request waits for it, that does not count as a
    /// failure of its tile.
    fn too_late(&self, key: FlightKey, number: u64) -> LiveError {
        let mut table = self.table.lock();
        let waits = table.flights.get(&key).is_some_and(|flight| flight.number == number && flight.waiters > 0);
        if waits {
            return LiveError::Late(self.options.timeout);
        }
        table.remove(key, number);
        LiveError::Abandoned
    }

    /// Renders the tile of a flight when a worker is free, and puts it into the cache.
    async fn rendered(self: &Arc<Self>, mut flight: Flight, stop: &Stop) -> Landed {
        let Flight { key, number, .. } = flight;
        // Another flight may have put the tile into the cache after this one's request looked there and before it
        // started.
        if let Some(held) = self.fresh(key).await {
            return Ok(held);
        }
        if let Some(found) = self.look_up_in_redis(&flight).await {
            return Ok(found);
        }
        let since = self.known.epochs().since(key.tile.coord, key.epoch);
        let given = flight.request.given.take();
        let mut request = LiveRequest { tile: key.tile, given, since };
        let limit = self.options.timeout;
        // With too many that wait like this, the others let the database draw.
        if request.given.is_some()
            && let Ok(_waits) = self.preparing.try_acquire()
        {
            flight.request.new_key.take().into_iter().for_each(NewKey::begins);
            tokio::select! {
                () = self.source.prepare(&request, stop) => {}
                _ = stop.wait() => return Err(LiveError::Abandoned),
                () = tokio::time::sleep(limit) => {}
            }
        }
        let permit = tokio::select! {
            permit = self.permit(&mut flight) => permit?,
            _ = stop.wait() => return Err(LiveError::Abandoned),
            () = tokio::time::sleep(limit) => return Err(self.too_late(key, number)),
        };
        let way = if permit.class() == WorkClass::Neighbour { CacheOrigin::Ahead } else { CacheOrigin::Asked };
        let (shared, of_task, begun) = (Arc::clone(self), stop.clone(), Instant::now());
        flight.request.new_key.take().into_iter().for_each(NewKey::begins);
        // Other servers may have answered a later state meanwhile.
        request.since = since.max(self.known.epochs().since(key.tile.coord, key.epoch));
        // The worker becomes free only when the database has ended the tile's statement.
        let rendering = tokio::spawn(async move {
            let rendered = shared.render_not_older(request, &of_task).await;
            drop(permit);
            rendered
        });
        let (done, is_late) = stop.limiting(limit, rendering).await;
        let LiveTile { stored, in_database, shown } = match done {
            Ok(Err(LiveError::Abandoned)) if is_late => Err(LiveError::Late(limit)),
            Ok(rendered) => rendered,
            Err(error) => Err(LiveError::Failed(format!("a thread died: {error}"))),
        }?;
        self.note_time(begun.elapsed());
        self.metrics.count_rendering(begun.elapsed(), in_database);
        if let Some((shared, name)) = self.shared.as_ref().zip(flight.request.shared_key.take()) {
            // If the log is followed, the tile stays fresh until it changes, also beyond `ttl`.
            let life = if self.known.is_followed() { SHARED_LIFE.max(self.options.ttl) } else { self.options.ttl };
            shared.put(name, stored.as_deref(), &shown, life);
        }
        let form = CachedTile::of_live(stored, key, shown.state.clone()).kept_for(self.options.ttl, way);
        if way == CacheOrigin::Ahead {
            self.metrics.count_rendering_ahead();
        }
        Ok(self.cache_latest(key, form, &shown).await)
    }

    /// Caches a tile, and returns the latest one.
    async fn cache_latest(&self, key: FlightKey, form: CachedTile, shown: &StateInHistory) -> CachedTile {
        let of_this_history = self.known.epochs().of_this_history();
        if key.epoch < of_this_history {
            // The database was found to be another one while the tile was in flight.
            return form;
        }
        self.known.add_unconfirmed(shown);
        if form.way != CacheOrigin::Shared {
            self.history.note_own(&self.known, shown);
        }
        if self.cache.get(key.cached(), Encoding::Gzip).await.is_some_and(|held| held.epoch() < Some(of_this_history)) {
            self.cache.forget(key.cached()).await;
        }
        self.cache.keep_live(key, form).await
    }

    /// Renders a tile from a database state that is not older than what clients may have seen of it. Flights of one
    /// tile end in another order than they began, and a snapshot may be taken late: without this, the answer to a later
    /// request could be older than an answer before it.
    async fn render_not_older(&self, request: LiveRequest, stop: &Stop) -> Result<LiveTile, LiveError> {
        let (epochs, coord, mut since) = (self.known.epochs(), request.tile.coord, request.since);
        // Another standby than the one that was asked for changes may be behind it.
        let changes = if request.given.is_some() { epochs.known_changes(coord) } else { Vec::new() };
        for _ in 0..MAX_RENDERINGS {
            let rendered = self.source.render(LiveRequest { since, ..request.clone() }, stop).await?;
            let shown = Arc::new(rendered.shown.state.clone());
            if request.given.is_none() {
                if epochs.try_record_answer(coord, &shown) {
                    return Ok(rendered);
                }
            } else if changes.iter().all(|change| shown.sees_all_of(change)) {
                // Of the tiles with parameters, memory holds the latest state.
                epochs.answers_with_parameters(coord, &shown);
                return Ok(rendered);
            }
            since = Instant::now();
        }
        Err(LiveError::Away(
            "the database shows an older state than clients have seen (a standby that is behind its primary?)"
                .to_owned(),
        ))
    }

    fn note_time(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8);
        let mean = self.mean_micros.load(Ordering::Relaxed);
        let next = if mean == 0 { micros } else { mean - mean / 8 + micros / 8 };
        self.mean_micros.store(next, Ordering::Relaxed);
    }

    /// Logs a failure: once if the source goes away, each time if a tile fails.
    fn log(&self, key: FlightKey, landed: &Landed) {
        match landed {
            Err(LiveError::Away(why)) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!("live tiles cannot be rendered: {why}");
                }
            }
            Err(LiveError::Abandoned) => {}
            // A client's value is no fault of the server.
            Err(error @ LiveError::Refused(_)) => tracing::debug!("tile {}: {error}", key.tile),
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
async fn fly(shared: Arc<FlightState>, flight: Flight, stop: Stop, tell: watch::Sender<Option<Landed>>) {
    let Flight { key, number, .. } = flight;
    let landed = shared.rendered(flight, &stop).await;
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use futures_util::future::BoxFuture;
    use tokio::sync::Notify;

    use super::HistoryMatch;
    use super::*;
    use crate::cursor::{Cursor, NewestLogged, StateInHistory};
    use crate::serve::known_changes::{LiveEpoch, LogFailure, LogLook};
    use crate::serve::live::{LiveLayer, LiveRequest, LiveTile, StateCheck};
    use crate::serve::parameters::ParametersKey;
    use crate::serve::queue::WorkerShares;
    use crate::serve::tiles::cache::{CacheOrigin, CachedTile};
    use crate::tile::{TileCoord, Zoom};

    /// A source that waits until the test releases it; then it fails or returns one byte.
    #[derive(Default)]
    struct Held {
        renders: AtomicUsize,
        go: Notify,
        fails: AtomicBool,
        /// The database states that it shows, one after the other; then the default.
        snapshots: parking_lot::Mutex<std::collections::VecDeque<&'static str>>,
        /// The first transaction that has not begun, when the log's one transaction was, and how often both were asked.
        state: AtomicU64,
        history: AtomicU64,
        states: AtomicUsize,
    }

    impl LiveSource for Held {
        fn fingerprint(&self) -> &'static str {
            ""
        }

        fn layers(&self) -> &[LiveLayer] {
            &[]
        }

        fn ask_about<'a>(&'a self, _: &'a Cursor) -> BoxFuture<'a, Result<StateCheck, LiveError>> {
            self.states.fetch_add(1, Ordering::SeqCst);
            let (state, at) = (self.state.load(Ordering::SeqCst), self.history.load(Ordering::SeqCst));
            let away = || LiveError::Away("as it was told".to_owned());
            let present = (state > 0).then(|| format!("{state}:{state}:").parse().unwrap());
            let newest = NewestLogged::Transaction { xid: 3, at, digest: 7 };
            Box::pin(std::future::ready(present.map(|present| StateCheck { present, newest }).ok_or_else(away)))
        }

        fn render<'a>(&'a self, _: LiveRequest, stop: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>> {
            Box::pin(async {
                self.renders.fetch_add(1, Ordering::SeqCst);
                tokio::select! {
                    () = self.go.notified() => {}
                    _ = stop.wait() => return Err(LiveError::Abandoned),
                }
                if self.fails.load(Ordering::SeqCst) {
                    return Err(LiveError::Failed("as it was told".to_owned()));
                }
                let snapshot = self.snapshots.lock().pop_front().map(|text| text.parse().unwrap());
                let shown = StateInHistory { state: snapshot.unwrap_or_default(), newest: NewestLogged::Nothing };
                Ok(LiveTile { stored: Some(Box::from([7])), in_database: Duration::ZERO, shown })
            })
        }
    }

    fn flights(workers: usize, queue: usize) -> (LiveFlights, Arc<Held>) {
        let (workers, source) = (NonZeroUsize::new(workers).unwrap(), Arc::new(Held::default()));
        let shares = WorkerShares::new(workers, Some(0), Some(0)).unwrap();
        let (timeout, ttl) = (Duration::from_secs(60), Duration::from_secs(60));
        let options = LiveOptions {
            queue,
            timeout,
            ttl,
            answer_within: None,
            expires: Vec::new(),
            refresh_patience: None,
            neighbours: true,
            explain_after: None,
        };
        let context = FlightContext {
            source: Arc::clone(&source) as Arc<dyn LiveSource>,
            cache: TileCache::new(1 << 20),
            metrics: Arc::new(Metrics::new()),
            options,
            queue: WorkQueue::new(shares),
            shared: None,
            known: KnownChanges::default(),
        };
        (LiveFlights::new(context), source)
    }

    fn key(x: u32) -> FlightKey {
        let tile = TileCoord::new(Zoom::new(9).unwrap(), x, 0).unwrap().into();
        FlightKey { epoch: LiveEpoch::default(), tile, parameters: ParametersKey::default() }
    }

    fn on_runtime<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    /// Lets the tasks run until the numbers of running tiles, queued tiles and requests are those given.
    async fn until(flights: &LiveFlights, running: usize, queued: usize, requests: usize) {
        while flights.counts() != (FlightCounts { running, queued, requests }) {
            tokio::task::yield_now().await;
        }
    }

    /// The result of a request for a live tile.
    struct Joined {
        landed: Result<CachedTile, LiveError>,
        is_collapsed: bool,
    }

    async fn tile(flights: &LiveFlights, key: FlightKey) -> Joined {
        match flights.ask(key, FlightRequest::default()) {
            Ok(mut waiter) => Joined { landed: waiter.landed().await, is_collapsed: waiter.is_collapsed },
            Err(error) => Joined { landed: Err(error), is_collapsed: false },
        }
    }

    fn spawned(flights: &LiveFlights, x: u32) -> tokio::task::JoinHandle<Joined> {
        let flights = flights.clone();
        tokio::spawn(async move { tile(&flights, key(x)).await })
    }

    #[test]
    fn a_failure_answers_all_and_the_tile_is_left_alone_for_a_while() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            source.fails.store(true, Ordering::SeqCst);
            let asked: Vec<_> = (0..5).map(|_| spawned(&flights, 1)).collect();
            until(&flights, 1, 0, 5).await;
            source.go.notify_one();
            for joined in asked {
                assert!(matches!(joined.await.unwrap().landed, Err(LiveError::Failed(_))));
            }
            assert!(matches!(tile(&flights, key(1)).await.landed, Err(LiveError::JustFailed)));
            assert_eq!(source.renders.load(Ordering::SeqCst), 1);
            // A tile that has not failed is tried.
            source.fails.store(false, Ordering::SeqCst);
            source.go.notify_one();
            assert!(tile(&flights, key(2)).await.landed.is_ok());
            source.go.notify_one();
            while tile(&flights, key(1)).await.landed.is_err() {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn beyond_the_queue_requests_are_turned_away_and_who_leaves_makes_room() {
        on_runtime(async {
            let (flights, source) = flights(1, 2);
            let asked: Vec<_> = (0..3).map(|x| spawned(&flights, x)).collect();
            until(&flights, 1, 2, 3).await;
            assert!(matches!(tile(&flights, key(9)).await.landed, Err(LiveError::Overloaded { .. })));
            // A request can always join a flight that has started already.
            let joined = spawned(&flights, 2);
            until(&flights, 1, 2, 4).await;
            asked[1].abort();
            until(&flights, 1, 1, 3).await;
            // The running flight ends when the last request that waits for it leaves.
            asked[0].abort();
            until(&flights, 1, 0, 2).await;
            source.go.notify_one();
            assert!(joined.await.unwrap().is_collapsed);
            until(&flights, 0, 0, 0).await;
            assert_eq!(source.renders.load(Ordering::SeqCst), 2, "the one that left the queue was not begun");
        });
    }

    #[test]
    fn a_neighbour_that_is_asked_for_meanwhile_becomes_a_live_request_and_one_flight_renders_it() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            let first = spawned(&flights, 0);
            until(&flights, 1, 0, 1).await;
            for x in [1, 2, 2, 3, 4, 5] {
                flights.ask_ahead(key(x), WorkClass::Neighbour, None);
            }
            let waiting = |class| flights.0.queue.counts().waiting.of(class);
            assert_eq!(waiting(WorkClass::Neighbour), 4, "each once, and no more than four for a worker");
            // A client asks for one of them: it waits as a live request, and the other neighbours are dropped.
            let second = spawned(&flights, 1);
            until(&flights, 1, 1, 2).await;
            assert_eq!(waiting(WorkClass::Neighbour), 0);
            source.go.notify_one();
            assert!(!first.await.unwrap().is_collapsed);
            source.go.notify_one();
            let second = second.await.unwrap();
            assert!(second.is_collapsed && second.landed.unwrap().way == CacheOrigin::Asked);
            until(&flights, 0, 0, 0).await;
            assert_eq!(source.renders.load(Ordering::SeqCst), 2);
            // With nothing else to do a neighbour is rendered, and marked.
            flights.ask_ahead(key(5), WorkClass::Neighbour, None);
            source.go.notify_one();
            while flights.fresh(key(5)).await.is_none() {
                tokio::task::yield_now().await;
            }
            assert!(flights.fresh(key(5)).await.unwrap().way == CacheOrigin::Ahead);
        });
    }

    #[test]
    fn a_request_that_joins_a_flight_which_the_queue_has_dropped_gets_its_tile() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            let first = spawned(&flights, 0);
            until(&flights, 1, 0, 1).await;
            flights.ask_ahead(key(1), WorkClass::Neighbour, None);
            // The queue drops the neighbour before its flight is notified: nothing runs between these two lines.
            let (other, mut joined) = (
                flights.ask(key(2), FlightRequest::default()).unwrap(),
                flights.ask(key(1), FlightRequest::default()).unwrap(),
            );
            until(&flights, 1, 2, 3).await;
            for _ in 0..3 {
                source.go.notify_one();
                tokio::task::yield_now().await;
            }
            drop(first.await.unwrap());
            drop(other);
            while flights.counts().running > 0 && flights.fresh(key(1)).await.is_none() {
                source.go.notify_one();
                tokio::task::yield_now().await;
            }
            assert!(joined.landed().await.is_ok());
        });
    }

    #[test]
    fn a_flight_that_goes_on_is_not_ended_when_its_last_request_leaves() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            let waiter = flights.ask(key(1), FlightRequest::default()).unwrap();
            waiter.keep_going();
            drop(waiter);
            until(&flights, 1, 0, 0).await;
            source.go.notify_one();
            until(&flights, 0, 0, 0).await;
            assert!(flights.fresh(key(1)).await.is_some());
        });
    }

    /// With several standbys behind one address, the one that draws may be behind the one that was asked for changes.
    #[test]
    fn a_filtered_tile_shows_the_changes_that_are_known() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            *source.snapshots.lock() = ["120:120:", "125:125:", "131:131:"].into();
            let epochs = flights.0.known.epochs();
            epochs.mark_changed(Some(&[key(2).tile.coord]), &Arc::new("140:140:".parse().unwrap()));
            epochs.mark_changed(Some(&[key(1).tile.coord]), &Arc::new("130:130:".parse().unwrap()));
            let given = GivenParameters { given: Vec::new(), key: ParametersKey::default() };
            let request = FlightRequest { given: Some(Arc::new(given)), ..FlightRequest::default() };
            let mut waiter = flights.ask(key(1), request).unwrap();
            let releasing = async {
                loop {
                    source.go.notify_one();
                    tokio::task::yield_now().await;
                }
            };
            let landed = tokio::select! {
                landed = waiter.landed() => landed,
                () = releasing => unreachable!(),
            };
            assert_eq!(landed.unwrap().snapshot().unwrap().to_string(), "131:131:");
        });
    }

    /// Snapshots are taken by several tasks at once, so a later flight may get an earlier one.
    #[test]
    fn no_flight_lands_with_an_older_state_than_a_flight_before_it() {
        on_runtime(async {
            let (flights, source) = flights(1, 8);
            *source.snapshots.lock() = ["120:120:", "110:110:", "130:130:"].into();
            source.go.notify_one();
            assert!(tile(&flights, key(1)).await.landed.is_ok());
            let shows = |form: &CachedTile| form.snapshot().unwrap().to_string();
            let (coord, epochs) = (key(1).tile.coord, flights.0.known.epochs());
            epochs.evict_tiles(&[coord]);
            let next =
                FlightKey { epoch: epochs.of(coord, &crate::serve::known_changes::LiveSince::default()), ..key(1) };
            let asked = tokio::spawn({
                let flights = flights.clone();
                async move { tile(&flights, next).await }
            });
            for renders in [2, 3] {
                while source.renders.load(Ordering::SeqCst) < renders {
                    tokio::task::yield_now().await;
                }
                source.go.notify_one();
            }
            assert_eq!(shows(&asked.await.unwrap().landed.unwrap()), "130:130:");
            // A flight that nobody waits for any more may end late.
            let late = CachedTile::of_live(None, next, "125:125:".parse().unwrap());
            assert_eq!(shows(&flights.0.cache.keep_live(next, late).await), "130:130:");
            // One of an older epoch may have got a later state.
            let early = CachedTile::of_live(None, key(1), "140:140:".parse().unwrap());
            let kept = flights.0.cache.keep_live(key(1), early).await;
            assert_eq!((shows(&kept), kept.epoch()), ("140:140:".to_owned(), Some(next.epoch)));
        });
    }

    #[tokio::test]
    async fn a_shared_state_is_taken_only_if_the_database_has_reached_it_in_this_history() {
        use HistoryMatch::{Ahead, Other, Ours};
        let (flights, source) = flights(1, 1);
        let (flights, known) = (&flights.0, flights.0.known.clone());
        let judged = async |xmax: u64, at| {
            let (state, newest) =
                (format!("{xmax}:{xmax}:").parse().unwrap(), NewestLogged::Transaction { xid: 3, at, digest: 7 });
            flights.compare_history(&StateInHistory { state, newest }).await
        };
        assert_eq!(judged(7, 0).await, Ahead, "the database is away");
        source.state.store(10, Ordering::SeqCst);
        assert_eq!((judged(7, 0).await, judged(7, 1).await, judged(11, 0).await), (Ours, Other, Ahead));
        // Another server has rendered a tile a moment ago: that is no reason to refuse it.
        source.state.store(12, Ordering::SeqCst);
        assert_eq!((judged(11, 0).await, judged(13, 0).await), (Ours, Ahead));
        // What is known is not asked again, unless the database was found to be another one.
        let (since, seen, transactions, dirty) =
            (Cursor::default(), "12:12:".parse().unwrap(), Vec::new(), Some(Vec::new()));
        known.record_look(LogLook { since, seen, transactions, dirty, is_other_history: false, begun: Instant::now() });
        let asked = source.states.load(Ordering::SeqCst);
        source.history.store(1, Ordering::SeqCst);
        assert_eq!((judged(11, 0).await, source.states.load(Ordering::SeqCst)), (Ours, asked));
        known.evict_live();
        assert_eq!((judged(11, 0).await, judged(11, 1).await), (Other, Ours));
        // A database that was set back has not reached what it had.
        source.state.store(5, Ordering::SeqCst);
        assert_eq!((judged(13, 1).await, judged(5, 1).await), (Ahead, Ours));
        source.state.store(0, Ordering::SeqCst);
        known.record_failed_look("away".to_owned(), LogFailure::Passing);
        assert_eq!((judged(5, 1).await, judged(4, 1).await), (Ours, Ahead), "the database is away");
    }

    #[tokio::test]
    async fn a_flight_from_before_another_history_is_not_kept() {
        let (flights, source) = flights(1, 1);
        let first = spawned(&flights, 1);
        until(&flights, 1, 0, 1).await;
        flights.0.known.evict_live();
        source.go.notify_one();
        assert!(first.await.unwrap().landed.is_ok());
        assert!(flights.0.cache.get(key(1).cached(), Encoding::Gzip).await.is_none());
    }
}
