//! The admission rule: which task starts next on a free worker. Pure functions of the shares and of the numbers of running and waiting tasks.
//!
//! There are W workers: r are reserved for live requests, and g are guaranteed to background work. With `n_l` live requests and `n_b` background
//! tasks running, the next task is:
//!
//! ```text
//! 1. the first live request  if  n_l + n_b < W  and  (n_l < W − g  or  n_b ≥ g  or  no background task waits)
//! 2. else the first background task  if  n_l + n_b < W  and  n_b < W − r  and  (n_b < g  or  n_l + n_b + r < W)
//! ```
//!
//! With g = 0 this is the rule of MapProxy-Renderd, under which live requests that keep all workers busy starve background work forever. One
//! guaranteed worker prevents that.

use std::num::NonZeroUsize;

/// With at least this many workers, by default one is guaranteed to background work, and at least one is reserved for live requests.
const MIN_SHARED_WORKERS: usize = 2;

/// By default one worker in this many is reserved for live requests.
const WORKERS_PER_RESERVED: usize = 4;

/// How the workers are shared between live requests and background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerShares {
    workers: NonZeroUsize,
    live_reserved: usize,
    background_guaranteed: usize,
}

/// Why the workers cannot be shared as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerSharesError {
    /// Background work would never start.
    #[error(
        "live_reserved = {reserved} must be less than workers = {workers}: background work would never find a free worker"
    )]
    ReservesAll {
        /// Workers reserved for live requests.
        reserved: usize,
        /// All workers.
        workers: usize,
    },
    /// More workers are guaranteed to background work than may serve it, or live requests would never start.
    #[error(
        "background_guaranteed = {guaranteed} must be at most {most}, for workers = {workers} and live_reserved = {reserved}: live requests need the others"
    )]
    GuaranteesMore {
        /// Workers guaranteed to background work.
        guaranteed: usize,
        /// The most that may be guaranteed.
        most: usize,
        /// All workers.
        workers: usize,
        /// Workers reserved for live requests.
        reserved: usize,
    },
}

impl WorkerShares {
    /// A single worker.
    pub const SINGLE: WorkerShares =
        WorkerShares { workers: NonZeroUsize::MIN, live_reserved: 0, background_guaranteed: 0 };

    /// Shares `workers`. `live_reserved` of them take live requests only; without a number it is a quarter of the workers, and at least 1 if there
    /// are two or more. `background_guaranteed` of them start background work even if live requests wait; without a number it is 1 if there are two
    /// or more workers. A single worker has its own rule (`next_start`).
    ///
    /// # Errors
    /// If the numbers leave no worker for live requests or none for background work.
    pub fn new(
        workers: NonZeroUsize,
        live_reserved: Option<usize>,
        background_guaranteed: Option<usize>,
    ) -> Result<WorkerShares, WorkerSharesError> {
        let all = workers.get();
        let is_shared = all >= MIN_SHARED_WORKERS;
        let live_reserved = live_reserved.unwrap_or(if is_shared { (all / WORKERS_PER_RESERVED).max(1) } else { 0 });
        if live_reserved >= all {
            return Err(WorkerSharesError::ReservesAll { reserved: live_reserved, workers: all });
        }
        // Even if nothing is reserved, one worker is left for live requests: otherwise they would wait as long as background work does.
        let most = all - live_reserved.max(1);
        let background_guaranteed = background_guaranteed.unwrap_or(if is_shared { most.min(1) } else { 0 });
        if background_guaranteed > most {
            return Err(WorkerSharesError::GuaranteesMore {
                guaranteed: background_guaranteed,
                most,
                workers: all,
                reserved: live_reserved,
            });
        }
        Ok(WorkerShares { workers, live_reserved, background_guaranteed })
    }

    /// The most tasks that run at once, each in a database session of its own.
    #[must_use]
    pub const fn workers(self) -> NonZeroUsize {
        self.workers
    }

    /// The number of workers that take live requests only.
    #[must_use]
    pub const fn live_reserved(self) -> usize {
        self.live_reserved
    }

    /// The number of workers that background work gets even if live requests wait.
    #[must_use]
    pub const fn background_guaranteed(self) -> usize {
        self.background_guaranteed
    }

    /// The most background tasks that run at once.
    #[must_use]
    pub const fn background_limit(self) -> usize {
        self.workers.get() - self.live_reserved
    }
}

/// The numbers of running and waiting tasks to which the rule is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QueueLoad {
    /// Live requests that run.
    pub(crate) running_live: usize,
    /// Background tasks that run.
    pub(crate) running_background: usize,
    /// Live requests that wait.
    pub(crate) waiting_live: usize,
    /// Background tasks that wait.
    pub(crate) waiting_background: usize,
    /// True if the first background task has waited longer than its patience, and the task that started last was not preferred for that reason. It
    /// matters only if there is a single worker.
    pub(crate) is_background_due: bool,
}

/// The task that a free worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextStart {
    /// The live request that has waited longest.
    Live,
    /// The first background task.
    Background,
}

/// The task that starts next; `None` if none may. The caller asks again after each start.
///
/// A single worker can be neither reserved nor guaranteed: it prefers live requests, but a background task that is due
/// ([`QueueLoad::is_background_due`]) takes the next turn. At most every other turn goes to such a task, so that neither starves the other.
pub(crate) const fn next_start(shares: WorkerShares, load: QueueLoad) -> Option<NextStart> {
    let (workers, reserved, guaranteed) = (shares.workers.get(), shares.live_reserved, shares.background_guaranteed);
    let (live, background) = (load.running_live, load.running_background);
    if live + background >= workers {
        return None;
    }
    let has_background = load.waiting_background > 0;
    if workers == 1 && has_background && load.is_background_due {
        return Some(NextStart::Background);
    }
    if load.waiting_live > 0 && (live + guaranteed < workers || background >= guaranteed || !has_background) {
        return Some(NextStart::Live);
    }
    let is_within_limit = background < shares.background_limit();
    let leaves_reserve = live + background + reserved < workers;
    if has_background && is_within_limit && (background < guaranteed || leaves_reserve) {
        return Some(NextStart::Background);
    }
    None
}

#[cfg(test)]
mod tests;
