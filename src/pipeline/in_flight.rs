//! How many batches, and how many features, are rendered and not yet stored.

use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::queue::{BatchQueue, TakenBatch};
use super::{BatchTurns, Limits};
use crate::tile::Batch;

/// The batches of a run, and the permits for them.
pub(crate) struct BatchesInFlight {
    /// One worker at a time takes a batch, so that permits are given in the order of the batches.
    queue: Mutex<BatchQueue>,
    permits: Arc<Semaphore>,
    window: u64,
    /// The most features of all batches in flight; `None` if each batch takes one permit.
    features: Option<NonZeroU64>,
    turns: Option<BatchTurns>,
}

impl BatchesInFlight {
    pub(crate) fn new(batches: Vec<Batch>, limits: Limits, turns: Option<BatchTurns>) -> BatchesInFlight {
        let window = limits.window.get();
        // If batches are not taken in their order, those that are stored first would wait for the permits of later
        // ones.
        let in_order = batches.len() > window || batches.iter().all(|batch| !batch.needs_cell_counts);
        BatchesInFlight {
            queue: Mutex::new(BatchQueue::new(batches, window)),
            permits: Arc::new(Semaphore::new(window)),
            window: window as u64,
            features: in_order.then_some(limits.features),
            turns,
        }
    }

    /// The next batch, once it may be rendered; `None` after the last batch, or if the run ends.
    ///
    /// A worker takes a permit first and the next batch second, and waits for more permits before another worker takes
    /// a batch. So all earlier batches hold their permits, and are stored without this batch.
    pub(crate) async fn take(&self) -> Option<(TakenBatch, OwnedSemaphorePermit)> {
        let mut queue = self.queue.lock().await;
        let mut permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let taken = queue.take(self.turns.as_ref())?;
        let more = self.permits_of(&taken.batch) - 1;
        if more > 0 {
            permit.merge(Arc::clone(&self.permits).acquire_many_owned(more).await.ok()?);
        }
        Some((taken, permit))
    }

    /// The number of permits that a batch takes: its share of the features, but at most all permits.
    fn permits_of(&self, batch: &Batch) -> u32 {
        let Some(most) = self.features else { return 1 };
        let share = u128::from(batch.features()) * u128::from(self.window) / u128::from(most.get());
        u32::try_from(share.clamp(1, u128::from(self.window))).unwrap_or(1)
    }

    /// Lets no other batch be taken.
    pub(crate) fn close(&self) {
        self.permits.close();
    }
}
