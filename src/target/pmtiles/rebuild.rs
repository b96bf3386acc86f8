//! A new archive made of an old one and edits: tiles that were not edited are copied byte for byte, in the order of the
//! ids.
//!
//! ```text
//!  old tile data   │ a b c d e f g h … │      edits: c is replaced, f deleted
//!                    └─┬─┘   └┬┘   └┬─┘
//!  new tile data   │ a b c'd e g h …   │      contents that are adjacent are copied at once
//! ```
//!
//! A content that several tiles share is copied with the first of them that stays. Its new offset is computed from the
//! list of copied ranges, which has one entry for each gap. So nothing is hashed, and memory grows with the number of
//! gaps, up to a bound.

use std::collections::BTreeMap;
use std::fmt;

use super::PmtilesError;
use super::check::CutWalk;
use super::directories::WriteFault;
use super::layout::{Entry, PmtilesCompression};
use super::read::PmtilesReader;
use super::write::Body;
use crate::stop::Stop;

/// Bytes of old tile data per read: large enough that the cost of the system call does not matter, and that the data
/// between two edits is mostly in memory already.
const BYTES_PER_READ: u64 = 1 << 20;

/// The most copied ranges in memory: about 30 MB. Beyond that the list is cleared, and a content shared with an earlier
/// range is copied a second time: the archive is correct and a little larger.
const MAX_PIECES: usize = 1 << 19;

/// A range of old tile data that is contiguous in the new archive, too.
#[derive(Debug, Clone, Copy)]
struct CopiedRange {
    old: u64,
    new: u64,
    length: u64,
}

impl CopiedRange {
    /// The new offset of an old entry's bytes, if this range holds them.
    fn place(&self, entry: &Entry) -> Option<u64> {
        let within = entry.offset.checked_sub(self.old)?;
        (within + u64::from(entry.length) <= self.length).then_some(self.new + within)
    }
}

/// Copies an old archive into a new one.
pub(crate) struct Rebuild {
    old: PmtilesReader,
    walk: CutWalk,
    /// Copied ranges, by old offset.
    copied: BTreeMap<u64, CopiedRange>,
    /// The range to copy next, which may still grow.
    waiting: Option<CopiedRange>,
    /// The end of the old tile data that was copied so far.
    front: u64,
    /// Old tile data in memory, and its offset.
    window: Vec<u8>,
    window_at: u64,
    /// Old tile data of a range before `window`.
    aside: Vec<u8>,
}

impl Rebuild {
    pub(crate) fn of(mut old: PmtilesReader) -> Result<Rebuild, PmtilesError> {
        if old.header.packing != PmtilesCompression::Gzip {
            return Err(PmtilesError::Unpacked { place: old.bytes.place().to_owned() });
        }
        let walk = CutWalk::of(&mut old)?;
        let (copied, window) = (BTreeMap::new(), Vec::new());
        Ok(Rebuild { old, walk, copied, waiting: None, front: 0, window, window_at: 0, aside: Vec::new() })
    }

    /// Copies all tiles before the tile `id`. Returns the entry of the tile itself without copying it; `None` if the
    /// old archive lacks the tile.
    pub(crate) fn meet(&mut self, id: u64, body: &mut Body, stop: &Stop) -> Result<Option<Entry>, WriteFault> {
        while let Some(entry) = self.walk.before(&mut self.old, id)? {
            self.keep(entry, body, stop)?;
        }
        Ok(self.walk.at(&mut self.old, id)?)
    }

    /// Copies all tiles that are left.
    pub(crate) fn rest(&mut self, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        while let Some(entry) = self.walk.before(&mut self.old, u64::MAX)? {
            self.keep(entry, body, stop)?;
        }
        self.settle(body, stop)
    }

    /// True if a tile of the old archive has exactly these bytes.
    pub(crate) fn holds(&mut self, entry: &Entry, bytes: &[u8]) -> Result<bool, WriteFault> {
        if u64::from(entry.length) != bytes.len() as u64 {
            return Ok(false);
        }
        let place = self.old.inside(self.old.header.tiles, entry, "tile")?;
        if let Some(held) = at_hand(&self.window, self.window_at, entry.offset)
            && let Some(held) = held.get(..bytes.len())
        {
            return Ok(held == bytes);
        }
        Ok(self.old.bytes.read_at(place.offset, bytes.len())? == bytes)
    }

    /// Adds the tiles of an entry of the old archive to the new one.
    pub(crate) fn keep(&mut self, entry: Entry, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        self.old.check_tiles(&entry)?;
        let offset = match self.place(&entry) {
            Some(offset) => offset,
            None => self.copy(&entry, body, stop)?,
        };
        body.directories.enter(Entry { offset, ..entry })
    }

    /// The new offset of a content, if it was copied.
    fn place(&self, entry: &Entry) -> Option<u64> {
        if entry.offset >= self.front {
            return None;
        }
        let known = || self.copied.range(..=entry.offset).next_back()?.1.place(entry);
        self.waiting.as_ref().and_then(|piece| piece.place(entry)).or_else(known)
    }

    /// Schedules a content to be copied; returns its new offset.
    fn copy(&mut self, entry: &Entry, body: &mut Body, stop: &Stop) -> Result<u64, WriteFault> {
        let length = u64::from(entry.length);
        self.front = self.front.max(entry.offset + length);
        body.data.count_content();
        if let Some(piece) = self.waiting.as_mut().filter(|piece| piece.old + piece.length == entry.offset) {
            let offset = piece.new + piece.length;
            piece.length += length;
            return Ok(offset);
        }
        self.settle(body, stop)?;
        let piece = CopiedRange { old: entry.offset, new: body.data.length(), length };
        self.waiting = Some(piece);
        Ok(piece.new)
    }

    /// Copies the scheduled range. Must be called before anything else is appended to the new tile data.
    pub(crate) fn settle(&mut self, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        let Some(piece) = self.waiting.take() else { return Ok(()) };
        let (mut at, end) = (piece.old, piece.old + piece.length);
        while at < end {
            if stop.asked().is_some() {
                return Err(WriteFault::Stopped);
            }
            let bytes = self.fill(at, end)?;
            body.data.append(bytes)?;
            at += bytes.len() as u64;
        }
        if self.copied.len() == MAX_PIECES {
            self.copied.clear();
        }
        self.copied.insert(piece.old, piece);
        Ok(())
    }

    /// Old tile data from `at` on: at least one byte, at most up to `end`.
    fn fill(&mut self, at: u64, end: u64) -> Result<&[u8], WriteFault> {
        let tiles = self.old.header.tiles;
        let read = |length: u64| self.old.bytes.read_at(tiles.offset + at, length as usize);
        // The first tile of a shared content was edited, so the content is copied with a later tile, although it lies
        // before the window. The window stays.
        if at < self.window_at {
            self.aside = read(BYTES_PER_READ.min(end - at))?;
            return Ok(&self.aside);
        }
        if at_hand(&self.window, self.window_at, at).is_none() {
            self.window = read(BYTES_PER_READ.min(tiles.length - at))?;
            self.window_at = at;
        }
        let bytes = at_hand(&self.window, self.window_at, at).unwrap_or_default();
        Ok(&bytes[..bytes.len().min((end - at) as usize)])
    }
}

/// The part of `bytes` from the offset `at` on, where `bytes` begins at the offset `begin`; `None` if that part is
/// empty.
fn at_hand(bytes: &[u8], begin: u64, at: u64) -> Option<&[u8]> {
    let within = usize::try_from(at.checked_sub(begin)?).ok()?;
    bytes.get(within..).filter(|rest| !rest.is_empty())
}

impl fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuild").field("front", &self.front).finish_non_exhaustive()
    }
}
