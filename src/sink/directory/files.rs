//! Writes and removes the files of a directory target. A file is written under another name and renamed; a folder that becomes empty is
//! removed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::FileType;

use super::DirectoryError;
use super::folder::{NamedFolder, OpenFolder, Unreachable, split};
use super::staged::{StagedIn, remove_staged, stage, staged_name};
use super::sync::{self, MAX_FILES_SYNCED_SINGLY};
use crate::encode::MAX_STORED_TILE;
use crate::sink::read::MAX_NOTE;
use crate::tile::TileId;

/// A tile to be stored.
#[derive(Debug)]
pub(super) struct TileFile {
    pub(super) id: TileId,
    pub(super) name: String,
    pub(super) bytes: Box<[u8]>,
    /// True if there may be a file of this name.
    pub(super) held: bool,
    /// True once the tile was written, because its file held other bytes or did not exist. The thread that writes the tile sets this.
    is_written: AtomicBool,
}

impl TileFile {
    /// A tile that is not written yet; `held` is true if there may be a file of its name.
    pub(super) const fn new(id: TileId, name: String, bytes: Box<[u8]>, held: bool) -> TileFile {
        TileFile { id, name, bytes, held, is_written: AtomicBool::new(false) }
    }

    /// True if the tile was written, because its file held other bytes or did not exist.
    pub(super) fn is_written(&self) -> bool {
        self.is_written.load(Relaxed)
    }

    /// The name of the folder that the tile lies in.
    pub(super) fn folder(&self) -> &str {
        split(&self.name).0
    }
}

/// How many tiles were written. The files of the other tiles already held the right bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileCounts {
    /// Tiles that had no file.
    pub(super) added: u64,
    /// Tiles whose file held other bytes.
    pub(super) replaced: u64,
}

/// What exists under the name of a tile.
#[derive(Debug, PartialEq, Eq)]
enum StoredFile {
    Nothing,
    /// A regular file.
    Bytes(Vec<u8>),
    /// A link, a pipe, or a file too large to be read: it is replaced without being followed or read.
    NoTile,
}

/// A writer of the files of one target. It writes one file at a time; several writers may work on one target.
#[derive(Debug)]
pub(super) struct Files {
    root: OpenFolder,
    /// The program's own folder, on the same file system as the target.
    own: OpenFolder,
    /// The name in `own` under which a file is written before it is renamed.
    partial: String,
    /// The name in `own` under which a new folder is filled before it is renamed.
    new_folder: String,
    /// True once renaming a folder has failed: some file systems cannot rename a folder, and on a full disk it would fail again.
    puts_files_only: bool,
    /// The folder used last, with its name: the tiles of a column are in one folder.
    folder: Option<NamedFolder>,
    /// Names of files written or removed since the last sync; at most `MAX_FILES_SYNCED_SINGLY + 1` are kept.
    changed: Vec<String>,
}

impl Files {
    /// The first writer of the files below `root`; stages them below `own`.
    pub(super) fn new(root: &OpenFolder, own: &OpenFolder) -> Files {
        Files::named(root, own, "")
    }

    fn named(root: &OpenFolder, own: &OpenFolder, ending: &str) -> Files {
        Files {
            root: root.clone(),
            own: own.clone(),
            partial: format!("partial{ending}"),
            new_folder: format!("partial-folder{ending}"),
            puts_files_only: false,
            folder: None,
            changed: Vec::new(),
        }
    }

    /// Another writer of the same files, for another thread; each has a number of its own.
    pub(super) fn beside(root: &OpenFolder, own: &OpenFolder, number: usize) -> Files {
        Files::named(root, own, &format!("-{number}"))
    }

    /// True if a file was written or removed since the last sync.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The target's folder; all names are relative to it.
    pub(super) const fn root(&self) -> &OpenFolder {
        &self.root
    }

    fn partial_path(&self) -> PathBuf {
        self.own.path().join(&self.partial)
    }

    /// Removes the staged file and folder that a killed run left.
    pub(super) fn clear(&self) -> Result<(), DirectoryError> {
        self.own.remove(&self.partial).map_err(|error| DirectoryError::io("remove", &self.partial_path(), error))?;
        self.own.remove_filled(&self.new_folder).map_err(|error| error.into_error("remove"))
    }

    /// Removes a file that a killed run left next to a tile.
    pub(super) fn remove_left_behind(&self, name: &str) -> Result<(), DirectoryError> {
        let (above, part) = split(name);
        let folder = self.root.find(above).map_err(|error| error.into_error("remove"))?;
        folder.remove(part).map(drop).map_err(|error| DirectoryError::io("remove", &self.path(name), error))
    }

    /// Stores tiles; does not touch a file that holds the tile's bytes already.
    pub(super) fn synchronize(&mut self, tiles: &[TileFile]) -> Result<FileCounts, DirectoryError> {
        let mut tally = FileCounts::default();
        for of_folder in tiles.chunk_by(|one, next| one.folder() == next.folder()) {
            if self.put_folder(of_folder)? {
                for tile in of_folder {
                    tile.is_written.store(true, Relaxed);
                }
                tally.added += of_folder.len() as u64;
                continue;
            }
            for tile in of_folder {
                match if tile.held { self.stored(&tile.name)? } else { StoredFile::Nothing } {
                    StoredFile::Bytes(found) if *found == *tile.bytes => {}
                    StoredFile::Bytes(_) | StoredFile::NoTile => {
                        self.write(&tile.name, &tile.bytes, StagedIn::BesideTheTile)?;
                        tile.is_written.store(true, Relaxed);
                        tally.replaced += 1;
                    }
                    StoredFile::Nothing => {
                        self.put(&tile.name, &tile.bytes)?;
                        tile.is_written.store(true, Relaxed);
                        tally.added += 1;
                    }
                }
            }
        }
        Ok(tally)
    }

    /// Stores the tiles of one folder that the target does not have yet: fills a staged folder and renames it, which costs less than
    /// renaming each file. Returns false if that is not possible. Then nothing has changed, and the caller must store each tile by itself.
    fn put_folder(&mut self, tiles: &[TileFile]) -> Result<bool, DirectoryError> {
        let name = tiles.first().map_or("", TileFile::folder);
        let is_worth_it = tiles.len() > 1 && !name.is_empty() && !self.puts_files_only;
        if !is_worth_it || tiles.iter().any(|tile| tile.held) {
            return Ok(false);
        }
        let (above, part) = split(name);
        let is_there = || self.root.find(above).is_ok_and(|above| above.kind(part).is_ok_and(|kind| kind.is_some()));
        if is_there() {
            return Ok(false);
        }
        let filled = self.fill_new_folder(tiles);
        // Created as late as possible: otherwise a killed run would leave an empty folder, which no later run would find.
        let above_it = self.root.make(above).map_err(|error| error.into_error("make the folder"))?;
        let put = filled.and_then(|()| self.own.rename(&self.new_folder, &above_it, part));
        if let Err(error) = put {
            tracing::debug!("cannot put {} as a whole: {error}", self.path(name).display());
            if let Err(Unreachable::Io(path, error)) = self.own.remove_filled(&self.new_folder) {
                tracing::warn!("cannot remove {}: {error}; it is safe to delete", path.display());
            }
            // Another writer may have renamed the same folder first. That does not mean that folders cannot be renamed.
            self.puts_files_only = !is_there();
            return Ok(false);
        }
        for tile in tiles {
            self.note_changed(&tile.name);
        }
        Ok(true)
    }

    fn fill_new_folder(&self, tiles: &[TileFile]) -> io::Result<()> {
        let folder = self.own.create_folder(&self.new_folder).map_err(|error| match error {
            Unreachable::Io(_, error) => error,
            Unreachable::Link(_) | Unreachable::NoFolder(_) => io::Error::from(io::ErrorKind::NotADirectory),
        })?;
        tiles.iter().try_for_each(|tile| folder.create(split(&tile.name).1)?.write_all(&tile.bytes))
    }

    /// The path of the file that has this name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file. Readers see the old bytes or the new ones.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.write(name, bytes, StagedIn::OwnFolder)
    }

    /// Writes a file like [`Files::put`]; syncs the file before the rename and its folder after it.
    pub(super) fn put_durably(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.write(name, bytes, StagedIn::OwnFolderDurably)?;
        let folder = self.folder(name)?;
        folder.sync().map_err(|source| DirectoryError::io("sync", folder.path(), source))
    }

    /// Writes a file like [`Files::put_durably`], unless it already holds these bytes. Then its modification time stays the same, so that
    /// client caches stay valid.
    pub(super) fn keep_durably(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        let same = self.stored(name)? == StoredFile::Bytes(bytes.to_vec());
        if same { Ok(()) } else { self.put_durably(name, bytes) }
    }

    fn write(&mut self, name: &str, bytes: &[u8], staging: StagedIn) -> Result<(), DirectoryError> {
        let part = split(name).1;
        if staging == StagedIn::BesideTheTile
            && let Some(staged) = staged_name(part)
        {
            let folder = self.made_folder(name)?;
            match stage(&folder, &staged, bytes, false) {
                Ok(()) => {
                    let renamed =
                        folder.rename(&staged, &folder, part).map_err(|source| self.not_renamed(name, source));
                    if renamed.is_err() {
                        remove_staged(&folder, &staged);
                    } else {
                        self.note_changed(name);
                    }
                    return renamed;
                }
                Err(error) => {
                    remove_staged(&folder, &staged);
                    // Another program may have removed the folder in the meantime; it is created again below.
                    if error.kind() != io::ErrorKind::NotFound {
                        return Err(DirectoryError::io("write", &self.path(name), error));
                    }
                }
            }
        }
        let written = self.write_in_own_folder(name, bytes, staging == StagedIn::OwnFolderDurably);
        match written {
            Ok(()) if staging != StagedIn::OwnFolderDurably => self.note_changed(name),
            Ok(()) => {}
            // On a full disk, half a tile must not take up space.
            Err(_) => remove_staged(&self.own, &self.partial),
        }
        written
    }

    fn note_changed(&mut self, name: &str) {
        if self.changed.len() <= MAX_FILES_SYNCED_SINGLY {
            self.changed.push(name.to_owned());
        }
    }

    fn write_in_own_folder(&mut self, name: &str, bytes: &[u8], durably: bool) -> Result<(), DirectoryError> {
        stage(&self.own, &self.partial, bytes, durably)
            .map_err(|source| DirectoryError::io("write", &self.own.path().join(&self.partial), source))?;
        let part = split(name).1;
        let mut folder = self.made_folder(name)?;
        let mut renamed = self.own.rename(&self.partial, &folder, part);
        if renamed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // Another program has removed the folder in the meantime.
            self.folder = None;
            folder = self.made_folder(name)?;
            renamed = self.own.rename(&self.partial, &folder, part);
        }
        renamed.map_err(|source| self.not_renamed(name, source))
    }

    fn not_renamed(&self, name: &str, source: io::Error) -> DirectoryError {
        match source.kind() {
            io::ErrorKind::IsADirectory => DirectoryError::Io {
                action: "write",
                path: self.path(name),
                next: "a folder has the name of a tile: remove it, or choose another --output or template",
                source,
            },
            _ => DirectoryError::io("write", &self.path(name), source),
        }
    }

    /// The folder of a file, created if it is missing.
    fn made_folder(&mut self, name: &str) -> Result<OpenFolder, DirectoryError> {
        let above = split(name).0;
        if let Some(known) = &self.folder
            && known.name == above
        {
            return Ok(known.folder.clone());
        }
        let folder = self.root.make(above).map_err(|error| error.into_error("make the folder"))?;
        self.folder = Some(NamedFolder { name: above.to_owned(), folder: folder.clone() });
        Ok(folder)
    }

    /// The folder of a file; the folder must exist.
    fn folder(&self, name: &str) -> Result<OpenFolder, DirectoryError> {
        self.root.find(split(name).0).map_err(|error| error.into_error("open"))
    }

    /// True if a regular file has this name; a link does not count.
    pub(super) fn holds(&self, name: &str) -> Result<bool, DirectoryError> {
        let (above, part) = split(name);
        let kind = match self.root.find(above) {
            Err(missing) if missing.is_missing() => return Ok(false),
            Err(Unreachable::NoFolder(_)) => return Ok(false),
            found => found.map_err(|error| error.into_error("read"))?.kind(part),
        };
        let kind = kind.map_err(|error| DirectoryError::io("read", &self.path(name), error))?;
        Ok(kind == Some(FileType::RegularFile))
    }

    /// Removes a file, and each folder below the target that becomes empty; returns true if the file existed.
    pub(super) fn remove(&mut self, name: &str) -> Result<bool, DirectoryError> {
        let (above, part) = split(name);
        let removed = match self.root.find(above) {
            Ok(folder) => folder.remove(part).map_err(|error| DirectoryError::io("remove", &self.path(name), error))?,
            Err(missing) if missing.is_missing() => false,
            Err(Unreachable::NoFolder(_)) => false,
            Err(error) => return Err(error.into_error("remove")),
        };
        if removed {
            self.note_changed(name);
        }
        let mut empty = above;
        while !empty.is_empty() {
            let (above, part) = split(empty);
            // Stops at the first folder that is not empty or cannot be removed. A folder that stays does no harm.
            match self.root.find(above) {
                Ok(folder) if folder.remove_folder(part).is_ok() => self.folder = None,
                _ => break,
            }
            empty = above;
        }
        Ok(removed)
    }

    /// The bytes of a note; `None` if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        self.root.read(name, MAX_NOTE).map_err(|error| error.into_error("read"))
    }

    /// Looks up what exists under the name of a tile.
    fn stored(&mut self, name: &str) -> Result<StoredFile, DirectoryError> {
        let (above, part) = split(name);
        let known = self.folder.take().filter(|known| known.name == above);
        let folder = known.map_or_else(|| self.root.find(above), |known| Ok(known.folder));
        let read = folder.and_then(|folder| {
            let read = folder.read_leaf(part, MAX_STORED_TILE);
            self.folder = Some(NamedFolder { name: above.to_owned(), folder });
            read
        });
        match read {
            Ok(Some(bytes)) => Ok(StoredFile::Bytes(bytes)),
            Ok(None) | Err(Unreachable::NoFolder(_)) => Ok(StoredFile::Nothing),
            Err(missing) if missing.is_missing() => Ok(StoredFile::Nothing),
            Err(Unreachable::Io(_, error)) if error.kind() == io::ErrorKind::InvalidInput => Ok(StoredFile::NoTile),
            Err(error) => Err(error.into_error("read")),
        }
    }

    /// Syncs everything that this writer and `others` wrote.
    pub(super) fn sync(&mut self, others: &mut [Files]) -> Result<(), DirectoryError> {
        let mut changed = std::mem::take(&mut self.changed);
        for other in others {
            changed.append(&mut other.changed);
        }
        sync::sync(&self.root, &changed)
    }
}
