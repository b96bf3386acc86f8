//! The admission rule: which task starts next on a free worker. Pure functions of the shares and of the numbers of
//! running and waiting tasks.
//!
//! There are W workers: r are reserved for live requests, and g are guaranteed to background work. With `n_l` live
//! requests and `n_b` background tasks running, the next task is:
//!
//! ```text
//! 1. the first live request  if  n_l + n_b < W  and  (n_l < W − g  or  n_b ≥ g  or  no background task waits)
//! 2. else the first background task  if  n_l + n_b < W  and  n_b < W − r  and  (n_b < g  or  n_l + n_b + r < W)
//! ```
//!
//! With g = 0 this is the rule of MapProxy-Renderd, under which live requests that keep all workers busy starve
//! background work forever. One guaranteed worker prevents that.

use std::num::NonZeroUsize;

/// With at least this many workers, by default one is guaranteed to background work, and at least one is reserved for
/// live requests.
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
    #[error(
        "live_reserved = {reserved} must be less than workers = {workers}: background work would never find a free worker"
    )]
    ReservesAll { reserved: usize, workers: usize },
    /// More workers are guaranteed to background work than may serve it, or live requests would never start.
    #[error(
        "background_guaranteed = {guaranteed} must be at most {most}, for workers = {workers} and live_reserved = {reserved}: live requests need the others"
    )]
    GuaranteesMore {
        guaranteed: usize,
        /// The most that may be guaranteed.
        most: usize,
        workers: usize,
        reserved: usize,
    },
}

impl WorkerShares {
    pub const SINGLE: WorkerShares =
        WorkerShares { workers: NonZeroUsize::MIN, live_reserved: 0, background_guaranteed: 0 };

    /// Shares `workers`. `live_reserved` of them take live requests only; without a number it is a quarter of the
    /// workers, and at least 1 if there are two or more. `background_guaranteed` of them start background work even if
    /// live requests wait; without a number it is 1 if there are two or more workers. A single worker has its own rule
    /// (`next_start`).
    /// Fails if the numbers leave no worker for live requests or none for background work.
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
        // Even if nothing is reserved, one worker is left for live requests: otherwise they would wait as long as
        // background work does.
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
    pub const fn workers(self) -> NonZeroUsize {
        self.workers
    }

    /// The number of workers that take live requests only.
    pub const fn live_reserved(self) -> usize {
        self.live_reserved
    }

    /// The number of workers that background work gets even if live requests wait.
    pub const fn background_guaranteed(self) -> usize {
        self.background_guaranteed
    }

    /// The most background tasks that run at once.
    pub const fn background_limit(self) -> usize {
        self.workers.get() - self.live_reserved
    }
}

/// The numbers of running and waiting tasks to which the rule is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QueueLoad {
    pub(crate) running_live: usize,
    pub(crate) running_background: usize,
    pub(crate) waiting_live: usize,
    pub(crate) waiting_background: usize,
    /// True if the first background task has waited longer than its patience, and the task that started last was not
    /// preferred for that reason. It matters only if there is a single worker.
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
/// ([`QueueLoad::is_background_due`]) takes the next turn. At most every other turn goes to such a task, so that
/// neither starves the other.
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
mod tests {
    use super::*;

    fn shares(workers: usize, reserved: usize, guaranteed: usize) -> WorkerShares {
        WorkerShares::new(NonZeroUsize::new(workers).unwrap(), Some(reserved), Some(guaranteed)).unwrap()
    }

    fn load(running: [usize; 2], waiting: [usize; 2]) -> QueueLoad {
        QueueLoad {
            running_live: running[0],
            running_background: running[1],
            waiting_live: waiting[0],
            waiting_background: waiting[1],
            is_background_due: false,
        }
    }

    /// Every way to share up to 8 workers.
    fn all_shares() -> impl Iterator<Item = WorkerShares> {
        (1..=8_usize).flat_map(|workers| {
            (0..workers).flat_map(move |reserved| {
                (0..=workers - reserved.max(1)).map(move |guaranteed| shares(workers, reserved, guaranteed))
            })
        })
    }

    /// Every load of some shares, with up to 9 tasks of each kind waiting.
    fn all_loads(shares: WorkerShares) -> impl Iterator<Item = QueueLoad> {
        let workers = shares.workers().get();
        (0..=workers).flat_map(move |live| {
            (0..=shares.background_limit().min(workers - live)).flat_map(move |background| {
                (0..=9).flat_map(move |waiting_live| {
                    (0..=9).map(move |waiting| load([live, background], [waiting_live, waiting]))
                })
            })
        })
    }

    #[test]
    fn in_every_small_state_what_starts_is_what_the_shares_promise() {
        let mut states = 0;
        for shares in all_shares() {
            let (workers, reserved, guaranteed) =
                (shares.workers().get(), shares.live_reserved(), shares.background_guaranteed());
            for now in all_loads(shares) {
                states += 1;
                let is_free = now.running_live + now.running_background < workers;
                let is_owed = now.waiting_background > 0 && now.running_background < guaranteed;
                let is_owed_next = is_owed && now.running_live + guaranteed >= workers;
                match next_start(shares, now) {
                    Some(NextStart::Background) => {
                        assert!(is_free && now.waiting_background > 0);
                        // P1: background work never holds the reserved workers.
                        assert!(now.running_background < workers - reserved, "{shares:?} {now:?}");
                        // P3: a start beyond the guarantee leaves the reserved workers free.
                        let free_after = workers - now.running_live - now.running_background - 1;
                        assert!(now.running_background < guaranteed || free_after >= reserved, "{shares:?} {now:?}");
                        // P4: a live request waits only for a guaranteed start.
                        assert!(now.waiting_live == 0 || is_owed_next, "{shares:?} {now:?}");
                    }
                    Some(NextStart::Live) => {
                        assert!(is_free && now.waiting_live > 0);
                        // P2: live requests do not take the workers that background work waits for.
                        assert!(!is_owed_next, "{shares:?} {now:?}");
                    }
                    // P4, P2: with a free worker no live request waits, and nothing guaranteed.
                    None => assert!(!is_free || (now.waiting_live == 0 && !is_owed), "{shares:?} {now:?}"),
                }
            }
        }
        assert!(states > 16_000, "{states}");
    }

    /// A run of the rule over time: tasks last some ticks, live requests always wait, and background tasks are due at
    /// once for W = 1.
    #[derive(Default)]
    struct Soak {
        live_started: u64,
        background_started: u64,
        longest_live_wait: u64,
        longest_background_wait: u64,
    }

    fn soak(shares: WorkerShares, ticks: u64) -> Soak {
        let mut soak = Soak::default();
        let mut ends: Vec<(NextStart, u64)> = Vec::new();
        let (mut live_since, mut background_since, mut was_preferred) = (0, 0, false);
        let mut random: u64 = 42;
        for tick in 0..ticks {
            ends.retain(|(_, end)| *end > tick);
            loop {
                let running = |kind| ends.iter().filter(|(of, _)| *of == kind).count();
                let mut now = load([running(NextStart::Live), running(NextStart::Background)], [50, 50]);
                now.is_background_due = !was_preferred && tick > background_since;
                let Some(next) = next_start(shares, now) else { break };
                // A linear congruential generator: any that gives the same numbers in each run will do.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ends.push((next, tick + 1 + (random >> 33) % 20));
                let (since, started, longest) = match next {
                    NextStart::Live => (&mut live_since, &mut soak.live_started, &mut soak.longest_live_wait),
                    NextStart::Background => {
                        (&mut background_since, &mut soak.background_started, &mut soak.longest_background_wait)
                    }
                };
                was_preferred = next == NextStart::Background;
                *longest = (*longest).max(tick - *since);
                (*since, *started) = (tick, *started + 1);
            }
        }
        soak
    }

    #[test]
    fn under_saturation_neither_starves() {
        for shares in all_shares().chain([shares(10, 4, 1)]) {
            let soak = soak(shares, 20_000);
            let is_shared = shares.background_guaranteed() > 0 || shares.workers().get() == 1;
            // A task lasts up to 20 ticks: the next start comes one task later, or two with a single worker.
            assert!(soak.longest_live_wait <= 40 && soak.live_started > 900, "{shares:?}");
            if is_shared {
                assert!(soak.longest_background_wait <= 40 && soak.background_started > 900, "{shares:?}");
            } else {
                // This is Renderd's rule.
                assert_eq!(soak.background_started, 0, "{shares:?}");
            }
        }
    }

    #[test]
    fn a_background_task_that_is_due_takes_the_next_turn_of_a_single_worker_only() {
        let due = QueueLoad { is_background_due: true, ..load([0, 0], [3, 3]) };
        assert_eq!(next_start(shares(1, 0, 0), due), Some(NextStart::Background));
        assert_eq!(next_start(shares(1, 0, 0), load([0, 0], [3, 3])), Some(NextStart::Live));
        assert_eq!(next_start(shares(1, 0, 0), QueueLoad { running_live: 1, ..due }), None);
        assert_eq!(next_start(shares(2, 1, 1), due), Some(NextStart::Live));
    }

    #[test]
    fn the_shares_have_the_defaults_of_the_manual_and_leave_nobody_out() {
        for (workers, reserved, guaranteed) in
            [(1, 0, 0), (2, 1, 1), (3, 1, 1), (4, 1, 1), (7, 1, 1), (8, 2, 1), (10, 2, 1), (64, 16, 1)]
        {
            let found = WorkerShares::new(NonZeroUsize::new(workers).unwrap(), None, None).unwrap();
            assert_eq!(found, shares(workers, reserved, guaranteed));
        }
        let four = NonZeroUsize::new(4).unwrap();
        let reserving = |reserved, guaranteed| WorkerShares::new(four, reserved, guaranteed);
        assert_eq!(reserving(Some(4), None), Err(WorkerSharesError::ReservesAll { reserved: 4, workers: 4 }));
        let more = |guaranteed, most, reserved| {
            Err(WorkerSharesError::GuaranteesMore { guaranteed, most, workers: 4, reserved })
        };
        assert_eq!(reserving(Some(3), Some(2)), more(2, 1, 3));
        assert_eq!(reserving(Some(0), Some(4)), more(4, 3, 0));
        assert_eq!(reserving(Some(3), None).unwrap().background_guaranteed(), 1);
        let one = NonZeroUsize::MIN;
        assert!(WorkerShares::new(one, None, Some(1)).is_err() && WorkerShares::new(one, Some(1), None).is_err());
    }
}
