//! From changed tiles to items: which kind a provider takes, and how many it may cost.

use super::address::TileAddresses;
use super::cover::cheapest_cover;
use super::item::PurgeItem;
use super::tags::band_tags;
use super::{TileCounts, TilesToPurge};
use crate::tile::{TilesetTag, ZoomList};

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
    /// The kind of items.
    pub by: PurgeBy,
    /// True if the provider takes both tags and addresses. Where there are too many tags, prefixes may then hit fewer tiles than the tileset's tag.
    pub mixes: bool,
    /// The most items, 1 or more.
    pub max_items: usize,
    /// The tags of the tiles.
    pub tag: TilesetTag,
    /// The zooms of the target.
    pub zooms: ZoomList,
    /// Tiles that a purge by tag also purges by address: a CDN may have cached an error for them, and an error carries no tag.
    pub untagged: TilesToPurge,
}

/// The items to send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgePlan {
    /// The items, each once.
    pub items: Vec<PurgeItem>,
    /// The most unchanged tiles that the items can hit.
    pub beyond: u64,
}

/// The items that purge some tiles, and documents next to them.
#[must_use]
pub fn plan(
    tiles: &TilesToPurge,
    documents: &[String],
    addresses: &TileAddresses,
    counts: &impl TileCounts,
    rules: &PlanRules,
) -> PurgePlan {
    let documents: Vec<PurgeItem> = documents.iter().cloned().map(PurgeItem::Document).collect();
    if tiles.is_empty() {
        return PurgePlan { items: documents, beyond: 0 };
    }
    let everything = || {
        let beyond = counts.total().saturating_sub(tiles.count().map_or(u64::MAX, |count| count as u64));
        // The tileset's tag does not hit other things that the CDN caches below this address. Documents carry no tag, so each is an item.
        match rules.by {
            PurgeBy::Tag if rules.untagged.is_empty() => {
                let tag = PurgeItem::Tag(rules.tag.as_str().to_owned());
                PurgePlan { items: std::iter::once(tag).chain(documents.clone()).collect(), beyond }
            }
            _ => PurgePlan { items: vec![PurgeItem::Everything], beyond },
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
                Some(PurgePlan { items, beyond: found.beyond })
            } else if rules.mixes {
                covered(listed, addresses, counts, room_for_paths)
            } else {
                None
            }
        }
        PurgeBy::Path => covered(listed, addresses, counts, room_for_paths),
        PurgeBy::Url if listed.len() <= room_for_paths => {
            Some(PurgePlan { items: listed.iter().copied().map(PurgeItem::Tile).collect(), beyond: 0 })
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

/// The cheapest cover; `None` if there is no room for an item, or if too many tiles changed and addresses have no prefixes.
fn covered(
    tiles: &[crate::tile::TileCoord],
    addresses: &TileAddresses,
    counts: &impl TileCounts,
    room: usize,
) -> Option<PurgePlan> {
    if room == 0 || (!addresses.have_prefixes() && tiles.len() > room) {
        return None;
    }
    let cover = cheapest_cover(tiles, counts, room);
    Some(PurgePlan { items: cover.items, beyond: cover.beyond })
}

#[cfg(test)]
mod tests {
    use super::super::FullPyramid;
    use super::*;

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
        format!("{} +{}", items.join(" "), plan.beyond)
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
}
