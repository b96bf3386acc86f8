//! How many rows of each layer a request chooses. They are counted on request, once a worker is free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::LiveError;
use super::flights::LiveFlights;
use super::table::KeptCount;
use crate::serve::http::address::ClientKey;
use crate::serve::parameters::{GivenParameters, NewKey, ParametersKey};
use crate::stop::{Signal, Stop};
use crate::tile::LonLatBox;

/// The rows that a layer has under the values of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCounts {
    /// The layer's name.
    pub layer: String,
    pub count: u64,
    /// The box in which they lie; `None` without rows.
    pub bounds: Option<LonLatBox>,
    /// The values of parameters, if they are counted.
    pub values: Vec<ParameterRows>,
}

/// The values of a parameter, and the rows that have each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterRows {
    pub parameter: String,
    /// The most frequent values first, at most [`MAX_VALUES`], each with the number of rows.
    pub values: Vec<(String, u64)>,
}

/// The most values of a parameter that are listed.
pub const MAX_VALUES: usize = 100;

/// What is counted of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// The rows that a request chooses.
    Rows,
    /// Also those that it would choose with each value of each parameter that has a facet of the layer, instead of the
    /// values that it gives for this parameter.
    RowsAndValues,
    /// Also those of the rows that it chooses which have each value: a signed request sees no others.
    RowsAndOwnValues,
}

#[derive(Debug, Clone)]
pub struct CountRequest {
    pub counted: Counted,
    /// The values that the request gives; `None` if it gives none.
    pub given: Option<Arc<GivenParameters>>,
    /// The database state must have been taken at this moment or later.
    pub since: Instant,
}

/// For whom rows are counted.
pub(crate) struct CountedFor {
    pub(crate) client: ClientKey,
    /// Counts the values of the request once the counting begins.
    pub(crate) new_key: Option<NewKey>,
}

/// How long counted rows answer further requests.
const LIFE: Duration = Duration::from_secs(1);

/// Beyond this number, counts that answer no further request are forgotten.
const MAX_COUNTS: usize = 100;

/// Cancels the count once nobody waits for it.
struct Cancelled(Stop);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.ask(Signal::Terminate);
    }
}

impl LiveFlights {
    /// The rows of each layer: counted now, or a moment ago for another request with these values.
    pub(crate) async fn count_once(
        &self,
        key: ParametersKey,
        request: CountRequest,
        counted_for: CountedFor,
    ) -> Result<Arc<Vec<LayerCounts>>, LiveError> {
        let place = {
            let mut counts = self.counts.all.lock();
            let key = (key, request.counted);
            if counts.len() >= MAX_COUNTS && !counts.contains_key(&key) {
                // Those that are locked are being counted.
                counts.retain(|_, place| {
                    place
                        .try_lock()
                        .map_or(true, |kept| kept.as_ref().is_some_and(|kept| kept.counted.elapsed() < kept.life))
                });
            }
            Arc::clone(counts.entry(key).or_default())
        };
        // A count that takes long holds no others than these.
        let locked = tokio::time::timeout(self.options.timeout, place.lock()).await;
        let mut kept = locked.map_err(|_late| LiveError::Late(self.options.timeout))?;
        // Values may be counted for long, so they are shared as long as that took, whatever has changed since.
        let has_values = request.counted != Counted::Rows;
        if let Some(kept) = &*kept
            && (has_values || kept.since >= request.since)
            && kept.counted.elapsed() < kept.life
        {
            return kept.rows.clone();
        }
        let turn = async { if has_values { self.counts.values.acquire().await.ok() } else { None } };
        let turn = tokio::time::timeout(self.options.timeout, turn).await;
        let _turn = turn.map_err(|_late| LiveError::Late(self.options.timeout))?;
        let (since, begun) = (request.since, Instant::now());
        let rows = self.count(request, counted_for).await.map(Arc::new).inspect_err(|error| {
            if !matches!(error, LiveError::Overloaded { .. } | LiveError::Abandoned) {
                tracing::info!("rows cannot be counted: {error}");
            }
        });
        let is_lasting = rows.is_ok() || has_values && matches!(rows, Err(LiveError::Late(_) | LiveError::Failed(_)));
        if is_lasting {
            let life = if has_values { begun.elapsed().max(LIFE) } else { LIFE };
            // From its end on: who has waited for a slow count shares it.
            *kept = Some(KeptCount { counted: Instant::now(), life, since, rows: rows.clone() });
        }
        rows
    }

    async fn count(&self, request: CountRequest, counted_for: CountedFor) -> Result<Vec<LayerCounts>, LiveError> {
        let CountedFor { client, new_key } = counted_for;
        let overloaded = || {
            self.metrics.count_shed();
            LiveError::Overloaded { retry_after: self.estimate(client) }
        };
        if !self.queue.has_room(self.options.queue, client) {
            return Err(overloaded());
        }
        let (source, timeout, stop) = (Arc::clone(&self.source), self.options.timeout, Stop::new());
        let cancelled = Cancelled(stop.clone());
        let mut ticket = self.queue.enter_for(client, self.options.queue);
        let (tell, counted) = oneshot::channel();
        // A task of its own, because a statement that has begun must be ended in the server.
        tokio::spawn(async move {
            let permit = tokio::select! {
                permit = ticket.permit() => permit,
                _ = stop.wait() => None,
                () = tokio::time::sleep(timeout) => None,
            };
            let Some(_permit) = permit else { return };
            if let Some(new_key) = new_key {
                new_key.begins();
            }
            let (rows, is_late) = stop.limiting(timeout, source.count(request, &stop)).await;
            let rows = if is_late { rows.and(Err(LiveError::Late(timeout))) } else { rows };
            // Nobody may wait any more.
            drop(tell.send(rows));
        });
        let counted = counted.await.unwrap_or_else(|_no_worker| Err(overloaded()));
        drop(cancelled);
        counted
    }
}
