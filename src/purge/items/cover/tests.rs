//! Tests of the cover against the worked examples of its design, and against brute force.

use std::time::Instant;

use super::super::{FullPyramid, ListedCounts, TilesToPurge};
use super::*;
use crate::tile::ZoomList;

fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
}

fn listed(text: &str) -> Vec<TileCoord> {
    let TilesToPurge::Listed(tiles) = TilesToPurge::listed(text.split_whitespace().map(|tile| tile.parse().unwrap()))
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
        assert_eq!((shown(&cover).as_str(), cover.beyond), ("/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/5 /5/21/11", 0));
    }
    for max_items in 1..=5 {
        let cover = cheapest_cover(&tiles, &pyramid("0-5"), max_items);
        assert_eq!((shown(&cover).as_str(), cover.beyond), ("/*", 1_359), "{max_items} items");
    }
}

#[test]
fn few_items_become_columns_and_zooms() {
    let tiles = listed(&format!("{MOVED} 5/21/10 5/21/12 5/20/11 4/10/6"));
    let cover = |max_items| cheapest_cover(&tiles, &pyramid("0-5"), max_items);
    assert_eq!((cover(10).items.len(), cover(10).beyond), (10, 0));
    assert_eq!((shown(&cover(6)).as_str(), cover(6).beyond), ("/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/* /5/*", 1_034));
    assert_eq!(shown(&cover(5)), "/*");
}

#[test]
fn an_item_never_lies_within_another_and_every_tile_is_hit() {
    let mut random = Random(7);
    for _ in 0..300 {
        let world = World::random(&mut random);
        for max_items in 1..=world.changed.len() {
            let cover = cheapest_cover(&world.changed, &world.counts(), max_items);
            assert!(cover.items.len() <= max_items);
            for tile in &world.changed {
                assert_eq!(cover.items.iter().filter(|item| hits(item, *tile)).count(), 1, "{tile} {cover:?}");
            }
        }
    }
}

/// 1,500 cases in small worlds: the cost equals that of the best of all sets of wildcards, with single tiles for the changed tiles that a set does
/// not hit.
#[test]
fn no_set_of_items_is_cheaper() {
    let mut random = Random(1);
    for _ in 0..150 {
        let world = World::random(&mut random);
        let covers = world.all_covers();
        for max_items in 1..=10 {
            let cover = cheapest_cover(&world.changed, &world.counts(), max_items);
            let wildcards = cover.items.iter().filter(|item| item.is_wildcard()).count();
            let within = covers.iter().filter(|(items, _)| *items as usize <= max_items);
            let best = within.map(|(_, cost)| *cost).min().unwrap();
            assert_eq!((cover.beyond, wildcards), best, "{max_items} items: {cover:?} of {world:?}");
        }
    }
}

/// Prints the time and asserts none (`--nocapture` shows it). A release build takes about a tenth of a debug build's time.
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

/// Zooms 0 to 2: tiles that are stored, and some of them that changed.
#[derive(Debug)]
struct World {
    stored: Vec<TileCoord>,
    changed: Vec<TileCoord>,
}

impl World {
    fn random(random: &mut Random) -> World {
        let all = (0..=2)
            .flat_map(|zoom| (0..1_u32 << zoom).flat_map(move |x| (0..1_u32 << zoom).map(move |y| tile(zoom, x, y))));
        let stored: Vec<TileCoord> = all.filter(|_| random.below(4) > 0).collect();
        let changed: Vec<TileCoord> = stored.iter().copied().filter(|_| random.below(2) > 0).collect();
        World { stored, changed }
    }

    fn counts(&self) -> ListedCounts {
        self.stored.iter().copied().collect()
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

    /// For each set of wildcards: its cost, and how many items it takes with single tiles for the changed tiles that it does not hit.
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
