//! Something that works or does not: said in the log when that changes, not at each request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether something works, and why not.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What does not work, in words, such as "the target cannot be read".
    what: &'static str,
    /// What to say when it works again.
    mended: &'static str,
    /// Whether there is a reason in `why`: asked at each request, without a lock.
    is_there: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Trouble {
    /// It works until it is said not to.
    pub(crate) const fn none(what: &'static str, mended: &'static str) -> Trouble {
        Trouble { what, mended, is_there: AtomicBool::new(false), why: Mutex::new(None) }
    }

    /// It does not work.
    pub(crate) fn begins(&self, why: &dyn std::fmt::Display) {
        let mut now = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none() {
            tracing::warn!("{}: {why}", self.what);
        }
        *now = Some(why.to_string());
        self.is_there.store(true, Ordering::Relaxed);
    }

    /// It works.
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

    /// What does not work, and why, if that is so.
    pub(crate) fn reason(&self) -> Option<String> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.as_ref().map(|why| format!("{}: {why}", self.what))
    }
}
