//! Why a target could not be written, whichever it is.

use super::{DirectoryError, MbtilesError, PmtilesError, S3Error};

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
    /// A prefix or an object in S3.
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl TargetError {
    /// Whether it failed because a stop was asked for.
    #[must_use]
    pub const fn is_interrupted(&self) -> bool {
        matches!(
            self,
            TargetError::Mbtiles(MbtilesError::Interrupted { .. })
                | TargetError::Pmtiles(PmtilesError::Interrupted { .. })
                | TargetError::Directory(DirectoryError::Interrupted { .. })
                | TargetError::S3(S3Error::Interrupted { .. })
        )
    }
}
