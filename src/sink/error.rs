//! Why a target could not be written, whichever it is.

use super::{DirectoryError, MbtilesError, PmtilesError, S3Error, StagingError};

/// Why a target could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// An MBTiles file.
    #[error(transparent)]
    Mbtiles(#[from] MbtilesError),
    /// A PMTiles file.
    #[error(transparent)]
    Pmtiles(#[from] PmtilesError),
    /// A directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// S3.
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl TargetError {
    /// Whether the target cannot be edited, but seeded.
    #[must_use]
    pub const fn needs_seed(&self) -> bool {
        match self {
            TargetError::Mbtiles(error) => matches!(error, MbtilesError::Missing { .. } | MbtilesError::View { .. }),
            TargetError::Pmtiles(error) | TargetError::S3(S3Error::Archive(error)) => {
                matches!(error, PmtilesError::Missing { .. } | PmtilesError::Unpacked { .. })
            }
            TargetError::Directory(error) => {
                matches!(error, DirectoryError::Whole { .. } | DirectoryError::NoTileset { .. })
            }
            TargetError::S3(error) => matches!(error, S3Error::Whole { .. } | S3Error::NoTileset { .. }),
        }
    }

    /// Whether it failed because a stop was asked for.
    #[must_use]
    pub const fn is_interrupted(&self) -> bool {
        match self {
            TargetError::Mbtiles(error) => matches!(error, MbtilesError::Staging(StagingError::Interrupted { .. })),
            TargetError::Pmtiles(error) => matches!(error, PmtilesError::Staging(StagingError::Interrupted { .. })),
            TargetError::Directory(error) => matches!(error, DirectoryError::Interrupted { .. }),
            TargetError::S3(error) => error.is_interrupted(),
        }
    }
}
