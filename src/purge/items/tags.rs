//! Purging by tags: a moved point takes one item per band of zooms instead of one per zoom, and a purge hits at most 85 tiles in a band of four
//! zooms. [`TilesetTag`] has the bands.

use std::collections::BTreeSet;

use super::TilesToPurge;
use crate::tile::{BandRoot, TilesetTag, ZoomList};

/// The tags of some tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BandTags {
    /// The tags, each once.
    pub tags: Vec<String>,
    /// The most unchanged tiles that can carry the tags.
    pub beyond: u64,
}

/// The tags that hit all these tiles, for a target with these zooms.
#[must_use]
pub fn band_tags(tiles: &TilesToPurge, tag: &TilesetTag, zooms: &ZoomList) -> BandTags {
    let all: u64 = zooms.iter().map(|zoom| 1 << (2 * u64::from(zoom.get()))).sum();
    let TilesToPurge::Listed(tiles) = tiles else {
        return BandTags { tags: vec![tag.as_str().to_owned()], beyond: all };
    };
    let roots: BTreeSet<BandRoot> = tiles.iter().copied().map(BandRoot::of).collect();
    let hit: u64 = roots.iter().map(|root| root.tiles(zooms)).sum();
    BandTags {
        tags: roots.into_iter().map(|root| tag.of_root(root)).collect(),
        beyond: hit.saturating_sub(tiles.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    #[test]
    fn a_moved_point_is_one_tag_a_band() {
        let moved = (0..=14).map(|zoom| {
            let (x, y) = (8_712 >> (14 - zoom), 5_333 >> (14 - zoom));
            TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
        });
        let tags = band_tags(&TilesToPurge::listed(moved), &TilesetTag::of("n"), &"0-14".parse().unwrap());
        assert_eq!(tags.tags, ["n-0-0-0", "n-5-17-10", "n-9-272-166", "n-12-2178-1333"]);
        assert_eq!(tags.beyond, 341 + 85 + 21 + 21 - 15);
    }

    #[test]
    fn everything_is_the_tag_of_the_tileset() {
        let tags = band_tags(&TilesToPurge::Everything, &TilesetTag::of("n"), &"0-2".parse().unwrap());
        assert_eq!((tags.tags, tags.beyond), (vec!["n".to_owned()], 21));
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
        assert_eq!(found.beyond, carriers as u64 - changed.count().unwrap() as u64);
    }
}
