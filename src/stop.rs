//! The request to stop: set once by a signal, checked by running work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The signal that asked for the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    Terminate,
}

/// A handle that tells whether a stop was asked for. All clones share one request.
#[derive(Debug, Clone)]
pub struct Stop {
    seen: watch::Receiver<Option<Signal>>,
    asked: Arc<watch::Sender<Option<Signal>>>,
    /// The time that current work may take after a stop was asked for, before the general limit begins.
    grace: Arc<watch::Sender<Duration>>,
    /// True after a stop was requested a second time, by a user who does not want to wait for the work in flight.
    again: Arc<watch::Sender<bool>>,
}

/// While this value lives, current work may go on for a while after a stop was asked for ([`Stop::grant`]).
#[derive(Debug)]
pub struct Grace(Arc<watch::Sender<Duration>>);

impl Drop for Grace {
    fn drop(&mut self) {
        self.0.send_replace(Duration::ZERO);
    }
}

impl Stop {
    /// A handle without a request to stop.
    pub fn new() -> Stop {
        let (asked, seen) = watch::channel(None);
        Stop {
            seen,
            asked: Arc::new(asked),
            grace: Arc::new(watch::Sender::new(Duration::ZERO)),
            again: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Asks for a stop. If a stop was asked for before, the signal of that first request stays.
    pub fn ask(&self, signal: Signal) {
        let is_first = self.asked.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(signal);
            first
        });
        if !is_first {
            self.again.send_replace(true);
        }
    }

    /// Waits until a stop is asked for a second time.
    pub async fn wait_again(&self) {
        let mut again = self.again.subscribe();
        if again.wait_for(|again| *again).await.is_err() {
            // The sender lives in `self`.
            std::future::pending::<()>().await;
        }
    }

    /// The signal that asked for a stop, if any did.
    pub fn asked(&self) -> Option<Signal> {
        *self.seen.borrow()
    }

    /// An error once a stop was asked for.
    ///
    /// # Errors
    /// The signal that asked for it.
    pub fn check(&self) -> Result<(), Signal> {
        self.asked().map_or(Ok(()), Err)
    }

    /// Waits until a stop is asked for.
    pub async fn wait(&self) -> Signal {
        let mut seen = self.seen.clone();
        loop {
            if let Some(signal) = *seen.borrow_and_update() {
                return signal;
            }
            if seen.changed().await.is_err() {
                // The sender lives in `self`, so this is never reached.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Grants current work the time `grace` after a stop was asked for, while the returned value lives. There is one
    /// grace at a time: a later one replaces it.
    pub fn grant(&self, grace: Duration) -> Grace {
        self.grace.send_replace(grace);
        Grace(Arc::clone(&self.grace))
    }

    /// Waits until a stop was asked for and `limit` has passed since then. While there is a grace ([`Stop::grant`]),
    /// `limit` begins when the grace ends or is dropped.
    pub async fn overdue(&self, limit: Duration) -> Signal {
        let signal = self.wait().await;
        let asked = Instant::now();
        let mut graces = self.grace.subscribe();
        let mut since = asked;
        loop {
            let grace = *graces.borrow_and_update();
            let end = since.max(asked + grace) + limit;
            tokio::select! {
                () = tokio::time::sleep_until(end.into()) => return signal,
                // The sender lives in `self`: this is never an error.
                _ = graces.changed() => since = Instant::now(),
            }
        }
    }

    /// Runs a future; returns `None` if the future has not finished `limit` after a stop was asked for. This is for
    /// work that a stop must not cut off at once, such as giving back a lease.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = async {
                self.wait().await;
                tokio::time::sleep(limit).await;
            } => None,
        }
    }

    /// Runs work that watches this stop, and asks for the stop if the work takes longer than `limit`. Returns what the
    /// work returned, and whether it was too late.
    pub async fn limiting<T>(&self, limit: Duration, work: impl Future<Output = T>) -> (T, bool) {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => (done, false),
            () = tokio::time::sleep(limit) => {
                self.ask(Signal::Terminate);
                (work.await, true)
            }
        }
    }
}

impl Default for Stop {
    fn default() -> Stop {
        Stop::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn on_runtime<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn what_goes_on_after_the_limit_is_overdue() {
        on_runtime(async {
            let stop = Stop::new();
            assert!(tokio::time::timeout(LIMIT * 3, stop.overdue(LIMIT)).await.is_err(), "nobody asked for a stop");
            stop.ask(Signal::Terminate);
            let begun = Instant::now();
            assert_eq!(stop.overdue(LIMIT).await, Signal::Terminate);
            assert!(begun.elapsed() >= LIMIT);
        });
    }

    #[test]
    fn a_grace_puts_the_end_off_and_the_limit_begins_when_it_is_given_back() {
        on_runtime(async {
            let stop = Stop::new();
            let grace = stop.grant(Duration::from_secs(3_600));
            stop.ask(Signal::Interrupt);
            assert!(tokio::time::timeout(LIMIT * 3, stop.overdue(LIMIT)).await.is_err(), "the grace goes on");
            let waiting = stop.overdue(LIMIT);
            tokio::pin!(waiting);
            assert!(tokio::time::timeout(LIMIT, &mut waiting).await.is_err());
            drop(grace);
            let begun = Instant::now();
            assert_eq!(waiting.await, Signal::Interrupt);
            assert!(begun.elapsed() >= LIMIT);
        });
    }

    #[test]
    fn a_second_wish_is_told_from_the_first() {
        on_runtime(async {
            let stop = Stop::new();
            stop.ask(Signal::Terminate);
            assert!(tokio::time::timeout(LIMIT, stop.wait_again()).await.is_err());
            stop.clone().ask(Signal::Interrupt);
            stop.wait_again().await;
            assert_eq!(stop.asked(), Some(Signal::Terminate), "the first one stays");
        });
    }

    #[test]
    fn a_grace_ends_by_itself() {
        on_runtime(async {
            let stop = Stop::new();
            let _grace = stop.grant(LIMIT);
            stop.ask(Signal::Interrupt);
            let begun = Instant::now();
            stop.overdue(LIMIT).await;
            assert!(begun.elapsed() >= LIMIT * 2);
        });
    }

    #[test]
    fn what_is_not_to_be_cut_off_at_once_has_the_limit_after_the_stop() {
        on_runtime(async {
            let stop = Stop::new();
            let slow = || tokio::time::sleep(LIMIT * 3);
            assert!(stop.within(LIMIT, slow()).await.is_some(), "without a stop it may take its time");
            stop.ask(Signal::Interrupt);
            assert!(stop.within(LIMIT, slow()).await.is_none());
            assert_eq!(stop.within(LIMIT, async { 7 }).await, Some(7));
        });
    }

    #[test]
    fn work_that_takes_too_long_is_asked_to_stop_and_waited_for() {
        let stop = Stop::new();
        on_runtime(async {
            assert_eq!(stop.limiting(LIMIT, std::future::ready(1)).await, (1, false));
            assert_eq!(stop.asked(), None);
            assert_eq!(stop.limiting(LIMIT, stop.wait()).await, (Signal::Terminate, true));
        });
    }
}
