//! An archive made of an old one and of edits: what was not edited is copied byte for byte, in the order of the ids.
//!
//! ```text
//!  old tile data   │ a b c d e f g h … │      edits: c is new, f vanished
//!                    └─┬─┘   └┬┘   └┬─┘
//!  new tile data   │ a b c'd e g h …   │      one copy for what lies together
//! ```
//!
//! A content that several tiles share is copied with the first of them that stays; where it lies now is known from the pieces
//! that were copied, of which there is one for each gap. So nothing has to be hashed, and memory grows with the gaps, up to a
//! bound.

use std::collections::BTreeMap;
use std::fmt;

use super::PmtilesError;
use super::layout::{Entry, PmtilesCompression};
use super::read::PmtilesReader;
use super::walk::Walk;
use super::write::{Body, WriteFault};
use crate::stop::Stop;
use crate::tile::Zoom;

/// Bytes of old tile data per read: large enough that the system call costs nothing beside the copying, and that the data between two edits
/// are read already.
const BYTES_PER_READ: u64 = 1 << 20;

/// The most copied ranges in memory: about 30 MB. Beyond that all are forgotten, and a content shared with an earlier range is copied
/// again: the archive is correct and a little larger.
const MAX_PIECES: usize = 1 << 19;

/// Old tile data that lie together in the old archive and in the new one.
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
pub(super) struct Rebuild {
    old: PmtilesReader,
    walk: Walk,
    /// The next entry of the old archive, or its rest.
    ahead: Option<Entry>,
    /// Copied ranges, by old offset.
    copied: BTreeMap<u64, CopiedRange>,
    /// The range to copy next, which may still grow.
    waiting: Option<CopiedRange>,
    /// No old tile data beyond this offset were copied.
    front: u64,
    /// Old tile data in memory, and their offset.
    window: Vec<u8>,
    window_at: u64,
    /// Old tile data of a range that lies before `window`.
    aside: Vec<u8>,
}

impl Rebuild {
    pub(super) fn of(mut old: PmtilesReader) -> Result<Rebuild, PmtilesError> {
        if old.header.packing != PmtilesCompression::Gzip {
            return Err(PmtilesError::Unpacked { place: old.bytes.place().to_owned() });
        }
        let mut walk = Walk::of(&old);
        let ahead = walk.next(&mut old)?;
        let (copied, window) = (BTreeMap::new(), Vec::new());
        Ok(Rebuild { old, walk, ahead, copied, waiting: None, front: 0, window, window_at: 0, aside: Vec::new() })
    }

    /// Copies everything before a tile, and takes the tile itself out of the old archive, if it is there.
    pub(super) fn meet(&mut self, id: u64, body: &mut Body, stop: &Stop) -> Result<Option<Entry>, WriteFault> {
        while let Some(entry) = self.ahead.filter(|entry| entry.id < id) {
            let before = u32::try_from(id - entry.id).unwrap_or(u32::MAX);
            let rest = self.cut(entry, before)?;
            self.keep(Entry { run: entry.run - rest, ..entry }, body, stop)?;
        }
        let Some(entry) = self.ahead.filter(|entry| entry.id == id) else { return Ok(None) };
        self.cut(entry, 1)?;
        Ok(Some(Entry { run: 1, ..entry }))
    }

    /// Copies everything that is left.
    pub(super) fn rest(&mut self, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        while let Some(entry) = self.ahead {
            self.ahead = self.walk.next(&mut self.old)?;
            self.keep(entry, body, stop)?;
        }
        self.settle(body, stop)
    }

    /// Goes on behind the first tiles of an entry; gives how many are left of it.
    fn cut(&mut self, entry: Entry, first: u32) -> Result<u32, WriteFault> {
        let rest = entry.run.saturating_sub(first);
        self.ahead = if rest > 0 {
            Some(Entry { id: entry.id + u64::from(first), run: rest, ..entry })
        } else {
            self.walk.next(&mut self.old)?
        };
        Ok(rest)
    }

    /// Whether a tile of the old archive has exactly these bytes.
    pub(super) fn holds(&mut self, entry: &Entry, bytes: &[u8]) -> Result<bool, WriteFault> {
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

    /// Takes tiles of the old archive over as they are.
    pub(super) fn keep(&mut self, entry: Entry, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        self.old.inside(self.old.header.tiles, &entry, "tile")?;
        if entry.id + u64::from(entry.run) > Zoom::END_OF_PMTILES_IDS {
            return Err(self.old.too_deep(entry.id).into());
        }
        let offset = match self.place(&entry) {
            Some(offset) => offset,
            None => self.copy(&entry, body, stop)?,
        };
        body.enter(Entry { offset, ..entry })
    }

    /// Where a content lies now, if it was copied.
    fn place(&self, entry: &Entry) -> Option<u64> {
        if entry.offset >= self.front {
            return None;
        }
        let known = || self.copied.range(..=entry.offset).next_back()?.1.place(entry);
        self.waiting.as_ref().and_then(|piece| piece.place(entry)).or_else(known)
    }

    /// Has a content copied; gives where it will lie.
    fn copy(&mut self, entry: &Entry, body: &mut Body, stop: &Stop) -> Result<u64, WriteFault> {
        let length = u64::from(entry.length);
        self.front = self.front.max(entry.offset + length);
        body.count_content();
        if let Some(piece) = self.waiting.as_mut().filter(|piece| piece.old + piece.length == entry.offset) {
            let offset = piece.new + piece.length;
            piece.length += length;
            return Ok(offset);
        }
        self.settle(body, stop)?;
        let piece = CopiedRange { old: entry.offset, new: body.length(), length };
        self.waiting = Some(piece);
        Ok(piece.new)
    }

    /// Copies what waits for it. Must come before anything else is added to the new tile data.
    pub(super) fn settle(&mut self, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        let Some(piece) = self.waiting.take() else { return Ok(()) };
        let (mut at, end) = (piece.old, piece.old + piece.length);
        while at < end {
            if stop.asked().is_some() {
                return Err(WriteFault::Stopped);
            }
            let bytes = self.look(at, end)?;
            body.append(bytes)?;
            at += bytes.len() as u64;
        }
        if self.copied.len() == MAX_PIECES {
            self.copied.clear();
        }
        self.copied.insert(piece.old, piece);
        Ok(())
    }

    /// Old tile data from a byte on: one of them or more, up to an end.
    fn look(&mut self, at: u64, end: u64) -> Result<&[u8], WriteFault> {
        let tiles = self.old.header.tiles;
        let read = |length: u64| self.old.bytes.read_at(tiles.offset + at, length as usize);
        // One step back for a content whose first tile was edited: the window stays where it is.
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

/// What there is of bytes that begin at `begin`, from `at` on.
fn at_hand(bytes: &[u8], begin: u64, at: u64) -> Option<&[u8]> {
    let within = usize::try_from(at.checked_sub(begin)?).ok()?;
    bytes.get(within..).filter(|rest| !rest.is_empty())
}

impl fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuild").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}
