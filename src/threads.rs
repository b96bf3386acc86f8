//! Work that several threads share.

use parking_lot::Mutex;

/// The number of threads that this process can run at once.
pub(crate) fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `work` for each item, on at most `threads` threads, of which this one is the first. Items are begun in their
/// order, and the results have the order of the items. If the system gives fewer threads, these do all of the work.
///
/// # Panics
/// If `work` panics; all other items are done before.
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(items.len());
    let waiting = Mutex::new(items.into_iter().enumerate());
    let work = || {
        let mut done = Vec::new();
        loop {
            let next = waiting.lock().next();
            let Some((number, item)) = next else { return done };
            done.push((number, work(item)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut done = work();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` on a thread that may block. If this future is dropped, the work goes on.
///
/// # Panics
/// If `work` panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_item_is_done_once_and_results_have_the_order_of_the_items() {
        for (items, threads) in [(0, 4), (1, 4), (100, 1), (100, 8)] {
            let calls = AtomicU64::new(0);
            let done = map((0..items).collect(), threads, |item: u64| {
                calls.fetch_add(1, Relaxed);
                // The first items take longest.
                std::thread::sleep(Duration::from_micros(20 * (items - item)));
                2 * item
            });
            assert_eq!(done, (0..items).map(|item| 2 * item).collect::<Vec<_>>(), "{threads} threads");
            assert_eq!(calls.into_inner(), items);
        }
    }
}
