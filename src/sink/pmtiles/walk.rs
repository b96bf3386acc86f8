//! The walk over an archive: the entries of its tiles one by one, leaf after leaf, in the order of their ids.

use std::sync::Arc;

use super::layout::Entry;
use super::read::PmtilesReader;
use crate::sink::compare::Handover;
use crate::sink::{ReadError, TileReader as _};
use crate::tile::{TileCoord, TileId};

/// The state of a walk over an archive's directories.
///
/// The walk fails where ids do not ascend, within a directory or from one to the next. So it never walks a directory twice, wherever the
/// pointers lead, and ends.
pub(super) struct Walk {
    levels: Vec<DirectoryLevel>,
    /// The smallest id that may still come.
    floor: u64,
    /// The number of entries of tiles so far.
    count: u64,
}

/// A directory on the path from the root to the current entry.
struct DirectoryLevel {
    entries: Arc<[Entry]>,
    next: usize,
    /// The first id after this directory.
    end: u64,
}

impl Walk {
    /// Begins at the first tile.
    pub(super) fn of(archive: &PmtilesReader) -> Walk {
        Walk {
            levels: vec![DirectoryLevel { entries: Arc::clone(&archive.root), next: 0, end: u64::MAX }],
            floor: 0,
            count: 0,
        }
    }

    /// The next entry of a tile; `None` after the last.
    pub(super) fn next(&mut self, archive: &mut PmtilesReader) -> Result<Option<Entry>, ReadError> {
        loop {
            let depth = self.levels.len();
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(entry) = level.entries.get(level.next).copied() else {
                self.levels.pop();
                continue;
            };
            level.next += 1;
            let end = level.entries.get(level.next).map_or(level.end, |next| next.id);
            let behind = entry.id.saturating_add(entry.run.into());
            if entry.id < self.floor || behind > end {
                return Err(archive.damaged(format!("tile id {} lies in two of its directories", entry.id)));
            }
            if entry.run > 0 {
                self.floor = behind;
                self.count += 1;
                if self.count > archive.max_tiles() {
                    return Err(archive.too_many());
                }
                return Ok(Some(entry));
            }
            self.floor = entry.id;
            let entries = archive.leaf(&entry, depth)?;
            self.levels.push(DirectoryLevel { entries, next: 0, end });
        }
    }
}

impl PmtilesReader {
    /// Calls `visit` with each entry of a tile, in the order of the ids.
    pub(super) fn walk(
        &mut self,
        visit: &mut dyn FnMut(&PmtilesReader, &Entry) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut walk = Walk::of(self);
        while let Some(entry) = walk.next(self)? {
            visit(self, &entry)?;
        }
        Ok(())
    }

    /// Passes every tile to `handover`, in the order of the ids, until it wants no more.
    pub(super) fn hand_over(mut self, handover: &mut Handover) -> Result<(), ReadError> {
        let mut walk = Walk::of(&self);
        while let Some(entry) = walk.next(&mut self)? {
            let Some(first) = TileCoord::from_pmtiles_id(entry.id) else { return Err(self.too_deep(entry.id)) };
            let bytes = self.read(&[TileId::from(first)])?.into_iter().next().flatten().unwrap_or_default();
            for id in entry.id..entry.id + u64::from(entry.run) {
                if !handover.give(id, bytes.clone()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
