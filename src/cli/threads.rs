//! The threads that the program needs from its start on.
//!
//! Tokio waits for ever, or panics while it waits, if the system gives it fewer threads than it asks for: work that
//! blocks would wait for the thread of other work. So the threads are started and counted before any work begins.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::run::CommandError;

/// The most threads for work that does not block. That is waiting for servers and handing on their answers; rendering
/// is done in the server, and what takes time here is done on threads that may block. Of these, there are as many as a
/// run has workers, not one for each core.
const MAX_ASYNC_THREADS: usize = 32;

/// The number of threads that may block which there are from the start. Most work on them waits for no other work; the
/// longest chain is the writer of `serve`, the writer of its target, and what packs tiles for both. If the system gives
/// no more, further work waits for one of these. More of them would cost address space (glibc's allocator reserves 64
/// MB for each), which `ulimit -v` may limit.
const BLOCKING_THREADS: usize = 3;

/// The longest time in which the threads have to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The runtime of a command. All threads that it needs have started.
pub(crate) fn runtime() -> Result<Runtime, CommandError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_ASYNC_THREADS);
    let wanted = workers + BLOCKING_THREADS;
    let short = |source| CommandError::Threads { wanted, source };
    can_start(wanted).map_err(short)?;
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().map_err(short)?;
    if start_blocking(&runtime) {
        return Ok(runtime);
    }
    // Other processes have taken threads meanwhile. Dropping the runtime would wait for those that did not start.
    runtime.shutdown_background();
    Err(short(io::Error::from(io::ErrorKind::WouldBlock)))
}

/// Starts threads all at once, and ends them.
fn can_start(count: usize) -> io::Result<()> {
    let mut started = Vec::new();
    let mut ended = Ok(());
    for _ in 0..count {
        let (release, released) = mpsc::channel::<()>();
        match std::thread::Builder::new().spawn(move || released.recv().unwrap_or_default()) {
            Ok(thread) => started.push((thread, release)),
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    for (thread, release) in started {
        drop(release);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    ended
}

/// Starts the threads that may block. Returns false if they do not start.
fn start_blocking(runtime: &Runtime) -> bool {
    let (arrive, arrived) = mpsc::channel();
    let mut gates = Vec::new();
    for _ in 0..BLOCKING_THREADS {
        let (gate, opened) = mpsc::channel::<()>();
        let arrive = arrive.clone();
        gates.push(gate);
        drop(runtime.spawn_blocking(move || {
            arrive.send(()).unwrap_or_default();
            // Until `gates` is dropped, so that each of these has a thread of its own.
            opened.recv().unwrap_or_default();
        }));
    }
    (0..BLOCKING_THREADS).all(|_| arrived.recv_timeout(START_LIMIT).is_ok())
}
