//! The gate for batches of the server's own writer: they wait in the server's queue of work, behind live requests.

use futures_util::future::BoxFuture;

use crate::pipeline::{BatchGate, BatchKind, BatchPace, BatchPass};
use crate::serve::{WorkClass, WorkQueue};
use crate::stop::Stop;

/// Lets batches wait for the server's workers.
pub struct QueueGate {
    queue: WorkQueue,
    /// The server's stop. Once it is asked for, no batch waits, so that the run can end within its grace.
    stop: Stop,
    seed: BatchPace,
    reseed: BatchPace,
}

impl QueueGate {
    /// A gate in front of `queue` that lets every batch pass once `stop` is asked for.
    #[must_use]
    pub fn new(queue: WorkQueue, stop: &Stop) -> QueueGate {
        QueueGate { queue, stop: stop.clone(), seed: BatchPace::default(), reseed: BatchPace::default() }
    }
}

impl BatchGate for QueueGate {
    fn enter(&self, kind: BatchKind) -> BoxFuture<'_, BatchPass> {
        let class = match kind {
            BatchKind::Seed => WorkClass::Seed,
            BatchKind::Reseed => WorkClass::Reseed,
        };
        Box::pin(async move {
            let mut ticket = self.queue.enter(class);
            tokio::select! {
                // The queue drops only work of the class `Neighbour`.
                permit = ticket.permit() => permit.map_or_else(BatchPass::free, BatchPass::holding),
                _ = self.stop.wait() => BatchPass::free(),
            }
        })
    }

    fn pace(&self, kind: BatchKind) -> &BatchPace {
        match kind {
            BatchKind::Seed => &self.seed,
            BatchKind::Reseed => &self.reseed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::serve::WorkerShares;
    use crate::stop::Signal;

    fn now<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn batches_leave_the_reserved_workers_free_and_pass_once_a_stop_is_asked_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let shares = WorkerShares::new(NonZeroUsize::new(10).unwrap(), Some(4), Some(0)).unwrap();
        let (queue, stop) = (WorkQueue::new(shares), Stop::new());
        let gate = QueueGate::new(queue.clone(), &stop);
        // MapProxy-Renderd's example: 10 workers, 4 of them reserved.
        let passes: Vec<BatchPass> =
            std::iter::repeat_with(|| now(pin!(gate.enter(BatchKind::Seed)))).map_while(|pass| pass).collect();
        assert_eq!(passes.len(), 6);
        let live: Vec<_> = (0..8).map(|_| queue.enter(WorkClass::Live)).collect();
        let of_live = || (queue.counts().running.of(WorkClass::Live), queue.counts().waiting.of(WorkClass::Live));
        assert_eq!(of_live(), (4, 4));
        let mut reseed = pin!(gate.enter(BatchKind::Reseed));
        assert!(now(reseed.as_mut()).is_none());
        assert_eq!(queue.counts().waiting.of(WorkClass::Reseed), 1);
        drop(passes);
        assert_eq!(of_live(), (8, 0), "live requests go first");
        assert!(now(reseed.as_mut()).is_none(), "no batch starts while fewer than five workers are free");
        stop.ask(Signal::Terminate);
        assert!(now(reseed).is_some(), "the run has to end");
        drop(live);
    }
}
