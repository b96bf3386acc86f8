//! The wish to stop: set once by a signal, seen by whoever works.

use std::sync::Arc;

use tokio::sync::watch;

/// The signal that asked for the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// A handle that tells whether a stop was asked for. Clones see the same wish.
#[derive(Debug, Clone)]
pub struct Stop {
    seen: watch::Receiver<Option<Signal>>,
    asked: Arc<watch::Sender<Option<Signal>>>,
}

impl Stop {
    /// A handle on which nobody has asked for a stop.
    #[must_use]
    pub fn new() -> Stop {
        let (asked, seen) = watch::channel(None);
        Stop { seen, asked: Arc::new(asked) }
    }

    /// Asks for a stop. The first signal stays.
    pub fn ask(&self, signal: Signal) {
        self.asked.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(signal);
            first
        });
    }

    /// The signal that asked for a stop, if any did.
    #[must_use]
    pub fn asked(&self) -> Option<Signal> {
        *self.seen.borrow()
    }

    /// Waits until a stop is asked for.
    pub async fn wait(&self) -> Signal {
        let mut seen = self.seen.clone();
        loop {
            if let Some(signal) = *seen.borrow_and_update() {
                return signal;
            }
            if seen.changed().await.is_err() {
                // The sender lives in `self`; without it nobody can ask any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Default for Stop {
    fn default() -> Stop {
        Stop::new()
    }
}
