//! The target that is served: opened, watched for replacement, read by several readers at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::manifest::{Manifest, Publication};
use crate::serve::live::LiveError;
use crate::serve::target::last_changed::LastChanged;
use crate::serve::target::stored::StoredTiles;
use crate::serve::target::watch::{Stamp, TargetWatch};
use crate::sink::{ChangeLists, Described, NoteStore, ReadError, Scope, Template, TileReader};
use crate::tile::{Coverage, TileCoord, TileId, TileRectList, Zoom, ZoomList};
use tokio::sync::broadcast;

/// Opens the target. It is called for each reader, and again after the target was replaced.
pub type TargetOpener = Arc<dyn Fn() -> Result<Box<dyn TileReader>, ReadError> + Send + Sync>;

/// The target of a server, and how it is reached.
#[derive(Clone)]
pub struct ServedSource {
    /// Opens it.
    pub open: TargetOpener,
    /// How its changes are noticed.
    pub watched: TargetWatch,
    /// What is kept with it: the lists of changed tiles.
    pub notes: Arc<dyn NoteStore>,
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

    /// The publication that the target shows.
    pub(crate) fn publication(&self) -> Option<&Publication> {
        self.manifest.as_ref()?.publication.as_ref()
    }

    /// True if what the target says about itself is the same, except for runs that have begun or ended.
    fn is_described_as(&self, other: &ServedState) -> bool {
        let finished = |state: &ServedState| Described { unfinished: Vec::new(), ..state.described.clone() };
        self.template == other.template && finished(self) == finished(other)
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

/// A change of the target that this server has noticed.
#[derive(Debug, Clone)]
pub(crate) struct NoticedChange {
    /// The publication that the target shows now; `None` if its manifest names none.
    pub(crate) publication: Option<Publication>,
    /// The database state that its tiles show.
    pub(crate) snapshot: Option<String>,
    /// The tiles that changed; `None` if every tile may have.
    pub(crate) tiles: Option<TileRectList>,
    /// When it was noticed.
    pub(crate) time: SystemTime,
}

/// The most changes that wait for a listener of [`ServedTarget::changes`]; one that is slower misses some.
const MAX_WAITING_CHANGES: usize = 64;

/// The target that is served.
pub(crate) struct ServedTarget {
    source: ServedSource,
    state: RwLock<Arc<ServedState>>,
    last_changed: LastChanged,
    changes: broadcast::Sender<Arc<NoticedChange>>,
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
    pub(crate) fn open(source: ServedSource) -> Result<ServedTarget, ReadError> {
        let state = read_state(&source, None)?;
        let last_changed = LastChanged::since(state.number);
        let (changes, _) = broadcast::channel(MAX_WAITING_CHANGES);
        let (state, opening) = (RwLock::new(Arc::new(state)), Mutex::new(()));
        Ok(ServedTarget { source, state, last_changed, changes, opening })
    }

    /// The changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<NoticedChange>> {
        self.changes.subscribe()
    }

    /// The number of the state since which a tile is unchanged. If it is greater than that of the state in which a request has begun, the
    /// target has changed since, and the tile may be cached no more.
    pub(crate) fn unchanged_since(&self, tile: TileCoord) -> u64 {
        self.last_changed.of(tile)
    }

    /// The state that was read last, whether or not the target has changed since.
    pub(crate) fn last(&self) -> Arc<ServedState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// True if the state is the target's present one, as far as the metadata of its files tells.
    pub(crate) fn is_current(&self, state: &ServedState) -> bool {
        match &self.source.watched {
            // What is read in an unsettled state is not cached, so it stays correct. Once the files are settled, the description is read
            // again.
            TargetWatch::Archive(paths) | TargetWatch::Notes(paths) => {
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
        Ok(self.replace(&last, read_state(&self.source, Some(&last))?))
    }

    /// Reads what the target says about itself, and begins a new state if that has changed. Blocks.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn poll(&self) -> Result<(), ReadError> {
        let _opening = locked(&self.opening);
        let last = self.last();
        let state = read_state(&self.source, Some(&last))?;
        if state.described != last.described || state.template != last.template {
            self.replace(&last, state);
        }
        Ok(())
    }

    /// True if changes of the target are noticed by polling only.
    pub(crate) const fn needs_polling(&self) -> bool {
        matches!(self.source.watched, TargetWatch::Description)
    }

    /// Lists every tile that the target holds. Blocks.
    ///
    /// # Errors
    /// If the tiles cannot be listed.
    pub(crate) fn list(&self) -> Result<Vec<TileId>, ReadError> {
        opened(&self.source.open)?.list()
    }

    /// Checks that the tiles of a target in a bucket can be listed. Blocks.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn can_list(&self) -> Result<(), ReadError> {
        if self.needs_polling() { opened(&self.source.open)?.can_list() } else { Ok(()) }
    }

    /// Begins a new state. The tiles that changed are noted before a request sees it.
    fn replace(&self, last: &ServedState, state: ServedState) -> Arc<ServedState> {
        let changed = self.changed(last, &state);
        match &changed {
            StateChange::Nothing => {}
            StateChange::Tiles(tiles) => self.last_changed.change(tiles, state.number),
            StateChange::Everything => self.last_changed.change_all(state.number),
        }
        let state = Arc::new(state);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);
        let tiles = match changed {
            StateChange::Nothing => return state,
            StateChange::Tiles(tiles) => Some(tiles),
            StateChange::Everything => None,
        };
        let manifest = state.manifest.as_ref();
        let (publication, snapshot) =
            (state.publication().cloned(), manifest.map(|manifest| manifest.snapshot.clone()));
        let noticed = NoticedChange { publication, snapshot, tiles, time: SystemTime::now() };
        // An error says that nobody waits for it.
        drop(self.changes.send(Arc::new(noticed)));
        state
    }

    /// Which tiles changed from one state to the next.
    fn changed(&self, last: &ServedState, next: &ServedState) -> StateChange {
        let (Some(from), Some(to)) = (last.publication(), next.publication()) else { return StateChange::Everything };
        if from == to {
            // Another program has written an archive, or the notes. If it writes an archive in the same step of the file system's clock as a
            // run of this program, that is not noticed.
            let is_rewritten = match self.source.watched {
                TargetWatch::Archive(_) => last.stamp != next.stamp,
                TargetWatch::Notes(_) | TargetWatch::Description => !next.is_described_as(last),
            };
            return if is_rewritten { StateChange::Everything } else { StateChange::Nothing };
        }
        match ChangeLists::read(&*self.source.notes) {
            Ok(lists) => lists.tiles_between(from, to).map_or(StateChange::Everything, StateChange::Tiles),
            Err(error) => {
                tracing::info!("all cached tiles are forgotten: {error}");
                StateChange::Everything
            }
        }
    }

    /// The stored bytes of a tile in a state; `None` if the target does not hold it. Blocks.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(&self, state: &ServedState, tile: TileId) -> Result<Option<Box<[u8]>>, ReadError> {
        let idle = locked(&state.readers).pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => opened(&self.source.open)?,
        };
        let read = match reader.read(&[tile]) {
            // A writer was killed in a commit after this reader was opened. Opening rolls that back, if this process may write.
            Err(ReadError::HalfWritten { .. }) => {
                reader = opened(&self.source.open)?;
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

/// Which tiles changed from one state to the next.
enum StateChange {
    Nothing,
    Tiles(TileRectList),
    Everything,
}

/// How often a target is read again because its files change while it is read.
const MAX_READS: u32 = 5;

/// Reads the target's present state, of which `last` is the one before. While a program writes the files, reading waits for it and finds
/// what it has written; then the metadata taken before do not belong to what was read.
fn read_state(source: &ServedSource, last: Option<&ServedState>) -> Result<ServedState, ReadError> {
    let mut reads = 1;
    loop {
        let state = read_state_once(&source.open, &source.watched, last)?;
        if reads == MAX_READS || Stamp::of(source.watched.files()) == state.stamp {
            return Ok(state);
        }
        reads += 1;
    }
}

fn read_state_once(
    open: &TargetOpener,
    watched: &TargetWatch,
    last: Option<&ServedState>,
) -> Result<ServedState, ReadError> {
    // Take the stamp before reading, so that any later change gives another stamp.
    let stamp = Stamp::of(watched.files());
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
