//! Deletes the target of a variant whose value has vanished.

use std::io;
use std::path::Path;

use super::super::{CommandError, SeveralError, Target, TargetUrl};
use crate::sink::{OpenMode, Sink as _, is_own_name};

/// Deletes a target that this program wrote, and what is kept next to it. Works under the target's lock. False if there is no such target. May
/// wait for a server.
pub(crate) fn remove_target(target: &Target) -> Result<bool, CommandError> {
    let Some(mut reader) = target.reader_of_what_is_there()? else { return Ok(false) };
    if reader.describe()?.manifest.is_none() {
        return Ok(false);
    }
    // From now on, another run that writes the target is refused.
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    drop(sink);
    // Listed under the lock, so that files that others put next to the tiles are not deleted.
    let tiles = if matches!(target.url, TargetUrl::Directory(_)) { reader.list()?.len() } else { 0 };
    drop(reader);
    let failed =
        |path: &Path, source: io::Error| CommandError::from(SeveralError::NotRemoved { path: path.to_owned(), source });
    match &target.url {
        TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let notes = path.with_file_name(format!(".{name}.oar-tiles"));
            let companions = ["-wal", "-shm", "-journal"].map(|ending| path.with_file_name(format!("{name}{ending}")));
            for file in std::iter::once(path).chain(&companions) {
                if_there(std::fs::remove_file(file)).map_err(|error| failed(file, error))?;
            }
            if_there(std::fs::remove_dir_all(&notes)).map_err(|error| failed(&notes, error))?;
        }
        TargetUrl::Directory(path) => {
            let others = files_below(path, true).map_err(|error| failed(path, error))?.saturating_sub(tiles);
            if others > 0 {
                let what = format!("files in it that are none of its tiles: {others}");
                return Err(failed(path, io::Error::other(what)));
            }
            if_there(std::fs::remove_dir_all(path)).map_err(|error| failed(path, error))?;
        }
        TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => target.remove_objects()?,
    }
    Ok(true)
}

/// The number of files in `folder` and below. If `is_target`, the files that the program keeps next to tiles are not counted. A link counts as a
/// file.
fn files_below(folder: &Path, is_target: bool) -> io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if is_target && is_own_name(&entry.file_name().to_string_lossy()) {
            continue;
        }
        files += if entry.file_type()?.is_dir() { files_below(&entry.path(), false)? } else { 1 };
    }
    Ok(files)
}

fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
