//! One flight, from the queue to its result.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::histories::Judgement;
use super::{FlightPlan, FlightsShared};
use crate::cursor::StateInHistory;
use crate::serve::http::negotiate::Encoding;
use crate::serve::live::source::{LiveError, LiveRequest, LiveTile};
use crate::serve::live::table::{FlightKey, Landed};
use crate::serve::parameters::NewKey;
use crate::serve::queue::{WorkClass, WorkPermit, WorkTicket};
use crate::serve::shared::SharedEntry;
use crate::serve::tiles::cache::{CachedForm, CachedWay};
use crate::stop::{Signal, Stop};

/// The most times that a tile is rendered because the first state was older than what clients may have seen. The second one is later, unless a
/// standby is behind another one.
const MAX_RENDERINGS: u32 = 3;

/// How long a tile is kept in the shared cache by servers that follow the change log.
const SHARED_LIFE: Duration = Duration::from_secs(24 * 3_600);

impl FlightsShared {
    /// Waits for a worker. A task that the queue has dropped enters it again if a request waits for its tile by now.
    async fn permit(&self, plan: &mut FlightPlan) -> Result<WorkPermit, LiveError> {
        loop {
            let mut ticket = match plan.ticket.take() {
                Some(ticket) => ticket,
                None => self.entered(plan)?,
            };
            if let Some(permit) = ticket.permit().await {
                return Ok(permit);
            }
            if ticket.was_displaced() {
                self.metrics.shed();
                return Err(LiveError::Overloaded { retry_after: self.estimate(plan.client) });
            }
            plan.is_dropped = true;
        }
    }

    /// Puts a flight into the queue: as a live request if a request waits for it, otherwise with its own class.
    fn entered(&self, plan: &FlightPlan) -> Result<WorkTicket, LiveError> {
        let mut table = self.table.lock();
        let flight = table.flights.get_mut(&plan.key).filter(|flight| flight.number == plan.number);
        let Some(flight) = flight.filter(|flight| flight.waiters > 0 || !plan.is_dropped) else {
            // The next request for the tile begins another flight.
            table.remove(plan.key, plan.number);
            return Err(LiveError::Abandoned);
        };
        let class = if flight.waiters > 0 { WorkClass::Live } else { plan.class };
        let ticket = self.enters(class, plan.client);
        flight.ticket = Some(ticket.number());
        Ok(ticket)
    }

    /// The tile from the shared cache, if another server has rendered it from a database state that shows every change known here, and that this
    /// database has in its history. If no change log is followed, the tile must also be younger than `ttl`.
    async fn found_elsewhere(&self, plan: &FlightPlan) -> Option<CachedForm> {
        let (shared, name) = self.shared.as_ref().zip(plan.shared_key.as_deref())?;
        let max_age = if self.known.is_followed() { None } else { Some(self.options.ttl) };
        let (entry, age) = shared.get(name, max_age).await?;
        let FlightKey { tile, .. } = plan.key;
        match self.judged(&entry.shown).await {
            Judgement::Ours => {}
            Judgement::Ahead => {
                self.metrics.asked_redis("ahead");
                return None;
            }
            Judgement::Other => {
                self.metrics.asked_redis("other");
                shared.forget(name, &entry);
                return None;
            }
        }
        let SharedEntry { stored, shown, .. } = entry;
        if !self.known.epochs().takes(tile.coord, &Arc::new(shown.state.clone())) {
            self.metrics.asked_redis("old");
            return None;
        }
        self.metrics.asked_redis("hit");
        let form = CachedForm::of_live(stored, plan.key, shown.state.clone());
        let form = form.kept_for(self.options.ttl.saturating_sub(age), CachedWay::Shared);
        Some(self.kept(plan.key, form, &shown).await)
    }

    /// Gives up a flight that has waited too long for a worker. If no request waits for it, that does not count as a failure of its tile.
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
    async fn rendered(self: &Arc<Self>, mut plan: FlightPlan, stop: &Stop) -> Landed {
        let FlightPlan { key, number, .. } = plan;
        // Another flight may have put the tile into the cache after this one's request looked there and before it started.
        if let Some(held) = self.fresh(key).await {
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
        let given = plan.given.take();
        plan.new_key.take().into_iter().for_each(NewKey::begins);
        let since = self.known.epochs().since(key.tile.coord, key.epoch);
        // The worker becomes free only when the database has ended the tile's statement.
        let mut rendering = tokio::spawn(async move {
            let rendered = shared.not_older(LiveRequest { tile: key.tile, given, since }, &of_task).await;
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
        let LiveTile { stored, in_database, shown } = match done {
            Ok(Err(LiveError::Abandoned)) if is_late => Err(LiveError::Late(limit)),
            Ok(rendered) => rendered,
            Err(error) => Err(LiveError::Failed(format!("a thread died: {error}"))),
        }?;
        self.note_time(begun.elapsed());
        self.metrics.rendered(begun.elapsed(), in_database);
        if let Some((shared, name)) = self.shared.as_ref().zip(plan.shared_key.take()) {
            // If the log is followed, the tile stays fresh until it changes, also beyond `ttl`.
            let life = if self.known.is_followed() { SHARED_LIFE.max(self.options.ttl) } else { self.options.ttl };
            shared.put(name, stored.as_deref(), &shown, life);
        }
        let form = CachedForm::of_live(stored, key, shown.state.clone()).kept_for(self.options.ttl, way);
        if way == CachedWay::Ahead {
            self.metrics.rendered_ahead();
        }
        Ok(self.kept(key, form, &shown).await)
    }

    /// Caches a tile, and returns the latest one.
    async fn kept(&self, key: FlightKey, form: CachedForm, shown: &StateInHistory) -> CachedForm {
        let of_this_history = self.known.epochs().of_this_history();
        if key.epoch < of_this_history {
            // The database was found to be another one while the tile was in flight.
            return form;
        }
        self.known.keeps(shown);
        if form.way != CachedWay::Shared {
            self.note_own(shown);
        }
        if self.cache.get(key.cached(), Encoding::Gzip).await.is_some_and(|held| held.epoch() < Some(of_this_history)) {
            self.cache.forget(key.cached()).await;
        }
        self.cache.keep_live(key, form).await
    }

    /// Renders a tile from a database state that is not older than what clients may have seen of it. Flights of one tile end in another order than they
    /// began, and a snapshot may be taken late: without this, the answer to a later request could be older than an answer before it.
    async fn not_older(&self, request: LiveRequest, stop: &Stop) -> Result<LiveTile, LiveError> {
        let mut since = request.since;
        for _ in 0..MAX_RENDERINGS {
            let rendered = self.source.render(LiveRequest { since, ..request.clone() }, stop).await?;
            let (epochs, coord, shown) =
                (self.known.epochs(), request.tile.coord, Arc::new(rendered.shown.state.clone()));
            if request.given.is_some() {
                // Of the tiles with parameters, memory holds the latest state.
                epochs.answers_with_parameters(coord, &shown);
                return Ok(rendered);
            }
            if epochs.answers(coord, &shown) {
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
pub(super) async fn fly(shared: Arc<FlightsShared>, plan: FlightPlan, stop: Stop, tell: watch::Sender<Option<Landed>>) {
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
