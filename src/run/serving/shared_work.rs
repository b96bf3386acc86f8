//! Work that is done once by a task of its own, however many callers wait for it and however many of them stop waiting.

use tokio::sync::watch;

/// Work that is under way or done. Clones wait for the same result.
#[derive(Clone)]
pub(crate) struct SharedWork<T>(watch::Receiver<Option<T>>);

impl<T: Clone + Send + Sync + 'static> SharedWork<T> {
    /// Begins the work.
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
