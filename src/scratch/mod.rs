//! Scratch files: files without a name, for data that takes more memory than allowed. Such a file disappears with its owner, and a killed
//! run leaves nothing behind.

mod points;

use std::fs::File;
use std::io;
use std::path::PathBuf;

pub use points::{MAX_POINTS_IN_MEMORY, PointFile, PointSorter, SortedPlaces};

/// A new scratch file.
///
/// # Errors
/// If no file can be created in the temporary folder.
pub fn scratch_file() -> io::Result<File> {
    tempfile::tempfile_in(temporary_folder())
}

/// The folder of scratch files: `TMPDIR`, or `/var/tmp`, which is on a disk where `/tmp` may be in memory.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}
