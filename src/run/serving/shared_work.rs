//! Work that is done once by a task of its own, however many callers wait for it and however many of them stop waiting.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Work that is under way or done. Clones wait for the same result.
#[derive(Clone)]
pub(crate) struct SharedWork<T>(watch::Receiver<Option<T>>);

impl<T: Clone + Send + Sync + 'static> SharedWork<T> {
    pub(crate) fn start(work: impl Future<Output = T> + Send + 'static) -> SharedWork<T> {
        let (tell, done) = watch::channel(None);
        tokio::spawn(async move {
            let result = work.await;
            // There may be no receiver any more.
            tell.send_replace(Some(result));
        });
        SharedWork(done)
    }

    /// Waits for the result; `None` if the task died.
    pub(crate) async fn done(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
    }

    /// The result, if it is there already.
    pub(crate) fn peek(&self) -> Option<T> {
        self.0.borrow().clone()
    }

    /// True if the task died, so that there will never be a result.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.borrow().is_none() && self.0.has_changed().is_err()
    }
}

/// Work that was begun, by what it is about.
pub(crate) struct SharedWorkByKey<K, T>(Mutex<HashMap<K, SharedWork<T>>>);

impl<K, T> Default for SharedWorkByKey<K, T> {
    fn default() -> SharedWorkByKey<K, T> {
        SharedWorkByKey(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone + Send + Sync + 'static> SharedWorkByKey<K, T> {
    /// The work about `key`. `start` begins it if it was not begun yet, or if its task died.
    pub(crate) fn of(&self, key: K, start: impl FnOnce() -> SharedWork<T>) -> SharedWork<T> {
        let mut all = self.0.lock();
        let known = all.get(&key).filter(|work| !work.is_dead()).cloned();
        known.unwrap_or_else(|| {
            let work = start();
            all.insert(key, work.clone());
            work
        })
    }
}
