//! The tiles that a target holds at the beginning of a run, in the order in which tiles are written. The list is in a
//! scratch file, so that memory does not grow with it.

use std::collections::VecDeque;

use rusqlite::params;

use crate::manifest::{Manifest, Region};
use crate::target::Tileset;
use crate::target::disk_list::{Scratch, ScratchError};
use crate::tile::{LayerId, Order, Scope, Slice, TileId};

/// The MD5 of a stored tile's bytes, if the target knows it without reading them.
pub(crate) type Tag = Option<[u8; 16]>;

/// The partial regions of a target, outside of its scope: what is stored there is valid, and what is not stored is
/// unknown.
#[derive(Debug, Clone, Default)]
pub struct PartialScope {
    /// The partial regions that the manifest names.
    partial: Vec<Scope>,
    /// The target's scope, which takes precedence over the partial regions.
    whole: Vec<Scope>,
}

impl PartialScope {
    /// The partial regions that a manifest names. Regions that cannot be read are left out.
    pub fn of(manifest: &Manifest) -> PartialScope {
        let scopes = |regions: &mut dyn Iterator<Item = Region>| {
            regions.filter_map(|region| Scope::read(&region.zooms, &region.bbox).ok()).collect()
        };
        PartialScope { partial: scopes(&mut manifest.partial.iter().cloned()), whole: scopes(&mut manifest.regions()) }
    }

    /// True if a tile lies in a partial region.
    pub fn holds(&self, id: TileId) -> bool {
        let lies_in = |scopes: &[Scope]| scopes.iter().any(|scope| scope.holds(id));
        lies_in(&self.partial) && !lies_in(&self.whole)
    }

    /// True if there is no partial region.
    pub const fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// The partial regions, which may overlap the scope.
    pub fn regions(&self) -> &[Scope] {
        &self.partial
    }
}

/// The tiles that a target holds: added in any order, then met in [`Order::ZoomColumnTmsRow`], in which the run writes
/// its tiles.
#[derive(Debug)]
pub(crate) struct Inventory {
    held: Scratch,
    count: u64,
    /// Tiles of partial regions, which are not counted.
    uncounted: u64,
    /// Sort key and slice of the last row that was read.
    last_read: (i64, i64),
    /// Rows that were read and not met yet.
    ahead: VecDeque<(TileId, Tag)>,
}

const ROWS_PER_READ: i64 = 4_096;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Met {
    /// The tiles that the target holds between the tile met before and this one: the run does not write them.
    pub(crate) passed: Vec<TileId>,
    /// The digest of the tile itself, if the target holds it.
    pub(crate) here: Option<Tag>,
}

impl Inventory {
    /// An empty inventory, in a scratch file that ends with it.
    pub(crate) fn new() -> Result<Inventory, ScratchError> {
        let held = Scratch::new(
            "the list of tiles that the target holds",
            "CREATE TABLE held (sort_key integer, slice integer, tag blob, PRIMARY KEY (sort_key, slice)) \
             WITHOUT ROWID",
        )?;
        Ok(Inventory { held, count: 0, uncounted: 0, last_read: (i64::MIN, i64::MIN), ahead: VecDeque::new() })
    }

    /// Adds a tile of the run's own scope. A tile of a partial region that the run gives up is added, too, but not
    /// counted. Other tiles are left out.
    pub(crate) fn add_of(&mut self, tileset: &Tileset, id: TileId, tag: Tag) -> Result<(), ScratchError> {
        if tileset.scope.holds(id) {
            self.add(id, tag)
        } else if tileset.partial.holds(id) {
            self.add(id, tag)?;
            (self.count, self.uncounted) = (self.count - 1, self.uncounted + 1);
            Ok(())
        } else {
            Ok(())
        }
    }

    /// Adds a tile that the target holds.
    pub(crate) fn add(&mut self, id: TileId, tag: Tag) -> Result<(), ScratchError> {
        self.held.run(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO held (sort_key, slice, tag) VALUES (?1, ?2, ?3)")?;
            insert.execute(params![sort_key(id), slice(id), tag.as_ref().map(|tag| &tag[..])])
        })?;
        self.count += 1;
        Ok(())
    }

    /// The number of tiles that were added and counted.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Advances to a tile, which must come after the one met before.
    pub(crate) fn meet(&mut self, id: TileId) -> Result<Met, ScratchError> {
        let mut met = Met::default();
        let wanted = (sort_key(id), slice(id));
        while let Some((held, tag)) = self.first()? {
            let at = (sort_key(held), slice(held));
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

    /// The next tiles after the last one met; none at the end.
    pub(crate) fn rest(&mut self) -> Result<Vec<TileId>, ScratchError> {
        self.first()?;
        Ok(self.ahead.drain(..).map(|(id, _)| id).collect())
    }

    fn first(&mut self) -> Result<Option<(TileId, Tag)>, ScratchError> {
        if self.ahead.is_empty() && self.count + self.uncounted > 0 {
            let (last_read, ahead) = (&mut self.last_read, &mut self.ahead);
            self.held.run(|connection| {
                let mut page = connection.prepare_cached(
                    "SELECT sort_key, slice, tag FROM held WHERE (sort_key, slice) > (?1, ?2) ORDER BY 1, 2 LIMIT ?3",
                )?;
                let rows = page.query_map(params![last_read.0, last_read.1, ROWS_PER_READ], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<[u8; 16]>>(2)?))
                })?;
                for row in rows {
                    let (sort_key, slice, tag) = row?;
                    *last_read = (sort_key, slice);
                    ahead.extend(id(sort_key, slice).map(|id| (id, tag)));
                }
                Ok(())
            })?;
        }
        Ok(self.ahead.front().copied())
    }
}

/// Tiles to delete when a run finishes, and not before: until then the run may be abandoned.
#[derive(Debug, Default)]
pub(crate) struct Doomed(Option<Inventory>);

impl Doomed {
    pub(crate) fn add(&mut self, id: TileId) -> Result<(), ScratchError> {
        match &mut self.0 {
            Some(tiles) => tiles.add(id, None),
            none => none.insert(Inventory::new()?).add(id, None),
        }
    }

    /// The next tiles; none at the end.
    pub(crate) fn next(&mut self) -> Result<Vec<TileId>, ScratchError> {
        self.0.as_mut().map_or_else(|| Ok(Vec::new()), Inventory::rest)
    }
}

/// A tile's sort key as an integer of `SQLite`: zooms end at 22, so it fits into 63 bits.
fn sort_key(id: TileId) -> i64 {
    Order::ZoomColumnTmsRow.sort_key(id.coord).cast_signed()
}

fn slice(id: TileId) -> i64 {
    match id.slice {
        Slice::Whole => -1,
        Slice::Layer(layer) => layer.0.into(),
    }
}

fn id(sort_key: i64, slice: i64) -> Option<TileId> {
    let slice = u16::try_from(slice).map_or(Slice::Whole, |layer| Slice::Layer(LayerId(layer)));
    Some(TileId { coord: Order::ZoomColumnTmsRow.tile(sort_key.cast_unsigned())?, slice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{Coverage, Scope, TileCoord, Zoom};

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
    fn a_partial_region_is_no_part_of_the_scope_and_gives_way_to_it() {
        let text = r#"{"version":2,"generator":"g","snapshot":"1:1:","fingerprint":"f","zooms":"0-3","bbox":["0,0,90,60"],
            "kept":[{"zooms":"4","bbox":[]}],"partial":[{"zooms":"3-6","bbox":[]}],"planned":1,"stored":1,"empty":0,"started":1,"seconds":1}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!(manifest.regions().map(|part| part.zooms).collect::<Vec<_>>(), ["0-3", "4"]);
        assert_eq!((Manifest::version_with(&manifest.partial), Manifest::version_with(&[])), (2, 1));
        let partial = PartialScope::of(&manifest);
        assert!(partial.holds(tile(5, 1, 1, None)) && partial.holds(tile(3, 0, 7, None)), "outside of the boxes");
        assert!(!partial.holds(tile(3, 5, 4, None)) && !partial.holds(tile(4, 1, 1, None)), "of the scope");
        assert!(!partial.holds(tile(2, 0, 0, None)) && !PartialScope::default().holds(tile(5, 1, 1, None)));
    }

    #[test]
    fn a_scope_holds_its_zooms_and_boxes() {
        let scope = Scope { zooms: "2-3".parse().unwrap(), coverage: Coverage::new(&["0,0,90,60".parse().unwrap()]) };
        assert!(scope.holds(tile(2, 2, 2, None)));
        assert!(!scope.holds(tile(2, 1, 2, None)) && !scope.holds(tile(4, 8, 8, None)));
    }
}
