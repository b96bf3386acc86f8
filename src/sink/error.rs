//! Why a target could not be written, whichever it is.

use super::{DirectoryError, MbtilesError};

/// Why a target could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// An MBTiles file.
    #[error(transparent)]
    Mbtiles(#[from] MbtilesError),
    /// A directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

impl TargetError {
    /// Whether it failed because a stop was asked for.
    #[must_use]
    pub const fn is_interrupted(&self) -> bool {
        matches!(
            self,
            TargetError::Mbtiles(MbtilesError::Interrupted { .. })
                | TargetError::Directory(DirectoryError::Interrupted { .. })
        )
    }
}
