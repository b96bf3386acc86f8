//! What is known of the target apart from its tiles: how old the last look at it is, and which purges wait for its CDNs.

use std::sync::Arc;
use std::time::Instant;

use crate::purge::{Outbox, purge_metrics};
use crate::serve::tiles::served::ServedTiles;

impl ServedTiles {
    /// The time of the last look at the target: an answer that is begun now shows at least the state of that moment. Files are checked by each
    /// request, a target in a bucket is polled. Call this before the state is taken, because a newer state does no harm.
    pub(crate) fn look(&self) -> Instant {
        self.target.polled().unwrap_or_else(Instant::now)
    }

    /// The Prometheus metrics of the purges that wait for the CDNs of the target, with some further labels; empty if the outbox cannot be read.
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
