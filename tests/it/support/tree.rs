//! A directory of tiles as a test reads it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::archive::Address;
use super::folder::Folder;
use super::program::{Run, seed};

/// The lock file stays and names its last holder: it is the only file in which two equal trees differ.
const LOCK: &str = ".oar-tiles/lock";

/// A directory target in a folder of its own, which also holds the files next to it.
pub(crate) struct Tree {
    /// The target; not there yet.
    pub path: PathBuf,
    folder: Folder,
}

/// The result that a run reports: tiles written, unchanged, deleted.
pub(crate) type Done = (u64, u64, u64);

impl Tree {
    /// A place for a target.
    pub(crate) fn new() -> Tree {
        let folder = Folder::new();
        Tree { path: folder.beside("tiles"), folder }
    }

    /// Seeds it; returns what was done, according to the run's own report.
    #[track_caller]
    pub(crate) fn seed(&self, url: &str, arguments: &[&str]) -> Done {
        self.seeded(url, arguments).0
    }

    /// The same, with the whole report and what was shown.
    #[track_caller]
    pub(crate) fn seeded(&self, url: &str, arguments: &[&str]) -> (Done, Value, Run) {
        let file = self.beside("report.json");
        let shown = seed(url, &self.path, &[&["--report", file.to_str().unwrap()], arguments].concat()).ok();
        let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let count = |name: &str| report[name].as_u64().unwrap();
        ((count("written"), count("unchanged"), count("deleted")), report, shown)
    }

    /// A JSON file in it.
    #[track_caller]
    pub(crate) fn json(&self, name: &str) -> Value {
        let text = std::fs::read(self.path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::from_slice(&text).unwrap()
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> Value {
        serde_json::from_str(self.json("metadata.json")["oar_tiles_manifest"].as_str().unwrap()).unwrap()
    }

    /// Every file except the lock, by its name below the target.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.path)
    }

    /// Every tile under the default template.
    pub(crate) fn tiles(&self) -> BTreeMap<Address, Vec<u8>> {
        tiles(&self.path)
    }

    /// Inode and time of every tile under the default template.
    pub(crate) fn stamps(&self) -> BTreeMap<Address, (u64, i64, i64)> {
        let stamp = |address: Address| {
            let (z, x, y) = address;
            let about = std::fs::metadata(self.path.join(format!("{z}/{x}/{y}.pbf"))).unwrap();
            (address, (about.ino(), about.mtime(), about.mtime_nsec()))
        };
        self.tiles().into_keys().map(stamp).collect()
    }
}

/// Every tile below a folder under the default template.
pub(crate) fn tiles(root: &Path) -> BTreeMap<Address, Vec<u8>> {
    files(root).into_iter().filter_map(|(name, bytes)| Some((address(&name)?, bytes))).collect()
}

/// Paths next to the target are paths in its folder.
impl Deref for Tree {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// `z/x/y.pbf`.
fn address(name: &str) -> Option<Address> {
    let mut parts = name.strip_suffix(".pbf")?.split('/');
    let mut part = || parts.next()?.parse::<u32>().ok();
    let address = (part()? as u8, part()?, part()?);
    (name == format!("{}/{}/{}.pbf", address.0, address.1, address.2)).then_some(address)
}

/// Every file below a folder except the lock, by its name. A run may be at work there: a file that it renames or
/// removes between the listing and the reading is left out.
pub(crate) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Some(entries) = still_there(std::fs::read_dir(&folder)) else {
            assert!(folder != root, "{} is missing", root.display());
            continue;
        };
        for path in entries.map_while(still_there).map(|entry| entry.path()) {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                waiting.push(path);
            } else if name != LOCK {
                found.extend(still_there(std::fs::read(&path)).map(|bytes| (name, bytes)));
            }
        }
    }
    found
}

/// What was read, or `None` if the file no longer exists.
fn still_there<T>(read: std::io::Result<T>) -> Option<T> {
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// Folders that hold nothing.
pub(crate) fn empty_folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let below: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        if below.is_empty() {
            found.push(folder);
        }
        waiting.extend(below.into_iter().filter(|path| path.is_dir()));
    }
    found
}
