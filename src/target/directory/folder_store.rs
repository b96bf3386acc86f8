//! What a run needs of a directory, by file operations; its versions: listed, switched, removed.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::DirectoryError;
use super::files::{Files, staged_tile};
use super::folder::OpenFolder;
use super::lock::Lock;
use super::state::{BEGUN, Started, read_state, walk};
use crate::stop::Stop;
use crate::target::disk_list::ScratchError;
use crate::target::read::MAX_NOTE;
use crate::target::tree::notes::Begun;
use crate::target::tree::{
    Inventory, Latest, Tag, Template, TreeOptions, TreeRefusal, TreeState, TreeStore, VERSIONS, notes, switch,
};
use crate::target::{SwitchError, Tileset};
use crate::tile::TileId;

/// `latest.json`, if there is one.
pub(crate) fn latest(root: &OpenFolder) -> Result<Option<Latest>, DirectoryError> {
    let body = root.read(notes::LATEST, MAX_NOTE).map_err(|error| error.into_error("read"))?;
    let Some(body) = body else { return Ok(None) };
    let failed = |source| DirectoryError::Note { path: root.path().join(notes::LATEST), source };
    serde_json::from_slice(&body).map(Some).map_err(failed)
}

/// A directory that a run writes, or whose version is switched.
pub(crate) struct FolderStore<'a> {
    pub(crate) files: &'a mut Files,
    pub(crate) others: &'a mut Vec<Files>,
    pub(crate) lock: &'a mut Lock,
    pub(crate) stop: &'a Stop,
    /// The template of the tiles' names, for `begun.json`.
    pub(crate) template: &'a str,
}

impl FolderStore<'_> {
    fn stopped(&self) -> Result<(), DirectoryError> {
        match self.stop.asked() {
            Some(_) => Err(self.interrupted()),
            None => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.files.root.path().to_owned()
    }

    fn interrupted(&self) -> DirectoryError {
        DirectoryError::Interrupted { path: self.path() }
    }
}

impl TreeStore for FolderStore<'_> {
    type Error = DirectoryError;

    const SHOWS_METADATA: bool = false;

    fn state(&mut self, force: bool) -> Result<TreeState, DirectoryError> {
        read_state(self.files, force)
    }

    fn refused(&self, refusal: TreeRefusal, tileset: &Tileset) -> DirectoryError {
        let path = self.path();
        match refusal {
            TreeRefusal::Whole => DirectoryError::Whole { path },
            TreeRefusal::NoTileset => DirectoryError::NoTileset { path },
            TreeRefusal::OtherTileset(found) => {
                DirectoryError::OtherTileset { path, found, wanted: tileset.fingerprint.clone() }
            }
        }
    }

    /// Refuses to write the same tileset under other names next to the old files.
    fn check(&self, state: &TreeState, options: &TreeOptions) -> Result<(), DirectoryError> {
        let (path, wanted) = (self.path(), options.template.text().to_owned());
        let has_versions = options.template.is_versioned();
        match state.template.clone() {
            Some(found) if found != wanted && !(has_versions && found.contains("{version}")) => {
                Err(DirectoryError::OtherTemplate { path, found, wanted })
            }
            _ => Ok(()),
        }
    }

    fn latest(&mut self) -> Result<Option<Latest>, DirectoryError> {
        latest(&self.files.root)
    }

    /// Also removes files that a killed run left next to tiles.
    fn list_tiles(
        &mut self,
        template: &Template,
        ours: bool,
        each: &mut dyn FnMut(TileId, Tag) -> Result<(), ScratchError>,
    ) -> Result<(), DirectoryError> {
        let mut left_behind = Vec::new();
        let walked = walk(&self.files.root, template, self.stop, |name| {
            let Some(id) = template.read(name) else {
                if staged_tile(name).is_some_and(|tile| template.read(&tile).is_some()) {
                    left_behind.push(name.to_owned());
                }
                return Ok(());
            };
            if !ours {
                return Err(DirectoryError::NotOurs { path: self.path(), example: name.to_owned() });
            }
            Ok(each(id, None)?)
        });
        match walked {
            Ok(done) => done?,
            Err(_) if self.stop.asked().is_some() => return Err(self.interrupted()),
            Err(error) => return Err(error.into_error("read the folder")),
        }
        if ours {
            left_behind.iter().try_for_each(|name| self.files.remove_left_behind(name))?;
        }
        Ok(())
    }

    fn note_error(&self, name: &str, source: serde_json::Error) -> DirectoryError {
        DirectoryError::Note { path: self.files.path(name), source }
    }

    fn wait_for_tiles(&mut self) -> Result<(), DirectoryError> {
        self.stopped()
    }

    fn delete_tile(&mut self, name: String) -> Result<bool, DirectoryError> {
        self.stopped()?;
        self.files.remove(&name)
    }

    fn sync_tiles(&mut self) -> Result<(), DirectoryError> {
        self.files.sync(self.others)?;
        self.stopped()
    }

    /// The lock holds as long as the process lives.
    fn confirm(&mut self) -> Result<(), DirectoryError> {
        Ok(())
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        self.files.read(name)
    }

    fn metadata_of(&mut self, version: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        match self.files.read(&notes::of_version(version, notes::METADATA)) {
            // An entry that is not a version, such as a link, is removed itself.
            Err(DirectoryError::LinkInTheWay { .. }) => Ok(None),
            read => read,
        }
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Result<(), DirectoryError> {
        self.files.put_durably(name, body)
    }

    fn keep(&mut self, name: &str, body: &[u8]) -> Result<(), DirectoryError> {
        self.files.keep_durably(name, body)
    }

    fn replace(&mut self, name: &str, body: &[u8]) -> Result<(), DirectoryError> {
        self.files.keep_durably(name, body)
    }

    fn names(&mut self, folder: &str) -> Result<BTreeSet<String>, DirectoryError> {
        let mut names = BTreeSet::new();
        let folder = self.files.root.find(folder.trim_end_matches('/'));
        match folder.and_then(|folder| folder.each(|name, _| names.extend([name.to_owned()]))) {
            Err(error) if !error.is_missing() => Err(error.into_error("read the folder")),
            _ => Ok(names),
        }
    }

    fn remove(&mut self, name: &str) -> Result<(), DirectoryError> {
        self.files.remove(name).map(drop)
    }

    fn note_begun(&mut self, begun: Begun) -> Result<(), DirectoryError> {
        let started = Started { begun, template: self.template.to_owned() };
        let body = serde_json::to_vec(&started).map_err(|source| self.note_error(BEGUN, source))?;
        self.files.keep_durably(BEGUN, &body)?;
        self.lock.keep();
        Ok(())
    }

    /// `latest.json` alone says it.
    fn note_published(&mut self, _version: &str) -> Result<(), DirectoryError> {
        Ok(())
    }

    /// Shards write no version of a directory.
    fn is_awaited(&mut self, _version: &str) -> Result<bool, DirectoryError> {
        Ok(false)
    }

    fn remove_version(&mut self, version: &str, template: &Template) -> Result<ControlFlow<()>, DirectoryError> {
        let mut held = Inventory::new()?;
        match self.list_tiles(template, true, &mut |id, tag| held.add(id, tag)) {
            Err(DirectoryError::Interrupted { .. }) => return Ok(ControlFlow::Break(())),
            listed => listed?,
        }
        loop {
            let tiles = held.rest()?;
            if tiles.is_empty() {
                break;
            }
            for id in tiles {
                self.files.remove(&template.name(id))?;
            }
            if self.stop.asked().is_some() {
                return Ok(ControlFlow::Break(()));
            }
        }
        match self.files.root.find(VERSIONS.trim_end_matches('/')) {
            Ok(versions) => versions.remove_filled(version).map_err(|error| error.into_error("remove"))?,
            Err(missing) if missing.is_missing() => {}
            Err(error) => return Err(error.into_error("remove")),
        }
        Ok(if self.stop.asked().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

pub fn directory_versions(root: &Path) -> Result<Latest, DirectoryError> {
    let none = || DirectoryError::NoVersions { path: root.to_owned() };
    match OpenFolder::open(root) {
        Ok(root) => latest(&root)?.ok_or_else(none),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(none()),
        Err(error) => Err(DirectoryError::io("read", root, error)),
    }
}

/// Switches clients to the version `to`, or to the one before the current version. Returns the versions after the
/// switch, or the reason why there is no such version.
/// Fails if the directory cannot be written, or another run writes it.
pub fn switch_directory(root: &Path, to: Option<&str>) -> Result<Result<Latest, SwitchError>, DirectoryError> {
    directory_versions(root)?;
    let mut lock = Lock::take(root)?;
    lock.keep();
    let before = directory_versions(root)?;
    let shown = before.version.clone();
    let latest = match before.switched(to) {
        Ok(latest) => latest,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut files = Files::new(&lock.root, &lock.own);
    let stop = Stop::new();
    let mut folder =
        FolderStore { files: &mut files, others: &mut Vec::new(), lock: &mut lock, stop: &stop, template: "" };
    switch(&mut folder, &latest, &shown)?;
    Ok(Ok(latest))
}
