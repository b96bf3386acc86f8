//! From how a command ended to the exit code, in one place.

use std::process::ExitCode;

use crate::command::CommandError;
use crate::postgis;
use crate::sink::{DirectoryError, MbtilesError, PmtilesError, ReadError, S3Error, StagingError, TargetError};
use crate::stop::Signal;

/// The exit codes (README, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Failed; the target is unchanged, but for a last sync that failed.
    Failed = 1,
    /// Wrong usage or configuration; nothing was begun.
    Usage = 2,
    /// Done in part: the message says what is missing.
    Partial = 3,
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

impl From<&CommandError> for Exit {
    fn from(error: &CommandError) -> Exit {
        match error {
            CommandError::Interrupted(signal) | CommandError::InterruptedInLine { signal, .. } => (*signal).into(),
            CommandError::Config(_)
            | CommandError::LargeTile { .. }
            | CommandError::NoReport { .. }
            | CommandError::Location(_)
            | CommandError::NoVersions { .. }
            | CommandError::Unversioned { .. }
            | CommandError::Switch(_)
            | CommandError::NoTarget { .. }
            | CommandError::SameTarget { .. }
            | CommandError::Unfit { .. }
            | CommandError::NoTile { .. }
            | CommandError::Read(ReadError::Missing { .. } | ReadError::Foreign { .. }) => Exit::Usage,
            CommandError::Database(error) => match error {
                postgis::Error::Setting { .. }
                | postgis::Error::Layer { .. }
                | postgis::Error::NoPostgis { .. }
                | postgis::Error::OldPostgres { .. }
                | postgis::Error::OldPostgis { .. } => Exit::Usage,
                postgis::Error::Unreachable { .. }
                | postgis::Error::Refused { .. }
                | postgis::Error::NotAccepted { .. }
                | postgis::Error::Timeout { .. }
                | postgis::Error::Query { .. }
                | postgis::Error::Lost { .. }
                | postgis::Error::Miscounted { .. }
                | postgis::Error::Interrupted => Exit::Failed,
            },
            CommandError::Target(error) => of_target(error),
            CommandError::Pipeline(_)
            | CommandError::Restarts { .. }
            | CommandError::Output(_)
            | CommandError::Read(ReadError::Damaged { .. } | ReadError::Io { .. } | ReadError::Remote { .. })
            | CommandError::NotThere { .. }
            | CommandError::BrokenTile { .. }
            | CommandError::Unsound { .. }
            | CommandError::Died(_) => Exit::Failed,
        }
    }
}

fn of_target(error: &TargetError) -> Exit {
    match error {
        TargetError::Mbtiles(error) => match error {
            MbtilesError::Foreign { .. }
            | MbtilesError::Staging(StagingError::NoFolder { .. } | StagingError::IsDirectory { .. }) => Exit::Usage,
            MbtilesError::Staging(
                StagingError::Busy { .. } | StagingError::Io { .. } | StagingError::Unsynced { .. },
            )
            | MbtilesError::Unreadable { .. }
            | MbtilesError::Companion { .. }
            | MbtilesError::DiskFull { .. }
            | MbtilesError::Interrupted { .. }
            | MbtilesError::Sqlite { .. } => Exit::Failed,
        },
        TargetError::Pmtiles(error) => match error {
            PmtilesError::Foreign { .. }
            | PmtilesError::Staging(StagingError::NoFolder { .. } | StagingError::IsDirectory { .. }) => Exit::Usage,
            PmtilesError::Staging(
                StagingError::Busy { .. } | StagingError::Io { .. } | StagingError::Unsynced { .. },
            )
            | PmtilesError::Unreadable { .. }
            | PmtilesError::DiskFull { .. }
            | PmtilesError::Interrupted { .. }
            | PmtilesError::Io { .. }
            | PmtilesError::Entries(_)
            | PmtilesError::Pack(_)
            | PmtilesError::Contract { .. } => Exit::Failed,
        },
        TargetError::S3(error) => match error {
            S3Error::Incomplete { .. } => Exit::Partial,
            S3Error::Setting { .. }
            | S3Error::NoRegion { .. }
            | S3Error::NoBucket { .. }
            | S3Error::OtherTileset { .. }
            | S3Error::Foreign { .. }
            | S3Error::Switch { .. }
            | S3Error::NoKeys { .. } => Exit::Usage,
            _ => Exit::Failed,
        },
        TargetError::Directory(error) => match error {
            DirectoryError::IsFile { .. }
            | DirectoryError::NoFolder { .. }
            | DirectoryError::OtherTileset { .. }
            | DirectoryError::OtherTemplate { .. }
            | DirectoryError::NotOurs { .. }
            | DirectoryError::NoVersions { .. } => Exit::Usage,
            DirectoryError::FileInTheWay { .. }
            | DirectoryError::Busy { .. }
            | DirectoryError::DiskFull { .. }
            | DirectoryError::Io { .. }
            | DirectoryError::Note { .. }
            | DirectoryError::Inventory(_)
            | DirectoryError::Interrupted { .. } => Exit::Failed,
        },
    }
}
