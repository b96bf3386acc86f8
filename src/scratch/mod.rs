//! Scratch files: what takes more memory than it may, in files without a name. Such a file ends with its owner, and a killed run leaves nothing
//! behind.

mod points;

use std::fs::File;
use std::io;
use std::path::PathBuf;

pub use points::{MAX_POINTS_IN_MEMORY, PointFile, PointSorter, SortedPlaces};

/// A new scratch file.
///
/// # Errors
/// If the temporary folder does not take a file.
pub fn scratch_file() -> io::Result<File> {
    tempfile::tempfile_in(temporary_folder())
}

/// Where scratch files lie: `TMPDIR`, or `/var/tmp`, which is on a disk where `/tmp` may be in memory.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}
