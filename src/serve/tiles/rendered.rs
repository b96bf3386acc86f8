//! Tiles that the database renders: the fresh tile, or what a client gets that does not wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::cache::{CacheOrigin, CachedTile, EncodedTile};
use super::served::{ServedTiles, StaleTile};
use super::{AskedBy, TileError, TileOrigin};
use crate::cursor::Cursor;
use crate::hex::hex;
use crate::mvt::{TileDescent, overzoomed};
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer::Encoding;
use crate::serve::http::unread::ReservedMemory;
use crate::serve::live::{
    CountRequest, Counted, CountedFor, FlightKey, FlightRequest, LayerCounts, LiveFlights, draws,
};
use crate::serve::parameters::{GivenParameters, KeyCost, KeyGate, NewKey, ParametersKey, TooManyKeys};
use crate::serve::queue::WorkClass;
use crate::serve::target::state::ServedState;
use crate::tile::{Slice, TileCoord, TileId, Zoom};

impl ServedTiles {
    /// The tile rendered by the database, now or a short while ago: with all rows, or those that fulfil the conditions
    /// of `gated`.
    pub(crate) async fn rendered(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        tile: TileId,
        gated: Option<GatedParameters<'_>>,
        asked: AskedBy<'_>,
    ) -> (Result<CachedTile, TileError>, TileOrigin) {
        if let Err(error) = state.is_of(live.source.fingerprint()) {
            if self.unfit.swap(state.generation, Ordering::Relaxed) != state.generation {
                tracing::warn!("live tiles are not rendered: {error}");
            }
            return (Err(TileError::Live(error)), TileOrigin::Live);
        }
        let parameters = gated.map_or_else(ParametersKey::default, |gated| gated.given.key);
        let key = FlightKey { parameters, ..self.live_key(state, tile) };
        let from = key.cached();
        let held = self.held_live(key).await;
        if let Some(held) = held.as_ref().filter(|held| live.is_fresh(key, held)) {
            let origin = if held.way == CacheOrigin::Ahead { TileOrigin::Ahead } else { TileOrigin::Memory };
            return (self.cached_in(from, held, asked).await, origin);
        }
        let client = asked.client;
        let new_key = gated.map(|gated| gated.admits(live, client)).transpose();
        let waiter = new_key.map_err(TileError::TooManyKeys).and_then(|new_key| {
            let given = gated.map(|gated| Arc::clone(gated.given));
            let request = FlightRequest { client, shared_key: shared_key(live, state, key), given, new_key };
            live.ask(key, request).map_err(TileError::Live)
        });
        let (landed, origin) = match waiter {
            Ok(mut waiter) => {
                let origin = if waiter.is_collapsed { TileOrigin::Collapsed } else { TileOrigin::Live };
                // There are no interim tiles with the rows that fulfil some conditions.
                let patience = live.options.answer_within.filter(|_| gated.is_none());
                let landed = if let Some(landed) = within(patience, waiter.landed()).await {
                    landed
                } else if let Some(interim) = self.interim_tile(state, key, asked, held.as_ref()).await {
                    waiter.keep_going();
                    return interim;
                } else {
                    waiter.landed().await
                };
                (landed.map_err(TileError::Live), origin)
            }
            Err(error) => (Err(error), TileOrigin::Live),
        };
        match (landed, held) {
            (Ok(packed), _) => {
                let stored = packed.tile.as_ref().filter(|_| gated.is_none() && !state.covers(tile.coord));
                if let Some(stored) = stored {
                    self.write_back.note(tile.coord, stored.body.len());
                }
                if origin == TileOrigin::Live && gated.is_none() && live.options.neighbours {
                    self.render_neighbours(live, state, tile).await;
                }
                let origin = if packed.way == CacheOrigin::Shared { TileOrigin::Shared } else { origin };
                (self.cached_in(from, &packed, asked).await, origin)
            }
            // A stale tile is better than none.
            (Err(_), Some(held)) => self.stale(key, &held, asked).await,
            (Err(error), None) => (Err(error), origin),
        }
    }

    /// A cached live tile that is stale.
    async fn stale(
        &self,
        key: FlightKey,
        held: &CachedTile,
        asked: AskedBy<'_>,
    ) -> (Result<CachedTile, TileError>, TileOrigin) {
        let age = self.live_age(key, held);
        (self.in_encoding(held, asked).await, TileOrigin::Stale(age))
    }

    /// The cached live tile, fresh or stale, unless it may show another history of the database.
    pub(crate) async fn held_live(&self, key: FlightKey) -> Option<CachedTile> {
        let of_this_history = Some(self.known().epochs().of_this_history());
        self.cache.get(key.cached(), Encoding::Gzip).await.filter(|held| held.epoch() >= of_this_history)
    }

    /// How long a cached live tile has been stale.
    pub(crate) fn live_age(&self, key: FlightKey, held: &CachedTile) -> Duration {
        let outdated = self.known().epochs().moment(key.epoch).elapsed();
        let outdated = (held.epoch() < Some(key.epoch)).then_some(outdated);
        outdated.max(held.stale_for()).unwrap_or_default()
    }

    /// The answer for a stored tile that is stale: the refreshed tile, if there is one. Otherwise the tile is rendered
    /// again, and the client gets at once the latest state that clients have seen: the stored tile or an older
    /// refreshed one.
    pub(crate) async fn answer_stale(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        outdated: StaleTile<'_>,
    ) -> (Result<CachedTile, TileError>, TileOrigin) {
        let StaleTile { tile, asked, stored, age } = outdated;
        let as_stored = |stored| (Ok(stored), TileOrigin::Stale(age.unwrap_or_default()));
        if state.is_of(live.source.fingerprint()).is_err() {
            return as_stored(stored);
        }
        if self.target.replaces_tiles_one_by_one(state) {
            self.staleness.may_be_sent(state, tile, &stored);
        }
        let key = self.live_key(state, tile);
        let from = key.cached();
        let held = self.held_live(key).await;
        let was_refreshed = self.staleness.was_refreshed(state, tile);
        if let Some(fresh) = held.as_ref().filter(|held| live.is_fresh(key, held)) {
            if self.may_see(tile, fresh) {
                return (self.cached_in(from, fresh, asked).await, TileOrigin::Memory);
            }
        } else if held.is_some() || !was_refreshed {
            live.ask_ahead(key, WorkClass::Refresh, shared_key(live, state, key));
            if let Some(patience) = live.options.refresh_patience
                && let Some(mut waiter) = live.join(key)
                && let Some(Ok(packed)) = within(Some(patience), waiter.landed()).await
                && self.may_see(tile, &packed)
            {
                return (self.cached_in(from, &packed, asked).await, TileOrigin::Live);
            }
        }
        // Asked again: while this request waited, another one may have sent a refreshed tile.
        if !self.staleness.was_refreshed(state, tile) {
            // A tile that was rendered earlier may be older than the one that is stored by now.
            return as_stored(stored);
        }
        if let Some(held) = held.filter(|held| self.may_see(tile, held)) {
            return self.stale(key, &held, asked).await;
        }
        // The refreshed tile was evicted, and the stored one is older than what clients have seen.
        let (form, origin) = self.rendered(live, state, tile, None, asked).await;
        if let Ok(form) = &form
            && !self.may_see(tile, form)
        {
            tracing::debug!("tile {tile} is sent in the latest state that can be rendered");
        }
        (form, origin)
    }

    /// Notes that a client sees a live tile instead of the stored one; false if the client must not see it.
    fn may_see(&self, tile: TileId, live: &CachedTile) -> bool {
        live.snapshot().is_some_and(|shown| self.staleness.may_see(tile, shown))
    }

    /// What a client gets that does not wait for the tile any longer: the stale tile, or the content of the nearest
    /// ancestor in the target's scope. `None` if there is neither.
    async fn interim_tile(
        &self,
        state: &Arc<ServedState>,
        key: FlightKey,
        asked: AskedBy<'_>,
        held: Option<&CachedTile>,
    ) -> Option<(Result<CachedTile, TileError>, TileOrigin)> {
        if let Some(held) = held {
            return Some(self.stale(key, held, asked).await);
        }
        let tile = key.tile;
        let above = Around::of(tile).above().find(|above| state.covers(above.coord))?;
        let descent = TileDescent::new(above.coord, tile.coord)?;
        let form = self.stored(state, above, AskedBy { encoding: Encoding::Identity, ..asked }).await.0.ok()?;
        let Some(stored) = form.tile else { return Some((Ok(form), TileOrigin::Ancestor)) };
        let body = stored.body.clone();
        // The tile is a part of its ancestor, so that it has hardly more bytes.
        let format = state.described.format;
        let draw = move |_: &mut ReservedMemory| {
            let drawn = format.redrawn(&stored.body, |mvt| {
                overzoomed(mvt, descent).map_err(|error| TileError::Broken(error.to_string()))
            })?;
            let drawn = (!drawn.is_empty()).then(|| EncodedTile::as_stored(drawn.into()));
            Ok(CachedTile::of_target(drawn))
        };
        // If this drawing fails, the client gets no error, because the tile itself is being rendered.
        let drawn = self.unpacking(asked, &body, body.len(), draw).await.ok()?;
        Some((Ok(drawn), TileOrigin::Ancestor))
    }

    /// Renders the neighbours and children of a tile that a client asked for, if no other work waits.
    async fn render_neighbours(&self, live: &LiveFlights, state: &Arc<ServedState>, tile: TileId) {
        for next in Around::of(tile).ring_and_children() {
            if live.is_busy() {
                return;
            }
            let key = self.live_key(state, next);
            let is_live = !state.covers(next.coord) && draws(live.source.layers(), next.slice, next.coord.zoom());
            if is_live && live.fresh(key).await.is_none() {
                live.ask_ahead(key, WorkClass::Neighbour, shared_key(live, state, key));
            }
        }
    }
}

/// The name of a tile in the cache that servers share; `None` if there is no such cache. The name distinguishes
/// configurations by their fingerprint and by what their parameters mean, and databases by a hash of the database's
/// identity in the manifest. If the manifest has no identity, the hash is that of the whole manifest, which each
/// publication changes.
pub(crate) fn shared_key(live: &LiveFlights, state: &ServedState, key: FlightKey) -> Option<String> {
    let shared = live.shared.as_ref()?;
    let database = state.manifest.as_ref().and_then(|manifest| serde_json::to_string(manifest.database.as_ref()?).ok());
    let origin = database.as_deref().or(state.described.manifest.as_deref()).unwrap_or_default();
    let origin = hex(&Sha256::digest(origin)[..8]);
    let FlightKey { tile, parameters, .. } = key;
    let slice = match tile.slice {
        Slice::Whole => "all".to_owned(),
        Slice::Layer(layer) => layer.0.to_string(),
    };
    // The key of the canonical form of the values, so that servers find what others have rendered, no matter how the
    // values were written.
    let digest = live.source.filters_digest();
    let with = if parameters.is_some() { format!(":{digest}{:032x}", parameters.0) } else { String::new() };
    Some(shared.name(&format!("{}:{origin}:{slice}:{}{with}", live.source.fingerprint(), tile.coord)))
}

/// The result of some work, unless it takes longer than a limit.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

// The tiles around a tile: its ancestors, its neighbours, its children.

/// A tile whose surroundings are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around(TileId);

impl Around {
    pub(crate) const fn of(tile: TileId) -> Around {
        Around(tile)
    }

    fn at(self, zoom: u8, x: u32, y: u32) -> Option<TileId> {
        let coord = TileCoord::new(Zoom::new(zoom)?, x, y)?;
        Some(TileId { coord, slice: self.0.slice })
    }

    /// Its ancestors, the nearest one first.
    pub(crate) fn above(self) -> impl Iterator<Item = TileId> {
        let coord = self.0.coord;
        let zoom = coord.zoom().get();
        (0..zoom)
            .rev()
            .filter_map(move |above| self.at(above, coord.x() >> (zoom - above), coord.y() >> (zoom - above)))
    }

    /// The up to eight tiles of its zoom that touch it, without those beyond the world's edges, then its four children.
    pub(crate) fn ring_and_children(self) -> impl Iterator<Item = TileId> {
        let coord = self.0.coord;
        let (zoom, x, y) = (coord.zoom().get(), coord.x(), coord.y());
        let ring = (-1..=1).flat_map(|right| (-1..=1).map(move |down| [right, down])).filter(|step| *step != [0, 0]);
        let ring = ring
            .filter_map(move |[right, down]| self.at(zoom, x.checked_add_signed(right)?, y.checked_add_signed(down)?));
        let children = (0..4_u32).filter_map(move |child| self.at(zoom + 1, x << 1 | child & 1, y << 1 | child >> 1));
        ring.chain(children)
    }
}

// Tiles of requests that give values for parameters. The database always renders them, because the target only holds
// tiles of all rows.

/// The values of a request, and the gate that limits how many sets of values may be new.
#[derive(Clone, Copy)]
pub(crate) struct GatedParameters<'a> {
    pub(crate) given: &'a Arc<GivenParameters>,
    pub(crate) gate: &'a Arc<KeyGate>,
}

impl GatedParameters<'_> {
    fn admits(self, live: &LiveFlights, client: ClientKey) -> Result<NewKey, TooManyKeys> {
        let cost = if live.source.finds_in_memory(self.given) { KeyCost::Memory } else { KeyCost::Statement };
        self.gate.admits(self.given.key, cost, client)
    }
}

/// A tile with the rows that fulfil some conditions.
pub(crate) struct FilteredTile {
    /// `None` if it is empty.
    pub(crate) tile: Option<EncodedTile>,
    /// The database state that it shows.
    pub(crate) shown: Option<Arc<Cursor>>,
}

impl ServedTiles {
    /// The tile with the rows that fulfil some conditions, for a client.
    pub(crate) async fn tile_with_parameters(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        gated: GatedParameters<'_>,
        asked: AskedBy<'_>,
    ) -> (Result<FilteredTile, TileError>, TileOrigin) {
        let Some(live) = self.live_at(tile) else { return (Err(TileError::OutOfScope), TileOrigin::Empty) };
        let (form, origin) = self.rendered(live, state, tile, Some(gated), asked).await;
        let filtered = |form: CachedTile| FilteredTile { shown: form.snapshot().cloned(), tile: form.tile };
        (form.map(filtered), origin)
    }

    /// The rows of each layer that fulfil the conditions of a request; `None` if no tiles are rendered on request.
    pub(crate) async fn counted(
        &self,
        state: &Arc<ServedState>,
        gated: Option<GatedParameters<'_>>,
        counted: Counted,
        client: ClientKey,
    ) -> Option<Result<Arc<Vec<LayerCounts>>, TileError>> {
        let live = self.live.as_ref()?;
        let counting = async {
            state.is_of(live.source.fingerprint()).map_err(TileError::Live)?;
            let new_key = gated.map(|gated| gated.admits(live, client)).transpose();
            let new_key = new_key.map_err(TileError::TooManyKeys)?;
            let key = gated.map_or_else(ParametersKey::default, |gated| gated.given.key);
            let since = self.known().epochs().last_change();
            let request = CountRequest { counted, given: gated.map(|gated| Arc::clone(gated.given)), since };
            let counting = live.count_once(key, request, CountedFor { client, new_key });
            counting.await.map_err(TileError::Live)
        };
        Some(counting.await)
    }

    /// What renders a tile on request; `None` if nothing does.
    pub(crate) fn live_at(&self, tile: TileId) -> Option<&LiveFlights> {
        self.live.as_ref().filter(|live| draws(live.source.layers(), tile.slice, tile.coord.zoom()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tiles: impl Iterator<Item = TileId>) -> Vec<String> {
        tiles.map(|tile| tile.coord.to_string()).collect()
    }

    fn around(zoom: u8, x: u32, y: u32) -> Around {
        Around::of(TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap().into())
    }

    #[test]
    fn the_surroundings_end_at_the_edges_of_the_world() {
        assert_eq!(names(around(3, 5, 6).above()), ["2/2/3", "1/1/1", "0/0/0"]);
        assert_eq!(names(around(0, 0, 0).above()), Vec::<String>::new());
        let all = names(around(3, 5, 6).ring_and_children());
        assert_eq!(all[..8], ["3/4/5", "3/4/6", "3/4/7", "3/5/5", "3/5/7", "3/6/5", "3/6/6", "3/6/7"]);
        assert_eq!(all[8..], ["4/10/12", "4/11/12", "4/10/13", "4/11/13"]);
        let corner = names(around(1, 1, 0).ring_and_children());
        assert_eq!(corner, ["1/0/0", "1/0/1", "1/1/1", "2/2/0", "2/3/0", "2/2/1", "2/3/1"]);
        assert_eq!(names(around(Zoom::MAX.get(), 0, 0).ring_and_children()).len(), 3);
    }
}
