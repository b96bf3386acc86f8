//! The errors of all kinds of targets, and their kinds.

use super::{BucketError, DirectoryError, MbtilesError, PmtilesError};
use crate::error::ErrorKind;

/// Why a target could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Mbtiles(#[from] MbtilesError),
    #[error(transparent)]
    Pmtiles(#[from] PmtilesError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl TargetError {
    /// True if another run is writing the target.
    pub const fn is_held(&self) -> bool {
        match self {
            TargetError::Mbtiles(MbtilesError::Staging(error)) | TargetError::Pmtiles(PmtilesError::Staging(error)) => {
                error.is_busy()
            }
            TargetError::Directory(DirectoryError::Busy { .. }) | TargetError::Bucket(BucketError::Held { .. }) => true,
            _ => false,
        }
    }

    pub const fn kind(&self) -> ErrorKind {
        match self {
            TargetError::Mbtiles(error) => error.kind(),
            TargetError::Pmtiles(error) => error.kind(),
            TargetError::Directory(error) => error.kind(),
            TargetError::Bucket(error) => error.kind(),
        }
    }
}
