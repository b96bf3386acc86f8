//! Tiles that the database renders: the fresh tile, or what a client gets that does not wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::mvt::{TileDescent, overzoomed};
use crate::serve::http::negotiate::Encoding;
use crate::serve::live::{FlightKey, FlightNotes, LiveFlights, draws};
use crate::serve::queue::WorkClass;
use crate::serve::target::state::ServedState;
use crate::serve::tiles::around::Around;
use crate::serve::tiles::cache::{CachedForm, CachedWay, ServedTile};
use crate::serve::tiles::origin::{AskedBy, TileError, TileOrigin};
use crate::serve::tiles::served::{ServedTiles, StaleTile};
use crate::tile::{Slice, TileId};

impl ServedTiles {
    /// The tile rendered by the database, now or a short while ago.
    pub(super) async fn rendered(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        tile: TileId,
        asked: AskedBy,
    ) -> (Result<CachedForm, TileError>, TileOrigin) {
        if let Err(error) = state.is_of(live.source().fingerprint()) {
            if self.unfit.swap(state.generation, Ordering::Relaxed) != state.generation {
                tracing::warn!("live tiles are not rendered: {error}");
            }
            return (Err(TileError::Live(error)), TileOrigin::Live);
        }
        let key = self.live_key(state, tile);
        let from = key.cached();
        let held = self.held_live(key).await;
        if let Some(held) = held.as_ref().filter(|held| live.is_fresh(key, held)) {
            let origin = if held.way == CachedWay::Ahead { TileOrigin::Ahead } else { TileOrigin::Memory };
            return (self.cached_in(from, held, asked).await, origin);
        }
        let older = held.map(|held| {
            let age = self.live_age(key, &held);
            (held, age)
        });
        let (client, shared_key) = (asked.client, shared_key(live, state, key));
        let (landed, origin) = match live.ask(key, FlightNotes { client, shared_key, ..FlightNotes::default() }) {
            Ok(mut waiter) => {
                let origin = if waiter.is_collapsed { TileOrigin::Collapsed } else { TileOrigin::Live };
                if let Some(landed) = within(live.options().answer_within, waiter.landed()).await {
                    (landed, origin)
                } else {
                    if let Some((form, origin)) = self.meanwhile(state, tile, asked, older.as_ref()).await {
                        waiter.keep_going();
                        return (form, origin);
                    }
                    (waiter.landed().await, origin)
                }
            }
            Err(error) => (Err(error), TileOrigin::Live),
        };
        match (landed, older) {
            (Ok(packed), _) => {
                if let Some(stored) = packed.tile.as_ref().filter(|_| !state.covers(tile.coord)) {
                    self.write_back().note(tile.coord, stored.body.len());
                }
                if origin == TileOrigin::Live && live.options().neighbours {
                    self.render_neighbours(live, state, tile).await;
                }
                let origin = if packed.way == CachedWay::Shared { TileOrigin::Shared } else { origin };
                (self.cached_in(from, &packed, asked).await, origin)
            }
            // A stale tile is better than none.
            (Err(_), Some((held, age))) => (self.in_encoding(&held, asked).await, TileOrigin::Stale(age)),
            (Err(error), None) => (Err(TileError::Live(error)), origin),
        }
    }

    /// The cached live tile, fresh or stale, unless it may show another history of the database.
    pub(super) async fn held_live(&self, key: FlightKey) -> Option<CachedForm> {
        let of_this_history = Some(self.known().epochs().of_this_history());
        self.cache.get(key.cached(), Encoding::Gzip).await.filter(|held| held.epoch() >= of_this_history)
    }

    /// How long a cached live tile has been stale.
    pub(super) fn live_age(&self, key: FlightKey, held: &CachedForm) -> Duration {
        let outdated = self.known().epochs().moment(key.epoch).elapsed();
        let outdated = (held.epoch() < Some(key.epoch)).then_some(outdated);
        outdated.max(held.stale_for()).unwrap_or_default()
    }

    /// The answer for a stored tile that is stale: the refreshed tile, if there is one. Otherwise the tile is rendered again, and the client gets at
    /// once the latest state that clients have seen: the stored tile or an older refreshed one.
    pub(super) async fn refreshed(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        outdated: StaleTile,
    ) -> (Result<CachedForm, TileError>, TileOrigin) {
        let StaleTile { tile, asked, stored, age } = outdated;
        let as_stored = |stored| (Ok(stored), TileOrigin::Stale(age.unwrap_or_default()));
        if state.is_of(live.source().fingerprint()).is_err() {
            return as_stored(stored);
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
            if let Some(patience) = live.options().refresh_patience
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
            let age = self.live_age(key, &held);
            return (self.in_encoding(&held, asked).await, TileOrigin::Stale(age));
        }
        // The refreshed tile was evicted, and the stored one is older than what clients have seen.
        let (form, origin) = self.rendered(live, state, tile, asked).await;
        if let Ok(form) = &form
            && !self.may_see(tile, form)
        {
            tracing::debug!("tile {tile} is sent in the latest state that can be rendered");
        }
        (form, origin)
    }

    /// Notes that a client sees a live tile instead of the stored one; false if the client must not see it.
    fn may_see(&self, tile: TileId, live: &CachedForm) -> bool {
        live.snapshot().is_some_and(|shown| self.staleness.may_see(tile, shown))
    }

    /// What a client gets that does not wait for the tile any longer: the stale tile, or the content of the nearest ancestor in the target's scope.
    /// `None` if there is neither.
    async fn meanwhile(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        asked: AskedBy,
        older: Option<&(CachedForm, Duration)>,
    ) -> Option<(Result<CachedForm, TileError>, TileOrigin)> {
        if let Some((held, age)) = older {
            return Some((self.in_encoding(held, asked).await, TileOrigin::Stale(*age)));
        }
        let above = Around::of(tile).above().find(|above| state.covers(above.coord))?;
        let descent = TileDescent::new(above.coord, tile.coord)?;
        let form = self.stored(state, above, AskedBy { encoding: Encoding::Identity, ..asked }).await.0.ok()?;
        let Some(stored) = form.tile else { return Some((Ok(form), TileOrigin::Ancestor)) };
        let body = stored.body.clone();
        let draw = move || overzoomed(&stored.body, descent).map_err(|error| TileError::Broken(error.to_string()));
        // If this drawing fails, the client gets no error, because the tile itself is being rendered.
        let drawn = self.unpacking(asked.client, &body, draw).await.ok()?;
        let drawn = (!drawn.is_empty()).then(|| ServedTile::as_stored(drawn.into()));
        Some((Ok(CachedForm::of_target(drawn)), TileOrigin::Ancestor))
    }

    /// Renders the neighbours and children of a tile that a client asked for, if no other work waits.
    async fn render_neighbours(&self, live: &LiveFlights, state: &Arc<ServedState>, tile: TileId) {
        for next in Around::of(tile).ring_and_children() {
            if live.is_busy() {
                return;
            }
            let key = self.live_key(state, next);
            let is_live = !state.covers(next.coord) && draws(live.source().layers(), next.slice, next.coord.zoom());
            if is_live && live.fresh(key).await.is_none() {
                live.ask_ahead(key, WorkClass::Neighbour, shared_key(live, state, key));
            }
        }
    }
}

/// The name of a tile in the cache that servers share; `None` if there is no such cache. The name distinguishes configurations by their fingerprint,
/// and databases by a hash of the database's identity in the manifest. If the manifest has no identity, the hash is that of the whole manifest, which
/// each publication changes.
pub(super) fn shared_key(live: &LiveFlights, state: &ServedState, key: FlightKey) -> Option<String> {
    let shared = live.shared()?;
    let database = state.manifest.as_ref().and_then(|manifest| serde_json::to_string(manifest.database.as_ref()?).ok());
    let origin = database.as_deref().or(state.described.manifest.as_deref()).unwrap_or_default();
    let origin: String = Sha256::digest(origin).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let FlightKey { tile, parameters, .. } = key;
    let slice = match tile.slice {
        Slice::Whole => "all".to_owned(),
        Slice::Layer(layer) => layer.0.to_string(),
    };
    // The key of the canonical form of the values, so that servers find what others have rendered, no matter how the values were written.
    let with = if parameters.is_some() { format!(":{:032x}", parameters.0) } else { String::new() };
    Some(shared.name(&format!("{}:{origin}:{slice}:{}{with}", live.source().fingerprint(), tile.coord)))
}

/// The result of some work, unless it takes longer than a limit.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}
