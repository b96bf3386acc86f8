//! The errors of all kinds of targets, and their kinds.

use super::{DirectoryError, MbtilesError, PmtilesError, S3Error};
use crate::error::{ErrorKind, Obstacle};

/// Why a target could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// An MBTiles file.
    #[error(transparent)]
    Mbtiles(#[from] MbtilesError),
    /// A PMTiles file.
    #[error(transparent)]
    Pmtiles(#[from] PmtilesError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl TargetError {
    /// True if another run is writing the target.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        match self {
            TargetError::Mbtiles(MbtilesError::Staging(error)) | TargetError::Pmtiles(PmtilesError::Staging(error)) => {
                error.is_busy()
            }
            TargetError::Directory(DirectoryError::Busy { .. }) | TargetError::S3(S3Error::Held { .. }) => true,
            _ => false,
        }
    }

    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            TargetError::Mbtiles(error) => error.kind(),
            TargetError::Pmtiles(error) => error.kind(),
            TargetError::Directory(error) => error.kind(),
            TargetError::S3(error) => error.kind(),
        }
    }
}

impl S3Error {
    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            S3Error::Setting { .. }
            | S3Error::NotBuilt { .. }
            | S3Error::NoRegion { .. }
            | S3Error::NoBucket { .. }
            | S3Error::NoKeys { .. }
            | S3Error::Region { .. }
            | S3Error::OtherTileset { .. }
            | S3Error::Foreign { .. }
            | S3Error::Missing { .. }
            | S3Error::Switch { .. } => ErrorKind::Usage,
            S3Error::Whole { .. } | S3Error::NoTileset { .. } | S3Error::NoVersion { .. } => ErrorKind::NeedsSeed,
            S3Error::Incomplete { .. } => ErrorKind::Partial,
            S3Error::Interrupted { .. } => ErrorKind::Interrupted,
            S3Error::Archive(error) => error.kind(),
            S3Error::Unreachable { .. } | S3Error::Timeout { .. } | S3Error::Busy { .. } => {
                ErrorKind::Transient(Obstacle::Unreachable)
            }
            S3Error::Denied { .. }
            | S3Error::Keys { .. }
            | S3Error::Expired { .. }
            | S3Error::Clock { .. }
            | S3Error::Refused { .. }
            | S3Error::NoConditions { .. }
            | S3Error::Held { .. }
            | S3Error::Lost { .. }
            | S3Error::Changed { .. }
            | S3Error::Note { .. }
            | S3Error::TooLarge { .. }
            | S3Error::File { .. }
            | S3Error::Scratch { .. }
            | S3Error::BeforeManifest(_)
            | S3Error::ScratchList(_) => ErrorKind::Failed,
        }
    }
}
