//! The gate for batches of a server's own writer: they wait in the server's queue of work, behind live requests.

use futures_util::future::BoxFuture;

use crate::pipeline::{BatchGate, BatchKind, BatchPace, BatchTurn};
use crate::serve::{WorkClass, WorkQueue};
use crate::stop::Stop;

/// Lets batches wait for the server's workers.
pub(crate) struct QueueGate {
    queue: WorkQueue,
    /// The server's stop. Once it is asked for, no batch waits, so that the run can end within its grace.
    stop: Stop,
    seed: BatchPace,
    reseed: BatchPace,
}

impl QueueGate {
    /// A gate in front of `queue` that lets every batch pass once `stop` is asked for.
    pub(crate) fn new(queue: WorkQueue, stop: &Stop) -> QueueGate {
        QueueGate { queue, stop: stop.clone(), seed: BatchPace::default(), reseed: BatchPace::default() }
    }
}

impl BatchGate for QueueGate {
    fn enter(&self, kind: BatchKind) -> BoxFuture<'_, BatchTurn> {
        let class = match kind {
            BatchKind::Seed => WorkClass::Seed,
            BatchKind::Reseed => WorkClass::Reseed,
        };
        Box::pin(async move {
            let mut ticket = self.queue.enter(class);
            tokio::select! {
                // The queue drops only work of the class `Neighbour`.
                permit = ticket.permit() => permit.map_or_else(BatchTurn::free, BatchTurn::holding),
                _ = self.stop.wait() => BatchTurn::free(),
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
    fn a_batch_that_waits_passes_once_a_stop_is_asked_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let (queue, stop) = (WorkQueue::new(WorkerShares::new(NonZeroUsize::MIN, None, None).unwrap()), Stop::new());
        let gate = QueueGate::new(queue, &stop);
        let running = now(pin!(gate.enter(BatchKind::Seed)));
        assert!(running.is_some());
        let mut waiting = pin!(gate.enter(BatchKind::Reseed));
        assert!(now(waiting.as_mut()).is_none());
        stop.ask(Signal::Terminate);
        assert!(now(waiting).is_some(), "the run has to end");
        drop(running);
    }
}
