//! Directory targets: a file for each tile. A run replaces the files whose bytes differ, removes the files of tiles
//! that are not in the tileset any more, and does not touch the others.
//!
//! | file | what is in it |
//! |---|---|
//! | `lock` | the lock of the one writer |
//! | `state` | what the directory holds, and whether this run may write there |
//! | `folder` | the notes that are kept in the directory, or next to an archive |
//! | `files` | file operations that follow no link, by several threads, made durable |
//! | `folder_store` | what a run needs of a directory, and its versions: listed, switched, removed |
//! | `read` | the reader |
//! | `error` | errors of directory targets |

mod error;
mod files;
mod folder;
mod folder_store;
mod lock;
mod read;
mod state;

use std::path::{Path, PathBuf};

use files::{Files, TileFile, WRITERS, synchronize};
use folder_store::FolderStore;
use lock::Lock;
use state::{BEGUN, claim, read_state};

use super::staging::NoFolder;
use super::tree::{self, OWN_FOLDER, TreeOptions, TreeRun};
use super::{Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Written};
use crate::stop::Stop;
use crate::tile::{Order, TileId};

pub use error::DirectoryError;
pub use folder::FolderNotes;
pub use folder_store::{directory_versions, switch_directory};
pub use read::DirectoryReader;

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
    /// Fails if `root` is no directory, cannot be written, or another run writes it.
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
}

impl Sink for Directory {
    type Error = DirectoryError;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: self.options.template.layers_apart() }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, DirectoryError> {
        let begun_before = self.files.read(BEGUN)?;
        let Directory { options, stop, files, others, lock, .. } = self;
        let template = options.template.text().to_owned();
        let mut store = FolderStore { files, others, lock, stop, template: &template };
        let (tree, before) = tree::begin(&mut store, options, tileset)?;
        self.run = Some(DirectoryRun { tree, begun_before });
        std::iter::once(&self.files).chain(&self.others).try_for_each(Files::clear)?;
        Ok(before)
    }

    fn relative_address(&self) -> Option<String> {
        self.options.relative_address()
    }

    fn claim(&mut self) -> Result<(), DirectoryError> {
        if self.lock.is_of_a_new_target() {
            claim(&self.lock.root, &self.options, &read_state(&self.files, self.options.force)?, &self.stop)?;
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
            ids.sort_by_key(|id| (Order::ZoomColumnTmsRow.sort_key(id.coord), id.slice));
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
        let mut store = FolderStore { files, others, lock, stop, template: options.template.text() };
        let (deleted, changed) = tree::end(&mut store, run, options, metadata)?;
        Ok(Finished { place, deleted, changed, ..Finished::default() })
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
