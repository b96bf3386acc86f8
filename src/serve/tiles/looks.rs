//! What is known of the target beside its tiles: how old the last look at it is, and what its CDNs have not been told.

use std::sync::Arc;
use std::time::Instant;

use crate::purge::{Outbox, purge_metrics};
use crate::serve::tiles::served::ServedTiles;

impl ServedTiles {
    /// The time of the look at the target on which an answer rests at least that is begun now: files are looked at by each request, a target
    /// in a bucket is polled. To be asked before the state is taken: a state that is newer does no harm.
    pub(crate) fn look(&self) -> Instant {
        self.target.polled().unwrap_or_else(Instant::now)
    }

    /// What waits for the CDNs of the target, for Prometheus, each value with some further labels; empty if that cannot be read.
    pub(crate) async fn purge_metrics(&self, labels: &str) -> String {
        let target = Arc::clone(&self.target);
        let read = tokio::task::spawn_blocking(move || Outbox::read(target.notes())).await;
        match read {
            Ok(Ok(outbox)) => purge_metrics(&outbox, labels),
            Ok(Err(error)) => {
                tracing::info!("the metrics do not say what waits for CDNs: {error}");
                String::new()
            }
            Err(_died) => String::new(),
        }
    }
}
