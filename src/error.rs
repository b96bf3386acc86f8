//! What kind of failure an error is. Each error enum has a function `kind()` next to it; exit codes, restarts, `--or-seed` and
//! `reseed --watch` read the kind and nothing else.

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Wrong usage, configuration or rights: the same command fails again until somebody changes one of them.
    Usage,
    /// The target cannot be brought up to date; a full seed replaces it.
    NeedsSeed,
    /// A part is done, and the message says what is missing.
    Partial,
    /// A stop was asked for.
    Interrupted,
    /// Nothing is wrong with the work itself: the same command may succeed a moment later.
    Transient(Obstacle),
    /// Anything else, such as a damaged file, a full disk or a failing statement.
    Failed,
}

/// What kept a run from going on for the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A server that had answered went away.
    Lost,
    /// A server does not answer, or refuses because it is busy.
    Unreachable,
    /// Other sessions hold a lock, or changed what the run's snapshot reads.
    HeldUp,
    /// Other sessions waited for the run's locks, so the run has released all of them.
    GaveWay,
}
