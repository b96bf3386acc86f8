//! SIGINT and SIGTERM: they ask for a stop, and the program ends soon after, whatever it waits for.
//!
//! Running work checks [`Stop`] and cleans up: it cancels statements in the server, removes staged files, gives leases
//! back. Not all work can: opening a FIFO, writing to a pipe that nobody reads, or resolving a name blocks a thread
//! until the system answers. So a separate thread waits for the signals, and ends the process `STOP_LIMIT` after a
//! signal. Nothing is lost: a kill at any moment leaves either the old target or the new one, and the next run goes on
//! from there (docs/guarantees.md, "Exit codes").

use std::sync::mpsc;
use std::time::Duration;

use crate::exit::Exit;
use crate::report::{say_problem_text, say_warning};
use crate::stop::{Signal, Stop};

/// The longest time between a signal and the end of the process, unless work has a grace. Together with
/// [`LAST_MESSAGE_LIMIT`] it stays within the 2 s that docs/guarantees.md promises.
const STOP_LIMIT: Duration = Duration::from_millis(1_600);

/// The longest time that the last message may take: standard error may be a pipe that nobody reads, and a busy machine
/// may be late.
const LAST_MESSAGE_LIMIT: Duration = Duration::from_millis(350);

/// Starts to listen: once this function has returned, SIGINT and SIGTERM ask for a stop. If the process has not ended
/// `STOP_LIMIT` after the signal, it is ended with the signal's exit code.
pub fn listen(stop: &Stop) {
    let stop = stop.clone();
    let (tell, listening) = mpsc::channel();
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return unheard(&error),
        };
        runtime.block_on(async {
            match forward(&stop) {
                // Tells the waiting caller that signals are caught now.
                Ok(()) => tell.send(()).unwrap_or_default(),
                Err(error) => return unheard(&error),
            }
            let signal = stop.overdue(STOP_LIMIT).await;
            end(signal);
        });
    });
    if let Err(error) = thread {
        return unheard(&error);
    }
    // A thread that failed has dropped its sender, and reported why.
    listening.recv().unwrap_or_default();
}

fn unheard(error: &std::io::Error) {
    say_warning(&format!("signals cannot be listened to ({error}): Ctrl-C ends the process at once"));
}

/// Ends the process. No destructor runs and nothing is flushed.
fn end(signal: Signal) {
    let (tell, said) = mpsc::channel();
    let saying = std::thread::Builder::new().spawn(move || {
        say_problem_text(
            "interrupted while something did not answer (a server, a file or a reader): the process was ended. \
             No target is damaged by that; run the command again to go on",
        );
        tell.send(()).unwrap_or_default();
    });
    // The process ends whether the message could be written or not.
    if saying.is_ok() {
        said.recv_timeout(LAST_MESSAGE_LIMIT).unwrap_or_default();
    }
    std::process::exit(Exit::from(signal) as i32);
}

fn forward(stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // The number of SIGXFSZ on Linux, macOS and the BSDs. A signal with a handler does not kill: a write beyond a
    // file-size limit then fails like one on a full disk, and is reported as such.
    const SIGXFSZ: i32 = 25;
    if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
        say_warning(&format!("a file-size limit will end the process at once ({error})"));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => stop.ask(Signal::Interrupt),
                _ = terminate.recv() => stop.ask(Signal::Terminate),
            }
        }
    });
    Ok(())
}
