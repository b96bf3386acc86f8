//! The batches of a run that wait for a worker. If a run shares the database with others, batches are joined and cut on their way to the
//! worker, by the pace that was measured so far: a plan cannot know how slow a layer is.
//!
//! A seed is planned in small batches ([`BatchPace::SEED_PLAN_FEATURES`](super::BatchPace::SEED_PLAN_FEATURES)), because a part of such a batch cannot be rendered by itself: only
//! the plan knows which of its tiles are occupied. Neighbours in the plan are joined here. A batch of a reseed names every tile, so it is cut.

use std::collections::VecDeque;

use super::BatchTurns;
use crate::tile::{Batch, Planned};

/// The most rectangles of a batch that is joined: a statement with more than a thousand gets slow.
const MAX_JOINED_AREAS: usize = 500;

/// A batch on its way to a worker.
#[derive(Debug)]
pub(super) struct TakenBatch {
    /// The index of its first batch in the plan.
    pub(super) index: usize,
    /// How many batches of the plan it consists of.
    pub(super) count: usize,
    pub(super) batch: Batch,
}

/// The batches that wait, each with its index in the plan.
#[derive(Debug)]
pub(super) struct BatchQueue(VecDeque<(usize, Batch)>);

impl BatchQueue {
    /// The batches of a plan. If `window` has a permit for each of them, the batches that wait for cell counts come last. With fewer
    /// permits this is not possible: batches that are stored first would wait for the permits of later ones.
    pub(super) fn new(batches: Vec<Batch>, window: usize) -> BatchQueue {
        let mut queue: Vec<(usize, Batch)> = batches.into_iter().enumerate().collect();
        if queue.len() <= window {
            queue.sort_by_key(|(_, batch)| batch.needs_cell_counts);
        }
        BatchQueue(queue.into())
    }

    /// Takes the next batch. With a gate, it is joined with the batches that follow it in the plan while the gate's pace allows.
    pub(super) fn take(&mut self, turns: Option<&BatchTurns>) -> Option<TakenBatch> {
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
            && own.planned == Planned::Occupied
            && next.planned == Planned::Occupied
            && own.zoom() == next.zoom()
            && own.needs_cell_counts == next.needs_cell_counts
            && own.areas.len() + next.areas.len() <= MAX_JOINED_AREAS
            && own.features().saturating_add(next.features()) <= most
    }
}
