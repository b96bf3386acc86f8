//! The entries of an archive's tiles one by one, leaf after leaf, in the order of their ids.

use std::sync::Arc;

use super::layout::Entry;
use super::read::PmtilesReader;
use crate::sink::compare::Handover;
use crate::sink::{ReadError, TileReader as _};
use crate::tile::{TileCoord, TileId};

/// How far an archive's directories were walked.
///
/// Ids never go back, not even from one directory to another. So no directory is walked twice, whatever the pointers say, and the
/// walk ends.
pub(super) struct Walk {
    levels: Vec<DirectoryLevel>,
    /// The first id that may still come.
    floor: u64,
    /// Entries of tiles that came.
    count: u64,
}

/// A directory on the way from the root to where the walk is.
struct DirectoryLevel {
    entries: Arc<[Entry]>,
    next: usize,
    /// The first id that is not of this directory any more.
    end: u64,
}

impl Walk {
    /// From the first tile on.
    pub(super) fn of(archive: &PmtilesReader) -> Walk {
        Walk {
            levels: vec![DirectoryLevel { entries: Arc::clone(&archive.root), next: 0, end: u64::MAX }],
            floor: 0,
            count: 0,
        }
    }

    /// The next entry of a tile; `None` behind the last.
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
    /// Hands over every tile in the order of the ids, until no more are wanted.
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
