//! The cheapest cover: tiles, columns (`/z/x/*`), zooms (`/z/*`) or everything (`/*`), at most K of them, that hit every changed tile and as few
//! others as possible. Among covers that hit equally many others, one with the fewest wildcards is chosen.
//!
//! Dynamic programming over the prefix tree. The tiles of a column are named one by one or by the column's wildcard. So a zoom is a knapsack problem:
//! naming a column's c tiles takes c - 1 items more than its wildcard. The tables of the zooms are then combined by the number of items that each may
//! take. With K items and z zooms that is at most z·K² steps: 0.1 s for K = 3,000, the limit of CloudFront.

use super::TileCounts;
use super::item::PurgeItem;
use crate::tile::{TileCoord, Zoom};

/// Items that hit all tiles that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// The items. None lies within another.
    pub items: Vec<PurgeItem>,
    /// How many unchanged tiles the items hit.
    pub beyond: u64,
}

/// The cost of a choice. Choices are compared by the unchanged tiles that they hit, then by their wildcards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct CoverCost {
    beyond: u64,
    wildcards: u32,
}

impl std::ops::Add for CoverCost {
    type Output = CoverCost;

    fn add(self, other: CoverCost) -> CoverCost {
        CoverCost {
            beyond: self.beyond.saturating_add(other.beyond),
            wildcards: self.wildcards.saturating_add(other.wildcards),
        }
    }
}

impl CoverCost {
    /// The cost where no choice is possible.
    const IMPOSSIBLE: CoverCost = CoverCost { beyond: u64::MAX, wildcards: u32::MAX };

    /// One wildcard that hits `stored` tiles, of which `changed` changed.
    fn of_wildcard(stored: u64, changed: usize) -> CoverCost {
        CoverCost { beyond: stored.saturating_sub(changed as u64), wildcards: 1 }
    }

    fn without(self, other: CoverCost) -> CoverCost {
        CoverCost { beyond: self.beyond - other.beyond, wildcards: self.wildcards - other.wildcards }
    }
}

/// The changed tiles of one column.
struct ChangedColumn<'a> {
    x: u32,
    tiles: &'a [TileCoord],
    /// The cost of the column's wildcard.
    wildcard: CoverCost,
}

impl ChangedColumn<'_> {
    /// How many more items it takes to name each tile than to name the column.
    fn items_more(&self) -> usize {
        self.tiles.len() - 1
    }
}

/// The changed tiles of one zoom.
struct ChangedZoom<'a> {
    zoom: Zoom,
    columns: Vec<ChangedColumn<'a>>,
    /// The number of changed tiles.
    count: usize,
    /// The cost of the zoom's wildcard.
    wildcard: CoverCost,
}

/// The cheapest cover of changed tiles with at most `max_items` items, which is 1 or more. The tiles are ordered by zoom, column and row,
/// each once.
#[must_use]
pub fn cheapest_cover(tiles: &[TileCoord], counts: &impl TileCounts, max_items: usize) -> Cover {
    if tiles.len() <= max_items {
        return Cover { items: tiles.iter().copied().map(PurgeItem::Tile).collect(), beyond: 0 };
    }
    let everything = CoverCost::of_wildcard(counts.total(), tiles.len());
    let all = Cover { items: vec![PurgeItem::Everything], beyond: everything.beyond };
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
    let beyond = reached.last().map_or(0, |best| best.beyond);
    for (zoom, (before, table)) in zooms.iter().zip(&tables).rev() {
        let taken = shares(before, table, left).min_by_key(|share| share.cost).map_or(1, |share| share.taken);
        zoom.choose(taken, &mut items);
        left -= taken;
    }
    items.reverse();
    Cover { items, beyond }
}

fn zooms<'a>(tiles: &'a [TileCoord], counts: &impl TileCounts) -> Vec<ChangedZoom<'a>> {
    let of_zoom = |tiles: &'a [TileCoord]| {
        let zoom = tiles[0].zoom();
        let columns = tiles.chunk_by(|one, other| one.x() == other.x()).map(|tiles| {
            let x = tiles[0].x();
            ChangedColumn { x, tiles, wildcard: CoverCost::of_wildcard(counts.in_column(zoom, x), tiles.len()) }
        });
        let wildcard = CoverCost::of_wildcard(counts.at_zoom(zoom), tiles.len());
        ChangedZoom { zoom, columns: columns.collect(), count: tiles.len(), wildcard }
    };
    tiles.chunk_by(|one, other| one.zoom() == other.zoom()).map(of_zoom).collect()
}

impl ChangedZoom<'_> {
    /// The least cost with at most k items, indexed by k; with 0 items nothing is possible. The table ends where each tile can be named.
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

/// Adds to `saved`, which is indexed by the budget of further items, the option to name a column's tiles one by one. Calls `named` with each budget
/// for which that saves more.
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
    /// The items of the zoom.
    taken: usize,
}

/// The ways to divide at most `items` items between one zoom and the zooms before it. `table` and `before` are their least costs, indexed by the
/// number of items.
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
mod tests;
