//! Files in a directory target: written beside and renamed, removed with the folders that they leave empty, found.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use super::DirectoryError;
use crate::stop::Stop;

/// A tile as it is to be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) bytes: Box<[u8]>,
    /// Whether there may be a file of this name.
    pub(super) held: bool,
}

impl Wanted {
    /// The name of its folder.
    pub(super) fn folder(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// What has become of some tiles; the files of the others hold their bytes already.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// They had no file.
    pub(super) added: u64,
    /// Their files held others.
    pub(super) replaced: u64,
}

/// What writes the files of one target, one at a time.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Where a file is written before it is renamed; on the same disk as the target.
    partial: PathBuf,
    /// Where a folder that is new to the target is filled before it is renamed.
    new_folder: PathBuf,
    /// Whether that has failed once: not every file system can, and on a full disk it is of no use.
    puts_files_only: bool,
    /// The folder that was made last: tiles of a column share theirs.
    folder: PathBuf,
    /// Files written or removed since the last sync; no more than [`FEW`] and one are kept.
    changed: Vec<PathBuf>,
}

/// So many files are synced one by one. More wait for the whole file system, which may hold other programs' writes too.
const FEW: usize = 200;

impl Files {
    /// Files below `root`, written first below `own`.
    pub(super) fn new(root: &Path, own: &Path) -> Files {
        Files::named(root, own, "")
    }

    fn named(root: &Path, own: &Path, ending: &str) -> Files {
        Files {
            root: root.to_owned(),
            partial: own.join(format!("partial{ending}")),
            new_folder: own.join(format!("partial-folder{ending}")),
            puts_files_only: false,
            folder: PathBuf::new(),
            changed: Vec::new(),
        }
    }

    /// Another writer of the same files, beside the first; each has a number of its own.
    pub(super) fn beside(root: &Path, own: &Path, number: usize) -> Files {
        Files::named(root, own, &format!("-{number}"))
    }

    /// Removes what a killed run left half written.
    pub(super) fn clear(&self) -> Result<(), DirectoryError> {
        for (path, removed) in
            [(&self.partial, fs::remove_file(&self.partial)), (&self.new_folder, fs::remove_dir_all(&self.new_folder))]
        {
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(DirectoryError::io("remove", path, error));
            }
        }
        Ok(())
    }

    /// Brings tiles in line: a file that holds the bytes already is left alone.
    pub(super) fn bring_in_line(&mut self, tiles: &[Wanted]) -> Result<Tally, DirectoryError> {
        let mut tally = Tally::default();
        for of_folder in tiles.chunk_by(|one, next| one.folder() == next.folder()) {
            if self.put_folder(of_folder) {
                tally.added += of_folder.len() as u64;
                continue;
            }
            for tile in of_folder {
                match if tile.held { self.read(&tile.name)? } else { None } {
                    Some(found) if *found == *tile.bytes => continue,
                    Some(_) => tally.replaced += 1,
                    None => tally.added += 1,
                }
                self.put(&tile.name, &tile.bytes)?;
            }
        }
        Ok(tally)
    }

    /// Puts the tiles of a folder that is new to the target: it is filled beside and takes its name as a whole, which costs less
    /// than to rename each file. Where that cannot be done, `false`: nothing has changed, and each has to be put by itself.
    fn put_folder(&mut self, tiles: &[Wanted]) -> bool {
        let name = tiles.first().map_or("", Wanted::folder);
        let folder = self.path(name);
        let is_worth_it = tiles.len() > 1 && !name.is_empty() && !self.puts_files_only;
        if !is_worth_it || tiles.iter().any(|tile| tile.held) || folder.exists() {
            return false;
        }
        let put = self.fill_new_folder(tiles).and_then(|()| {
            fs::rename(&self.new_folder, &folder).or_else(|_| {
                // It is the first one in the folder above.
                folder.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::rename(&self.new_folder, &folder)
            })
        });
        if let Err(error) = put {
            tracing::debug!("cannot put {} as a whole: {error}", folder.display());
            left_behind(&self.new_folder, fs::remove_dir_all(&self.new_folder));
            // Another writer may have put the same folder.
            self.puts_files_only = !folder.exists();
            return false;
        }
        for tile in tiles {
            self.note_changed(&tile.name);
        }
        self.folder = folder;
        true
    }

    fn fill_new_folder(&self, tiles: &[Wanted]) -> io::Result<()> {
        fs::create_dir(&self.new_folder)?;
        let folder = File::open(&self.new_folder)?;
        for tile in tiles {
            let name = tile.name.rsplit('/').next().unwrap_or_default();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o666))?).write_all(&tile.bytes)?;
        }
        Ok(())
    }

    /// The path of a name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Puts bytes under a name: readers see the old file or the new one.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.write(name, bytes, false)
    }

    /// The same, and on the disk before the name is taken.
    pub(super) fn put_durably(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.write(name, bytes, true)?;
        let folder = self.folder.clone();
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| DirectoryError::io("sync", &folder, source))
    }

    /// The same, unless the file holds these bytes already: its time stays, so that what clients have cached stays good.
    pub(super) fn keep_durably(&mut self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        if self.read(name)?.as_deref() == Some(bytes) { Ok(()) } else { self.put_durably(name, bytes) }
    }

    fn write(&mut self, name: &str, bytes: &[u8], durably: bool) -> Result<(), DirectoryError> {
        let written = self.write_beside(name, bytes, durably);
        if !durably {
            self.note_changed(name);
        }
        if written.is_err() {
            // On a full disk, half a tile must not go on taking the room.
            left_behind(&self.partial, fs::remove_file(&self.partial));
        }
        written
    }

    fn note_changed(&mut self, name: &str) {
        if self.changed.len() <= FEW {
            self.changed.push(self.path(name));
        }
    }

    fn write_beside(&mut self, name: &str, bytes: &[u8], durably: bool) -> Result<(), DirectoryError> {
        let path = self.path(name);
        let partial = |source| DirectoryError::io("write", &self.partial, source);
        let mut file = File::create(&self.partial).map_err(partial)?;
        file.write_all(bytes).map_err(partial)?;
        if durably {
            file.sync_all().map_err(partial)?;
        }
        drop(file);
        self.make_folder(&path)?;
        match fs::rename(&self.partial, &path) {
            // Somebody removed the folder meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder = PathBuf::new();
                self.make_folder(&path)?;
                fs::rename(&self.partial, &path).map_err(|source| DirectoryError::io("write", &path, source))
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(DirectoryError::Io {
                action: "write",
                path,
                next: "a folder has the name of a tile: remove it, or choose another --output or template",
                source: error,
            }),
            done => done.map_err(|source| DirectoryError::io("write", &path, source)),
        }
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), DirectoryError> {
        let Some(folder) = path.parent().filter(|folder| *folder != self.folder) else { return Ok(()) };
        match fs::create_dir_all(folder) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
                let in_the_way = folder.ancestors().find(|above| above.is_file()).unwrap_or(folder);
                return Err(DirectoryError::FileInTheWay { path: in_the_way.to_owned() });
            }
            Err(source) => return Err(DirectoryError::io("make the folder", folder, source)),
        }
        folder.clone_into(&mut self.folder);
        Ok(())
    }

    /// Removes a file, and the folders below the target that it leaves empty; gives whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> Result<bool, DirectoryError> {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
        let path = self.path(name);
        let removed = match fs::remove_file(&path) {
            Ok(()) => true,
            // A folder of that name is no tile.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => false,
            Err(source) => return Err(DirectoryError::io("remove", &path, source)),
        };
        if removed {
            self.note_changed(name);
        }
        for folder in
            path.ancestors().skip(1).take_while(|folder| *folder != self.root && folder.starts_with(&self.root))
        {
            // The first folder that holds something ends it; so does one that cannot be removed, which harms nobody.
            if fs::remove_dir(folder).is_err() {
                break;
            }
            self.folder = PathBuf::new();
        }
        Ok(removed)
    }

    /// The bytes under a name, if there is a file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        read(&self.path(name)).map_err(|source| DirectoryError::io("read", &self.path(name), source))
    }

    /// Brings everything that was written to the disk: few files one by one, many by one call for the whole file system.
    pub(super) fn sync(&mut self, others: &mut [Files]) -> Result<(), DirectoryError> {
        let mut changed = std::mem::take(&mut self.changed);
        for other in others {
            changed.append(&mut other.changed);
        }
        if changed.len() > FEW {
            return File::open(&self.root)
                .and_then(|root| rustix::fs::syncfs(&root).map_err(io::Error::from))
                .map_err(|source| DirectoryError::io("sync", &self.root, source));
        }
        // The folders, too: they hold the names.
        let mut folders: Vec<PathBuf> =
            changed.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
        folders.retain(|folder| folder.starts_with(&self.root));
        folders.sort_unstable();
        folders.dedup();
        changed.append(&mut folders);
        for path in changed {
            match File::open(&path).and_then(|file| file.sync_all()) {
                // It was removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(DirectoryError::io("sync", &path, source)),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// What was to be removed and is still there is named.
fn left_behind(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}; it is safe to delete", path.display());
        }
        _ => {}
    }
}

/// The bytes of a file, if it is there; a folder is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hands over the name of every file below `root` that begins with `prefix`, folder by folder; no file is looked at. Links to folders
/// are not followed, names that are no UTF-8 are not ours.
pub(super) fn walk<E>(
    root: &Path,
    prefix: &str,
    stop: &Stop,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<(), E>, (PathBuf, io::Error)> {
    let first = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
    // Folders yet to be read, as names below the root.
    let mut waiting = vec![first.to_owned()];
    while let Some(folder) = waiting.pop() {
        let path = root.join(&folder);
        let failed = |error| (path.clone(), error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(failed(error)),
        };
        if stop.asked().is_some() {
            return Err(failed(io::Error::from(io::ErrorKind::Interrupted)));
        }
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                // What lies beside the first part of the prefix cannot begin with it.
                if name.starts_with(prefix) || prefix.starts_with(&name) {
                    waiting.push(name);
                }
            } else if name.starts_with(prefix)
                && let Err(error) = each(&name)
            {
                return Ok(Err(error));
            }
        }
    }
    Ok(Ok(()))
}
