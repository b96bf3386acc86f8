//! The versions of a directory: which there are, and which one the map shows.

use std::path::Path;

use super::files::Files;
use super::lock::Lock;
use super::{DirectoryError, OWN_FOLDER};
use crate::sink::SwitchError;
use crate::sink::tree::Latest;
use crate::sink::tree::notes;

/// Shows a version: its TileJSON, then `latest.json`, which is what counts.
pub(super) fn show(files: &mut Files, root: &Path, latest: &Latest) -> Result<(), DirectoryError> {
    let own = root.join(notes::of_version(&latest.version, ""));
    let entries = std::fs::read_dir(&own).map_err(|source| DirectoryError::io("read the folder", &own, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| DirectoryError::io("read the folder", &own, source))?;
        if let Ok(name) = entry.file_name().into_string()
            && name != notes::METADATA
            && let Some(body) = files.read(&notes::of_version(&latest.version, &name))?
        {
            files.put_durably(&name, &body)?;
        }
    }
    let body = serde_json::to_vec_pretty(latest)
        .map_err(|source| DirectoryError::Note { path: root.join(notes::LATEST), source })?;
    files.put_durably(notes::LATEST, &body)
}

/// The versions of a directory.
///
/// # Errors
/// If there are none, or they cannot be read.
pub fn directory_versions(root: &Path) -> Result<Latest, DirectoryError> {
    let files = Files::new(root, &root.join(OWN_FOLDER));
    let Some(body) = files.read(notes::LATEST)? else {
        return Err(DirectoryError::NoVersions { path: root.to_owned() });
    };
    serde_json::from_slice(&body).map_err(|source| DirectoryError::Note { path: root.join(notes::LATEST), source })
}

/// Switches a directory's map to another version, or to the one before; gives the versions then, or why there is none.
///
/// # Errors
/// If the directory cannot be written, or another run writes it.
pub fn switch_directory(root: &Path, to: Option<&str>) -> Result<Result<Latest, SwitchError>, DirectoryError> {
    directory_versions(root)?;
    let own = root.join(OWN_FOLDER);
    let _lock = Lock::take(root, &own)?;
    match directory_versions(root)?.switched(to) {
        Ok(latest) => show(&mut Files::new(root, &own), root, &latest).map(|()| Ok(latest)),
        Err(refused) => Ok(Err(refused)),
    }
}
