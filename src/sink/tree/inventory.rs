//! What of a tileset a target holds already, in the order in which tiles are written, kept on disk so that memory does not
//! grow with it.

use std::collections::VecDeque;

use rusqlite::params;

use crate::sink::scratch::{Scratch, ScratchError};
use crate::tile::{Coverage, LayerId, Order, Slice, TileId, ZoomList};

/// What tells the bytes of a stored tile: their MD5, if the target knows it without reading them.
pub(in crate::sink) type Tag = Option<[u8; 16]>;

/// Which tiles a run is responsible for: it may delete no others.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The zooms.
    pub zooms: ZoomList,
    /// The part of the world.
    pub coverage: Coverage,
}

impl Scope {
    /// Whether a tile lies in it.
    #[must_use]
    pub fn holds(&self, id: TileId) -> bool {
        let (zoom, x, y) = (id.coord.zoom(), id.coord.x(), id.coord.y());
        self.zooms.contains(zoom)
            && self.coverage.rects(zoom).iter().any(|r| (r.x0..=r.x1).contains(&x) && (r.y0..=r.y1).contains(&y))
    }
}

/// The tiles that a target holds, by their order [`Order::ZoomColumnTmsRow`]: filled in any order, then met in this one.
#[derive(Debug)]
pub(in crate::sink) struct Inventory {
    held: Scratch,
    count: u64,
    /// Where the next rows begin: place and slice.
    next: (i64, i64),
    ahead: VecDeque<(TileId, Tag)>,
}

/// Rows read at a time.
const PAGE: i64 = 4_096;

/// What was met on the way to a tile.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::sink) struct Met {
    /// Tiles that were passed: the target holds them, and nobody asked for them.
    pub(in crate::sink) passed: Vec<TileId>,
    /// The tile itself, if the target holds it.
    pub(in crate::sink) here: Option<Tag>,
}

impl Inventory {
    /// An empty inventory, in a temporary file that goes with it.
    ///
    /// # Errors
    /// If there is no room.
    pub(in crate::sink) fn new() -> Result<Inventory, ScratchError> {
        let held = Scratch::new(
            "the list of tiles that the target holds",
            "CREATE TABLE held (place integer, slice integer, tag blob, PRIMARY KEY (place, slice)) WITHOUT ROWID",
        )?;
        Ok(Inventory { held, count: 0, next: (i64::MIN, i64::MIN), ahead: VecDeque::new() })
    }

    /// Notes a tile that the target holds.
    ///
    /// # Errors
    /// If there is no room.
    pub(in crate::sink) fn add(&mut self, id: TileId, tag: Tag) -> Result<(), ScratchError> {
        self.held.run(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO held (place, slice, tag) VALUES (?1, ?2, ?3)")?;
            insert.execute(params![place(id), slice(id), tag.as_ref().map(|tag| &tag[..])])
        })?;
        self.count += 1;
        Ok(())
    }

    /// How many tiles were added.
    pub(in crate::sink) const fn count(&self) -> u64 {
        self.count
    }

    /// Goes on to a tile, which must lie behind the one met before: gives what is passed on the way, and the tile.
    ///
    /// # Errors
    /// If the inventory cannot be read back.
    pub(in crate::sink) fn meet(&mut self, id: TileId) -> Result<Met, ScratchError> {
        let mut met = Met::default();
        let wanted = (place(id), slice(id));
        while let Some((held, tag)) = self.first()? {
            let at = (place(held), slice(held));
            if at > wanted {
                break;
            }
            self.ahead.pop_front();
            if at == wanted {
                met.here = Some(tag);
                break;
            }
            met.passed.push(held);
        }
        Ok(met)
    }

    /// The next tiles that nobody asked for, once all tiles were met; none at the end.
    ///
    /// # Errors
    /// If the inventory cannot be read back.
    pub(in crate::sink) fn rest(&mut self) -> Result<Vec<TileId>, ScratchError> {
        self.first()?;
        Ok(self.ahead.drain(..).map(|(id, _)| id).collect())
    }

    fn first(&mut self) -> Result<Option<(TileId, Tag)>, ScratchError> {
        if self.ahead.is_empty() && self.count > 0 {
            let (next, ahead) = (&mut self.next, &mut self.ahead);
            self.held.run(|connection| {
                let mut page = connection.prepare_cached(
                    "SELECT place, slice, tag FROM held WHERE (place, slice) > (?1, ?2) ORDER BY place, slice LIMIT ?3",
                )?;
                let rows = page.query_map(params![next.0, next.1, PAGE], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<[u8; 16]>>(2)?))
                })?;
                for row in rows {
                    let (place, slice, tag) = row?;
                    *next = (place, slice);
                    ahead.extend(id(place, slice).map(|id| (id, tag)));
                }
                Ok(())
            })?;
        }
        Ok(self.ahead.front().copied())
    }
}

/// Tiles that are to be deleted when a run has finished, and not before: until then it may be given up.
#[derive(Debug, Default)]
pub(in crate::sink) struct Doomed(Option<Inventory>);

impl Doomed {
    /// Adds a tile.
    ///
    /// # Errors
    /// If there is no room.
    pub(in crate::sink) fn add(&mut self, id: TileId) -> Result<(), ScratchError> {
        match &mut self.0 {
            Some(tiles) => tiles.add(id, None),
            none => none.insert(Inventory::new()?).add(id, None),
        }
    }

    /// The next of them; none at the end.
    ///
    /// # Errors
    /// If they cannot be read back.
    pub(in crate::sink) fn next(&mut self) -> Result<Vec<TileId>, ScratchError> {
        self.0.as_mut().map_or_else(|| Ok(Vec::new()), Inventory::rest)
    }
}

/// Zooms end at 22: the place fits into 63 bits.
fn place(id: TileId) -> i64 {
    Order::ZoomColumnTmsRow.place(id.coord).cast_signed()
}

fn slice(id: TileId) -> i64 {
    match id.slice {
        Slice::Whole => -1,
        Slice::Layer(layer) => layer.0.into(),
    }
}

fn id(place: i64, slice: i64) -> Option<TileId> {
    let slice = u16::try_from(slice).map_or(Slice::Whole, |layer| Slice::Layer(LayerId(layer)));
    Some(TileId { coord: Order::ZoomColumnTmsRow.tile(place.cast_unsigned())?, slice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    fn tile(zoom: u8, x: u32, row: u32, layer: Option<u16>) -> TileId {
        let coord = TileCoord::from_tms(Zoom::new(zoom).unwrap(), x, row);
        TileId { coord, slice: layer.map_or(Slice::Whole, |layer| Slice::Layer(LayerId(layer))) }
    }

    #[test]
    fn what_is_passed_and_what_is_there_is_known_in_order() {
        let mut inventory = Inventory::new().unwrap();
        for x in (0..100).rev() {
            for row in [7, 3] {
                inventory.add(tile(10, x, row, None), (row == 3).then_some([3; 16])).unwrap();
            }
        }
        inventory.add(tile(22, 4_194_303, 0, Some(3)), None).unwrap();
        assert_eq!(inventory.meet(tile(9, 5, 5, None)).unwrap(), Met::default());
        let met = inventory.meet(tile(10, 1, 3, None)).unwrap();
        assert_eq!((met.passed, met.here), (vec![tile(10, 0, 3, None), tile(10, 0, 7, None)], Some(Some([3; 16]))));
        let met = inventory.meet(tile(10, 1, 4, None)).unwrap();
        assert_eq!((met.passed.len(), met.here), (0, None));
        let met = inventory.meet(tile(10, 99, 7, None)).unwrap();
        assert_eq!((met.passed.len(), met.here), (196, Some(None)));
        assert_eq!(inventory.rest().unwrap(), [tile(22, 4_194_303, 0, Some(3))]);
        assert_eq!(inventory.rest().unwrap(), []);
    }

    #[test]
    fn many_pages_are_read_to_the_end() {
        let mut inventory = Inventory::new().unwrap();
        for x in 0..10_000 {
            inventory.add(tile(14, x, x, Some(0)), None).unwrap();
            inventory.add(tile(14, x, x, Some(1)), None).unwrap();
        }
        for x in 0..10_000 {
            let met = inventory.meet(tile(14, x, x, Some(1))).unwrap();
            assert_eq!((met.passed, met.here), (vec![tile(14, x, x, Some(0))], Some(None)));
        }
        assert_eq!(inventory.rest().unwrap(), []);
    }

    #[test]
    fn a_scope_holds_its_zooms_and_boxes() {
        let scope = Scope { zooms: "2-3".parse().unwrap(), coverage: Coverage::new(&["0,0,90,60".parse().unwrap()]) };
        assert!(scope.holds(tile(2, 2, 2, None)));
        assert!(!scope.holds(tile(2, 1, 2, None)) && !scope.holds(tile(4, 8, 8, None)));
    }
}
