//! What is purged: from changed tiles to the items that a CDN is asked to forget. Pure values.
//!
//! | file | what |
//! |---|---|
//! | `cover` | the cheapest items by address |
//! | `address` | what an item is called at a CDN |

mod address;
mod cover;

use std::collections::BTreeSet;
use std::fmt;

use crate::tile::{BandRoot, TileCoord, TilesetTag, Zoom, ZoomList};

pub use address::{CdnUrl, CdnUrlError, TileAddresses};
use cover::cheapest_cover;

// The tiles that a CDN has to forget.

/// The most tiles that are listed one by one. A list takes 12 bytes a tile in memory and about as many in the outbox.
/// If more tiles changed, everything is purged, which costs one item with every provider.
const MAX_TILES_TOLD_APART: usize = 1_000_000;

/// The tiles that a CDN has to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TilesToPurge {
    /// Every tile of the target.
    Everything,
    /// These tiles, ordered by zoom, column and row, each once.
    Listed(Vec<TileCoord>),
}

impl Default for TilesToPurge {
    fn default() -> TilesToPurge {
        TilesToPurge::Listed(Vec::new())
    }
}

impl TilesToPurge {
    /// Tiles in any order; a tile may occur more than once. More than `MAX_TILES_TOLD_APART` become
    /// [`TilesToPurge::Everything`].
    pub fn listed(tiles: impl IntoIterator<Item = TileCoord>) -> TilesToPurge {
        let mut listed = Vec::new();
        for tile in tiles {
            listed.push(tile);
            if listed.len() > 2 * MAX_TILES_TOLD_APART {
                in_order(&mut listed);
                if listed.len() > MAX_TILES_TOLD_APART {
                    return TilesToPurge::Everything;
                }
            }
        }
        in_order(&mut listed);
        if listed.len() > MAX_TILES_TOLD_APART { TilesToPurge::Everything } else { TilesToPurge::Listed(listed) }
    }

    /// The tiles of both, each once: the changes of several publishes are sent together.
    #[must_use]
    pub fn joined(self, other: TilesToPurge) -> TilesToPurge {
        match (self, other) {
            (TilesToPurge::Everything, _) | (_, TilesToPurge::Everything) => TilesToPurge::Everything,
            (TilesToPurge::Listed(one), TilesToPurge::Listed(other)) => {
                TilesToPurge::listed(one.into_iter().chain(other))
            }
        }
    }

    /// True if there is nothing to forget.
    pub fn is_empty(&self) -> bool {
        matches!(self, TilesToPurge::Listed(tiles) if tiles.is_empty())
    }

    /// How many tiles there are; `None` for every tile of the target.
    pub fn count(&self) -> Option<usize> {
        match self {
            TilesToPurge::Everything => None,
            TilesToPurge::Listed(tiles) => Some(tiles.len()),
        }
    }
}

/// The key by which tiles are ordered: zoom, column, row.
pub(crate) fn key(tile: &TileCoord) -> (u8, u32, u32) {
    (tile.zoom().get(), tile.x(), tile.y())
}

fn in_order(tiles: &mut Vec<TileCoord>) {
    tiles.sort_unstable_by_key(key);
    tiles.dedup();
}

// How many tiles an item hits: what a full pyramid would hold.

/// How many tiles there are below an address that a CDN can purge as one: every zoom counts as full.
#[derive(Debug, Clone)]
pub struct FullPyramid(pub ZoomList);

impl FullPyramid {
    pub(crate) fn at_zoom(&self, zoom: Zoom) -> u64 {
        if self.0.contains(zoom) { 1 << (2 * u64::from(zoom.get())) } else { 0 }
    }

    pub(crate) fn in_column(&self, zoom: Zoom) -> u64 {
        if self.0.contains(zoom) { 1 << zoom.get() } else { 0 }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|zoom| self.at_zoom(zoom)).sum()
    }
}

// What a CDN can be asked to forget.

/// One thing that a CDN is asked to forget, and that it may charge for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PurgeItem {
    /// One tile, with all of its layers where these have addresses of their own.
    Tile(TileCoord),
    /// A column of a zoom: `/z/x/*`.
    Column { zoom: Zoom, x: u32 },
    /// A zoom: `/z/*`.
    Zoom(Zoom),
    /// Everything below the target's URL: `/*`.
    Everything,
    /// Everything that was sent with this tag.
    Tag(String),
    /// A document next to the tiles, such as `tiles.json`.
    Document(String),
}

impl PurgeItem {
    /// True if the item stands for all addresses that begin with a prefix.
    pub const fn is_wildcard(&self) -> bool {
        matches!(self, PurgeItem::Column { .. } | PurgeItem::Zoom(_) | PurgeItem::Everything)
    }
}

impl fmt::Display for PurgeItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PurgeItem::Tile(tile) => write!(f, "/{tile}"),
            PurgeItem::Column { zoom, x } => write!(f, "/{zoom}/{x}/*"),
            PurgeItem::Zoom(zoom) => write!(f, "/{zoom}/*"),
            PurgeItem::Everything => f.write_str("/*"),
            PurgeItem::Tag(tag) => write!(f, "#{tag}"),
            PurgeItem::Document(name) => write!(f, "/{name}"),
        }
    }
}

// From changed tiles to items: which kind a provider takes, and how many it may cost.

/// The kind of items by which tiles are purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeBy {
    /// By the tags that the tiles were sent with.
    Tag,
    /// By exact addresses, and by prefixes where there are too many.
    Path,
    /// By exact addresses only; everything where there are too many.
    Url,
    /// Everything, no matter what changed.
    All,
}

/// How changed tiles become items.
#[derive(Debug, Clone)]
pub struct PlanRules {
    pub by: PurgeBy,
    /// True if the provider takes both tags and addresses. Where there are too many tags, prefixes may then hit fewer
    /// tiles than the tileset's tag.
    pub mixes: bool,
    /// The most items, 1 or more.
    pub max_items: usize,
    pub tag: TilesetTag,
    pub zooms: ZoomList,
    /// Tiles that a purge by tag also purges by address: a CDN may have cached an error for them, and an error carries
    /// no tag.
    pub untagged: TilesToPurge,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgePlan {
    /// The items, each once.
    pub items: Vec<PurgeItem>,
    /// The most unchanged tiles that the items can hit.
    pub unchanged: u64,
}

/// The items that purge some tiles, and documents next to them.
pub fn plan(
    tiles: &TilesToPurge,
    documents: &[String],
    addresses: &TileAddresses,
    counts: &FullPyramid,
    rules: &PlanRules,
) -> PurgePlan {
    let documents: Vec<PurgeItem> = documents.iter().cloned().map(PurgeItem::Document).collect();
    if tiles.is_empty() {
        return PurgePlan { items: documents, unchanged: 0 };
    }
    let everything = || {
        let unchanged = counts.total().saturating_sub(tiles.count().map_or(u64::MAX, |count| count as u64));
        // The tileset's tag does not hit other things that the CDN caches below this address. Documents carry no tag,
        // so each is an item.
        match rules.by {
            PurgeBy::Tag if rules.untagged.is_empty() => {
                let tag = PurgeItem::Tag(rules.tag.as_str().to_owned());
                PurgePlan { items: std::iter::once(tag).chain(documents.clone()).collect(), unchanged }
            }
            _ => PurgePlan { items: vec![PurgeItem::Everything], unchanged },
        }
    };
    let TilesToPurge::Listed(listed) = tiles else { return everything() };
    if rules.by == PurgeBy::All || addresses.url().is_object() {
        return everything();
    }
    let room = rules.max_items.saturating_sub(documents.len());
    // An item takes one path for each layer that is stored separately.
    let room_for_paths = room / addresses.paths_per_tile();
    let found = match rules.by {
        PurgeBy::Tag => {
            let found = band_tags(tiles, &rules.tag, &rules.zooms);
            let untagged = match &rules.untagged {
                TilesToPurge::Everything => listed,
                TilesToPurge::Listed(untagged) => untagged,
            };
            if found.tags.len() + untagged.len() * addresses.paths_per_tile() <= room {
                let tags = found.tags.into_iter().map(PurgeItem::Tag);
                let items = tags.chain(untagged.iter().copied().map(PurgeItem::Tile)).collect();
                Some(PurgePlan { items, unchanged: found.unchanged })
            } else if rules.mixes {
                covered(listed, addresses, counts, room_for_paths)
            } else {
                None
            }
        }
        PurgeBy::Path => covered(listed, addresses, counts, room_for_paths),
        PurgeBy::Url if listed.len() <= room_for_paths => {
            Some(PurgePlan { items: listed.iter().copied().map(PurgeItem::Tile).collect(), unchanged: 0 })
        }
        PurgeBy::Url | PurgeBy::All => None,
    };
    match found {
        Some(mut found) if found.items != [PurgeItem::Everything] => {
            found.items.extend(documents);
            found
        }
        _ => everything(),
    }
}

/// The cheapest cover; `None` if there is no room for an item, or if too many tiles changed and addresses have no
/// prefixes.
fn covered(
    tiles: &[crate::tile::TileCoord],
    addresses: &TileAddresses,
    counts: &FullPyramid,
    room: usize,
) -> Option<PurgePlan> {
    if room == 0 || (!addresses.have_prefixes() && tiles.len() > room) {
        return None;
    }
    let cover = cheapest_cover(tiles, counts, room);
    Some(PurgePlan { items: cover.items, unchanged: cover.unchanged })
}

// Purging by tags: a moved point takes one item per band of zooms instead of one per zoom, and a purge hits at most 85
// tiles in a band of four zooms. [`TilesetTag`] has the bands.

/// The tags of some tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BandTags {
    /// The tags, each once.
    tags: Vec<String>,
    /// The most unchanged tiles that can carry the tags.
    unchanged: u64,
}

/// The tags that hit all these tiles, for a target with these zooms.
fn band_tags(tiles: &TilesToPurge, tag: &TilesetTag, zooms: &ZoomList) -> BandTags {
    let all: u64 = zooms.iter().map(|zoom| 1 << (2 * u64::from(zoom.get()))).sum();
    let TilesToPurge::Listed(tiles) = tiles else {
        return BandTags { tags: vec![tag.as_str().to_owned()], unchanged: all };
    };
    let roots: BTreeSet<BandRoot> = tiles.iter().copied().map(BandRoot::of).collect();
    let hit: u64 = roots.iter().map(|root| root.tiles(zooms)).sum();
    BandTags {
        tags: roots.into_iter().map(|root| tag.of_root(root)).collect(),
        unchanged: hit.saturating_sub(tiles.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    fn tiles(text: &str) -> TilesToPurge {
        TilesToPurge::listed(text.split_whitespace().map(|tile| tile.parse().unwrap()))
    }

    #[test]
    fn what_waits_is_merged_and_each_tile_counts_once() {
        let one = tiles("2/1/1 0/0/0 2/1/1");
        assert_eq!(one.count(), Some(2));
        let both = one.clone().joined(tiles("1/0/0 0/0/0"));
        assert_eq!(both, tiles("0/0/0 1/0/0 2/1/1"));
        assert_eq!(one.clone().joined(TilesToPurge::Everything), TilesToPurge::Everything);
        assert_eq!(TilesToPurge::Everything.joined(one).count(), None);
        assert!(TilesToPurge::default().is_empty());
    }

    fn rules(by: PurgeBy, max_items: usize) -> PlanRules {
        PlanRules {
            by,
            mixes: true,
            max_items,
            tag: TilesetTag::of("n"),
            zooms: "0-5".parse().unwrap(),
            untagged: TilesToPurge::default(),
        }
    }

    fn shown(tiles: &TilesToPurge, documents: &[&str], url: &str, rules: &PlanRules) -> String {
        let addresses = TileAddresses::new(url.parse().unwrap(), vec!["{z}/{x}/{y}.pbf".to_owned()]);
        let documents: Vec<String> = documents.iter().map(|name| (*name).to_owned()).collect();
        let plan = plan(tiles, &documents, &addresses, &FullPyramid(rules.zooms.clone()), rules);
        let items: Vec<String> = plan.items.iter().map(ToString::to_string).collect();
        format!("{} +{}", items.join(" "), plan.unchanged)
    }

    fn moved() -> TilesToPurge {
        TilesToPurge::listed("0/0/0 1/1/0 2/2/1 3/5/2 4/10/5 5/21/11".split(' ').map(|tile| tile.parse().unwrap()))
    }

    #[test]
    fn the_kind_of_items_follows_the_rules() {
        let shown = |by, max_items| shown(&moved(), &[], "https://h/a/", &rules(by, max_items));
        assert_eq!(shown(PurgeBy::Tag, 10), "#n-0-0-0 #n-5-21-11 +336");
        assert_eq!(shown(PurgeBy::Path, 10), "/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/5 /5/21/11 +0");
        assert_eq!(shown(PurgeBy::Url, 6), "/0/0/0 /1/1/0 /2/2/1 /3/5/2 /4/10/5 /5/21/11 +0");
        for (by, max_items) in [(PurgeBy::Path, 5), (PurgeBy::Url, 5), (PurgeBy::All, 100)] {
            assert_eq!(shown(by, max_items), "/* +1359");
        }
        assert_eq!(shown(PurgeBy::Tag, 1), "#n +1359");
    }

    #[test]
    fn documents_take_their_share_and_are_in_everything() {
        let documents = ["tiles.json"];
        let shown =
            |tiles: &TilesToPurge, by, max_items| shown(tiles, &documents, "https://h/a/", &rules(by, max_items));
        let none = TilesToPurge::default();
        assert_eq!(shown(&none, PurgeBy::Tag, 3), "/tiles.json +0");
        assert_eq!(shown(&moved(), PurgeBy::Tag, 3), "#n-0-0-0 #n-5-21-11 /tiles.json +336");
        assert_eq!(shown(&moved(), PurgeBy::Path, 6), "/* +1359");
        assert_eq!(shown(&TilesToPurge::Everything, PurgeBy::Path, 6), "/* +0");
        assert_eq!(shown(&TilesToPurge::Everything, PurgeBy::Tag, 6), "#n /tiles.json +0");
    }

    #[test]
    fn without_folders_of_zooms_there_are_no_prefixes() {
        let addresses = TileAddresses::new("https://h/".parse().unwrap(), vec!["{z}-{x}-{y}.pbf".to_owned()]);
        let counts = FullPyramid("0-5".parse().unwrap());
        let listed = TilesToPurge::listed((0..32).map(|y| format!("5/1/{y}").parse().unwrap()));
        let planned = plan(&listed, &[], &addresses, &counts, &rules(PurgeBy::Path, 10));
        assert_eq!(planned.items, [PurgeItem::Everything]);
        let prefixes = TileAddresses::new("https://h/".parse().unwrap(), vec!["{z}/{x}/{y}.pbf".to_owned()]);
        let planned = plan(&listed, &[], &prefixes, &counts, &rules(PurgeBy::Path, 10));
        assert_eq!(planned.items[0].to_string(), "/5/1/*");
    }

    #[test]
    fn an_object_is_one_item() {
        assert_eq!(shown(&moved(), &[], "https://h/a.pmtiles", &rules(PurgeBy::Path, 100)), "/* +1359");
    }

    #[test]
    fn a_moved_point_is_one_tag_a_band() {
        let moved = (0..=14).map(|zoom| {
            let (x, y) = (8_712 >> (14 - zoom), 5_333 >> (14 - zoom));
            TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
        });
        let tags = band_tags(&TilesToPurge::listed(moved), &TilesetTag::of("n"), &"0-14".parse().unwrap());
        assert_eq!(tags.tags, ["n-0-0-0", "n-5-17-10", "n-9-272-166", "n-12-2178-1333"]);
        assert_eq!(tags.unchanged, 341 + 85 + 21 + 21 - 15);
    }

    #[test]
    fn everything_is_the_tag_of_the_tileset() {
        let tags = band_tags(&TilesToPurge::Everything, &TilesetTag::of("n"), &"0-2".parse().unwrap());
        assert_eq!((tags.tags, tags.unchanged), (vec!["n".to_owned()], 21));
    }

    /// In a small world: what a tag hits is what carries it.
    #[test]
    fn tags_hit_what_carries_them() {
        let (tag, zooms): (_, ZoomList) = (TilesetTag::of("n"), "3-7".parse().unwrap());
        let all: Vec<TileCoord> = zooms
            .iter()
            .flat_map(|zoom| {
                (0..=zoom.last()).flat_map(move |x| (0..=zoom.last()).filter_map(move |y| TileCoord::new(zoom, x, y)))
            })
            .collect();
        let changed = TilesToPurge::listed(all.iter().copied().step_by(997));
        let found = band_tags(&changed, &tag, &zooms);
        let carriers = all.iter().filter(|tile| found.tags.contains(&tag.of_band(**tile))).count();
        assert_eq!(found.unchanged, carriers as u64 - changed.count().unwrap() as u64);
    }
}
