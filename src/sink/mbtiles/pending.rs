//! Edits of an archive, kept in a scratch file until the archive's single transaction writes them.

use rusqlite::params;

use crate::sink::scratch::{Scratch, ScratchError};
use crate::tile::{Order, TileCoord};

/// What an edit changes in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingChange {
    /// Adds a tile that the archive does not hold yet.
    Add,
    /// Replaces the bytes of a tile that the archive holds.
    Replace,
    /// Deletes a tile that the archive holds.
    Delete,
}

/// The pending edits, in the order in which they were pushed.
#[derive(Debug)]
pub(super) struct PendingEdits {
    changes: Scratch,
    count: u64,
    bytes: u64,
}

impl PendingEdits {
    pub(super) fn new() -> Result<PendingEdits, ScratchError> {
        let changes = Scratch::new(
            "the changed tiles",
            "CREATE TABLE change (number integer PRIMARY KEY, place integer, kind integer, bytes blob)",
        )?;
        Ok(PendingEdits { changes, count: 0, bytes: 0 })
    }

    /// The number of pending edits.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Total size of the pending edits' tiles, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, tile: TileCoord, change: PendingChange, bytes: &[u8]) -> Result<(), ScratchError> {
        let place = Order::ZoomColumnTmsRow.place(tile).cast_signed();
        let kind = match change {
            PendingChange::Add => 0,
            PendingChange::Replace => 1,
            PendingChange::Delete => 2,
        };
        self.changes.run(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT INTO change (place, kind, bytes) VALUES (?1, ?2, ?3)")?;
            insert.execute(params![place, kind, bytes])
        })?;
        self.count += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Passes each edit to `take`, in the order in which they were pushed; ends at the first error.
    pub(super) fn each<E: From<ScratchError>>(
        &self,
        mut take: impl FnMut(TileCoord, PendingChange, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| self.changes.failed(error);
        let all = "SELECT place, kind, bytes FROM change ORDER BY number";
        let mut changes = self.changes.connection().prepare(all).map_err(failed)?;
        let mut rows = changes.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || -> rusqlite::Result<_> {
                let change = match row.get::<_, i64>(1)? {
                    0 => PendingChange::Add,
                    1 => PendingChange::Replace,
                    _ => PendingChange::Delete,
                };
                Ok((row.get::<_, i64>(0)?, change, row.get_ref(2)?.as_blob()?))
            };
            let (place, change, bytes) = read().map_err(failed)?;
            if let Some(tile) = Order::ZoomColumnTmsRow.tile(place.cast_unsigned()) {
                take(tile, change, bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn changes_come_back_as_they_were_kept() {
        let mut pending = PendingEdits::new().unwrap();
        let tile = |x: u32| TileCoord::new(Zoom::new(14).unwrap(), x, 7 * x % 16_384).unwrap();
        let change = |x: u32| [PendingChange::Add, PendingChange::Replace, PendingChange::Delete][x as usize % 3];
        let bytes = |x: u32| x.to_le_bytes().repeat(x as usize % 200);
        for x in (0..16_384).rev() {
            pending.push(tile(x), change(x), &bytes(x)).unwrap();
        }
        let mut next = (0..16_384).rev();
        pending
            .each(|found, found_change, found_bytes| {
                let x = next.next().unwrap();
                assert_eq!((found, found_change, found_bytes), (tile(x), change(x), &bytes(x)[..]));
                Ok::<(), ScratchError>(())
            })
            .unwrap();
        assert_eq!((next.next(), pending.count()), (None, 16_384));
    }
}
