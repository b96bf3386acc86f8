//! A directory read back.

use std::path::{Path, PathBuf};

use super::files;
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
