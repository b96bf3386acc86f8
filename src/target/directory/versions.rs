//! The versions of a directory: listed, switched, removed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::DirectoryError;
use super::files::Files;
use super::folder::{OpenFolder, split};
use super::found::walk;
use super::lock::Lock;
use crate::stop::Stop;
use crate::target::SwitchError;
use crate::target::read::MAX_NOTE;
use crate::target::tree::notes::TargetNotes;
use crate::target::tree::{Inventory, Latest, Template, Version, new_version, notes};

/// The folder that has a folder for the notes of each version.
const VERSIONS: &str = ".oar-tiles/versions";

/// `latest.json`, if there is one.
pub(crate) fn latest(root: &OpenFolder) -> Result<Option<Latest>, DirectoryError> {
    let body = root.read(notes::LATEST, MAX_NOTE).map_err(|error| error.into_error("read"))?;
    let Some(body) = body else { return Ok(None) };
    let failed = |source| DirectoryError::Note { path: root.path().join(notes::LATEST), source };
    serde_json::from_slice(&body).map(Some).map_err(failed)
}

/// The name of a new version. It differs from the names of published versions, and of versions that were begun or are
/// being removed.
pub(crate) fn unused(files: &Files, latest: Option<&Latest>) -> Result<String, DirectoryError> {
    let left = entries(files, VERSIONS)?.into_iter().map(|version| Version { version, published: 0 });
    let published = latest.map_or_else(Vec::new, |latest| latest.versions.clone());
    let taken = Latest { version: String::new(), versions: published.into_iter().chain(left).collect() };
    Ok(new_version(SystemTime::now(), Some(&taken)))
}

/// Switches clients to the version that `latest` names: writes its TileJSON, then `latest.json`. `before` is the
/// current version until then.
pub(crate) fn show(files: &mut Files, latest: &Latest, before: Option<&str>) -> Result<(), DirectoryError> {
    let own = tilejson_of(files, &latest.version)?;
    for name in &own {
        if let Some(body) = files.read(&notes::of_version(&latest.version, name))? {
            files.put_durably(name, &body)?;
        }
    }
    let body = serde_json::to_vec_pretty(latest)
        .map_err(|source| DirectoryError::Note { path: files.path(notes::LATEST), source })?;
    files.put_durably(notes::LATEST, &body)?;
    // Removes the TileJSON of layers that the new version does not have.
    if let Some(before) = before {
        for gone in tilejson_of(files, before)?.difference(&own) {
            files.remove(gone)?;
        }
    }
    Ok(())
}

/// The names of a version's TileJSON files.
fn tilejson_of(files: &Files, version: &str) -> Result<BTreeSet<String>, DirectoryError> {
    let mut names = entries(files, split(&notes::of_version(version, "")).0)?;
    names.remove(notes::METADATA);
    Ok(names)
}

/// The names in one of the program's folders; none if the folder does not exist.
fn entries(files: &Files, folder: &str) -> Result<BTreeSet<String>, DirectoryError> {
    let mut names = BTreeSet::new();
    let read = files.root().find(folder).and_then(|folder| folder.each(|name, _| names.extend([name.to_owned()])));
    match read {
        Err(error) if !error.is_missing() => Err(error.into_error("read the folder")),
        _ => Ok(names),
    }
}

/// Removes every version that `latest` does not list: expired versions, versions that were begun and not finished, and
/// versions whose removal was interrupted. A stop ends the removal early; the next run continues it.
pub(crate) fn remove_others(
    files: &mut Files,
    latest: &Latest,
    template: &Template,
    stop: &Stop,
) -> Result<(), DirectoryError> {
    for version in entries(files, VERSIONS)? {
        if latest.versions.iter().any(|known| known.version == version) {
            continue;
        }
        remove(files, &version, template, stop)?;
        if stop.asked().is_some() {
            break;
        }
    }
    Ok(())
}

/// Removes the tiles of a version, then its notes. `template`, with its layers, is used for a version without notes.
fn remove(files: &mut Files, version: &str, template: &Template, stop: &Stop) -> Result<(), DirectoryError> {
    let noted = match files.read(&notes::of_version(version, notes::METADATA)) {
        Ok(Some(body)) => notes::read(&body).unwrap_or_default(),
        // An entry that is not a version, such as a link, is removed itself.
        Ok(None) | Err(DirectoryError::LinkInTheWay { .. }) => TargetNotes::default(),
        Err(error) => return Err(error),
    };
    // The version may have another template and other layers than this run.
    let own = noted.template.as_deref().map(Template::new).and_then(Result::ok).filter(Template::is_versioned);
    let template = match own {
        Some(own) => own.with_layers(noted.layers.iter().map(String::as_str)),
        None => template.clone(),
    };
    let template = template.with_version(version);
    let mut held = Inventory::new()?;
    let walked = walk(files.root(), &template, stop, |name| {
        template.read(name).map_or(Ok(()), |id| held.add(id, None).map_err(DirectoryError::from))
    });
    match walked {
        Ok(done) => done?,
        Err(_) if stop.asked().is_some() => return Ok(()),
        Err(error) => return Err(error.into_error("read the folder")),
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
    match files.root().find(VERSIONS) {
        Ok(versions) => versions.remove_filled(version).map_err(|error| error.into_error("remove")),
        Err(missing) if missing.is_missing() => Ok(()),
        Err(error) => Err(error.into_error("remove")),
    }
}

/// The versions of a directory.
///
/// # Errors
/// If there are none, or they cannot be read.
pub fn directory_versions(root: &Path) -> Result<Latest, DirectoryError> {
    let none = || DirectoryError::NoVersions { path: root.to_owned() };
    match OpenFolder::open(root) {
        Ok(root) => latest(&root)?.ok_or_else(none),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(none()),
        Err(error) => Err(DirectoryError::io("read", root, error)),
    }
}

/// Switches clients to the version `to`, or to the one before the current version. Returns the versions after the
/// switch, or the reason why there is no such version.
///
/// # Errors
/// If the directory cannot be written, or another run writes it.
pub fn switch_directory(root: &Path, to: Option<&str>) -> Result<Result<Latest, SwitchError>, DirectoryError> {
    directory_versions(root)?;
    let mut lock = Lock::take(root)?;
    lock.keep();
    let before = directory_versions(root)?;
    let shown = before.version.clone();
    match before.switched(to) {
        Ok(latest) => {
            let other = Some(shown.as_str()).filter(|shown| *shown != latest.version);
            show(&mut Files::new(&lock.root, &lock.own), &latest, other).map(|()| Ok(latest))
        }
        Err(refused) => Ok(Err(refused)),
    }
}
