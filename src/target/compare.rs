//! Compares a new archive, while it is written, with the archive that it replaces, tile by tile in one order.
//!
//! ```text
//!  old archive ─► thread: tiles in order, 1 MB a batch ─► channel of two batches ─┐
//!                                                                                 ├─► changed tiles
//!  new archive: tiles in order, as they are written ──────────────────────────────┘
//! ```
//!
//! Bytes are compared, not hashes. The old archive is read once, while tiles are rendered.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{ChangedTiles, ReadError, ScratchError, TileChange};
use crate::tile::{Order, TileCoord, TileId};

/// A tile of the old archive: its sort key ([`Order::sort_key`]), and its bytes.
pub(crate) type KeyedTile = (u64, Box<[u8]>);

/// The bytes of tiles at which a batch is handed over; a single tile may have more.
const BYTES_PER_BATCH: usize = 1 << 20;

/// The number of tiles at which a batch is handed over.
const TILES_PER_BATCH: usize = 1_000;

/// The most batches that wait for the writer.
const WAITING_BATCHES: usize = 2;

/// The reason for "every tile counts as changed" if there is nothing to compare with.
pub(crate) const NO_ARCHIVE: &str = "there was no archive before";

/// The reason if the old archive stores its tiles in another way.
pub(crate) const PACKED_OTHERWISE: &str = "the tiles of the archive that was replaced were not packed as gzip";

/// The reason if the old archive could not be read to its end.
const UNREADABLE: &str = "the archive that was replaced could not be compared";

/// Takes the tiles of the old archive from its reader, in the order of the new one.
pub(crate) struct Handover {
    batches: SyncSender<Result<Vec<KeyedTile>, ReadError>>,
    batch: Vec<KeyedTile>,
    bytes: usize,
}

impl Handover {
    /// Takes a tile; returns true if the reader should send more.
    pub(crate) fn give(&mut self, key: u64, bytes: Box<[u8]>) -> bool {
        self.bytes += bytes.len();
        self.batch.push((key, bytes));
        if self.bytes < BYTES_PER_BATCH && self.batch.len() < TILES_PER_BATCH {
            return true;
        }
        self.bytes = 0;
        self.batches.send(Ok(std::mem::take(&mut self.batch))).is_ok()
    }
}

/// The old archive, read on a thread of its own.
#[derive(Debug)]
struct OldTiles {
    batches: Receiver<Result<Vec<KeyedTile>, ReadError>>,
    batch: std::iter::Peekable<std::vec::IntoIter<KeyedTile>>,
    has_ended: bool,
}

impl OldTiles {
    /// The next tile, without taking it.
    fn peek(&mut self) -> Result<Option<&KeyedTile>, ReadError> {
        while self.batch.peek().is_none() && !self.has_ended {
            let died = |_closed| ReadError::Damaged {
                place: "the old archive".to_owned(),
                what: "its reader died".to_owned(),
            };
            let batch = self.batches.recv().map_err(died)??;
            self.has_ended = batch.is_empty();
            self.batch = batch.into_iter().peekable();
        }
        Ok(self.batch.peek())
    }

    /// Takes the next tile if its key is at most `end`.
    fn next_until(&mut self, end: u64) -> Result<Option<KeyedTile>, ReadError> {
        Ok(if self.peek()?.is_some_and(|(key, _)| *key <= end) { self.batch.next() } else { None })
    }
}

#[derive(Debug)]
pub(crate) struct ArchiveComparison {
    order: Order,
    changed: ChangedTiles,
    /// `None` if there is nothing to compare with, or the old archive cannot be read any further: every tile that is
    /// written counts as changed.
    old: Option<OldTiles>,
}

impl ArchiveComparison {
    /// Compares with the archive that `read` reads, on a thread of its own.
    pub(crate) fn with(
        order: Order,
        read: impl FnOnce(&mut Handover) -> Result<(), ReadError> + Send + 'static,
    ) -> ArchiveComparison {
        let (batches, waiting) = sync_channel(WAITING_BATCHES);
        std::thread::spawn(move || {
            let mut handover = Handover { batches, batch: Vec::new(), bytes: 0 };
            let read = read(&mut handover);
            let Handover { batches, batch, .. } = handover;
            // An empty batch marks the end. The receiver may be gone already.
            let last = Some(Ok(batch)).filter(|batch| batch.as_ref().is_ok_and(|batch| !batch.is_empty()));
            let mut last = last.into_iter().chain([read.map(|()| Vec::new())]);
            let _is_wanted = last.try_for_each(|batch| batches.send(batch)).is_ok();
        });
        let old = OldTiles { batches: waiting, batch: Vec::new().into_iter().peekable(), has_ended: false };
        ArchiveComparison { order, changed: ChangedTiles::new(order), old: Some(old) }
    }

    /// There is no archive to compare with: every tile counts as changed.
    pub(crate) fn without(order: Order, why: &'static str) -> ArchiveComparison {
        let mut changed = ChangedTiles::new(order);
        changed.declare_everything(why);
        ArchiveComparison { order, changed, old: None }
    }

    /// Compares a written tile with the same tile of the old archive. Tiles that the old archive has before it and the
    /// new one does not are counted as deleted.
    pub(crate) fn write(&mut self, tile: TileCoord, bytes: &[u8]) -> Result<(), ScratchError> {
        let is_same = self.pass(self.order.sort_key(tile), Some(bytes))?;
        if is_same { Ok(()) } else { self.changed.add(tile.into(), TileChange::Written) }
    }

    /// The changed tiles, once all tiles were written.
    pub(crate) fn finish(mut self) -> Result<ChangedTiles, ScratchError> {
        self.pass(u64::MAX, None)?;
        Ok(self.changed)
    }

    /// Advances to the key `end`; returns true if the old archive has exactly one tile there and this tile has these
    /// bytes.
    fn pass(&mut self, end: u64, bytes: Option<&[u8]>) -> Result<bool, ScratchError> {
        let mut is_same = None;
        while let Some(old) = &mut self.old {
            match old.next_until(end) {
                Ok(None) => break,
                Ok(Some((key, held))) if key == end && bytes.is_some() => {
                    is_same = Some(is_same.is_none() && bytes == Some(&*held));
                }
                Ok(Some((key, _))) => {
                    if let Some(coord) = self.order.tile(key) {
                        self.changed.add(TileId::from(coord), TileChange::Deleted)?;
                    }
                }
                Err(error) => {
                    tracing::info!("{error}: every tile counts as changed");
                    self.changed.declare_everything(UNREADABLE);
                    self.old = None;
                }
            }
        }
        Ok(is_same.unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    const ORDER: Order = Order::Hilbert;

    fn compared(
        old: Vec<KeyedTile>,
        end: Result<(), ReadError>,
        new: &[KeyedTile],
    ) -> (Vec<(u64, TileChange)>, Option<&'static str>) {
        let mut comparison = ArchiveComparison::with(ORDER, move |handover| {
            let _all = old.into_iter().all(|(key, bytes)| handover.give(key, bytes));
            end
        });
        for (key, bytes) in new {
            comparison.write(ORDER.tile(*key).unwrap(), bytes).unwrap();
        }
        let changed = comparison.finish().unwrap();
        let listed = changed.ranges().map(Result::unwrap);
        let listed = listed.flat_map(|range| range.tiles().map(move |id| (ORDER.sort_key(id.coord), range.change)));
        (listed.collect(), changed.everything())
    }

    fn tile(key: u64, bytes: &str) -> KeyedTile {
        (key, bytes.as_bytes().into())
    }

    #[test]
    fn written_deleted_and_equal_tiles_are_told_apart() {
        use TileChange::{Deleted, Written};
        let old = vec![tile(1, "a"), tile(2, "b"), tile(4, "d"), tile(7, "g"), tile(9, "i")];
        let new = [tile(0, "new"), tile(2, "b"), tile(4, "other"), tile(5, "new"), tile(7, "g")];
        let expected = vec![(0, Written), (1, Deleted), (4, Written), (5, Written), (9, Deleted)];
        assert_eq!(compared(old, Ok(()), &new), (expected, None));
    }

    #[test]
    fn many_batches_are_compared() {
        let count = 5_000;
        let old: Vec<_> = (0..count).map(|key| tile(key, &key.to_string().repeat(200))).collect();
        let mut new = old.clone();
        new[4_321].1 = Box::from(*b"changed");
        assert_eq!(compared(old.clone(), Ok(()), &new), (vec![(4_321, TileChange::Written)], None));
        let all: Vec<_> = (0..count).map(|key| (key, TileChange::Deleted)).collect();
        assert_eq!(compared(old, Ok(()), &[]), (all, None));
    }

    #[test]
    fn an_archive_that_breaks_off_makes_everything_count() {
        let end = Err(ReadError::Damaged { place: "old".to_owned(), what: "broken".to_owned() });
        let (listed, everything) = compared(vec![tile(1, "a")], end, &[tile(1, "a"), tile(2, "b"), tile(3, "c")]);
        assert_eq!((listed, everything), (vec![(2, TileChange::Written), (3, TileChange::Written)], Some(UNREADABLE)));
        assert_eq!(TileCoord::new(Zoom::new(0).unwrap(), 0, 0).map(|tile| ORDER.sort_key(tile)), Some(0));
    }

    #[test]
    fn a_comparison_that_is_given_up_ends_its_reader() {
        let (ended, end) = std::sync::mpsc::channel();
        let comparison = ArchiveComparison::with(ORDER, move |handover| {
            let mut key = 0;
            while handover.give(key, vec![0; 10_000].into()) {
                key += 1;
            }
            ended.send(key).unwrap();
            Ok(())
        });
        drop(comparison);
        assert!(end.recv().unwrap() > 0);
    }
}
