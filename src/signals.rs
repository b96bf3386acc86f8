//! SIGINT and SIGTERM: they ask for a stop, and the program ends soon after, whatever it waits for.
//!
//! Whoever works looks at [`Stop`] and undoes what has to be undone: statements are cancelled in the server, staged files
//! removed, leases given back. That cannot be done everywhere: opening a FIFO, writing to a pipe that nobody reads or
//! resolving a name blocks a thread until the system answers. So a thread of its own waits for the signals, and ends the
//! process `LIMIT` after one. Nothing is lost by that: at any moment a kill leaves the old target or the new one, and the
//! next run goes on from there (README, "Exit codes").

use std::sync::mpsc;
use std::time::Duration;

use crate::exit::Exit;
use crate::report::say;
use crate::stop::{Signal, Stop};

/// The time between a signal and the end of the process, apart from a grace for work in hand. Together with [`SAYING`] it is
/// the 2 s that README promises.
const LIMIT: Duration = Duration::from_millis(1_900);

/// The time that the last message may take: standard error may be a pipe that nobody reads.
const SAYING: Duration = Duration::from_millis(100);

/// Asks for a stop at SIGINT and SIGTERM, from the time this returns. If the process has not ended within the limit, it is
/// ended with the signal's exit code.
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
                // Whoever started this waits for it.
                Ok(()) => tell.send(()).unwrap_or_default(),
                Err(error) => return unheard(&error),
            }
            let signal = stop.overdue(LIMIT).await;
            end(signal);
        });
    });
    if let Err(error) = thread {
        return unheard(&error);
    }
    // A thread that failed has dropped its end, and has said why.
    listening.recv().unwrap_or_default();
}

fn unheard(error: &std::io::Error) {
    say(&format!("warning: signals cannot be listened to ({error}): Ctrl-C ends the process at once"));
}

/// Ends the process. No destructor runs and nothing is flushed.
fn end(signal: Signal) {
    let (tell, said) = mpsc::channel();
    let saying = std::thread::Builder::new().spawn(move || {
        say(
            "error: interrupted while something did not answer (a server, a file or a reader): the process was ended. \
             No target is damaged by that; run the command again to go on",
        );
        tell.send(()).unwrap_or_default();
    });
    // Whether it could be said or not, the process ends.
    if saying.is_ok() {
        said.recv_timeout(SAYING).unwrap_or_default();
    }
    std::process::exit(Exit::from(signal) as i32);
}

#[cfg(unix)]
fn forward(stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Its number is the same on Linux, macOS and the BSDs. A signal that is listened to does not kill: a write beyond a
    // file-size limit then fails like one on a full disk, and is reported like it.
    const SIGXFSZ: i32 = 25;
    if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
        say(&format!("warning: a file-size limit will end the process at once ({error})"));
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

#[cfg(not(unix))]
fn forward(stop: &Stop) -> std::io::Result<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            stop.ask(Signal::Interrupt);
        }
    });
    Ok(())
}
