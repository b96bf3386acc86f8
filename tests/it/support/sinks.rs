//! Sinks for tests: one in memory, and one that fails on purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use oar_tiles::target::{
    ChangedTiles, Described, Finished, Metadata, Needs, ReadError, Sink, TileChange, TileEdit, TileReader, Tileset,
    Unwritten, Written,
};
use oar_tiles::tile::{Order, TileId};

/// What a target in memory holds, by place.
#[derive(Default)]
struct Content {
    tiles: BTreeMap<u64, Box<[u8]>>,
    described: Described,
    writing: bool,
}

/// A target in memory; clones are the same target.
#[derive(Clone)]
pub(crate) struct MemoryTarget(Arc<Mutex<Content>>);

/// Its sink.
pub(crate) struct Memory {
    target: MemoryTarget,
    /// Tiles of the run's scope that were not handed over yet.
    left: Option<Vec<u64>>,
    deleted: u64,
    /// Places of tiles that were written and of those that were deleted, if that is wanted.
    changed: Option<[Vec<u64>; 2]>,
    /// Whether the target held a tileset before.
    had_tileset: bool,
}

/// The errors of this module's sinks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// A second writer.
    #[error("another run is writing this memory")]
    Busy,
    #[error("the run has not begun")]
    NotBegun,
}

const ORDER: Order = Order::ZoomColumnTmsRow;

impl MemoryTarget {
    /// An empty target.
    pub(crate) fn new() -> MemoryTarget {
        MemoryTarget(Arc::default())
    }

    /// Its sink.
    pub(crate) fn open(&self) -> Result<Memory, MemoryError> {
        let mut content = self.content();
        if std::mem::replace(&mut content.writing, true) {
            return Err(MemoryError::Busy);
        }
        drop(content);
        Ok(Memory { target: self.clone(), left: None, deleted: 0, changed: None, had_tileset: false })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }
}

impl Sink for Memory {
    type Error = MemoryError;

    fn needs(&self) -> Needs {
        Needs { order: ORDER, layers_apart: false }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, MemoryError> {
        let content = self.target.content();
        let in_scope = |place: &u64| tileset.scope.holds(ORDER.tile(*place).unwrap().into());
        self.left = Some(match tileset.unwritten {
            Unwritten::Delete => content.tiles.keys().copied().filter(in_scope).collect(),
            Unwritten::Keep => Vec::new(),
        });
        self.had_tileset = content.described.manifest.is_some();
        self.changed = tileset.list_changes.then(Default::default);
        Ok(Some(content.described.clone()))
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, MemoryError> {
        let left = self.left.as_mut().ok_or(MemoryError::NotBegun)?;
        let mut content = self.target.content();
        let mut written = Written::default();
        for edit in edits {
            let place = ORDER.sort_key(edit.id().coord);
            let before = content.tiles.get(&place).cloned();
            match edit {
                TileEdit::Put(_, bytes) if content.tiles.get(&place) == Some(&bytes) => written.unchanged += 1,
                TileEdit::Put(_, bytes) => {
                    written.added += u64::from(content.tiles.insert(place, bytes).is_none());
                    written.stored += 1;
                }
                TileEdit::Keep(..) if content.tiles.contains_key(&place) => written.unchanged += 1,
                TileEdit::Keep(_, None) => written.missing += 1,
                TileEdit::Keep(_, Some(bytes)) => {
                    content.tiles.insert(place, bytes);
                    written.added += 1;
                    written.stored += 1;
                }
                TileEdit::Remove(_) => {
                    written.deleted += u64::from(content.tiles.remove(&place).is_some());
                    written.removed += 1;
                }
            }
            let after = content.tiles.get(&place);
            if let Some([written, deleted]) = self.changed.as_mut().filter(|_| before.as_ref() != after) {
                if after.is_some() { written.push(place) } else { deleted.push(place) }
            }
            left.retain(|left| *left != place);
        }
        self.deleted += written.deleted;
        Ok(written)
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, MemoryError> {
        let left = self.left.as_ref().ok_or(MemoryError::NotBegun)?;
        let mut content = self.target.content();
        for place in left {
            content.tiles.remove(place);
        }
        content.described = Described {
            name: Some(metadata.name.clone()),
            zooms: Some((metadata.zooms.min().get(), metadata.zooms.max().get())),
            bounds: Some(metadata.bounds),
            vector_layers: metadata.vector_layers.clone(),
            manifest: Some(metadata.manifest.clone()),
            ..Described::default()
        };
        let changed = self.changed.clone().map(|[written, mut deleted]| {
            let mut changed = ChangedTiles::new(ORDER);
            deleted.extend(left);
            deleted.sort_unstable();
            for (places, change) in [(written, TileChange::Written), (deleted, TileChange::Deleted)] {
                for place in places {
                    changed.add(ORDER.tile(place).unwrap().into(), change).unwrap();
                }
            }
            if !self.had_tileset {
                changed.declare_everything("the target held no finished tileset before");
            }
            changed
        });
        let deleted = self.deleted + left.len() as u64;
        Ok(Finished { place: "memory".to_owned(), deleted, changed, ..Finished::default() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.target.content().writing = false;
    }
}

impl TileReader for MemoryTarget {
    fn describe(&mut self) -> Result<Described, ReadError> {
        Ok(self.content().described.clone())
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        Ok(self.content().tiles.keys().map(|place| ORDER.tile(*place).unwrap().into()).collect())
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        let content = self.content();
        Ok(tiles.iter().map(|id| content.tiles.get(&ORDER.sort_key(id.coord)).cloned()).collect())
    }
}

/// A sink that fails at one of its calls, counted from the first write. The failing call may reach the inner sink.
pub(crate) struct Faulty<S> {
    inner: S,
    fails_at: usize,
    calls: usize,
}

/// The errors of a faulty sink.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FaultyError<E: std::error::Error> {
    /// The fault.
    #[error("on purpose")]
    OnPurpose,
    /// The inner sink failed by itself.
    #[error(transparent)]
    Inner(E),
}

impl<S: Sink> Faulty<S> {
    /// Fails at a call.
    pub(crate) fn new(inner: S, fails_at: usize) -> Faulty<S> {
        Faulty { inner, fails_at, calls: 0 }
    }
}

impl<S: Sink> Sink for Faulty<S> {
    type Error = FaultyError<S::Error>;

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, Self::Error> {
        self.inner.begin(tileset).map_err(FaultyError::Inner)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, Self::Error> {
        self.calls += 1;
        let failing = self.calls > self.fails_at;
        // An odd fault is noticed only after the sink has taken the edits.
        if failing && self.fails_at.is_multiple_of(2) {
            return Err(FaultyError::OnPurpose);
        }
        let written = self.inner.write(edits).map_err(FaultyError::Inner)?;
        if failing { Err(FaultyError::OnPurpose) } else { Ok(written) }
    }

    fn finish(self, metadata: &Metadata) -> Result<Finished, Self::Error> {
        self.inner.finish(metadata).map_err(FaultyError::Inner)
    }
}
