//! Directory targets: a file for each tile. A run replaces the files whose bytes differ, removes the files of tiles
//! that are not in the tileset any more, and does not touch the others.
//!
//! | file | what is in it |
//! |---|---|
//! | `lock` | the lock of the one writer |
//! | `state` | what the directory holds, and whether this run may write there; the beginning of a run |
//! | `folder` | the notes that are kept in the directory, or next to an archive |
//! | `files` | file operations that follow no link, by several threads, made durable |
//! | `versions` | the end of a run, and the versions of a directory: listed, switched, removed |
//! | `read` | the reader |
//! | `error` | errors of directory targets |

mod error;
mod files;
mod folder;
mod lock;
mod read;
mod state;
mod versions;

use std::path::{Path, PathBuf};

use files::{Files, TileFile, WRITERS, staged_tile, synchronize};
use lock::Lock;
use state::{BEGUN, read_state, refuse_other_template, walk};
use versions::{FolderEnd, note_begun};

use super::staging::NoFolder;
use super::tree::notes::Begun;
use super::tree::{
    self, Inventory, Latest, OWN_FOLDER, OpenIntents, Publishing, Template, TreeOptions, TreeRefusal, TreeRun,
    TreeState, VERSIONS, template_of_run, unused_version,
};
use super::{Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Unwritten, Written};
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
    tree: TreeRun,
    /// The body of `begun.json` before this run, if there was one.
    begun_before: Option<Vec<u8>>,
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
            Some(_) => Err(self.interrupted()),
            None => Ok(()),
        }
    }

    /// The error of a run that was stopped, or never begun.
    fn interrupted(&self) -> DirectoryError {
        DirectoryError::Interrupted { path: self.root.clone() }
    }

    fn refused(&self, refusal: TreeRefusal, tileset: &Tileset) -> DirectoryError {
        let path = self.root.clone();
        match refusal {
            TreeRefusal::Whole => DirectoryError::Whole { path },
            TreeRefusal::NoTileset => DirectoryError::NoTileset { path },
            TreeRefusal::OtherTileset(found) => {
                DirectoryError::OtherTileset { path, found, wanted: tileset.fingerprint.clone() }
            }
        }
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
            lock::claim(&self.lock.root, &self.options, &read_state(&self.files, self.options.force)?, &self.stop)?;
        }
        Ok(())
    }

    fn held(&self) -> Option<u64> {
        self.run.as_ref()?.tree.held()
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, DirectoryError> {
        self.stopped()?;
        let Some(DirectoryRun { tree: run, .. }) = &mut self.run else { return Err(self.interrupted()) };
        let mut written = Written::default();
        let mut wanted = Vec::with_capacity(edits.len());
        for edit in edits {
            let (id, is_put) = (edit.id(), matches!(edit, TileEdit::Put(..)));
            let is_listed = run.meet(id)?.is_some();
            let is_held = match edit {
                // `Files` checks whether a file of the name exists before it writes.
                TileEdit::Put(..) => is_listed || !run.has_inventory(),
                TileEdit::Remove(..) if run.has_inventory() => is_listed,
                TileEdit::Keep(..) if run.has_inventory() && !is_listed => false,
                TileEdit::Keep(..) | TileEdit::Remove(..) => self.files.holds(&run.template.name(id))?,
            };
            if let Some((id, bytes)) = run.apply(edit, is_held, &mut written)? {
                wanted.push(TileFile::new(id, run.template.name(id), bytes, is_held && is_put));
            }
        }
        let brought = synchronize(&mut self.files, &mut self.others, &mut wanted)?;
        if run.changed.is_some() {
            let mut ids: Vec<TileId> = wanted.iter().filter(|tile| tile.is_written()).map(|tile| tile.id).collect();
            ids.sort_by_key(|id| (Order::ZoomColumnTmsRow.place(id.coord), id.slice));
            ids.into_iter().try_for_each(|id| run.note_change(id, TileChange::Written))?;
        }
        written.added = brought.added;
        written.stored = brought.added + brought.replaced;
        written.unchanged += wanted.len() as u64 - written.stored;
        Ok(written)
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, DirectoryError> {
        let place = self.root.display().to_string();
        let Some(DirectoryRun { tree: run, .. }) = self.run.take() else { return Err(self.interrupted()) };
        let Directory { options, stop, files, others, lock, .. } = &mut self;
        let mut folder = FolderEnd { files, others, lock, stop, template: options.template.text() };
        let (deleted, changed) = tree::end(&mut folder, run, options, metadata)?;
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
    /// The version to write: the one that an interrupted run of the same tileset and template began, or a new one.
    fn version(
        &self,
        tileset: &Tileset,
        state: &TreeState,
        published: Option<&Latest>,
    ) -> Result<Option<String>, DirectoryError> {
        if self.options.publish == Publishing::InPlace {
            return Ok(None);
        }
        let has_same_template = state.template.as_deref() == Some(self.options.template.text());
        let pending = state.pending(tileset, published).filter(|_| has_same_template);
        Ok(Some(match pending {
            Some(pending) => pending.to_owned(),
            None => unused_version(published, versions::entries(&self.files, VERSIONS)?),
        }))
    }

    fn note_begun(&mut self, begun: Begun) -> Result<(), DirectoryError> {
        note_begun(&mut self.files, &mut self.lock, self.options.template.text(), begun)
    }

    /// Lists the existing tiles of the run's scope; of a version, all tiles. Removes files that a killed run left next
    /// to tiles.
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
        let state = read_state(&self.files, self.options.force)?;
        if let Some(refusal) = state.refusal(&self.options, tileset) {
            return Err(self.refused(refusal, tileset));
        }
        if !self.options.force {
            refuse_other_template(&state, &self.root, &self.options)?;
        }
        let is_new_version = self.options.publish != Publishing::InPlace;
        let published = if is_new_version { versions::latest(self.files.root())? } else { None };
        let version = self.version(tileset, &state, published.as_ref())?;
        let template = template_of_run(&self.options, tileset, version.as_deref());
        let ours = self.options.force || is_new_version || state.is_ours();
        let mut intents = state.intents(tileset, is_new_version);
        let inventory = match tileset.unwritten {
            Unwritten::Delete => Some(self.take_inventory(&template, tileset, ours, &mut intents)?),
            Unwritten::Keep => None,
        };
        for files in std::iter::once(&self.files).chain(&self.others) {
            files.clear()?;
        }
        let begun_before = self.files.read(BEGUN)?;
        let fingerprint = tileset.fingerprint.clone();
        self.note_begun(Begun { fingerprint, pending: version.clone(), unfinished: intents.noted.clone() })?;
        if let Some(version) = &version {
            let name = notes::of_version(version, notes::METADATA);
            let body = notes::begun(&tileset.layers, &template)
                .map_err(|source| DirectoryError::Note { path: self.root.join(&name), source })?;
            self.files.put_durably(&name, &body)?;
        }
        if self.options.public_url.is_none() {
            self.options.public_url = self.public_url_before(&state, published.as_ref())?;
        }
        let tree = TreeRun::new(&state, &self.options, tileset, version, published, inventory, intents.left());
        self.run = Some(DirectoryRun { tree, begun_before });
        Ok(state.before(tileset, is_new_version))
    }

    /// The public URL that an earlier run was given.
    fn public_url_before(
        &self,
        state: &TreeState,
        published: Option<&Latest>,
    ) -> Result<Option<String>, DirectoryError> {
        let Some(latest) = published else { return Ok(state.public_url().map(str::to_owned)) };
        let name = notes::of_version(&latest.version, notes::METADATA);
        let Some(body) = self.files.read(&name)? else { return Ok(None) };
        // Damaged notes of an old version do not prevent a new one from being written.
        Ok(notes::read(&body).map_or(None, |noted| noted.described.public_url))
    }
}
