//! The gate before a batch: if a run shares the database with others, each worker passes the gate before it renders.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// The longest time that a batch should hold a session, because others may wait for one.
const MAX_HOLD: Duration = Duration::from_millis(250);

/// The features of a batch before the first batch was measured: few enough for a slow server.
const UNMEASURED_FEATURES: u64 = 500;

/// The fewest features of a batch, however slow the server is: smaller ones cost more statements than they save time.
const MIN_FEATURES: u64 = 100;

/// The run that a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    /// A seed.
    Seed,
    /// A reseed.
    Reseed,
}

/// Decides when a worker may render its next batch.
///
/// The contract: [`BatchGate::enter`] returns soon after a stop was asked for, because the run has to end. A worker holds at most one
/// [`BatchPass`], and only while it renders; it then waits for nothing else in the pipeline. Dropping the future gives up the turn.
pub trait BatchGate: Send + Sync + 'static {
    /// Waits until a batch may be rendered.
    fn enter(&self, kind: BatchKind) -> BoxFuture<'_, BatchPass>;

    /// The measured pace of the batches of a kind.
    fn pace(&self, kind: BatchKind) -> &BatchPace;
}

/// The turn of a worker: held while it renders one batch.
pub struct BatchPass(#[expect(dead_code, reason = "it is held until the batch is rendered")] Option<Box<dyn Send>>);

impl BatchPass {
    /// A turn that ends when `held` is dropped.
    #[must_use]
    pub fn holding(held: impl Send + 'static) -> BatchPass {
        BatchPass(Some(Box::new(held)))
    }

    /// A turn that takes no place at a gate, so that no other worker waits for it.
    #[must_use]
    pub const fn free() -> BatchPass {
        BatchPass(None)
    }
}

/// The measured pace of batches: the time that a feature takes, as a moving average in which the last batch has the weight 1/8.
#[derive(Debug, Default)]
pub struct BatchPace(Mutex<Option<Duration>>);

impl BatchPace {
    /// The features of the batches in which a seed is planned. They are as few as a slow server may need, because a batch of a seed cannot
    /// be cut later.
    pub const SEED_PLAN_FEATURES: NonZeroU64 = NonZeroU64::MIN.saturating_add(MIN_FEATURES - 1);

    /// Notes how long a batch with this many features took. The time of a feature is kept in whole nanoseconds.
    pub fn note(&self, features: u64, took: Duration) {
        let each = took / u32::try_from(features.max(1)).unwrap_or(u32::MAX);
        let mut mean = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *mean = Some(mean.map_or(each, |mean| (mean * 7 + each) / 8));
    }

    /// The features that a batch should have, so that it holds a session for about 250 ms; at most `limit`.
    #[must_use]
    pub fn features(&self, limit: u64) -> u64 {
        let mean = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let features = match mean.map(|mean| mean.as_nanos()) {
            None => UNMEASURED_FEATURES,
            Some(nanos) => u64::try_from(MAX_HOLD.as_nanos() / nanos.max(1)).unwrap_or(u64::MAX),
        };
        features.max(MIN_FEATURES).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_so_that_they_take_a_quarter_of_a_second() {
        let pace = BatchPace::default();
        assert_eq!((pace.features(10_000), pace.features(500)), (UNMEASURED_FEATURES, 500));
        pace.note(2_000, Duration::from_millis(100));
        assert_eq!((pace.features(10_000), pace.features(1_000)), (5_000, 1_000));
        // The server becomes ten times slower: after some measurements the batches are smaller.
        for _ in 0..40 {
            pace.note(2_000, Duration::from_secs(1));
        }
        assert!((480..=520).contains(&pace.features(10_000)), "{}", pace.features(10_000));
        for _ in 0..80 {
            pace.note(1, Duration::from_secs(60));
        }
        assert_eq!(pace.features(10_000), MIN_FEATURES);
        // Patches of few features take hardly any time.
        let fast = BatchPace::default();
        fast.note(0, Duration::ZERO);
        assert_eq!(fast.features(10_000), 10_000);
    }
}
