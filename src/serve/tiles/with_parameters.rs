//! Tiles of requests that give values for parameters. The database always renders them, because the target only holds tiles of all rows.

use std::sync::Arc;

use super::rendered::shared_key;
use crate::serve::live::{FlightKey, FlightNotes, draws};
use crate::serve::parameters::{GivenParameters, KeyGate};
use crate::serve::target::state::ServedState;
use crate::serve::tiles::cache::{CachedForm, CachedWay, ServedTile};
use crate::serve::tiles::origin::{AskedBy, TileError, TileOrigin};
use crate::serve::tiles::served::ServedTiles;
use crate::tile::TileId;

/// The values of a request, and the gate that limits how many sets of values may be new.
#[derive(Clone, Copy)]
pub(crate) struct GatedParameters<'a> {
    pub(crate) given: &'a Arc<GivenParameters>,
    pub(crate) gate: &'a Arc<KeyGate>,
}

impl ServedTiles {
    /// The tile with the rows that fulfil some conditions, for a client; `None` if it is empty.
    pub(crate) async fn tile_with(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        gated: GatedParameters<'_>,
        asked: AskedBy,
    ) -> (Result<Option<ServedTile>, TileError>, TileOrigin) {
        let (form, origin) = self.form_with(state, tile, gated, asked).await;
        (form.map(|form| form.tile), origin)
    }

    async fn form_with(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        GatedParameters { given, gate }: GatedParameters<'_>,
        asked: AskedBy,
    ) -> (Result<CachedForm, TileError>, TileOrigin) {
        let drawn =
            |live: &&crate::serve::live::LiveFlights| draws(live.source().layers(), tile.slice, tile.coord.zoom());
        let Some(live) = self.live.as_ref().filter(drawn) else { return (Err(TileError::Beyond), TileOrigin::Empty) };
        if let Some(unfit) = self.unfit(state) {
            return (Err(TileError::Live(unfit)), TileOrigin::Live);
        }
        let key = FlightKey { parameters: given.key, ..self.live_key(state, tile) };
        let held = self.held_live(key).await;
        if let Some(held) = held.as_ref().filter(|held| live.is_fresh(key, held)) {
            return (self.cached_in(key.cached(), held, asked).await, TileOrigin::Memory);
        }
        let client = asked.client;
        let ask = |new_key| {
            let shared_key = shared_key(live, state, key);
            live.ask(key, FlightNotes { client, shared_key, given: Some(Arc::clone(given)), new_key: Some(new_key) })
                .map_err(TileError::Live)
        };
        let (landed, origin) = match gate.admits(given.key, client).map_err(TileError::TooManyKeys).and_then(ask) {
            Ok(mut waiter) => {
                let origin = if waiter.is_collapsed { TileOrigin::Collapsed } else { TileOrigin::Live };
                (waiter.landed().await.map_err(TileError::Live), origin)
            }
            Err(error) => (Err(error), TileOrigin::Live),
        };
        match (landed, held) {
            (Ok(packed), _) => {
                let origin = if packed.way == CachedWay::Shared { TileOrigin::Shared } else { origin };
                (self.cached_in(key.cached(), &packed, asked).await, origin)
            }
            // A stale tile is better than none.
            (Err(_), Some(held)) => {
                let age = self.live_age(key, &held);
                (self.in_encoding(&held, asked).await, TileOrigin::Stale(age))
            }
            (Err(error), None) => (Err(error), origin),
        }
    }
}
