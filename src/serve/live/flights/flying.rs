//! One flight, from the queue to its result.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{FlightPlan, FlightsShared};
use crate::serve::live::source::{LiveError, LiveRequest, LiveTile};
use crate::serve::live::table::{FlightKey, Landed};
use crate::serve::parameters::NewKey;
use crate::serve::queue::{WorkClass, WorkPermit, WorkTicket};
use crate::serve::tiles::cache::{CachedForm, CachedWay};
use crate::stop::{Signal, Stop};

/// The longest that a request waits for the present database state before it renders its tile.
const STATE_LIMIT: Duration = Duration::from_millis(50);

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
    /// database has reached. If no change log is followed, the tile must also be younger than `ttl`.
    async fn found_elsewhere(&self, plan: &FlightPlan) -> Option<CachedForm> {
        let (shared, name) = self.shared.as_ref().zip(plan.shared_key.as_deref())?;
        let max_age = if self.known.is_followed() { None } else { Some(self.options.ttl) };
        let (entry, age) = shared.get(name, max_age).await?;
        let FlightKey { tile, .. } = plan.key;
        if !self.has_reached(entry.snapshot.xmax()).await {
            // A database that was set back comes to these transactions again, and they will be others.
            self.metrics.asked_redis("ahead");
            return None;
        }
        if !self.known.epochs().takes(tile.coord, &Arc::new(entry.snapshot.clone())) {
            self.metrics.asked_redis("old");
            return None;
        }
        self.metrics.asked_redis("hit");
        let form = CachedForm::of_live(entry.stored, plan.key, entry.snapshot);
        let form = form.kept_for(self.options.ttl.saturating_sub(age), CachedWay::Shared);
        self.cache.keep_live(plan.key, form.clone()).await;
        Some(form)
    }

    /// True if the database has assigned every transaction before `xmax`. If that is not known, the database is asked now, because another server may
    /// have rendered a tile a moment ago. False if the database does not answer at once.
    pub(super) async fn has_reached(&self, xmax: u64) -> bool {
        let asking = async {
            let mut reached = self.reached.lock().await;
            if xmax > *reached
                && let Ok(now) = self.source.present_state().await
            {
                *reached = now.xmax();
            }
            xmax <= *reached
        };
        tokio::time::timeout(STATE_LIMIT, asking).await.unwrap_or(false)
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
            let rendered = shared.source.render(LiveRequest { tile: key.tile, given, since }, &of_task).await;
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
        let LiveTile { stored, in_database, snapshot } = match done {
            Ok(Err(LiveError::Abandoned)) if is_late => Err(LiveError::Late(limit)),
            Ok(rendered) => rendered,
            Err(error) => Err(LiveError::Failed(format!("a thread died: {error}"))),
        }?;
        self.note_time(begun.elapsed());
        self.metrics.rendered(begun.elapsed(), in_database);
        self.known.epochs().answered(key.tile.coord, &Arc::new(snapshot.clone()));
        if let Some((shared, name)) = self.shared.as_ref().zip(plan.shared_key.take()) {
            // If the log is followed, the tile stays fresh until it changes, also beyond `ttl`.
            let life = if self.known.is_followed() { SHARED_LIFE.max(self.options.ttl) } else { self.options.ttl };
            shared.put(name, stored.as_deref(), &snapshot, life);
        }
        let form = CachedForm::of_live(stored, key, snapshot).kept_for(self.options.ttl, way);
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
