//! Merges several sorted runs into one, in the order of the target.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{RunReader, RunRecord, ShardsError};
use crate::tile::{Order, Slice, TileId};

/// The key by which edits are sorted: the position of the tile in the order, and the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EditKey {
    tile: u64,
    slice: Slice,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedRecord {
    pub record: RunRecord,
    pub(crate) is_repair: bool,
    /// The shard's record of the same tile, if it has one that the repair replaces.
    pub(crate) replaced: Option<RunRecord>,
}

/// The records of several runs. A record of `repairs` replaces the shard's record of the same tile.
#[derive(Debug)]
pub struct Merged {
    order: Order,
    /// The repairs first, if there are any; then the shards.
    runs: Vec<RunReader>,
    repairs: bool,
    next: Vec<Option<RunRecord>>,
    /// The key of the next record of each run. If keys are equal, the run with the lowest number comes first, which is
    /// the run of the repairs.
    heap: BinaryHeap<Reverse<(EditKey, usize)>>,
    last: Option<EditKey>,
}

impl Merged {
    /// Merges runs.
    ///
    /// # Errors
    /// If a run cannot be read.
    pub fn new(order: Order, repairs: Option<RunReader>, shards: Vec<RunReader>) -> Result<Merged, ShardsError> {
        let has_repairs = repairs.is_some();
        let runs: Vec<RunReader> = repairs.into_iter().chain(shards).collect();
        let next = runs.iter().map(|_| None).collect();
        let mut merged = Merged { order, runs, repairs: has_repairs, next, heap: BinaryHeap::new(), last: None };
        for number in 0..merged.runs.len() {
            merged.advance(number)?;
        }
        Ok(merged)
    }

    fn sort_key(&self, id: TileId) -> EditKey {
        EditKey { tile: self.order.sort_key(id.coord), slice: id.slice }
    }

    fn advance(&mut self, number: usize) -> Result<(), ShardsError> {
        self.next[number] = self.runs[number].next()?;
        if let Some(record) = &self.next[number] {
            self.heap.push(Reverse((self.sort_key(record.id()), number)));
        }
        Ok(())
    }

    /// Takes the first record of all runs, with its key and the number of its run.
    fn take(&mut self) -> Result<Option<(EditKey, usize, RunRecord)>, ShardsError> {
        let Some(Reverse((key, number))) = self.heap.pop() else { return Ok(None) };
        let record = self.next[number].take();
        self.advance(number)?;
        Ok(record.map(|record| (key, number, record)))
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// If a run cannot be read, is not sorted, or two shards have the same tile.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results would go on after an error")]
    pub fn next(&mut self) -> Result<Option<MergedRecord>, ShardsError> {
        let Some((key, number, record)) = self.take()? else { return Ok(None) };
        if self.last.is_some_and(|last| last >= key) {
            return Err(ShardsError::Order { tile: record.id().to_string() });
        }
        self.last = Some(key);
        if !(self.repairs && number == 0) {
            return Ok(Some(MergedRecord { record, is_repair: false, replaced: None }));
        }
        // If a second shard has the same tile, the plan is wrong. The next call finds that.
        let is_repaired = |Reverse((next, run)): &Reverse<(EditKey, usize)>| *next == key && *run != 0;
        let replaced = if self.heap.peek().is_some_and(is_repaired) { self.take()? } else { None };
        let replaced = replaced.map(|(_, _, record)| record);
        Ok(Some(MergedRecord { record, is_repair: true, replaced }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::run_file::tests::{run, tile};
    use crate::target::TileEdit;

    fn put(zoom: u8, x: u32, byte: u8) -> TileEdit {
        TileEdit::Put(tile(zoom, x, 0), [byte].into())
    }

    fn all(mut merged: Merged) -> Result<Vec<TileEdit>, String> {
        let mut edits = Vec::new();
        while let Some(MergedRecord { record, .. }) = merged.next().map_err(|error| error.to_string())? {
            let RunRecord::Edit(edit) = record else { return Err("no edit".to_owned()) };
            edits.push(edit);
        }
        Ok(edits)
    }

    #[test]
    fn runs_come_as_one_in_the_order_of_the_target_and_repairs_replace_what_shards_left() {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, edits| run(folder.path(), name, edits);
        let west = || run("west", vec![put(0, 0, 1), put(5, 2, 1), put(5, 3, 1)]);
        let east = || run("east", vec![put(4, 9, 2), put(5, 20, 2)]);
        let order = Order::ZoomColumnTmsRow;
        let merged = Merged::new(order, None, vec![east(), west(), run("none", Vec::new())]).unwrap();
        assert_eq!(all(merged), Ok(vec![put(0, 0, 1), put(4, 9, 2), put(5, 2, 1), put(5, 3, 1), put(5, 20, 2)]));
        let repairs = run("repairs", vec![put(0, 0, 9), put(5, 2, 9), TileEdit::Remove(tile(5, 20, 0)), put(5, 31, 9)]);
        let merged = Merged::new(order, Some(repairs), vec![west(), east()]).unwrap();
        let removed = TileEdit::Remove(tile(5, 20, 0));
        assert_eq!(
            all(merged),
            Ok(vec![put(0, 0, 9), put(4, 9, 2), put(5, 2, 9), put(5, 3, 1), removed, put(5, 31, 9)])
        );
    }

    #[test]
    fn a_tile_of_two_shards_and_a_run_that_is_not_sorted_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, edits| run(folder.path(), name, edits);
        let order = Order::ZoomColumnTmsRow;
        let twice = Merged::new(order, None, vec![run("a", vec![put(3, 1, 1)]), run("b", vec![put(3, 1, 1)])]).unwrap();
        assert!(all(twice).unwrap_err().starts_with("tile 3/1/0 came twice"));
        let repaired = Merged::new(
            order,
            Some(run("r", vec![put(3, 1, 1)])),
            vec![run("a", vec![put(3, 1, 1)]), run("b", vec![put(3, 1, 1)])],
        );
        assert!(all(repaired.unwrap()).unwrap_err().starts_with("tile 3/1/0 came twice"));
        let unsorted = Merged::new(order, None, vec![run("a", vec![put(3, 2, 1), put(3, 1, 1)])]).unwrap();
        assert!(all(unsorted).unwrap_err().starts_with("tile 3/1/0 came twice"));
    }
}
