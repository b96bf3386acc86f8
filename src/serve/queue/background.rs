//! The order of background work: by the moment at which each task's patience ends, then by arrival.
//!
//! The moment is fixed at arrival. A task that arrives after that moment is ordered behind, no matter how urgent its
//! class is. So only a bounded number of tasks can overtake, and no class starves another.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The purpose of a task. The classes are ordered by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkClass {
    /// A tile that a client waits for.
    Live,
    /// A tile that a client got in a stale state.
    Refresh,
    Reseed,
    /// A tile next to one that a client asked for.
    Neighbour,
    Seed,
}

impl WorkClass {
    /// All classes, the most urgent one first.
    pub const ALL: [WorkClass; 5] =
        [WorkClass::Live, WorkClass::Refresh, WorkClass::Reseed, WorkClass::Neighbour, WorkClass::Seed];

    /// The name in metrics and in `/status.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WorkClass::Live => "live",
            WorkClass::Refresh => "refresh",
            WorkClass::Reseed => "reseed",
            WorkClass::Neighbour => "neighbour",
            WorkClass::Seed => "seed",
        }
    }

    /// How long a background task may be overtaken by others. Live requests have no patience: they do not wait in this
    /// queue.
    pub const fn patience(self) -> Duration {
        match self {
            WorkClass::Live => Duration::ZERO,
            WorkClass::Refresh => Duration::from_millis(500),
            WorkClass::Reseed => Duration::from_secs(5),
            WorkClass::Neighbour => Duration::from_secs(30),
            WorkClass::Seed => Duration::from_secs(600),
        }
    }
}

/// Background tasks that wait, in the order in which they start.
#[derive(Debug)]
pub(crate) struct BackgroundQueue<T> {
    /// The tasks by the end of their patience, then by their number.
    order: BTreeMap<(Instant, u64), T>,
    /// The end of each task's patience, by the task's number.
    ends: HashMap<u64, Instant>,
}

impl<T> BackgroundQueue<T> {
    pub(crate) fn new() -> BackgroundQueue<T> {
        BackgroundQueue { order: BTreeMap::new(), ends: HashMap::new() }
    }

    /// Adds a task. `number` is larger than those of the tasks that arrived before.
    pub(crate) fn push(&mut self, number: u64, class: WorkClass, enqueued: Instant, task: T) {
        let end = enqueued + class.patience();
        self.order.insert((end, number), task);
        self.ends.insert(number, end);
    }

    /// Removes and returns the task that starts next.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let ((_, number), task) = self.order.pop_first()?;
        self.ends.remove(&number);
        Some(task)
    }

    /// Removes a task that is cancelled or moves to another queue; `None` if it does not wait here.
    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let end = self.ends.remove(&number)?;
        self.order.remove(&(end, number))
    }

    /// Removes and returns every task for which `is_dropped` is true, in any order.
    pub(crate) fn drop_where(&mut self, is_dropped: impl Fn(&T) -> bool) -> Vec<T> {
        let numbers: Vec<u64> =
            self.order.iter().filter(|(_, task)| is_dropped(task)).map(|((_, number), _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// True if the patience of the task that starts next has ended.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.order.first_key_value().is_some_and(|((end, _), _)| *end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(tasks: &[(u64, WorkClass, u64)]) -> (BackgroundQueue<(WorkClass, u64)>, Instant) {
        let (mut queue, begun) = (BackgroundQueue::new(), Instant::now());
        for (number, class, seconds) in tasks {
            queue.push(*number, *class, begun + Duration::from_secs(*seconds), (*class, *seconds));
        }
        (queue, begun)
    }

    #[test]
    fn tasks_start_in_the_order_in_which_their_patience_ends() {
        use WorkClass::{Neighbour, Refresh, Reseed, Seed};
        let tasks = [
            (1, Seed, 0),
            (2, Reseed, 596),
            (3, Refresh, 599),
            (4, Reseed, 595),
            (5, Refresh, 601),
            (6, Neighbour, 570),
            (7, Neighbour, 571),
        ];
        let (mut queue, _) = queue(&tasks);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let expected = [
            (Refresh, 599),
            (Seed, 0),
            (Reseed, 595),
            (Neighbour, 570),
            (Reseed, 596),
            (Neighbour, 571),
            (Refresh, 601),
        ];
        assert_eq!(order, expected);
        assert!(queue.ends.is_empty());
    }

    #[test]
    fn a_task_that_is_taken_out_starts_no_more() {
        let (mut queue, begun) = queue(&[(1, WorkClass::Refresh, 0), (2, WorkClass::Refresh, 1)]);
        assert!(!queue.is_due(begun) && queue.is_due(begun + WorkClass::Refresh.patience()));
        assert_eq!(queue.remove(1), Some((WorkClass::Refresh, 0)));
        assert_eq!(queue.remove(1), None);
        assert_eq!((queue.pop(), queue.pop()), (Some((WorkClass::Refresh, 1)), None));
    }
}
