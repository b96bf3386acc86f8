//! The kind of each error of a command, and what an error means once a stop was asked for.

use super::CommandError;
use super::files::kind_at;
use crate::error::{ErrorKind, Obstacle};
use crate::report::FailureKind;
use crate::stop::Stop;

impl From<crate::changes::ChangeLogError> for CommandError {
    /// A failure of the database stays a database error, whatever was read, because a run starts over when the connection is lost.
    fn from(error: crate::changes::ChangeLogError) -> CommandError {
        match error {
            crate::changes::ChangeLogError::Database(error) => CommandError::Database(error),
            other => CommandError::Changes(other),
        }
    }
}

/// After a stop was asked for, turns every error that the stop may have caused into the interruption.
#[must_use]
pub fn interrupted(error: CommandError, stop: &Stop) -> CommandError {
    let is_because_of_the_stop = match error.kind() {
        ErrorKind::Interrupted | ErrorKind::Transient(Obstacle::Lost | Obstacle::HeldUp | Obstacle::GaveWay) => true,
        ErrorKind::Transient(Obstacle::Unreachable)
        | ErrorKind::Usage
        | ErrorKind::NeedsSeed
        | ErrorKind::Partial
        | ErrorKind::Failed => false,
    };
    match (stop.asked(), &error) {
        // These errors say more about what the run leaves.
        (_, CommandError::InterruptedSynchronized { .. } | CommandError::Stopped(_)) => error,
        (Some(signal), _) if is_because_of_the_stop => CommandError::Interrupted(signal),
        _ => error,
    }
}

impl CommandError {
    /// The kind of failure that the log gives to programs.
    #[must_use]
    pub const fn failure_kind(&self) -> FailureKind {
        match self.kind() {
            ErrorKind::Usage => FailureKind::Usage,
            ErrorKind::NeedsSeed => FailureKind::NeedsSeed,
            ErrorKind::Partial => FailureKind::Partial,
            ErrorKind::Interrupted => FailureKind::Interrupted,
            ErrorKind::Transient(_) => FailureKind::Transient,
            ErrorKind::Failed => FailureKind::Failed,
        }
    }

    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            CommandError::Interrupted(_) | CommandError::InterruptedSynchronized { .. } | CommandError::Stopped(_) => {
                ErrorKind::Interrupted
            }
            CommandError::Config(_)
            | CommandError::LargeTile { .. }
            | CommandError::NothingToDraw { .. }
            | CommandError::NoPublicUrl { .. }
            | CommandError::NoUrl { .. }
            | CommandError::Admin { .. }
            | CommandError::WrittenAsAWhole { .. }
            | CommandError::WriterOfVersions { .. }
            | CommandError::Location(_)
            | CommandError::NoSuchSchema { .. }
            | CommandError::NoVersions { .. }
            | CommandError::NoRewrite { .. }
            | CommandError::NoPurges { .. }
            | CommandError::Unversioned { .. }
            | CommandError::Switch(_)
            | CommandError::NoTarget { .. }
            | CommandError::UnknownTarget { .. }
            | CommandError::OtherTileset { .. }
            | CommandError::Foreign { .. }
            | CommandError::SameTarget { .. }
            | CommandError::Unfit { .. }
            | CommandError::NoPatchOfSeveral
            | CommandError::NoCopyTarget
            | CommandError::NoTile { .. }
            | CommandError::TileList(_)
            | CommandError::NoArea { .. } => ErrorKind::Usage,
            CommandError::File(error) => error.kind(),
            CommandError::NoReport(error) => kind_at(error.moment),
            CommandError::NoMetrics(error) => kind_at(error.moment),
            CommandError::Several(error) => error.kind(),
            CommandError::Serve(error) => error.kind(),
            CommandError::Read(error) => error.kind(),
            CommandError::Database(error) => error.kind(),
            CommandError::Changes(error) => error.kind(),
            CommandError::Target(error) => error.kind(),
            CommandError::Shards(error) => error.kind(),
            CommandError::NeedsSeed { .. }
            | CommandError::OtherHistory { .. }
            | CommandError::NeedSeeds { .. }
            | CommandError::Untracked { .. } => ErrorKind::NeedsSeed,
            CommandError::Unrendered { .. } | CommandError::NotPurged { .. } => ErrorKind::Partial,
            CommandError::Contended { .. } => ErrorKind::Transient(Obstacle::HeldUp),
            // A run ends with `Restarts` or `HeldUp` once it has started over as often as it may.
            CommandError::Restarts { .. }
            | CommandError::HeldUp { .. }
            | CommandError::Pipeline(_)
            | CommandError::Shrinks { .. }
            | CommandError::LosesRows { .. }
            | CommandError::NotReady(_)
            | CommandError::Output(_)
            | CommandError::NotThere { .. }
            | CommandError::BrokenTile { .. }
            | CommandError::Threads { .. }
            | CommandError::Unhealthy { .. }
            | CommandError::Differ { .. }
            | CommandError::Unsound { .. }
            | CommandError::Outbox(_)
            | CommandError::Scratch(_)
            | CommandError::Died(_) => ErrorKind::Failed,
        }
    }
}
