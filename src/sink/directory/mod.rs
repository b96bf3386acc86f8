//! A directory tree with a file for each tile, brought in line with what is rendered: files that differ are replaced,
//! files of tiles that vanished are removed, equal ones are not touched.

mod error;
mod files;
mod lock;
mod read;
mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::tree::notes::{self, Begun, Noted};
use super::tree::{Inventory, Latest, OWN_FOLDER, Publish, Template, TreeOptions, new_version};
use super::{Described, Finished, Metadata, Needs, Sink, TileEdit, Tileset, Written};
use crate::stop::Stop;
use crate::tile::{Order, TileId};

pub use error::DirectoryError;
pub use read::DirectoryReader;
pub use versions::{directory_versions, switch_directory};

use files::Files;
use lock::Lock;

/// Where the tileset that was begun is noted.
const BEGUN: &str = ".oar-tiles/begun.json";

/// A directory that is being brought in line.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    options: TreeOptions,
    stop: Stop,
    files: Files,
    /// What [`Sink::begin`] found.
    run: Option<Run>,
    _lock: Lock,
}

/// A run in the making.
#[derive(Debug)]
struct Run {
    template: Template,
    layers: Vec<String>,
    inventory: Inventory,
    deleted: u64,
    /// With versions: the one that is written, and those before.
    version: Option<(String, Option<Latest>)>,
}

impl Directory {
    /// Takes a directory, and makes it if only its last folder is missing.
    ///
    /// # Errors
    /// If it is something else, cannot be written, or another run writes it.
    pub fn create(root: &Path, options: TreeOptions, stop: &Stop) -> Result<Directory, DirectoryError> {
        if root.exists() && !root.is_dir() {
            return Err(DirectoryError::IsFile { path: root.to_owned() });
        }
        if let Some(folder) = root.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            return Err(DirectoryError::NoFolder { folder: folder.to_owned(), path: root.to_owned() });
        }
        let own = root.join(OWN_FOLDER);
        let lock = Lock::take(root, &own)?;
        let files = Files::new(root, &own);
        Ok(Directory { root: root.to_owned(), options, stop: stop.clone(), files, run: None, _lock: lock })
    }

    /// What the target says about the tileset that it holds or that was begun in it.
    fn noted(&self) -> Result<(Described, Option<Begun>), DirectoryError> {
        let wrong = |name: &str| {
            let path = self.root.join(name);
            move |source| DirectoryError::Note { path, source }
        };
        let metadata = match self.files.read(notes::METADATA)? {
            // Another program's metadata does not make its tiles ours.
            Some(body) if !self.options.force => notes::read(&body).map_err(wrong(notes::METADATA))?,
            _ => Noted::default(),
        };
        let begun = match self.files.read(BEGUN)? {
            Some(body) if !self.options.force => Some(serde_json::from_slice(&body).map_err(wrong(BEGUN))?),
            Some(body) => serde_json::from_slice(&body).ok(),
            None => None,
        };
        Ok((metadata.described, begun))
    }

    /// The version to write: the one that an interrupted run of the same tileset began, or a new one.
    fn version(&self, fingerprint: &str, begun: Option<&Begun>) -> Result<(String, Option<Latest>), DirectoryError> {
        let latest: Option<Latest> = match self.files.read(notes::LATEST)? {
            Some(body) => Some(
                serde_json::from_slice(&body)
                    .map_err(|source| DirectoryError::Note { path: self.root.join(notes::LATEST), source })?,
            ),
            None => None,
        };
        let pending = begun.filter(|begun| begun.fingerprint == fingerprint).and_then(|begun| begun.pending.clone());
        let version = pending.unwrap_or_else(|| new_version(SystemTime::now(), latest.as_ref()));
        Ok((version, latest))
    }

    fn note_begun(&mut self, begun: &Begun) -> Result<(), DirectoryError> {
        let body =
            serde_json::to_vec(begun).map_err(|source| DirectoryError::Note { path: self.root.join(BEGUN), source })?;
        self.files.put_durably(BEGUN, &body)
    }

    /// Notes every tile of the run's scope that is there. Unless the target is known to be ours, there may be none.
    fn take_inventory(&self, template: &Template, tileset: &Tileset, ours: bool) -> Result<Inventory, DirectoryError> {
        let mut inventory = Inventory::new()?;
        let found = files::walk(&self.root, &template.prefix(), &self.stop, |name| {
            let Some(id) = template.read(name) else { return Ok(()) };
            if !ours {
                return Err(DirectoryError::NotOurs { path: self.root.clone(), example: name.to_owned() });
            }
            if tileset.scope.holds(id) {
                inventory.add(id, None)?;
            }
            Ok(())
        });
        match found {
            Ok(done) => done?,
            Err(_) if self.stop.asked().is_some() => {
                return Err(DirectoryError::Interrupted { path: self.root.clone() });
            }
            Err((path, source)) => return Err(DirectoryError::io("read the folder", &path, source)),
        }
        Ok(inventory)
    }

    fn begin_run(&mut self, tileset: &Tileset) -> Result<Option<Described>, DirectoryError> {
        let (described, begun) = self.noted()?;
        let manifest = described.manifest.as_deref().and_then(notes::fingerprint);
        let layers = tileset.layers.iter().map(String::as_str);
        let mut template = self.options.template.clone().with_layers(layers);
        let version = match self.options.publish {
            Publish::InPlace => None,
            Publish::Versioned { .. } => Some(self.version(&tileset.fingerprint, begun.as_ref())?),
        };
        if let Some((version, _)) = &version {
            template = template.with_version(version);
        }
        // A new version holds nothing of the tileset before it.
        let found =
            if version.is_some() { None } else { begun.as_ref().map(|begun| &begun.fingerprint).or(manifest.as_ref()) };
        if let Some(found) = found.filter(|found| **found != tileset.fingerprint && !self.options.force) {
            return Err(DirectoryError::OtherTileset {
                path: self.root.clone(),
                found: found.clone(),
                wanted: tileset.fingerprint.clone(),
            });
        }
        let ours = self.options.force || version.is_some() || begun.is_some() || manifest.is_some();
        let inventory = self.take_inventory(&template, tileset, ours)?;
        let pending = version.as_ref().map(|(version, _)| version.clone());
        self.note_begun(&Begun { fingerprint: tileset.fingerprint.clone(), pending })?;
        // A new version is written as a whole.
        let before = (version.is_none() && manifest.is_some()).then_some(described);
        self.run = Some(Run { template, layers: tileset.layers.clone(), inventory, deleted: 0, version });
        Ok(before)
    }

    fn stopped(&self) -> Result<(), DirectoryError> {
        match self.stop.asked() {
            Some(_) => Err(DirectoryError::Interrupted { path: self.root.clone() }),
            None => Ok(()),
        }
    }

    /// Removes the tiles of versions that need not stay.
    fn remove_versions(&mut self, template: &Template, versions: &[String]) -> Result<(), DirectoryError> {
        for version in versions {
            let template = self.options.template.clone().with_layers_of(template).with_version(version);
            let mut names = Vec::new();
            let prefix = template.prefix();
            let walked = files::walk(&self.root, &prefix, &self.stop, |name| {
                if template.read(name).is_some() {
                    names.push(name.to_owned());
                }
                Ok::<(), DirectoryError>(())
            });
            match walked {
                Ok(done) => done?,
                Err((path, source)) => return Err(DirectoryError::io("read the folder", &path, source)),
            }
            for name in &names {
                self.files.remove(name)?;
            }
            let own = self.files.path(&notes::of_version(version, ""));
            match fs::remove_dir_all(&own) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DirectoryError::io("remove", &own, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn publish(&mut self, run: Run, metadata: &Metadata) -> Result<(), DirectoryError> {
        let failed = |path: PathBuf| move |source| DirectoryError::Note { path, source };
        let notes = notes::finished(metadata, &run.layers, &run.template, &self.options)
            .map_err(failed(self.root.join(notes::METADATA)))?;
        let Some((version, latest)) = run.version else {
            for note in notes {
                self.files.put_durably(&note.name, &note.body)?;
            }
            return Ok(());
        };
        for note in &notes {
            self.files.put_durably(&notes::of_version(&version, &note.name), &note.body)?;
        }
        let mut latest = Latest::published(latest, &version, SystemTime::now());
        let expired = match self.options.publish {
            Publish::Versioned { keep, keep_for } => latest.take_expired(keep, keep_for, SystemTime::now()),
            Publish::InPlace => Vec::new(),
        };
        versions::show(&mut self.files, &self.root, &latest)?;
        self.note_begun(&Begun { fingerprint: String::new(), pending: None })?;
        // The map has been switched: what fails from here on leaves no more than old tiles.
        self.remove_versions(&run.template, &expired)
    }
}

impl Sink for Directory {
    type Error = DirectoryError;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: self.options.template.layers_apart() }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, DirectoryError> {
        self.begin_run(tileset)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, DirectoryError> {
        self.stopped()?;
        let Some(run) = &mut self.run else { return Ok(Written::default()) };
        let mut written = Written::default();
        for edit in edits {
            let met = run.inventory.meet(edit.id())?;
            run.deleted += remove_all(&mut self.files, &run.template, &met.passed)?;
            let name = run.template.name(edit.id());
            match edit {
                TileEdit::Put(_, bytes) if met.here.is_some() && self.files.holds(&name, &bytes)? => {
                    written.unchanged += 1;
                }
                TileEdit::Put(_, bytes) => {
                    self.files.put(&name, &bytes)?;
                    written.stored += 1;
                }
                TileEdit::Remove(id) => {
                    if met.here.is_some() {
                        run.deleted += remove_all(&mut self.files, &run.template, &[id])?;
                    }
                    written.removed += 1;
                }
            }
        }
        Ok(written)
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, DirectoryError> {
        let place = self.root.display().to_string();
        let Some(mut run) = self.run.take() else { return Ok(Finished { place, deleted: 0 }) };
        loop {
            let vanished = run.inventory.rest()?;
            if vanished.is_empty() {
                break;
            }
            self.stopped()?;
            run.deleted += remove_all(&mut self.files, &run.template, &vanished)?;
        }
        self.files.sync()?;
        self.stopped()?;
        let deleted = run.deleted;
        self.publish(run, metadata)?;
        Ok(Finished { place, deleted })
    }
}

fn remove_all(files: &mut Files, template: &Template, tiles: &[TileId]) -> Result<u64, DirectoryError> {
    for id in tiles {
        files.remove(&template.name(*id))?;
    }
    Ok(tiles.len() as u64)
}
