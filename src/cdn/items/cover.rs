//! The cheapest cover: tiles, columns (`/z/x/*`), zooms (`/z/*`) or everything (`/*`), at most K of them, that hit
//! every changed tile and as few others as possible. Among covers that hit equally many others, one with the fewest
//! wildcards is chosen.
//!
//! Dynamic programming over the prefix tree. The tiles of a column are named one by one or by the column's wildcard. So
//! a zoom is a knapsack problem: naming a column's c tiles takes c - 1 items more than its wildcard. The tables of the
//! zooms are then combined by the number of items that each may take. With K items and z zooms that is at most z·K²
//! steps: 0.1 s for K = 3,000, the limit of CloudFront.

use super::{FullPyramid, PurgeItem};
use crate::tile::{TileCoord, Zoom};

/// Items that hit all tiles that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cover {
    /// The items. None lies within another.
    pub(crate) items: Vec<PurgeItem>,
    /// How many unchanged tiles the items hit.
    pub(crate) unchanged: u64,
}

/// The cost of a choice. Choices are compared by the unchanged tiles that they hit, then by their wildcards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct CoverCost {
    unchanged: u64,
    wildcards: u32,
}

impl std::ops::Add for CoverCost {
    type Output = CoverCost;

    fn add(self, other: CoverCost) -> CoverCost {
        CoverCost {
            unchanged: self.unchanged.saturating_add(other.unchanged),
            wildcards: self.wildcards.saturating_add(other.wildcards),
        }
    }
}

impl CoverCost {
    /// The cost where no choice is possible.
    const IMPOSSIBLE: CoverCost = CoverCost { unchanged: u64::MAX, wildcards: u32::MAX };

    /// One wildcard that hits `stored` tiles, of which `changed` changed.
    fn of_wildcard(stored: u64, changed: usize) -> CoverCost {
        CoverCost { unchanged: stored.saturating_sub(changed as u64), wildcards: 1 }
    }

    fn without(self, other: CoverCost) -> CoverCost {
        CoverCost { unchanged: self.unchanged - other.unchanged, wildcards: self.wildcards - other.wildcards }
    }
}

struct ChangedColumn<'a> {
    x: u32,
    tiles: &'a [TileCoord],
    wildcard: CoverCost,
}

impl ChangedColumn<'_> {
    /// How many more items it takes to name each tile than to name the column.
    fn items_more(&self) -> usize {
        self.tiles.len() - 1
    }
}

struct ChangedZoom<'a> {
    zoom: Zoom,
    columns: Vec<ChangedColumn<'a>>,
    /// The number of changed tiles.
    count: usize,
    wildcard: CoverCost,
}

/// The cheapest cover of changed tiles with at most `max_items` items, which is 1 or more. The tiles are ordered by
/// zoom, column and row, each once.
pub(crate) fn cheapest_cover(tiles: &[TileCoord], counts: &FullPyramid, max_items: usize) -> Cover {
    if tiles.len() <= max_items {
        return Cover { items: tiles.iter().copied().map(PurgeItem::Tile).collect(), unchanged: 0 };
    }
    let everything = CoverCost::of_wildcard(counts.total(), tiles.len());
    let all = Cover { items: vec![PurgeItem::Everything], unchanged: everything.unchanged };
    // Each zoom takes at least one item.
    let zooms = tiles.chunk_by(|one, other| one.zoom() == other.zoom()).count();
    let Some(spare) = max_items.checked_sub(zooms) else { return all };
    let zooms = self::zooms(tiles, counts);
    let mut tables = Vec::new();
    let mut reached = vec![CoverCost::default()];
    for zoom in &zooms {
        let table = zoom.table(1 + spare);
        let next = combined(&reached, &table, max_items);
        tables.push((std::mem::replace(&mut reached, next), table));
    }
    if reached.last().is_none_or(|best| *best >= everything) {
        return all;
    }
    let mut items = Vec::new();
    let mut left = reached.len() - 1;
    let unchanged = reached.last().map_or(0, |best| best.unchanged);
    for (zoom, (before, table)) in zooms.iter().zip(&tables).rev() {
        let taken = shares(before, table, left).min_by_key(|share| share.cost).map_or(1, |share| share.taken);
        zoom.choose(taken, &mut items);
        left -= taken;
    }
    items.reverse();
    Cover { items, unchanged }
}

fn zooms<'a>(tiles: &'a [TileCoord], counts: &FullPyramid) -> Vec<ChangedZoom<'a>> {
    let of_zoom = |tiles: &'a [TileCoord]| {
        let zoom = tiles[0].zoom();
        let columns = tiles.chunk_by(|one, other| one.x() == other.x()).map(|tiles| {
            let x = tiles[0].x();
            ChangedColumn { x, tiles, wildcard: CoverCost::of_wildcard(counts.in_column(zoom), tiles.len()) }
        });
        let wildcard = CoverCost::of_wildcard(counts.at_zoom(zoom), tiles.len());
        ChangedZoom { zoom, columns: columns.collect(), count: tiles.len(), wildcard }
    };
    tiles.chunk_by(|one, other| one.zoom() == other.zoom()).map(of_zoom).collect()
}

impl ChangedZoom<'_> {
    /// The least cost with at most k items, indexed by k; with 0 items nothing is possible. The table ends where each
    /// tile can be named.
    fn table(&self, max_items: usize) -> Vec<CoverCost> {
        let longest = self.count.min(max_items);
        let by_columns = self.by_columns(longest);
        let cost = |items: usize| match items.checked_sub(self.columns.len()) {
            _ if items == 0 => CoverCost::IMPOSSIBLE,
            Some(spare) => by_columns[spare].min(self.wildcard),
            None => self.wildcard,
        };
        let mut table: Vec<CoverCost> = (0..=longest).map(cost).collect();
        // Entries at the end of the table that save nothing more are dropped.
        while let [.., before, last] = &table[1..]
            && before == last
        {
            table.pop();
        }
        table
    }

    /// The least cost of naming columns and single tiles, indexed by the number of items beyond one per column.
    fn by_columns(&self, max_items: usize) -> Vec<CoverCost> {
        let Some(spare) = max_items.checked_sub(self.columns.len()) else { return Vec::new() };
        let all = self.worth_choosing().map(|column| column.wildcard).fold(CoverCost::default(), std::ops::Add::add);
        let mut saved = vec![CoverCost::default(); spare + 1];
        for column in self.worth_choosing() {
            knapsack(&mut saved, column, |_| {});
        }
        saved.into_iter().map(|saved| all.without(saved)).collect()
    }

    /// The columns in which more than one tile changed. Naming a single tile never costs more than naming its column.
    fn worth_choosing(&self) -> impl DoubleEndedIterator<Item = &ChangedColumn<'_>> {
        self.columns.iter().filter(|column| column.tiles.len() > 1)
    }

    /// Appends the items of the best choice with at most `max_items` items, in reverse order.
    fn choose(&self, max_items: usize, items: &mut Vec<PurgeItem>) {
        let spare = max_items.checked_sub(self.columns.len());
        let is_by_columns = spare.is_some_and(|spare| self.by_columns(max_items)[spare] < self.wildcard);
        let (Some(spare), true) = (spare, is_by_columns) else {
            items.push(PurgeItem::Zoom(self.zoom));
            return;
        };
        // Computes the table again, and notes for each column and budget whether the column's tiles are named.
        let mut saved = vec![CoverCost::default(); spare + 1];
        let mut is_named = Vec::new();
        for column in self.worth_choosing() {
            let mut named = vec![false; spare + 1];
            knapsack(&mut saved, column, |budget| named[budget] = true);
            is_named.push(named);
        }
        let mut left = spare;
        for column in self.columns.iter().rev() {
            let is_named = if column.tiles.len() == 1 {
                true
            } else {
                is_named.pop().and_then(|named| named.get(left).copied()).unwrap_or(false)
            };
            if is_named {
                left -= column.items_more();
                items.extend(column.tiles.iter().rev().copied().map(PurgeItem::Tile));
            } else {
                items.push(PurgeItem::Column { zoom: self.zoom, x: column.x });
            }
        }
    }
}

/// Adds to `saved`, which is indexed by the budget of further items, the option to name a column's tiles one by one.
/// Calls `named` with each budget for which that saves more.
fn knapsack(saved: &mut [CoverCost], column: &ChangedColumn<'_>, mut named: impl FnMut(usize)) {
    let price = column.items_more();
    for budget in (price..saved.len()).rev() {
        let with = saved[budget - price] + column.wildcard;
        if with > saved[budget] {
            saved[budget] = with;
            named(budget);
        }
    }
}

/// A way to divide a number of items between one zoom and the zooms before it.
struct ItemShare {
    cost: CoverCost,
    taken: usize,
}

/// The ways to divide at most `items` items between one zoom and the zooms before it. `table` and `before` are their
/// least costs, indexed by the number of items.
fn shares(before: &[CoverCost], table: &[CoverCost], items: usize) -> impl Iterator<Item = ItemShare> {
    let most = items.min(table.len() - 1);
    let least = (items + 1).saturating_sub(before.len()).max(1);
    (least..=most).filter_map(move |taken| {
        let cost = *before.get((items - taken).min(before.len() - 1))? + *table.get(taken)?;
        Some(ItemShare { cost, taken })
    })
}

/// The least cost of the zooms before and one more zoom, indexed by the number of items.
fn combined(before: &[CoverCost], table: &[CoverCost], max_items: usize) -> Vec<CoverCost> {
    let longest = (before.len() + table.len() - 2).min(max_items);
    let best = |items| shares(before, table, items).map(|share| share.cost).min().unwrap_or(CoverCost::IMPOSSIBLE);
    (0..=longest).map(best).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cdn::items::TilesToPurge;
    use crate::tile::ZoomList;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    fn listed(text: &str) -> Vec<TileCoord> {
        let TilesToPurge::Listed(tiles) =
            TilesToPurge::listed(text.split_whitespace().map(|tile| tile.parse().unwrap()))
        else {
            panic!("few tiles")
        };
        tiles
    }

    fn pyramid(zooms: &str) -> FullPyramid {
        FullPyramid(zooms.parse().unwrap())
    }

    fn shown(cover: &Cover) -> String {
        cover.items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The tiles of a moved point in a full pyramid of zooms 0 to 5.
    const MOVED: &str = "0/0/0 1/1/0 2/2/1 3/5/2 4/10/5 5/21/11";

    #[test]
    fn one_moved_point_is_named_tile_by_tile_or_all_is_purged() {
        let tiles = listed(MOVED);
        for max_items in [6, 7, 100] {
            let cover = cheapest_cover(&tiles, &pyramid("0-5"), max_items);
            assert_eq!((shown(&cover).as_str(), cover.unchanged), ("/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/5 /5/21/11", 0));
        }
        for max_items in 1..=5 {
            let cover = cheapest_cover(&tiles, &pyramid("0-5"), max_items);
            assert_eq!((shown(&cover).as_str(), cover.unchanged), ("/*", 1_359), "{max_items} items");
        }
    }

    #[test]
    fn few_items_become_columns_and_zooms() {
        let tiles = listed(&format!("{MOVED} 5/21/10 5/21/12 5/20/11 4/10/6"));
        let cover = |max_items| cheapest_cover(&tiles, &pyramid("0-5"), max_items);
        assert_eq!((cover(10).items.len(), cover(10).unchanged), (10, 0));
        assert_eq!(
            (shown(&cover(6)).as_str(), cover(6).unchanged),
            ("/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/* /5/*", 1_034)
        );
        assert_eq!(shown(&cover(5)), "/*");
    }

    #[test]
    fn an_item_never_lies_within_another_and_every_tile_is_hit() {
        let mut random = Random(7);
        for _ in 0..300 {
            let world = World::random(&mut random);
            for max_items in 1..=world.changed.len() {
                let cover = cheapest_cover(&world.changed, &pyramid("0-2"), max_items);
                assert!(cover.items.len() <= max_items);
                for tile in &world.changed {
                    assert_eq!(cover.items.iter().filter(|item| hits(item, *tile)).count(), 1, "{tile} {cover:?}");
                }
            }
        }
    }

    /// 1,500 cases in small worlds: the cost equals that of the best of all sets of wildcards, with single tiles for
    /// the changed tiles that a set does not hit.
    #[test]
    fn no_set_of_items_is_cheaper() {
        let mut random = Random(1);
        for _ in 0..150 {
            let world = World::random(&mut random);
            let covers = world.all_covers();
            for max_items in 1..=10 {
                let cover = cheapest_cover(&world.changed, &pyramid("0-2"), max_items);
                let wildcards = cover.items.iter().filter(|item| item.is_wildcard()).count();
                let within = covers.iter().filter(|(items, _)| *items as usize <= max_items);
                let best = within.map(|(_, cost)| *cost).min().unwrap();
                assert_eq!((cover.unchanged, wildcards), best, "{max_items} items: {cover:?} of {world:?}");
            }
        }
    }

    /// Prints the time and asserts none (`--nocapture` shows it). A release build takes about a tenth of a debug
    /// build's time.
    #[test]
    fn a_hundred_thousand_tiles_are_planned() {
        let mut random = Random(3);
        let tiles = (0..100_000).map(|number: u32| {
            let zoom = u8::try_from(4 + number % 11).unwrap();
            tile(zoom, random.below(1 << zoom), random.below(1 << zoom))
        });
        let TilesToPurge::Listed(tiles) = TilesToPurge::listed(tiles) else { panic!("few tiles") };
        let begun = Instant::now();
        for max_items in [1, 100, 3_000] {
            let cover = cheapest_cover(&tiles, &FullPyramid(ZoomList::all()), max_items);
            assert!(cover.items.len() <= max_items);
        }
        println!("{} tiles planned three times in {:?}", tiles.len(), begun.elapsed());
    }

    fn hits(item: &PurgeItem, tile: TileCoord) -> bool {
        match item {
            PurgeItem::Tile(one) => *one == tile,
            PurgeItem::Column { zoom, x } => tile.zoom() == *zoom && tile.x() == *x,
            PurgeItem::Zoom(zoom) => tile.zoom() == *zoom,
            PurgeItem::Everything => true,
            PurgeItem::Tag(_) | PurgeItem::Document(_) => false,
        }
    }

    /// All tiles of zooms 0 to 2, and some of them that changed.
    #[derive(Debug)]
    struct World {
        stored: Vec<TileCoord>,
        changed: Vec<TileCoord>,
    }

    impl World {
        fn random(random: &mut Random) -> World {
            let all = (0..=2).flat_map(|zoom| {
                (0..1_u32 << zoom).flat_map(move |x| (0..1_u32 << zoom).map(move |y| tile(zoom, x, y)))
            });
            let stored: Vec<TileCoord> = all.collect();
            let changed: Vec<TileCoord> = stored.iter().copied().filter(|_| random.below(2) > 0).collect();
            World { stored, changed }
        }

        /// All wildcards, each as the set of tiles that it hits (bits, by their number in `stored`).
        fn wildcards(&self) -> Vec<u32> {
            let zoom = |level| Zoom::new(level).unwrap();
            let mut wildcards = vec![PurgeItem::Everything];
            for level in 0..=2 {
                wildcards.push(PurgeItem::Zoom(zoom(level)));
                wildcards.extend((0..1 << level).map(|x| PurgeItem::Column { zoom: zoom(level), x }));
            }
            let bits = |item: &PurgeItem| -> u32 {
                self.stored.iter().enumerate().filter(|(_, tile)| hits(item, **tile)).map(|(bit, _)| 1 << bit).sum()
            };
            wildcards.iter().map(bits).collect()
        }

        /// For each set of wildcards: its cost, and how many items it takes with single tiles for the changed tiles
        /// that it does not hit.
        fn all_covers(&self) -> Vec<(u32, (u64, usize))> {
            let wildcards = self.wildcards();
            let changed: u32 = self
                .stored
                .iter()
                .enumerate()
                .filter(|(_, tile)| self.changed.contains(tile))
                .map(|(bit, _)| 1 << bit)
                .sum();
            let cover = |set: u32| {
                let chosen = || wildcards.iter().enumerate().filter(move |(bit, _)| set >> bit & 1 == 1);
                let hit = chosen().fold(0, |hit, (_, tiles)| hit | tiles);
                let items = set.count_ones() + (changed & !hit).count_ones();
                (items, (u64::from((hit & !changed).count_ones()), set.count_ones() as usize))
            };
            (0..1 << wildcards.len()).map(cover).collect()
        }
    }

    /// Numbers that are the same in every run (a linear congruential generator with Knuth's constants).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((self.0 >> 33) % u64::from(limit)).unwrap()
        }
    }
}
