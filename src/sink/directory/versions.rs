//! The versions of a directory: which there are, which one the map shows, and how old ones go.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::files::{self, Files};
use super::lock::Lock;
use super::{DirectoryError, OWN_FOLDER};
use crate::sink::SwitchError;
use crate::sink::tree::notes::{self, Noted};
use crate::sink::tree::{Inventory, Latest, Template};
use crate::stop::Stop;

/// Where each version keeps its notes.
const VERSIONS: &str = ".oar-tiles/versions";

/// `latest.json`, if there is one.
pub(super) fn latest(files: &Files) -> Result<Option<Latest>, DirectoryError> {
    let Some(body) = files.read(notes::LATEST)? else { return Ok(None) };
    let failed = |source| DirectoryError::Note { path: files.path(notes::LATEST), source };
    serde_json::from_slice(&body).map(Some).map_err(failed)
}

/// Shows a version: its TileJSON, then `latest.json`, which is what counts. `before` is the version shown until now.
pub(super) fn show(files: &mut Files, latest: &Latest, before: Option<&str>) -> Result<(), DirectoryError> {
    let own = tilejson_of(files, &latest.version)?;
    for name in &own {
        if let Some(body) = files.read(&notes::of_version(&latest.version, name))? {
            files.put_durably(name, &body)?;
        }
    }
    let body = serde_json::to_vec_pretty(latest)
        .map_err(|source| DirectoryError::Note { path: files.path(notes::LATEST), source })?;
    files.put_durably(notes::LATEST, &body)?;
    // A layer that this version has not.
    if let Some(before) = before {
        for gone in tilejson_of(files, before)?.difference(&own) {
            files.remove(gone)?;
        }
    }
    Ok(())
}

/// The names of a version's TileJSON.
fn tilejson_of(files: &Files, version: &str) -> Result<BTreeSet<String>, DirectoryError> {
    let mut names = entries(&files.path(&notes::of_version(version, "")))?;
    names.remove(notes::METADATA);
    Ok(names)
}

/// The names in a folder of ours; none if it is not there.
fn entries(folder: &Path) -> Result<BTreeSet<String>, DirectoryError> {
    let failed = |source| DirectoryError::io("read the folder", folder, source);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        // What is no UTF-8 is not ours.
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Removes every version that `latest` does not name: expired ones, begun ones that nobody will finish, and those whose
/// removal was interrupted. A stop ends it early; the next run goes on.
pub(super) fn remove_others(
    files: &mut Files,
    root: &Path,
    latest: &Latest,
    template: &Template,
    stop: &Stop,
) -> Result<(), DirectoryError> {
    for version in entries(&files.path(VERSIONS))? {
        if latest.versions.iter().any(|known| known.version == version) {
            continue;
        }
        remove(files, root, &version, template, stop)?;
        if stop.asked().is_some() {
            break;
        }
    }
    Ok(())
}

/// Removes the tiles of a version, then its notes. `template` with its layers is what a version without notes is read by.
fn remove(
    files: &mut Files,
    root: &Path,
    version: &str,
    template: &Template,
    stop: &Stop,
) -> Result<(), DirectoryError> {
    let noted = match files.read(&notes::of_version(version, notes::METADATA))?.map(|body| notes::read(&body)) {
        Some(Ok(noted)) => noted,
        Some(Err(_)) | None => Noted::default(),
    };
    // It may have been written under another template and with other layers than this run's.
    let own = noted.template.as_deref().map(Template::new).and_then(Result::ok).filter(Template::is_versioned);
    let template = match own {
        Some(own) => own.with_layers(noted.layers.iter().map(String::as_str)),
        None => template.clone(),
    };
    let template = template.with_version(version);
    let mut held = Inventory::new()?;
    let walked = files::walk(root, &template.prefix(), stop, |name| {
        template.read(name).map_or(Ok(()), |id| held.add(id, None).map_err(DirectoryError::from))
    });
    match walked {
        Ok(done) => done?,
        Err(_) if stop.asked().is_some() => return Ok(()),
        Err((path, source)) => return Err(DirectoryError::io("read the folder", &path, source)),
    }
    loop {
        let tiles = held.rest()?;
        if tiles.is_empty() {
            break;
        }
        for id in tiles {
            files.remove(&template.name(id))?;
        }
        if stop.asked().is_some() {
            return Ok(());
        }
    }
    let own = files.path(&notes::of_version(version, ""));
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DirectoryError::io("remove", &own, error)),
        _ => Ok(()),
    }
}

/// The versions of a directory.
///
/// # Errors
/// If there are none, or they cannot be read.
pub fn directory_versions(root: &Path) -> Result<Latest, DirectoryError> {
    let files = Files::new(root, &root.join(OWN_FOLDER));
    latest(&files)?.ok_or_else(|| DirectoryError::NoVersions { path: root.to_owned() })
}

/// Switches a directory's map to another version, or to the one before; gives the versions then, or why there is none.
///
/// # Errors
/// If the directory cannot be written, or another run writes it.
pub fn switch_directory(root: &Path, to: Option<&str>) -> Result<Result<Latest, SwitchError>, DirectoryError> {
    directory_versions(root)?;
    let own = root.join(OWN_FOLDER);
    let mut lock = Lock::take(root, &own)?;
    lock.keep();
    let before = directory_versions(root)?;
    let shown = before.version.clone();
    match before.switched(to) {
        Ok(latest) => {
            let other = Some(shown.as_str()).filter(|shown| *shown != latest.version);
            show(&mut Files::new(root, &own), &latest, other).map(|()| Ok(latest))
        }
        Err(refused) => Ok(Err(refused)),
    }
}
