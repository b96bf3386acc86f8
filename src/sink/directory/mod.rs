//! Directory targets: a file for each tile. A run replaces the files whose bytes differ, removes the files of tiles that are not in the
//! tileset any more, and does not touch the others.
//!
//! | file | what is in it |
//! |---|---|
//! | `lock`, `claim`, `found`, `begin` | the lock of the one writer; may this run write here; the notes of the directory; the beginning of a run |
//! | `folder`, `walk`, `staged`, `files`, `writers`, `sync` | file operations that follow no link, by several threads, made durable |
//! | `folder_notes` | notes that are kept in the directory, or next to an archive |
//! | `versions` | the versions of a directory: listed, switched, removed |
//! | `read` | the reader |

mod begin;
mod claim;
mod error;
mod files;
mod folder;
mod folder_notes;
mod found;
mod lock;
mod read;
mod staged;
mod sync;
mod versions;
mod walk;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::publication::tell;
use super::staging::NoFolder;
use super::tree::notes;
use super::tree::{Doomed, Intent, Inventory, Latest, OWN_FOLDER, Publishing, Template, TreeOptions};
use super::{
    BeforeManifest, ChangedTiles, Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Written,
};
use crate::stop::Stop;
use crate::tile::{Order, TileId};

pub use error::DirectoryError;
pub use folder_notes::FolderNotes;
pub use read::DirectoryReader;
pub use versions::{directory_versions, switch_directory};

use files::{Files, TileFile};
use found::{BEGUN, DirectoryState};
use lock::Lock;
use writers::{WRITERS, synchronize};

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
            claim::claim(
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
