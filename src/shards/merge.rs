//! Several sorted runs as one, in the order of the target.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{RunReader, ShardsError};
use crate::sink::TileEdit;
use crate::tile::{Order, Slice, TileId};

/// The key by which edits are sorted: the place of the tile, and the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EditPlace {
    tile: u64,
    slice: Slice,
}

/// The edits of several runs. An edit of `repairs` stands for that of the shard that has the same tile.
#[derive(Debug)]
pub struct Merged {
    order: Order,
    /// The repairs first, if there are any; then the shards.
    runs: Vec<RunReader>,
    repairs: bool,
    /// The next edit of each run.
    next: Vec<Option<TileEdit>>,
    /// Where the next edit of each run stands. Of equal places the run with the lowest number comes first: that of the repairs.
    heap: BinaryHeap<Reverse<(EditPlace, usize)>>,
    last: Option<EditPlace>,
    last_was_repair: bool,
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
        let (heap, last) = (BinaryHeap::new(), None);
        let mut merged = Merged { order, runs, repairs: has_repairs, next, heap, last, last_was_repair: false };
        for number in 0..merged.runs.len() {
            merged.advance(number)?;
        }
        Ok(merged)
    }

    fn place(&self, id: TileId) -> EditPlace {
        EditPlace { tile: self.order.place(id.coord), slice: id.slice }
    }

    fn advance(&mut self, number: usize) -> Result<(), ShardsError> {
        self.next[number] = self.runs[number].next()?;
        if let Some(edit) = &self.next[number] {
            self.heap.push(Reverse((self.place(edit.id()), number)));
        }
        Ok(())
    }

    /// The next edit; `None` at the end.
    ///
    /// # Errors
    /// If a run cannot be read, is not sorted, or two shards have the same tile.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results would go on after an error")]
    pub fn next(&mut self) -> Result<Option<TileEdit>, ShardsError> {
        while let Some(Reverse((place, number))) = self.heap.pop() {
            let edit = self.next[number].take();
            self.advance(number)?;
            let Some(edit) = edit else { continue };
            let is_repair = self.repairs && number == 0;
            match self.last {
                Some(last) if last == place && self.last_was_repair && !is_repair => {
                    // Repaired. A second shard with the same tile would be an error of the plan.
                    self.last_was_repair = false;
                    continue;
                }
                Some(last) if last >= place => return Err(ShardsError::Order { tile: edit.id().to_string() }),
                _ => {}
            }
            (self.last, self.last_was_repair) = (Some(place), is_repair);
            return Ok(Some(edit));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::run_file::tests::{run, tile};
    use super::*;

    fn put(zoom: u8, x: u32, byte: u8) -> TileEdit {
        TileEdit::Put(tile(zoom, x, 0), [byte].into())
    }

    fn all(mut merged: Merged) -> Result<Vec<TileEdit>, String> {
        let mut edits = Vec::new();
        while let Some(edit) = merged.next().map_err(|error| error.to_string())? {
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
