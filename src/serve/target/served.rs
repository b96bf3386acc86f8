//! The target that is served: opened, watched for replacement, read by several readers at once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

use super::state::{ServedState, scopes};
use super::stored::StoredTiles;
use super::watch::{ChangeDetection, Stamp};
use crate::error::with_causes;
use crate::manifest::{Manifest, Publication};
use crate::serve::known_changes::last_changed::{LastChanged, TargetMemory};
use crate::serve::known_changes::{KnownChanges, LiveSince};
use crate::target::{ChangeLists, NoteStore, ReadError, TileReader};
use crate::tile::{TileCoord, TileId, TileRectList};

/// Opens the target. It is called for each reader, and again after the target was replaced.
pub type TargetOpener = Arc<dyn Fn() -> Result<Box<dyn TileReader>, ReadError> + Send + Sync>;

/// The target of a server, and how it is reached.
#[derive(Clone)]
pub struct ServedSource {
    pub open: TargetOpener,
    pub watched: ChangeDetection,
    /// The notes that are stored with it: the lists of changed tiles.
    pub notes: Arc<dyn NoteStore>,
}

#[derive(Debug, Clone)]
pub(crate) struct NoticedChange {
    /// The publication that the target shows now; `None` if its manifest names none.
    pub(crate) publication: Option<Publication>,
    /// The database state that its tiles show.
    pub(crate) snapshot: Option<String>,
    /// The tiles that changed; `None` if every tile may have.
    pub(crate) tiles: Option<TileRectList>,
    pub(crate) time: SystemTime,
}

/// The most changes that wait for a listener of [`ServedTarget::changes`]; a slower listener misses some.
const MAX_WAITING_CHANGES: usize = 64;

pub(crate) struct ServedTarget {
    source: ServedSource,
    known: KnownChanges,
    pub(crate) memory: TargetMemory,
    state: RwLock<Arc<ServedState>>,
    last_changed: LastChanged,
    changes: broadcast::Sender<Arc<NoticedChange>>,
    /// Locked while the target is opened again, so that only one thread opens it.
    opening: Mutex<()>,
    /// When the last successful poll began.
    polled: Mutex<Instant>,
}

impl ServedTarget {
    /// Opens the target. Blocks.
    pub(crate) fn open(
        source: ServedSource,
        known: KnownChanges,
        memory: TargetMemory,
    ) -> Result<ServedTarget, ReadError> {
        let polled = Mutex::new(Instant::now());
        let mut state = read_state(&source, None)?;
        state.live_since = known.live_since_for(state.cursor.as_ref(), &state.live_since);
        known.set_target_state(state.cursor.clone(), &state.kept_scopes());
        let last_changed = LastChanged::new(state.number, memory);
        let (changes, _) = broadcast::channel(MAX_WAITING_CHANGES);
        let (state, opening) = (RwLock::new(Arc::new(state)), Mutex::new(()));
        Ok(ServedTarget { source, known, memory, state, last_changed, changes, opening, polled })
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<NoticedChange>> {
        self.changes.subscribe()
    }

    /// The number of the state since which a tile is unchanged. If it is greater than the number of the state in which
    /// a request has begun, the target has changed since, and the tile may no longer be cached.
    pub(crate) fn unchanged_since(&self, tile: TileCoord) -> u64 {
        self.last_changed.of(tile)
    }

    /// The state that was read last, whether or not the target has changed since.
    pub(crate) fn last(&self) -> Arc<ServedState> {
        Arc::clone(&self.state.read())
    }

    /// True if the state is the target's present one, as far as the metadata of its files show.
    pub(crate) fn is_current(&self, state: &ServedState) -> bool {
        match &self.source.watched {
            // Tiles that are read in an unsettled state are not cached, so answers stay correct. Once the files are
            // settled, the description is read again.
            ChangeDetection::Archive(paths) | ChangeDetection::Notes(paths) => {
                Stamp::of(paths) == state.stamp && (state.is_settled || !state.stamp.is_settled())
            }
            ChangeDetection::Description => true,
        }
    }

    /// The target's present state. Opens the target again if it has changed. Blocks.
    pub(crate) fn current(&self) -> Result<Arc<ServedState>, ReadError> {
        let _opening = self.opening.lock();
        let last = self.last();
        if self.is_current(&last) {
            return Ok(last);
        }
        Ok(self.replace(&last, read_state(&self.source, Some(&last))?))
    }

    /// Reads the target's description, and begins a new state if that has changed. Blocks.
    pub(crate) fn poll(&self) -> Result<(), ReadError> {
        let _opening = self.opening.lock();
        let (last, begun) = (self.last(), Instant::now());
        let state = read_state(&self.source, Some(&last))?;
        if state.described != last.described || state.template != last.template {
            self.replace(&last, state);
        }
        *self.polled.lock() = begun;
        Ok(())
    }

    /// When the last successful poll of a target in a bucket began; `None` for files, which each request checks.
    pub(crate) fn polled(&self) -> Option<Instant> {
        self.needs_polling().then(|| *self.polled.lock())
    }

    pub(crate) fn notes(&self) -> &dyn NoteStore {
        &*self.source.notes
    }

    /// True if changes of the target are noticed by polling only.
    pub(crate) const fn needs_polling(&self) -> bool {
        matches!(self.source.watched, ChangeDetection::Description)
    }

    /// True if a run replaces the tiles of the target one by one, so that some show more than the target's state says
    /// until the run's end is noticed.
    pub(crate) fn replaces_tiles_one_by_one(&self, state: &ServedState) -> bool {
        !matches!(self.source.watched, ChangeDetection::Archive(_)) && !state.template.is_versioned()
    }

    /// Lists every tile that the target holds. Blocks.
    pub(crate) fn list(&self) -> Result<Vec<TileId>, ReadError> {
        opened(&self.source.open)?.list()
    }

    /// Checks that the tiles of a target in a bucket can be listed. Blocks.
    pub(crate) fn can_list(&self) -> Result<(), ReadError> {
        if self.needs_polling() { opened(&self.source.open)?.can_list() } else { Ok(()) }
    }

    /// What this server knows of the change log.
    pub(crate) const fn known(&self) -> &KnownChanges {
        &self.known
    }

    /// Begins a new state. The tiles that changed are noted before a request sees it.
    fn replace(&self, last: &ServedState, mut state: ServedState) -> Arc<ServedState> {
        let changed = self.changed(last, &state);
        match &changed {
            StateChange::Nothing => {}
            StateChange::Tiles(tiles) => self.last_changed.change(tiles.tiles(), state.number),
            StateChange::Everything => self.last_changed.change_all(state.number),
        }
        if !matches!(changed, StateChange::Nothing) {
            state.live_since = self.known.live_since_for(state.cursor.as_ref(), &last.live_since);
        }
        let state = Arc::new(state);
        *self.state.write() = Arc::clone(&state);
        self.known.set_target_state(state.cursor.clone(), &state.kept_scopes());
        let tiles = match changed {
            StateChange::Nothing => return state,
            StateChange::Tiles(tiles) => Some(tiles),
            StateChange::Everything => None,
        };
        let manifest = state.manifest.as_ref();
        let (publication, snapshot) =
            (state.publication().cloned(), manifest.map(|manifest| manifest.snapshot.clone()));
        let noticed = NoticedChange { publication, snapshot, tiles, time: SystemTime::now() };
        // An error means that there is no listener.
        drop(self.changes.send(Arc::new(noticed)));
        state
    }

    fn changed(&self, last: &ServedState, next: &ServedState) -> StateChange {
        let (Some(from), Some(to)) = (last.publication(), next.publication()) else { return StateChange::Everything };
        if from == to {
            // Another program has written an archive, or the notes. A write of an archive in the same tick of the file
            // system's clock as a run of this program is not noticed.
            let is_rewritten = match self.source.watched {
                ChangeDetection::Archive(_) => last.stamp != next.stamp,
                ChangeDetection::Notes(_) | ChangeDetection::Description => !next.is_described_as(last),
            };
            return if is_rewritten { StateChange::Everything } else { StateChange::Nothing };
        }
        match ChangeLists::read(&*self.source.notes) {
            Ok(lists) => lists.tiles_between(from, to).map_or(StateChange::Everything, StateChange::Tiles),
            Err(error) => {
                tracing::info!("all cached tiles are forgotten: {}", with_causes(&error));
                StateChange::Everything
            }
        }
    }

    /// The stored bytes of a tile in a state; `None` if the target does not hold it. Blocks.
    pub(crate) fn read(&self, state: &ServedState, tile: TileId) -> Result<Option<Box<[u8]>>, ReadError> {
        let idle = state.readers.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => opened(&self.source.open)?,
        };
        let read = match reader.read(&[tile]) {
            // A writer was killed in a commit after this reader was opened. Opening rolls that back, if this process
            // may write.
            Err(ReadError::HalfWritten { .. }) => {
                reader = opened(&self.source.open)?;
                reader.read(&[tile])?
            }
            read => read?,
        };
        // A reader that has failed does not get here and is dropped.
        state.readers.lock().push(reader);
        let stored = read.into_iter().next().flatten();
        if stored.is_none() && self.must_hold(state, tile) {
            return Err(ReadError::Vanished);
        }
        Ok(stored)
    }

    /// True if the target held a tile when it was listed, and no run can have removed it since: a version never
    /// changes, and a run that changes the files of a target changes its notes first.
    fn must_hold(&self, state: &ServedState, tile: TileId) -> bool {
        let may_change = !state.template.is_versioned() && (self.needs_polling() || !self.is_current(state));
        !may_change && state.stored().is_some_and(|stored| stored.holds(tile))
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

/// The most times that a target is read because its files change while it is read.
const MAX_READS: u32 = 5;

/// Reads the target's present state; `last` is the previous one. While another program writes the files, reading waits
/// and then finds the new content. The metadata that were taken before do not belong to that content, so the target is
/// read again.
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
    watched: &ChangeDetection,
    last: Option<&ServedState>,
) -> Result<ServedState, ReadError> {
    // Take the stamp before reading, so that any later change gives another stamp.
    let stamp = Stamp::of(watched.files());
    let is_settled = stamp.is_settled();
    let mut reader = opened(open)?;
    reader.holds_tileset()?;
    let described = reader.describe()?;
    let template = reader.template();
    // A manifest that cannot be parsed belongs to another program.
    let manifest: Option<Manifest> = described.manifest.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let scopes = scopes(&described, manifest.as_ref());
    let readers = Mutex::new(vec![reader]);
    let (number, generation, live_since) = match last {
        None => (1, 1, LiveSince::default()),
        Some(last) if last.described == described => (last.number + 1, last.generation, last.live_since.clone()),
        Some(last) => (last.number + 1, last.generation + 1, last.live_since.clone()),
    };
    let cursor = manifest.as_ref().and_then(|manifest| manifest.snapshot.parse().ok());
    let first_scopes = last.and_then(|last| {
        let first = last.first_scopes.clone();
        first.or_else(|| (last.scopes != scopes).then(|| last.scopes.clone().into()))
    });
    Ok(ServedState {
        number,
        generation,
        live_since,
        described,
        manifest,
        cursor,
        template,
        scopes,
        first_scopes,
        is_settled,
        stamp,
        stored: OnceLock::new(),
        readers,
    })
}

// The background task that lists the tiles of the target. A list belongs to one state of the target, and is used once
// it is complete. Until then, and while a run replaces tiles one by one, each tile is looked up in the target.

/// The most tiles that are listed. A list takes 16 bytes for each range of consecutive tiles, and 24 bytes for each
/// tile while it is made.
const MAX_INDEXED_TILES: u64 = 20_000_000;

/// The interval at which the task checks if there is a state to list.
const PAUSE: Duration = Duration::from_secs(1);

/// After making a list, the task pauses for this many times the time that it took, so that it does not list all the
/// time if the target is published again and again.
const REST_BY_LISTING: u32 = 10;

/// True if the tiles of a state may be listed: they do not change before the state does, and there are not too many.
fn can_be_listed(state: &ServedState) -> bool {
    let stored = state.manifest.as_ref().map(|manifest| manifest.stored);
    state.may_be_kept() && stored.is_some_and(|stored| stored <= MAX_INDEXED_TILES)
}

/// Lists the tiles of the target's present state, and of each later state.
pub(crate) async fn keep_listed(target: Arc<ServedTarget>) {
    let mut is_failing = false;
    loop {
        let (begun, of_thread) = (Instant::now(), Arc::clone(&target));
        match tokio::task::spawn_blocking(move || list(&of_thread)).await {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(error)) => {
                if !is_failing {
                    tracing::warn!(
                        "the tiles of the target cannot be listed, so each is asked for: {}",
                        with_causes(&error)
                    );
                }
                is_failing = true;
            }
            Err(error) => return tracing::warn!("a thread died ({error})"),
        }
        tokio::time::sleep(PAUSE.max(begun.elapsed() * REST_BY_LISTING)).await;
    }
}

/// Lists the tiles of the target's present state, unless they are listed already or may not be. Blocks.
fn list(target: &ServedTarget) -> Result<(), ReadError> {
    // If the target cannot be read, the requests report that.
    let Ok(state) = target.current() else { return Ok(()) };
    if state.stored().is_some() || !can_be_listed(&state) {
        return Ok(());
    }
    let stored = StoredTiles::new(target.list()?);
    // A write during the listing began a new state; its tiles may be missing in this list.
    if target.needs_polling() {
        target.poll()?;
    }
    if Arc::ptr_eq(&target.last(), &state) && target.is_current(&state) {
        tracing::info!("{} tiles are known without a lookup", stored.tiles);
        state.keep_stored(stored);
    }
    Ok(())
}
