//! The target that is served: opened, watched for replacement, read by several readers at once.

use std::fs::Metadata as FileMetadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::manifest::Manifest;
use crate::serve::live::LiveError;
use crate::serve::target::stored::StoredTiles;
use crate::sink::{Described, ReadError, Scope, Template, TileReader};
use crate::tile::{Coverage, TileCoord, TileId, Zoom, ZoomList};

/// Opens the target. It is called for each reader, and again after the target was replaced.
pub type TargetOpener = Arc<dyn Fn() -> Result<Box<dyn TileReader>, ReadError> + Send + Sync>;

/// How the server notices that the target has changed.
#[derive(Debug, Clone)]
pub enum TargetWatch {
    /// By the metadata of some files, checked at each request: an archive and SQLite's files beside it, or the manifest files of a
    /// directory. Files may appear and disappear.
    Files(Vec<PathBuf>),
    /// By reading what the target says about itself once every [`POLL`]: for a target in a bucket.
    Description,
}

/// How often a target in a bucket is polled for what it says about itself.
pub const POLL: Duration = Duration::from_secs(1);

/// A file system records times in steps of some milliseconds. If a file was written more recently than this, another write may leave its
/// time unchanged, so what was read from it is not cached.
const SETTLED: Duration = Duration::from_millis(50);

/// The metadata of the watched files: device, inode, length and time of the last write of each file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Vec<Option<(u64, u64, u64, SystemTime)>>);

impl Stamp {
    fn of(paths: &[PathBuf]) -> Stamp {
        Stamp(paths.iter().map(|path| std::fs::metadata(path).ok().map(|file| facts(&file))).collect())
    }

    /// True if the last write was long enough ago that another write will have another time.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now();
        // A time in the future comes from another clock, so its age is unknown.
        self.0.iter().flatten().all(|(.., written)| now.duration_since(*written).map_or(true, |age| age > SETTLED))
    }
}

#[cfg(unix)]
fn facts(file: &FileMetadata) -> (u64, u64, u64, SystemTime) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino(), file.len(), file.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(not(unix))]
fn facts(file: &FileMetadata) -> (u64, u64, u64, SystemTime) {
    (0, 0, file.len(), file.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// A state of the target: what it holds between two changes.
pub(crate) struct ServedState {
    /// A number that is unique among the states of this process.
    pub(crate) number: u64,
    /// A number that changes when what the target says about itself changes. All states between two publishes share it.
    pub(crate) generation: u64,
    /// The time when the generation was first seen.
    pub(crate) since: Instant,
    /// What the target says about itself.
    pub(crate) described: Described,
    /// Its manifest; `None` if another program wrote it.
    pub(crate) manifest: Option<Manifest>,
    /// The naming rule of the tiles' paths.
    pub(crate) template: Template,
    /// The zooms and boxes in which a tile that is not stored is empty; no element if the target does not say.
    scopes: Vec<Scope>,
    /// True if the last write of the watched files was long enough ago that the next write will have another time.
    pub(crate) is_settled: bool,
    stamp: Stamp,
    /// The list of the tiles that the target holds in this state, once it is made.
    stored: OnceLock<StoredTiles>,
    readers: Mutex<Vec<Box<dyn TileReader>>>,
}

impl ServedState {
    /// True if a tile lies in the target's scope, so that it is empty if it is not stored.
    pub(crate) fn covers(&self, tile: TileCoord) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|scope| scope.holds(tile.into()))
    }

    /// True if a tile that is read in this state may be cached. It may not while a run replaces the tiles of a directory or prefix one by
    /// one, because the files that are watched change only when that run begins and when it ends.
    pub(crate) fn may_be_kept(&self) -> bool {
        self.is_settled && self.described.unfinished.is_empty()
    }

    /// The list of the tiles that the target holds in this state, once it is made.
    pub(crate) fn stored(&self) -> Option<&StoredTiles> {
        self.stored.get()
    }

    /// Keeps the list of the tiles; it must have been made in this state.
    pub(crate) fn keep_stored(&self, stored: StoredTiles) {
        self.stored.get_or_init(|| stored);
    }

    /// Checks that live tiles with this fingerprint fit the stored ones.
    ///
    /// # Errors
    /// [`LiveError::OtherTileset`] if they do not.
    pub(crate) fn is_of(&self, fingerprint: &str) -> Result<(), LiveError> {
        match &self.manifest {
            Some(manifest) if manifest.fingerprint == fingerprint => Ok(()),
            manifest => Err(LiveError::OtherTileset {
                target: manifest.as_ref().map_or_else(|| "unknown".to_owned(), |manifest| manifest.fingerprint.clone()),
                settings: fingerprint.to_owned(),
            }),
        }
    }

    /// True if the run that wrote the target could not render the tile.
    pub(crate) fn is_unrendered(&self, tile: TileCoord) -> bool {
        let unrendered = self.manifest.as_ref().map_or(&[][..], |manifest| &manifest.unrendered);
        !unrendered.is_empty() && unrendered.contains(&tile.to_string())
    }
}

/// The scopes of a target: those of its manifest, otherwise its zooms and bounds.
fn scopes(described: &Described, manifest: Option<&Manifest>) -> Vec<Scope> {
    if let Some(manifest) = manifest {
        return manifest.regions().filter_map(|region| Scope::read(&region.zooms, &region.bbox)).collect();
    }
    let zooms = described.zooms.and_then(|(min, max)| ZoomList::of((min..=max).filter_map(Zoom::new)));
    let boxes: Vec<_> = described.bounds.into_iter().collect();
    zooms.map(|zooms| Scope { zooms, coverage: Coverage::new(&boxes) }).into_iter().collect()
}

/// The target that is served.
pub(crate) struct ServedTarget {
    open: TargetOpener,
    watched: TargetWatch,
    state: RwLock<Arc<ServedState>>,
    /// Locked while the target is opened again, so that only one thread opens it.
    opening: Mutex<()>,
}

/// Locks a mutex. A lock poisoned by a panic is used all the same: no thread leaves a value here half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServedTarget {
    /// Opens the target. Blocks.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn open(open: TargetOpener, watched: TargetWatch) -> Result<ServedTarget, ReadError> {
        let state = read_state(&open, &watched, None)?;
        Ok(ServedTarget { open, watched, state: RwLock::new(Arc::new(state)), opening: Mutex::new(()) })
    }

    /// The state that was read last, whether or not the target has changed since.
    pub(crate) fn last(&self) -> Arc<ServedState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// True if the state is the target's present one, as far as the metadata of its files tells.
    pub(crate) fn is_current(&self, state: &ServedState) -> bool {
        match &self.watched {
            // What is read in an unsettled state is not cached, so it stays correct. Once the files are settled, the description is read
            // again.
            TargetWatch::Files(paths) => {
                Stamp::of(paths) == state.stamp && (state.is_settled || !state.stamp.is_settled())
            }
            TargetWatch::Description => true,
        }
    }

    /// The target's present state. Opens the target again if it has changed. Blocks.
    ///
    /// # Errors
    /// If it has changed and cannot be read.
    pub(crate) fn current(&self) -> Result<Arc<ServedState>, ReadError> {
        let _opening = locked(&self.opening);
        let last = self.last();
        if self.is_current(&last) {
            return Ok(last);
        }
        Ok(self.replace(read_state(&self.open, &self.watched, Some(&last))?))
    }

    /// Reads what the target says about itself, and begins a new state if that has changed. Blocks.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn poll(&self) -> Result<(), ReadError> {
        let _opening = locked(&self.opening);
        let last = self.last();
        let state = read_state(&self.open, &self.watched, Some(&last))?;
        if state.described != last.described || state.template != last.template {
            self.replace(state);
        }
        Ok(())
    }

    /// True if changes of the target are noticed by polling only.
    pub(crate) const fn needs_polling(&self) -> bool {
        matches!(self.watched, TargetWatch::Description)
    }

    /// Lists every tile that the target holds. Blocks.
    ///
    /// # Errors
    /// If the tiles cannot be listed.
    pub(crate) fn list(&self) -> Result<Vec<TileId>, ReadError> {
        opened(&self.open)?.list()
    }

    /// Checks that the tiles of a target in a bucket can be listed. Blocks.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn can_list(&self) -> Result<(), ReadError> {
        if self.needs_polling() { opened(&self.open)?.can_list() } else { Ok(()) }
    }

    fn replace(&self, state: ServedState) -> Arc<ServedState> {
        let state = Arc::new(state);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);
        state
    }

    /// The stored bytes of a tile in a state; `None` if the target does not hold it. Blocks.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(&self, state: &ServedState, tile: TileId) -> Result<Option<Box<[u8]>>, ReadError> {
        let idle = locked(&state.readers).pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => opened(&self.open)?,
        };
        let read = match reader.read(&[tile]) {
            // A writer was killed in a commit after this reader was opened. Opening rolls that back, if this process may write.
            Err(ReadError::HalfWritten { .. }) => {
                reader = opened(&self.open)?;
                reader.read(&[tile])?
            }
            read => read?,
        };
        // A reader that has failed does not get here and is dropped.
        locked(&state.readers).push(reader);
        Ok(read.into_iter().next().flatten())
    }
}

fn opened(open: &TargetOpener) -> Result<Box<dyn TileReader>, ReadError> {
    let mut reader = open()?;
    reader.keep_open()?;
    Ok(reader)
}

/// Reads the target's present state. `last` is the state before.
fn read_state(
    open: &TargetOpener,
    watched: &TargetWatch,
    last: Option<&ServedState>,
) -> Result<ServedState, ReadError> {
    let paths: &[PathBuf] = match watched {
        TargetWatch::Files(paths) => paths,
        TargetWatch::Description => &[],
    };
    // Take the stamp before reading, so that any later change gives another stamp.
    let stamp = Stamp::of(paths);
    let is_settled = stamp.is_settled();
    let mut reader = opened(open)?;
    let described = reader.describe()?;
    let template = reader.template();
    // A manifest that cannot be parsed belongs to another program.
    let manifest: Option<Manifest> = described.manifest.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let scopes = scopes(&described, manifest.as_ref());
    let readers = Mutex::new(vec![reader]);
    let (number, generation, since) = match last {
        None => (1, 1, Instant::now()),
        Some(last) if last.described == described => (last.number + 1, last.generation, last.since),
        Some(last) => (last.number + 1, last.generation + 1, Instant::now()),
    };
    Ok(ServedState {
        number,
        generation,
        since,
        described,
        manifest,
        template,
        scopes,
        is_settled,
        stamp,
        stored: OnceLock::new(),
        readers,
    })
}

/// The files by which a change of an archive is noticed: the archive itself, and the file that SQLite writes first (in WAL mode the
/// write-ahead log).
#[must_use]
pub fn files_of_archive(path: &Path) -> TargetWatch {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    TargetWatch::Files(vec![path.to_owned(), beside("-wal")])
}

/// The files by which a change of a directory is noticed. Every publish writes one of the first two as its last step; a run that replaces
/// tiles one by one writes the third as its first step.
#[must_use]
pub fn files_of_directory(path: &Path) -> TargetWatch {
    TargetWatch::Files(["metadata.json", "latest.json", ".oar-tiles/begun.json"].map(|name| path.join(name)).into())
}
