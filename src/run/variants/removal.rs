//! Deletes the target of a variant whose value has vanished.

use std::io;
use std::path::Path;

use super::super::{CommandError, Target, TargetUrl};
use crate::sink::{OpenMode, Sink as _};

/// Deletes a target with what is kept beside it, if it is one that this program wrote, under its lock. False if there is none. May wait for a
/// server.
pub(crate) fn remove_target(target: &Target) -> Result<bool, CommandError> {
    let Some(mut reader) = target.reader_of_what_is_there()? else { return Ok(false) };
    let described = reader.describe()?;
    drop(reader);
    if described.manifest.is_none() {
        return Ok(false);
    }
    // Another run that writes it is refused from now on.
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    drop(sink);
    let failed = |path: &Path, source: io::Error| CommandError::NotRemoved { path: path.to_owned(), source };
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
            if_there(std::fs::remove_dir_all(path)).map_err(|error| failed(path, error))?;
        }
        TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => target.remove_objects()?,
    }
    Ok(true)
}

fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
