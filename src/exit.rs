//! From how a command ended to the exit code, in one place.

use std::process::ExitCode;

use crate::changes;
use crate::command::CommandError;
use crate::postgis;
use crate::sink::{DirectoryError, MbtilesError, PmtilesError, ReadError, S3Error, StagingError, TargetError};
use crate::stop::Signal;

/// The exit codes (docs/guarantees.md, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Failed; the target is unchanged, but for a last sync that failed.
    Failed = 1,
    /// Wrong usage or configuration; nothing was begun.
    Usage = 2,
    /// Done in part; the message says what is missing, and the manifest is the old one, or names the tiles.
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
    /// The code of a command that failed, if a stop may have been asked for before it ended: then the signal's code says that
    /// it was not finished, also where the failure has another cause. What has a code of its own keeps it, for that holds
    /// without the stop, too: wrong usage, tiles that could not be rendered, a target that needs a seed.
    #[must_use]
    pub fn after(error: &CommandError, stop: Option<Signal>) -> Exit {
        match (Exit::from(error), stop) {
            (Exit::Failed, Some(signal)) => signal.into(),
            (exit, _) => exit,
        }
    }
}

impl From<&CommandError> for Exit {
    fn from(error: &CommandError) -> Exit {
        match error {
            CommandError::Interrupted(signal) | CommandError::InterruptedInLine { signal, .. } => (*signal).into(),
            CommandError::Config(_)
            | CommandError::LargeTile { .. }
            | CommandError::NoReport { .. }
            | CommandError::NoTileList { .. }
            | CommandError::Location(_)
            | CommandError::NoVersions { .. }
            | CommandError::Unversioned { .. }
            | CommandError::Switch(_)
            | CommandError::NoTarget { .. }
            | CommandError::UnknownTarget { .. }
            | CommandError::OtherTileset { .. }
            | CommandError::Foreign { .. }
            | CommandError::SameTarget { .. }
            | CommandError::Unfit { .. }
            | CommandError::NoTile { .. }
            | CommandError::TileList(_)
            | CommandError::NoArea { .. } => Exit::Usage,
            CommandError::Read(error) => of_reading(error),
            CommandError::Database(error) => of_database(error),
            CommandError::Changes(error) => of_changes(error),
            CommandError::NeedsSeed { .. } | CommandError::NeedSeeds { .. } | CommandError::Untracked { .. } => {
                Exit::NeedsSeed
            }
            CommandError::Target(error) => of_target(error),
            CommandError::Unrendered { .. } => Exit::Partial,
            CommandError::Pipeline(_)
            | CommandError::Restarts { .. }
            | CommandError::HeldUp { .. }
            | CommandError::Shrinks { .. }
            | CommandError::Output(_)
            | CommandError::NotThere { .. }
            | CommandError::BrokenTile { .. }
            | CommandError::Unsound { .. }
            | CommandError::Died(_) => Exit::Failed,
        }
    }
}

fn of_database(error: &postgis::Error) -> Exit {
    match error {
        postgis::Error::Setting { .. }
        | postgis::Error::Layer { .. }
        | postgis::Error::NoPostgis { .. }
        | postgis::Error::OldPostgres { .. }
        | postgis::Error::OldPostgis { .. } => Exit::Usage,
        postgis::Error::Rewritten { .. }
        | postgis::Error::Unreachable { .. }
        | postgis::Error::Refused { .. }
        | postgis::Error::NotAccepted { .. }
        | postgis::Error::Timeout { .. }
        | postgis::Error::Query { .. }
        | postgis::Error::Lost { .. }
        | postgis::Error::Locked { .. }
        | postgis::Error::GaveWay { .. }
        | postgis::Error::Recovery { .. }
        | postgis::Error::Appeared { .. }
        | postgis::Error::Miscounted { .. }
        | postgis::Error::Unsteady { .. }
        | postgis::Error::LargeTile { .. }
        | postgis::Error::Pack { .. }
        | postgis::Error::Interrupted => Exit::Failed,
    }
}

fn of_changes(error: &changes::Error) -> Exit {
    match error {
        changes::Error::Database(error) => of_database(error),
        changes::Error::Untracked(_) => Exit::NeedsSeed,
        changes::Error::NotTrackable { .. }
        | changes::Error::Query { .. }
        | changes::Error::Foreign { .. }
        | changes::Error::Unsafe { .. }
        | changes::Error::Refused { .. }
        | changes::Error::SuperusersTable { .. }
        | changes::Error::WrongOwner { .. }
        | changes::Error::NotThere { .. } => Exit::Usage,
        changes::Error::NoRight { .. }
        | changes::Error::NoPruning { .. }
        | changes::Error::Locked { .. }
        | changes::Error::Installed(_)
        | changes::Error::Mendable { .. }
        | changes::Error::Overtaken
        | changes::Error::Unreadable { .. } => Exit::Failed,
    }
}

fn of_target(error: &TargetError) -> Exit {
    match error {
        TargetError::Mbtiles(error) => match error {
            MbtilesError::Staging(error) => of_staging(error),
            MbtilesError::Read(error) => of_reading(error),
            MbtilesError::Missing { .. } | MbtilesError::View { .. } => Exit::NeedsSeed,
            MbtilesError::Companion { .. }
            | MbtilesError::Pending(_)
            | MbtilesError::ReadOnly { .. }
            | MbtilesError::Held { .. }
            | MbtilesError::Changed { .. }
            | MbtilesError::Contract { .. }
            | MbtilesError::Sqlite { .. } => Exit::Failed,
        },
        TargetError::Pmtiles(error) => of_pmtiles(error),
        TargetError::Directory(error) => match error {
            DirectoryError::IsFile { .. }
            | DirectoryError::NoFolder(_)
            | DirectoryError::OtherTileset { .. }
            | DirectoryError::OtherTemplate { .. }
            | DirectoryError::NotOurs { .. }
            | DirectoryError::ForeignFolder { .. }
            | DirectoryError::NoVersions { .. } => Exit::Usage,
            DirectoryError::Whole { .. } | DirectoryError::NoTileset { .. } => Exit::NeedsSeed,
            DirectoryError::FileInTheWay { .. }
            | DirectoryError::LinkInTheWay { .. }
            | DirectoryError::Busy { .. }
            | DirectoryError::DiskFull { .. }
            | DirectoryError::Io { .. }
            | DirectoryError::Note { .. }
            | DirectoryError::Inventory(_)
            | DirectoryError::Interrupted { .. } => Exit::Failed,
        },
        TargetError::S3(error) => of_s3(error),
    }
}

fn of_reading(error: &ReadError) -> Exit {
    match error {
        ReadError::Missing { .. } | ReadError::Foreign { .. } => Exit::Usage,
        ReadError::HalfWritten { .. } | ReadError::Damaged { .. } | ReadError::Io { .. } | ReadError::Remote { .. } => {
            Exit::Failed
        }
    }
}

fn of_staging(error: &StagingError) -> Exit {
    match error {
        StagingError::NoFolder(_) | StagingError::IsDirectory { .. } | StagingError::Foreign { .. } => Exit::Usage,
        StagingError::Unreadable { .. }
        | StagingError::Busy { .. }
        | StagingError::DiskFull { .. }
        | StagingError::Interrupted { .. }
        | StagingError::Io { .. }
        | StagingError::Unsynced { .. } => Exit::Failed,
    }
}

fn of_pmtiles(error: &PmtilesError) -> Exit {
    match error {
        PmtilesError::Staging(error) => of_staging(error),
        PmtilesError::Old(error) => of_reading(error),
        PmtilesError::Missing { .. } | PmtilesError::Unpacked { .. } => Exit::NeedsSeed,
        PmtilesError::Io { .. } | PmtilesError::Entries(_) | PmtilesError::Pack(_) | PmtilesError::Contract { .. } => {
            Exit::Failed
        }
    }
}

fn of_s3(error: &S3Error) -> Exit {
    match error {
        S3Error::Setting { .. }
        | S3Error::NoRegion { .. }
        | S3Error::NoBucket { .. }
        | S3Error::NoKeys { .. }
        | S3Error::Region { .. }
        | S3Error::OtherTileset { .. }
        | S3Error::Foreign { .. }
        | S3Error::Missing { .. }
        | S3Error::Switch { .. } => Exit::Usage,
        S3Error::Whole { .. } | S3Error::NoTileset { .. } => Exit::NeedsSeed,
        S3Error::Incomplete { .. } => Exit::Partial,
        S3Error::Archive(error) => of_pmtiles(error),
        S3Error::Denied { .. }
        | S3Error::Keys { .. }
        | S3Error::Expired { .. }
        | S3Error::Unreachable { .. }
        | S3Error::Timeout { .. }
        | S3Error::Clock { .. }
        | S3Error::Busy { .. }
        | S3Error::Refused { .. }
        | S3Error::Held { .. }
        | S3Error::Lost { .. }
        | S3Error::Changed { .. }
        | S3Error::Interrupted { .. }
        | S3Error::Note { .. }
        | S3Error::TooLarge { .. }
        | S3Error::File { .. }
        | S3Error::Scratch { .. }
        | S3Error::Inventory(_) => Exit::Failed,
    }
}
