//! The list of the tiles that a finished run changed: for `--changed-out`, the eviction of caches and the purging of
//! CDNs.

use super::disk_list::{Record, Records, ScratchError};
use super::{Intent, Tileset};
use crate::tile::{LayerId, Order, Slice, TileCoord, TileId, TileRectList};

/// What happened to a tile of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileChange {
    /// The target holds other bytes for it than before, or holds it for the first time.
    Written,
    /// The target held it and holds it no longer.
    Deleted,
}

/// Tiles that follow each other in an order and changed in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRange {
    /// What happened to them.
    pub change: TileChange,
    /// The whole tile or one layer of it.
    pub slice: Slice,
    order: Order,
    /// [`Order::sort_key`] of the first tile.
    first: u64,
    count: u32,
}

impl ChangedRange {
    /// The tiles, in the order of the list.
    pub fn tiles(&self) -> impl Iterator<Item = TileId> + use<> {
        let ChangedRange { order, first, count, slice, .. } = *self;
        let coords = (first..first + u64::from(count)).filter_map(move |key| order.tile(key));
        coords.map(move |coord| TileId { coord, slice })
    }
}

/// A part of a list: tiles whose sort keys follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyRange {
    first: u64,
    count: u32,
    slice: Slice,
}

impl KeyRange {
    /// The key by which the list is sorted: the whole of a tile comes before its layers.
    fn key(&self) -> (u64, u32) {
        let slice = match self.slice {
            Slice::Whole => 0,
            Slice::Layer(layer) => u32::from(layer.0) + 1,
        };
        (self.first, slice)
    }
}

impl Record for KeyRange {
    type Bytes = [u8; 16];

    fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.key().1.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; 16]) -> KeyRange {
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let slice = short(12).checked_sub(1).and_then(|layer| u16::try_from(layer).ok());
        KeyRange {
            first: u64::from_le_bytes(std::array::from_fn(|byte| bytes[byte])),
            count: short(8),
            slice: slice.map_or(Slice::Whole, |layer| Slice::Layer(LayerId(layer))),
        }
    }
}

/// Why a list is not exact.
const INTERRUPTED: &str = "an earlier run did not finish, so what it changed is not known";

/// The tiles that unfinished runs may have changed.
#[derive(Debug)]
pub(crate) enum InterruptedRuns {
    /// There are no unfinished runs.
    None,
    /// The unfinished runs changed no tiles other than these.
    Tiles(TileRectList),
    /// The unfinished runs may have changed every tile.
    Everything,
}

impl InterruptedRuns {
    /// The tiles that the intents of unfinished runs list.
    pub(crate) fn of(intents: &[Intent]) -> InterruptedRuns {
        if intents.is_empty() {
            return InterruptedRuns::None;
        }
        let lists: Option<Vec<&TileRectList>> = intents.iter().map(|intent| intent.tiles.as_ref()).collect();
        lists.and_then(TileRectList::union).map_or(InterruptedRuns::Everything, InterruptedRuns::Tiles)
    }
}

/// What a directory or a prefix held when a run began: the facts that decide whether the list of changes can be exact.
#[derive(Debug)]
pub(crate) struct HeldBefore {
    /// True if a run has finished in it.
    pub(crate) has_tileset: bool,
    /// Other runs that began to change it and did not finish.
    pub(crate) interrupted: InterruptedRuns,
    /// True if its tiles have the names that this run gives them.
    pub(crate) has_same_template: bool,
    /// True if the run writes a version of its own.
    pub(crate) is_new_version: bool,
}

/// Appends a range to the last one if it follows it.
fn append(ranges: &mut Records<KeyRange>, range: KeyRange) -> Result<(), ScratchError> {
    if let Some(last) = ranges.last_mut()
        && (last.first + u64::from(last.count), last.slice) == (range.first, range.slice)
        && let Some(count) = last.count.checked_add(1)
    {
        last.count = count;
        return Ok(());
    }
    ranges.push(range)
}

/// The tiles whose stored bytes differ from what the target held before the run, and those that it held and holds no
/// longer.
///
/// Kept as ranges in scratch files, in the order of the sink, so memory stays bounded and a region of tiles takes 16
/// bytes. A tile that was written again with equal bytes is not listed.
///
/// If the list cannot be exact, [`ChangedTiles::everything`] returns the reason. Then every tile of the target counts
/// as changed, whether listed or not.
#[derive(Debug)]
pub struct ChangedTiles {
    order: Order,
    written: Records<KeyRange>,
    deleted: Records<KeyRange>,
    /// The written tiles that the target did not hold before; `None` if the sink does not report them.
    added: Option<Records<KeyRange>>,
    everything: Option<&'static str>,
    /// The tiles that interrupted runs may have changed, if these runs are the only reason for `everything`.
    interrupted: Option<TileRectList>,
}

impl ChangedTiles {
    /// An empty list in an order.
    pub fn new(order: Order) -> ChangedTiles {
        let (written, deleted) = (Records::new("the list of changed tiles"), Records::new("the list of deleted tiles"));
        ChangedTiles { order, written, deleted, added: None, everything: None, interrupted: None }
    }

    /// The list of a run that synchronizes a directory or a prefix; `None` if the run wants none.
    pub(crate) fn of_synchronized(tileset: &Tileset, before: HeldBefore) -> Option<ChangedTiles> {
        if !tileset.lists_edits() {
            return None;
        }
        let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
        if before.is_new_version {
            changed.declare_everything("a new version was published, whose tiles have addresses of their own");
        } else if !before.has_tileset {
            changed.declare_everything("the target held no finished tileset before");
        } else if !before.has_same_template {
            changed.declare_everything("tiles had other names before");
        } else {
            match before.interrupted {
                InterruptedRuns::None => {}
                InterruptedRuns::Everything => changed.declare_everything(INTERRUPTED),
                InterruptedRuns::Tiles(tiles) => {
                    changed.declare_everything(INTERRUPTED);
                    changed.interrupted = Some(tiles);
                }
            }
        }
        Some(changed)
    }

    /// Adds a tile. The tiles of each kind of change come in the order of the list.
    pub fn add(&mut self, id: TileId, change: TileChange) -> Result<(), ScratchError> {
        let range = KeyRange { first: self.order.sort_key(id.coord), count: 1, slice: id.slice };
        match change {
            TileChange::Written => append(&mut self.written, range),
            TileChange::Deleted => append(&mut self.deleted, range),
        }
    }

    /// The same list, which also records the tiles that the target did not hold before: [`ChangedTiles::add_new`] adds
    /// each of them.
    pub(crate) fn knowing_new(mut self) -> ChangedTiles {
        self.added = Some(Records::new("the list of new tiles"));
        self
    }

    /// Notes that a tile that was written was not there before.
    pub(crate) fn add_new(&mut self, id: TileId) -> Result<(), ScratchError> {
        let range = KeyRange { first: self.order.sort_key(id.coord), count: 1, slice: id.slice };
        self.added.as_mut().map_or(Ok(()), |added| append(added, range))
    }

    /// Declares that every tile of the target counts as changed, for the reason `why`. A later reason does not replace
    /// the first one.
    pub fn declare_everything(&mut self, why: &'static str) {
        self.everything.get_or_insert(why);
    }

    /// Why every tile of the target counts as changed; `None` if the list is exact.
    pub const fn everything(&self) -> Option<&'static str> {
        self.everything
    }

    /// The tiles of the list as rectangles, with those that interrupted runs may have changed; `None` if everything
    /// counts as changed, or if the list of rectangles would be too long.
    pub fn rects(&self) -> Result<Option<TileRectList>, ScratchError> {
        let none = TileRectList::default();
        let interrupted = match (&self.everything, &self.interrupted) {
            (Some(_), None) => return Ok(None),
            (_, interrupted) => interrupted.as_ref().unwrap_or(&none),
        };
        let mut failed = None;
        let listed = self.coords().map_while(|tile| tile.map_err(|error| failed = Some(error)).ok());
        let rects = TileRectList::of(listed.chain(interrupted.tiles()));
        failed.map_or(Ok(rects), Err)
    }

    /// The tiles that the target did not hold before, with those that interrupted runs may have changed; `None` if that
    /// is not known.
    pub(crate) fn new_rects(&self) -> Result<Option<TileRectList>, ScratchError> {
        let none = TileRectList::default();
        let (Some(added), interrupted) = (&self.added, &self.interrupted) else { return Ok(None) };
        if self.everything.is_some() && interrupted.is_none() {
            return Ok(None);
        }
        let ranges: Vec<KeyRange> = added.iter().collect::<Result<_, _>>()?;
        let order = self.order;
        let tiles = ranges.iter().flat_map(|range| {
            (range.first..range.first + u64::from(range.count)).filter_map(move |key| order.tile(key))
        });
        Ok(TileRectList::of(tiles.chain(interrupted.as_ref().unwrap_or(&none).tiles())))
    }

    /// The list, in the order of the sink.
    ///
    /// # Errors
    /// Each item, if the scratch file cannot be read back.
    pub fn ranges(&self) -> impl Iterator<Item = Result<ChangedRange, ScratchError>> + '_ {
        let mut written = self.written.iter().peekable();
        let mut deleted = self.deleted.iter().peekable();
        std::iter::from_fn(move || {
            let change = match (written.peek(), deleted.peek()) {
                (Some(Err(_)), _) | (Some(_), None) => TileChange::Written,
                (Some(Ok(one)), Some(Ok(other))) if one.key() <= other.key() => TileChange::Written,
                (_, Some(_)) => TileChange::Deleted,
                (None, None) => return None,
            };
            let next = match change {
                TileChange::Written => written.next(),
                TileChange::Deleted => deleted.next(),
            };
            let order = self.order;
            next.map(|range| {
                range.map(|KeyRange { first, count, slice }| ChangedRange { change, slice, order, first, count })
            })
        })
    }

    /// The changed tiles; each is listed once, even if several of its layers changed.
    ///
    /// # Errors
    /// Each item, if the scratch file cannot be read back.
    pub fn coords(&self) -> impl Iterator<Item = Result<TileCoord, ScratchError>> + '_ {
        let mut last = None;
        let tiles = self.ranges().flat_map(|range| {
            let (tiles, failed) = match range {
                Ok(range) => (Some(range.tiles().map(|id| Ok(id.coord))), None),
                Err(error) => (None, Some(Err(error))),
            };
            tiles.into_iter().flatten().chain(failed)
        });
        tiles.filter(move |tile| match tile {
            Ok(tile) => last.replace(*tile) != Some(*tile),
            Err(_) => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn changed_tiles_come_back_in_their_order_as_ranges() {
        for order in [Order::ZoomColumnTmsRow, Order::Hilbert] {
            let mut changed = ChangedTiles::new(order);
            let mut tiles: Vec<TileCoord> =
                (0..128 * 128).filter_map(|number| TileCoord::new(Zoom::new(7)?, number / 128, number % 128)).collect();
            tiles.sort_by_key(|tile| order.sort_key(*tile));
            // Every hundredth tile is deleted, every fiftieth did not change.
            let fate = |number: usize| match number {
                number if number % 100 == 99 => Some(TileChange::Deleted),
                number if number % 50 == 49 => None,
                _ => Some(TileChange::Written),
            };
            let expected: Vec<(TileCoord, TileChange)> =
                tiles.iter().enumerate().filter_map(|(number, tile)| Some((*tile, fate(number)?))).collect();
            for (tile, change) in &expected {
                changed.add((*tile).into(), *change).unwrap();
            }
            let ranges: Vec<ChangedRange> = changed.ranges().map(Result::unwrap).collect();
            let found: Vec<(TileCoord, TileChange)> =
                ranges.iter().flat_map(|range| range.tiles().map(|id| (id.coord, range.change))).collect();
            assert!(found == expected);
            assert!(ranges.len() < 1_000, "{} ranges", ranges.len());
            assert!(changed.coords().map(Result::unwrap).eq(expected.iter().map(|(tile, _)| *tile)));
        }
    }

    #[test]
    fn layers_of_a_tile_are_listed_apart_and_the_tile_once() {
        let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
        let coord = TileCoord::new(Zoom::new(3).unwrap(), 1, 2).unwrap();
        let layer = |number| TileId { coord, slice: Slice::Layer(LayerId(number)) };
        changed.add(layer(0), TileChange::Written).unwrap();
        changed.add(layer(2), TileChange::Written).unwrap();
        changed.add(layer(1), TileChange::Deleted).unwrap();
        let found: Vec<TileId> = changed.ranges().flat_map(|range| range.unwrap().tiles()).collect();
        assert_eq!(found, [layer(0), layer(1), layer(2)]);
        assert_eq!(changed.coords().map(Result::unwrap).collect::<Vec<_>>(), [coord]);
    }
}
