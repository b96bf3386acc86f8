//! A directory read back, and its map switched to another version.

use std::path::{Path, PathBuf};

use super::files::{self, Files};
use super::lock::Lock;
use super::{DirectoryError, OWN_FOLDER};
use crate::sink::tree::notes::{self, Noted};
use crate::sink::tree::{Latest, Template};
use crate::sink::{Described, ReadError, TileReader};
use crate::stop::Stop;
use crate::tile::TileId;

/// A directory with a file for each tile.
#[derive(Debug)]
pub struct DirectoryReader {
    root: PathBuf,
    template: Template,
    noted: Noted,
}

impl DirectoryReader {
    /// Opens a directory. The template is the one in its metadata, or `template` if it has none; with versions, the one that
    /// is shown.
    ///
    /// # Errors
    /// If there is no directory, or its notes cannot be read.
    pub fn open(root: &Path, template: &Template) -> Result<DirectoryReader, ReadError> {
        let place = || root.display().to_string();
        if !root.is_dir() {
            return Err(ReadError::Missing { place: place() });
        }
        let note = |name: &str| {
            let path = root.join(name);
            files::read(&path).map_err(|source| ReadError::Io { path, source })
        };
        let damaged = |name: &str, error: &dyn std::fmt::Display| ReadError::Damaged {
            place: place(),
            what: format!("{name} cannot be read ({error})"),
        };
        let latest: Option<Latest> = match note(notes::LATEST)? {
            Some(body) if template.is_versioned() || note(notes::METADATA)?.is_none() => {
                Some(serde_json::from_slice(&body).map_err(|error| damaged(notes::LATEST, &error))?)
            }
            _ => None,
        };
        let name = match &latest {
            Some(latest) => notes::of_version(&latest.version, notes::METADATA),
            None => notes::METADATA.to_owned(),
        };
        let noted = match note(&name)? {
            Some(body) => notes::read(&body).map_err(|error| damaged(&name, &error))?,
            None => Noted::default(),
        };
        let mut template = match &noted.template {
            Some(text) => Template::new(text).map_err(|error| damaged(&name, &error))?,
            None => template.clone(),
        };
        template = template.with_layers(noted.layers.iter().map(String::as_str));
        if let Some(latest) = &latest {
            template = template.with_version(&latest.version);
        }
        Ok(DirectoryReader { root: root.to_owned(), template, noted })
    }
}

impl TileReader for DirectoryReader {
    fn describe(&mut self) -> Result<Described, ReadError> {
        Ok(self.noted.described.clone())
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        let mut found = Vec::new();
        let walked = files::walk(&self.root, &self.template.prefix(), &Stop::new(), |name| {
            found.extend(self.template.read(name));
            Ok::<(), ReadError>(())
        });
        walked.map_err(|(path, source)| ReadError::Io { path, source })??;
        Ok(found)
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        let read = |id: &TileId| {
            let path = self.root.join(self.template.name(*id));
            files::read(&path)
                .map(|bytes| bytes.map(Vec::into_boxed_slice))
                .map_err(|source| ReadError::Io { path, source })
        };
        tiles.iter().map(read).collect()
    }
}

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

/// Switches a directory's map to another version, or to the one before; gives the version that is shown now, or why there is
/// none.
///
/// # Errors
/// If the directory cannot be written, or another run writes it.
pub fn switch_directory(
    root: &Path,
    to: Option<&str>,
) -> Result<Result<Latest, crate::sink::SwitchError>, DirectoryError> {
    let own = root.join(OWN_FOLDER);
    if !root.is_dir() {
        return Err(DirectoryError::NoFolder { folder: root.to_owned(), path: root.to_owned() });
    }
    let _lock = Lock::take(root, &own)?;
    let mut files = Files::new(root, &own);
    let path = root.join(notes::LATEST);
    let Some(body) = files.read(notes::LATEST)? else {
        return Err(DirectoryError::NoVersions { path: root.to_owned() });
    };
    let latest: Latest = serde_json::from_slice(&body).map_err(|source| DirectoryError::Note { path, source })?;
    match latest.switched(to) {
        Ok(latest) => show(&mut files, root, &latest).map(|()| Ok(latest)),
        Err(refused) => Ok(Err(refused)),
    }
}
