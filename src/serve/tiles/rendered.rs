//! Tiles that the database renders: the fresh one, or what a client gets that cannot wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::mvt::{TileDescent, overzoomed};
use crate::serve::http::negotiate::Encoding;
use crate::serve::live::{FlightKey, LiveFlights, draws};
use crate::serve::queue::WorkClass;
use crate::serve::target::served::ServedState;
use crate::serve::tiles::around::Around;
use crate::serve::tiles::cache::{CachedForm, CachedFrom, CachedWay, ServedTile};
use crate::serve::tiles::served::{ServedTiles, StaleTile, TileError, TileOrigin, aside};
use crate::tile::{Slice, TileId};

impl ServedTiles {
    /// The tile rendered by the database, now or a short while ago.
    pub(super) async fn rendered(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        tile: TileId,
        encoding: Encoding,
    ) -> (Result<CachedForm, TileError>, TileOrigin) {
        if let Err(error) = state.is_of(live.source().fingerprint()) {
            if self.unfit.swap(state.generation, Ordering::Relaxed) != state.generation {
                tracing::warn!("live tiles are not rendered: {error}");
            }
            return (Err(TileError::Live(error)), TileOrigin::Live);
        }
        let key = FlightKey { generation: state.generation, tile };
        let from = CachedFrom::Live(key);
        let held = self.cache.get(from, Encoding::Gzip).await;
        let age = held.as_ref().and_then(CachedForm::stale_for);
        if let (Some(held), None) = (&held, age) {
            let origin = if held.way == CachedWay::Ahead { TileOrigin::Ahead } else { TileOrigin::Memory };
            return (self.cached_in(from, held, encoding).await, origin);
        }
        let older = held.zip(age);
        let (landed, origin) = match live.ask(key, state.since, shared_key(live, state, tile)) {
            Ok(mut waiter) => {
                let origin = if waiter.is_collapsed { TileOrigin::Collapsed } else { TileOrigin::Live };
                if let Some(landed) = within(live.options().answer_within, waiter.landed()).await {
                    (landed, origin)
                } else {
                    if let Some((form, origin)) = self.meanwhile(state, tile, encoding, older.as_ref()).await {
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
                if origin == TileOrigin::Live && live.options().neighbours {
                    self.render_neighbours(live, state, tile).await;
                }
                let origin = if packed.way == CachedWay::Shared { TileOrigin::Shared } else { origin };
                (self.cached_in(from, &packed, encoding).await, origin)
            }
            // A tile that was right a while ago is better than none.
            (Err(_), Some((held, age))) => (self.in_encoding(&held, encoding).await, TileOrigin::Stale(age)),
            (Err(error), None) => (Err(TileError::Live(error)), origin),
        }
    }

    /// A stored tile that is stale: the refreshed one, if there is one; otherwise the stored one at once, while it is rendered anew.
    pub(super) async fn refreshed(
        &self,
        live: &LiveFlights,
        state: &Arc<ServedState>,
        expired: StaleTile,
    ) -> (Result<CachedForm, TileError>, TileOrigin) {
        let StaleTile { tile, encoding, stored, age } = expired;
        if state.is_of(live.source().fingerprint()).is_err() {
            return (Ok(stored), TileOrigin::Stale(age));
        }
        let key = FlightKey { generation: state.generation, tile };
        let from = CachedFrom::Live(key);
        let held = self.cache.get(from, Encoding::Gzip).await;
        let held_age = held.as_ref().and_then(CachedForm::stale_for);
        if held.is_none() && self.staleness.was_refreshed(key) {
            // Memory has lost it, and the stored one is older than what clients have seen.
            return self.rendered(live, state, tile, encoding).await;
        }
        if held.is_none() || held_age.is_some() {
            live.ask_ahead(key, state.since, WorkClass::Refresh, shared_key(live, state, tile));
            if let Some(patience) = live.options().refresh_patience
                && let Some(mut waiter) = live.join(key)
                && let Some(Ok(packed)) = within(Some(patience), waiter.landed()).await
            {
                self.staleness.note_refreshed(key);
                return (self.cached_in(from, &packed, encoding).await, TileOrigin::Live);
            }
        }
        let Some(held) = held else { return (Ok(stored), TileOrigin::Stale(age)) };
        self.staleness.note_refreshed(key);
        match held_age {
            None => (self.cached_in(from, &held, encoding).await, TileOrigin::Memory),
            Some(age) => (self.in_encoding(&held, encoding).await, TileOrigin::Stale(age)),
        }
    }

    /// What a client gets that does not wait for the tile any longer: the stale tile, or what the nearest stored tile above shows. `None` if
    /// there is neither.
    async fn meanwhile(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        encoding: Encoding,
        older: Option<&(CachedForm, Duration)>,
    ) -> Option<(Result<CachedForm, TileError>, TileOrigin)> {
        if let Some((held, age)) = older {
            return Some((self.in_encoding(held, encoding).await, TileOrigin::Stale(*age)));
        }
        let above = Around::of(tile).above().find(|above| state.covers(above.coord))?;
        let descent = TileDescent::new(above.coord, tile.coord)?;
        let form = self.stored(state, above, Encoding::Identity).await.0.ok()?;
        let Some(stored) = form.tile else { return Some((Ok(form), TileOrigin::Ancestor)) };
        let _permit = self.unpacks.acquire().await;
        let drawn =
            aside(move || overzoomed(&stored.body, descent).map_err(|error| TileError::Broken(error.to_string())));
        // What cannot be drawn is no reason to answer with an error: the tile itself is on its way.
        let drawn = drawn.await.ok()?;
        let drawn = (!drawn.is_empty()).then(|| ServedTile::as_stored(drawn.into()));
        Some((Ok(CachedForm::of_target(drawn)), TileOrigin::Ancestor))
    }

    /// Renders the tiles around one that was asked for, and those below it, if nothing else is to be done.
    async fn render_neighbours(&self, live: &LiveFlights, state: &Arc<ServedState>, tile: TileId) {
        for next in Around::of(tile).ring_and_children() {
            if live.is_busy() {
                return;
            }
            let key = FlightKey { generation: state.generation, tile: next };
            let is_live = !state.covers(next.coord) && draws(live.source().layers(), next.slice, next.coord.zoom());
            if is_live && self.cache.live(key).await.is_none() {
                live.ask_ahead(key, state.since, WorkClass::Neighbour, shared_key(live, state, next));
            }
        }
    }
}

/// The name of a tile in the cache that servers share; `None` if they share none. It tells configurations apart by their fingerprint, and
/// publications of the target by a hash of what it says about itself: a tile is rendered after the publication that it stands beside.
fn shared_key(live: &LiveFlights, state: &ServedState, tile: TileId) -> Option<String> {
    if !live.is_shared() {
        return None;
    }
    let published = Sha256::digest(state.described.manifest.as_deref().unwrap_or_default());
    let published: String = published.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let slice = match tile.slice {
        Slice::Whole => "all".to_owned(),
        Slice::Layer(layer) => layer.0.to_string(),
    };
    Some(format!("oar-tiles:{}:{published}:{slice}:{}", live.source().fingerprint(), tile.coord))
}

/// The result of some work, unless it takes longer than a limit.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}
