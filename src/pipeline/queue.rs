//! The batches of a run that wait for a worker. If a run shares the database with others, batches are joined and cut on
//! their way to the worker, by the pace that was measured so far: a plan cannot know how slow a layer is.
//!
//! A seed is planned in small batches ([`BatchPace::SEED_PLAN_FEATURES`](super::BatchPace::SEED_PLAN_FEATURES)),
//! because a part of such a batch cannot be rendered by itself: only the plan knows which of its tiles are occupied.
//! Neighbours in the plan are joined here. A batch of a reseed names every tile, so it is cut.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::source::{RenderedTile, Source};
use crate::tile::{Batch, PlannedTiles};

/// The most rectangles of a batch that is joined: a statement with more than a thousand gets slow.
const MAX_JOINED_AREAS: usize = 500;

/// A batch on its way to a worker.
#[derive(Debug)]
pub(crate) struct TakenBatch {
    /// The index of its first batch in the plan.
    pub(crate) index: usize,
    /// How many batches of the plan it consists of.
    pub(crate) count: usize,
    pub(crate) batch: Batch,
}

/// The batches that wait, each with its index in the plan.
#[derive(Debug)]
pub(crate) struct BatchQueue(VecDeque<(usize, Batch)>);

impl BatchQueue {
    /// The batches of a plan. If `window` has a permit for each of them, the batches that wait for cell counts come
    /// last. With fewer permits this is not possible: batches that are stored first would wait for the permits of later
    /// ones.
    pub(crate) fn new(batches: Vec<Batch>, window: usize) -> BatchQueue {
        let mut queue: Vec<(usize, Batch)> = batches.into_iter().enumerate().collect();
        if queue.len() <= window {
            queue.sort_by_key(|(_, batch)| batch.needs_cell_counts);
        }
        BatchQueue(queue.into())
    }

    /// Takes the next batch. With a gate, it is joined with the batches that follow it in the plan while the gate's
    /// pace allows.
    pub(crate) fn take(&mut self, turns: Option<&BatchTurns>) -> Option<TakenBatch> {
        let (index, batch) = self.0.pop_front()?;
        let mut taken = TakenBatch { index, count: 1, batch };
        let Some(turns) = turns else { return Some(taken) };
        let most = turns.most_features();
        while self.0.front().is_some_and(|(index, next)| taken.may_take(*index, next, most)) {
            let Some((_, next)) = self.0.pop_front() else { break };
            taken.batch.join(next);
            taken.count += 1;
        }
        Some(taken)
    }
}

impl TakenBatch {
    /// True if the batch `next`, which has this index in the plan, may be joined to this one.
    fn may_take(&self, index: usize, next: &Batch, most: u64) -> bool {
        let own = &self.batch;
        index == self.index + self.count
            && own.planned == PlannedTiles::Occupied
            && next.planned == PlannedTiles::Occupied
            && own.zoom() == next.zoom()
            && own.needs_cell_counts == next.needs_cell_counts
            && own.areas.len() + next.areas.len() <= MAX_JOINED_AREAS
            && own.features().saturating_add(next.features()) <= most
    }
}

// The gate before a batch: if a run shares the database with others, each worker passes the gate before it renders.

/// The longest time that a batch should hold a session, because others may wait for one.
const MAX_HOLD: Duration = Duration::from_millis(250);

/// The features of a batch before the first batch was measured: few enough for a slow server.
const UNMEASURED_FEATURES: u64 = 500;

/// The fewest features of a batch, however slow the server is: smaller ones cost more statements than they save time.
const MIN_FEATURES: u64 = 100;

/// The run that a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    Seed,
    Reseed,
}

/// Decides when a worker may render its next batch.
///
/// The contract: [`BatchGate::enter`] returns soon after a stop was asked for, because the run has to end. A worker
/// holds at most one [`BatchTurn`], and only while it renders; it then waits for nothing else in the pipeline. Dropping
/// the future gives up the turn.
pub trait BatchGate: Send + Sync + 'static {
    /// Waits until a batch may be rendered.
    fn enter(&self, kind: BatchKind) -> BoxFuture<'_, BatchTurn>;

    fn pace(&self, kind: BatchKind) -> &BatchPace;
}

/// The turn of a worker: held while it renders one batch.
pub struct BatchTurn(#[expect(dead_code, reason = "it is held until the batch is rendered")] Option<Box<dyn Send>>);

impl BatchTurn {
    /// A turn that ends when `held` is dropped.
    pub(crate) fn holding(held: impl Send + 'static) -> BatchTurn {
        BatchTurn(Some(Box::new(held)))
    }

    /// A turn that takes no place at a gate, so that no other worker waits for it.
    #[must_use]
    pub const fn free() -> BatchTurn {
        BatchTurn(None)
    }
}

/// The measured pace of batches: the time that a feature takes, as a moving average in which the last batch has the
/// weight 1/8.
#[derive(Debug, Default)]
pub struct BatchPace(Mutex<Option<Duration>>);

impl BatchPace {
    /// The features of the batches in which a seed is planned. They are as few as a slow server may need, because a
    /// batch of a seed cannot be cut later.
    pub const SEED_PLAN_FEATURES: NonZeroU64 = NonZeroU64::MIN.saturating_add(MIN_FEATURES - 1);

    /// Notes how long a batch with this many features took. The time of a feature is kept in whole nanoseconds.
    pub fn note(&self, features: u64, took: Duration) {
        let each = took / u32::try_from(features.max(1)).unwrap_or(u32::MAX);
        let mut mean = self.0.lock();
        *mean = Some(mean.map_or(each, |mean| (mean * 7 + each) / 8));
    }

    /// The features that a batch should have, so that it holds a session for about 250 ms; at most `limit`.
    #[must_use]
    pub fn features(&self, limit: u64) -> u64 {
        let mean = *self.0.lock();
        let features = match mean.map(|mean| mean.as_nanos()) {
            None => UNMEASURED_FEATURES,
            Some(nanos) => u64::try_from(MAX_HOLD.as_nanos() / nanos.max(1)).unwrap_or(u64::MAX),
        };
        features.max(MIN_FEATURES).min(limit)
    }
}

// The turns of a run's batches, if the run shares the database with others.

/// The turns of a run's batches at a gate.
#[derive(Clone)]
pub(crate) struct BatchTurns {
    pub gate: Arc<dyn BatchGate>,
    pub kind: BatchKind,
    /// The most features of a batch, however fast the server is.
    pub(crate) batch_features: NonZeroU64,
}

impl BatchTurns {
    /// Renders a batch when its turn comes. If the batch would hold the session too long as a whole, renders it in
    /// parts, with a turn for each.
    pub(crate) async fn rendered<R: Source>(
        &self,
        source: &mut R,
        batch: &Batch,
    ) -> Result<Vec<RenderedTile>, R::Error> {
        let (mut tiles, mut rest) = (Vec::new(), Some(batch.clone()));
        while let Some(batch) = rest {
            let _pass = self.gate.enter(self.kind).await;
            // The server's pace may have been measured while the batch waited.
            let (first, others) = batch.cut(self.most_features());
            let begun = Instant::now();
            tiles.append(&mut source.render(&first).await?);
            self.pace().note(first.features(), begun.elapsed());
            rest = others;
        }
        Ok(tiles)
    }

    /// The features that a batch may have now.
    pub(crate) fn most_features(&self) -> u64 {
        self.pace().features(self.batch_features.get())
    }

    /// The pace of the run's kind of batches.
    fn pace(&self) -> &BatchPace {
        self.gate.pace(self.kind)
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
