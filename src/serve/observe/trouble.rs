//! The state of something that can fail. The log reports when it starts to fail and when it works again, not each request that fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::with_causes;

/// Records if something works, and if not, why.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What does not work, in words, such as "the target cannot be read".
    what: &'static str,
    /// The message for the log when it works again.
    mended: &'static str,
    /// True if `why` holds a reason. Each request reads it, without taking a lock.
    is_there: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Trouble {
    /// The state of something that works.
    pub(crate) const fn none(what: &'static str, mended: &'static str) -> Trouble {
        Trouble { what, mended, is_there: AtomicBool::new(false), why: Mutex::new(None) }
    }

    /// Records that it does not work, and why, with all causes.
    pub(crate) fn begins(&self, why: &dyn std::error::Error) {
        let why = with_causes(why);
        let mut now = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none() {
            tracing::warn!("{}: {why}", self.what);
        }
        *now = Some(why);
        self.is_there.store(true, Ordering::Relaxed);
    }

    /// Records that it works.
    pub(crate) fn ends(&self) {
        if !self.is_there.load(Ordering::Relaxed) {
            return;
        }
        let was = self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_there.store(false, Ordering::Relaxed);
        if was.is_some() {
            tracing::warn!("{}", self.mended);
        }
    }

    /// What does not work, and why; `None` if it works.
    pub(crate) fn reason(&self) -> Option<String> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.as_ref().map(|why| format!("{}: {why}", self.what))
    }
}
