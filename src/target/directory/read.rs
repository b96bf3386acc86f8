//! The reader of a directory.

use std::path::Path;

use super::folder::{NamedFolder, OpenFolder, Unreachable, split};
use super::state::{Started, walk};
use crate::encode::MAX_STORED_TILE;
use crate::stop::Stop;
use crate::target::directory::state;
use crate::target::read::{MAX_NOTE, ReadAllowance};
use crate::target::tree::notes::TargetNotes;
use crate::target::tree::{Latest, Template, notes};
use crate::target::{Described, ReadError, TileReader};
use crate::tile::TileId;

/// A reader of a directory with a file for each tile.
#[derive(Debug)]
pub struct DirectoryReader {
    root: OpenFolder,
    template: Template,
    noted: TargetNotes,
    /// True if the directory has a `metadata.json` or `latest.json`, whichever program wrote it.
    is_noted: bool,
    /// The folder from which the last tile was read, with its name.
    folder: Option<NamedFolder>,
}

impl DirectoryReader {
    /// Opens a directory. The template of its tiles' names comes from its metadata; `template` is used for a directory
    /// without metadata. If the directory has versions, opens the current one.
    /// Fails if there is no directory, or its notes cannot be read.
    pub fn open(root: &Path, template: &Template) -> Result<DirectoryReader, ReadError> {
        let place = || root.display().to_string();
        if !root.is_dir() {
            return Err(ReadError::Missing { place: place() });
        }
        let root = OpenFolder::open(root).map_err(|source| ReadError::Io { path: root.to_owned(), source })?;
        let note = |name: &str| root.read(name, MAX_NOTE).map_err(|error| error.into_read_error(place()));
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
        let body = note(&name)?;
        if let (Some(latest), None) = (&latest, &body) {
            let what =
                format!("{} names the version {}, which has no {}", notes::LATEST, latest.version, notes::METADATA);
            return Err(ReadError::Damaged { place: place(), what });
        }
        let noted = match &body {
            Some(body) => notes::read(body).map_err(|error| damaged(&name, &error))?,
            None => TargetNotes::default(),
        };
        let mut noted = noted;
        if latest.is_none()
            && let Some(body) = private(note(state::BEGUN))?
        {
            let started: Started = serde_json::from_slice(&body).map_err(|error| damaged(state::BEGUN, &error))?;
            noted.described.unfinished = started.begun.unfinished(noted.described.manifest.as_deref());
        }
        let mut template = noted.template_or(template).map_err(|error| damaged(&name, &error))?;
        if let Some(latest) = &latest {
            template = template.with_version(&latest.version);
        }
        let is_noted = latest.is_some() || body.is_some();
        Ok(DirectoryReader { root, template, noted, is_noted, folder: None })
    }

    fn place(&self) -> String {
        self.root.path().display().to_string()
    }

    /// The error of a directory without notes and tiles.
    fn foreign(&self) -> ReadError {
        let what = format!("it has neither a metadata.json nor a file named as {}", self.template.text());
        ReadError::Foreign { place: self.place(), kind: "directory of tiles", what }
    }

    fn read_tile(&mut self, id: &TileId) -> Result<Option<Box<[u8]>>, ReadError> {
        let name = self.template.name(*id);
        let (above, part) = split(&name);
        let known = self.folder.take().filter(|known| known.name == above);
        let read = match known {
            Some(known) => Ok(known.folder),
            None => self.root.find(above),
        };
        let read = read.and_then(|folder| {
            let bytes = folder.read_leaf(part, MAX_STORED_TILE);
            self.folder = Some(NamedFolder { name: above.to_owned(), folder });
            bytes
        });
        match read {
            Ok(bytes) => Ok(bytes.map(Vec::into_boxed_slice)),
            Err(missing) if missing.is_missing() => Ok(None),
            Err(Unreachable::NoFolder(_)) => Ok(None),
            Err(error) => Err(error.into_read_error(self.place())),
        }
    }
}

/// A note that only the writer of the target must be able to read. Warns a reader that may not read it, and returns
/// `None`.
fn private(note: Result<Option<Vec<u8>>, ReadError>) -> Result<Option<Vec<u8>>, ReadError> {
    match note {
        Err(ReadError::Io { path, source }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::warn!("{} may not be read: whether a run was interrupted there is not known", path.display());
            Ok(None)
        }
        note => note,
    }
}

impl TileReader for DirectoryReader {
    fn describe(&mut self) -> Result<Described, ReadError> {
        Ok(self.noted.described.clone())
    }

    fn template(&self) -> Template {
        self.template.clone()
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        let mut found = Vec::new();
        let walked = walk(&self.root, &self.template, &Stop::new(), |name| {
            found.extend(self.template.read(name));
            Ok::<(), ReadError>(())
        });
        walked.map_err(|error| error.into_read_error(self.place()))??;
        if found.is_empty() && !self.is_noted { Err(self.foreign()) } else { Ok(found) }
    }

    fn holds_tileset(&mut self) -> Result<(), ReadError> {
        if self.is_noted {
            return Ok(());
        }
        // The walk ends at the first tile.
        let is_found = walk(&self.root, &self.template, &Stop::new(), |name| match self.template.read(name) {
            Some(found) => Err(found),
            None => Ok(()),
        });
        match is_found.map_err(|error| error.into_read_error(self.place()))? {
            Err(_found) => Ok(()),
            Ok(()) => Err(self.foreign()),
        }
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        let mut allowance = ReadAllowance::new();
        let mut read = Vec::new();
        for id in tiles {
            let bytes = self.read_tile(id)?;
            if !allowance.take(bytes.as_deref()) {
                break;
            }
            read.push(bytes);
        }
        Ok(read)
    }
}
