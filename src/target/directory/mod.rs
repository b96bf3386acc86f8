//! Directory targets: a file for each tile. A run replaces the files whose bytes differ, removes the files of tiles that are not in the
//! tileset any more, and does not touch the others.
//!
//! | file | what is in it |
//! |---|---|
//! | `lock`, `found`, `folder`, `files` | the lock of the one writer; may this run write here; the notes of the directory; the beginning of a run; file operations that follow no link, by several threads, made durable; notes that are kept in the directory, or next to an archive |
//! | `versions` | the versions of a directory: listed, switched, removed |
//! | `read` | the reader |

mod error;
mod files;
mod folder;
mod found;
mod lock;
mod read;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use files::{Files, TileFile, WRITERS, staged_tile, synchronize};
use found::{BEGUN, DirectoryState, Started, walk};
use lock::Lock;

use super::changed::{HeldBefore, InterruptedRuns};
use super::publication::tell;
use super::staging::NoFolder;
use super::tree::notes::Begun;
use super::tree::{Doomed, Intent, Inventory, Latest, OWN_FOLDER, OpenIntents, Publishing, Template, TreeOptions};
use super::{
    BeforeManifest, ChangedTiles, Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Unwritten,
    Written,
};
use crate::stop::Stop;
use crate::target::tree::notes;
use crate::tile::{Order, TileId};

pub use error::DirectoryError;
pub use folder::FolderNotes;
pub use read::DirectoryReader;
pub use versions::{directory_versions, switch_directory};

/// The sink of a directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    options: TreeOptions,
    stop: Stop,
    files: Files,
    /// More writers of tiles, each for a thread of its own: creating a file takes longer than writing its bytes.
    others: Vec<Files>,
    /// The run, from [`Sink::begin`] on.
    run: Option<DirectoryRun>,
    lock: Lock,
}

/// A run between [`Sink::begin`] and its end.
#[derive(Debug)]
struct DirectoryRun {
    /// True if the target holds the same tileset: a tile that cannot be rendered stays.
    keeps: bool,
    fingerprint: String,
    /// The template with the names of the layers and the version filled in.
    template: Template,
    layers: Vec<String>,
    /// The tiles in the run's scope that the target held at the beginning. `None` for a run that keeps unwritten tiles; it looks for the
    /// file of each tile instead.
    inventory: Option<Inventory>,
    /// The body of `begun.json` before this run, if there was one.
    begun_before: Option<Vec<u8>>,
    /// Tiles to delete at the end, in addition to the rest of the inventory.
    doomed: Doomed,
    /// The unfinished runs that stay noted after this run.
    unfinished: Vec<Intent>,
    /// The list of changed tiles, if the run wants one.
    changed: Option<ChangedTiles>,
    /// Receive the list of changes before the manifest is written.
    before_manifest: Vec<Arc<dyn BeforeManifest>>,
    /// The version that the run writes, if the target has versions.
    version: Option<NewVersion>,
}

/// A version that a run writes.
#[derive(Debug)]
struct NewVersion {
    name: String,
    /// The versions published before; `None` if there are none.
    published: Option<Latest>,
}

impl Directory {
    /// Locks a directory for this run; creates it if only its last folder is missing.
    ///
    /// # Errors
    /// If `root` is no directory, cannot be written, or another run writes it.
    pub fn create(root: &Path, options: TreeOptions, stop: &Stop) -> Result<Directory, DirectoryError> {
        // Removes the slash at the end: with a slash, a file of that name would look as if it did not exist.
        let root: &Path = &root.components().collect::<PathBuf>();
        if root.exists() && !root.is_dir() {
            return Err(DirectoryError::IsFile { path: root.to_owned() });
        }
        if let Some(folder) = root.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            return Err(NoFolder { folder: folder.to_owned(), target: root.to_owned() }.into());
        }
        let lock = Lock::take(root)?;
        let files = Files::new(&lock.root, &lock.own);
        let others = (1..WRITERS).map(|number| Files::beside(&lock.root, &lock.own, number)).collect();
        Ok(Directory { root: root.to_owned(), options, stop: stop.clone(), files, others, run: None, lock })
    }

    fn stopped(&self) -> Result<(), DirectoryError> {
        match self.stop.asked() {
            Some(_) => Err(DirectoryError::Interrupted { path: self.root.clone() }),
            None => Ok(()),
        }
    }

    /// Writes the notes, the manifest last; with versions, switches clients to the new one and removes expired versions.
    fn publish(&mut self, run: DirectoryRun, metadata: &Metadata) -> Result<(), DirectoryError> {
        let failed = |path: PathBuf| move |source| DirectoryError::Note { path, source };
        let notes = notes::finished(metadata, &run.layers, &run.template, &self.options)
            .map_err(failed(self.root.join(notes::METADATA)))?;
        let Some(NewVersion { name: version, published: before }) = run.version else {
            for note in notes {
                self.files.keep_durably(&note.name, &note.body)?;
            }
            return self.note_begun(&run.fingerprint, None, run.unfinished);
        };
        for note in &notes {
            self.files.put_durably(&notes::of_version(&version, &note.name), &note.body)?;
        }
        let shown = before.as_ref().map(|before| before.version.clone());
        let mut latest = Latest::published(before, &version, SystemTime::now());
        if let Publishing::Versioned { keep, keep_for } = self.options.publish {
            // `remove_others` finds the expired versions, because `latest.json` no longer lists them.
            latest.take_expired(keep, keep_for, SystemTime::now());
        }
        versions::show(&mut self.files, &latest, shown.as_deref())?;
        self.note_begun(&run.fingerprint, None, run.unfinished)?;
        // Clients have been switched: a failure from here on leaves old tiles and does no other harm. If `latest.json` was lost, it is not
        // known which versions are old, so no version is removed.
        if shown.is_some() {
            versions::remove_others(&mut self.files, &latest, &run.template, &self.stop)?;
        }
        Ok(())
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

    fn relative_address(&self) -> Option<String> {
        self.options.relative_address()
    }

    fn claim(&mut self) -> Result<(), DirectoryError> {
        if self.lock.is_of_a_new_target() {
            lock::claim(
                &self.lock.root,
                &self.options,
                &DirectoryState::read(&self.files, self.options.force)?,
                &self.stop,
            )?;
        }
        Ok(())
    }

    fn held(&self) -> Option<u64> {
        let run = self.run.as_ref().filter(|run| run.version.is_none())?;
        run.inventory.as_ref().map(Inventory::count)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, DirectoryError> {
        self.stopped()?;
        let Some(run) = &mut self.run else { return Ok(Written::default()) };
        let (mut written, mut kept) = (Written::default(), 0);
        let mut wanted = Vec::with_capacity(edits.len());
        for edit in edits {
            let id = edit.id();
            let held = match &mut run.inventory {
                Some(inventory) => {
                    let met = inventory.meet(id)?;
                    for passed in met.passed {
                        run.doomed.add(passed)?;
                    }
                    met.here.is_some()
                }
                // `Files` checks whether a file of the name exists before it writes.
                None => matches!(edit, TileEdit::Put(..)) || self.files.holds(&run.template.name(id))?,
            };
            match edit {
                TileEdit::Put(id, bytes) => wanted.push(TileFile::new(id, run.template.name(id), bytes, held)),
                TileEdit::Remove(id) => {
                    if held {
                        run.doomed.add(id)?;
                        written.deleted += 1;
                    }
                    written.removed += 1;
                }
                TileEdit::Keep(id, _) if held && run.keeps && self.files.holds(&run.template.name(id))? => {
                    kept += 1;
                }
                TileEdit::Keep(id, Some(bytes)) => {
                    wanted.push(TileFile::new(id, run.template.name(id), bytes, false));
                }
                TileEdit::Keep(id, None) => {
                    if held && !run.keeps {
                        run.doomed.add(id)?;
                        written.deleted += 1;
                    }
                    written.missing += 1;
                }
            }
        }
        let brought = synchronize(&mut self.files, &mut self.others, &mut wanted)?;
        if let Some(changed) = &mut run.changed {
            let mut ids: Vec<TileId> = wanted.iter().filter(|tile| tile.is_written()).map(|tile| tile.id).collect();
            ids.sort_by_key(|id| (Order::ZoomColumnTmsRow.place(id.coord), id.slice));
            ids.into_iter().try_for_each(|id| changed.add(id, TileChange::Written))?;
        }
        written.added = brought.added;
        written.stored = brought.added + brought.replaced;
        written.unchanged = kept + wanted.len() as u64 - written.stored;
        Ok(written)
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, DirectoryError> {
        let place = self.root.display().to_string();
        let Some(mut run) = self.run.take() else {
            return Ok(Finished { place, deleted: 0, in_flight: None, changed: None });
        };
        let mut deleted = 0;
        loop {
            let mut vanished = run.doomed.next()?;
            if vanished.is_empty()
                && let Some(inventory) = &mut run.inventory
            {
                vanished = inventory.rest()?;
            }
            if vanished.is_empty() {
                break;
            }
            self.stopped()?;
            for id in vanished {
                if self.files.remove(&run.template.name(id))? {
                    deleted += 1;
                    run.changed.as_mut().map_or(Ok(()), |changed| changed.add(id, TileChange::Deleted))?;
                }
            }
        }
        self.files.sync(&mut self.others)?;
        self.stopped()?;
        let changed = run.changed.take();
        tell(&run.before_manifest, changed.as_ref())?;
        self.publish(run, metadata)?;
        Ok(Finished { place, deleted, in_flight: None, changed })
    }
}

impl Drop for Directory {
    /// Restores `begun.json` if the run has not changed any tile.
    fn drop(&mut self) {
        let Some(before) = self.run.take().and_then(|run| run.begun_before) else { return };
        if std::iter::once(&self.files).chain(&self.others).any(Files::has_changed) {
            return;
        }
        if let Err(error) = self.files.keep_durably(BEGUN, &before) {
            tracing::warn!(
                "{} goes on to say that this run has not finished: {error}",
                self.root.join(BEGUN).display()
            );
        }
    }
}

// The beginning of a run: reads what the directory holds, and notes the run before the first tile changes.

impl Directory {
    /// The version to write: the one that an interrupted run of the same tileset began, or a new one.
    fn version(&self, tileset: &Tileset, found: &DirectoryState) -> Result<Option<NewVersion>, DirectoryError> {
        if self.options.publish == Publishing::InPlace {
            return Ok(None);
        }
        let latest = versions::latest(self.files.root())?;
        let pending = found.pending(tileset, self.options.template.text(), latest.as_ref());
        let name = match pending {
            Some(pending) => pending,
            None => versions::unused(&self.files, latest.as_ref())?,
        };
        Ok(Some(NewVersion { name, published: latest }))
    }

    pub(crate) fn note_begun(
        &mut self,
        fingerprint: &str,
        pending: Option<&str>,
        unfinished: Vec<Intent>,
    ) -> Result<(), DirectoryError> {
        let begun = Begun { fingerprint: fingerprint.to_owned(), pending: pending.map(str::to_owned), unfinished };
        let started = Started { begun, template: self.options.template.text().to_owned() };
        let body = serde_json::to_vec(&started)
            .map_err(|source| DirectoryError::Note { path: self.root.join(BEGUN), source })?;
        self.files.keep_durably(BEGUN, &body)?;
        self.lock.keep();
        Ok(())
    }

    /// Lists the existing tiles of the run's scope; of a version, all tiles. Removes files that a killed run left next to tiles.
    ///
    /// # Errors
    /// If there is a tile and the target is not `ours`, or a folder cannot be read.
    fn take_inventory(
        &self,
        template: &Template,
        tileset: &Tileset,
        ours: bool,
        intents: &mut OpenIntents,
    ) -> Result<Inventory, DirectoryError> {
        let mut inventory = Inventory::new()?;
        let mut left_behind = Vec::new();
        let found = walk(self.files.root(), template, &self.stop, |name| {
            let Some(id) = template.read(name) else {
                if staged_tile(name).is_some_and(|tile| template.read(&tile).is_some()) {
                    left_behind.push(name.to_owned());
                }
                return Ok(());
            };
            if !ours {
                return Err(DirectoryError::NotOurs { path: self.root.clone(), example: name.to_owned() });
            }
            if template.is_versioned() {
                inventory.add(id, None)?;
            } else {
                inventory.add_of(tileset, id, None)?;
            }
            intents.see(id);
            Ok(())
        });
        match found {
            Ok(done) => done?,
            Err(_) if self.stop.asked().is_some() => {
                return Err(DirectoryError::Interrupted { path: self.root.clone() });
            }
            Err(error) => return Err(error.into_error("read the folder")),
        }
        if ours {
            left_behind.iter().try_for_each(|name| self.files.remove_left_behind(name))?;
        }
        Ok(inventory)
    }

    pub(crate) fn begin_run(&mut self, tileset: &Tileset) -> Result<Option<Described>, DirectoryError> {
        let found = DirectoryState::read(&self.files, self.options.force)?;
        if tileset.unwritten == Unwritten::Keep {
            if self.options.publish != Publishing::InPlace {
                return Err(DirectoryError::Whole { path: self.root.clone() });
            }
            if !found.is_finished() {
                return Err(DirectoryError::NoTileset { path: self.root.clone() });
            }
        }
        if !self.options.force {
            found.allows(&self.root, &self.options, tileset)?;
        }
        let mut template = self.options.template.clone().with_layers(tileset.layers.iter().map(String::as_str));
        let version = self.version(tileset, &found)?;
        if let Some(version) = &version {
            template = template.with_version(&version.name);
        }
        let ours = self.options.force || version.is_some() || found.is_ours();
        let before = match tileset.unwritten {
            Unwritten::Keep => Some(found.described()),
            // A new version is written as a whole, so no earlier tiles stay in it.
            Unwritten::Delete if version.is_some() => None,
            Unwritten::Delete => found.before(tileset),
        };
        let mut intents = match version {
            Some(_) => OpenIntents::untouched(tileset, found.unfinished()),
            None => OpenIntents::begin(tileset, found.unfinished(), found.manifest_text(), before.is_some()),
        };
        let inventory = match tileset.unwritten {
            Unwritten::Delete => Some(self.take_inventory(&template, tileset, ours, &mut intents)?),
            Unwritten::Keep => None,
        };
        for files in std::iter::once(&self.files).chain(&self.others) {
            files.clear()?;
        }
        let begun_before = self.files.read(BEGUN)?;
        let pending = version.as_ref().map(|version| version.name.as_str());
        self.note_begun(&tileset.fingerprint, pending, intents.noted.clone())?;
        if let Some(version) = &version {
            let name = notes::of_version(&version.name, notes::METADATA);
            let body = notes::begun(&tileset.layers, &template)
                .map_err(|source| DirectoryError::Note { path: self.root.join(&name), source })?;
            self.files.put_durably(&name, &body)?;
        }
        if self.options.public_url.is_none() {
            self.options.public_url = self.public_url_before(&found, version.as_ref())?;
        }
        let keeps = !self.options.force || tileset.unwritten == Unwritten::Keep || found.is_of(tileset);
        let (unfinished, doomed) = (intents.left(), Doomed::default());
        let (fingerprint, layers) = (tileset.fingerprint.clone(), tileset.layers.clone());
        let held_before = HeldBefore {
            has_tileset: found.is_finished(),
            interrupted: InterruptedRuns::of(&found.unfinished()),
            has_same_template: found.has_template(&self.options),
            is_new_version: version.is_some(),
        };
        let changed = ChangedTiles::of_synchronized(tileset, held_before);
        let before_manifest = tileset.before_manifest.clone();
        self.run = Some(DirectoryRun {
            keeps,
            fingerprint,
            template,
            layers,
            inventory,
            begun_before,
            doomed,
            unfinished,
            changed,
            before_manifest,
            version,
        });
        Ok(before)
    }

    /// The public URL that an earlier run was given.
    fn public_url_before(
        &self,
        found: &DirectoryState,
        version: Option<&NewVersion>,
    ) -> Result<Option<String>, DirectoryError> {
        let Some(NewVersion { published: Some(latest), .. }) = version else {
            return Ok(found.public_url().map(str::to_owned));
        };
        let name = notes::of_version(&latest.version, notes::METADATA);
        let Some(body) = self.files.read(&name)? else { return Ok(None) };
        // Damaged notes of an old version do not prevent a new one from being written.
        Ok(notes::read(&body).map_or(None, |noted| noted.described.public_url))
    }
}
