//! The errors of all kinds of targets, and their kinds.

use super::{DirectoryError, MbtilesError, PmtilesError, S3Error};
use crate::error::ErrorKind;

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
