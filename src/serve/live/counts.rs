//! How many rows of each layer a request chooses. They are counted on request, once a worker is free.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::LiveError;
use super::flights::LiveFlights;
use crate::serve::http::address::ClientKey;
use crate::serve::parameters::{GivenParameters, NewKey};
use crate::stop::{Signal, Stop};
use crate::tile::LonLatBox;

/// The rows that a layer has under the values of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRows {
    /// The layer's name.
    pub layer: String,
    pub count: u64,
    /// The box in which they lie; `None` without rows.
    pub bounds: Option<LonLatBox>,
}

/// What is to be counted.
#[derive(Debug, Clone)]
pub struct CountRequest {
    /// The values that the request gives; `None` if it gives none.
    pub given: Option<Arc<GivenParameters>>,
    /// The database state must have been taken at this moment or later.
    pub since: Instant,
}

/// Cancels the count once nobody waits for it.
struct Cancelled(Stop);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.ask(Signal::Terminate);
    }
}

impl LiveFlights {
    /// Counts the rows of each layer. `new_key` counts the values of the request once the counting begins.
    pub(crate) async fn count(
        &self,
        client: ClientKey,
        request: CountRequest,
        new_key: Option<NewKey>,
    ) -> Result<Vec<LayerRows>, LiveError> {
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
            let counting = source.count(request, &stop);
            tokio::pin!(counting);
            let rows = tokio::select! {
                rows = &mut counting => rows,
                () = tokio::time::sleep(timeout) => {
                    stop.ask(Signal::Terminate);
                    counting.await.and(Err(LiveError::Late(timeout)))
                }
            };
            // Nobody may wait any more.
            drop(tell.send(rows));
        });
        let counted = counted.await.unwrap_or_else(|_no_worker| Err(overloaded()));
        drop(cancelled);
        counted
    }
}
