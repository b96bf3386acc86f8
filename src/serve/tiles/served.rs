//! Finds the tile for a request: in the cache, in the target, or by rendering it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::cache::{CacheSource, CachedTile, EncodedTile, TileCache};
use super::{AskedBy, TileError, TileOrigin};
use crate::clock::since_1970;
use crate::cursor::Cursor;
use crate::encode::{DecodeError, MAX_UNPACKED_TILE, claimed_size};
use crate::error::with_causes;
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer::Encoding;
use crate::serve::http::unread::{ReservedMemory, UnreadAnswers};
use crate::serve::known_changes::KnownChanges;
use crate::serve::known_changes::last_changed::TargetMemory;
use crate::serve::live::{FlightCounts, FlightKey, LiveError, LiveFlights, LiveLayer, LiveRowsReport};
use crate::serve::observe::FailureState;
use crate::serve::parameters::ParametersKey;
use crate::serve::target::served::{NoticedChange, ServedTarget};
use crate::serve::target::state::ServedState;
use crate::serve::write_back::WriteBackQueue;
use crate::target::ReadError;
use crate::tile::{LayerId, Slice, TileCoord, TileId};

/// A stored tile that is stale, or that clients have seen in a later state.
pub(crate) struct StaleTile<'a> {
    pub(crate) tile: TileId,
    pub(crate) asked: AskedBy<'a>,
    /// The stored tile, in the encoding that the client accepts.
    pub(crate) stored: CachedTile,
    /// How long it has been stale; `None` if it is not stale, but clients have seen a later state.
    pub(crate) age: Option<Duration>,
}

/// The most tiles that are read from a bucket at once, each by a separate reader. A bucket answers many requests at
/// once; for a file, more readers than cores would only take memory.
const READS_OF_A_BUCKET: usize = 64;
const READS_OF_A_FILE: usize = 8;

/// The most tiles that are read at once from one of many open targets. Together with
/// [`MAX_OPEN_VARIANTS`](crate::serve::tilesets::family::MAX_OPEN_VARIANTS) this bounds the open files.
const READS_OF_A_VARIANT: usize = 2;

/// The most states of the target in which a request looks for its tile, because the target changes in between.
const MAX_STATES: usize = 4;

/// The most tiles that are unpacked at once. In an archive from an unknown source, one tile may take 256 MB.
const UNPACKS: usize = 2;

/// The least room in which a tile is unpacked that has more than it claims.
const MIN_ROOM: usize = 64 << 10;

/// The tiles of a target, with the most requested ones in memory.
#[derive(Clone)]
pub(crate) struct ServedTiles {
    pub(crate) target: Arc<ServedTarget>,
    pub(crate) cache: TileCache,
    /// The answers that clients are slow to read: a client with too many of them gets no further tile.
    unread: UnreadAnswers,
    pub(crate) reads: Arc<Semaphore>,
    unpacks: Arc<Semaphore>,
    pub(crate) live: Option<LiveFlights>,
    /// Records if the target can be read, and why not.
    reading: Arc<FailureState>,
    /// Records if a killed writer has left the target half written, in a commit that this process may not roll back.
    half_written: Arc<FailureState>,
    /// The last generation of the target that live tiles did not fit, so that this is logged once for each generation.
    pub(crate) unfit: Arc<AtomicU64>,
    /// Which stored tiles are stale.
    pub(crate) staleness: Arc<Staleness>,
    /// Live tiles that the writer will store.
    pub(crate) write_back: WriteBackQueue,
}

impl ServedTiles {
    /// The tiles of a target. With `live`, tiles outside of the target's scope are rendered.
    pub(crate) fn new(
        target: Arc<ServedTarget>,
        cache: TileCache,
        unread: UnreadAnswers,
        live: Option<LiveFlights>,
    ) -> ServedTiles {
        let reads = match target.memory {
            TargetMemory::Small => READS_OF_A_VARIANT,
            TargetMemory::Usual if target.needs_polling() => READS_OF_A_BUCKET,
            TargetMemory::Usual => READS_OF_A_FILE,
        };
        let reading = Arc::new(FailureState::new("the target cannot be read", "the target can be read again"));
        let (reads, unpacks) = (Arc::new(Semaphore::new(reads)), Arc::new(Semaphore::new(UNPACKS)));
        let expires = live.as_ref().map(|live| live.options.expires.clone());
        let staleness = Arc::new(Staleness::new(expires.unwrap_or_default(), target.known().clone()));
        let half_written =
            Arc::new(FailureState::new("only memory can answer", "the target is no longer half written"));
        ServedTiles {
            target,
            cache,
            unread,
            reads,
            unpacks,
            live,
            reading,
            half_written,
            unfit: Arc::default(),
            staleness,
            write_back: WriteBackQueue::default(),
        }
    }

    /// The target's present state. While a killed writer's commit cannot be rolled back, this is the state before that
    /// commit: its cached tiles stay valid, and other tiles cannot be read.
    pub(crate) async fn state(&self) -> Result<Arc<ServedState>, TileError> {
        let last = self.target.last();
        if self.target.is_current(&last) {
            // Only a poll shows whether a bucket can be reached.
            if !self.target.needs_polling() {
                self.reading.recovered();
            }
            return Ok(last);
        }
        let target = Arc::clone(&self.target);
        match blocking(move || target.current().map_err(read_error)).await {
            Err(error) if self.is_half_written(&error) => Ok(last),
            current => {
                self.half_written.recovered();
                self.record_readability(current)
            }
        }
    }

    /// True if the error says that a commit is half written; then the log and `/readyz` report it.
    fn is_half_written(&self, error: &TileError) -> bool {
        let is_half_written =
            matches!(error, TileError::Read(error) if matches!(**error, ReadError::HalfWritten { .. }));
        if is_half_written {
            self.half_written.failed(error);
        }
        is_half_written
    }

    /// Reads the description of a target in a bucket again.
    pub(crate) async fn poll(&self) {
        let target = Arc::clone(&self.target);
        // The log and `/readyz` report an error already.
        drop(self.record_readability(blocking(move || target.poll().map_err(read_error)).await));
    }

    /// The changes of the target from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<NoticedChange>> {
        self.target.changes()
    }

    /// True if the target is polled, because its changes are not noticed otherwise.
    pub(crate) fn is_polled(&self) -> bool {
        self.target.needs_polling()
    }

    /// Reads the target's present state now.
    pub(crate) async fn refresh(&self) {
        if self.target.needs_polling() {
            return self.poll().await;
        }
        // The log and `/readyz` report an error already.
        drop(self.state().await);
    }

    /// Records from the result of a read if the target can be read, and returns the result.
    fn record_readability<T>(&self, read: Result<T, TileError>) -> Result<T, TileError> {
        match &read {
            Ok(_) => self.reading.recovered(),
            Err(error) => self.reading.failed(error),
        }
        read
    }

    /// Why the target cannot be read; `None` if it can.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.half_written.reason().or_else(|| self.reading.reason())
    }

    /// The tile of a state, for a client; `None` if the tile is empty.
    pub(crate) async fn tile(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        asked: AskedBy<'_>,
    ) -> (Result<Option<EncodedTile>, TileError>, TileOrigin) {
        let (mut form, mut origin) = self.form(state, tile, asked).await;
        let mut number = state.number;
        for _ in 0..MAX_STATES {
            let is_stored = form.as_ref().is_ok_and(|form| form.snapshot().is_none());
            if !is_stored || self.target.unchanged_since(tile.coord) <= number {
                return (form.map(|form| form.tile), origin);
            }
            // The target has changed since this request began. Other requests may have been answered with that change,
            // or with a later state, so this one must not be answered with less any more.
            let state = self.target.last();
            number = state.number;
            (form, origin) = self.form(&state, tile, asked).await;
        }
        let age = match origin {
            TileOrigin::Stale(age) => age,
            _ => Duration::ZERO,
        };
        (form.map(|form| form.tile), TileOrigin::Stale(age))
    }

    async fn form(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        asked: AskedBy<'_>,
    ) -> (Result<CachedTile, TileError>, TileOrigin) {
        let (form, origin) = self.stored(state, tile, asked).await;
        let form = match form {
            Ok(form) => form,
            Err(error) => return (Err(error), origin),
        };
        let coord = tile.coord;
        let (is_unrendered, is_covered) = (state.is_unrendered(coord), state.covers(coord));
        let live = self.live_at(tile);
        // Clients may have seen a live tile where the target holds a tile by now.
        let is_behind = live.is_some()
            && (!is_covered || state.has_grown_to(coord))
            && self.known().was_seen_later(coord, state.cursor.as_ref());
        if !is_behind && (form.tile.is_some() || is_covered && !is_unrendered) {
            let age = self.staleness.age(state, coord);
            return match (live, age) {
                (Some(live), age) if age.is_some() || self.staleness.was_refreshed(state, tile) => {
                    self.answer_stale(live, state, StaleTile { tile, asked, stored: form, age }).await
                }
                (None, Some(age)) => (Ok(form), TileOrigin::Stale(age)),
                _ if form.tile.is_some() => (Ok(form), origin),
                _ => (Ok(form), TileOrigin::Empty),
            };
        }
        match live {
            Some(live) => self.rendered(live, state, tile, None, asked).await,
            _ if is_unrendered => (Err(TileError::Unrendered), TileOrigin::Empty),
            _ => (Err(TileError::OutOfScope), TileOrigin::Empty),
        }
    }

    /// The tile as the target stores it.
    pub(crate) async fn stored(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        asked: AskedBy<'_>,
    ) -> (Result<CachedTile, TileError>, TileOrigin) {
        if state.stored().is_some_and(|stored| !stored.holds(tile)) {
            return (Ok(CachedTile::of_target(None)), TileOrigin::Empty);
        }
        let since = self.target.unchanged_since(tile.coord);
        let from = CacheSource::State { since, tile };
        // A request that began before a change of its tile neither uses the cache nor fills it.
        let may_be_found = since <= state.number && state.described.unfinished.is_empty();
        if may_be_found && let Some(held) = self.cached_or_found(from, asked).await {
            return (held, TileOrigin::Memory);
        }
        if !may_be_found || !state.may_be_kept() {
            let form = match self.read(state, tile, asked).await {
                Ok(form) => self.in_encoding(&form, asked).await,
                error => error,
            };
            return (form, TileOrigin::Target);
        }
        let read = loop {
            let reading = async {
                // While a tile is replaced in a bucket, the other form may be of the tile before.
                self.cache.forget_form(from, Encoding::Identity).await;
                self.read(state, tile, asked).await
            };
            let read = self.cache.get_or_make(from, Encoding::Gzip, reading).await;
            if !read.as_ref().is_err_and(|error| error.refuses_another(asked.client)) {
                break read;
            }
        };
        let form = match read {
            Ok(packed) => self.cached_in(from, &packed, asked).await,
            error => error,
        };
        (form, TileOrigin::Target)
    }

    /// The tile from the cache; if the cache holds it in another encoding only, it is converted.
    async fn cached_or_found(&self, from: CacheSource, asked: AskedBy<'_>) -> Option<Result<CachedTile, TileError>> {
        if let Some(held) = self.cache.get(from, asked.encoding).await {
            return Some(Ok(held));
        }
        if asked.encoding == Encoding::Gzip {
            return None;
        }
        let packed = self.cache.get(from, Encoding::Gzip).await?;
        Some(self.cached_in(from, &packed, asked).await)
    }

    /// The tile in another encoding, which is cached in addition to the stored form.
    pub(crate) async fn cached_in(
        &self,
        from: CacheSource,
        packed: &CachedTile,
        asked: AskedBy<'_>,
    ) -> Result<CachedTile, TileError> {
        if asked.encoding == Encoding::Gzip || !packed.is_packed() {
            return Ok(packed.clone());
        }
        let found = loop {
            let found = self.cache.get_or_make(from, asked.encoding, self.in_encoding(packed, asked)).await;
            if !found.as_ref().is_err_and(|error| error.refuses_another(asked.client)) {
                break found?;
            }
        };
        if found.shows_the_same(packed) {
            return Ok(found);
        }
        // The cached form is of an older tile.
        let made = self.in_encoding(packed, asked).await?;
        self.cache.replace(from, asked.encoding, made.clone()).await;
        Ok(made)
    }

    /// The tile in the encoding that a client accepts.
    pub(crate) async fn in_encoding(&self, packed: &CachedTile, asked: AskedBy<'_>) -> Result<CachedTile, TileError> {
        let stored = match &packed.tile {
            Some(stored) if asked.encoding == Encoding::Identity && packed.is_packed() => stored,
            _ => return Ok(packed.clone()),
        };
        let packed = packed.clone();
        let (client, mut most) = (asked.client, claimed_size(&stored.body));
        let unpack = move |reserved: &mut ReservedMemory| loop {
            match packed.unpacked(most) {
                // It has more than it claims.
                Err(DecodeError::TooLarge(_)) if most < MAX_UNPACKED_TILE => {
                    most = (most * 2).clamp(MIN_ROOM, MAX_UNPACKED_TILE);
                    if !reserved.grow_to(most) {
                        return Err(TileError::TooMuchUnread(client));
                    }
                }
                unpacked => return unpacked.map_err(|error| TileError::Broken(error.to_string())),
            }
        };
        self.unpacking(asked, &stored.body, most, unpack).await
    }

    /// Waits for a permit to put a tile into memory for a client.
    ///
    /// Whether the client may have it is asked here, and not only when its request arrives: of the requests that arrive
    /// together none has an answer yet, so that all of them would be let through.
    /// Fails if the client leaves too many answers unread by then.
    async fn permit(&self, of: &Arc<Semaphore>, client: ClientKey) -> Result<Option<OwnedSemaphorePermit>, TileError> {
        let permit = Arc::clone(of).acquire_owned().await;
        if self.unread.refuses(client) {
            return Err(TileError::TooMuchUnread(client));
        }
        // The semaphore is never closed.
        Ok(permit.ok())
    }

    /// Runs work that unpacks or redraws a tile for a client. While the work waits for others, the tile's bytes count
    /// as unread; from then on `size` bytes count, and what the work makes, until its answer is sent.
    /// Fails if the client leaves too many answers unread, or the work fails.
    pub(crate) async fn unpacking(
        &self,
        asked: AskedBy<'_>,
        bytes: &Bytes,
        size: usize,
        work: impl FnOnce(&mut ReservedMemory) -> Result<CachedTile, TileError> + Send + 'static,
    ) -> Result<CachedTile, TileError> {
        let client = asked.client;
        let permit = self.unread.while_held(client, bytes, self.permit(&self.unpacks, client)).await;
        let permit = permit.unwrap_or(Err(TileError::TooMuchUnread(client)))?;
        // A client that holds nothing else gets a tile of any size, and the packed tile is nothing else.
        asked.reserved.keep(None);
        let mut reserved = self.unread.reserved_for(client);
        if !reserved.grow_to(size) {
            return Err(TileError::TooMuchUnread(client));
        }
        // The work goes on if the client resets its request meanwhile: the permit and the memory are the work's.
        let (made, hold) = blocking(move || {
            let made = work(&mut reserved)?;
            let is_counted = made.tile.as_ref().is_none_or(|tile| reserved.becomes(&tile.body));
            drop(permit);
            if is_counted { Ok((made, reserved.into_hold())) } else { Err(TileError::TooMuchUnread(client)) }
        })
        .await?;
        asked.reserved.keep(hold);
        Ok(made)
    }

    async fn read(&self, state: &Arc<ServedState>, tile: TileId, asked: AskedBy<'_>) -> Result<CachedTile, TileError> {
        let (target, state, client) = (Arc::clone(&self.target), Arc::clone(state), asked.client);
        let permit = self.permit(&self.reads, client).await?;
        let mut reserved = self.unread.reserved_for(client);
        let read = blocking(move || {
            let stored = target.read(&state, tile).map_err(read_error)?;
            let form = CachedTile::of_target(stored.map(EncodedTile::as_stored));
            // Nobody knows the size of a tile before it is read. It counts before another one is read instead.
            let is_counted = form.tile.as_ref().is_none_or(|tile| reserved.becomes(&tile.body));
            drop(permit);
            Ok((form, is_counted.then_some(reserved)))
        })
        .await;
        // A bucket may be unreachable. If a file exists and cannot be read, it is broken at this tile.
        let (form, reserved) = match read {
            read if self.target.needs_polling() => self.record_readability(read)?,
            Ok(read) => {
                self.half_written.recovered();
                read
            }
            Err(error) => {
                if !self.is_half_written(&error) {
                    warn(tile, &error);
                }
                return Err(error);
            }
        };
        asked.reserved.keep(reserved.ok_or(TileError::TooMuchUnread(client))?.into_hold());
        Ok(form)
    }

    /// What this server knows of the change log.
    pub(crate) fn known(&self) -> &KnownChanges {
        self.target.known()
    }

    /// The key of a live tile that is served together with a state of the target; its epoch says how new the tile must
    /// be.
    pub(crate) fn live_key(&self, state: &ServedState, tile: TileId) -> FlightKey {
        let epoch = self.known().epochs().of(tile.coord, &state.live_since);
        FlightKey { epoch, tile, parameters: ParametersKey::default() }
    }

    /// The state that was read last.
    pub(crate) fn last(&self) -> Arc<ServedState> {
        self.target.last()
    }

    /// Why live tiles do not fit the target's present tiles; `None` if they do.
    pub(crate) fn unfit(&self, state: &ServedState) -> Option<LiveError> {
        state.is_of(self.live.as_ref()?.source.fingerprint()).err()
    }

    /// The layers that are rendered on request; `None` if none are.
    pub(crate) fn live_layers(&self) -> Option<&[LiveLayer]> {
        self.live.as_ref().map(|live| live.source.layers())
    }

    /// The number of open database sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.source.sessions())
    }

    /// The rows that are kept for live tiles; `None` if there are no such tiles.
    pub(crate) fn live_rows(&self) -> Option<LiveRowsReport> {
        self.live.as_ref()?.source.rows()
    }

    /// The numbers of tiles and requests in flight; `None` if no tiles are rendered on request.
    pub(crate) fn live_counts(&self) -> Option<FlightCounts> {
        self.live.as_ref().map(LiveFlights::counts)
    }

    /// Evicts cached tiles, stored and live ones.
    pub(crate) async fn evict(&self, tiles: &[TileCoord]) {
        let state = self.target.last();
        let layers = if state.template.layers_apart() { state.described.vector_layers.len() } else { 0 };
        let layers = (0..layers).filter_map(|layer| Some(Slice::Layer(LayerId(u16::try_from(layer).ok()?))));
        let slices: Vec<Slice> = std::iter::once(Slice::Whole).chain(layers).collect();
        // The parameter values of cached live tiles are not known here, so a new epoch makes all of them stale.
        self.known().epochs().evict_tiles(tiles);
        for coord in tiles {
            for slice in &slices {
                let tile = TileId { coord: *coord, slice: *slice };
                let since = self.target.unchanged_since(*coord);
                self.cache.forget(CacheSource::State { since, tile }).await;
                self.cache.forget(CacheSource::Live { tile, parameters: ParametersKey::default() }).await;
            }
        }
    }

    pub(crate) fn evict_all(&self) {
        self.cache.forget_all();
    }

    pub(crate) async fn end(&self) {
        if let Some(live) = &self.live {
            live.end().await;
            live.source.end().await;
        }
    }
}

fn warn(tile: TileId, error: &TileError) {
    tracing::warn!("tile {tile}: {}", with_causes(error));
}

fn read_error(error: ReadError) -> TileError {
    TileError::Read(Arc::new(error))
}

/// Runs a blocking function on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TileError> + Send + 'static,
) -> Result<T, TileError> {
    tokio::task::spawn_blocking(work).await?
}

// Which stored tiles are stale: those with a change in the change log that the target does not show, and those whose
// run is older than `expires` allows. It also knows which tiles clients have seen in a later state than the stored one.

/// The most tiles that are sent in a later state than the stored one. Further tiles are sent as stored until the target
/// shows their changes.
const MAX_REFRESHED: usize = 200_000;

/// Decides whether a stored tile is stale, and whether it may be sent.
pub(crate) struct Staleness {
    /// By zoom: how old a stored tile may become.
    expires: Vec<Option<Duration>>,
    known: KnownChanges,
    /// The database states in which clients have seen tiles that are stored in an older one.
    refreshed: Mutex<HashMap<TileId, Arc<Cursor>>>,
    /// False while `refreshed` is empty, so that requests need not lock it.
    any_is_refreshed: AtomicBool,
    /// The stale tiles that clients were sent last as they are stored; only for targets whose tiles are replaced one by
    /// one.
    sent: Mutex<HashMap<TileId, SentContent>>,
}

/// The number of the target's state, and the hash of the tile's content (`None` for an empty tile).
type SentContent = (u64, Option<Box<str>>);

impl Staleness {
    /// Tiles become stale by the known changes, and by their age (`expires`, by zoom).
    pub(crate) fn new(expires: Vec<Option<Duration>>, known: KnownChanges) -> Staleness {
        Staleness {
            expires,
            known,
            refreshed: Mutex::default(),
            any_is_refreshed: AtomicBool::new(false),
            sent: Mutex::default(),
        }
    }

    /// Notes that a client may be sent a stale tile as it is stored, by a target whose tiles are replaced one by one. A
    /// run that goes on may have replaced it, so that it shows more than the target's state says. If no client was sent
    /// this content before, live tiles that were rendered before this moment are evicted: they may show less.
    pub(crate) fn may_be_sent(&self, state: &ServedState, tile: TileId, stored: &CachedTile) {
        let mut sent = self.sent.lock();
        let (number, hash) = (state.number, stored.tile.as_ref().map(EncodedTile::hash));
        let is_known = sent.get(&tile).is_some_and(|(of, sent)| *of == number && sent.as_deref() == hash);
        if !is_known {
            if sent.len() >= MAX_REFRESHED {
                sent.retain(|_, (of, _)| *of == number);
            }
            if sent.len() >= MAX_REFRESHED {
                // Too many to note: live tiles are not evicted over and over.
                return;
            }
            sent.insert(tile, (number, hash.map(Box::from)));
            self.known.epochs().evict_tiles(&[tile.coord]);
        }
    }

    /// How long a stored tile has been stale; `None` if it is not stale.
    pub(crate) fn age(&self, state: &ServedState, tile: TileCoord) -> Option<Duration> {
        self.known.dirty_for(tile).max(self.expired_for(state, tile))
    }

    /// How long a stored tile has been older than `expires`; `None` if it is not older.
    fn expired_for(&self, state: &ServedState, tile: TileCoord) -> Option<Duration> {
        let expires = (*self.expires.get(usize::from(tile.zoom().get()))?)?;
        let started = Duration::from_secs(state.manifest.as_ref()?.started);
        since_1970(SystemTime::now()).checked_sub(started + expires)
    }

    /// Notes that a client sees a tile in a later database state than the stored one: later answers must not be older.
    /// False if the client must not see it: clients have seen a later state, or there is no room for a further tile.
    pub(crate) fn may_see(&self, tile: TileId, shown: &Arc<Cursor>) -> bool {
        let mut refreshed = self.refreshed.lock();
        if refreshed.len() >= MAX_REFRESHED && !refreshed.contains_key(&tile) {
            return false;
        }
        let seen = refreshed.entry(tile).or_insert_with(|| Arc::clone(shown));
        if !shown.sees_all_of(seen) {
            return false;
        }
        *seen = Arc::clone(shown);
        self.any_is_refreshed.store(true, Ordering::Release);
        true
    }

    /// True if a client may have seen a tile in a later state than the stored one.
    pub(crate) fn was_refreshed(&self, state: &ServedState, tile: TileId) -> bool {
        if !self.any_is_refreshed.load(Ordering::Acquire) {
            return false;
        }
        let mut refreshed = self.refreshed.lock();
        let Some(seen) = refreshed.get(&tile) else { return false };
        let is_as_new = state.cursor.as_ref().is_some_and(|stored| {
            // The target may show an older state than the client has seen, but still every change that touches the
            // tile.
            stored.sees_all_of(seen) || self.known.is_unchanged(tile.coord, stored, seen)
        });
        if is_as_new {
            refreshed.remove(&tile);
            self.any_is_refreshed.store(!refreshed.is_empty(), Ordering::Release);
            return false;
        }
        true
    }
}
