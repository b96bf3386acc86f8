//! The exit codes, and the table from kinds of errors to them.

use std::process::ExitCode;

use crate::error::ErrorKind;
use crate::stop::Signal;

/// The exit codes (docs/guarantees.md, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// Failed; the target is unchanged, unless only the last sync failed.
    Failed = 1,
    /// Wrong usage or configuration; nothing was begun.
    Usage = 2,
    /// Done in part; the message says what is missing, and the manifest is the old one, or lists the missing tiles.
    Partial = 3,
    /// The target needs a full seed; nothing was changed.
    NeedsSeed = 4,
    /// SIGINT.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl From<Signal> for Exit {
    fn from(signal: Signal) -> Exit {
        match signal {
            Signal::Interrupt => Exit::Interrupted,
            Signal::Terminate => Exit::Terminated,
        }
    }
}

impl Exit {
    /// The exit code of a command that failed. If the signal `stop` asked for a stop before the command ended, the code
    /// is the signal's. Errors whose kind has an exit code of its own keep that code, because the signal did not cause
    /// them.
    pub const fn of(kind: ErrorKind, stop: Option<Signal>) -> Exit {
        match (kind, stop) {
            (ErrorKind::Usage, _) => Exit::Usage,
            (ErrorKind::NeedsSeed, _) => Exit::NeedsSeed,
            (ErrorKind::Partial, _) => Exit::Partial,
            (ErrorKind::Interrupted | ErrorKind::Transient(_) | ErrorKind::Failed, Some(Signal::Interrupt)) => {
                Exit::Interrupted
            }
            (ErrorKind::Interrupted | ErrorKind::Transient(_) | ErrorKind::Failed, Some(Signal::Terminate)) => {
                Exit::Terminated
            }
            (ErrorKind::Interrupted | ErrorKind::Transient(_) | ErrorKind::Failed, None) => Exit::Failed,
        }
    }
}
